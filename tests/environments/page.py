"""Collect the results of tox environments, and write docs/drift.md and docs/drift.png.

``pytest --drift-write=.tox/drift/NAME.json`` runs the suite, compares every golden run, and writes the results.
``python -m tests.environments .tox/drift`` copies the files of that directory to docs/drift and writes docs/drift.md
and docs/drift.png; without a directory it only writes these two.
"""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

from packaging.version import Version

from tests import ledger
from tests.environments.drift import by_implementation, earliest, farthest, first_step
from tests.environments.golden import ADAMS, MARKS, STEPS, Drift

RECORDS = ledger.DOCS / "drift"
PAGE, PICTURE = ledger.DOCS / "drift.md", ledger.DOCS / "drift.png"
FORMAT = "simplenet drift 2"

Record = dict[str, Any]


def dumps(value: Any, depth: int = 1, indent: str = "") -> str:
    """Render as JSON, with a line for each entry down to a depth."""
    if not (depth and isinstance(value, dict) and value):
        return json.dumps(value, ensure_ascii=False)
    entries = (f"{indent} {json.dumps(name)}: {dumps(one, depth - 1, indent + ' ')}" for name, one in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}" + "\n" * (not indent)


def read(path: Path, kind: str, command: str) -> Record:
    """Read what ``dumps`` wrote.

    Raises:
        ValueError: If it is no record of a kind, which a command writes.
    """
    try:
        record: Record = json.loads(path.read_text("utf-8"))
        found = record["format"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found != kind:
        raise ValueError(f"'{path}' should be written by {command}, but its format is {found!r}, not {kind!r}")
    return record


def gather(directory: Path) -> dict[str, Record]:
    """Read the records of a directory, by name, in the order of their versions.

    Raises:
        ValueError: If there is none, or a file is not a record.
    """
    records = {}
    for path in directory.glob("*.json"):
        record = read(path, FORMAT, "pytest --drift-write")
        entries = {"environment", "verdict", "failures", "defects", "checks", "golden", "drifts"}
        if lacking := entries - record.keys():
            raise ValueError(f"'{path}' should be as it was written, but lacks {', '.join(sorted(lacking))}")
        record["drifts"] = [Drift(**one) for one in record["drifts"]]
        records[path.stem] = record
    if not records:
        raise ValueError(f"'{directory}' should hold records, but holds none: pytest --drift-write=FILE writes one")
    names = ("torch", "lightning", "python")
    return dict(
        sorted(records.items(), key=lambda item: [Version(item[1]["environment"][name].split()[0]) for name in names])
    )


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*cells: str, right: int = 0) -> list[str]:
    rules = ["---"] * (len(cells) - right) + ["---:"] * right
    return [row(*cells), row(*rules)]


def versions_of(record: Record, *names: str) -> list[str]:
    """Return versions without local build identifiers."""
    return [Version(record["environment"][name].split()[0]).base_version for name in names]


def _drift_rows(name: str, record: Record) -> list[str]:
    """Merge implementations with the same drift into one row."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for implementation, drifts in by_implementation(record["drifts"]).items():
        first = earliest(drifts)
        where = "" if first.first is None else f" ({first.architecture}, seed {first.seed})"
        initial = f"{sum(one.first != 0 for one in drifts)} of {len(drifts)}"
        found = (initial, first_step(first) + where, *(f"{ulps:,}" for ulps in farthest(drifts)))
        merged.setdefault(found, []).append(implementation)
    return [row(f"`{name}`", ", ".join(names), *found) for found, names in merged.items()]


def page(records: dict[str, Record]) -> str:
    """Render the records as tables."""
    environments = {name: record["environment"] for name, record in records.items()}
    recorded = sorted({record["golden"] for record in records.values()})
    cpus = sorted({environment["cpu"] for environment in environments.values()})
    lines = [
        "# The same suite and seeds with other versions",
        "",
        "The complete suite ran in each of these tox environments. `python -m tests.environments` writes this page",
        "and its plot from the records in [docs/drift](drift/), which `pytest --drift-write` writes.",
        f"Processor: {'; '.join(cpus)}.",
        "",
        "![first differing step and largest difference, by torch version](drift.png)",
        "",
        "## Outcomes",
        "",
        *head(
            "environment",
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
    for name, record in records.items():
        versions = [environments[name][key].split()[0] for key in ("torch", "lightning", "numpy", "python")]
        versions.append(environments[name]["device"].split()[-1].removesuffix(")"))
        verdict = record["verdict"]
        failed = verdict["failed"] + verdict["errors"]
        lines.append(row(f"`{name}`", *versions, verdict["passed"], failed, verdict["xfailed"], verdict["skipped"]))
    for name, record in records.items():
        lines += [""] * bool(record["failures"]) + [f"- `{name}` fails `{test}`" for test in record["failures"]]
    axes = sorted({axis for record in records.values() for axis in record["checks"]})
    lines += ["", "Checks, by implementation of Adam on a device, by device and by type:", ""]
    lines += head("environment", *axes, right=len(axes))
    lines += [row(f"`{name}`", *(record["checks"].get(axis, 0) for axis in axes)) for name, record in records.items()]
    lines += [
        "",
        "## Drift",
        "",
        f"Compared with [golden.json](../tests/environments/golden.json), recorded with {'; '.join(recorded)}: three",
        "seeds for each of three architectures, the full batch, Adam with learning rate 0.01. The suite asserts that",
        "one step from each recorded state is exact to its roundings, and that initial weights are those that torch",
        "guarantees within one release. This table is only measured: whether runs start from the same bits, the first",
        "step after which any bit of any weight differs, and after some steps the largest difference of a weight in",
        "ulps, for the worst of all nine runs. Near 0, a small difference is many ulps, and once `overview` is solved",
        "its gradients are rounding errors.",
        "The kernels that torch selects for a processor matter as much as its version; the first table names them.",
        "",
        *head(
            "environment",
            "implementation",
            "same initial weights",
            "first differing step",
            *(f"ulps at {t:,}" for t in MARKS),
            right=len(MARKS),
        ),
    ]
    for name, record in records.items():
        lines += _drift_rows(name, record)
    known = ledger.defects()
    shown = {id_ for record in records.values() for id_ in record["defects"]}
    lines += [
        "",
        "## Defects",
        "",
        "Those of [defects.md](defects.md) that a run has shown (●); by torch, lightning and Python.",
        *["A row without a mark was added after these runs."] * bool(set(known) - shown),
        "",
        row("defect", *("<br>".join(versions_of(one, "torch", "lightning", "python")) for one in records.values())),
        row("---", *(":-:" for _ in records)),
    ]
    for id_ in [*known, *sorted(shown - set(known))]:
        lines.append(row(f"`{id_}`", *("●" if id_ in record["defects"] else "" for record in records.values())))
    return "\n".join(lines) + "\n"


def stamp(name: str, text: str) -> str:
    """Identify, in a picture's metadata, the document in docs/ that it was drawn for."""
    return f"simplenet {name} {zlib.crc32(text.encode()):08x}"


def plot(records: dict[str, Record], path: Path) -> None:
    """Draw first differing step and largest difference against the torch version.

    Raises:
        OSError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7, 2.5 + 0.55 * len(records)), 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    first_axes, ulps_axes = figure.subplots(2, 1, sharex=True)
    never, shapes = 2 * STEPS, {10: "v", 100: "s", 2_000: "^"}
    for i, name in enumerate(ADAMS):
        look = {"color": f"C{i}", "markersize": 5}
        shift = 0.2 * (i - 1)  # they often coincide
        found = [by_implementation(record["drifts"]).get(name) for record in records.values()]
        drifts = {x + shift: own for x, own in enumerate(found) if own}
        firsts = [earliest(own).first for own in drifts.values()]
        heights = [never if first is None else max(first, 0.5) for first in firsts]  # 0 has no place on this scale
        first_axes.plot(drifts.keys(), heights, "o", label=name, **look)
        for t, shape in shapes.items():
            ulps_axes.plot(drifts.keys(), [farthest(own)[MARKS.index(t)] for own in drifts.values()], shape, **look)
    for t, shape in shapes.items():
        ulps_axes.plot([], [], shape, color="gray", markersize=5, label=f"after step {t:,}")

    first_axes.set(title="Drift from the golden runs, the worst of nine", ylabel="first differing step", yscale="log")
    ticks = [1, 10, 100, 1_000, never]
    first_axes.set_yticks(ticks, [*(f"{t:,}" for t in ticks[:-1]), f"none in {STEPS:,}"])
    first_axes.set(ylim=(0.4, 2 * never))
    ulps_axes.set(ylabel="largest difference of a weight, ulps")
    ulps_axes.set_yscale("symlog", linthresh=1)
    highest = max(max(one.weights) for record in records.values() for one in record["drifts"])
    ulps_axes.set(ylim=(-0.5, 4 * max(highest, 1)))
    versions = [versions_of(record, "torch", "lightning", "python") for record in records.values()]
    ulps_axes.set_xticks(range(len(records)), ["\n".join(names) for names in versions], fontsize=7)
    ulps_axes.set(xlabel="torch, lightning, Python", xlim=(-0.5, len(records) - 0.5))
    for axes in (first_axes, ulps_axes):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.align_ylabels()
    figure.savefig(path, dpi=100, metadata={"Description": stamp("drift", page(records))})


def main(new: Path | None = None) -> str | None:
    """Take in new records, write page and picture; return what is wrong, if something is."""
    try:
        if new is not None:
            for name in gather(new):
                shutil.copyfile(new / f"{name}.json", RECORDS / f"{name}.json")
        records = gather(RECORDS)
    except ValueError as error:
        return str(error)
    PAGE.write_text(page(records), "utf-8")
    plot(records, PICTURE)
    return None
