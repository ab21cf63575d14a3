"""The suite itself: its assertions fail on wrong values, and its strategies draw from their domains."""

import inspect
import math
import re
import tomllib
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, find, given, settings
from hypothesis import strategies as st

from simplenet.testing import assertions, one_step, plugin
from simplenet.testing.assertions import assert_identical, assert_in_balls, assert_within, refuted
from simplenet.testing.balls import balls
from simplenet.testing.bounds import gamma, smallest_subnormal, unit_roundoff
from simplenet.testing.layouts import LAYOUTS, place
from simplenet.testing.one_step import Expected, assert_training_step
from simplenet.testing.plugin import user_checks
from simplenet.testing.strategies import DTYPES, floats
from tests.ledger import functions

PROJECT = Path(__file__).parents[2]

dtypes = st.sampled_from(DTYPES)


@given(dtype=dtypes)
def test_the_unit_roundoff_is_half_the_spacing_at_one(dtype):
    one = torch.ones((), dtype=dtype)
    u = unit_roundoff(dtype)

    assert one + u == one  # a tie, to even
    assert one + 2 * u > one


@given(dtype=dtypes)
def test_half_the_smallest_subnormal_rounds_to_zero(dtype):
    eta = smallest_subnormal(dtype)

    assert torch.tensor(eta, dtype=dtype) > 0
    assert torch.tensor(eta / 2, dtype=dtype) == 0


@given(dtype=dtypes, n=st.integers(1, 50))
def test_gamma_bounds_every_product_of_that_many_roundings(dtype, n):
    """Higham's lemma 3.1, in the worst case: all errors have one sign."""
    u = unit_roundoff(dtype)

    assert (1 + u) ** n - 1 <= gamma(n, dtype)
    assert 1 - (1 - u) ** n <= gamma(n, dtype)


def test_gamma_refuses_a_count_without_a_bound():
    with pytest.raises(ValueError, match=r"256 roundings .* have n u = 1"):
        gamma(256, torch.bfloat16)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [(1.0, 1.1), (float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan")), (float("nan"), float("nan"))],
)
def test_assert_within_fails_on_wrong_and_on_nonfinite_values(actual, expected):
    with pytest.raises(AssertionError, match=r"sabotage: (error|the bound) is .* \[entry \(0,\)"):
        assert_within(torch.tensor([actual]), torch.tensor([expected]), rtol=gamma(9, torch.float32), claim="sabotage")


def test_assert_within_passes_at_its_bound_and_fails_beyond_it():
    bound = gamma(4, torch.float32)

    assert_within(
        torch.tensor([1 + bound], dtype=torch.float64), torch.tensor([1.0]), rtol=bound * (1 + 1e-9), claim=""
    )
    assert_within(torch.tensor([1.5]), torch.tensor([1.0]), atol=0.5, claim="at its bound")
    with pytest.raises(AssertionError, match=r"times its bound"):
        assert_within(torch.tensor([1 + 2 * bound], dtype=torch.float64), torch.tensor([1.0]), rtol=bound, claim="")


def test_assert_in_balls_fails_outside_and_on_nan():
    expected = balls([1.0, 1.0], dtype=torch.float32) * balls([1.0, 1.0], dtype=torch.float32)

    assert_in_balls(torch.tensor([1.0, 1.0]), expected, claim="product")
    for wrong in (1 + 2**-22, math.nan, math.inf):
        with pytest.raises(AssertionError, match=r"product: error is .* \[entry \(1,\)"):
            assert_in_balls(torch.tensor([1.0, wrong]), expected, claim="product")


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor([1.0]), torch.tensor([1.0 + 2**-23])),
        (torch.tensor([1.0]), torch.tensor([math.nan])),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
        (torch.tensor([1.0]), torch.tensor([[1.0]])),
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 3.0])),
        (torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [3.0, -4.0]])),
    ],
)
def test_assert_identical_tells_signs_of_zero_bits_dtypes_and_shapes_apart(actual, expected):
    assert_identical(actual, actual.clone(), claim="itself")
    with pytest.raises(AssertionError, match="sabotage"):
        assert_identical(actual, expected, claim="sabotage")


def test_entries_that_differ_are_counted_and_the_first_is_shown():
    actual, expected = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 3.0, 5.0]])

    with pytest.raises(AssertionError) as caught:
        assert_identical(actual, expected, claim="rows")

    text = "2 of 3 entries differ, but all should be identical [entry (0, 1): actual=2.0, expected=3.0]"
    assert str(caught.value) == f"rows: {text}"


def test_one_wrong_entry_of_many_fails_the_assertion():
    """At any position, which the message contains."""
    for i in range(4):
        actual = torch.ones(4)
        actual[i] = 2
        where = rf"\[entry \({i},\): actual=2.0"
        with pytest.raises(AssertionError, match=where):
            assert_within(actual, torch.ones(4), atol=0.5, claim="sabotage")
        with pytest.raises(AssertionError, match=where):
            assert_in_balls(actual, balls(torch.ones(4), dtype=torch.float32), claim="sabotage")


@pytest.mark.parametrize(("actual", "expected"), [((2,), (1,)), ((1,), (2,)), ((), (1,)), ((2, 1), (2,)), ((0,), (1,))])
def test_an_assertion_refuses_another_shape(actual, expected):
    """Assertions do not broadcast."""
    one, other = torch.ones(actual), torch.ones(expected)

    for call in (
        lambda: assert_identical(one, other, claim="sabotage"),
        lambda: assert_within(one, other, atol=1.0, claim="sabotage"),
        lambda: assert_in_balls(one, balls(other, dtype=torch.float32), claim="sabotage"),
    ):
        with pytest.raises(AssertionError, match=rf"sabotage: shape is {re.escape(str(actual))}, but should be"):
            call()


def test_an_assertion_permits_no_error_by_default():
    """The expected value may be a Python number, which is a float64."""
    one, next_ = torch.ones(1), torch.ones(1).nextafter(torch.full((1,), 2.0))

    assert_within(torch.tensor(0.1, dtype=torch.float64), 0.1, claim="a number")
    with pytest.raises(AssertionError, match=r"at most 0 \[entry \(1,\)"):
        assert_within(torch.tensor([1.0, 2.0]), torch.ones(2), claim="one of two")
    for expected in (next_, torch.zeros(1)):
        with pytest.raises(AssertionError, match="but should be at most 0 "):
            assert_within(one, expected, claim="sabotage")


def test_a_wrong_part_of_a_training_step_is_named():
    """Of a step without moments, only the weights are compared."""
    one, two = torch.ones(2), torch.full((2,), 2.0)
    ball = balls(one, dtype=torch.float32)
    expected = Expected(ball, ball, ball, None)

    for i, name in enumerate(("weights", "first moments", "second moments")):
        parts = [one, one, one]
        assert_training_step(parts[: i + 1], expected, claim="of step 3")
        parts[i] = two
        with pytest.raises(AssertionError, match=f"^{name} of step 3: error is 1, inf times its bound"):
            assert_training_step(parts, expected, claim="of step 3")


def test_a_failed_assertion_is_shown_without_its_own_lines():
    """The last line that pytest shows is that of the test."""
    one, two = torch.ones(1), torch.full((1,), 2.0)
    ball = balls(two, dtype=torch.float32)
    longer = torch.ones(2)

    for call in (
        lambda: assert_identical(one, two, claim="sabotage"),
        lambda: assert_identical(longer, two, claim="sabotage"),
        lambda: assert_within(one, two, claim="sabotage"),
        lambda: assert_in_balls(one, ball, claim="sabotage"),
        lambda: assert_training_step([one], Expected(ball, ball, ball, None), claim="sabotage"),
    ):
        with pytest.raises(AssertionError) as caught:
            call()

        assert {assertions.__file__, one_step.__file__}.isdisjoint(
            str(entry.path) for entry in caught.traceback.filter(caught)
        )


def test_a_counter_claim_that_holds_is_a_failure():
    @refuted
    @given(n=st.integers())
    def true_claim(n):
        assert n == n  # noqa: PLR0124

    with pytest.raises(pytest.fail.Exception):
        true_claim()


def test_a_counter_claim_that_crashes_is_not_refuted():
    @refuted
    @given(n=st.integers())
    def broken(n):  # noqa: ARG001
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()


def test_a_counter_claim_is_searched_for_in_400_examples_and_the_first_suffices():
    """It is tried once more, to be raised, but not shrunk. Explicit examples come before the others."""
    tried = []

    def search(claim):
        tried.clear()
        with suppress(pytest.fail.Exception):
            refuted(claim)()
        return len(tried)

    @given(n=st.integers(0, 10**12))
    def false_from_the_300th_on(n):
        tried.append(n)
        assert n not in tried[299:][:1]

    def true(n):
        tried.append(n)

    assert search(false_from_the_300th_on) == 301
    assert search(given(n=st.integers(0, 10**12))(true)) == 400
    assert search(example(n=-1)(given(n=st.integers(0, 10**12))(true))) == 401
    assert tried[0] == -1


def test_a_counter_claim_is_its_test_to_pytest():
    """By its name, its docstring, its parameters and its marks. Hypothesis' settings are those of the search."""
    got = set()

    @pytest.mark.soak
    @given(n=st.integers())
    def claim(fixture, n):
        """A sentence."""
        got.add(fixture)
        assert n < 0

    counter = refuted(claim)
    counter(fixture=7)

    for name in ("__name__", "__qualname__", "__module__", "__doc__", "pytestmark"):
        assert getattr(counter, name) == getattr(claim, name), name
    assert list(inspect.signature(counter).parameters) == ["fixture"]
    assert counter.refuted
    assert not [name for name in vars(counter) if name.startswith("_hypothesis")]
    assert got == {7}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_floats_are_finite_and_exact_in_their_type(dtype, data):
    value = data.draw(floats(dtype))

    assert math.isfinite(value)
    assert torch.tensor(value, dtype=dtype).double().item() == value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "corner",
    [
        lambda value, _: value == 0 and math.copysign(1, value) < 0,
        lambda value, finfo: 0 < value < finfo.tiny,
        lambda value, finfo: value == finfo.max,
        lambda value, _: value > 1 and math.log2(value).is_integer(),
    ],
    ids=["-0", "subnormal", "largest", "power of two"],
)
def test_floats_reach_their_corners(dtype, corner):
    search = settings(
        max_examples=2000, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
    )

    find(floats(dtype), lambda value: corner(value, torch.finfo(dtype)), settings=search)


@pytest.mark.parametrize(
    ("layout", "strides", "offset"),
    [("contiguous", (4, 1), 0), ("transposed", (1, 3), 0), ("strided", (7, 1), 0), ("offset", (4, 1), 4),
     ("interleaved", (16, 2), 1)],
)  # fmt: skip
def test_a_layout_has_the_strides_and_offset_of_its_name(layout, strides, offset):
    """For a matrix of three rows and four columns."""
    placed = place(torch.ones(3, 4), layout).tensor

    assert (placed.stride(), placed.storage_offset()) == (strides, offset)


def test_every_layout_has_its_strides_tested():
    (mark,) = test_a_layout_has_the_strides_and_offset_of_its_name.pytestmark

    assert [layout for layout, *_ in mark.args[1]] == list(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_holds_the_values_and_detects_writes_around_them(layout):
    values = torch.arange(12.0).reshape(3, 4)
    placed = place(values, layout)
    assert_identical(placed.tensor, values, claim="the view")
    assert placed.guard_is_intact()

    placed.base[placed.guard] += 1

    assert_identical(placed.tensor, values, claim="the view")
    assert placed.guard_is_intact() == (not placed.guard.any())
    assert placed.guard.sum() == placed.base.numel() - values.numel()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_keeps_the_device_and_the_type(layout):
    placed = place(torch.ones(3, 4, dtype=torch.float64, device="meta"), layout)

    assert all(part.is_meta for part in (placed.tensor, placed.base, placed.guard))
    assert placed.tensor.dtype == placed.base.dtype == torch.float64


class Options:
    """A stand-in for pytest's configuration, with the options of a run."""

    def __init__(self, **options):
        self._options = {"device": "cpu", "adam": None, "net": None, **options}

    def getoption(self, name):
        return self._options[name.removeprefix("--")]


@pytest.mark.parametrize(
    ("options", "subject"), [({"adam": "torch.optim:NAdam"}, "NAdam"), ({"net": "torch.nn:Identity"}, "Identity")]
)
def test_the_object_named_by_an_option_is_checked(options, subject):
    config = Options(**options)

    checks = user_checks(config, f"--{next(iter(options))}")

    assert [check.judge.args[0].name for check in checks] == [str(check) for check in checks]
    study = checks[0].judge.args[1]
    assert subject in (str(getattr(study, "subject", "")), getattr(study, "name", ""))
    assert user_checks(Options(), "--adam") == user_checks(Options(), "--net") == []


@pytest.mark.parametrize("path", ["torch.optim:Adan", "no_such_module:Adam", "Adam", ""])
@pytest.mark.parametrize("option", ["adam", "net"])
def test_a_path_that_cannot_be_imported_is_refused_by_name(option, path):
    with pytest.raises(ValueError, match=rf"^--{option}: '{path}' should be the pkg\.mod:name"):
        user_checks(Options(**{option: path}), f"--{option}")


def test_no_test_uses_fixtures_that_warn_under_junitxml():
    """``record_property`` does. An item's ``user_properties`` serve the same purpose without a warning."""
    asking = [f.name for _, f in functions() for argument in f.args.args if argument.arg.startswith("record_")]

    assert not asking


@pytest.mark.parametrize("kind, device", [("cpu", torch.device("cpu"))])  # noqa: PT006 - users may write it like this
def test_a_test_may_bring_its_own_values_of_a_fixture(kind, device):
    assert device.type == kind


class Metafunc:
    """A stand-in for the metafunc of a test that uses a fixture."""

    def __init__(self, config, fixture):
        self.config, self.fixturenames, self.values = config, [fixture], {}
        self.definition = Namespace(iter_markers=lambda _: [])

    def parametrize(self, fixture, values, **_):
        self.values[fixture] = values


def test_the_checks_of_a_users_object_are_built_only_for_their_test(monkeypatch):
    """And not for each of the thousands of other tests."""
    made = []
    monkeypatch.setattr(plugin, "user_checks", lambda _, option: made.append(option) or [option])
    tests = [Metafunc(Options(), fixture) for fixture in ("device", "adam", "adam_check")]

    for test in tests:
        plugin.pytest_generate_tests(test)

    assert made == ["--adam"]
    assert tests[-1].values == {"adam_check": ["--adam"]}


def test_every_test_that_is_named_to_mutmut_exists():
    """A renamed test would no longer be left out, or would end mutmut's run."""
    options = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["mutmut"]
    left_out = [arg.removeprefix("--deselect=") for arg in options["pytest_add_cli_args"] if "--deselect=" in arg]

    for name in (*options["pytest_add_cli_args_test_selection"], *left_out):
        file, _, test = name.partition("::")
        text = (PROJECT / file).read_text("utf-8")
        assert not test or f"\ndef {test.partition('[')[0]}(" in text, f"{name} is named in pyproject.toml, but missing"
