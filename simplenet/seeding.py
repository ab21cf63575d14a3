"""Reproducibility: one seed for every generator, and determinism that is borrowed and given back.

The notebook seeds torch alone, so a run that draws from NumPy or ``random`` differs each time.
Here one call seeds all of them, and DataLoader workers too.

References:
    The notebook, §2.3.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import seed_everything

# torch's CPU generator keeps the low 32 bits of a seed: a larger one repeats a smaller one's stream.
MAX_SEED = 2**32 - 1

# Lightning before 2.4 announces every seed and cannot be told not to.
_QUIET = {"verbose": False} if "verbose" in inspect.signature(seed_everything).parameters else {}


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on every device and in DataLoader workers.

    ``PYTHONHASHSEED`` is set for child processes; this process drew its hash key at start-up.
    Where CUDA is available, cuDNN is held to deterministic algorithms from here on, as in the
    notebook; ``deterministic`` borrows more than that and gives it back.

    Args:
        seed: An ``int`` from 0 to 2³² - 1.

    Raises:
        TypeError: If ``seed`` is not an ``int``; ``bool`` is not one here.
        ValueError: If ``seed`` is out of range.

    References:
        The notebook, §2.3.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r} of type {type(seed).__name__}, but should be an int")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed}, but should be from 0 to {MAX_SEED}")
    seed_everything(seed, workers=True, **_QUIET)
    os.environ["PYTHONHASHSEED"] = str(seed)
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


@contextmanager
def deterministic() -> Iterator[None]:
    """Allow only deterministic algorithms inside the block; give every flag back after it.

    An operation without a deterministic algorithm raises ``RuntimeError`` inside the block.

    References:
        PyTorch documentation, "Reproducibility".
    """
    cudnn = torch.backends.cudnn
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn_flags = cudnn.deterministic, cudnn.benchmark
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        cudnn.deterministic, cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(mode=True)
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = cudnn_flags
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        else:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace
