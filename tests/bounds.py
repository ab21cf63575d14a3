"""Rounding-error bounds, so that every tolerance in the suite has a reason.

A tolerance here is never chosen; it is counted. Where the path from input to output is short and
the same for all inputs, the count is written down and ``gamma`` turns it into a bound. Where it
depends on the data, as it does under cancellation, ``Ball`` does the counting: it evaluates the
formula and carries along how wrong the rounded evaluation may be.

References:
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM, 2002:
    the model of arithmetic (2.4, 2.8), gamma_n (Lemma 3.1), running error analysis (§3.3).
"""

from collections.abc import Iterable
from fractions import Fraction

import mpmath
import numpy as np
import torch

# Exact operations are carried out to this many digits: far beyond float64's 16.
_DIGITS = 60


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of one rounding, half the spacing of numbers near 1."""
    return torch.finfo(dtype).eps / 2


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


class Ball:
    """A number, and how far from it the result of a rounded evaluation may lie.

    Each operation adds to the radius what its operands' errors come to, and ``roundings`` roundings
    of its own in the coarser of the operands' types. Plain numbers are exact.

    Args:
        centre: The exact value.
        radius: The error so far.
        dtype: The type that the value is computed in.
        roundings: What one operation costs, a count; more than 1 where an implementation may order
            its operations otherwise, or round the constants in them first.
    """

    __slots__ = ("centre", "dtype", "radius", "roundings")

    def __init__(self, centre: object, radius: object = 0, *, dtype: torch.dtype, roundings: int = 1) -> None:
        with mpmath.workdps(_DIGITS):
            self.centre = _exact(centre)
            self.radius = mpmath.mpf(radius)
        self.dtype = dtype
        self.roundings = roundings

    def __repr__(self) -> str:
        return f"{mpmath.nstr(self.centre, 17)} ± {mpmath.nstr(self.radius, 3)}"

    def _rounded(self, centre: object, radius: object, *others: "Ball") -> "Ball":
        """Return the result of one operation on ``self`` and ``others``, with its own roundings added."""
        coarsest = max((self, *others), key=lambda ball: unit_roundoff(ball.dtype))
        u, eta = unit_roundoff(coarsest.dtype), smallest_subnormal(coarsest.dtype)
        own = coarsest.roundings * ((abs(centre) + radius) * u / (1 - coarsest.roundings * u) + mpmath.mpf(eta) / 2)
        return Ball(centre, radius + own, dtype=coarsest.dtype, roundings=coarsest.roundings)

    def _binary(self, other: object, operation: str) -> "Ball":
        if isinstance(other, np.ndarray):
            return NotImplemented  # NumPy then goes element by element
        if not isinstance(other, Ball):
            # An exact number; the finest type, so that it does not coarsen the result.
            other = Ball(other, dtype=torch.float64)
        with mpmath.workdps(_DIGITS):
            a, b, da, db = self.centre, other.centre, self.radius, other.radius
            if operation == "add":
                return self._rounded(a + b, da + db, other)
            if operation == "mul":
                return self._rounded(a * b, abs(a) * db + abs(b) * da + da * db, other)
            if abs(b) <= db:
                return Ball(mpmath.nan, mpmath.inf, dtype=self.dtype, roundings=self.roundings)
            quotient = a / b
            return self._rounded(quotient, (da + abs(quotient) * db) / (abs(b) - db), other)

    def __neg__(self) -> "Ball":
        return Ball(-self.centre, self.radius, dtype=self.dtype, roundings=self.roundings)

    def __abs__(self) -> "Ball":
        return Ball(abs(self.centre), self.radius, dtype=self.dtype, roundings=self.roundings)

    def __add__(self, other: object) -> "Ball":
        return self._binary(other, "add")

    __radd__ = __add__

    def __sub__(self, other: object) -> "Ball":
        return NotImplemented if isinstance(other, np.ndarray) else self._binary(-other, "add")

    def __rsub__(self, other: object) -> "Ball":
        return (-self)._binary(other, "add")

    def __mul__(self, other: object) -> "Ball":
        return self._binary(other, "mul")

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> "Ball":
        return self._binary(other, "div")

    def __rtruediv__(self, other: object) -> "Ball":
        return Ball(other, dtype=torch.float64)._binary(self, "div")

    def __pow__(self, exponent: int) -> "Ball":
        """Raise an exact base; a square of an inexact one is a product."""
        if self.radius:
            if exponent != 2:
                raise ValueError(f"exponent of an inexact base is {exponent}, but should be 2")
            return self * self
        if exponent == 1:
            return self
        with mpmath.workdps(_DIGITS):
            return self._rounded(self.centre**exponent, mpmath.mpf(0))

    def sqrt(self) -> "Ball":
        """Take the root; NumPy calls this for an array of balls."""
        with mpmath.workdps(_DIGITS):
            root = mpmath.sqrt(self.centre)
            # The root of the lower end is the farther one.
            low = mpmath.sqrt(max(self.centre - self.radius, mpmath.mpf(0)))
            return self._rounded(root, root - low)

    def maximum(self, other: "Ball") -> "Ball":
        """Return the larger of two; choosing rounds nothing."""
        with mpmath.workdps(_DIGITS):
            larger = max(self.centre, other.centre)
            return Ball(larger, max(self.radius, other.radius), dtype=self.dtype, roundings=self.roundings)


def _exact(number: object) -> mpmath.mpf:
    if isinstance(number, Fraction):
        return mpmath.mpf(number.numerator) / number.denominator
    return mpmath.mpf(number)


def balls(values: torch.Tensor | Iterable[float], *, dtype: torch.dtype, roundings: int = 1) -> np.ndarray:
    """Turn a tensor's exact values into an array of balls of its shape, to be computed on in ``dtype``."""
    values = torch.as_tensor(values)
    flat = [Ball(v, dtype=dtype, roundings=roundings) for v in values.detach().double().flatten().tolist()]
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(values.shape)
