"""One grammar for failures: what was observed, what was permitted, and where."""

import inspect
import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
    _demand(values.numpy(), expected.numpy(), atol + rtol * expected.abs().numpy(), claim)


def assert_in_balls(actual: Tensor, expected: np.ndarray, *, claim: str) -> None:
    """Demand that every entry lies in its ball: the exact value, give or take its counted error."""
    __tracebackhide__ = True
    _demand_shape(actual, expected.shape, claim)
    centres, radii = (np.vectorize(attrgetter(name), otypes=[object])(expected) for name in ("centre", "radius"))
    _demand(actual.detach().cpu().double().numpy(), centres, radii, claim)


def _demand_shape(actual: Tensor, expected: tuple[int, ...], claim: str) -> None:
    __tracebackhide__ = True
    if tuple(actual.shape) != expected:
        raise AssertionError(f"{claim}: shape is {tuple(actual.shape)}, but should be {expected}")


def _demand(values: np.ndarray, expected: np.ndarray, permitted: np.ndarray, claim: str) -> None:
    __tracebackhide__ = True
    worst = None
    for where in np.ndindex(expected.shape):
        value, limit = values[where].item(), permitted[where]
        if not math.isfinite(limit):
            raise AssertionError(f"{claim}: error may be {limit} [entry {where}]: the bound says nothing")
        finite = math.isfinite(value) and math.isfinite(expected[where])
        error = abs(expected[where] - type(expected[where])(value)) if finite else math.inf
        if error > limit:
            ratio = float(error / limit) if finite and limit else math.inf
            if worst is None or ratio > worst[0]:
                worst = ratio, where, error
    if worst is not None:
        ratio, where, error = worst
        raise AssertionError(
            f"{claim}: error is {float(error):.3g}, but should be at most {float(permitted[where]):.3g}, "
            f"{ratio:.3g} times less [entry {where}: actual={values[where].item()!r}, "
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
