"""What each environment of the matrix found, and all of them side by side.

``pytest --lane=.tox/lanes/NAME.json`` runs the suite, compares every golden run, times the eager
step, and writes what came of it. ``python -m tests.drift .tox/lanes`` takes the files of such a
directory into docs/drift and writes docs/drift.md and docs/drift.png; without a directory it
writes them from what docs/drift holds.
"""

import json
import shutil
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version

from simplenet.environment import describe, processor
from tests import ledger
from tests.golden import ADAMS, CPU, MARKS, STEPS, Drift, Trajectory, earliest, farthest, said, writable

LANES = ledger.DOCS / "drift"
PAGE, PICTURE = ledger.DOCS / "drift.md", ledger.DOCS / "drift.png"
FORMAT = "simplenet lane 1"

# What is timed: so many steps in a row, and so many times, each implementation in turn.
STEPS_A_ROUND, ROUNDS = 20, 40

Lane = dict[str, Any]


# --- a lane ---


def time_steps(rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Time a bare eager training step of the notebook's network on one thread.

    Args:
        rounds: How often a series of steps is timed.

    Returns:
        By implementation, the lower quartile, the median and the upper quartile, in microseconds a step.
    """
    from tests.training import Training

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = [name for name, implementation in ADAMS.items() if implementation.runs_on(CPU)]
        trainings = {name: Training(Trajectory(name, "overview", 1996)) for name in here}
        seconds: dict[str, list[float]] = {name: [] for name in here}
        for _ in range(1 + rounds):  # the first warms up
            for name, training in trainings.items():
                start = time.perf_counter()
                for _ in range(STEPS_A_ROUND):
                    training.step()
                seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {
        name: [round(1e6 * q / STEPS_A_ROUND, 1) for q in np.quantile(values[1:], [0.25, 0.5, 0.75])]
        for name, values in seconds.items()
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--lane",
        metavar="FILE",
        help="write what this run found for python -m tests.drift to gather: versions, verdict, live defects, checks, "
        "drift of every golden run, and the time of an eager step; takes about half a minute more",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.lane is None or hasattr(config, "workerinput"):
        return
    path = Path(config.option.lane)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable("lane", path)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(_Writer(config), "simplenet-lane")


class _Writer:
    """Write the lane's file once nothing else of the run goes on: xdist's workers have ended by then."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        if exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            terminalreporter.write_line(
                f"lane: not written, for the run did not end by itself ({exitstatus})", red=True
            )
            return
        tally, report = map(self.config.pluginmanager.get_plugin, ("simplenet-tally", "simplenet-drift"))
        stats = terminalreporter.stats
        kinds = {"passed": "passed", "failed": "failed", "errors": "error", "xfailed": "xfailed", "skipped": "skipped"}
        lane = {
            "format": FORMAT,
            "environment": {**describe(CPU), "cpu": processor(CPU)},
            "verdict": {name: len(stats.get(key, [])) for name, key in kinds.items()},
            "failures": sorted({report.nodeid for key in ("failed", "error") for report in stats.get(key, [])}),
            "defects": sorted(tally.alive),
            "checks": dict(sorted(tally.checks.items())),
            "golden": report.recorded,
            "drifts": [one._asdict() for one in sorted(report.drifts)],
            "microseconds": time_steps(),
        }
        path = Path(self.config.option.lane)
        path.write_text(dumps(lane), "utf-8")
        terminalreporter.write_line(f"lane: written to {path}")


def dumps(lane: Lane) -> str:
    """Render as JSON, a line to an entry."""
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in lane.items()) + "\n}\n"


# --- all lanes ---


def gather(directory: Path) -> dict[str, Lane]:
    """Read the lanes of a directory, by name, in the order of their versions.

    Raises:
        ValueError: If there is none, or a file is not a lane's.
    """
    lanes = {}
    for path in directory.glob("*.json"):
        try:
            lane = json.loads(path.read_text("utf-8"))
            kind = lane["format"]
        except (ValueError, KeyError, TypeError):
            kind = None
        if kind != FORMAT:
            raise ValueError(f"'{path}' should be written by pytest --lane, but its format is {kind!r}, not {FORMAT!r}")
        entries = {"environment", "verdict", "failures", "defects", "checks", "golden", "drifts", "microseconds"}
        if lacking := entries - lane.keys():
            raise ValueError(f"'{path}' should be as it was written, but lacks {', '.join(sorted(lacking))}")
        lane["drifts"] = [Drift(**one) for one in lane["drifts"]]
        lanes[path.stem] = lane
    if not lanes:
        raise ValueError(f"'{directory}' should hold the files of lanes, but holds none: pytest --lane=FILE writes one")
    names = ("torch", "lightning", "python")
    return dict(
        sorted(lanes.items(), key=lambda item: [Version(item[1]["environment"][name].split()[0]) for name in names])
    )


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _head(*cells: str, right: int = 0) -> list[str]:
    rules = ["---"] * (len(cells) - right) + ["---:"] * right
    return [_row(*cells), _row(*rules)]


def versions_of(lane: Lane, *names: str) -> list[str]:
    """Return versions as they are released, without what a build adds to them."""
    return [Version(lane["environment"][name].split()[0]).base_version for name in names]


def by_implementation(lane: Lane) -> dict[str, list[Drift]]:
    """Sort a lane's drifts by implementation."""
    sorted_ = {name: [one for one in lane["drifts"] if one.implementation == name] for name in ADAMS}
    return {name: drifts for name, drifts in sorted_.items() if drifts}


def _drift_rows(name: str, lane: Lane) -> list[str]:
    """Put implementations that drift alike into one row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for implementation, drifts in by_implementation(lane).items():
        first = earliest(drifts)
        where = "" if first.first is None else f" ({first.architecture}, seed {first.seed})"
        initial = f"{sum(one.first != 0 for one in drifts)} of {len(drifts)}"
        found = (initial, said(first) + where, *(f"{ulps:,}" for ulps in farthest(drifts)))
        alike.setdefault(found, []).append(implementation)
    return [_row(f"`{name}`", ", ".join(names), *found) for found, names in alike.items()]


def page(lanes: dict[str, Lane]) -> str:
    """Render the lanes as tables."""
    environments = {name: lane["environment"] for name, lane in lanes.items()}
    recorded = sorted({lane["golden"] for lane in lanes.values()})
    cpus = sorted({environment["cpu"] for environment in environments.values()})
    lines = [
        "# The same suite, the same seeds, other versions",
        "",
        "Each lane is an environment in which the whole suite ran. This page and its picture are written by",
        "`python -m tests.drift` from the lanes' own files in [docs/drift](drift/), and those by `pytest --lane=FILE`.",
        f"Here: {'; '.join(cpus)}.",
        "",
        "![first differing step, largest difference and time of a step, by torch version](drift.png)",
        "",
        "## Verdicts",
        "",
        *_head(
            "lane",
            "torch",
            "lightning",
            "numpy",
            "Python",
            "kernels",
            "passed",
            "failed",
            "xfailed",
            "skipped",
            right=4,
        ),
    ]
    for name, lane in lanes.items():
        versions = [environments[name][key].split()[0] for key in ("torch", "lightning", "numpy", "python")]
        versions.append(environments[name]["device"].split()[-1].removesuffix(")"))
        verdict = lane["verdict"]
        failed = verdict["failed"] + verdict["errors"]
        lines.append(_row(f"`{name}`", *versions, verdict["passed"], failed, verdict["xfailed"], verdict["skipped"]))
    for name, lane in lanes.items():
        lines += [""] * bool(lane["failures"]) + [f"- `{name}` fails `{test}`" for test in lane["failures"]]
    axes = sorted({axis for lane in lanes.values() for axis in lane["checks"]})
    lines += ["", "Checks, by implementation of Adam on a device, by device and by type:", ""]
    lines += _head("lane", *axes, right=len(axes))
    lines += [_row(f"`{name}`", *(lane["checks"].get(axis, 0) for axis in axes)) for name, lane in lanes.items()]
    lines += [
        "",
        "## Drift",
        "",
        f"Against the runs in [tests/golden.json](../tests/golden.json), recorded with {'; '.join(recorded)}: three",
        "seeds in each of three architectures, the full batch, Adam at learning rate 0.01. The suite asserts that one",
        "step from each recorded state is exact to its roundings, and of initial weights what torch promises within",
        "one release. What follows is measured, not asserted: whether runs start from the same bits, the earliest",
        "step after which any bit of any weight differs, and after some steps how many float32 lie between the",
        "weights that differ most, in the worst of all nine runs. A weight near 0 is far from its neighbours by this",
        "count, and once `overview` is solved its gradients are rounding errors.",
        "Which kernels torch takes for a processor matters as much as its version: see them above.",
        "",
        *_head(
            "lane",
            "implementation",
            "same initial weights",
            "first differing step",
            *(f"ulps at {t:,}" for t in MARKS),
            right=len(MARKS),
        ),
    ]
    for name, lane in lanes.items():
        lines += _drift_rows(name, lane)
    known = ledger.defects()
    shown = {id_ for lane in lanes.values() for id_ in lane["defects"]}
    lines += [
        "",
        "## Defects",
        "",
        "Those of [defects.md](defects.md) that a lane's run has shown (●); by torch, lightning and Python.",
        *["A row without a mark was added after these runs."] * bool(set(known) - shown),
        "",
        _row("defect", *("<br>".join(versions_of(lane, "torch", "lightning", "python")) for lane in lanes.values())),
        _row("---", *(":-:" for _ in lanes)),
    ]
    for id_ in [*known, *sorted(shown - set(known))]:
        lines.append(_row(f"`{id_}`", *("●" if id_ in lane["defects"] else "" for lane in lanes.values())))
    lines += [
        "",
        "## Time",
        "",
        "Microseconds for a bare eager training step of 17 parameters on one thread, `overview`: the median and the",
        f"quartiles of {ROUNDS} rounds of {STEPS_A_ROUND} steps, implementations in turn, after the lane's tests.",
        "Lanes run at different times, so what else the machine did shows in the differences between them.",
        "",
        *_head("lane", *ADAMS, right=len(ADAMS)),
    ]
    for name, lane in lanes.items():
        times = lane["microseconds"]
        cells = ["{1:.0f} ({0:.0f} to {2:.0f})".format(*times[adam]) if adam in times else "" for adam in ADAMS]
        lines.append(_row(f"`{name}`", *cells))
    return "\n".join(lines) + "\n"


def stamp(text: str) -> str:
    """Return what ties a picture to the page beside it."""
    return f"simplenet drift {zlib.crc32(text.encode()):08x}"


def plot(lanes: dict[str, Lane], path: Path) -> None:
    """Draw first differing step, largest difference and time of a step against the torch version.

    Raises:
        OSError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7, 2.5 + 0.55 * len(lanes)), 9), layout="constrained")
    FigureCanvasAgg(figure)
    first_axes, ulps_axes, time_axes = figure.subplots(3, 1, sharex=True)
    never, shapes = 2 * STEPS, {10: "v", 100: "s", 2_000: "^"}
    for i, name in enumerate(ADAMS):
        look = {"color": f"C{i}", "markersize": 5}
        shift = 0.2 * (i - 1)  # they often coincide
        drifts = {x: by_implementation(lane).get(name) for x, lane in enumerate(lanes.values())}
        drifts = {x + shift: own for x, own in drifts.items() if own}
        firsts = [earliest(own).first for own in drifts.values()]
        heights = [never if first is None else max(first, 0.5) for first in firsts]  # 0 has no place on this scale
        first_axes.plot(drifts.keys(), heights, "o", label=name, **look)
        for t, shape in shapes.items():
            ulps_axes.plot(drifts.keys(), [farthest(own)[MARKS.index(t)] for own in drifts.values()], shape, **look)
        times = {x + shift: lane["microseconds"].get(name) for x, lane in enumerate(lanes.values())}
        times = {x: quartiles for x, quartiles in times.items() if quartiles}
        low, median, high = np.array(list(times.values())).reshape(-1, 3).T
        errors = [median - low, high - median]
        time_axes.errorbar(times.keys(), median, errors, fmt="o", capsize=2, label=name, **look)
    for t, shape in shapes.items():
        ulps_axes.plot([], [], shape, color="gray", markersize=5, label=f"after step {t:,}")

    first_axes.set(title="Drift from the golden runs, the worst of nine", ylabel="first differing step", yscale="log")
    ticks = [1, 10, 100, 1_000, never]
    first_axes.set_yticks(ticks, [*(f"{t:,}" for t in ticks[:-1]), f"none in {STEPS:,}"])
    first_axes.set(ylim=(0.4, 2 * never))
    ulps_axes.set(ylabel="largest difference of a weight, ulps")
    ulps_axes.set_yscale("symlog", linthresh=1)
    highest = max(max(one.weights) for lane in lanes.values() for one in lane["drifts"])
    ulps_axes.set(ylim=(-0.5, 4 * max(highest, 1)))
    time_axes.set(title="Eager training step, median and quartiles", ylabel="microseconds", ylim=(0, None))
    versions = [versions_of(lane, "torch", "lightning", "python") for lane in lanes.values()]
    time_axes.set_xticks(range(len(lanes)), ["\n".join(names) for names in versions], fontsize=7)
    time_axes.set(xlabel="torch, lightning, Python", xlim=(-0.5, len(lanes) - 0.5))
    for axes in (first_axes, ulps_axes, time_axes):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.align_ylabels()
    figure.savefig(path, dpi=100, metadata={"Description": stamp(page(lanes))})


def main(new: Path | None = None) -> str | None:
    """Take in new lanes, write page and picture; return what is wrong, if something is."""
    try:
        for name in gather(new) if new else ():
            shutil.copyfile(new / f"{name}.json", LANES / f"{name}.json")
        lanes = gather(LANES)
    except ValueError as error:
        return str(error)
    PAGE.write_text(page(lanes), "utf-8")
    plot(lanes, PICTURE)
    return None


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
