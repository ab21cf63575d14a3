"""Reproducibility: one seed for every generator, and a context manager for deterministic algorithms.

The notebook seeds only torch, so a run that draws from NumPy or ``random`` differs each time.
Here one call seeds all of them, and DataLoader workers too.

References:
    The notebook, §2.3.
"""

import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning.pytorch import seed_everything

from simplenet.validation import check_int, refuse_type

# torch's CPU generator keeps the low 32 bits of a seed: a larger one repeats a smaller one's stream.
MAX_SEED = 2**32 - 1

# Lightning before 2.4 logs every seed, and has no option against it.
_QUIET = {"verbose": False} if "verbose" in inspect.signature(seed_everything).parameters else {}


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on every device and in DataLoader workers.

    ``PYTHONHASHSEED`` is set for child processes; Python draws a process's own hash key when it starts.
    If CUDA is available, cuDNN uses only deterministic algorithms from then on, as in the notebook;
    ``deterministic`` sets more flags, and restores them.

    Args:
        seed: An ``int`` from 0 to 2³² - 1.

    Raises:
        TypeError: If ``seed`` is not an ``int``; ``bool`` and NumPy's integers are refused.
        ValueError: If ``seed`` is out of range.

    References:
        The notebook, §2.3.
    """
    seed = check_int("seed", seed, 0, MAX_SEED)
    seed_everything(seed, workers=True, **_QUIET)
    os.environ["PYTHONHASHSEED"] = str(seed)
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def check_seeds(seeds: object, most: int) -> Sequence[int]:
    """Check and return seeds for ``set_seed``, each from 0 to 2³² - 1; seeds may repeat.

    Their number is checked first, and of a range only the ends are checked.

    Args:
        seeds: A sequence such as a list or a range.
        most: The largest number of seeds.

    Returns:
        A range unchanged, and a copy of any other sequence, so that it cannot change after the check.

    Raises:
        TypeError: If it is not a sequence of ``int``; ``str``, ``bytes`` and arrays are refused.
        ValueError: If there are no seeds or too many, or one is out of range.
    """
    if not isinstance(seeds, Sequence) or isinstance(seeds, str | bytes | bytearray | memoryview):
        raise refuse_type("seeds", seeds, "a sequence of ints such as a list or a range")
    try:
        count = len(seeds)
    except OverflowError:  # a range may be longer than len() can return
        count = sys.maxsize
    if not 1 <= count <= most:
        raise ValueError(f"seeds has length {count}, but should have a length from 1 to {most}")
    if isinstance(seeds, range):
        for i in (0, -1):
            check_int(f"seeds[{i}]", seeds[i], 0, MAX_SEED)
        return seeds
    return tuple(check_int(f"seeds[{i}]", seed, 0, MAX_SEED) for i, seed in enumerate(seeds))


@contextmanager
def deterministic() -> Iterator[None]:
    """Allow only deterministic algorithms inside the block; restore every flag after it.

    An operation without a deterministic algorithm raises ``RuntimeError`` inside the block. So does a matrix product on
    CUDA up to torch 2.9, if the process has computed one before without ``CUBLAS_WORKSPACE_CONFIG``: torch reads that
    variable only once.

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
