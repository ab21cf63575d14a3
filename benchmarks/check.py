"""Check a training step against the formulas, on batches and widths for which exact arithmetic would take hours.

The bounds are those of ``simplenet.testing.bounds``: each operation adds its rounding error. But centres and radii are
arrays of float64, so ``simplenet.reference`` runs on whole batches at NumPy's speed. The rounding errors of float64 are
added too. Only float32 steps are checked.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

from simplenet import reference
from simplenet.testing import balls
from simplenet.testing.bounds import (
    EXP_ROUNDINGS,
    SQRT_ROUNDINGS,
    TRITON_EXP_ROUNDINGS,
    TRITON_ROUNDINGS,
    gamma,
    unit_roundoff,
)
from simplenet.testing.one_step import TrainingState
from simplenet.testing.oracle import ROUNDINGS

_TINY = torch.finfo(torch.float32).tiny  # smaller results may be flushed to zero


def _charge(count: int) -> float:
    """Bound the relative error of ``count`` roundings in float32, and of as many in float64."""
    return gamma(count, torch.float32) + gamma(count, torch.float64)


class Balls(NDArrayOperatorsMixin):
    """Float64 numbers, each with a bound on the error of its evaluation in float32."""

    ROUNDINGS, EXP_GROWTH = ROUNDINGS, 0  # per operation; per exponential and unit of its exponent
    OPERANDS, RESULTS = balls.Balls.OPERANDS, balls.Balls.RESULTS
    terms = 0  # the number of products that are summed, if this is a matrix product

    def __init__(self, centre: Any, radius: Any = 0.0) -> None:
        self.centre, self.radius = np.asarray(centre, np.float64), np.asarray(radius, np.float64)

    size = property(lambda self: self.centre.size)
    T = property(lambda self: type(self)(self.centre.T, np.broadcast_to(self.radius, self.centre.shape).T))

    @property
    def magnitude(self) -> np.ndarray:
        """Bound the absolute values."""
        return np.abs(self.centre) + self.radius

    def rounded(self, operations: int = 1) -> "Balls":
        """Add the rounding error of ``operations`` operations."""
        count = operations * self.ROUNDINGS
        return type(self)(self.centre, self.radius + _charge(count) * self.magnitude + _TINY).converted()

    def converted(self) -> "Balls":
        """Return the numbers rounded to the narrower type, if there is one."""
        if self.RESULTS is None:
            return self
        return type(self)(self.centre, self.radius + unit_roundoff(self.RESULTS) * self.magnitude)

    def sum(self, axis: int) -> "Balls":
        """Sum in any order."""
        own = _charge(self.centre.shape[axis]) * self.magnitude.sum(axis)
        radius = np.broadcast_to(self.radius, self.centre.shape).sum(axis)
        return type(self)(self.centre.sum(axis), radius + own).converted()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **_: Any) -> Any:
        """Evaluate one of the ufuncs that the reference uses."""
        return _OPERATIONS[ufunc](*(value if isinstance(value, Balls) else type(self)(value) for value in inputs))

    def __array_function__(self, function: Callable[..., Any], _types: Any, arguments: tuple[Any, ...], _: Any) -> Any:
        """Evaluate ``np.where`` or ``np.ones_like``, the functions that are not ufuncs."""
        if function is np.where:
            where, a, b = (value if isinstance(value, Balls) else type(self)(value) for value in arguments)
            centre, radius = (np.where(where.centre, *parts) for parts in ((a.centre, b.centre), (a.radius, b.radius)))
            return type(self)(centre, radius)
        return type(self)(function(arguments[0].centre))  # ones_like


class TritonBalls(Balls):
    """Balls with the larger errors of the code that torch compiles for CUDA."""

    ROUNDINGS, EXP_GROWTH = TRITON_ROUNDINGS, TRITON_EXP_ROUNDINGS


class AutocastBalls(Balls):
    """The same in the arithmetic of autocast to bfloat16."""

    RESULTS = balls.AutocastBalls.RESULTS


class Tf32Balls(Balls):
    """The same with matrix products in TF32."""

    OPERANDS = balls.Tf32Balls.OPERANDS


def _add(a: Balls, b: Balls) -> Balls:
    """Add; a kernel may begin a matrix product with the bias, which takes part in the rounding of each partial sum."""
    own = _charge(a.terms) * b.magnitude + _charge(b.terms) * a.magnitude
    return type(a)(a.centre + b.centre, a.radius + b.radius + own).rounded()


def _multiply(a: Balls, b: Balls) -> Balls:
    radius = a.magnitude * b.radius + np.abs(b.centre) * a.radius
    return type(a)(a.centre * b.centre, radius).rounded()


def _divide(a: Balls, b: Balls) -> Balls:
    nearest = np.abs(b.centre) - b.radius  # least absolute value of the divisor
    assert (nearest > 0).all(), "the divisor's rounding error is as large as the divisor, so the bound is infinite"
    quotient = a.centre / b.centre
    return type(a)(quotient, (np.abs(quotient) * b.radius + a.radius) / nearest).rounded()


def _matmul(a: Balls, b: Balls) -> Balls:
    if a.OPERANDS:
        a, b = (type(x)(x.centre, x.radius + x.OPERANDS * x.magnitude) for x in (a, b))
    magnitude = a.magnitude @ b.magnitude
    exact = np.abs(a.centre) @ np.abs(b.centre)
    own = _charge(a.centre.shape[-1] + 1) * magnitude
    product = type(a)(a.centre @ b.centre, np.maximum(magnitude - exact, 0) + own).converted()
    product.terms = a.centre.shape[-1]
    return product


def _power(a: Balls, exponent: Balls) -> Balls:
    power, farthest = a.centre**exponent.centre, a.magnitude**exponent.centre
    return type(a)(power, farthest - np.abs(power)).rounded()


def _exp(a: Balls) -> Balls:
    e, farthest = np.exp(a.centre), np.exp(a.centre + a.radius)
    own = _charge(EXP_ROUNDINGS) + a.EXP_GROWTH * _charge(1) * a.magnitude
    return type(a)(e, farthest - e + own * farthest + _TINY).converted()


def _sqrt(a: Balls) -> Balls:
    low, root, high = (np.sqrt(np.maximum(a.centre + sign * a.radius, 0)) for sign in (-1, 0, 1))
    return type(a)(root, np.maximum(root - low, high - root)).rounded(SQRT_ROUNDINGS)


_OPERATIONS: dict[Any, Callable[..., Any]] = {
    np.add: _add,
    np.subtract: lambda a, b: type(a)(a.centre - b.centre, a.radius + b.radius).rounded(),
    np.multiply: _multiply,
    np.divide: _divide,
    np.matmul: _matmul,
    np.power: _power,
    np.negative: lambda a: type(a)(-a.centre, a.radius),
    np.absolute: lambda a: type(a)(np.abs(a.centre), a.radius),
    np.greater_equal: lambda a, b: type(a)(a.centre >= b.centre),
    np.exp: _exp,
    np.sqrt: _sqrt,
}


def split(vector: Any, hidden: int) -> Any:
    """Split a vector of all parameters into the network's tensors."""
    if isinstance(vector, Balls):
        parts = zip(split(vector.centre, hidden), split(vector.radius, hidden), strict=True)
        make: Any = reference.Parameters
        return make(*(type(vector)(*part) for part in parts))
    w_in, b_in, w_out, b_out = np.split(vector, np.cumsum([2 * hidden, hidden, hidden]))
    return reference.Parameters(w_in.reshape(hidden, 2), b_in, w_out.reshape(1, hidden), b_out)


def check_step(
    x: Tensor,
    y: Tensor,
    before: TrainingState,
    after: TrainingState,
    *,
    lr: float = 0.01,
    float32_scalars: bool = False,
    share: float = 1.0,
    epsilon: Callable[[int], float] = lambda _: 1e-8,
    moments: bool = True,
    kind: type[Balls] = Balls,
) -> None:
    """Assert that a step of ``overview`` from ``before`` to ``after`` is exact to within its rounding error.

    Args:
        x: The batch's inputs.
        y: Its targets.
        before: State before the step.
        after: State after the step.
        lr: Learning rate.
        float32_scalars: Whether betas and their powers may be float32 too.
        share: The loss as a fraction of the mean squared error.
        epsilon: The number that Adam adds to the corrected root, as a function of the step count.
        moments: Whether to check the moments.
        kind: The arithmetic of the forward and the backward pass; ``TritonBalls`` is that of the optimizer too.

    Raises:
        AssertionError: If it is not.
    """
    optimizer = TritonBalls if kind is TritonBalls else Balls
    hidden = (len(before.p) - 1) // 4
    weights, m, v = (part.detach().cpu().double().numpy() for part in before[:3])
    rows, targets = (kind(part.detach().cpu().double().numpy()) for part in (x, y))
    p = kind(weights, np.zeros_like(weights)).converted()
    formulas: Any = reference  # typed for NumPy arrays; balls support the same operations
    gradients = formulas.gradients(split(p, hidden), rows.converted(), targets, "overview")
    g = optimizer(
        *(
            np.concatenate([np.ravel(getattr(part, name)) for part in gradients]) * share
            for name in ("centre", "radius")
        )
    )
    betas: tuple[Any, ...] = (0.9, 0.999)
    if float32_scalars:
        betas = tuple(optimizer(beta, beta * _charge(1)) for beta in betas)
    state = formulas.AdamState(optimizer(m), optimizer(v), before.t)
    expected, remembered = formulas.adam(optimizer(weights), g, state, lr, *betas, epsilon(before.t + 1))
    assert after.t == before.t + 1, f"step count is {after.t}, but should be {before.t + 1}"
    named = {"weights": (after.p, expected)}
    if moments:
        named |= {"m": (after.m, remembered.m), "v": (after.v, remembered.v)}
    for name, (actual, ball) in named.items():
        error = np.abs(actual.detach().cpu().double().numpy() - ball.centre)
        excess = error / ball.radius
        worst = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
        assert excess[worst] <= 1, (
            f"{name} after step {after.t}: error is {error[worst]:.3g}, but should be at most "
            f"{ball.radius[worst]:.3g} [entry {worst}: expected={ball.centre[worst]!r}]"
        )
