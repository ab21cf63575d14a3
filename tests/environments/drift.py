"""Describe the drift of training runs from recorded ones, in a line or in a table."""

from simplenet.environment import describe
from tests.environments.golden import ADAMS, CPU, MARKS, STEPS, TRAJECTORIES, Drift, Golden


def kernels(environment: dict[str, str]) -> str:
    """Name the torch and the processor in a description of an environment."""
    return f"torch {environment['torch']}, {environment['device']}"


def by_implementation(drifts: list[Drift]) -> dict[str, list[Drift]]:
    """Group drifts by implementation, in the order of ``ADAMS``."""
    return {name: own for name in ADAMS if (own := [one for one in drifts if one.implementation == name])}


def earliest(drifts: list[Drift]) -> Drift:
    """Return the run that differs first; a run that never differs comes last."""
    return min(drifts, key=lambda one: STEPS + 1 if one.first is None else one.first)


def farthest(drifts: list[Drift]) -> list[int]:
    """Return the largest difference of a weight at each mark, in ulps."""
    return [max(counts) for counts in zip(*(one.weights for one in drifts), strict=True)]


def first_step(one: Drift) -> str:
    """Return the first differing step as text."""
    return f"none in {STEPS:,}" if one.first is None else f"{one.first:,}"


def line(golden: Golden, drifts: list[Drift]) -> str:
    """Describe in one line how runs have drifted from the recorded ones."""
    there, here = kernels(golden.environment), kernels(describe(CPU))
    start = f"drift from {there}: " if here == there else f"drift from {there} to {here}: "
    if all(one.first is None for one in drifts):
        return f"{start}none, {len(drifts)} runs of {STEPS:,} steps are the same in every bit"
    changed = sum(one.first == 0 for one in drifts)
    initial = f"initial weights differ in {changed} of {len(drifts)}" if changed else "initial weights identical"
    firsts: dict[str, list[str]] = {}
    for name, own in by_implementation(drifts).items():
        firsts.setdefault(first_step(earliest(own)), []).append(name)
    steps = ", ".join(f"{first} ({', '.join(names)})" for first, names in firsts.items())
    worst, t = max((ulps, t) for one in drifts for ulps, t in zip(one.weights, MARKS, strict=True))
    return f"{start}{initial}; first differing step {steps}; up to {worst:,} ulps, at {t:,}"


def table(golden: Golden, drifts: list[Drift]) -> list[str]:
    """Tabulate how runs have drifted, with a row for each implementation and architecture over all seeds."""
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
        lines.append(row.format(*key, first_step(earliest(own)), *(f"{n:,}" for n in farthest(own))))
    for name, implementation in ADAMS.items():
        if not implementation.runs_on(CPU):
            lines.append(f"{name}: not in this torch")
        elif not any(one.implementation == name for one in golden.runs):
            lines.append(f"{name}: not recorded")
    return lines
