"""Ball arithmetic on arrays: its centres against fractions, its radii against results of torch."""

from decimal import Context, Decimal
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplenet import reference
from simplenet.testing.assertions import assert_in_balls, refuted
from simplenet.testing.balls import Balls, Pair, balls
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


def test_an_operation_without_a_rule_is_refused():
    with pytest.raises(TypeError, match="arctan"):
        np.arctan(balls([1.0], dtype=torch.float32))


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

    assert (-negative).centre == ball.centre == np.abs(negative).centre


@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_ball_contains_the_sigmoid_that_torch_computes(data, dtype):
    """For any finite number; where the result is subnormal, torch returns 0."""
    value = data.draw(floats(dtype))

    actual = torch.sigmoid(torch.tensor([value], dtype=dtype))

    assert_in_balls(actual, reference.sigmoid(balls([value], dtype=dtype)), claim=f"sigmoid({value!r})")


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
