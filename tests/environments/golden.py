"""Golden trajectories: the bits of training runs with one torch, to compare with another torch.

The tests assert what torch guarantees. The same build with the same CPU capability draws the same
initial weights, bit for bit; another build or capability of the same release draws them to within
the roundings of the draw; and one step from a recorded state is within its counted bound. torch
guarantees neither what another release draws from a seed, nor the bits of a whole trajectory. These
are only measured: the first step that differs, and by how much. A change of rounding in one kernel
is visible there long before it is visible in a loss.

References:
    PyTorch documentation, "Reproducibility": no reproducible results across releases or platforms.

Training uses the full batch of four rows, in float32, on the CPU. ``pytest --golden-write=FILE``
records in one environment, ``pytest --golden=FILE`` compares in another; a plain ``pytest`` compares
with golden.json. Every run of pytest imports this module, so the training, which imports Lightning,
is in tests/training.py.
"""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from packaging.version import Version
from torch import Tensor
from tqdm import tqdm

from simplenet.environment import describe
from simplenet.model import ARCHITECTURES, Architecture
from simplenet.testing.implementations import IMPLEMENTATIONS

CPU = torch.device("cpu")
COMMITTED = Path(__file__).parent / "golden.json"
FORMAT = "simplenet golden 1"

# The notebook's seed, and both ends of the domain.
SEEDS = (1996, 0, 2**32 - 1)
MARKS = (1, 10, 100, 1_000, 2_000)
STEPS = MARKS[-1]
ADAMS = {one.name: one for one in IMPLEMENTATIONS if one.name in {"for-loop", "foreach", "fused"}}
TRAINING: dict[str, Any] = {"lr": 0.01, "rows": 4, "marks": list(MARKS)}


class Trajectory(NamedTuple):
    """A training run by name."""

    implementation: str
    architecture: Architecture
    seed: int

    def __str__(self) -> str:
        return "-".join(map(str, self))


TRAJECTORIES = [Trajectory(i, a, seed) for seed in SEEDS for a in ARCHITECTURES for i in ADAMS]


def runs_here(trajectory: Trajectory) -> bool:
    """Whether this torch has the implementation on the CPU."""
    return ADAMS[trajectory.implementation].runs_on(CPU)


class Mark(NamedTuple):
    """A recorded step: weights and moments before it, its loss, and the weights after it."""

    p: Tensor
    m: Tensor
    v: Tensor
    loss: Tensor
    after: Tensor


class Run(NamedTuple):
    """The record of a trajectory.

    Attributes:
        marks: The recorded steps by number, from 1 on.
        checksums: The CRC-32 of the initial weights, and of those after each step. It changes if up to 32 consecutive
            bits do, so also for a change of any single weight.
    """

    marks: dict[int, Mark]
    checksums: list[int]


# --- how two runs differ ---


class Drift(NamedTuple):
    """The difference of a run from the recorded one, in plain types, for other processes and for files.

    Attributes:
        implementation: The implementation, like ``architecture`` and ``seed`` that of the trajectory.
        first: The first step after which any weight differs in any bit; 0 for the initial weights, None for no step.
        weights: The largest difference of a weight after each recorded step, in ulps.
        losses: The difference of the loss in each recorded step, in ulps.
    """

    implementation: str
    architecture: Architecture
    seed: int
    first: int | None
    weights: list[int]
    losses: list[int]


def ulps(a: Float32[Tensor, "*shape"], b: Float32[Tensor, "*shape"]) -> int:
    """Count the float32 numbers from ``a`` to ``b``; return the largest count of all entries; 0 and -0 are equal."""

    def rank(values: Tensor) -> Tensor:
        bits = values.detach().contiguous().view(torch.int32).long()
        return torch.where(bits < 0, -(bits & 0x7FFF_FFFF), bits)

    return int((rank(a) - rank(b)).abs().max())


def drift(trajectory: Trajectory, recorded: Run, here: Run) -> Drift:
    """Find the first step at which two runs differ, and their differences at each recorded step."""
    pairs = enumerate(zip(recorded.checksums, here.checksums, strict=True))
    first = next((t for t, (a, b) in pairs if a != b), None)
    marks = [(recorded.marks[t], here.marks[t]) for t in MARKS if t in here.marks]
    weights, losses = ([ulps(getattr(a, name), getattr(b, name)) for a, b in marks] for name in ("after", "loss"))
    return Drift(*trajectory, first, weights, losses)


# --- the file ---


class Golden(NamedTuple):
    """The contents of a file.

    Attributes:
        environment: The environment in which it was recorded, from ``simplenet.environment.describe``.
        runs: The runs by trajectory, without those of implementations that its torch lacks.
    """

    environment: dict[str, str]
    runs: dict[Trajectory, Run]


def same_release(a: dict[str, str], b: dict[str, str]) -> bool:
    """Whether two environments have the same release of torch."""
    first, second = (Version(environment["torch"]).base_version for environment in (a, b))
    return first == second


def _kernels(environment: dict[str, str]) -> tuple[Version, str, str]:
    return Version(environment["torch"]), environment["python"].rpartition(" on ")[2], environment["device"]


def same_kernels(a: dict[str, str], b: dict[str, str]) -> bool:
    """Whether two environments run the same machine code: the same build, system, processor and CPU capability."""
    return _kernels(a) == _kernels(b)


def bits(values: Tensor) -> bytes:
    """Return the bits of float32s, each in big-endian order."""
    return values.numpy().astype(">f4").tobytes()


def _values(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), ">f4").astype(np.float32))


def dumps(golden: Golden) -> str:
    """Render as JSON, with a line for each run.

    A float32 is written as the eight hexadecimal digits of its bits; checksums are in base64.
    """
    lines = []
    for trajectory, run in golden.runs.items():
        marks = {
            t: {name: bits(part).hex(" ", 4) for name, part in mark._asdict().items()} for t, mark in run.marks.items()
        }
        checksums = base64.b64encode(np.array(run.checksums, ">u4").tobytes()).decode()
        lines.append(json.dumps({**trajectory._asdict(), "marks": marks, "crc32": checksums}))
    head = {"format": FORMAT, "training": TRAINING, "environment": golden.environment}
    return json.dumps(head, indent=1).removesuffix("\n}") + ',\n "runs": [\n' + ",\n".join(lines) + "\n ]\n}\n"


def _parse(run: dict[str, Any]) -> tuple[Trajectory, Run]:
    marks = {
        int(t): Mark(**{name: _values(text) for name, text in mark.items()})._replace(loss=_values(mark["loss"])[0])
        for t, mark in run["marks"].items()
    }
    checksums = np.frombuffer(base64.b64decode(run["crc32"], validate=True), ">u4").tolist()
    return Trajectory(run["implementation"], run["architecture"], run["seed"]), Run(marks, checksums)


def loads(text: str | bytes) -> Golden:
    """Parse the output of ``dumps``.

    Raises:
        ValueError: If the text is not such output, or is damaged, or was recorded with other training settings.
    """
    try:
        file = json.loads(text)
        kind = file["format"]
    except (ValueError, KeyError, TypeError):
        kind = None
    if kind != FORMAT:
        raise ValueError(f"should be written by pytest --golden-write, but its format is {kind!r} and not {FORMAT!r}")
    try:
        training, environment = file["training"], {name: str(value) for name, value in file["environment"].items()}
        _kernels(environment)  # which a comparison reads
        runs = dict(map(_parse, file["runs"]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"should be as it was written, but is damaged: {type(error).__name__}: {error}") from None
    if training != TRAINING:
        raise ValueError(f"should hold training with {TRAINING}, but holds {training}: record it anew")
    for trajectory, run in runs.items():
        if trajectory not in TRAJECTORIES:
            raise ValueError(f"should hold known runs, but holds {trajectory}: record it anew")
        sizes = {len(part) for mark in run.marks.values() for part in (*mark[:3], mark.after)}
        if (tuple(run.marks), len(run.checksums), sizes) != (MARKS, STEPS + 1, {17}):
            raise ValueError(f"should hold {STEPS:,} steps of {trajectory}, but holds a part: record it anew")
    return Golden(environment, runs)


def read(path: Path) -> Golden:
    """Read a file.

    Raises:
        ValueError: If it cannot be read, or ``loads`` refuses its content.
    """
    try:
        return loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"golden is '{path}', but should be a file that can be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"golden is '{path}', which {error}") from None


def writable(option: str, path: Path) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        ValueError: If the file cannot be opened for writing; its content is not changed.
    """
    try:
        path.open("a").close()
    except OSError as error:
        raise ValueError(f"{option} is '{path}', but should be a file to write to: {error.strerror}") from None


def record(path: Path) -> Golden:
    """Train every trajectory that this torch has, and write the file.

    Raises:
        ValueError: If the file cannot be written; raised before any training.
    """
    writable("golden-write", path)
    from tests.training import train

    todo = [trajectory for trajectory in TRAJECTORIES if runs_here(trajectory)]
    runs = {trajectory: train(trajectory) for trajectory in tqdm(todo, unit="run", disable=None)}
    golden = Golden(describe(CPU), runs)
    path.write_text(dumps(golden), "utf-8")
    return golden
