"""Ball arithmetic: evaluate a formula together with a bound on the rounding error of any evaluation of it.

If the path from input to output is short and the same for all inputs, ``simplenet.testing.bounds.gamma`` bounds the
error. If it depends on the data, as it does under cancellation, an array of balls does: NumPy's operations on it, those
that ``simplenet.reference`` uses, propagate the error bound of each number.

A centre is the unevaluated sum of two float64 numbers, exact to about 30 digits, which suffices to judge float64. The
error of the centre itself is added to the radius, so a ball is never too small. Near float64's overflow and underflow
the radius is infinite: there is no bound.

References:
    M. Joldes, J.-M. Muller and V. Popescu, Tight and rigorous error bounds for basic building blocks of double-word
    arithmetic, ACM TOMS 44(2), 2017: Algorithms 6 (sum, 3u^2), 10 (product, 7u^2) and 17 (quotient, 15u^2).
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM, 2002: running error analysis (§3.3).
    V. Lefèvre, N. Louvet, J.-M. Muller, J. Picot and L. Rideau, Accurate calculation of Euclidean norms using
    double-word arithmetic, ACM TOMS 49(1), 2023: Algorithm 5 (root, 25/8 u^2).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy import ndarray
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

from simplenet.reference import Parameters
from simplenet.testing.bounds import (
    EXP_ROUNDINGS,
    SQRT_ROUNDINGS,
    TRITON_EXP_ROUNDINGS,
    TRITON_ROUNDINGS,
    smallest_subnormal,
    unit_roundoff,
)

if TYPE_CHECKING:
    from simplenet import SimpleNet  # imports Lightning, which takes seconds

Array = Float64[ndarray, "..."]

# A bound on the relative error of an operation on pairs: at most 15u^2, which is below 2^-102.
_OWN = 2.0**-98
# A bound on the absolute error if a product or its error is subnormal: a few halves of 2^-1074.
_TINY = 2.0**-1060
# A radius is computed with fewer than 30 roundings in float64; times this factor it is an upper bound.
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


def _exact(value: Fraction) -> Pair:
    high = float(value)
    return Pair(np.array(high), np.array(float(value - Fraction(high))))


# ln 2 to 200 bits, and the coefficients of e^x - 1 from x^9 down to x.
_LN2 = _exact(sum((Fraction(1, k * 2**k) for k in range(1, 200)), Fraction(0)))
_TAYLOR = [_exact(Fraction(1, math.factorial(k))) for k in range(9, 0, -1)]
# For larger |x|, e^x is 0 or infinite in float64.
_LARGEST = 800
# The argument is reduced to |r| < 2^-10, where the omitted terms of the series are below 2^-120.
_HALVINGS = 9
# A bound on the total error, most of which is that of k ln 2, for k up to 2^11.
_EXP_OWN = 2.0**-88


def _exp(a: Pair) -> Pair:
    """Compute e^a as 2^k (e^r)^512 from the series of e^r - 1; the squarings keep the 1 subtracted."""
    inside = np.abs(a.high) < _LARGEST
    a = Pair(np.clip(a.high, -_LARGEST, _LARGEST), np.where(inside, a.low, 0.0))
    k = np.rint(a.high / _LN2.high)
    r = _add(a, _multiply(Pair(-k, np.zeros_like(k)), _LN2))
    r = Pair(np.ldexp(r.high, -_HALVINGS), np.ldexp(r.low, -_HALVINGS))
    p = _multiply(r, reduce(lambda sum_, term: _add(_multiply(sum_, r), term), _TAYLOR))
    for _ in range(_HALVINGS):
        p = _add(_add(p, p), _multiply(p, p))
    e = _add(p, Pair(np.ones_like(k), np.zeros_like(k)))
    return Pair(*(np.ldexp(part, k.astype(int)) for part in e))


class Balls(NDArrayOperatorsMixin):
    """An array of numbers, each with a bound on its distance from the exact result and from any rounded one.

    An operation propagates its operands' errors and adds ``roundings`` roundings in the coarser of the operands' types.
    Arrays broadcast. Plain numbers are exact.

    Args:
        centre: The exact values; a root that may be 0 moves to the middle of its possible values.
        radius: The error bounds; infinite if there is no bound.
        dtype: The type that the values are computed in.
        roundings: Roundings of one operation, a count; more than 1 if an implementation may round constants first.
    """

    __slots__ = ("centre", "dtype", "radius", "roundings")

    EXP_GROWTH = 0  # roundings of an exponential for each unit of its argument
    OPERANDS = 0.0  # relative error of rounding an operand of a matrix product to a narrower type
    RESULTS: torch.dtype | None = None  # the narrower type that the result of each operation is rounded to

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
        """Return an upper bound of the absolute values of the results."""
        magnitude: Array = np.abs(self.centre.high) * _UP + self.radius
        return magnitude

    def distance(self, observed: Array) -> Array:
        """Return the distances of observed float64 numbers from the centres."""
        distance: Array = np.abs((observed - self.centre.high) - self.centre.low)
        return distance

    def excess(self, observed: Array) -> Array:
        """Return distance over radius for observed numbers: at most 1 inside a ball, 0 without a bound, never NaN."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = self.distance(observed) / self.radius
        ratio = np.where(np.isfinite(observed), ratio, np.inf)
        ratio = np.where(np.isnan(ratio), 0.0, ratio)  # 0/0: at the centre of a ball of radius 0
        return np.where(np.isinf(self.radius), 0.0, ratio)

    def rounded(self, centre: Pair, radius: Array, *, cost: int = 1, absolute: Array | float = 0.0) -> Self:
        """Return the results of an operation in this type, with the operation's roundings added to the radius."""
        ku = cost * self.roundings * unit_roundoff(self.dtype)
        own = cost * self.roundings * smallest_subnormal(self.dtype) / 2 + absolute + _TINY
        magnitude = np.abs(centre.high) * _UP + radius
        return self.like(centre, (radius + magnitude * (ku / (1 - ku) + _OWN) + own) * _UP).converted()

    def converted(self) -> Self:
        """Return the numbers rounded to the narrower type, if there is one."""
        if self.RESULTS is None:
            return self
        own = self.magnitude * unit_roundoff(self.RESULTS) + smallest_subnormal(self.RESULTS) / 2
        return self.like(self.centre, (self.radius + own) * _UP)

    def and_coarser(self, other: "Balls | Array | float") -> tuple["Balls", "Balls"]:
        """Return the other operand as balls, and whichever of the two has the coarser type."""
        if not isinstance(other, Balls):
            other = Balls(other, dtype=torch.float64, roundings=0)
        key = (unit_roundoff(self.dtype), self.roundings)
        return other, self if key >= (unit_roundoff(other.dtype), other.roundings) else other

    def like(self, centre: Pair, radius: Array) -> Self:
        """Return other numbers of the same type."""
        return type(self)(centre, radius, dtype=self.dtype, roundings=self.roundings)

    def __repr__(self) -> str:
        return f"Balls({self.centre.high}, ± {self.radius})"

    # --- the array interface ---

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return np.broadcast_shapes(self.centre.high.shape, self.radius.shape)

    @property
    def size(self) -> int:
        """The number of balls."""
        return math.prod(self.shape)

    @property
    def T(self) -> Self:  # noqa: N802 - NumPy's name
        """The transpose."""
        return self._rearranged(np.transpose)

    def _rearranged(self, rearrange: Callable[[Array], Array]) -> Self:
        high, low, radius = (rearrange(np.broadcast_to(part, self.shape)) for part in (*self.centre, self.radius))
        return self.like(Pair(high, low), radius)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Self:
        """Index like an array."""
        return self._rearranged(lambda part: part[index])

    def __iter__(self) -> Iterator[Self]:
        """Iterate over the first dimension."""
        parts = (np.broadcast_to(part, self.shape) for part in (*self.centre, self.radius))
        return (self.like(Pair(high, low), radius) for high, low, radius in zip(*parts, strict=True))

    def reshape(self, *shape: int) -> Self:
        """Return an array of another shape."""
        return self._rearranged(lambda part: part.reshape(*shape))

    def flatten(self) -> Self:
        """Return an array of one dimension."""
        return self.reshape(-1)

    def sum(self, axis: int | None = None) -> Self:
        """Sum in any order: no partial sum exceeds the sum of the magnitudes."""
        terms = self.flatten() if axis is None else self._rearranged(lambda part: np.moveaxis(part, axis, 0))
        count = len(terms)
        with np.errstate(all="ignore"):
            total = Pair(*(np.array(part) for part in terms.centre))
            while len(total.high) > 1:
                half = len(total.high) // 2
                added = _add(*(Pair(*(part[i * half :][:half] for part in total)) for i in range(2)))
                total = Pair(*(np.concatenate([a, part[2 * half :]]) for a, part in zip(added, total, strict=True)))
            magnitude = terms.magnitude.sum(axis=0)
            operations = max(count - 1, self.roundings)
            ku = operations * unit_roundoff(self.dtype)
            own = magnitude * ku / (1 - ku) + operations * smallest_subnormal(self.dtype) / 2
            # _UP covers the error of the centre, too: at most 3 count u^2 of the magnitude, for the radius is at least
            # (count - 1) u of it, where u is float64's.
            radius = (terms.radius.sum(axis=0) + own) * (_UP + count * 2.0**-52)
        centre = Pair(*(part.sum(axis=0) for part in total))  # of one row, or of none
        return self.like(centre, radius).converted()

    # --- NumPy's operations ---

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **_: Any) -> Any:
        """Evaluate an operation in ``_UFUNCS`` on balls and exact numbers."""
        if method != "__call__" or ufunc not in _UFUNCS:
            return NotImplemented
        return _UFUNCS[ufunc](*inputs)

    def __array_function__(
        self, function: Callable[..., Any], _types: Any, arguments: Sequence[Any], _keywords: Any
    ) -> Any:
        """Evaluate a function in ``_FUNCTIONS``."""
        return _FUNCTIONS[function](*arguments) if function in _FUNCTIONS else NotImplemented

    def sqrt(self) -> Self:
        """Compute the square root; if it may be 0, the centre is the middle of its possible values."""
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
            return self.rounded(centre, radius, cost=SQRT_ROUNDINGS, absolute=absolute)

    def exp(self) -> Self:
        """Compute the exponential; a subnormal result may be flushed to 0, or its inverse to infinity."""
        with np.errstate(all="ignore"):
            e = _exp(self.centre)
            # The exponential of the upper end is farther from the centre than that of the lower end.
            radius = e.high * np.expm1(self.radius)
            roundings = EXP_ROUNDINGS + self.EXP_GROWTH * np.minimum(self.magnitude, _LARGEST)
            relative = roundings * unit_roundoff(self.dtype) + _EXP_OWN
            own = (e.high * _UP + radius) * relative + torch.finfo(self.dtype).tiny
            return self.like(e, (radius + own) * _UP).converted()

    def maximum(self, other: "Balls | float") -> "Balls":
        """Return the larger of two numbers, without a rounding."""
        other, coarser = self.and_coarser(other)
        (a, a_low), (b, b_low) = self.centre, other.centre
        first = (a > b) | ((a == b) & (a_low >= b_low))
        centre = Pair(*(np.where(first, a, b) for a, b in zip(self.centre, other.centre, strict=True)))
        # The smaller number exceeds the larger one by its error less their distance, of which this is a lower bound.
        gap = np.abs((a - b) + (a_low - b_low)) / _UP - _OWN * np.abs(a)
        radius = np.maximum(self.radius - np.where(first, 0, gap), other.radius - np.where(first, gap, 0))
        return coarser.like(centre, radius)


class TritonBalls(Balls):
    """Balls in the arithmetic of code that torch compiles for CUDA, with at least ``TRITON_ROUNDINGS`` an operation."""

    __slots__ = ()

    EXP_GROWTH = TRITON_EXP_ROUNDINGS


class AutocastBalls(Balls):
    """Balls in the arithmetic of autocast to bfloat16: kernels compute in float32 and round what they return."""

    __slots__ = ()

    RESULTS = torch.bfloat16


class Tf32Balls(Balls):
    """Balls in the arithmetic of TF32: matrix products drop all but 10 bits of their operands' fractions."""

    __slots__ = ()

    OPERANDS = 2.0**-10


def _negated(a: Balls) -> Balls:
    return a.like(Pair(-a.centre.high, -a.centre.low), a.radius)


def _absolute(a: Balls) -> Balls:
    negative = a.centre.high < 0
    return a.like(Pair(*(np.where(negative, -part, part) for part in a.centre)), a.radius)


def _sum(a: Balls, b: Balls) -> Balls:
    b, coarser = a.and_coarser(b)
    with np.errstate(all="ignore"):
        return coarser.rounded(_add(a.centre, b.centre), a.radius + b.radius)


def _product(a: Balls, b: Balls) -> Balls:
    b, coarser = a.and_coarser(b)
    with np.errstate(all="ignore"):
        radius = a.magnitude * b.radius + np.abs(b.centre.high) * _UP * a.radius
        return coarser.rounded(_multiply(a.centre, b.centre), radius)


def _quotient(a: Balls, b: Balls) -> Balls:
    b, coarser = a.and_coarser(b)
    with np.errstate(all="ignore"):
        divisor = np.abs(b.centre.high) / _UP
        nearest = divisor - b.radius  # the divisor's possible value nearest to 0
        centre = _divide(a.centre, b.centre)
        radius = (np.abs(centre.high) * _UP * b.radius + a.radius) / nearest
        radius = np.where(nearest > 0, radius, np.inf)
        # The absolute error of a subnormal product, quotient times divisor, is divided by the divisor.
        return coarser.rounded(centre, radius, absolute=_TINY / np.where(divisor > 0, divisor, 1.0))


def _power(a: Balls, exponent: int) -> Balls:
    """Raise to a positive power, as one operation; computed by squaring, which at most doubles the error each time."""
    if exponent == 1:
        return a
    with np.errstate(all="ignore"):
        power, square, rest = None, a.centre, exponent
        while rest:
            if rest & 1:
                power = square if power is None else _multiply(power, square)
            rest >>= 1
            if rest:
                square = _multiply(square, square)
        assert power is not None, f"exponent is {exponent}, but should be positive"  # noqa: S101
        slope = exponent * (a.magnitude * (1 + 2.0**-50)) ** (exponent - 1)
        own = 2 * exponent * _OWN * np.abs(power.high)
        return a.rounded(power, a.radius * slope + own)


def _matrix_product(a: Balls, b: Balls) -> Balls:
    """Sum the products, a block of rows at a time, to limit the memory for the products."""
    if operands := max(a.OPERANDS, b.OPERANDS):
        a, b = (x.like(x.centre, (x.radius + x.magnitude * operands) * _UP) for x in (a, b))
    rows = max(1, _BLOCK // max(b.size, 1))
    blocks = [(a[i : i + rows, :, None] * b[None]).sum(axis=1) for i in range(0, max(len(a), 1), rows)]
    return joined(blocks)


def joined(parts: Iterable[Balls], join: Callable[..., Array] = np.concatenate) -> Balls:
    """Join arrays by a function of NumPy."""
    parts = list(parts)
    arrays = [(*part.centre, np.broadcast_to(part.radius, part.shape)) for part in parts]
    high, low, radius = (join(column) for column in zip(*arrays, strict=True))
    return parts[0].like(Pair(high, low), radius)


def _chosen(where: Bool[ndarray, "..."], a: Balls, b: Balls) -> Balls:
    b, coarser = a.and_coarser(b) if isinstance(a, Balls) else (b, b)
    a = _balls(a)
    centre = Pair(*(np.where(where, one, other) for one, other in zip(a.centre, b.centre, strict=True)))
    return coarser.like(centre, np.where(where, a.radius, b.radius))


def _balls(values: Balls | Array | float) -> Balls:
    """Return balls as they are, and exact numbers as balls."""
    return values if isinstance(values, Balls) else Balls(values, dtype=torch.float64, roundings=0)


# The number of products in a block of a matrix product.
_BLOCK = 2**18

_UFUNCS: dict[Any, Callable[..., Any]] = {
    np.add: lambda a, b: _sum(_balls(a), b),
    np.subtract: lambda a, b: _sum(_balls(a), _negated(_balls(b))),
    np.multiply: lambda a, b: _product(_balls(a), b),
    np.true_divide: lambda a, b: _quotient(_balls(a), b),
    np.power: _power,
    np.matmul: lambda a, b: _matrix_product(_balls(a), _balls(b)),
    np.negative: _negated,
    np.absolute: _absolute,
    np.sqrt: Balls.sqrt,
    np.exp: Balls.exp,
    np.maximum: lambda a, b: _balls(a).maximum(b),
    np.greater_equal: lambda a, b: _balls(a).centre.high >= b,  # compares the exact values, to choose between formulas
}
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: _chosen,
    np.concatenate: joined,
    np.ones_like: lambda a: np.ones(a.shape),
    np.zeros_like: lambda a: np.zeros(a.shape),
}


def balls(
    values: Tensor | Sequence[float] | float, *, dtype: torch.dtype, roundings: float = 1, kind: type[Balls] = Balls
) -> Balls:
    """Turn a tensor's values, which are exact, into balls of its shape that are computed with in ``dtype``."""
    exact: Any = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    return kind(exact, dtype=dtype, roundings=roundings)


def in_balls(net: "SimpleNet", *data: Tensor, kind: type[Balls] = Balls) -> tuple[Parameters, *tuple[Any, ...]]:
    """Turn a network's weights and its data into balls, as arguments for ``simplenet.reference``.

    Kernels compute the sum of ``k`` products and a bias in any order, fused or not, and no path through
    it is longer than 1 + k roundings.  A partial sum is at most the sum of the products' magnitudes,
    with the bias at most that plus the magnitude of the total.  So 1 + k roundings for every product and
    for the total are enough, where ``k`` is the length of the longest sum: over inputs, units or rows.
    Autocast rounds the weights first.
    """
    tensors = [*net.parameters(), *data]
    roundings = 1 + max(*tensors[0].shape, *(len(rows) for rows in data))
    if kind is TritonBalls:
        roundings = max(roundings, TRITON_ROUNDINGS)
    arrays: list[Any] = [balls(values, dtype=values.dtype, roundings=roundings, kind=kind) for values in tensors]
    return Parameters(*(array.converted() for array in arrays[:4])), *arrays[4:]
