"""One grammar for failures: what was observed, what was permitted, and where."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplenet.testing.balls import Balls


def assert_identical(actual: Tensor, expected: Tensor, *, claim: str) -> None:
    """Demand the same dtype, shape and bits; NaN equals NaN, and 0 is not -0."""
    __tracebackhide__ = True
    if actual.dtype != expected.dtype:
        raise AssertionError(f"{claim}: dtype is {actual.dtype}, but should be {expected.dtype}")
    _demand_shape(actual, tuple(expected.shape), claim)
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    same = (actual == expected) & (actual.signbit() == expected.signbit()) | (actual.isnan() & expected.isnan())
    if not same.all():
        where = tuple(np.argwhere(~same.numpy())[0].tolist())
        raise AssertionError(
            f"{claim}: {int((~same).sum())} of {same.numel()} entries differ, but all should be identical "
            f"[entry {where}: actual={actual[where].item()!r}, expected={expected[where].item()!r}]"
        )


def assert_within(
    actual: Tensor, expected: Tensor | np.ndarray | float, *, rtol: float = 0.0, atol: float = 0.0, claim: str
) -> None:
    """Demand an error of at most ``atol + rtol |expected|`` in every entry; NaN and infinity never pass.

    Args:
        actual: What was computed.
        expected: What is true: float64, or anything that float64 holds exactly.
        rtol: Permitted error relative to ``expected``, from ``simplenet.testing.bounds``.
        atol: Permitted error in the units of ``expected``, from ``simplenet.testing.bounds``.
        claim: What is compared, for the message.
    """
    __tracebackhide__ = True
    expected = torch.as_tensor(expected, dtype=torch.float64)
    _demand_shape(actual, tuple(expected.shape), claim)
    values = actual.detach().cpu().double()
    expected = expected.detach().cpu()
    permitted = atol + rtol * expected.abs()
    _demand(values.numpy(), (values - expected).abs().numpy(), expected.numpy(), permitted.numpy(), claim)


def assert_in_balls(actual: Tensor, expected: Balls, *, claim: str) -> None:
    """Demand that every entry lies in its ball: the exact value, give or take its counted error."""
    __tracebackhide__ = True
    _demand_shape(actual, expected.shape, claim)
    values = actual.detach().cpu().double().numpy()
    with np.errstate(invalid="ignore"):
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
        raise AssertionError(f"{claim}: error may be {permitted[where]} [entry {where}]: the bound says nothing")
    errors = np.where(np.isfinite(values) & np.isfinite(expected), errors, np.inf)
    if (errors > permitted).any():
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(errors > permitted, errors / permitted, 0.0)
        where = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
        raise AssertionError(
            f"{claim}: error is {errors[where]:.3g}, but should be at most {permitted[where]:.3g}, "
            f"{ratios[where]:.3g} times less [entry {tuple(map(int, where))}: actual={values[where].item()!r}, "
            f"expected={float(expected[where])!r}]"
        )


def refuted(test: Callable[..., Any]) -> Callable[..., None]:
    """Pass a counter-claim only if an assertion in it fails: the bound beside it can tell right from wrong.

    Goes above ``@given``. Any refutation will do, so nothing is shrunk, and the search may be long: it ends there.
    """
    import pytest
    from hypothesis import Phase, settings

    unshrunk = settings(settings.default, max_examples=400, phases=[Phase.explicit, Phase.generate], print_blob=False)(
        test
    )

    def counter_claim(*arguments: object, **keywords: object) -> None:
        with pytest.raises(AssertionError):
            unshrunk(*arguments, **keywords)

    # pytest reads the signature to find fixtures and parameters, and the name for its report.
    vars(counter_claim).update({k: v for k, v in vars(test).items() if not k.startswith("_hypothesis")})
    counter_claim.__name__, counter_claim.__doc__ = test.__name__, test.__doc__
    counter_claim.__module__, counter_claim.__qualname__ = test.__module__, test.__qualname__
    vars(counter_claim).update(__signature__=inspect.signature(test), refuted=True)  # the latter for the plugin
    return counter_claim
