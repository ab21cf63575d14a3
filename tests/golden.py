"""Golden trajectories: the bits of a training run under one torch, to hold another torch against.

What torch promises is asserted: the same build and the same CPU capability draw the same initial
weights, bit for bit; another build or capability of the same release draws them to within the
roundings of the draw; and wherever a state was recorded, one step from it ends within its counted
bound. torch promises no more: neither what another release draws from a seed, nor any bit of a
trajectory left to itself. That is measured: from which step on it differs, and by how much. A
change of rounding in one kernel shows there long before it shows in a loss.

References:
    PyTorch documentation, "Reproducibility": no same results across releases or platforms.

Trained is on the full batch of four rows in order, in float32, on the CPU. ``pytest
--golden-write=FILE`` records in one environment, ``pytest --golden=FILE`` compares in another;
golden.json is what a plain run is held against. Every run of pytest imports this module, so it
leaves the training, and with it Lightning, to tests/training.py.
"""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from jaxtyping import Float32
from packaging.version import Version
from torch import Tensor
from tqdm import tqdm

from simplenet.environment import describe
from simplenet.reference import ARCHITECTURES
from tests.targets import IMPLEMENTATIONS, devices

CPU = torch.device("cpu")
COMMITTED = Path(__file__).parent / "golden.json"
FORMAT = "simplenet golden 1"

# The notebook's seed, and both ends of the domain.
SEEDS = (1996, 0, 2**32 - 1)
MARKS = (1, 10, 100, 1_000, 2_000)
STEPS = MARKS[-1]
ADAMS = {one.name: one for one in IMPLEMENTATIONS if one.name in {"for-loop", "foreach", "fused"}}
TRAINING = {"lr": 0.01, "rows": 4, "marks": list(MARKS)}


class Trajectory(NamedTuple):
    """A training run by name."""

    implementation: str
    architecture: str
    seed: int

    def __str__(self) -> str:
        return "-".join(map(str, self))


TRAJECTORIES = [Trajectory(i, a, seed) for seed in SEEDS for a in ARCHITECTURES for i in ADAMS]


def runs_here(trajectory: Trajectory) -> bool:
    """Whether this torch has the implementation on the CPU."""
    return ADAMS[trajectory.implementation].runs_on(CPU)


class Mark(NamedTuple):
    """A step: weights and moments before it, the loss that it descends from, and the weights after it."""

    p: Tensor
    m: Tensor
    v: Tensor
    loss: Tensor
    after: Tensor


class Run(NamedTuple):
    """A trajectory's bits.

    Attributes:
        marks: Its marked steps, by number, the first of which is 1.
        checksums: The CRC-32 of the weights after each step, those before the first in front. It changes whenever
            up to 32 bits in a row do, so with any one weight.
    """

    marks: dict[int, Mark]
    checksums: list[int]


# --- how two runs differ ---


class Drift(NamedTuple):
    """How a run differs from the recorded one, in plain types: it travels between processes, and into files.

    Attributes:
        implementation: Of the trajectory, as are ``architecture`` and ``seed``.
        first: The first step after which any weight differs in any bit; 0 for the initial weights, None for no step.
        weights: The largest difference of a weight after each mark, in ulps: how many float32 away it lies.
        losses: The same of the loss.
    """

    implementation: str
    architecture: str
    seed: int
    first: int | None
    weights: list[int]
    losses: list[int]


def ulps(a: Float32[Tensor, "*shape"], b: Float32[Tensor, "*shape"]) -> int:
    """Count the float32 numbers from ``a`` to ``b``, the largest count over all entries; 0 and -0 are one."""

    def rank(values: Tensor) -> Tensor:
        bits = values.detach().contiguous().view(torch.int32).long()
        return torch.where(bits < 0, -(bits & 0x7FFF_FFFF), bits)

    return int((rank(a) - rank(b)).abs().max())


def drift(trajectory: Trajectory, recorded: Run, here: Run) -> Drift:
    """Find where two runs part, and how far apart they are at each mark."""
    pairs = enumerate(zip(recorded.checksums, here.checksums, strict=True))
    first = next((t for t, (a, b) in pairs if a != b), None)
    marks = [(recorded.marks[t], here.marks[t]) for t in MARKS if t in here.marks]
    weights, losses = ([ulps(getattr(a, name), getattr(b, name)) for a, b in marks] for name in ("after", "loss"))
    return Drift(*trajectory, first, weights, losses)


# --- the file ---


class Golden(NamedTuple):
    """What a file holds.

    Attributes:
        environment: Where it was recorded, as ``simplenet.environment.describe`` has it.
        runs: The runs by trajectory; those of an implementation that its torch lacks are missing.
    """

    environment: dict[str, str]
    runs: dict[Trajectory, Run]


def same_release(a: dict[str, str], b: dict[str, str]) -> bool:
    """Say whether two environments, as ``describe`` has them, run the same source of torch."""
    first, second = (Version(environment["torch"]).base_version for environment in (a, b))
    return first == second


def same_kernels(a: dict[str, str], b: dict[str, str]) -> bool:
    """Say whether two environments run the same machine code: torch's build, system, processor and CPU capability."""

    def kernels(environment: dict[str, str]) -> tuple[str, ...]:
        return environment["torch"], environment["python"].rpartition(" on ")[2], environment["device"]

    return kernels(a) == kernels(b)


def bits(values: Tensor) -> bytes:
    """Return the bits of float32s, each in big-endian order."""
    return values.numpy().astype(">f4").tobytes()


def _values(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), ">f4").astype(np.float32))


def dumps(golden: Golden) -> str:
    """Render as JSON, a line to a run.

    A float32 is the eight hexadecimal digits of its bits; the checksums, which nobody reads, are in base64.
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


def loads(text: str) -> Golden:
    """Read what ``dumps`` wrote.

    Raises:
        ValueError: If something else did, or it is damaged, or the training recorded is not that of today.
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
        runs = dict(map(_parse, file["runs"]))
        sizes = {len(part) for run in runs.values() for mark in run.marks.values() for part in (*mark[:3], mark.after)}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"should be as it was written, but is damaged: {type(error).__name__}: {error}") from None
    if training != TRAINING:
        raise ValueError(f"should hold training with {TRAINING}, but holds {training}: record it anew")
    for trajectory, run in runs.items():
        if trajectory not in TRAJECTORIES:
            raise ValueError(f"should hold known runs, but holds {trajectory}: record it anew")
        if (tuple(run.marks), len(run.checksums), sizes) != (MARKS, STEPS + 1, {17}):
            raise ValueError(f"should hold {STEPS:,} steps of {trajectory}, but holds a part: record it anew")
    return Golden(environment, runs)


def read(path: Path) -> Golden:
    """Read a file.

    Raises:
        ValueError: If it cannot be read, or ``loads`` refuses what it holds.
    """
    try:
        return loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"golden is '{path}', but should be a file that can be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"golden is '{path}', which {error}") from None


def writable(option: str, path: Path) -> None:
    """Refuse a file that could not be written, before the work that it is for.

    Raises:
        ValueError: If the file cannot be opened for writing; what it holds is kept.
    """
    try:
        path.open("a").close()
    except OSError as error:
        raise ValueError(f"{option} is '{path}', but should be a file to write to: {error.strerror}") from None


def record(path: Path) -> Golden:
    """Train every trajectory that runs here, and write the file.

    Raises:
        ValueError: If the file cannot be written; said before anything is trained.
    """
    writable("golden-write", path)
    from tests.training import train

    todo = [trajectory for trajectory in TRAJECTORIES if runs_here(trajectory)]
    runs = {trajectory: train(trajectory) for trajectory in tqdm(todo, unit="run", disable=None)}
    golden = Golden(describe(CPU), runs)
    path.write_text(dumps(golden), "utf-8")
    return golden


# --- the options, the measuring, the report ---

_GOLDEN = pytest.StashKey[Golden]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-write",
        metavar="FILE",
        help="run no test, but record here what --golden compares elsewhere: weights, losses and optimizer states of "
        f"{len(TRAJECTORIES)} runs of {STEPS:,} steps on the CPU; takes about half a minute",
    )
    parser.addoption(
        "--golden",
        metavar="FILE",
        help="compare this environment with the one that wrote FILE by --golden-write, and run no other test: what "
        "differs, from which step on, and by how much; takes about half a minute",
    )


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Record instead of testing, if that is what was asked for."""
    if config.option.golden_write is None or config.option.help or config.option.version:
        return None
    path = Path(config.option.golden_write)
    try:
        golden = record(path)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    print(f"{path}: {len(golden.runs)} runs of {STEPS:,} steps, {_place(golden.environment)}")  # noqa: T201
    return 0


def pytest_configure(config: pytest.Config) -> None:
    """Read the file, so that a wrong one is refused before anything is collected."""
    if config.option.golden_write is not None:
        return
    try:
        here = devices(config)
        config.stash[_GOLDEN] = read(Path(config.option.golden or COMMITTED))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.golden is not None and CPU not in here:
        raise pytest.UsageError(f"golden is compared on the CPU, but the device is {config.option.device!r}")
    if not hasattr(config, "workerinput"):  # under xdist the workers measure, and the controller reports
        config.pluginmanager.register(Report(config), "simplenet-drift")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    here = [one for one in config.stash[_GOLDEN].runs if runs_here(one) and CPU in devices(config)]
    if "trajectory" in metafunc.fixturenames:
        metafunc.parametrize("trajectory", here, ids=str)
    if "free" in metafunc.fixturenames:
        # A second or so each: for a line at the end of every run, the notebook's network and seed are enough.
        thorough = config.option.golden or config.option.drift_write
        chosen = [one for one in here if thorough or (one.architecture, one.seed) == ("overview", SEEDS[0])]
        metafunc.parametrize("free", chosen, ids=str)


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Golden:
    """Return what is compared with."""
    return pytestconfig.stash[_GOLDEN]


def _place(environment: dict[str, str]) -> str:
    return f"torch {environment['torch']}, {environment['device']}"


def earliest(drifts: list[Drift]) -> Drift:
    """Return the run that parts first; one that never does comes last."""
    return min(drifts, key=lambda one: STEPS + 1 if one.first is None else one.first)


def farthest(drifts: list[Drift]) -> list[int]:
    """Return the largest difference of a weight at each mark, in ulps."""
    return [max(counts) for counts in zip(*(one.weights for one in drifts), strict=True)]


def said(one: Drift) -> str:
    """Say from which step on a run differs."""
    return f"none in {STEPS:,}" if one.first is None else f"{one.first:,}"


def line(golden: Golden, drifts: list[Drift]) -> str:
    """Say in a line how runs have drifted from the recorded ones."""
    there, here = _place(golden.environment), _place(describe(CPU))
    start = f"drift from {there}: " if here == there else f"drift from {there} to {here}: "
    if all(one.first is None for one in drifts):
        return f"{start}none, {len(drifts)} runs of {STEPS:,} steps are the same in every bit"
    changed = sum(one.first == 0 for one in drifts)
    initial = f"initial weights differ in {changed} of {len(drifts)}" if changed else "initial weights identical"
    firsts: dict[str, list[str]] = {}
    for name in ADAMS:
        if own := [one for one in drifts if one.implementation == name]:
            firsts.setdefault(said(earliest(own)), []).append(name)
    steps = ", ".join(f"{first} ({', '.join(names)})" for first, names in firsts.items())
    worst, t = max((ulps, t) for one in drifts for ulps, t in zip(one.weights, MARKS, strict=True))
    return f"{start}{initial}; first differing step {steps}; up to {worst:,} ulps, at {t:,}"


def table(golden: Golden, drifts: list[Drift]) -> list[str]:
    """Lay out how runs have drifted: a row to an implementation and an architecture, over all seeds."""
    here = describe(CPU)
    lines = [
        f"{name}: {value} -> {here.get(name)}" for name, value in golden.environment.items() if value != here.get(name)
    ]
    same = sum(one.first != 0 for one in drifts)
    lines += [f"initial weights: identical in {same} of {len(drifts)} runs", ""]
    row = "{:<14}  {:<12}  {:>13}" + "  {:>11}" * len(MARKS)
    lines.append(f"{'':<30}first step  largest difference of a weight in ulps, after step")
    lines.append(row.format("implementation", "architecture", "that differs", *(f"{t:,}" for t in MARKS)))
    for key in dict.fromkeys(trajectory[:2] for trajectory in sorted(TRAJECTORIES)):
        if not (own := [one for one in drifts if one[:2] == key]):
            continue
        lines.append(row.format(*key, said(earliest(own)), *(f"{n:,}" for n in farthest(own))))
    for name, implementation in ADAMS.items():
        if not implementation.runs_on(CPU):
            lines.append(f"{name}: not in this torch")
        elif not any(one.implementation == name for one in golden.runs):
            lines.append(f"{name}: not recorded")
    return lines


class Report:
    """Gather what the runs measured, from the tests' reports, and print it.

    Attributes:
        drifts: What has come in.
        recorded: Where that was recorded which the runs are compared with.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.drifts: list[Drift] = []
        self.recorded = _place(config.stash[_GOLDEN].environment)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for kind, found in report.user_properties:
                if kind == "drift":
                    self.drifts.append(Drift(**found))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.drifts:
            return
        golden = self.config.stash[_GOLDEN]
        if self.config.option.golden:
            terminalreporter.section(f"drift from {self.config.option.golden}")
            for text in table(golden, self.drifts):
                terminalreporter.write_line(text)
        terminalreporter.write_line(line(golden, self.drifts))
