"""Ball arithmetic on arrays: its centres against fractions, its radii against what torch computes."""

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplenet import reference
from simplenet.testing.balls import Balls, Pair
from simplenet.testing.bounds import Ball, balls
from simplenet.testing.strategies import floats

# A hundred numbers an example: what is quick on arrays may be tried on many.
COUNT = 100
wide = floats(torch.float64, min_exponent=-200, max_exponent=200)


@st.composite
def arrays(draw, elements=wide):
    """Draw from few numbers many, so that equal and neighbouring ones meet."""
    pool = np.array(draw(st.lists(elements, min_size=4, max_size=12)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = pool[generator.integers(len(pool), size=COUNT)]
    return np.where((values == 0) | (generator.random(COUNT) < 0.5), values, np.nextafter(values, 1))


def pairs(high, generator):
    """Add to numbers a second part of up to half a unit in their last place."""
    low = (generator.random(high.shape) - 0.5) * np.spacing(np.abs(high)) * 0.99
    return Pair(high, low)


def fraction(pair, i):
    return Fraction(float(pair.high[i])) + Fraction(float(pair.low[i]))


def root_of(x):
    """Take a root to 400 bits."""
    scaled = (x.numerator << 800) // x.denominator
    return Fraction(isqrt(scaled << 800), 1 << 800)


@pytest.mark.parametrize("operation", ["+", "-", "*", "/", "root", "**3"])
@given(a=arrays(), b=arrays(), seed=st.integers(0, 2**32))
def test_an_exact_operation_on_pairs_is_within_its_radius(operation, a, b, seed):
    """Without roundings to charge for, what is left is the arithmetic's own error."""
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
@pytest.mark.parametrize("operation", ["+", "-", "*", "/", "root"])
@given(data=st.data())
def test_a_rounded_operation_of_torch_lies_in_its_ball(dtype, operation, data):
    elements = floats(dtype, min_exponent=-40, max_exponent=40)
    a, b = (torch.tensor(data.draw(arrays(elements)), dtype=dtype) for _ in "ab")
    a = a.abs() if operation == "root" else a
    b = torch.where(b == 0, torch.ones_like(b), b)
    x, y = (Balls(values.double().numpy(), dtype=dtype) for values in (a, b))

    ball, actual = {
        "+": lambda: (x + y, a + b),
        "-": lambda: (x - y, a - b),
        "*": lambda: (x * y, a * b),
        "/": lambda: (x / y, a / b),
        "root": lambda: (x.sqrt(), a.sqrt()),
    }[operation]()

    assert ball.excess(actual.double().numpy()).max() <= 1


@given(a=arrays(floats(torch.float64, min_exponent=-10, max_exponent=10)), seed=st.integers(0, 2**32))
def test_the_errors_of_the_operands_reach_the_result(a, seed):
    """Any numbers within two balls give a result within the third; at the ends of the radii, where it is tight."""
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
def test_the_root_of_a_ball_holds_the_roots_of_its_ends(a, part):
    radius = a * part
    ball = Balls(a, radius, dtype=torch.float64).sqrt()  # with a rounding, for that of the roots below

    for end in (a + radius, np.maximum(a - radius, 0), a):
        assert ball.excess(np.sqrt(end)).max() <= 1


def test_where_float64_ends_the_bound_says_nothing():
    large = Balls(np.array([1e300]), dtype=torch.float64)

    assert np.isinf((large * large).radius)
    assert np.isinf((1.0 / Balls(np.array([0.0, 1.0]), np.array([0.0, 2.0]), dtype=torch.float32)).radius).all()
    assert not (large * large).excess(np.array([7.0])).any()


@given(g=arrays(floats(torch.float32, min_exponent=-20, max_exponent=20)))
def test_a_step_of_adam_is_that_of_single_balls(g):
    """Centre and radius, to within what the arrays charge for themselves."""
    g = g.astype(np.float32).astype(np.float64)[:5]
    theta = np.linspace(-1, 1, 5)
    state = reference.adam_start(theta)
    single = {name: balls(values, dtype=torch.float32, roundings=2) for name, values in (("theta", theta), ("g", g))}
    zeros = balls(np.zeros(5), dtype=torch.float32, roundings=2)
    numbers = (0.01, 0.9, 0.999, 1e-8)
    scalars = [Ball(x, dtype=torch.float64, roundings=2) for x in numbers]
    many = [Balls(values, dtype=torch.float32, roundings=2) for values in (theta, g, np.zeros(5))]

    expected, _ = reference.adam(single["theta"], single["g"], state._replace(m=zeros, v=zeros), *scalars)
    alpha, beta1, beta2, epsilon = (Balls(x, dtype=torch.float64, roundings=2) for x in numbers)
    m = beta1 * many[2] + (1 - beta1) * many[1]
    v = beta2 * many[2] + (1 - beta2) * many[1] ** 2
    moved = many[0] - alpha * (m / (1 - beta1)) / ((v / (1 - beta2)).sqrt() + epsilon)

    for i, ball in enumerate(expected):
        if ball.radius.is_finite():
            assert abs(float(ball.centre) - moved.centre.high[i]) <= 2.0**-50 * abs(float(ball.centre))
            assert moved.radius[i] == pytest.approx(float(ball.radius), rel=1e-9)
