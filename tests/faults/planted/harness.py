"""Faults in the test library: the bounds, the assertions, the strategies and the checks of ``simplenet.testing``."""

import math
from collections.abc import Callable
from typing import Any

import torch

from simplenet.testing import assertions, known, layouts, runner
from simplenet.testing import balls as arithmetic
from simplenet.testing.assertions import assert_identical, assert_in_balls, assert_within, refuted
from simplenet.testing.balls import Balls, balls
from simplenet.testing.bounds import gamma
from tests.faults.planting import catalogue, edit, replace, wrap

FAULTS, fault = catalogue("harness")


def message_of(call: Callable[[], object]) -> Callable[[], object]:
    """Witness the message of an assertion, or that it passes."""

    def run() -> object:
        try:
            return call()
        except AssertionError as error:
            return str(error)

    return run


def _within(actual: float) -> Callable[[], object]:
    return message_of(lambda: assert_within(torch.tensor([actual]), torch.ones(1), atol=0.1, claim="it"))


@fault(
    message_of(lambda: assert_identical(torch.tensor([0.0]), torch.tensor([-0.0]), claim="it")),
    "test_assert_identical_tells_signs_of_zero_bits_dtypes_and_shapes_apart",
)
def the_sign_of_zero_is_not_compared() -> None:
    """0 equals -0."""
    edit(assertions.identical, ("(actual.signbit() == expected.signbit())", "(actual == actual)"))


@fault(
    message_of(lambda: assert_identical(torch.tensor([1.0]), torch.tensor([1.0]).double(), claim="it")),
    "test_assert_identical_tells_signs_of_zero_bits_dtypes_and_shapes_apart",
)
def dtypes_are_not_compared() -> None:
    """1 in float32 equals 1 in float64."""
    edit(assert_identical, ("actual.dtype != expected.dtype", "False"))


@fault(
    message_of(lambda: assert_identical(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), claim="it")),
    "test_assert_identical_tells_signs_of_zero_bits_dtypes_and_shapes_apart",
)
def one_identical_entry_is_enough() -> None:
    """``any`` instead of ``all``."""
    edit(assert_identical, ("not same.all()", "not same.any()"))


@fault(_within(math.nan), "test_assert_within_fails_on_wrong_and_on_nonfinite_values")
def nan_is_within_any_bound() -> None:
    """A comparison with NaN is false."""
    edit(assertions._demand, ("errors, np.inf", "errors, np.nan"))


@fault(_within(1.5), "test_assert_within_passes_at_its_bound_and_fails_beyond_it")
def a_bound_is_a_thousand_times_as_large() -> None:
    """Instead of the counted roundings."""
    edit(assertions._demand, ("if (errors > permitted).any()", "if (errors > 1000 * permitted).any()"))


@fault(
    message_of(lambda: assert_within(torch.ones(2), torch.ones(1), claim="it")),
    "test_an_assertion_refuses_another_shape",
)
def shapes_are_broadcast_before_they_are_compared() -> None:
    """Two entries against one."""
    edit(assertions._demand_shape, ("tuple(actual.shape) != expected", "False"))


@fault(lambda: gamma(3, torch.float16), "test_gamma_bounds_every_product_of_that_many_roundings")
def gamma_is_linear() -> None:
    """``n u`` instead of ``n u / (1 - n u)``."""
    edit(gamma, ("nu / (1 - nu)", "nu"))


@fault(lambda: (balls(1.0, dtype=torch.float32) + 1).radius, "test_a_rounded_operation_of_torch_is_in_its_ball")
def a_ball_forgets_the_rounding_of_its_operation() -> None:
    """Only the operands' errors are propagated."""
    edit(Balls.rounded, ("(radius + magnitude * (ku / (1 - ku) + _OWN) + own) * _UP", "radius"))


@fault(
    lambda: (Balls(2.0, 0.5, dtype=torch.float32) * Balls(3.0, 0.5, dtype=torch.float32)).radius,
    "test_a_ball_contains_the_operation_on_every_point_of_its_operands",
)
def a_product_of_balls_forgets_one_error() -> None:
    """That of the first factor."""
    edit(arithmetic._product, (" + np.abs(b.centre.high) * _UP * a.radius", ""))


@fault(
    message_of(lambda: assert_in_balls(torch.tensor([1.0, 5.0]), balls([1.0, 1.0], dtype=torch.float32), claim="it")),
    "test_assert_in_balls_fails_outside_and_on_nan",
)
def one_entry_in_its_ball_is_enough() -> None:
    """The others may be outside."""
    edit(assertions._demand, ("if (errors > permitted).any()", "if (errors > permitted).all()"))


def _refuted() -> object:
    def holds() -> None:
        pass

    try:
        refuted(holds)()
    except BaseException as error:  # noqa: BLE001 - pytest's own is no Exception
        return type(error).__name__
    return "passes"


@fault(_refuted, "test_a_counter_claim_that_holds_is_a_failure")
def a_counter_claim_that_holds_is_refuted() -> None:
    """It need not fail."""
    edit(
        refuted,
        (
            "with pytest.raises(AssertionError):\n            unshrunk(**arguments)",
            "unshrunk(**arguments)",
        ),
    )


def _placed() -> object:
    placed = layouts.place(torch.ones(2, 3), "transposed")
    strided = layouts.place(torch.ones(2, 3), "strided")
    strided.base.fill_(0)
    return placed.tensor.is_contiguous(), strided.guard_is_intact()


@fault(_placed, "test_a_layout_has_the_strides_and_offset_of_its_name")
def every_layout_is_contiguous() -> None:
    """For every name."""
    edit(layouts._view, ("base.T", "base.reshape(base.T.shape)"))


@fault(_placed, "test_a_layout_holds_the_values_and_detects_writes_around_them")
def the_guard_is_always_intact() -> None:
    """Even if it was written to."""
    layouts.Placed.guard_is_intact = lambda _: True  # type: ignore[method-assign,assignment]


def _run(error: Exception) -> Callable[[], object]:
    def run() -> object:
        def fail(_: object) -> None:
            raise error

        return runner.run(runner.Check("it", fail), None, runner.Recorder()).status

    return run


@fault(_run(KeyError("state")), "test_any_other_exception_is_a_failure_with_its_traceback")
def a_check_that_raises_holds() -> None:
    """An exception of the code under test is ignored."""
    edit(
        runner.run,
        (
            "except (Exception, SystemExit) as error:\n        status, detail = (Status.FAILS,",
            "except (Exception, SystemExit) as error:\n        status, detail = (Status.HOLDS,",
        ),
    )


@fault(_run(AssertionError("wrong")), "test_a_planted_fault_is_named")
def a_check_that_fails_is_not_applicable() -> None:
    """Instead of a failure."""
    edit(
        runner.run,
        (
            "except (SubjectError, AssertionError) as error:\n        status, detail = (Status.FAILS,",
            "except (SubjectError, AssertionError) as error:\n        status, detail = (Status.NOT_APPLICABLE,",
        ),
    )


@fault(lambda: known._kind_of("a is 3: b"), "test_a_failure_that_differs_from_torchs_is_not_a_known_defect")
def every_failure_is_a_known_defect() -> None:
    """Any message matches."""
    edit(known._kind_of, ("re.sub('\\\\d+', '#', detail.partition(': ')[0])", "''"))


def _autocast() -> object:
    p = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([p])
    try:
        optimizer.step()
        return torch.is_autocast_enabled("cpu")
    finally:
        torch.set_autocast_enabled("cpu", False)


@fault(_autocast, "test_a_learning_rate_of_zero_moves_nothing", since=(2, 4))
def a_test_leaves_autocast_on() -> None:
    """Later tests compute in another dtype."""

    def change(step: Callable[..., Any], self: torch.optim.Adam, closure: Any = None) -> Any:
        torch.set_autocast_enabled("cpu", True)
        return step(self, closure)

    wrap(torch.optim.Adam, "step", change)


@fault(lambda: gamma(3, torch.float32), "test_the_suite", control=True)
def gamma_is_computed_by_another_name() -> None:
    """With the same result."""
    original = gamma

    def same(n: int, dtype: torch.dtype) -> float:
        return original(n, dtype)

    replace(original, same)
