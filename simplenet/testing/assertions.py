"""Assertions with one format of messages: what was observed, what was permitted, and in which entry."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplenet.testing.balls import Balls


def shown(number: float, dtype: torch.dtype) -> str:
    """Format a number with as many digits as it takes to tell it from the others of its type."""
    return f"{number:.{17 if dtype is torch.float64 else 9}g}"


def identical(actual: Tensor, expected: Tensor) -> Tensor:
    """Whether each entry has the same bits; NaN equals NaN, and 0 differs from -0."""
    return (actual == expected) & (actual.signbit() == expected.signbit()) | (actual.isnan() & expected.isnan())


def assert_identical(actual: Tensor, expected: Tensor, *, claim: str) -> None:
    """Assert the same dtype, shape and bits; NaN equals NaN, and 0 differs from -0."""
    __tracebackhide__ = True
    if actual.dtype != expected.dtype:
        raise AssertionError(f"{claim}: dtype is {actual.dtype}, but should be {expected.dtype}")
    _demand_shape(actual, tuple(expected.shape), claim)
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    same = identical(actual, expected)
    if not same.all():
        where = tuple(np.argwhere(~same.numpy())[0].tolist())
        raise AssertionError(
            f"{claim}: {int((~same).sum())} of {same.numel()} entries differ, but all should be identical "
            f"[entry {where}: actual={actual[where].item()!r}, expected={expected[where].item()!r}]"
        )


def assert_within(
    actual: Tensor, expected: Tensor | np.ndarray | float, *, rtol: float = 0.0, atol: float = 0.0, claim: str
) -> None:
    """Assert an error of at most ``atol + rtol |expected|`` in every entry; NaN and infinity never pass.

    Args:
        actual: The computed values.
        expected: The exact values, in float64 or a type that converts to it exactly.
        rtol: Permitted error relative to ``expected``, from ``simplenet.testing.bounds``.
        atol: Permitted error in the units of ``expected``, from ``simplenet.testing.bounds``.
        claim: The description of the values, for the message.
    """
    __tracebackhide__ = True
    expected = torch.as_tensor(expected, dtype=torch.float64)
    _demand_shape(actual, tuple(expected.shape), claim)
    values = actual.detach().cpu().double()
    expected = expected.detach().cpu()
    permitted = atol + rtol * expected.abs()
    _demand(values.numpy(), (values - expected).abs().numpy(), expected.numpy(), permitted.numpy(), claim)


def assert_in_balls(actual: Tensor, expected: Balls, *, claim: str) -> None:
    """Assert that every entry is in its ball: the exact value plus or minus its counted error."""
    __tracebackhide__ = True
    _demand_shape(actual, expected.shape, claim)
    values = actual.detach().cpu().double().numpy()
    _demand(values, expected.distance(values), expected.centre.high, expected.radius, claim)


def _demand_shape(actual: Tensor, expected: tuple[int, ...], claim: str) -> None:
    __tracebackhide__ = True
    if tuple(actual.shape) != expected:
        raise AssertionError(f"{claim}: shape is {tuple(actual.shape)}, but should be {expected}")


def _demand(values: np.ndarray, errors: np.ndarray, expected: np.ndarray, permitted: np.ndarray, claim: str) -> None:
    __tracebackhide__ = True
    expected, permitted = (np.broadcast_to(part, values.shape) for part in (expected, permitted))
    if not np.isfinite(permitted).all():
        where = tuple(np.argwhere(~np.isfinite(permitted))[0].tolist())
        raise AssertionError(f"{claim}: the bound is {permitted[where]}, but should be finite [entry {where}]")
    errors = np.where(np.isfinite(values) & np.isfinite(expected), errors, np.inf)
    if (errors > permitted).any():
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(errors > permitted, errors / permitted, 0.0)
        where = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
        raise AssertionError(
            f"{claim}: error is {errors[where]:.3g}, {ratios[where]:.3g} times its bound, but should be at most "
            f"{permitted[where]:.3g} [entry {tuple(map(int, where))}: actual={values[where].item()!r}, "
            f"expected={float(expected[where])!r}]"
        )


def refuted(test: Callable[..., Any]) -> Callable[..., None]:
    """Pass the test of a false claim only if an assertion in it fails: the bound of the true claim is tight.

    Place it above ``@given``. Any counter-example suffices, so nothing is shrunk. The search ends at the first one, so
    it may take many examples.
    """
    import pytest
    from hypothesis import Phase, settings

    unshrunk = settings(max_examples=400, phases=[Phase.explicit, Phase.generate])(test)

    def counter_claim(**arguments: object) -> None:
        with pytest.raises(AssertionError):
            unshrunk(**arguments)

    # pytest reads the signature to find fixtures and parameters, and the name for its report.
    vars(counter_claim).update({k: v for k, v in vars(test).items() if not k.startswith("_hypothesis")})
    counter_claim.__name__, counter_claim.__doc__ = test.__name__, test.__doc__
    counter_claim.__module__, counter_claim.__qualname__ = test.__module__, test.__qualname__
    vars(counter_claim).update(__signature__=inspect.signature(test), refuted=True)  # `refuted` is for the plugin
    return counter_claim
