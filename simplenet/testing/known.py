"""Known defects of torch's own Adam, which other optimizers with the same code share.

A failure counts as one only if torch's own class fails the same check in the same way in the installed release.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from simplenet.testing.optimizers import SPELLINGS, Subject, differentiable
from simplenet.testing.oracle import Hyper
from simplenet.testing.report import Result, Status
from simplenet.testing.runner import Check, Recorder, run
from simplenet.testing.study import Study

_PLAIN, _FUSED = torch.optim.Adam, partial(torch.optim.Adam, fused=True)
_DIFFERENTIABLE = partial(differentiable, torch.optim.Adam, differentiable=True)


@dataclass(frozen=True)
class Defect:
    """A defect of torch.

    Attributes:
        check: The prefix of the names of the checks that show it.
        text: The defect, in a line.
        make: torch's implementation that has it.
    """

    check: str
    text: str
    make: Callable[..., Any] = _PLAIN


DEFECTS = (
    Defect("a zero gradient moves nothing, float16", "the default epsilon, 1e-8, is 0 in float16, and 0/0 is NaN"),
    Defect("a learning rate of zero moves nothing, float16", "an epsilon of 1e-8 is 0 in float16, and 0/0 is NaN"),
    Defect("the step count continues", "the count is a float32, which stops there"),
    Defect("the caller's group", "the defaults are filled in in place"),
    Defect("a tensor learning rate", "all groups hold the caller's tensor, and schedulers write to it"),
    Defect("a saved state survives", "state_dict returns the optimizer's own tensors"),
    Defect("two optimizers that load one state", "load_state_dict keeps the tensors that it gets"),
    Defect("a learning rate of zero", "the denominator is divided by the step size: 0/0", _DIFFERENTIABLE),
    Defect("a short step does not vanish", "the denominator over the step size passes 65504", _DIFFERENTIABLE),
    Defect(
        "every step is within its bound, bfloat16", "a scalar parameter fails an assertion of torch", _DIFFERENTIABLE
    ),
    Defect("memory layout", "the fused kernel assumes contiguous memory, or on CUDA refuses other layouts", _FUSED),
    Defect("each parameter moves independently", "the fused kernel has the same defect", _FUSED),
)


def _kind_of(detail: str) -> str:
    """Return the first part of a message without its numbers, which differ between optimizers."""
    return re.sub(r"\d+", "#", detail.partition(": ")[0])


def _torchs(make: Callable[..., Any], subject: Subject) -> Subject:
    """Return torch's implementation as one that takes what another takes, and has its fixed values of the rest."""
    every = Subject(make, takes=dict.fromkeys(SPELLINGS, ()))
    fixed = {n: v for n, v in every.options(Hyper(**subject.fixed)).items() if n not in subject.takes}

    def alike(parameters: Any, **options: Any) -> Any:
        return make(parameters, **fixed, **options)

    taken = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in subject.takes]
    vars(alike)["__signature__"] = inspect.Signature(taken)
    return Subject(alike, subject.fixed, name=every.name)


def recognized(result: Result, check: Check[Study], study: Study, time_limit: float) -> Result:
    """Turn a failure into a known defect if torch's own implementation fails in the same way."""
    if result.status is not Status.FAILS:
        return result
    for defect in DEFECTS:
        if not result.check.startswith(defect.check):
            continue
        # A defect of one of torch's flags counts only for torch's own classes: others do not share that code.
        if defect.make is not _PLAIN and not type(study.subject.sample).__module__.startswith("torch.optim"):
            continue
        own = Study(_torchs(defect.make, study.subject), dtypes=study.dtypes, device=study.device)
        if own.smoke:
            continue
        of_torch = run(check, own, Recorder(), time_limit)
        if of_torch.status is Status.FAILS and _kind_of(of_torch.detail) == _kind_of(result.detail):
            text = f"{result.detail} [torch {torch.__version__} itself: {defect.text}]"
            return replace(result, status=Status.KNOWN, detail=text)
    return result
