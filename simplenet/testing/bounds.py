"""Rounding-error bounds, so that every tolerance in the suite has a reason.

A tolerance here is never chosen; it is counted. Where the path from input to output is short and
the same for all inputs, the count is written down and ``gamma`` turns it into a bound. Where it
depends on the data, as it does under cancellation, ``Ball`` does the counting: it evaluates the
formula and carries along how wrong the rounded evaluation may be.

References:
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM, 2002:
    the model of arithmetic (2.4, 2.8), gamma_n (Lemma 3.1), running error analysis (§3.3).
    NVIDIA, PTX ISA: ex2, div; CUDA C++ Programming Guide, "Mathematical Functions".
"""

from collections.abc import Callable, Iterable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from simplenet.reference import Parameters

if TYPE_CHECKING:
    from simplenet import SimpleNet  # brings Lightning, which takes seconds

# An exponential errs by at most 2 ulps, each up to 2 unit roundoffs: CUDA documents that for expf and
# exp, SLEEF and the C libraries promise 1.  Over every float32 of magnitude up to 88, torch 2.0.1 and
# 2.13.0 on AVX2 err by at most 1.07 unit roundoffs in exp and 2.53 in sigmoid.
EXP_ROUNDINGS = 4


# What torch compiles for CUDA is Triton's, and in float32 less exact than torch's own kernels.  A quotient, its
# sigmoid's too, is div.full.f32, within 2 ulps, each up to 2 unit roundoffs.  An exponential is ex2.approx.f32 of
# x log2 e, within 2^-22, which is EXP_ROUNDINGS again; but the constant and the product are rounded first, and the
# power errs by what they err in the exponent, 2 unit roundoffs of it.
TRITON_ROUNDINGS = 4
TRITON_EXP_ROUNDINGS = 2  # for each unit of the exponent


# A root is not rounded correctly everywhere: vector libraries promise 1 ulp, up to 2 unit roundoffs.  Over every
# float32 from 1 to 4, torch 2.13.0 on AVX2 errs by up to 1.50.
SQRT_ROUNDINGS = 2


@cache
def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of one rounding, half the spacing of numbers near 1."""
    return torch.finfo(dtype).eps / 2


@cache
def smallest_subnormal(dtype: torch.dtype) -> float:
    """Return the spacing of numbers near 0; one rounding there errs by at most half of it."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def gamma(n: int, dtype: torch.dtype) -> float:
    """Bound the relative error left by ``n`` chained roundings.

    Args:
        n: Rounded operations on the longest path, a count.
        dtype: Floating-point type the operations run in.

    Returns:
        ``n u / (1 - n u)`` for unit roundoff ``u``, dimensionless.

    Raises:
        ValueError: If ``n u >= 1``, where the bound says nothing.

    References:
        Higham 2002, Lemma 3.1.
    """
    nu = n * unit_roundoff(dtype)
    if nu >= 1:
        raise ValueError(f"{n} roundings in {dtype} have n u = {nu:.3g}, but the bound needs n u < 1")
    return nu / (1 - nu)


# Decimals of 60 digits stand for real numbers: far beyond float64's 16, and far beyond its exponents.
_REALS = Context(prec=60, Emin=MIN_EMIN, Emax=MAX_EMAX)
_ZERO, _INFINITY = Decimal(0), Decimal("Infinity")


class Ball:
    """A number, and how far from it the result of a rounded evaluation, and of the exact one, may lie.

    Each operation adds to the radius what its operands' errors come to, and ``roundings`` roundings
    of its own in the coarser of the operands' types. Plain numbers are exact.

    Args:
        centre: The exact value; beneath a root, it may move to the middle of what the root can be.
        radius: The error so far; infinite where the bound says nothing.
        dtype: The type that the value is computed in.
        roundings: What one operation costs, a count; more than 1 where an implementation may round
            the constants in it first.
    """

    __slots__ = ("centre", "dtype", "radius", "roundings")

    EXP_GROWTH = 0  # roundings of an exponential for each unit of its exponent

    def __init__(
        self, centre: Decimal | float, radius: Decimal | float = _ZERO, *, dtype: torch.dtype, roundings: float = 1
    ) -> None:
        self.centre = Decimal(centre)
        self.radius = Decimal(radius)
        self.dtype = dtype
        self.roundings = roundings

    def __repr__(self) -> str:
        return f"{self.centre:.17g} ± {self.radius:.3g}"

    def _like(self, centre: Decimal, radius: Decimal) -> "Ball":
        return type(self)(centre, radius, dtype=self.dtype, roundings=self.roundings)

    def _rounded(self, centre: Decimal, radius: Decimal, cost: int = 1) -> "Ball":
        """Return the result of one operation in this ball's type, with its own roundings added."""
        relative, absolute = _one_operation(self.dtype, cost * self.roundings)
        own = _REALS.fma(_REALS.add(centre.copy_abs(), radius), relative, absolute)
        return self._like(centre, _REALS.add(radius, own))

    def _binary(self, other: object, operation: Callable[["Ball", "Ball"], tuple[Decimal, Decimal]]) -> "Ball":
        if isinstance(other, np.ndarray):
            return NotImplemented  # type: ignore[no-any-return]  # NumPy then goes element by element
        if not isinstance(other, Ball):
            # An exact number; the finest type, so that it does not coarsen the result.
            other = Ball(other, dtype=torch.float64)  # type: ignore[arg-type]
        coarser = max(self, other, key=lambda ball: unit_roundoff(ball.dtype))
        centre, radius = operation(self, other)
        return coarser._like(centre, radius) if radius == _INFINITY else coarser._rounded(centre, radius)  # noqa: SLF001

    def __neg__(self) -> "Ball":
        return self._like(self.centre.copy_negate(), self.radius)

    def __abs__(self) -> "Ball":
        return self._like(self.centre.copy_abs(), self.radius)

    def __add__(self, other: object) -> "Ball":
        return self._binary(other, _sum)

    __radd__ = __add__

    def __sub__(self, other: object) -> "Ball":
        return self._binary(other, _difference)

    def __rsub__(self, other: object) -> "Ball":
        return (-self)._binary(other, _sum)

    def __mul__(self, other: object) -> "Ball":
        return self._binary(other, _product)

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> "Ball":
        return self._binary(other, _quotient)

    def __rtruediv__(self, other: float) -> "Ball":
        return Ball(other, dtype=torch.float64)._binary(self, _quotient)

    def __pow__(self, exponent: int) -> "Ball":
        """Raise to a positive power, in one operation."""
        if exponent == 1 or self.radius == _INFINITY:
            return self
        power = _REALS.power(self.centre, exponent)
        farthest = _REALS.power(_REALS.add(self.centre.copy_abs(), self.radius), exponent)
        return self._rounded(power, _REALS.subtract(farthest, power.copy_abs()))

    def sqrt(self) -> "Ball":
        """Take the root; NumPy calls this for an array of balls."""
        if self.radius == _INFINITY:
            return self
        low, root, high = (
            _REALS.sqrt(max(_REALS.add(self.centre, offset), _ZERO))
            for offset in (self.radius.copy_negate(), _ZERO, self.radius)
        )
        if self.centre < self.radius:
            # From 0 to the upper end: a ball around the exact root would hold numbers that are no root.
            root = _REALS.divide(high, 2)
        return self._rounded(root, max(_REALS.subtract(root, low), _REALS.subtract(high, root)), SQRT_ROUNDINGS)

    def exp(self) -> "Ball":
        """Take the exponential; what is below the normal numbers may be flushed to zero, or its inverse to infinity."""
        e = _REALS.exp(self.centre)
        # The exponential of the upper end is the farther one.
        farthest = _REALS.exp(_REALS.add(self.centre, self.radius))
        largest = float(_REALS.add(self.centre.copy_abs(), self.radius))
        relative = Decimal((EXP_ROUNDINGS + self.EXP_GROWTH * largest) * unit_roundoff(self.dtype))
        own = _REALS.fma(farthest, relative, Decimal(torch.finfo(self.dtype).tiny))
        return self._like(e, _REALS.add(_REALS.subtract(farthest, e), own))

    def __ge__(self, other: float) -> bool:
        """Compare the exact value: for choosing between formulas of one function."""
        return self.centre >= Decimal(other)

    def maximum(self, other: "Ball") -> "Ball":
        """Return the larger of two; choosing rounds nothing."""
        return self._like(max(self.centre, other.centre), max(self.radius, other.radius))


class TritonBall(Ball):
    """A ball in the arithmetic of what torch compiles for CUDA, with ``TRITON_ROUNDINGS`` or more to an operation."""

    __slots__ = ()

    EXP_GROWTH = TRITON_EXP_ROUNDINGS


@cache
def _one_operation(dtype: torch.dtype, roundings: float) -> tuple[Decimal, Decimal]:
    """Return what an operation adds to a radius: a share of the magnitude, and a part of its own."""
    ku = roundings * unit_roundoff(dtype)
    return Decimal(ku / (1 - ku)), Decimal(roundings * smallest_subnormal(dtype) / 2)


def _sum(a: Ball, b: Ball) -> tuple[Decimal, Decimal]:
    return _REALS.add(a.centre, b.centre), _REALS.add(a.radius, b.radius)


def _difference(a: Ball, b: Ball) -> tuple[Decimal, Decimal]:
    return _REALS.subtract(a.centre, b.centre), _REALS.add(a.radius, b.radius)


def _product(a: Ball, b: Ball) -> tuple[Decimal, Decimal]:
    if _INFINITY in (a.radius, b.radius):
        return _ZERO, _INFINITY
    # (|a| + da)(|b| + db) - |a||b|
    radius = _REALS.fma(_REALS.add(a.centre.copy_abs(), a.radius), b.radius, _ZERO)
    radius = _REALS.fma(b.centre.copy_abs(), a.radius, radius)
    return _REALS.multiply(a.centre, b.centre), radius


def _quotient(a: Ball, b: Ball) -> tuple[Decimal, Decimal]:
    nearest = _REALS.subtract(b.centre.copy_abs(), b.radius)  # to zero, of the divisor
    if a.radius == _INFINITY or not nearest > 0:
        return _ZERO, _INFINITY
    quotient = _REALS.divide(a.centre, b.centre)
    return quotient, _REALS.divide(_REALS.fma(quotient.copy_abs(), b.radius, a.radius), nearest)


def balls(
    values: Tensor | Iterable[float], *, dtype: torch.dtype, roundings: float = 1, kind: type[Ball] = Ball
) -> np.ndarray:
    """Turn a tensor's exact values into an array of balls of its shape, to be computed on in ``dtype``."""
    if not isinstance(values, Tensor):
        values = torch.tensor(values, dtype=torch.float64)  # by default they would be rounded to float32
    flat = [kind(v, dtype=dtype, roundings=roundings) for v in values.detach().double().flatten().tolist()]
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(values.shape)


def in_balls(net: "SimpleNet", *data: Tensor, kind: type[Ball] = Ball) -> tuple[Parameters, *tuple[np.ndarray, ...]]:
    """Turn a network's weights and its data into balls, for ``simplenet.reference`` to compute on.

    Kernels take the sum of ``k`` products and a bias in any order, fused or not, and no path through
    it is longer than 1 + k roundings.  A partial sum is at most the sum of the products' magnitudes,
    with the bias at most that and the total's.  So it is covered by charging 1 + k roundings to every
    product and to the total, where ``k`` is the longest sum there is: over inputs, units or rows.
    """
    tensors = [*net.parameters(), *data]
    roundings = 1 + max(*tensors[0].shape, *(len(rows) for rows in data))
    if kind is TritonBall:
        roundings = max(roundings, TRITON_ROUNDINGS)
    arrays = [balls(values, dtype=values.dtype, roundings=roundings, kind=kind) for values in tensors]
    return Parameters(*arrays[:4]), *arrays[4:]
