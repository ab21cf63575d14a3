"""Reading and validating the JSON files of pytest-benchmark."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The strategies of benchmarks.steps that compute in float32; the others in a record are shown as peers.
STRATEGIES = ("eager", "foreach", "fused", "compiled", "compiled-chunk", "cuda-graph")
DEVICES = {"cpu": "CPU", "cuda": "CUDA"}

# Conditions that two runs may compare; if more than one differs, a ratio does not show which one is the cause.
SUBJECTS = ("processor", "torch", "lightning", "python")

PLOTTED = "training step"
_MAPPINGS = ("extra_info", "stats", "options")
_LEAST = sys.float_info.min  # for numbers that must be above 0
UNKNOWN = "not recorded"

Scale = tuple[int | None, int | None]


@dataclass(frozen=True)
class Record:
    """One benchmark of a run; its times are in seconds per step."""

    group: str
    name: str
    strategy: str
    device: str
    scale: Scale  # rows and hidden units
    flops: float  # floating-point operations per step, or NaN
    median: float
    iqr: float
    quartiles: tuple[float, float]
    facts: dict[str, str]  # conditions, which a comparison requires to be equal
    device_seconds: float | None = None  # the device's own time per step, without the launches
    bandwidth: float | None = None  # bytes per second that the steps have to move
    of_copy: float | None = None  # bandwidth as a fraction of a copy's
    peak: float | None = None  # most bytes allocated by torch

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of the benchmark, equal in all runs."""
        return self.group, self.name, self.strategy, self.device, self.scale


@dataclass(frozen=True)
class Run:
    """The records of one file."""

    label: str
    records: dict[tuple[Any, ...], Record]
    modified: bool = False  # whether the working tree had uncommitted changes

    def steps(self) -> list[Record]:
        """Return the records of the group that is plotted."""
        return [record for record in self.records.values() if record.group == PLOTTED]

    def baseline(self, record: Record) -> Record | None:
        """Return the record of eager on the CPU in the same group at the same scale, if there is exactly one."""
        found = [
            other
            for other in self.records.values()
            if (other.group, other.scale, other.strategy, other.device) == (record.group, record.scale, "eager", "cpu")
        ]
        return found[0] if len(found) == 1 else None


def _number(holder: dict[str, Any], name: str, least: float = 0.0) -> float:
    value = holder.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        bound = "above 0" if least == _LEAST else f"of at least {least:g}"
        raise ValueError(f"{name} is {value!r}, but should be a finite number {bound}")
    return value


def _optional(holder: dict[str, Any], name: str, least: float = 0.0) -> float | None:
    return None if holder.get(name) is None else _number(holder, name, least)


def _record(benchmark: dict[str, Any], commit: str | None) -> Record:
    """Check one entry of pytest-benchmark's list, and divide its times by the steps of a timed call."""
    extra, stats, options = ({} if benchmark.get(name) is None else benchmark[name] for name in _MAPPINGS)
    for name, holder in zip(_MAPPINGS, (extra, stats, options), strict=True):
        if not isinstance(holder, dict):
            raise ValueError(f"{name} is {holder!r}, but should be a mapping")  # noqa: TRY004 - of a file, not a type
    for name in ("group", "name"):
        if not isinstance(benchmark.get(name), str):
            raise ValueError(f"{name} is {benchmark.get(name)!r}, but should be a name")  # noqa: TRY004 - likewise
    used = ("device", "strategy", "rows", "hidden", "steps", "flops_per_step", "threads", "tf32", "commit", *SUBJECTS)
    if missing := [name for name in used if name not in extra]:
        raise ValueError(f"extra_info lacks {', '.join(missing)}")
    if extra["device"] not in list(DEVICES):
        raise ValueError(f"device is {extra['device']!r}, but should be one of {', '.join(DEVICES)}")
    steps = _optional(extra, "steps", 1) or 1
    rows, hidden = (_optional(extra, name, 1) for name in ("rows", "hidden"))
    facts = {name: extra[name] for name in (*SUBJECTS, "threads", "tf32", "steps")}
    facts |= {"commit": extra["commit"] or commit, "timer": options.get("timer")}
    facts |= {"disable_gc": options.get("disable_gc")}
    return Record(
        group=benchmark["group"],
        name=benchmark["name"],
        strategy=str(extra["strategy"]),
        device=extra["device"],
        scale=(None if rows is None else int(rows), None if hidden is None else int(hidden)),
        flops=_optional(extra, "flops_per_step", _LEAST) or math.nan,
        median=_number(stats, "median", _LEAST) / steps,
        iqr=_number(stats, "iqr") / steps,
        quartiles=(_number(stats, "q1") / steps, _number(stats, "q3") / steps),
        facts={name: UNKNOWN if value is None else str(value) for name, value in facts.items()},
        device_seconds=_optional(extra, "device_seconds_per_step"),
        bandwidth=_optional(extra, "bytes_per_second"),
        of_copy=_optional(extra, "fraction_of_copy"),
        peak=_optional(extra, "peak_memory_bytes"),
    )


def read(path: Path, label: str) -> Run:
    """Read a run from the JSON that pytest-benchmark wrote.

    Args:
        path: The file.
        label: Name of the run in the report.

    Raises:
        ValueError: If it is not such a file, or contains another suite's benchmark.
        OSError: If it cannot be read.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} should be JSON from pytest --benchmark-json, but is not JSON: {error}") from error
    benchmarks = document.get("benchmarks") if isinstance(document, dict) else None
    if not isinstance(benchmarks, list) or not all(isinstance(entry, dict) for entry in benchmarks):
        raise ValueError(f"{path} should be JSON from pytest --benchmark-json, but has no list of benchmarks")
    if not benchmarks:
        raise ValueError(f"{path} contains no benchmark: was it recorded with --benchmark-disable?")
    tree = document.get("commit_info")
    tree = tree if isinstance(tree, dict) else {}
    records = {}
    for entry in benchmarks:
        try:
            record = _record(entry, tree.get("id"))
        except ValueError as error:
            name = entry.get("fullname") or entry.get("name")
            raise ValueError(f"{path} should contain benchmarks of this suite, but in {name!r} {error}") from error
        if record.key in records:
            raise ValueError(f"{path} should contain each benchmark once, but contains {record.name!r} twice")
        records[record.key] = record
    return Run(label, records, modified=bool(tree.get("dirty")))


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Read several runs; each is named after its file, or after its path if two files have the same name."""
    stems = [path.stem for path in paths]
    distinct = len(set(stems)) == len(stems)
    return [read(path, path.stem if distinct else str(path)) for path in paths]
