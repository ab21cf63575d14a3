"""Read checkpoints and check them before use.

Lightning's checkpoints hold more than training needs: paths that Lightning writes to and deletes, names of classes
that it builds. Here only the entries that training needs are read, and each is compared with a schema.
"""

import hashlib
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from simplenet.archive import read_archive
from simplenet.data import MAX_BATCH_SIZE
from simplenet.reference import ARCHITECTURES
from simplenet.validation import MAX_HIDDEN, MAX_LR, check_float, check_int

# The checkpoint of the widest network, in float64 with both of Adam's moments, has 100 MB.
MAX_FILE_BYTES = 2**27
MAX_STEPS = 10**9

# The entries that are read from a checkpoint and covered by its digest.
ENTRIES = (
    "hyper_parameters",
    "state_dict",
    "datamodule_hyper_parameters",
    "epoch",
    "global_step",
    "optimizer_states",
    "lr_schedulers",
)


@dataclass(frozen=True)
class TrainingState:
    """The state, besides the network, from which a run resumes at the end of an epoch.

    Attributes:
        batch_size: Rows in a batch.
        steps: Optimizer steps taken.
        count: Adam's own count of them, which ends where its dtype cannot count further by ones.
        moments: Adam's first and second moments of each parameter, in the order of ``parameters()``.
    """

    batch_size: int
    steps: int
    count: Float[Tensor, ""]
    moments: tuple[tuple[Float[Tensor, "..."], Float[Tensor, "..."]], ...]

    @property
    def epochs(self) -> int:
        """Completed passes over the four rows."""
        return self.steps // batches_per_epoch(self.batch_size)


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint of a ``SimpleNet``.

    Attributes:
        path: The file it was read from.
        architecture: As for ``SimpleNet``.
        hidden: As for ``SimpleNet``.
        lr: As for ``SimpleNet``.
        weights: The ``state_dict`` of the network, on the CPU.
        training: The state to resume from; ``None`` if only the weights were read.
    """

    path: Path
    architecture: str
    hidden: int
    lr: float
    weights: dict[str, Float[Tensor, "..."]]
    training: TrainingState | None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that ``SimpleNet`` was constructed with."""
        return {"architecture": self.architecture, "hidden": self.hidden, "lr": self.lr}


def batches_per_epoch(batch_size: int) -> int:
    """Return the number of batches in an epoch of four rows."""
    return -(-4 // batch_size)


def read_checkpoint(path: str | Path, *, training: bool = False) -> Checkpoint:
    """Read a checkpoint of a ``SimpleNet`` and check every entry that is used.

    No code in the file is executed, and no path in it is opened, written or deleted.

    Args:
        path: A file that Lightning's ``Trainer`` wrote, by ``simplenet train`` or otherwise.
        training: Whether to read the training state too, and to require it.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a checkpoint of a ``SimpleNet``, or is damaged; the message names the entry, its
            value and what it should be.
    """
    content = _read_bytes(Path(path))
    try:
        return _checked(Path(path), read_archive(content, (*ENTRIES, "digest")), training=training)
    except ValueError as error:
        raise ValueError(f"{path} should be a checkpoint of a SimpleNet, but {error}") from error


def newest_checkpoint(directory: str | Path) -> tuple[Checkpoint, list[str]]:
    """Read the newest checkpoint in a directory from which training can resume.

    Args:
        directory: The directory; all its ``*.ckpt`` files are candidates.

    Returns:
        The checkpoint, and for each newer file the reason why it was skipped.

    Raises:
        OSError: If the directory cannot be read.
        ValueError: If there is no such checkpoint in it.
    """
    files = []
    for path in Path(directory).iterdir():
        if path.suffix == ".ckpt":
            with suppress(FileNotFoundError):  # a link to nothing, or a file that another run has just removed
                files.append((path.stat().st_mtime_ns, path))
    refused: list[str] = []
    for _, path in sorted(files, reverse=True):
        try:
            return read_checkpoint(path, training=True), refused
        except (OSError, ValueError) as error:
            refused.append(str(error))
    reasons = "".join(f"\n  {reason}" for reason in refused)
    raise ValueError(f"{directory} should hold a checkpoint (*.ckpt) of a training run, but holds none{reasons}")


def digest(checkpoint: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the entries that are read from a checkpoint: names, types, shapes and every bit.

    ``SimpleNet`` stores it under ``digest``. It detects what a CRC does not: swapped members, another byte order,
    an edited entry. It is not a signature: whoever edits a file can compute it too.
    """
    sha = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, Tensor):
            sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
            sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            sha.update(b"{%d" % len(value))
            for name, part in value.items():
                add(name)
                add(part)
        elif isinstance(value, list | tuple):
            sha.update(f"{type(value).__name__} {len(value)}".encode())
            for part in value:
                add(part)
        else:
            text = repr(value) if isinstance(value, str | int | float | None) else type(value).__qualname__
            sha.update(f"{type(value).__name__} {text};".encode())

    add({name: checkpoint[name] for name in ENTRIES if name in checkpoint})
    return sha.hexdigest()


def _read_bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} should be a regular file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has {size:,} bytes, but should have at most {MAX_FILE_BYTES:,}")
        return file.read(size)


@dataclass(frozen=True)
class _Entry:
    """A value, and the name of the entry that holds it."""

    name: str
    value: Any

    def __getitem__(self, key: str | int) -> "_Entry":
        name = f"{self.name}[{key!r}]" if self.name else str(key)
        if not isinstance(self.value, dict | list):
            self.expect("a dict or a list", holds=False)
        found = key in self.value if isinstance(self.value, dict) else key in range(len(self.value))
        if not found:
            raise ValueError(f"its {name} is missing")
        return _Entry(name, self.value[key])

    def expect(self, expected: str, *, holds: bool) -> None:
        """Raise a ``ValueError`` that names the value and what is expected, unless ``holds``."""
        if not holds:
            value = self.value
            shown = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else reprlib.repr(value)
            raise ValueError(f"its {self.name} is {shown}, but should be {expected}")

    def equal(self, expected: object) -> None:
        """Expect this value; compared by ``repr``, because a comparison with a tensor is a tensor."""
        self.expect(repr(expected), holds=repr(self.value) == repr(expected))

    def integer(self, low: int, high: int) -> int:
        with self._in_the_file():
            return check_int(f"its {self.name}", self.value, low, high)

    def number(self, low: float, high: float) -> float:
        with self._in_the_file():
            return check_float(f"its {self.name}", self.value, low, high)

    @contextmanager
    def _in_the_file(self) -> Iterator[None]:
        """Turn a ``TypeError`` into a ``ValueError``: the file holds a wrong value."""
        try:
            yield
        except TypeError as error:
            raise ValueError(str(error)) from error

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Return a finite floating-point tensor of this shape, and of this dtype if it is given."""
        value = self.value
        holds = isinstance(value, Tensor) and value.is_floating_point() and value.shape == shape
        wanted = f"{dtype or 'floating-point'} of shape {shape}"
        self.expect(wanted, holds=holds and dtype in (None, value.dtype))
        self.expect("finite in each entry", holds=bool(value.isfinite().all()))
        tensor: Tensor = value
        return tensor


def _checked(path: Path, entries: dict[str, Any], *, training: bool) -> Checkpoint:
    """Compare the entries of a checkpoint with what ``SimpleNet`` and ``train`` save."""
    root = _Entry("", entries)
    arguments = root["hyper_parameters"]
    architecture = arguments["architecture"]
    architecture.expect(f"one of {', '.join(ARCHITECTURES)}", holds=architecture.value in list(ARCHITECTURES))
    lr = arguments["lr"].number(0.0, MAX_LR)
    hidden = arguments["hidden"].integer(1, MAX_HIDDEN)
    # Lightning's CLI adds names with a leading underscore.
    names = {name for name in arguments.value if not str(name).startswith("_")}
    arguments.expect("architecture, hidden and lr", holds=names == {"architecture", "hidden", "lr"})

    shapes = {
        "input_layer.weight": (hidden, 2),
        "input_layer.bias": (hidden,),
        "output_layer.weight": (1, hidden),
        "output_layer.bias": (1,),
    }
    state = root["state_dict"]
    state.expect(
        f"weights by the names {', '.join(shapes)}",
        holds=isinstance(state.value, dict) and state.value.keys() == shapes.keys(),
    )
    dtype = None
    weights = {}
    for name, shape in shapes.items():
        weights[name] = state[name].tensor(shape, dtype)
        dtype = weights[name].dtype

    result = Checkpoint(path, architecture.value, hidden, lr, weights, None)
    if training:
        result = replace(result, training=_training_state(root, result))
    if (found := root["digest"].value) != (expected := digest(root.value)):
        raise ValueError(
            f"its digest is {reprlib.repr(found)}, but should be {expected}: an entry was damaged or edited"
        )
    return result


def _training_state(root: _Entry, checkpoint: Checkpoint) -> TrainingState:
    for name in ("optimizer_states", "datamodule_hyper_parameters"):
        if name not in root.value:
            raise ValueError(f"it holds only weights, without {name}: training cannot resume from it")
    batch_size = root["datamodule_hyper_parameters"]["batch_size"].integer(1, MAX_BATCH_SIZE)
    steps = root["global_step"].integer(1, MAX_STEPS)
    batches = batches_per_epoch(batch_size)
    root["global_step"].expect(f"a multiple of {batches}, at the end of an epoch", holds=steps % batches == 0)
    epochs = steps // batches
    # Lightning counts an epoch after the hooks at its end, and the checkpoint is saved in one of these hooks.
    root["epoch"].expect(f"{epochs - 1} or {epochs}", holds=root["epoch"].integer(0, MAX_STEPS) in (epochs - 1, epochs))
    root["lr_schedulers"].expect("empty", holds=root["lr_schedulers"].value == [])

    optimizers = root["optimizer_states"]
    optimizers.expect(
        "a list of one optimizer's state", holds=isinstance(optimizers.value, list) and len(optimizers.value) == 1
    )
    groups, states = optimizers[0]["param_groups"], optimizers[0]["state"]
    groups.expect("a list of one group", holds=isinstance(groups.value, list) and len(groups.value) == 1)
    indices = list(range(len(checkpoint.weights)))
    groups[0]["params"].equal(indices)
    defaults = torch.optim.Adam([torch.zeros(1)], lr=checkpoint.lr).param_groups[0]
    for name in groups[0].value.keys() & defaults.keys() - {"params"}:
        groups[0][name].equal(defaults[name])

    states.expect("the state of each parameter", holds=isinstance(states.value, dict) and list(states.value) == indices)
    moments = []
    for i, weight in enumerate(checkpoint.weights.values()):
        own = states[i]
        own.expect(
            "step, exp_avg and exp_avg_sq",
            holds=isinstance(own.value, dict) and own.value.keys() == {"step", "exp_avg", "exp_avg_sq"},
        )
        count = own["step"].tensor(())
        counted = min(steps, int(2 / torch.finfo(count.dtype).eps))  # where the dtype stops counting by ones
        own["step"].expect(f"{counted}", holds=float(count) == counted)
        m, v = (own[name].tensor(tuple(weight.shape), weight.dtype) for name in ("exp_avg", "exp_avg_sq"))
        own["exp_avg_sq"].expect("at least 0 in each entry", holds=bool((v >= 0).all()))
        moments.append((m, v))
    return TrainingState(batch_size, steps, count, tuple(moments))
