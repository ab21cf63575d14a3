"""One step of Adam in each published variant, from parameters and gradients only.

The optimizer's state is never read. From a fresh state, both moments after t steps follow from the t gradients, so they
are computed in balls here. Before each step the parameter is set to the observed one ("teacher forcing"), so each step
has its own counted bound, and an error cannot hide in the chaotic growth of differences along a trajectory.

References:
    Kingma and Ba 2015: Algorithm 1, and the remark at the end of §2 (epsilon before the correction).
    Loshchilov and Hutter 2019: Algorithm 2 (decoupled weight decay).
    Reddi, Kale and Kumar 2018: Algorithm 2 (AMSGrad, whose maximum is not corrected for bias).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, product, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from simplenet.environment import TORCH
from simplenet.testing.assertions import shown
from simplenet.testing.balls import Balls, joined
from simplenet.testing.bounds import unit_roundoff

# Roundings of one operation of the formulas, at most: the operation itself, and a constant in it that is rounded to the
# tensor's type first.
ROUNDINGS = 2


def fused_rounds_scalars(device: torch.device) -> bool:
    """Whether torch's fused Adam rounds its hyper-parameters to the type that it computes in, float32 or wider.

    It does on CUDA from torch 2.11 on, as documented: with beta2 = 0.999 the first second moment then has an error of
    1.3e-5. It is compared with Algorithm 1 with scalars of that type.

    References:
        PyTorch, pull request 173224.
    """
    return device.type == "cuda" and TORCH >= (2, 11)


@dataclass(frozen=True)
class Hyper:
    """The hyper-parameters of a step."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False

    def __str__(self) -> str:
        """List the learning rate and the values that differ from the defaults."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        defaults = {f.name: f.default for f in fields(self)}
        betas = f"betas ({self.beta1:g}, {self.beta2:g})"
        shown = [f"lr {self.lr:g}"]
        shown += [betas] if (self.beta1, self.beta2) != (defaults["beta1"], defaults["beta2"]) else []
        for name in ("eps", "weight_decay", "amsgrad", "maximize"):
            if named[name] != defaults[name]:
                shown.append(name if named[name] is True else f"{name} {named[name]:g}")
        return ", ".join(shown)


# The values of each axis of a variant. The first is torch's.
EPSILON = {
    "outside": "m / (sqrt(v) + eps), both corrected: Algorithm 1",
    "before the correction": "eps is added to the root before that is corrected: the remark at the end of §2",
    "inside the root": "m / sqrt(v + eps), both corrected",
    "as a clamp": "m / max(sqrt(v), eps), both corrected",
}
CORRECTION = {"both": "both moments", "first only": "the first moment only", "none": "neither moment"}
DECAY = {
    "decoupled, times lr": "p - lr wd p before the step: AdamW of torch",
    "L2": "g + wd p",
    "decoupled, times lr, after the step": "p - lr wd p after the step",
    "decoupled, not times lr": "p - wd p before the step",
    "decoupled, not times lr, after the step": "p - wd p after the step",
    "none": "weight_decay has no effect",
}
AMSGRAD = {
    "corrected maximum": "the largest v, then corrected: torch",
    "maximum of the corrected": "the largest corrected v",
    "raw maximum": "the largest v, not corrected: Reddi et al. 2018",
    "none": "amsgrad has no effect",
}


@dataclass(frozen=True)
class Variant:
    """A variant of Adam; an axis that is ``None`` is undetermined.

    Attributes:
        epsilon: Where epsilon is added, a key of ``EPSILON``.
        correction: Which moments are corrected for bias, a key of ``CORRECTION``.
        decay: The kind of weight decay, a key of ``DECAY``.
        amsgrad: The maximum that AMSGrad uses, a key of ``AMSGRAD``.
        scalars: The type in which bias corrections are computed, ``float64`` or ``float32``.
    """

    epsilon: str | None = None
    correction: str | None = None
    decay: str | None = None
    amsgrad: str | None = None
    scalars: str | None = None

    def __post_init__(self) -> None:
        axes = {"epsilon": EPSILON, "correction": CORRECTION, "decay": DECAY, "amsgrad": AMSGRAD}
        for name, values in {**axes, "scalars": ("float64", "float32")}.items():
            if getattr(self, name) not in (None, *values):
                known = ", ".join(map(repr, values))  # some have commas
                raise ValueError(f"{name} is {getattr(self, name)!r}, but should be one of {known}")

    def __str__(self) -> str:
        parts = {
            "epsilon": self.epsilon,
            "bias correction of": self.correction and CORRECTION[self.correction],
            "weight decay": self.decay,
            "AMSGrad by": self.amsgrad,
            "corrections in": self.scalars,
        }
        return "; ".join(f"{name} {value}" for name, value in parts.items() if value) or "any"

    def departures(self, demanded: "Variant") -> list[str]:
        """List the axes on which this variant differs from another; undetermined axes are skipped."""
        names = [f.name for f in fields(self)]
        pairs = {name: (getattr(self, name), getattr(demanded, name)) for name in names}
        return [
            f"{name} is {have!r}, but should be {want!r}"
            for name, (have, want) in pairs.items()
            if have is not None and want is not None and have != want
        ]


NAMED = {
    "algorithm 1": Variant("outside", "both"),
    "remark of section 2": Variant("before the correction", "both"),
    "adam": Variant("outside", "both", "L2"),
    "adamw": Variant("outside", "both", "decoupled, times lr"),
}


def resolve_variant(variant: "str | Variant | None") -> Variant:
    """Find a variant by name; ``None`` gives one whose axes are all undetermined.

    Raises:
        ValueError: If there is no such variant.
    """
    if variant is None:
        return Variant()
    if isinstance(variant, Variant):
        return variant
    if variant.lower() not in NAMED:
        raise ValueError(f"variant is {variant!r}, but should be one of {', '.join(NAMED)}, or a Variant")
    return NAMED[variant.lower()]


@dataclass(frozen=True)
class Run:
    """The observations of a run: the parameter before and after each step, and the gradients, in float64.

    Attributes:
        hyper: The hyper-parameters.
        dtype: The parameter's dtype.
        before: The parameter before each step.
        gradients: The gradient of each step.
        after: The parameter after each step.
        label: The name of the run in messages.
        rates: The learning rate of each step, if it changes.
    """

    hyper: Hyper
    dtype: torch.dtype
    before: Float64[ndarray, "steps entries"]
    gradients: Float64[ndarray, "steps entries"]
    after: Float64[ndarray, "steps entries"]
    label: str = ""
    rates: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Judgement:
    """The steps of a run compared with those of a variant.

    Attributes:
        run: The run.
        excess: The error of each step over its bound; at most 1 within the bound.
        error: The distance of the observed parameter from the variant's.
        radius: The bound of the error; infinite if there is no bound.
        expected: The variant's parameter after each step.
    """

    run: Run
    excess: Float64[ndarray, "steps entries"]
    error: Float64[ndarray, "steps entries"]
    radius: Float64[ndarray, "steps entries"]
    expected: Float64[ndarray, "steps entries"]

    @property
    def worst(self) -> float:
        """The largest excess."""
        return float(self.excess.max(initial=0.0))

    def first_failure(self) -> str | None:
        """Describe the first step that leaves its bound."""
        outside = np.argwhere(self.excess > 1)
        if not len(outside):
            return None
        t, i = outside[0].tolist()
        run = self.run
        before, after, expected = (shown(x[t, i], run.dtype) for x in (run.before, run.after, self.expected))
        times = f"{self.excess[t, i]:.3g} times the bound" if np.isfinite(self.excess[t, i]) else "not finite"
        return (
            f"step {t + 1} leads from {before} to {after}, but should lead to "
            f"{expected} ± {self.radius[t, i]:.2g}: {times} "
            f"[{run.label}{run.hyper}, gradient {run.gradients[t, i]:.6g}, entry {i}]"
        )


def judge(runs: Sequence[Run], variant: Variant) -> list[Judgement]:
    """Compare each step of each run with a variant's.

    Args:
        runs: The runs; those of one length and size are computed at once.
        variant: The variant; an undetermined axis means torch's value, with corrections in float64.
    """
    return _judge(_batches(runs), variant)


def _batches(runs: Sequence[Run]) -> list[tuple[list[int], "_Batch"]]:
    """Group the runs that are computed at once, with their indices."""
    batches: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(runs):
        key = (run.dtype, run.gradients.shape, run.hyper.amsgrad, run.hyper.weight_decay != 0, run.hyper.maximize)
        batches.setdefault(key, []).append(i)
    return [(indices, _Batch([runs[i] for i in indices])) for indices in batches.values()]


def _judge(batches: Sequence[tuple[list[int], "_Batch"]], variant: Variant) -> list[Judgement]:
    judged: dict[int, Judgement] = {}
    for indices, batch in batches:
        judged |= zip(indices, batch.judge(variant), strict=True)
    return [judged[i] for i in range(len(judged))]


class _Moments(NamedTuple):
    """After each step, the numbers that depend only on the gradients: both moments, and 1 - beta^t for each beta."""

    first: Balls
    second: Balls
    correction1: Balls
    correction2: Balls


class _Batch:
    """Runs of one shape, computed at once: arrays of balls with one row for each step, and in it one for each run.

    Only the moments are computed step by step; they depend neither on the parameters, except with an L2 decay, nor on
    most axes of a variant.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs, self.hyper, self.dtype = runs, runs[0].hyper, runs[0].dtype
        self.before, self.gradients, self.after = (
            np.stack([getattr(run, name) for run in runs], axis=1) for name in ("before", "gradients", "after")
        )
        self.known: dict[tuple[str | None, bool], _Moments] = {}

    def judge(self, variant: Variant) -> list[Judgement]:
        """Compare the steps with a variant's."""
        balls = _Stepper(self, variant).steps()
        excess, error = balls.excess(self.after), balls.distance(self.after)
        radius, expected = (np.broadcast_to(part, self.after.shape) for part in (balls.radius, balls.centre.high))
        parts = zip(self.runs, *(np.moveaxis(part, 1, 0) for part in (excess, error, radius, expected)), strict=True)
        return [Judgement(*part) for part in parts]


class _Stepper:
    """The steps of a variant for some runs."""

    def __init__(self, batch: _Batch, variant: Variant) -> None:
        self.batch, self.hyper, self.dtype, self.variant = batch, batch.hyper, batch.dtype, variant
        # Python's scalars are float64 and exact; in a narrower type they are rounded first.
        self.scalar_dtype = torch.float32 if variant.scalars == "float32" else torch.float64
        self.u = unit_roundoff(self.scalar_dtype) if variant.scalars == "float32" else 0.0
        names = ("beta1", "beta2", "eps", "weight_decay")
        self.beta1, self.beta2, self.eps, self.decay = (
            self._scalar([[getattr(run.hyper, name)] for run in batch.runs]) for name in names
        )
        rates = [run.rates or (run.hyper.lr,) * len(run.after) for run in batch.runs]
        self.lr = self._scalar(np.array(rates).T[:, :, None])

    def _scalar(self, numbers: Any) -> Balls:
        values = np.array(numbers, np.float64)
        return Balls(values, np.abs(values) * self.u, dtype=self.scalar_dtype, roundings=ROUNDINGS)

    @staticmethod
    def _unrounded(balls: Balls, roundings: float) -> Balls:
        return Balls(balls.centre, balls.radius, dtype=balls.dtype, roundings=roundings)

    def _ball(self, values: Float64[ndarray, "steps runs entries"]) -> Balls:
        return Balls(values, dtype=self.dtype, roundings=ROUNDINGS)

    def _moments(self, theta: Balls) -> _Moments:
        """Compute the moments and the corrections."""
        l2 = self.hyper.weight_decay != 0 and self.variant.decay == "L2"
        key = (self.variant.scalars, l2)
        if key not in self.batch.known:
            g = self._ball(self.batch.gradients)
            g = -g if self.hyper.maximize else g
            g = g + self.decay * theta if l2 else g
            moments = self._average(self.beta1, g), self._average(self.beta2, g**2)
            self.batch.known[key] = _Moments(*moments, self._correction(self.beta1), self._correction(self.beta2))
        return self.batch.known[key]

    def _zero(self) -> Balls:
        return self._ball(np.zeros((len(self.batch.runs), 1)))

    def _average(self, beta: Balls, terms: Balls) -> Balls:
        """Return the exponential moving average after each step."""
        return _stacked(accumulate((1 - beta) * terms, lambda moment, new: beta * moment + new, initial=self._zero()))

    def _correction(self, beta: Balls) -> Balls:
        """Return 1 - beta^t for each step; the power is one operation, whose roundings are added after the loop."""
        one = Balls(1.0, dtype=self.scalar_dtype, roundings=0)
        bases = repeat(self._unrounded(beta, 0), len(self.batch.after))
        powers = _stacked(accumulate(bases, lambda power, base: power * base, initial=one))
        correction: Balls = 1 - self._unrounded(powers, ROUNDINGS) * 1.0
        return correction

    def _decayed(self, theta: Balls) -> Balls:
        timed = self.variant.decay in (None, "decoupled, times lr", "decoupled, times lr, after the step")
        decayed: Balls = theta * (1 - self.lr * self.decay) if timed else theta * (1 - self.decay)
        return decayed

    def steps(self) -> Balls:
        """Return the balls that contain the parameter after each step."""
        theta, decay = self._ball(self.batch.before), self.variant.decay
        moments = self._moments(theta)
        decoupled = self.hyper.weight_decay != 0 and decay not in ("none", "L2")
        after = decay is not None and decay.endswith("after the step")
        if decoupled and not after:
            theta = self._decayed(theta)
        moved = theta - self._length(moments)
        return self._decayed(moved) if decoupled and after else moved

    def _length(self, moments: _Moments) -> Balls:
        correction = self.variant.correction or "both"
        one = Balls(1.0, dtype=torch.float64, roundings=0)
        correction1 = one if correction == "none" else moments.correction1
        correction2 = one if correction != "both" else moments.correction2
        second = moments.second
        amsgrad = self.variant.amsgrad or "corrected maximum"
        if self.hyper.amsgrad and amsgrad != "none":
            corrected = second / correction2 if amsgrad == "maximum of the corrected" else second
            second = _stacked(accumulate(corrected, Balls.maximum, initial=self._zero()))
            if amsgrad != "corrected maximum":
                correction2 = one
        epsilon = self.variant.epsilon or "outside"
        if epsilon == "before the correction":
            denominator = (second.sqrt() + self.eps) / correction2.sqrt()
        elif epsilon == "inside the root":
            denominator = (second / correction2 + self.eps).sqrt()
        elif epsilon == "as a clamp":
            denominator = (second / correction2).sqrt().maximum(self.eps)
        else:
            denominator = (second / correction2).sqrt() + self.eps
        length: Balls = self.lr * (moments.first / correction1) / denominator
        return length


def _stacked(steps: Iterable[Balls]) -> Balls:
    """Stack the values after each step into one array, without the initial value."""
    return joined(list(steps)[1:], np.stack)


def candidates(**axes: Iterable[str | None]) -> list[Variant]:
    """List every combination of the given values of axes; the other axes stay undetermined.

    Epsilon can be added before the correction of the second moment only if there is such a correction.
    """
    found = [Variant(**dict(zip(axes, values, strict=True))) for values in product(*axes.values())]
    return [v for v in found if v.epsilon != "before the correction" or v.correction in (None, "both")]


@dataclass(frozen=True)
class Finding:
    """The variants that agree with the runs.

    Attributes:
        survivors: The variants that no run refutes.
        nearest: The variant that agrees with the most steps.
        excess: The largest excess of ``nearest``.
    """

    survivors: tuple[Variant, ...]
    nearest: Variant
    excess: float


def refute(runs: Sequence[Run], variants: Sequence[Variant]) -> Finding:
    """Refute the variants that disagree with a run; each is tried with corrections in float64, then in float32."""
    batches = _batches(runs)
    tried: list[tuple[Variant, np.ndarray]] = []
    for variant in variants:
        types = (variant.scalars,) if variant.scalars else ("float64", "float32")
        excesses: list[tuple[Variant, np.ndarray]] = []
        for type_ in types:
            one = replace(variant, scalars=type_)
            excesses.append((one, np.concatenate([judged.excess.ravel() for judged in _judge(batches, one)])))
            if excesses[-1][1].max() <= 1:
                tried.append(excesses[-1])
                break
        else:
            tried.append(excesses[0])
    # If one thing is broken, most steps are still right, so the number of wrong steps decides, not the largest excess.
    nearest, excess = min(tried, key=lambda one: (float((one[1] > 1).mean()), float(np.median(one[1]))))
    survivors = tuple(variant for variant, excess in tried if excess.max() <= 1)
    return Finding(survivors, nearest, float(excess.max()))
