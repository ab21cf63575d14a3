"""Ball arithmetic on arrays: what ``simplenet.testing.bounds.Ball`` counts, thousands of numbers at a time.

A centre is the unevaluated sum of two float64 numbers, exact to some 30 digits: enough to judge float64 by. What even
that loses is charged to the radius, so a ball is never too small. No result is trusted where float64's exponents end:
the radius is infinite there, and the bound says nothing.

References:
    M. Joldes, J.-M. Muller and V. Popescu, Tight and rigorous error bounds for basic building blocks of double-word
    arithmetic, ACM TOMS 44(2), 2017: Algorithms 6 (sum, 3u^2), 10 (product, 7u^2) and 17 (quotient, 15u^2).
    V. Lefèvre, N. Louvet, J.-M. Muller, J. Picot and L. Rideau, Accurate calculation of Euclidean norms using
    double-word arithmetic, ACM TOMS 49(1), 2023: Algorithm 5 (root, 25/8 u^2).
"""

from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from simplenet.testing.bounds import SQRT_ROUNDINGS, smallest_subnormal, unit_roundoff

Array = Float64[ndarray, "..."]

# Relative error of an operation on pairs: 15u^2 at most, which is below 2^-102.
_OWN = 2.0**-98
# And absolute, where a product or its error falls below the normal numbers: a few halves of 2^-1074.
_TINY = 2.0**-1060
# A radius is computed by fewer than 30 roundings of float64; this factor makes an upper bound of it.
_UP = 1 + 2.0**-45
# Splits a float64 number into two of 26 bits.
_SPLITTER = 2.0**27 + 1


class Pair(NamedTuple):
    """An unevaluated sum of two float64 numbers, the second below half a unit in the last place of the first."""

    high: Array
    low: Array


def _two_sum(a: Array, b: Array) -> Pair:
    s = a + b
    t = s - a
    return Pair(s, (a - (s - t)) + (b - t))


def _fast_two_sum(a: Array, b: Array) -> Pair:
    s = a + b
    return Pair(s, b - (s - a))


def _split(a: Array) -> Pair:
    c = _SPLITTER * a
    high = c - (c - a)
    return Pair(high, a - high)


def _two_product(a: Array, b: Array) -> Pair:
    p = a * b
    x, y = _split(a), _split(b)
    return Pair(p, ((x.high * y.high - p) + x.high * y.low + x.low * y.high) + x.low * y.low)


def _add(a: Pair, b: Pair) -> Pair:
    s, t = _two_sum(a.high, b.high), _two_sum(a.low, b.low)
    v = _fast_two_sum(s.high, s.low + t.high)
    return _fast_two_sum(v.high, t.low + v.low)


def _multiply(a: Pair, b: Pair) -> Pair:
    c = _two_product(a.high, b.high)
    return _fast_two_sum(c.high, c.low + (a.high * b.low + a.low * b.high))


def _divide(a: Pair, b: Pair) -> Pair:
    q = a.high / b.high
    c = _two_product(b.high, q)
    t = _fast_two_sum(c.high, b.low * q)
    r = _fast_two_sum(t.high, t.low + c.low)  # b q
    return _fast_two_sum(q, ((a.high - r.high) + (a.low - r.low)) / b.high)


def _root(a: Pair) -> Pair:
    s = np.sqrt(a.high)
    c = _two_product(s, s)
    rest = a.low + ((a.high - c.high) - c.low)
    return _fast_two_sum(s, np.divide(rest, 2 * s, out=np.zeros_like(s), where=s != 0))


class Balls:
    """Numbers, and how far from each the result of a rounded evaluation, and of the exact one, may lie.

    The rules are those of ``Ball``: an operation adds what its operands' errors come to, and ``roundings`` roundings
    of its own in the coarser of the operands' types. Arrays broadcast. Plain numbers are exact.

    Args:
        centre: The exact values.
        radius: The errors so far.
        dtype: The type that the values are computed in.
        roundings: What one operation costs, a count.
    """

    __slots__ = ("centre", "dtype", "radius", "roundings")
    __array_ufunc__ = None  # an array on the left leaves the operation to us

    def __init__(
        self, centre: Array | float | Pair, radius: Array | float = 0.0, *, dtype: torch.dtype, roundings: float = 1
    ) -> None:
        if not isinstance(centre, Pair):
            high = np.asarray(centre, np.float64)
            centre = Pair(high, np.zeros_like(high))
        radius = np.asarray(radius, np.float64)
        sound = np.isfinite(centre.high) & np.isfinite(centre.low) & np.isfinite(radius)
        if not sound.all():
            centre = Pair(np.where(sound, centre.high, 0.0), np.where(sound, centre.low, 0.0))
            radius = np.where(sound, radius, np.inf)
        self.centre = centre
        self.radius = radius
        self.dtype = dtype
        self.roundings = roundings

    @property
    def magnitude(self) -> Array:
        """Bound how large the results may be."""
        magnitude: Array = np.abs(self.centre.high) * _UP + self.radius
        return magnitude

    def distance(self, observed: Array) -> Array:
        """Measure how far observed float64 numbers are from the centres."""
        distance: Array = np.abs((observed - self.centre.high) - self.centre.low)
        return distance

    def excess(self, observed: Array) -> Array:
        """Divide the distance of observed numbers by the radius: at most 1 within, NaN nowhere, 0 without a bound."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = self.distance(observed) / self.radius
        ratio = np.where(np.isfinite(observed), ratio, np.inf)
        ratio = np.where(np.isnan(ratio), 0.0, ratio)  # 0/0: exactly there
        return np.where(np.isinf(self.radius), 0.0, ratio)

    def _of(
        self, centre: Pair, radius: Array, coarser: "Balls", *, cost: int = 1, absolute: Array | float = 0.0
    ) -> Self:
        ku = cost * coarser.roundings * unit_roundoff(coarser.dtype)
        own = cost * coarser.roundings * smallest_subnormal(coarser.dtype) / 2 + absolute + _TINY
        magnitude = np.abs(centre.high) * _UP + radius
        radius = (radius + magnitude * (ku / (1 - ku) + _OWN) + own) * _UP
        return type(self)(centre, radius, dtype=coarser.dtype, roundings=coarser.roundings)

    def _with(self, other: "Balls | Array | float") -> tuple["Balls", "Balls"]:
        """Return the other operand as balls, and the one of the coarser type."""
        if not isinstance(other, Balls):
            other = Balls(other, dtype=torch.float64, roundings=0)
        key = (unit_roundoff(self.dtype), self.roundings)
        return other, self if key >= (unit_roundoff(other.dtype), other.roundings) else other

    def __neg__(self) -> Self:
        centre = Pair(-self.centre.high, -self.centre.low)
        return type(self)(centre, self.radius, dtype=self.dtype, roundings=self.roundings)

    def __add__(self, other: "Balls | Array | float") -> Self:
        other, coarser = self._with(other)
        with np.errstate(all="ignore"):
            return self._of(_add(self.centre, other.centre), self.radius + other.radius, coarser)

    __radd__ = __add__

    def __sub__(self, other: "Balls | Array | float") -> Self:
        return self + (-other)

    def __rsub__(self, other: Array | float) -> Self:
        return -self + other

    def __mul__(self, other: "Balls | Array | float") -> Self:
        other, coarser = self._with(other)
        with np.errstate(all="ignore"):
            radius = self.magnitude * other.radius + np.abs(other.centre.high) * _UP * self.radius
            return self._of(_multiply(self.centre, other.centre), radius, coarser)

    __rmul__ = __mul__

    def __truediv__(self, other: "Balls | Array | float") -> Self:
        other, coarser = self._with(other)
        with np.errstate(all="ignore"):
            divisor = np.abs(other.centre.high) / _UP
            nearest = divisor - other.radius  # to zero
            centre = _divide(self.centre, other.centre)
            radius = (np.abs(centre.high) * _UP * other.radius + self.radius) / nearest
            radius = np.where(nearest > 0, radius, np.inf)
            # What falls below the normal numbers in the quotient times the divisor is divided again.
            return self._of(centre, radius, coarser, absolute=_TINY / np.where(divisor > 0, divisor, 1.0))

    def __rtruediv__(self, other: Array | float) -> "Balls":
        return Balls(other, dtype=torch.float64, roundings=0) / self

    def __pow__(self, exponent: int) -> Self:
        """Raise to a positive power, in one operation; by squaring, whose own errors at most double each time."""
        with np.errstate(all="ignore"):
            power, square, rest = None, self.centre, exponent
            while rest:
                if rest & 1:
                    power = square if power is None else _multiply(power, square)
                rest >>= 1
                if rest:
                    square = _multiply(square, square)
            assert power is not None, f"exponent is {exponent}, but should be positive"  # noqa: S101
            slope = exponent * (self.magnitude * (1 + 2.0**-50)) ** (exponent - 1)
            own = 2 * exponent * _OWN * np.abs(power.high)
            return self._of(power, self.radius * slope + own, self) if exponent > 1 else self

    def sqrt(self) -> Self:
        """Take the root; where it may be 0, the centre moves to the middle of what the root can be."""
        with np.errstate(all="ignore"):
            low = np.maximum(self.centre.high / _UP - self.radius, 0.0)
            high = np.sqrt(self.magnitude) * _UP
            vanishes = self.centre.high < self.radius
            positive = Pair(np.maximum(self.centre.high, 0.0), np.where(self.centre.high > 0, self.centre.low, 0.0))
            root = _root(positive)
            # |sqrt(x) - sqrt(c)| = |x - c| / (sqrt(x) + sqrt(c))
            radius = np.where(vanishes, high / 2, self.radius / (root.high / _UP + np.sqrt(low)))
            radius = np.where(self.radius == 0, 0.0, radius)
            centre = Pair(np.where(vanishes, high / 2, root.high), np.where(vanishes, 0.0, root.low))
            absolute = _TINY / np.where(root.high > 0, root.high, 1.0)
            return self._of(centre, radius, self, cost=SQRT_ROUNDINGS, absolute=absolute)

    def maximum(self, other: "Balls | float") -> Self:
        """Return the larger of two; choosing rounds nothing."""
        other, coarser = self._with(other)
        (a, a_low), (b, b_low) = self.centre, other.centre
        first = (a > b) | ((a == b) & (a_low >= b_low))
        centre = Pair(*(np.where(first, a, b) for a, b in zip(self.centre, other.centre, strict=True)))
        radius = np.maximum(self.radius, other.radius)
        return type(self)(centre, radius, dtype=coarser.dtype, roundings=coarser.roundings)
