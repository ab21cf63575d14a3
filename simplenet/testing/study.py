"""The state that the checks of one Adam share: how to drive it, which types it takes, and which variant it is."""

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplenet.testing.bounds import smallest_subnormal
from simplenet.testing.optimizers import Driven, Subject, SubjectError
from simplenet.testing.oracle import (
    AMSGRAD,
    CORRECTION,
    DECAY,
    EPSILON,
    Finding,
    Hyper,
    Run,
    Variant,
    candidates,
    refute,
    resolve_variant,
)
from simplenet.testing.report import Result
from simplenet.testing.runner import NotApplicable

# The types that torch computes in; float32 first, because most optimizers are made for it.
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Hyper-parameters for which the steps of all variants differ, in every type.
_MODERATE = {"lr": 2.0**-3, "beta1": 0.5, "beta2": 0.75, "eps": 0.25}

# Numbers with magnitudes in (1/8, 4) that every type represents exactly: gradients of one scale.
_UNITS = np.array([1.0, -0.75, 2.5, -3.5, 0.375, -1.5, 0.1875, 3.0, -0.5, 1.75, -2.0, 0.625])


def units(steps: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw gradients of one scale, in float64; the first entry of the first step is 1."""
    if seed == 0:
        flat = np.resize(_UNITS, steps * int(np.prod(shape)))
    else:
        flat = np.random.default_rng(seed).choice(_UNITS, size=steps * int(np.prod(shape)))
    return torch.from_numpy(flat.reshape(steps, *shape))


def short(dtype: torch.dtype) -> str:
    """Return a dtype's name without ``torch.``."""
    return str(dtype).removeprefix("torch.")


class Study:
    """An Adam under test.

    Args:
        subject: The subject, which makes optimizers.
        dtypes: The types that it must take; by default those of ``DTYPES`` that it does take.
        device: The device of its parameters.
        variant: The variant that it must be; by default any.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        dtypes: Sequence[torch.dtype] | None = None,
        device: torch.device | str = "cpu",
        variant: str | Variant | None = None,
    ) -> None:
        self.subject = subject
        self.dtypes = tuple(dtypes or DTYPES)
        self.asked = dtypes is not None
        self.device = torch.device(device)
        self.demanded = resolve_variant(variant)
        self.errors: dict[str, dict[str, float]] = {}
        self.first: Result | None = None  # of the check that all others depend on
        self.enough = float("inf")  # the time at which a check stops with the examples so far

    def parameter(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Make a parameter."""
        tensor = torch.as_tensor(values, dtype=torch.float64).to(device=self.device, dtype=dtype or self.dtype)
        return tensor.clone().requires_grad_()

    def gradient(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Make a gradient."""
        return self.parameter(values, dtype).detach()

    @cached_property
    def refusals(self) -> dict[torch.dtype, SubjectError]:
        """Take two steps in each type; return the exceptions by type."""
        refused: dict[torch.dtype, SubjectError] = {}
        learnt = False
        for dtype in self.dtypes:
            try:
                if not learnt:
                    self.subject.learn(lambda dtype=dtype: [self.parameter(torch.zeros(3), dtype)])  # type: ignore[misc]
                    learnt = True
                driven = self.subject.build([self.parameter(torch.zeros(3), dtype)])
                for _ in range(2):
                    driven.step(self.gradient([1.0, -2.0, 0.5], dtype))
            except SubjectError as error:
                refused[dtype] = error
        return refused

    @property
    def smoke(self) -> SubjectError | None:
        """The first exception, if it cannot take two steps in any type."""
        if len(self.refusals) < len(self.dtypes):
            return None
        return next(iter(self.refusals.values()))

    def demand(self, dtype: torch.dtype) -> None:
        """Require that it takes a type.

        Raises:
            NotApplicable: If it does not take the type, and the type was not requested.
            SubjectError: If it does not take a requested type.
        """
        if dtype in self.refusals:
            if self.asked:
                raise self.refusals[dtype]
            raise NotApplicable(f"it does not take {short(dtype)}: {self.refusals[dtype]}")

    def in_time(self) -> bool:
        """Whether there is time for another example: an optimizer that compiles itself takes seconds for each."""
        return time.monotonic() < self.enough

    @property
    def taken(self) -> list[torch.dtype]:
        """The types that it takes."""
        return [dtype for dtype in self.dtypes if dtype not in self.refusals]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type for checks that run in one type only."""
        return next(iter(self.taken), self.dtypes[0])

    def record(self, hyper: Hyper, start: Tensor, gradients: Tensor, dtype: torch.dtype, label: str = "") -> Run:
        """Take a step along each gradient; return the observations.

        Args:
            hyper: The hyper-parameters, which it must take.
            start: The initial parameter.
            gradients: The gradients, one for each step.
            dtype: The parameter's dtype.
            label: The name of the run.

        Raises:
            SubjectError: If it raises any exception.
        """
        driven = self.subject.build([self.parameter(start, dtype)], **self.subject.options(hyper))
        given = gradients.to(dtype)
        visited = driven.values()
        for g in given:
            driven.step(g.clone().to(self.device))
            visited += driven.values()
        path = torch.stack(visited).double().reshape(len(visited), -1).numpy()
        return Run(hyper, dtype, path[:-1], given.double().reshape(len(given), -1).numpy(), path[1:], label)

    @cached_property
    def own_decay(self) -> float:
        """The decoupled weight decay, times lr, that it applies with ``weight_decay=0`` or without that argument."""
        return self._decay_of_one(**({"weight_decay": 0.0} if "weight_decay" in self.subject.takes else {}))

    @cached_property
    def default_decay(self) -> float:
        """The weight decay that it applies if ``weight_decay`` is not passed."""
        if "weight_decay" not in self.subject.takes:
            return self.own_decay
        takes = self.subject.takes
        self.subject.takes = {name: spelling for name, spelling in takes.items() if name != "weight_decay"}
        try:
            return self._decay_of_one()
        finally:
            self.subject.takes = takes

    def _decay_of_one(self, **options: float) -> float:
        lr = 2.0**-3 if "lr" in self.subject.takes else self.subject.hyper().lr
        eps = {"eps": 1e-3} if self.dtype is torch.float16 else {}
        driven = self.subject.build([self.parameter([1.0])], lr=lr, **eps, **options)
        driven.step(self.gradient([0.0]))
        (p,) = driven.values()
        moved = 1 - p.double().item()
        return float(f"{moved / lr:.4g}") if 0 < moved < 1 else 0.0  # other checks are for NaN, and for other moves

    def hyper(self, **wanted: Any) -> Hyper:
        """Return its effective hyper-parameters, including its own weight decay."""
        hyper = self.subject.hyper(**wanted)
        if "weight_decay" in self.subject.takes or "weight_decay" in self.subject.fixed:
            return hyper
        return replace(hyper, weight_decay=self.own_decay)

    @cached_property
    def found(self) -> "Found":
        """Determine the variant, one axis after the other.

        Raises:
            SubjectError: If it raises any exception.
        """
        n = 6
        settings: list[tuple[dict[str, Any], float]] = [(_MODERATE, 1.0), (_MODERATE, 0.25)]
        if self.dtype is not torch.float16:
            settings.append(({"lr": 2.0**-7}, 2.0**-23))  # gradients of the order of epsilon, 1e-8
        runs = [
            self.record(self.hyper(**wanted), torch.zeros(n), size * units(5, (n,), i), self.dtype)
            for i, (wanted, size) in enumerate(settings)
        ]
        decays: list[str | None] = [None]
        if any(run.hyper.weight_decay for run in runs):
            decays = [name for name in DECAY if name != "none"]
        stages = [refute(runs, candidates(epsilon=EPSILON, correction=CORRECTION, decay=decays))]
        if "weight_decay" in self.subject.takes:
            # A decay by a third: the results differ widely between before and after the step, times lr and not.
            hyper = self.hyper(**_MODERATE | {"lr": 0.5}, weight_decay=0.75)
            run = self.record(hyper, torch.ones(n), units(4, (n,), 7), self.dtype)
            stages.append(refute([run], self._extended(stages[-1], "decay", DECAY)))
        if "amsgrad" in self.subject.takes:
            falling = units(5, (n,), 8) * torch.tensor([1.0, 1.0, 0.25, 0.125, 0.125])[:, None]
            hyper = self.hyper(**_MODERATE | {"eps": 2.0**-7}, amsgrad=True)
            run = self.record(hyper, torch.zeros(n), falling, self.dtype)
            stages.append(refute([run], self._extended(stages[-1], "amsgrad", AMSGRAD)))
        return Found(stages, self.demanded)

    def _extended(self, stage: Finding, axis: str, values: Iterable[str]) -> list[Variant]:
        """Extend the variants that are left by each value of another axis."""
        left = stage.survivors or (stage.nearest,)
        if axis == "amsgrad" and all(variant.correction != "both" for variant in left):
            values = ("raw maximum", "none")  # without a correction all maxima are equal
        return [replace(variant, **{axis: value}, scalars=None) for variant, value in itertools.product(left, values)]

    @property
    def variant(self) -> Variant:
        """The variant that its steps are compared with: the required axes, and for the others those found."""
        found = self.found.variant
        demanded = {n: v for n, v in vars(self.demanded).items() if v is not None}
        return replace(found, **demanded)

    def driven(self, *starts: Any, dtype: torch.dtype | None = None, **wanted: Any) -> Driven:
        """Make an optimizer for parameters with these initial values, with hyper-parameters that it takes."""
        options = self.subject.options(self.hyper(**self.gentle(dtype) | wanted))
        return self.subject.build([self.parameter(start, dtype) for start in starts], **options)

    def gentle(self, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """Return hyper-parameters at which nothing underflows or overflows in the type."""
        small = (dtype or self.dtype) is torch.float16
        return {"lr": 2.0**-6, "beta2": 0.99, "eps": 1e-3 if small else 1e-8}

    def smallest_eps(self, dtype: torch.dtype) -> float:
        """Return the smaller of 1e-8 and 1e-3 that does not round to 0 in a type."""
        return 1e-8 if smallest_subnormal(dtype) / 2 < 1e-8 else 1e-3  # noqa: PLR2004 - torch's default


class Found:
    """The variant of an Adam, as far as the runs determine it.

    Args:
        stages: The finding of each stage; later stages have more axes.
        demanded: The variant to prefer if several are left.
    """

    def __init__(self, stages: Sequence[Finding], demanded: Variant) -> None:
        self.stages = stages
        last = stages[-1]
        left = last.survivors or (last.nearest,)
        preferred = [variant for variant in left if not variant.departures(demanded)]
        self.left = left
        self.variant = (preferred or left)[0]
        # If a stage refutes all variants, it is not a published one.
        self.excess = max(stage.excess for stage in stages)
        self.published = all(stage.survivors for stage in stages)
        # The settings of later stages do not distinguish the types of the corrections; those of the first stage do.
        if any(v.scalars == "float32" for stage in stages for v in (stage.survivors or (stage.nearest,))[:1]):
            self.variant = replace(self.variant, scalars="float32")

    @property
    def nearest(self) -> str:
        """The nearest variant, for a message that its steps are those of none."""
        return f"the nearest, with {self.excess:.3g} times its bound, is {self.variant}"

    @property
    def undecided(self) -> list[str]:
        """The axes on which the variants that are left differ, with their values."""
        axes = ("epsilon", "correction", "decay", "amsgrad")
        values = {axis: sorted({str(getattr(variant, axis)) for variant in self.left}) for axis in axes}
        return [f"{axis}: {' or '.join(left)}" for axis, left in values.items() if len(left) > 1]
