"""One step of Adam in each published variant, from parameters and gradients alone.

An optimizer shows parameters and takes gradients; nothing else is asked of it. From a fresh state, both moments after t
steps follow from the t gradients, so they are computed in balls beside it. Before each step the parameter is re-centred
on what was observed ("teacher-forced"), so each step has its own counted bound and errors cannot hide in a trajectory.

References:
    Kingma and Ba 2015: Algorithm 1, and the remark at the end of §2 (epsilon before the correction).
    Loshchilov and Hutter 2019: Algorithm 2 (decoupled weight decay).
    Reddi, Kale and Kumar 2018: Algorithm 2 (AMSGrad, whose maximum is not corrected for bias).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from simplenet.environment import TORCH
from simplenet.testing.balls import Balls
from simplenet.testing.bounds import unit_roundoff

# What an operation of the formulas costs an implementation at most: the operation itself, and a constant in it that
# is rounded to the tensor's type first.
ROUNDINGS = 2


def fused_rounds_scalars(device: torch.device) -> bool:
    """Whether torch's fused Adam rounds its hyper-parameters to the type that it computes in, float32 or wider.

    It does on CUDA from torch 2.11 on, and says so: of beta2 = 0.999 the first second moment is then 1.3e-5 off. What
    it is held to is Algorithm 1 with scalars of that type.

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
        """List what differs from the usual values, and the learning rate."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {f.name: f.default for f in fields(self)}
        betas = f"betas ({self.beta1:g}, {self.beta2:g})"
        shown = [f"lr {self.lr:g}"]
        shown += [betas] if (self.beta1, self.beta2) != (usual["beta1"], usual["beta2"]) else []
        for name in ("eps", "weight_decay", "amsgrad", "maximize"):
            if named[name] != usual[name]:
                shown.append(name if named[name] is True else f"{name} {named[name]:g}")
        return ", ".join(shown)


# Each axis of a variant, and what it can be. The first is torch's.
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
    """Which Adam it is; ``None`` where that is open.

    Attributes:
        epsilon: Where epsilon is added, a key of ``EPSILON``.
        correction: Which moments are corrected for bias, a key of ``CORRECTION``.
        decay: What weight decay does, a key of ``DECAY``.
        amsgrad: What AMSGrad takes the maximum of, a key of ``AMSGRAD``.
        scalars: The type that bias corrections are computed in, ``float64`` or ``float32``.
    """

    epsilon: str | None = None
    correction: str | None = None
    decay: str | None = None
    amsgrad: str | None = None
    scalars: str | None = None

    def __post_init__(self) -> None:
        known = {"epsilon": EPSILON, "correction": CORRECTION, "decay": DECAY, "amsgrad": AMSGRAD}
        for name, values in {**known, "scalars": ("float64", "float32")}.items():
            if getattr(self, name) not in (None, *values):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but should be one of {', '.join(values)}")

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
        """List where this one is known to differ from another."""
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
    """Find a variant by name; nothing demanded leaves all open.

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
    """What was observed: the parameter before and after each step, and the gradient of each, in float64.

    Attributes:
        hyper: The hyper-parameters.
        dtype: Of the parameter.
        before: The parameter before each step.
        gradients: What it was given.
        after: The parameter after each step.
        label: What to call it in a message.
        rates: The learning rate of each step, where it changes.
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
    """How far the steps of a run are from a variant's.

    Attributes:
        run: The run.
        excess: The distance of each step from the variant's, as a share of the bound; at most 1 within it.
        error: That distance.
        radius: The bound; infinite where it says nothing.
        expected: Where the step should have led.
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
        times = f"{self.excess[t, i]:.3g} times the bound" if np.isfinite(self.excess[t, i]) else "not finite"
        return (
            f"step {t + 1} leads from {run.before[t, i]:.9g} to {run.after[t, i]:.9g}, but should lead to "
            f"{self.expected[t, i]:.9g} ± {self.radius[t, i]:.2g}: {times} "
            f"[{run.label}{run.hyper}, gradient {run.gradients[t, i]:.6g}, entry {i}]"
        )


def judge(runs: Sequence[Run], variant: Variant) -> list[Judgement]:
    """Compare each step of each run with a variant's.

    Args:
        runs: The runs; those of one length and size are computed at once.
        variant: The variant; what is open in it is taken to be torch's, corrections in float64.
    """
    batches: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(runs):
        key = (run.dtype, run.gradients.shape, run.hyper.amsgrad, run.hyper.weight_decay != 0, run.hyper.maximize)
        batches.setdefault(key, []).append(i)
    judged: dict[int, Judgement] = {}
    for indices in batches.values():
        batch = [runs[i] for i in indices]
        judged |= zip(indices, _judge_alike(batch, variant), strict=True)
    return [judged[i] for i in range(len(runs))]


def _judge_alike(runs: Sequence[Run], variant: Variant) -> list[Judgement]:
    stepper = _Stepper([run.hyper for run in runs], runs[0].dtype, variant)
    before, gradients, after = (
        np.stack([getattr(run, name) for run in runs], axis=1) for name in ("before", "gradients", "after")
    )
    excess, error, radius, expected = (np.zeros_like(after) for _ in range(4))
    for t in range(len(after)):
        rates = [run.hyper.lr if run.rates is None else run.rates[t] for run in runs]
        balls = stepper.step(before[t], gradients[t], rates)
        shape = after[t].shape
        excess[t], error[t] = balls.excess(after[t]), balls.distance(after[t])
        radius[t], expected[t] = np.broadcast_to(balls.radius, shape), np.broadcast_to(balls.centre.high, shape)
    return [Judgement(run, excess[:, i], error[:, i], radius[:, i], expected[:, i]) for i, run in enumerate(runs)]


class _Stepper:
    """Adam beside an optimizer: what it remembers, in balls, a row a run."""

    def __init__(self, hypers: Sequence[Hyper], dtype: torch.dtype, variant: Variant) -> None:
        # Python's scalars are float64 and exact as given; in a narrower type they are rounded first.
        scalar_dtype = torch.float32 if variant.scalars == "float32" else torch.float64
        u = unit_roundoff(scalar_dtype) if variant.scalars == "float32" else 0.0

        def scalar(numbers: Iterable[float]) -> Balls:
            values = np.array([[number] for number in numbers], np.float64)
            return Balls(values, np.abs(values) * u, dtype=scalar_dtype, roundings=ROUNDINGS)

        self.scalar = scalar
        names = ("lr", "beta1", "beta2", "eps", "weight_decay")
        self.lr, self.beta1, self.beta2, self.eps, self.decay = (
            scalar(getattr(hyper, name) for hyper in hypers) for name in names
        )
        self.hyper, self.dtype, self.variant = hypers[0], dtype, variant
        self.m = self.v = self.largest = self._ball(np.zeros((len(hypers), 1)))
        # The powers of the betas, without roundings of their own: those are charged where they are used.
        self.base1, self.base2 = (self._unrounded(beta, 0) for beta in (self.beta1, self.beta2))
        self.power1 = self.power2 = Balls(1.0, dtype=scalar_dtype, roundings=0)

    @staticmethod
    def _unrounded(balls: Balls, roundings: float) -> Balls:
        return Balls(balls.centre, balls.radius, dtype=balls.dtype, roundings=roundings)

    def _corrections(self) -> list[Balls]:
        """Return 1 - beta^t for both; the power is one operation."""
        return [1 - self._unrounded(power, ROUNDINGS) * 1.0 for power in (self.power1, self.power2)]

    def _ball(self, values: Float64[ndarray, "runs entries"]) -> Balls:
        return Balls(values, dtype=self.dtype, roundings=ROUNDINGS)

    def _decayed(self, theta: Balls) -> Balls:
        timed = self.variant.decay in (None, "decoupled, times lr", "decoupled, times lr, after the step")
        decayed: Balls = theta * (1 - self.lr * self.decay) if timed else theta * (1 - self.decay)
        return decayed

    def step(
        self,
        before: Float64[ndarray, "runs entries"],
        gradient: Float64[ndarray, "runs entries"],
        rates: Sequence[float],
    ) -> Balls:
        """Take a step; return where it may lead."""
        self.lr = self.scalar(rates)
        self.power1, self.power2 = self.power1 * self.base1, self.power2 * self.base2
        theta, g, decay = self._ball(before), self._ball(gradient), self.variant.decay
        g = -g if self.hyper.maximize else g
        decays = self.hyper.weight_decay != 0 and decay != "none"
        if decays and decay == "L2":
            g = g + self.decay * theta
        decoupled = decays and decay != "L2"
        after = decay is not None and decay.endswith("after the step")
        if decoupled and not after:
            theta = self._decayed(theta)
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        moved = theta - self._length()
        return self._decayed(moved) if decoupled and after else moved

    def _length(self) -> Balls:
        correction = self.variant.correction or "both"
        one = Balls(1.0, dtype=torch.float64, roundings=0)
        corrected1, corrected2 = self._corrections()
        correction1 = one if correction == "none" else corrected1
        correction2 = one if correction != "both" else corrected2
        second = self.v
        amsgrad = self.variant.amsgrad or "corrected maximum"
        if self.hyper.amsgrad and amsgrad != "none":
            corrected = amsgrad == "maximum of the corrected"
            self.largest = self.largest.maximum(self.v / correction2 if corrected else self.v)
            second = self.largest
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
        length: Balls = self.lr * (self.m / correction1) / denominator
        return length


def candidates(**axes: Iterable[str | None]) -> list[Variant]:
    """List every variant with the given values, an axis each; the axes that are not given stay open.

    Epsilon can stand before a correction of the second moment only where there is one.
    """
    found = [Variant(**dict(zip(axes, values, strict=True))) for values in product(*axes.values())]
    return [v for v in found if v.epsilon != "before the correction" or v.correction in (None, "both")]


@dataclass(frozen=True)
class Finding:
    """What is left of the variants after the runs.

    Attributes:
        survivors: Those that no run refutes.
        nearest: The one that fits the most of the steps.
        excess: Its largest excess.
    """

    survivors: tuple[Variant, ...]
    nearest: Variant
    excess: float


def refute(runs: Sequence[Run], variants: Sequence[Variant]) -> Finding:
    """Refute the variants that a run does not agree with; each is given the coarser corrections where it needs them."""
    tried: list[tuple[Variant, np.ndarray]] = []
    for variant in variants:
        types = (variant.scalars,) if variant.scalars else ("float64", "float32")
        each = [replace(variant, scalars=type_) for type_ in types]
        excesses = [_excesses(runs, one) for one in each]
        fits = next((i for i, excess in enumerate(excesses) if excess.max(initial=0.0) <= 1), 0)
        tried.append((each[fits], excesses[fits]))
    # Most of the steps of what is broken in one place are right: the largest excess would say little.
    nearest, excess = min(tried, key=lambda one: (float((one[1] > 1).mean()), float(np.median(one[1]))))
    survivors = tuple(variant for variant, excess in tried if excess.max(initial=0.0) <= 1)
    return Finding(survivors, nearest, float(excess.max(initial=0.0)))


def _excesses(runs: Sequence[Run], variant: Variant) -> Float64[ndarray, " steps"]:
    return np.concatenate([judgement.excess.ravel() for judgement in judge(runs, variant)])
