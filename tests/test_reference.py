"""The judge itself, where no other test calls it: its loss, and its parts put together as a reader would."""

from fractions import Fraction

import numpy as np
import pytest

from simplenet import reference

TABLE = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = np.array([[0.0], [1.0], [1.0], [0.0]])


@pytest.mark.parametrize("n", [1, 2, 4, 8, 32])
def test_its_mse_is_the_mean_of_squared_differences(n):
    """Of eighths, whose squares and sums of squares round nothing; nor does a quotient by a power of two."""
    y, y_hat = np.random.default_rng(1996).integers(-64, 65, (2, n, 1)) / 8

    loss = reference.mse(y, y_hat)

    assert loss == sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(y.flat, y_hat.flat, strict=True)) / n


@pytest.mark.parametrize(("architecture", "solved"), [("overview", True), ("derivation", True), ("listing", False)])
def test_it_learns_exclusive_or_by_itself_but_for_the_listing(architecture, solved):
    """From weights of its own, in a loop of its own; why the listing cannot, docs/claims.md says."""
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
