"""Ball arithmetic on arrays: its centres against fractions, its radii against results of torch."""

import operator
from decimal import Context, Decimal
from fractions import Fraction
from functools import partial
from math import isqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplenet import SimpleNet, reference
from simplenet.testing.assertions import assert_in_balls, refuted
from simplenet.testing.balls import AutocastBalls, Balls, Pair, Tf32Balls, TritonBalls, balls, in_balls
from simplenet.testing.bounds import smallest_subnormal, unit_roundoff
from simplenet.testing.strategies import floats

# Numbers per example: operations on arrays are fast enough for many.
COUNT = 100
wide = floats(torch.float64, min_exponent=-200, max_exponent=200)


@st.composite
def arrays(draw, elements=wide):
    """Draw an array from a small pool of numbers, so that equal and adjacent numbers are combined."""
    pool = np.array(draw(st.lists(elements, min_size=4, max_size=12)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = pool[generator.integers(len(pool), size=COUNT)]
    return np.where((values == 0) | (generator.random(COUNT) < 0.5), values, np.nextafter(values, 1))


def pairs(high, generator):
    """Add low parts of up to half a unit in the last place."""
    low = (generator.random(high.shape) - 0.5) * np.spacing(np.abs(high)) * 0.99
    return Pair(high, low)


def fraction(pair, i):
    high, low = (np.asarray(part)[i].item() for part in pair)
    return Fraction(high) + Fraction(low)


def root_of(x):
    """Return a square root with an absolute error below 2**-399."""
    scaled = (x.numerator << 800) // x.denominator
    return Fraction(isqrt(scaled << 800), 1 << 800)


@pytest.mark.parametrize("operation", ["+", "-", "*", "/", "root", "**3"])
@given(a=arrays(), b=arrays(), seed=st.integers(0, 2**32))
def test_an_exact_operation_on_pairs_is_within_its_radius(operation, a, b, seed):
    """With ``roundings=0``, the radius bounds the error of the pair arithmetic itself."""
    generator = np.random.default_rng(seed)
    a, b = pairs(np.abs(a) if operation == "root" else a, generator), pairs(np.where(b == 0, 1.0, b), generator)
    if operation == "root":
        a = Pair(a.high, np.where(a.high > 0, a.low, 0))
    x, y = (Balls(pair, dtype=torch.float64, roundings=0) for pair in (a, b))

    ball = {
        "+": lambda: x + y,
        "-": lambda: x - y,
        "*": lambda: x * y,
        "/": lambda: x / y,
        "root": x.sqrt,
        "**3": lambda: x**3,
    }[operation]()

    for i in range(COUNT):
        p, q = fraction(a, i), fraction(b, i)
        exact = {
            "+": lambda p, q: p + q,
            "-": lambda p, q: p - q,
            "*": lambda p, q: p * q,
            "/": lambda p, q: p / q,
            "root": lambda p, _: root_of(p),
            "**3": lambda p, _: p**3,
        }[operation](p, q)
        error = abs(fraction(ball.centre, i) - exact)
        assert error <= Fraction(float(ball.radius[i])), (p, q)
        assert ball.radius[i] <= 2.0**-90 * abs(float(exact)) + 2.0**-80 * (abs(float(p)) + abs(float(q)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("operation", ["+", "-", "*", "/", "root", "exp"])
@given(data=st.data())
def test_a_rounded_operation_of_torch_is_in_its_ball(dtype, operation, data):
    elements = floats(dtype, min_exponent=-40, max_exponent=40)
    a, b = (torch.tensor(data.draw(arrays(elements)), dtype=dtype) for _ in "ab")
    a = {"root": a.abs(), "exp": a.clamp(-80, 80)}.get(operation, a)
    b = torch.where(b == 0, torch.ones_like(b), b)
    x, y = (Balls(values.double().numpy(), dtype=dtype) for values in (a, b))

    ball, actual = {
        "+": lambda: (x + y, a + b),
        "-": lambda: (x - y, a - b),
        "*": lambda: (x * y, a * b),
        "/": lambda: (x / y, a / b),
        "root": lambda: (x.sqrt(), a.sqrt()),
        "exp": lambda: (x.exp(), a.exp()),
    }[operation]()

    assert ball.excess(actual.double().numpy()).max() <= 1


@given(a=arrays(floats(torch.float64, min_exponent=-10, max_exponent=10)), seed=st.integers(0, 2**32))
def test_the_errors_of_the_operands_are_propagated_to_the_result(a, seed):
    """The result for any numbers in the operands' balls is in the result's ball; tested at the ends of the radii."""
    generator = np.random.default_rng(seed)
    b = a[::-1] + np.where(a[::-1] == 0, 1, 0)
    radii = [np.abs(values) * 2.0**-10 * generator.random(COUNT) for values in (a, b)]
    x, y = (
        Balls(values, radius, dtype=torch.float64, roundings=0) for values, radius in zip((a, b), radii, strict=True)
    )
    results = {
        "+": (x + y, Fraction.__add__),
        "*": (x * y, Fraction.__mul__),
        "/": (x / y, Fraction.__truediv__),
        "**5": (x**5, lambda p, _: p**5),
    }

    for name, (ball, exact) in results.items():
        for i in range(COUNT):
            for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                p = Fraction(float(a[i])) + s * Fraction(float(radii[0][i]))
                q = Fraction(float(b[i])) + t * Fraction(float(radii[1][i]))
                error = abs(exact(p, q) - fraction(ball.centre, i))
                assert error <= Fraction(float(ball.radius[i])), (name, a[i], b[i])


@given(a=arrays(floats(torch.float64, min_exponent=-10, max_exponent=10, signed=False)), part=st.floats(0, 2))
def test_the_root_of_a_ball_contains_the_roots_of_its_ends(a, part):
    radius = a * part
    ball = Balls(a, radius, dtype=torch.float64).sqrt()  # with one rounding, for np.sqrt below

    for end in (a + radius, np.maximum(a - radius, 0), a):
        assert ball.excess(np.sqrt(end)).max() <= 1


def test_there_is_no_bound_near_float64s_overflow_and_for_a_quotient_by_a_ball_around_zero():
    large = Balls(np.array([1e300]), dtype=torch.float64)

    assert np.isinf((large * large).radius)
    assert np.isinf((1.0 / Balls(np.array([0.0, 1.0]), np.array([0.0, 2.0]), dtype=torch.float32)).radius).all()
    assert not (large * large).excess(np.array([7.0])).any()


@given(a=arrays(st.floats(-600, 700)), seed=st.integers(0, 2**32))
def test_an_exponential_is_within_its_radius(a, seed):
    """Against an exponential of 60 digits; the argument's radius is propagated."""
    generator = np.random.default_rng(seed)
    a, radius = pairs(a, generator), generator.random(COUNT)
    exact = Balls(a, dtype=torch.float64, roundings=0)
    context = Context(prec=60)

    ball, wide = np.exp(exact), np.exp(Balls(a, radius, dtype=torch.float64))

    for i in range(COUNT):
        argument = context.add(Decimal(float(a.high[i])), Decimal(float(a.low[i])))
        truth = Fraction(context.exp(argument))
        assert abs(fraction(ball.centre, i) - truth) <= Fraction(2) ** -88 * truth
        for sign in (-1, 1):
            end = Fraction(context.exp(context.add(argument, sign * Decimal(float(radius[i])))))
            assert abs(fraction(wide.centre, i) - end) <= Fraction(float(wide.radius[i]))


@given(rows=st.integers(0, 5), terms=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_a_matrix_product_contains_the_results_of_torch_and_of_fractions(rows, terms, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator) for shape in ((rows, terms), (terms, 3)))
    x, y = (balls(values, dtype=torch.float32) for values in (a, b))

    product = x @ y

    assert_in_balls(a @ b, product, claim="product")
    for i, j in np.ndindex(rows, 3):
        exact = sum(Fraction(p) * Fraction(q) for p, q in zip(a[i].tolist(), b[:, j].tolist(), strict=True))
        assert abs(fraction(product.centre, (i, j)) - exact) <= Fraction(2) ** -90 * terms


@given(a=arrays(floats(torch.float32, min_exponent=-20, max_exponent=20)), count=st.integers(0, COUNT))
def test_a_sum_in_any_order_is_in_its_ball(a, count):
    values = torch.tensor(a[:count], dtype=torch.float32)
    total = balls(values, dtype=torch.float32).sum()

    for ordered in (values, values.flip(0), values.sort().values, values.abs().sort(descending=True).indices):
        one_by_one = torch.zeros(())
        for value in values[ordered] if ordered.dtype is torch.int64 else ordered:
            one_by_one += value
        assert_in_balls(one_by_one, total, claim="sum")
    assert abs(sum(map(Fraction, values.tolist())) - fraction(total.centre, ())) <= Fraction(2) ** -90 * sum(
        map(abs, map(Fraction, values.tolist()))
    )


@pytest.mark.parametrize("operation", [np.arctan, np.median])
def test_an_operation_without_a_rule_is_refused(operation):
    with pytest.raises(TypeError, match=operation.__name__):
        operation(balls([1.0], dtype=torch.float32))


@given(data=st.data())
def test_a_chain_of_operations_stays_in_its_ball(data):
    """In float32, with cancellation."""
    values = data.draw(st.lists(floats(torch.float32, min_exponent=-20, max_exponent=20), min_size=4, max_size=4))
    a, b, c, d = (torch.tensor(value) for value in values)
    x, y, z, w = (balls(value, dtype=torch.float32) for value in values)

    actual = (a * b - c * d) * (a - d) + b

    assert_in_balls(actual, (x * y - z * w) * (x - w) + y, claim="chain")


@pytest.mark.parametrize("operation", "+-*/sp")
@given(data=st.data())
def test_a_ball_contains_the_operation_on_every_point_of_its_operands(data, operation):
    """At the centre, inside and at the ends. A quotient by a ball around zero is unbounded, and so are its results."""
    numbers = st.integers(-64, 64).map(lambda n: Fraction(n, 8))  # exact in float64
    points, operands = [], []
    for _ in "ab":
        centre, radius, share = data.draw(
            st.tuples(numbers, numbers.map(abs), st.integers(-4, 4).map(lambda n: Fraction(n, 4)))
        )
        if operation == "s":
            centre = abs(centre)
        points.append(max(centre + share * radius, 0) if operation == "s" else centre + share * radius)
        operands.append(Balls(float(centre), float(radius), dtype=torch.float64))
    (a, b), (x, y) = points, operands
    if operation == "/" and abs(y.centre.high) <= y.radius:
        assert np.sqrt(x / y + 1).radius == np.inf
        return

    point, ball = {
        "+": lambda: (a + b, x + y),
        "-": lambda: (a - b, x - y),
        "*": lambda: (a * b, x * y),
        "/": lambda: (a / b, x / y),
        "s": lambda: (a**0.5, x.sqrt()),
        "p": lambda: (a**3, x**3),
    }[operation]()

    assert abs(Fraction(point) - fraction(ball.centre, ())) <= Fraction(float(ball.radius)), (
        f"{x} {operation} {y} at {a}, {b}"
    )


@refuted
@given(data=st.data())
def test_a_product_needs_no_rounding(data):
    a, b = (torch.tensor(data.draw(floats(torch.float32, min_exponent=-20, max_exponent=20))) for _ in "ab")

    assert Fraction(a.item()) * Fraction(b.item()) == Fraction((a * b).item())


@given(numerator=st.integers(1, 100))
def test_negation_of_a_ball_is_exact(numerator):
    ball = balls(numerator, dtype=torch.float64) / 7

    negative = -ball

    assert (-negative).centre == ball.centre == np.abs(negative).centre == np.abs(ball).centre


@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_ball_contains_the_sigmoid_that_torch_computes(data, dtype):
    """For any finite number; where the result is subnormal, torch returns 0."""
    value = data.draw(floats(dtype))

    actual = torch.sigmoid(torch.tensor([value], dtype=dtype))

    assert_in_balls(actual, reference.sigmoid(balls([value], dtype=dtype)), claim=f"sigmoid({value!r})")


def test_numbers_become_exact_balls_of_one_rounding():
    """Of a tensor, a sequence, integers too, or a number; of any type, those of float32 by its values."""
    p = torch.tensor([1.0, 0.1], requires_grad=True)

    for values, expected in ((p, [1.0, float(np.float32(0.1))]), ((1, 2), [1.0, 2.0]), (0.1, 0.1)):
        ball = balls(values, dtype=torch.bfloat16)
        assert (ball.centre.high.dtype, ball.centre.high.tolist()) == (np.float64, expected)
        assert (ball.dtype, ball.roundings, type(ball)) == (torch.bfloat16, 1, Balls)
        assert not ball.centre.low.any()
        assert not ball.radius.any()
    assert Balls(0.5, dtype=torch.float32).roundings == 1


def test_iterating_over_an_array_equals_indexing_it():
    """As for NumPy's arrays; a radius that is broadcast is indexed too."""
    array = Balls(
        Pair(np.arange(6.0).reshape(3, 2), np.full((3, 2), 1e-20)), [[1.0], [2.0], [3.0]], dtype=torch.float32
    )

    for balls_ in (array, array[:, 0], Balls([1.0, 2.0], 0.5, dtype=torch.float64, roundings=2)):
        parts = list(balls_)

        assert len(parts) == len(balls_)
        for i, part in enumerate(parts):
            assert (part.dtype, part.roundings) == (balls_.dtype, balls_.roundings)
            for actual, expected in zip(
                (*part.centre, part.radius), (*balls_[i].centre, balls_[i].radius), strict=True
            ):
                np.testing.assert_array_equal(actual, expected, strict=True)


def almost(bound, centre):
    """Add to a bound what a radius may exceed it by: the rounding of the radius, and the errors of the pairs."""
    return bound * (1 + Fraction(2) ** -35) + Fraction(2) ** -85 * abs(centre) + Fraction(2) ** -1000


def exact_root(x):
    """Return the square root of a ratio of squares."""
    return Fraction(isqrt(x.numerator), isqrt(x.denominator))


def exact_exponential(x):
    return Fraction(Context(prec=60).exp(Decimal(x.numerator) / Decimal(x.denominator)))


OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**2": lambda p, _: p**2,
    "**5": lambda p, _: p**5,
    "root": lambda p, _: p.sqrt() if isinstance(p, Balls) else exact_root(p),
    "exp": lambda p, _: p.exp() if isinstance(p, Balls) else exact_exponential(p),
}
eighths = st.integers(-(2**6), 2**6).map(lambda n: Fraction(n, 2**3))


@pytest.mark.parametrize("operation", OPERATIONS)
@given(data=st.data())
def test_a_radius_is_no_larger_than_the_errors_of_the_operands_require(operation, data):
    """Some numbers in the operands' balls have results at the end of the result's ball, so no smaller ball holds them.

    Those of a power are within it by the remainder of the mean value theorem.
    """
    a, b = data.draw(eighths), data.draw(eighths.filter(bool))
    r, s = (abs(c) * Fraction(data.draw(st.integers(0, 63)), 2**6) for c in (a, b))
    if operation == "root":  # the roots of a - r, a and a + r are exact
        a, r = (
            Fraction(n, 2**6) for n in data.draw(st.sampled_from([(25, 24), (169, 120), (841, 840), (25, 0), (0, 0)]))
        )
    x, y = (Balls(float(c), float(e), dtype=torch.float64, roundings=0) for c, e in ((a, r), (b, s)))
    compute = OPERATIONS[operation]

    ball = compute(x, y)

    centre = compute(a, b)
    farthest = max(abs(compute(p, q) - centre) for p in (a - r, a + r) for q in (b - s, b + s))
    if operation.startswith("**"):
        n = int(operation[2:])
        farthest = n * (abs(a) + r) ** (n - 1) * r
    if operation == "exp":  # which always counts its own four roundings, and an underflow that may be flushed to 0
        farthest += 4 * Fraction(unit_roundoff(torch.float64)) * (centre + farthest)
        farthest += Fraction(torch.finfo(torch.float64).tiny)
    assert farthest <= Fraction(float(ball.radius)) <= almost(farthest, centre)


@given(root=eighths.map(abs), share=st.integers(0, 63).map(lambda n: Fraction(n, 2**6)))
def test_the_root_of_a_ball_around_0_is_the_smallest_ball_of_the_roots(root, share):
    """From 0 to the root of the upper end."""
    a, r = root**2 * share / 2, root**2 * (1 - share / 2)

    ball = Balls(float(a), float(r), dtype=torch.float64, roundings=0).sqrt()

    assert abs(fraction(ball.centre, ()) - root / 2) <= root * Fraction(2) ** -40
    assert root / 2 <= Fraction(float(ball.radius)) <= almost(root / 2, root)


def rounding(dtype, k):
    """Return the relative and the absolute error of k roundings."""
    u, spacing = Fraction(unit_roundoff(dtype)), Fraction(smallest_subnormal(dtype))
    return k * u / (1 - k * u), k * spacing / 2


def converted(kind, magnitude, error):
    """Add the error of rounding a result to bfloat16 under autocast, the only kind of balls that does."""
    if kind is not AutocastBalls:
        return error
    u, spacing = Fraction(unit_roundoff(torch.bfloat16)), Fraction(smallest_subnormal(torch.bfloat16))
    return error + (magnitude + error) * u + spacing / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "exp"])
@given(a=eighths, b=eighths.filter(bool), roundings=st.sampled_from([1, 2, 2.5, 9]))
def test_an_operation_counts_its_roundings_and_no_more(operation, dtype, a, b, roundings):
    """On exact operands; a root is two roundings."""
    a = a**2 if operation == "root" else a
    compute = OPERATIONS[operation]

    ball = compute(*(Balls(float(c), dtype=dtype, roundings=roundings) for c in (a, b)))

    exact = compute(a, b)
    relative, absolute = rounding(dtype, Fraction(roundings) * (2 if operation == "root" else 1))
    counted = relative * abs(exact) + absolute
    assert counted <= Fraction(float(ball.radius)) <= almost(counted, exact)


@pytest.mark.parametrize("kind", [Balls, TritonBalls, AutocastBalls])
@given(value=st.integers(-640, 640).map(lambda n: Fraction(n, 8)), r=st.integers(0, 8).map(lambda n: Fraction(n, 8)))
def test_an_exponential_counts_its_roundings_and_no_more(kind, value, r):
    """Four; compiled for CUDA, two more for each unit of its argument; under autocast, one more, to bfloat16."""
    ball = np.exp(kind(float(value), float(r), dtype=torch.float32))

    exact = exact_exponential(value)
    farthest = exact_exponential(value + r) - exact
    roundings = 4 + (2 * (abs(value) + r) if kind is TritonBalls else 0)
    relative = roundings * Fraction(unit_roundoff(torch.float32)) + Fraction(2) ** -88  # and the error of the centre
    counted = farthest + relative * (exact + farthest) + Fraction(torch.finfo(torch.float32).tiny)
    counted = converted(kind, exact, counted)
    assert counted <= Fraction(float(ball.radius)) <= almost(counted, exact)


@pytest.mark.parametrize("kind", [Balls, AutocastBalls, Tf32Balls])
@given(a=st.lists(eighths, min_size=1, max_size=9), data=st.data(), roundings=st.sampled_from([1, 4, 20]))
def test_a_matrix_product_counts_its_roundings_and_no_more(kind, a, data, roundings):
    """One for each product, and one less than the number of products for their sum, or as many as an operation has.

    Autocast rounds each product and the sum to bfloat16, too; TF32 cuts the operands first.
    """
    b = data.draw(st.lists(eighths, min_size=len(a), max_size=len(a)))
    x, y = (kind(np.array(list(map(float, c))), dtype=torch.float32, roundings=roundings) for c in (a, b))

    ball = (x.reshape(1, -1) @ y.reshape(-1, 1))[0, 0]

    relative, absolute = rounding(torch.float32, roundings)
    cut = Fraction(2) ** -10 if kind is Tf32Balls else 0
    errors = []
    for p, q in zip(a, b, strict=True):
        error = abs(p * q) * ((1 + cut) ** 2 - 1)
        errors.append(converted(kind, abs(p * q), error + (abs(p * q) + error) * relative + absolute))
    magnitude = sum(abs(p * q) for p, q in zip(a, b, strict=True)) + sum(errors)
    relative, absolute = rounding(torch.float32, max(len(a) - 1, roundings))
    exact = sum(p * q for p, q in zip(a, b, strict=True))
    counted = converted(kind, abs(exact), sum(errors) + magnitude * relative + absolute)
    assert counted <= Fraction(float(ball.radius)) <= almost(counted, magnitude)


@given(a=st.lists(eighths, min_size=1, max_size=40), r=st.integers(0, 8).map(lambda n: Fraction(n, 64)))
def test_a_sum_counts_its_roundings_and_no_more(a, r):
    """One less than the number of terms, of the sum of their magnitudes."""
    ball = Balls([float(c) for c in a], float(r), dtype=torch.float32).sum()

    relative, absolute = rounding(torch.float32, max(len(a) - 1, 1))
    counted = len(a) * r + relative * sum(abs(c) + r for c in a) + absolute
    assert counted <= Fraction(float(ball.radius)) <= almost(counted, sum(map(abs, a)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_exponential_of_any_number_has_a_bound_or_none(dtype):
    """None above float64's largest number; below its smallest, one of almost 0. Nothing warns of an overflow."""
    large, small = (np.exp(Balls(np.array([800.0, 801.0, 1e9]) * sign, dtype=dtype)) for sign in (1, -1))

    assert np.isinf(large.radius).all()
    assert small.centre.high.tolist() == [0.0] * 3
    assert (small.radius <= torch.finfo(dtype).tiny * (1 + 2.0**-40)).all()
    assert np.isinf(Balls(np.array([1e308, 1e308]), dtype=dtype).sum().radius)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [799, 700, -700, -799])
def test_an_exponential_near_the_ends_of_float64_is_in_its_ball(n, dtype):
    ball = np.exp(Balls(float(n), dtype=dtype))

    truth = exact_exponential(Fraction(n))
    assert ball.radius == np.inf or abs(fraction(ball.centre, ()) - truth) <= Fraction(float(ball.radius))


@given(data=st.data())
def test_an_operation_on_two_types_has_the_roundings_of_the_coarser(data):
    """Of equal types, the one with more roundings; a plain number has neither."""
    types = st.tuples(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), st.integers(0, 3))
    chosen = [data.draw(types) for _ in "ab"]
    x, y = (Balls([2.0], dtype=dtype, roundings=roundings) for dtype, roundings in chosen)
    coarser = max(chosen, key=lambda one: (unit_roundoff(one[0]), one[1]))

    for operation in (np.add, np.subtract, np.multiply, np.true_divide, np.maximum, partial(np.where, [True])):
        ball = operation(x, y)
        assert (ball.dtype, ball.roundings) == coarser, operation
        for ball in (operation(x, 1.0), operation(1.0, x)):
            assert (ball.dtype, ball.roundings) == chosen[0], operation


@given(data=st.data())
def test_the_larger_of_two_balls_is_the_smallest_ball_of_the_larger_numbers(data):
    """No number is rounded."""
    numbers = st.integers(-8, 8).map(float)
    (a, r), (b, s) = (data.draw(st.tuples(numbers, numbers.map(abs))) for _ in "ab")
    low_a, low_b = (data.draw(st.sampled_from([-1e-20, 0.0, 1e-20])) for _ in "ab")
    x, y = (
        Balls(Pair(np.array(c), np.array(low)), e, dtype=torch.float32) for c, low, e in ((a, low_a, r), (b, low_b, s))
    )

    larger = np.maximum(x, y)

    assert fraction(larger.centre, ()) == max(fraction(x.centre, ()), fraction(y.centre, ()))
    ends = [max(fraction(x.centre, ()) + p * Fraction(r), fraction(y.centre, ()) + p * Fraction(s)) for p in (-1, 1)]
    farthest = max(abs(end - fraction(larger.centre, ())) for end in ends)
    assert farthest <= Fraction(float(larger.radius)) <= almost(farthest, Fraction(16))


@pytest.mark.parametrize(
    ("high", "lows", "radius"),
    [(1.0, (-(2.0**-70), 2.0**-70), 2.0**-70), (1 + 2.0**-52, (2.0**-54, -(2.0**-54)), 2.0**-52)],
)
def test_the_larger_of_two_balls_is_chosen_by_all_digits(high, lows, radius):
    """Of equal first numbers, the second ones decide; the distance is that of all digits, too."""
    lower, upper = (Pair(np.array(first), np.array(low)) for first, low in zip((1.0, high), lows, strict=True))
    gap = fraction(upper, ()) - fraction(lower, ())
    balls_ = Balls(lower, float(gap + Fraction(radius)), dtype=torch.float32), Balls(upper, dtype=torch.float32)

    for larger in (np.maximum(*balls_), np.maximum(*balls_[::-1])):
        assert fraction(larger.centre, ()) == fraction(upper, ())
        assert Fraction(radius) <= Fraction(float(larger.radius)) <= almost(Fraction(radius), Fraction(1))


def test_where_chooses_centres_and_radii():
    """One of the two may be plain numbers."""
    x = Balls(Pair(np.array([1.0, 2.0]), np.array([1e-20, 2e-20])), np.array([0.5, 0.25]), dtype=torch.float32)
    chosen = np.array([True, False])

    for ball, highs, lows, radii in (
        (np.where(chosen, x, 7.0), [1, 7], [1e-20, 0], [0.5, 0]),
        (np.where(chosen, 7.0, x), [7, 2], [0, 2e-20], [0, 0.25]),
        (np.where(chosen, x, -x), [1, -2], [1e-20, -2e-20], [0.5, 0.25]),
    ):
        for actual, expected in zip((*ball.centre, ball.radius), (highs, lows, radii), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_a_matrix_product_is_the_same_in_blocks_of_rows(monkeypatch):
    x, y = (balls(torch.arange(7.0 * n).reshape(-1, n) / 7, dtype=torch.float32) for n in (7, 3))
    whole = x @ y

    for products in (1, 12, 40):
        monkeypatch.setattr("simplenet.testing.balls._BLOCK", products)
        block = x @ y
        for actual, expected in zip((*block.centre, block.radius), (*whole.centre, whole.radius), strict=True):
            np.testing.assert_array_equal(actual, expected, strict=True)


def test_the_excess_is_the_distance_over_the_radius_and_never_nan():
    """At most 1 in the ball, infinite for what is not finite, 0 where there is no bound."""
    inf, nan = np.inf, np.nan
    for observed, radius, excess in (
        (3.0, 0.5, 2.0),
        (1.0, 0.5, 2.0),
        (2.0, 0.0, 0.0),
        (3.0, 0.0, inf),
        (nan, 0.5, inf),
        (-inf, 0.5, inf),
        (3.0, inf, 0.0),
        (nan, inf, 0.0),
    ):
        assert Balls(2.0, radius, dtype=torch.float64).excess(np.array(observed)) == excess, (observed, radius)
    low = Balls(Pair(np.array(2.0), np.array(2.0**-60)), dtype=torch.float64)
    assert low.distance(np.array(2.0)) == 2.0**-60


@pytest.mark.parametrize("part", ["high", "low", "radius"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan], ids=str)
def test_a_number_that_is_not_finite_has_no_bound(part, value):
    """And leaves its neighbour as it is."""
    parts = {"high": [1.0, 2.0], "low": [2.0**-60, 2.0**-60], "radius": [0.5, 0.25]}
    parts[part][0] = value

    ball = Balls(Pair(np.array(parts["high"]), np.array(parts["low"])), parts["radius"], dtype=torch.float64)

    assert ball.radius.tolist() == [np.inf, 0.25]
    assert np.array(ball.centre).tolist() == [[0.0, 2.0], [0.0, 2.0**-60]]


@pytest.mark.parametrize(("hidden", "rows", "roundings"), [(1, 1, 3), (4, 1, 5), (4, 4, 5), (2, 9, 10)])
def test_a_networks_balls_have_one_rounding_more_than_its_longest_sum(hidden, rows, roundings):
    """Which is over inputs, units or rows; compiled for CUDA, an operation has at least four roundings."""
    net, x, y = SimpleNet(hidden=hidden), torch.ones(rows, 2), torch.ones(rows, 1)

    for kind, expected in ((Balls, roundings), (AutocastBalls, roundings), (TritonBalls, max(roundings, 4))):
        parameters, *data = in_balls(net, x, y, kind=kind)
        for ball, tensor in zip((*parameters, *data), (*net.parameters(), x, y), strict=True):
            assert (type(ball), ball.dtype, ball.roundings) == (kind, torch.float32, expected)
            np.testing.assert_array_equal(ball.centre.high, tensor.detach().numpy())
            rounded = kind is AutocastBalls and tensor.requires_grad
            np.testing.assert_array_equal(ball.radius > 0, rounded)


def test_a_radius_is_in_float64_whatever_it_is_given_in():
    assert Balls([1.0], 1, dtype=torch.float32).radius.dtype == np.float64
    assert Balls([1.0], np.float32(1), dtype=torch.float32).radius.dtype == np.float64


def test_balls_are_flattened_by_rows():
    flat = Balls([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]], dtype=torch.float32).flatten()

    assert flat.centre.high.tolist() == [1, 2, 3, 4]
    assert flat.radius.tolist() == [5, 6, 7, 8]
