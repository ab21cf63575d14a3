"""``simplenet.reference`` by itself: its loss, its first step of Adam, and a training loop."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from simplenet import reference
from simplenet.testing.assertions import assert_within
from simplenet.testing.bounds import gamma

TABLE = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = np.array([[0.0], [1.0], [1.0], [0.0]])


@pytest.mark.parametrize("n", [1, 2, 4, 8, 32])
def test_the_references_mse_is_the_mean_of_squared_differences(n):
    """Exactly, for eighths: their squares, the sums of these, and a quotient by a power of two are exact."""
    y, y_hat = np.random.default_rng(1996).integers(-64, 65, (2, n, 1)) / 8

    loss = reference.mse(y, y_hat)

    assert loss == sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(y.flat, y_hat.flat, strict=True)) / n


def test_the_references_sigmoid_does_not_overflow():
    """At the ends of float64, e^-z is infinite or 0; a warning of an overflow is an error."""
    most = np.finfo(np.float64).max

    assert reference.sigmoid(np.array([-most, -1000.0, 0.0, 1000.0, most])).tolist() == [0, 0, 1 / 2, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(x=st.floats(-80, 80, width=32))
@example(x=-80.0)
def test_the_references_sigmoid_is_accurate_in_both_tails(dtype, x):
    """A quotient and a sum, and NumPy's exponential, whose error is below 3 units in the last place: 6 roundings."""
    z = np.array(x, torch.zeros(0, dtype=dtype).numpy().dtype)
    with localcontext(prec=60):
        expected = Fraction(1 / (1 + (-Decimal(x)).exp()))

    error = abs(Fraction(float(reference.sigmoid(z))) - expected)

    assert error <= Fraction(gamma(8, dtype)) * expected, f"{float(error / expected)} of {float(expected)}"


# The longest path of a first step from 0: m 1, correction 1, rate 1; v 2 and correction 1, half of them under the root
# 2, root 1, eps 1; quotient 1: 8. The errors of 1 - 0.9 and 1 - 0.999 cancel. The expected value has 3: rate, eps,
# quotient.
FIRST_STEP_ROUNDINGS = 8 + 3


def test_the_references_first_step_is_the_notebooks():
    """With the settings of §4.2: both bias corrections cancel the averages, so the step is lr g / (|g| + eps)."""
    g = np.array([2.0**-30, -1.0, 1e12, 3e-9])

    theta, after = reference.adam(np.zeros(4), g, reference.adam_start(g))

    rtol = gamma(FIRST_STEP_ROUNDINGS, torch.float64)
    assert_within(torch.tensor(theta), -0.01 * g / (abs(g) + 1e-8), rtol=rtol, claim="first step")
    assert (after.m == (1 - 0.9) * g).all()
    assert (after.v == (1 - 0.999) * g**2).all()
    assert after.t == 1


@pytest.mark.parametrize("architecture", reference.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_reference_keeps_the_dtype_and_the_shape_of_its_arguments(architecture, dtype):
    """Gradients, the initial state of Adam, and weights and state after a step."""
    draw = np.random.default_rng(1996).uniform
    p = reference.Parameters(*(draw(-1, 1, size).astype(dtype) for size in ((4, 2), 4, (1, 4), 1)))
    gradients = reference.gradients(p, TABLE.astype(dtype), TARGETS.astype(dtype), architecture)

    for theta, g in zip(p, gradients, strict=True):
        before = reference.adam_start(theta)
        moved, after = reference.adam(theta, g, before)
        assert not before.m.any()
        assert not before.v.any()
        parts = (g, before.m, before.v, moved, after.m, after.v)
        assert {(part.dtype, part.shape) for part in parts} == {(theta.dtype, theta.shape)}


@pytest.mark.parametrize(("architecture", "solved"), [("overview", True), ("derivation", True), ("listing", False)])
def test_the_reference_learns_exclusive_or_except_the_listing(architecture, solved):
    """From random weights, in a loop written here; docs/claims.md says why the listing cannot."""
    draw = np.random.default_rng(1996).uniform
    p = reference.Parameters(draw(-1, 1, (4, 2)), draw(-1, 1, 4), draw(-1, 1, (1, 4)), draw(-1, 1, 1))
    states = [reference.adam_start(theta) for theta in p]
    losses = []
    for _ in range(2000):
        gradients = reference.gradients(p, TABLE, TARGETS, architecture)
        moved = [reference.adam(*own) for own in zip(p, gradients, states, strict=True)]
        p, states = reference.Parameters(*(theta for theta, _ in moved)), [state for _, state in moved]
        losses.append(reference.mse(TARGETS, reference.forward(p, TABLE, architecture)[1]))

    _, y_hat = reference.forward(p, TABLE, architecture)

    assert (abs(y_hat - TARGETS) < 1 / 2).all() == solved
    assert losses[-1] < losses[0]
