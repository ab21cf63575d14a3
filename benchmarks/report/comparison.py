"""Warnings about comparisons that mislead, and the sizes from which a device is faster."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

from benchmarks.report.records import DEVICES, STRATEGIES, SUBJECTS, Record, Run, Scale
from benchmarks.report.tables import scale_name, si

# Conditions that change the time and that should not differ between runs.
_CONDITIONS = ("threads", "tf32", "commit", "steps", "timer", "disable_gc")
# Conditions that should not differ between strategies of one run; the first two may, between devices.
_WITHIN = ("processor", "tf32", "threads", "torch", "lightning", "python", "commit", "timer", "disable_gc")


def _differences(pairs: Iterable[tuple[Record, Record]], names: Sequence[str]) -> dict[str, Counter[tuple[str, str]]]:
    """Count, for each name, the pairs of values in which the records of a pair differ."""
    found: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in names}
    for one, other in pairs:
        for name in names:
            of_the_device = name in ("processor", "tf32")
            if one.facts[name] != other.facts[name] and not (of_the_device and one.device != other.device):
                found[name][one.facts[name], other.facts[name]] += 1
    return {name: values for name, values in found.items() if values}


def _sentences(name: str, values: Counter[tuple[str, str]], of: int, first: str, second: str) -> list[str]:
    """Return a sentence for each pair of values in which two sides differ."""
    return [
        f"{name} is {one} in {first}, but {other} in {second} ({count} of {of} benchmarks)"
        for (one, other), count in values.items()
    ]


def cautions(runs: Sequence[Run]) -> list[str]:
    """Return a line for each reason why ratios within a run, or between the first run and another, would mislead."""
    lines = []
    for run in runs:
        pairs = [(base, record) for record in run.records.values() if (base := run.baseline(record)) is not None]
        for name, values in _differences(pairs, _WITHIN).items():
            lines += [
                f"Ratios to eager in {run.label} mislead: {text}."
                for text in _sentences(name, values, len(pairs), "eager", "what is compared with it")
            ]
    first = runs[0]
    for run in runs[1:]:
        prefix = f"{run.label} should not be compared with {first.label}:"
        pairs = [(record, run.records[key]) for key, record in first.records.items() if key in run.records]
        if not pairs:
            lines.append(f"{prefix} they have no benchmark in common.")
            continue
        for name, values in _differences(pairs, _CONDITIONS).items():
            lines += [f"{prefix} {text}." for text in _sentences(name, values, len(pairs), first.label, run.label)]
        subjects = _differences(pairs, SUBJECTS)
        if len(subjects) > 1:
            both = [_sentences(name, values, len(pairs), first.label, run.label) for name, values in subjects.items()]
            lines.append(f"{prefix} a ratio cannot tell apart that {' and that '.join(chain.from_iterable(both))}.")
        for tree in (first, run):
            if tree.modified:
                lines.append(f"{prefix} {tree.label} ran with uncommitted changes, so its code is not known.")
    return lines


def crossovers(sizes: Sequence[float], cpu: Sequence[float], cuda: Sequence[float]) -> list[tuple[float, float, int]]:
    """Find where two measured curves cross, by linear interpolation on logarithmic axes.

    Curves that touch do not cross. There is no extrapolation beyond the measured sizes.

    Args:
        sizes: Sizes at which both were measured, ascending.
        cpu: Seconds per step on the CPU, for each size.
        cuda: Seconds per step on CUDA, for each size.

    Returns:
        For each crossing its size, its time, and the index in ``sizes`` of the measurement before it.
    """
    differences = [math.log2(a) - math.log2(b) for a, b in zip(cpu, cuda, strict=True)]
    apart = [i for i, difference in enumerate(differences) if difference]
    found = []
    for i, j in pairwise(apart):
        if (differences[i] > 0) == (differences[j] > 0):
            continue
        share = differences[i] / (differences[i] - differences[i + 1])
        size, time = (
            2 ** (math.log2(values[i]) + share * (math.log2(values[i + 1]) - math.log2(values[i])))
            for values in (sizes, cpu)
        )
        found.append((size, time, i))
    return found


def curves_of(run: Run) -> dict[str, dict[str, list[Record]]]:
    """Return the curves to draw, ascending in size: eager, and the fastest strategy at each size, by device."""
    timed = [record for record in run.steps() if record.strategy in STRATEGIES and record.flops > 0]
    curves: dict[str, dict[str, list[Record]]] = {"eager": {}, "fastest strategy": {}}
    for device in DEVICES:
        here = [record for record in timed if record.device == device]
        fastest: dict[Scale, Record] = {}
        for record in sorted(here, key=lambda record: -record.median):
            fastest[record.scale] = record
        eager = [record for record in here if record.strategy == "eager"]
        for name, records in (("eager", eager), ("fastest strategy", [*fastest.values()])):
            if records:
                curves[name][device] = sorted(records, key=lambda record: record.flops)
    if curves["eager"] == curves["fastest strategy"]:
        del curves["fastest strategy"]
    return curves


def missing_devices(curves: dict[str, dict[str, list[Record]]]) -> list[str]:
    """Name the devices that have no curve."""
    return [name for device, name in DEVICES.items() if not any(device in each for each in curves.values())]


def timed_on_both(curves: dict[str, list[Record]]) -> list[tuple[Record, Record]]:
    """Pair the records of the CPU's curve with those of CUDA's at the same scale."""
    cuda = {record.scale: record for record in curves.get("cuda", [])}
    return [(record, cuda[record.scale]) for record in curves.get("cpu", []) if record.scale in cuda]


def crossings_of(pairs: Sequence[tuple[Record, Record]]) -> list[tuple[float, float, int]]:
    """Find the crossovers of two curves, given as pairs of records of the same scale."""
    sizes = [cpu.flops for cpu, _ in pairs]
    return crossovers(sizes, [cpu.median for cpu, _ in pairs], [cuda.median for _, cuda in pairs])


def verdicts(run: Run) -> list[str]:
    """Return, for each curve, lines that say at which sizes each device is faster."""
    curves = curves_of(run)
    if missing := missing_devices(curves):
        return [
            f"{run.label}: there is no step of SimpleNet on {' or '.join(missing)} in this file, so nothing crosses."
        ]
    lines = []
    for name, each in curves.items():
        pairs = timed_on_both(each)
        crossings = crossings_of(pairs)
        for size, _, i in crossings:
            winner = "CUDA" if pairs[i][0].median < pairs[i][1].median else "CPU"
            between = " and ".join(scale_name(pairs[j][0].scale) for j in (i, i + 1))
            lines.append(f"{run.label}, {name}: {winner} is faster from {si(size, 'FLOP')} a step, between {between}.")
        if not pairs:
            lines.append(f"{run.label}, {name}: no size was timed on both CPU and CUDA.")
        if crossings or not pairs:
            continue
        # Without a crossover, at most one of the two is faster at any size.
        for device, wins in (
            ("CPU", sum(cpu.median < cuda.median for cpu, cuda in pairs)),
            ("CUDA", sum(cuda.median < cpu.median for cpu, cuda in pairs)),
        ):
            if wins:
                lines.append(f"{run.label}, {name}: {device} is faster at {wins} of {len(pairs)} sizes timed on both.")
        overlaps = sum(max(a.quartiles[0], b.quartiles[0]) <= min(a.quartiles[1], b.quartiles[1]) for a, b in pairs)
        if overlaps:
            lines.append(
                f"{run.label}, {name}: the quartiles overlap at {overlaps} of {len(pairs)} sizes timed on both."
            )
    return lines
