"""Check or time implementations in the environment in which they are installed; print JSON."""

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from simplenet.testing import check_adam
from simplenet.testing.importing import import_object
from simplenet.testing.optimizers import Subject
from simplenet.testing.oracle import judge
from simplenet.testing.runner import TIME_LIMIT
from simplenet.testing.study import Study, units
from tests.conformance import PUBLISHED, Row, adams
from tests.conformance.adapters import Native
from tests.conformance.faults import faults

# The parameters of the notebook's network, and one of a million.
SIZES: dict[str, list[tuple[int, ...]]] = {"17": [(4, 2), (4,), (1, 4), (1,)], "1000000": [(1_000_000,)]}
WARM, STEPS, SECONDS = 10, 1_000, 1.0
DECAYS = ("L2", "decoupled, times lr")


def timed(subject: Subject, shapes: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """Time steps one by one; return quartiles, in seconds."""
    tensors = [torch.ones(shape, requires_grad=True) for shape in shapes]
    optimizer = subject.build(tensors).optimizer
    gradients = [torch.ones_like(p) for p in tensors]
    step = optimizer.step
    if isinstance(optimizer, Native):  # without the conversions to and from its framework
        step = partial(optimizer.native_step, [optimizer.from_numpy(g.numpy()) for g in gradients])
    durations: list[float] = []
    while len(durations) < WARM + STEPS and sum(durations[WARM:]) < SECONDS:
        for p, g in zip(tensors, gradients, strict=True):
            p.grad = g  # some optimizers set it to None
        started = time.perf_counter()
        step()
        durations.append(time.perf_counter() - started)
    low, median, high = np.percentile(durations[WARM:], [25, 50, 75]).tolist()
    return {"median": median, "q1": low, "q3": high, "steps": len(durations) - WARM}


def quantized(study: Study) -> dict[str, float]:
    """Measure the first step of a low-bit optimizer, which rounds its state only after a step, and the later ones."""
    entries = (2**16,)
    hyper = study.hyper(lr=2.0**-8)
    run = study.record(hyper, torch.zeros(entries), units(10, entries, 6), torch.float32)
    (judgement,) = judge([run], study.variant)
    first, later = judgement.excess[0], judgement.error[1:]
    return {"first of bound": float(first.max()), "later of lr": float(later.max() / hyper.lr)}


def times(adam: Row) -> Row:
    """Time steps of each size."""
    subject = Subject(made(adam), fixed=adam.get("fixed", {}))
    subject.learn(lambda: [torch.zeros(3, requires_grad=True)])
    return {size: timed(subject, shapes) for size, shapes in SIZES.items() if adam.get("timed", True)}


def made(adam: Row) -> Any:
    """Import the constructor of an implementation."""
    return partial(import_object(adam["make"]), **adam.get("options", {}))


def baseline(adam: Row) -> Row:
    """Return the results of the checks that a fault must fail, before it is planted."""
    return checked(adam, [PUBLISHED, *faults()[adam["name"]].get("checks", ())])


def checked(adam: Row, only: Sequence[str] | None = None) -> Row:
    """Return the results of the checks, as values that JSON can represent."""
    make, fixed = made(adam), adam.get("fixed", {})
    report = check_adam(make, fixed=fixed, only=only, time_limit=adam.get("time_limit", TIME_LIMIT))
    report = json.loads(report.to_json())
    facts, variant = report["facts"], report["measured"].get("variant")
    usual = {"epsilon": ("outside",), "correction": ("both",), "amsgrad": ("corrected maximum",), "decay": DECAYS}
    study = Study(Subject(make, fixed=fixed))
    return {
        "variant": variant,
        "described": facts.get("variant"),
        "undecided": facts.get("cannot be told apart", ""),
        "departs": {k: variant[k] for k, v in usual.items() if variant and variant[k] not in (None, *v)},
        "takes": facts.get("takes", ""),
        "accuracy": report["measured"]["accuracy"],
        "quantized": quantized(study) if adam.get("kind") == "low-bit" and not study.smoke else None,
        "results": {one["check"]: [one["status"], one["detail"]] for one in report["results"]},
    }


def main() -> None:
    """Print the results for the named implementations, and the versions of their packages."""
    what, *names = sys.argv[1:]
    chosen = {name: adams()[name] for name in names}
    packages = {package: version(package) for package in chosen[names[0]]["environment"]["packages"]}
    found = {
        name: {"checks": checked, "baseline": baseline, "times": times}[what](adam) for name, adam in chosen.items()
    }
    print("\n" + json.dumps({"packages": packages, "found": found}))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
