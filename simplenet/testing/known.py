"""Defects of torch's own Adam that look-alikes share: they are reported as such.

A failure counts as one only if torch's own class fails the same check in the same way, in the torch at hand.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from simplenet.testing.optimizers import Subject
from simplenet.testing.report import Result, Status
from simplenet.testing.runner import Check, Recorder, run
from simplenet.testing.study import Study


def _differentiable(parameters: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    given = list(parameters)
    for group in given:
        for p in group["params"] if isinstance(group, dict) else [group]:
            p.requires_grad_(requires_grad=False)  # what is differentiated through may not be such a leaf
    return torch.optim.Adam(given, differentiable=True, **options)


_PLAIN, _FUSED = torch.optim.Adam, partial(torch.optim.Adam, fused=True)


@dataclass(frozen=True)
class Defect:
    """What is wrong in torch.

    Attributes:
        check: What the names of the checks that show it begin with.
        text: What is wrong, in a line.
        make: Torch's own implementation that shows it.
    """

    check: str
    text: str
    make: Callable[..., Any] = _PLAIN


DEFECTS = (
    Defect("a zero gradient moves nothing, float16", "the default epsilon, 1e-8, is 0 in float16, and 0/0 is NaN"),
    Defect("the step count goes on", "the count is a float32, which stops there"),
    Defect("the caller's group", "the defaults are filled in in place"),
    Defect("a tensor learning rate", "all groups hold the caller's tensor, and schedulers write to it"),
    Defect("a saved state survives", "state_dict returns the live tensors"),
    Defect("two that load one state", "load_state_dict keeps the tensors that it is given"),
    Defect("a learning rate of zero", "the denominator is divided by the step size: 0/0", _differentiable),
    Defect("a short step does not vanish", "the denominator over the step size passes 65504", _differentiable),
    Defect(
        "every step is within its bound, bfloat16",
        "a scalar parameter fails an assertion of torch",
        _differentiable,
    ),
    Defect("memory layout", "the fused kernel takes all memory to be contiguous, or on CUDA refuses it", _FUSED),
    Defect("each parameter goes its own way", "as torch's own fused kernel", _FUSED),
)


def _kind_of(detail: str) -> str:
    """Say what fails, without the numbers and names that differ between one optimizer and another."""
    return re.sub(r"\d+", "#", detail.partition(": ")[0])


def recognized(result: Result, check: Check[Study], study: Study, time_limit: float) -> Result:
    """Turn a failure into a known defect where torch's own implementation fails alike."""
    if result.status is not Status.FAILS:
        return result
    for defect in DEFECTS:
        if not result.check.startswith(defect.check):
            continue
        # What only a flag of torch's brings is no excuse for a look-alike, which has its own code.
        if defect.make is not _PLAIN and not type(study.subject.sample).__module__.startswith("torch.optim"):
            continue
        own = Study(Subject(defect.make), dtypes=study.dtypes, device=study.device)
        if own.smoke:
            continue
        of_torch = run(check, own, Recorder(), time_limit)
        if of_torch.status is Status.FAILS and _kind_of(of_torch.detail) == _kind_of(result.detail):
            text = f"{result.detail} [torch {torch.__version__} itself: {defect.text}]"
            return Result(result.check, Status.KNOWN, text, result.seconds, result.traceback)
    return result
