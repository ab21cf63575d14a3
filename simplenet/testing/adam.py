"""The checks of an Adam's arithmetic: every step is within a counted bound of its variant's exact step."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from simplenet.testing.assertions import shown
from simplenet.testing.bounds import gamma, unit_roundoff
from simplenet.testing.optimizers import SubjectError
from simplenet.testing.oracle import Judgement, Run, judge
from simplenet.testing.runner import Check, NotApplicable
from simplenet.testing.study import Study, short, units

# More than the 256 at which bfloat16 stops counting by ones, and enough for small errors to add up.
LONG = 300

# The largest power of ten that scales gradients: at 10^±12 their squares stay in float32's range, 10^±38.
LARGEST_SCALE = 12


def takes_steps(study: Study) -> str | None:
    """The optimizer can be constructed, and takes two steps."""
    if study.smoke:
        raise study.smoke
    with suppress(SubjectError):  # weight_decay may have no default
        study.default_decay  # noqa: B018 - a cached property, for the report
    refused = [f"not {short(dtype)}" for dtype in study.refusals]
    return ", ".join(refused) or None


def is_a_published_variant(study: Study) -> str | None:
    """Its steps are those of a published variant of Adam, and of the required one."""
    found = study.found
    if not found.published:
        raise AssertionError(f"its steps are those of no variant of Adam; {found.nearest}")
    if departures := found.variant.departures(study.demanded):
        raise AssertionError("; ".join(departures))
    return "cannot be told apart: " + "; ".join(found.undecided) if found.undecided else None


def first_step_has_its_closed_form(study: Study, dtype: torch.dtype) -> None:
    """In the first step the bias corrections cancel the averages: it is lr g / (|g| + eps), or the variant's formula.

    Longest path: m 2 (constant, product), v 3 and half of them under the root 2, root 2, correction 2, eps 2,
    quotient 1, step size 2, product 1, weight 1: 15.
    """
    study.demand(dtype)
    variant = study.variant
    hyper = study.hyper(lr=2.0**-10)
    if study.own_decay:
        raise NotApplicable(f"it decays parameters by {study.own_decay:g} even without weight_decay")
    beta1, beta2, eps = hyper.beta1, hyper.beta2, hyper.eps
    rtol = gamma(15, dtype)
    if variant.scalars == "float32":  # 1 - beta then loses digits by cancellation; under the root, half of them count
        rtol += gamma(2, torch.float32) * (1 + beta1 / (1 - beta1) + beta2 / (1 - beta2) / 2)
    for scale in (1.0, 1e-3, 1e3, 1e-6, 1e6, 1e-12, 1e12):
        run = study.record(hyper, torch.zeros(3), scale * torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), dtype)
        g, actual = run.gradients[0], run.after[0]
        m, root = np.ones_like(g) * g, np.abs(g)
        m = m if variant.correction != "none" else (1 - beta1) * m
        root = root if variant.correction == "both" else math.sqrt(1 - beta2) * root
        denominator = {
            "outside": root + eps,
            "before the correction": root + eps / math.sqrt(1 - beta2),
            "inside the root": np.sqrt(root**2 + eps),
            "as a clamp": np.maximum(root, eps),
        }[variant.epsilon or "outside"]
        expected = -hyper.lr * m / denominator
        error = np.abs(actual - expected) / np.abs(expected)
        i = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        if not error[i] <= rtol:
            raise AssertionError(
                f"the first step from 0 leads to {shown(actual[i], dtype)}, but should lead to "
                f"{shown(expected[i], dtype)} with a relative error of at most {rtol:.2g}, and has one of "
                f"{error[i]:.2g} [{hyper}, gradient {g[i]:g}]"
            )


class Case(NamedTuple):
    """The settings of a run; cases are ordered from simple to complex, so that the first failure is the simplest."""

    wanted: dict[str, Any]
    start: float = 0.0
    scale: float = 1.0
    shape: tuple[int, ...] = (3,)
    steps: int = 4
    seed: int = 0


# The last two are longer than a vector register of 8 or 16 float32s: kernels have a vectorized body and a scalar tail.
_SHAPES = ((1,), (), (2, 2), (11,), (19,))

_LARGE = (64, 128)

# More than the 65,536 numbers of a kernel's chunk, and no multiple of a vector's length.
_LONG = (2**16 + 5,)


def cases(dtype: torch.dtype) -> Iterator[Case]:
    """List the cases, from the default hyper-parameters to random ones.

    float16 has no numbers between 0 and 6e-8, and none above 65504. In float16, beta2 is therefore small enough that
    (1 - beta2) g^2 does not underflow for g near 1, epsilon is not rounded to 0, and lr is large enough that its
    inverse times a root does not overflow.
    """
    small = dtype is torch.float16
    base: dict[str, Any] = {"lr": 2.0**-8} | ({"eps": 1e-3} if small else {})
    betas = [(0.9, 0.999), (0.5, 0.9), (0.0, 0.0), (0.9, 0.99), (0.0, 0.999), (0.99, 0.9), (0.999, 0.99999)]
    betas = betas[:5] if small else betas
    eps = [1e-3, 0.25] if small else [1e-3, 1e-15, 0.0, 0.25]
    rates = [2.0**-8, 1.0] if small else [2.0**-8, 1.0, 1e-5, 3e-4]
    powers = [0] if small else [0, -3, 3, -6, 6, -9, 9, -LARGEST_SCALE, LARGEST_SCALE]

    yield Case(base, shape=(1,), steps=1)
    yield Case(base)
    # 8-bit optimizers do not quantize smaller tensors, and kernels do not split smaller ones among threads.
    yield Case(base, shape=_LARGE, steps=3, seed=2)
    yield Case(base, shape=_LONG, steps=1, seed=4)
    for beta1, beta2 in betas:
        yield Case(base | {"beta1": beta1, "beta2": beta2})
    for one in eps:
        yield Case(base | {"eps": one})
    for lr in rates:
        yield Case(base | {"lr": lr})
    for power in powers:
        yield Case(base, scale=10.0**power)
    for shape in _SHAPES:
        yield Case(base, shape=shape)
    yield Case(base, start=1.0)
    for decay in (0.1, 0.5):
        yield Case(base | {"weight_decay": decay}, start=1.0)
    yield Case(base | {"amsgrad": True}, seed=3)
    yield Case(base | {"maximize": True})
    draw = np.random.default_rng(1996)
    for seed in range(1, 41):

        def pick(values: Any) -> Any:
            return values[int(draw.integers(len(values)))]

        beta1, beta2 = pick(betas)
        wanted = {"lr": pick(rates), "beta1": beta1, "beta2": beta2, "eps": pick([base.get("eps", 1e-8), *eps])}
        wanted |= {"weight_decay": pick([0.0, 0.1]), "amsgrad": pick([False, True]), "maximize": pick([False, True])}
        yield Case(wanted, pick([0.0, 1.0]), 10.0 ** pick(powers), pick(_SHAPES), 6, seed)


def runs(study: Study, dtype: torch.dtype) -> Iterator[Run]:
    """Record a run for each case; skip the hyper-parameters that its constructor refuses."""
    seen: set[tuple[Any, ...]] = set()
    for case in cases(dtype):
        hyper = study.hyper(**case.wanted)
        key = (hyper, *case[1:])
        if key in seen:
            continue
        if seen and not study.in_time():
            return
        seen.add(key)
        gradients = case.scale * units(case.steps, case.shape, case.seed)
        try:
            yield study.record(hyper, torch.full(case.shape, case.start), gradients, dtype)
        except SubjectError as error:
            # A constructor may refuse an epsilon of 0, or AMSGrad. Once constructed, the optimizer must take steps.
            if hyper == study.hyper(**study.gentle(dtype)) or not str(error).endswith("when it is constructed"):
                raise


def every_step_is_within_its_bound(study: Study, dtype: torch.dtype) -> str | None:
    """Over betas, eps, lr, decay, gradient scales and shapes; also measures the accuracy."""
    study.demand(dtype)
    recorded = list(runs(study, dtype))
    judgements, scalars, fine = _with_scalars(study, recorded)
    bounded = [np.isfinite(judgement.radius) for judgement in judgements]
    # From a parameter of 0, whose own rounding does not count.
    in_rates = [
        (judgement.error / judgement.run.hyper.lr)[where & (judgement.run.before[:1] == 0)].max(initial=0.0)
        for judgement, where in zip(judgements, bounded, strict=True)
        if judgement.run.hyper.lr
    ]
    study.errors[short(dtype)] = {
        "of lr": float(max(in_rates, default=0.0)),
        "of bound": _worst(judgements),
        "steps": float(sum(where.any(axis=1).sum() for where in bounded)),
        "unit roundoff": unit_roundoff(dtype),
        "with float32 corrections": float(scalars == "float32"),
        "of bound with float64 corrections": fine,
    }
    for judgement in judgements:
        if failure := judgement.first_failure():
            raise AssertionError(failure)
    if not any(where.any() for where in bounded):
        raise NotApplicable(f"in {short(dtype)}, the bound is infinite at the hyper-parameters that it takes")
    remarks = [f"the time limit allowed only {len(recorded)} runs"] if not study.in_time() else []
    if scalars == "float32":
        remarks.append(f"within the bound for bias corrections in float32, {fine:.3g} times that for float64")
    return "; ".join(remarks) or None


def _with_scalars(study: Study, recorded: list[Run]) -> tuple[list[Judgement], str, float]:
    """Judge the runs with bias corrections in float64 and, if they fail and may have been computed so, in float32.

    Returns:
        The judgements for the first type that fits, or for that of the variant that was found; that type; and the
        largest excess for the type that was tried first.
    """
    tried = {}
    for scalars in (study.demanded.scalars,) if study.demanded.scalars else ("float64", "float32"):
        tried[scalars] = judge(recorded, replace(study.variant, scalars=scalars))
        if _worst(tried[scalars]) <= 1:
            break
    else:
        scalars = study.variant.scalars or scalars
    return tried[scalars], scalars, _worst(next(iter(tried.values())))


def _worst(judgements: list[Judgement]) -> float:
    return max(judgement.worst for judgement in judgements)


def many_steps_stay_within_their_bounds(study: Study, dtype: torch.dtype) -> str | None:
    """Detects a step counter that stops, and small errors that add up."""
    study.demand(dtype)
    hyper = study.hyper(**study.gentle(dtype) | {"beta2": 0.999})
    run = study.record(hyper, torch.zeros(3), units(LONG, (3,), 5), dtype, label=f"{LONG} steps, ")
    ((judgement,), *_) = _with_scalars(study, [run])
    if failure := judgement.first_failure():
        raise AssertionError(failure)
    unbounded = np.flatnonzero(~np.isfinite(judgement.radius).all(axis=1))
    return f"the bound is infinite from step {unbounded[0] + 1} on" if len(unbounded) else None


def a_zero_gradient_moves_nothing(study: Study, dtype: torch.dtype) -> None:
    """0 / (0 + eps) is 0 in every type, at the default epsilon too."""
    study.demand(dtype)
    if study.own_decay and "weight_decay" not in study.subject.takes:
        raise NotApplicable(f"it decays parameters by {study.own_decay:g}, and has no weight_decay to turn that off")
    takes = "eps" in study.subject.takes
    for eps in [1e-8, 1e-3] if takes else [None]:
        options = {} if eps is None else {"eps": eps}
        driven = study.subject.build([study.parameter(torch.ones(3), dtype)], **options)
        for _ in range(3):
            driven.step(study.gradient(torch.zeros(3), dtype))
            after = f"a zero gradient at step {driven.steps}"
            _demand_unmoved(driven.values()[0], 1.0, after, f"eps {eps or 'fixed'}")


def _demand_unmoved(p: Tensor, start: float, after: str, setting: str) -> None:
    if not bool((p == start).all()):
        value = p.flatten()[int((p != start).flatten().int().argmax())].item()
        raise AssertionError(f"parameter is {value:g} after {after}, but should stay {start:g} [{setting}]")


def a_learning_rate_of_zero_moves_nothing(study: Study, dtype: torch.dtype) -> None:
    """A warm-up starts at lr 0; for a gradient of 1 and of 0."""
    study.demand(dtype)
    if "lr" not in study.subject.takes:
        raise NotApplicable("it takes no lr")
    eps = {"eps": study.smallest_eps(dtype)} if "eps" in study.subject.takes else {}
    for gradient in (1.0, 0.0):
        driven = study.subject.build([study.parameter(torch.ones(3), dtype)], lr=0.0, **eps)
        driven.step(study.gradient(torch.full((3,), gradient), dtype))
        _demand_unmoved(driven.values()[0], 1.0, f"a gradient of {gradient:g}", "lr 0")


def a_short_step_does_not_vanish(study: Study, dtype: torch.dtype) -> None:
    """The first step has the length lr; the gradient's square is within float16's 65504."""
    study.demand(dtype)
    hyper = study.hyper(lr=2.0**-12, eps=study.smallest_eps(dtype))
    run = study.record(hyper, torch.zeros(1), torch.full((1, 1), 200.0, dtype=torch.float64), dtype)
    (moved,) = run.after[0]
    if moved == 0:
        raise AssertionError(f"parameter is 0 after a gradient of 200, but should be {-hyper.lr:g} [{hyper}]")


PLAIN: tuple[Check[Study], ...] = (
    Check("it takes steps", takes_steps),
    Check("it is a published variant of Adam", is_a_published_variant),
)

# The checks that run in each type, and the types if not all.
BY_DTYPE = {
    "the first step has its closed form": (first_step_has_its_closed_form, (torch.float32, torch.float64)),
    "every step is within its bound": (every_step_is_within_its_bound, None),
    # In narrower types the bound of a long average is infinite, and a short average forgets early errors.
    f"{LONG} steps stay within their bounds": (many_steps_stay_within_their_bounds, (torch.float32, torch.float64)),
    "a zero gradient moves nothing": (a_zero_gradient_moves_nothing, None),
    "a learning rate of zero moves nothing": (a_learning_rate_of_zero_moves_nothing, None),
    "a short step does not vanish": (a_short_step_does_not_vanish, None),
}


def by_dtype(dtypes: tuple[torch.dtype, ...]) -> list[Check[Study]]:
    """List the checks that run in each type."""
    return [
        Check(f"{name}, {short(dtype)}", lambda study, check=function, d=dtype: check(study, d))  # type: ignore[misc]
        for name, (function, only) in BY_DTYPE.items()
        for dtype in dtypes
        if only is None or dtype in only
    ]
