"""The checks of an Adam kill every planted fault, pass correct optimizers, and identify other optimizers."""

import inspect
import re
from functools import partial

import numpy as np
import pytest
import torch

from simplenet.environment import TORCH
from simplenet.testing.adam_interface import CHECKS
from simplenet.testing.checks import adam_checks, check_adam
from simplenet.testing.known import DEFECTS
from simplenet.testing.optimizers import ArrayOptimizer, Driven, Subject, SubjectError, differentiable
from simplenet.testing.oracle import Variant
from simplenet.testing.report import Status
from simplenet.testing.runner import Check, Recorder, run
from simplenet.testing.strategies import adam_arithmetic, skip_where_missing
from simplenet.testing.study import Study
from tests.faults import adam, bookkeeping
from tests.faults.bookkeeping import broken

VARIANT = "it is a published variant of Adam"
BOUND = "every step is within its bound, float32"
NO_EFFECT = "no option is without effect"
ARITHMETIC = {
    "no first correction": VARIANT,
    "no second correction": VARIANT,
    "t one behind": VARIANT,
    "eps inside the root": VARIANT,
    "eps before the correction": VARIANT,
    "eps dropped": VARIANT,
    "betas swapped": VARIANT,
    "g for g squared": VARIANT,
    "L2 for decoupled": VARIANT,
    "decoupled for L2": VARIANT,
    "decay dropped": NO_EFFECT,
    "maximize ignored": "maximizing is minimizing the negated gradients",
    "amsgrad ignored": NO_EFFECT,
    "step 0.9 % too long": "the first step has its closed form, float32",
    "last entry skipped": BOUND,
    "first moment forgotten": BOUND,
}
INTERFACE = {
    "options of the first group for all": "groups keep their own options",
    "group added later ignored": "a group may be added later",
    "group added later has the betas of the first": "a group may be added later",
    "schedule ignored": "a schedule is followed",
    "closure ignored": "a closure is called once and its loss returned",
    "closure called twice": "a closure is called once and its loss returned",
    "closure without gradients": "a closure is called once and its loss returned",
    "loss not returned": "a closure is called once and its loss returned",
    "nothing saved": "a saved run continues as if never interrupted",
    "first moment not loaded": "a saved run continues as if never interrupted",
    "count not copied": "a deep copy continues identically",
    "gradient decayed in place": "gradients are not written to",
    "gradient clipped in place": "gradients are not written to",
    "gradient kept": "gradients are not written to",
    "betas written to": "hyper-parameters are not written to",
    "tensor lr written to": "hyper-parameters are not written to",
    "generator seeded": "the same run repeats itself",
    "no gradient taken for zero": "a parameter without a gradient does not move",
    "last parameter skipped": "each parameter moves independently",
    "one count for all parameters": "each parameter moves independently",
    "count stops at 256": "300 steps stay within their bounds, float32",
    "count in the parameter's type": "the step count continues past two to the 24",
    "contiguity assumed": "memory layout changes nothing",
    "fails on an empty parameter": "an empty parameter changes nothing",
    "not finite anywhere": "a gradient that is not finite stays in its entry",
    "anything accepted": "invalid hyper-parameters are refused",
    "eps ignored": NO_EFFECT,
    "decay that stays on": "a zero gradient moves nothing, float32",
    "gradient in 8 bits where it is large": BOUND,
    "noise": "the same run repeats itself",
    "NaN taken for zero": "a gradient that is not finite is seen in its entry",
    "clearing leaves NaN": "clearing gradients clears them",
    "state kept by parameter": "a new optimizer starts without state",
    "options not loaded": "a loaded state brings its options",
    "past a hundred parameters the last is skipped": "each parameter moves independently",
    "past 65,536 numbers nothing moves": BOUND,
    "one type for all": "parameters of several types move independently",
    "KeyError at the second step": "it takes steps",
}
# The variant to check for; L2 for decoupled decay is a fault of AdamW alone.
DEMANDED = dict.fromkeys(adam.FAULTS, "adam") | {"L2 for decoupled": "adamw"}


def test_every_fault_has_a_check_that_kills_it():
    assert ARITHMETIC.keys() == set(adam.FAULTS)
    assert INTERFACE.keys() == set(bookkeeping.FAULTS)


def killed_by(make, check, dtypes=(torch.float32,), **options):
    report = check_adam(make, dtypes=dtypes, only=["it takes steps", check], **options)
    return report[check]


@pytest.mark.parametrize("fault", ARITHMETIC)
def test_a_fault_in_the_arithmetic_is_named(fault):
    variant = DEMANDED[fault]
    make = partial(adam.FaultyAdam, fault=fault, decoupled=variant == "adamw")

    result = killed_by(make, ARITHMETIC[fault], variant=variant)

    assert result.status is Status.FAILS, result
    assert "\n" not in result.detail


def test_an_exception_in_a_memory_layout_names_the_layout():
    """Numbers that share their memory cannot be written to."""
    result = killed_by(broken("gradient clipped in place"), "memory layout changes nothing")

    assert result.detail.startswith("raises RuntimeError: unsupported operation: more than one element")
    assert result.detail.endswith("at step 1 [contiguous parameter, expanded gradient]")


@pytest.mark.parametrize("fault", INTERFACE)
def test_a_fault_in_the_bookkeeping_is_named(fault):
    result = killed_by(broken(fault), INTERFACE[fault], bookkeeping.TYPES.get(fault, (torch.float32,)))

    assert result.status is Status.FAILS, result
    assert "\n" not in result.detail


def test_without_a_fault_both_optimizers_pass():
    """Except for torch's known defects."""
    for make, variant in (
        (partial(adam.FaultyAdam, fault=None), "adam"),
        (partial(adam.FaultyAdam, fault=None, decoupled=True), "adamw"),
        (broken(None), "adam"),
    ):
        report = check_adam(make, dtypes=[torch.float32], variant=variant)

        assert report.passed, str(report)
        assert not report.failures


class Drifts(torch.optim.Adam):
    """Each step moves the parameters by 1 more, and does not have torch's defect in float16."""

    def step(self, closure=None):
        self.param_groups[0]["eps"] = max(self.param_groups[0]["eps"], 1e-3)
        super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(1)


def test_a_failure_that_differs_from_torchs_is_not_a_known_defect():
    """In torch, a zero gradient makes a float16 parameter NaN. Any other change by a zero gradient is a failure."""
    check = "a zero gradient moves nothing, float16"
    skip_where_missing(adam_arithmetic, torch.float16, torch.device("cpu"))
    own, drifts = (check_adam(make, only=["it takes steps", check])[check] for make in (torch.optim.Adam, Drifts))

    assert own.status is Status.KNOWN
    assert "parameter is nan" in own.detail
    assert drifts.status is Status.FAILS, drifts


class FixedEps(torch.optim.Adam):
    """Takes only a learning rate."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr)


def test_a_class_with_fewer_parameters_than_torchs_is_compared_with_torchs_at_its_fixed_values():
    """Its epsilon of 1e-8 cannot be changed, and is 0 in float16; one of 1e-3 is not."""
    checks = ["a zero gradient moves nothing, float16", "a learning rate of zero moves nothing, float16"]
    skip_where_missing(adam_arithmetic, torch.float16, torch.device("cpu"))

    report = check_adam(FixedEps, only=["it takes steps", *checks])
    drifts = check_adam(lambda params: Drifts(params, eps=1e-3), fixed={"eps": 1e-3}, only=["it takes steps", *checks])

    assert [report[check].status for check in checks] == [Status.KNOWN] * 2, str(report)
    assert drifts[checks[0]].status is Status.FAILS, str(drifts)


@pytest.mark.parametrize("name", ["NAdam", "Adamax", "RMSprop", "Adagrad", "SGD"])
def test_an_optimizer_that_is_not_an_adam_is_named(name):
    report = check_adam(getattr(torch.optim, name), dtypes=[torch.float32], only=[VARIANT, BOUND])

    assert "no variant of Adam" in report[VARIANT].detail
    assert report.failures.keys() == {VARIANT, BOUND}
    assert report.facts["variant"].startswith("none; the nearest")


class WritesToItsBetas(torch.optim.Adam):
    """Its groups have the betas by names of its own, and each step shortens the second average."""

    def __init__(self, params, lr=1e-3, beta1=0.9, beta2=0.999):
        super().__init__(params, lr, (beta1, beta2))
        for options in (self.defaults, *self.param_groups):
            options["beta1"], options["beta2"] = options.pop("betas")

    def step(self):
        for group in self.param_groups:
            group["betas"] = group["beta1"], group["beta2"]
        super().step()
        for group in self.param_groups:
            del group["betas"]
            group["beta2"] /= 2


def test_hyper_parameters_are_compared_by_their_names_in_the_groups():
    result = killed_by(WritesToItsBetas, "hyper-parameters are not written to")

    assert result.detail == "beta2 of a group is 0.0625 after 3 steps, but was given as 0.5"


def test_the_first_step_is_compared_at_the_fixed_hyper_parameters():
    name = "the first step has its closed form, float64"

    report = check_adam(
        lambda params, lr: torch.optim.Adam(params, lr, (0.5, 0.75), 0.25),
        fixed={"beta1": 0.5, "beta2": 0.75, "eps": 0.25}, dtypes=[torch.float64], only=[name],
    )  # fmt: skip

    assert report[name].status is Status.HOLDS, report[name]


class Longer(torch.optim.Adam):
    """Each step is longer than it should be, by more than its bound in float64, but by no digit of float32."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, lr * (1 + 2.0**-40), betas, eps)


@pytest.mark.parametrize(
    ("check", "numbers"),
    [
        ("the first step has its closed form", r"leads to (\S+), but should lead to (\S+) with a relative error of"),
        ("every step is within its bound", r"from 0 to (\S+), but should lead to (\S+) ± "),
    ],
)
def test_a_message_has_the_digits_that_differ(check, numbers):
    name, variant = f"{check}, float64", Variant(scalars="float64")

    detail = check_adam(Longer, dtypes=[torch.float64], variant=variant, only=[name]).failures[name]

    actual, expected = re.search(numbers, detail).groups()
    assert actual != expected


def test_a_failure_in_both_types_of_corrections_is_measured_in_that_of_the_variant():
    """By default float64, in which the report says that the nearest variant computes them."""
    report = check_adam(torch.optim.NAdam, dtypes=[torch.float32], only=[VARIANT, BOUND])

    assert report.facts["variant"].endswith("corrections in float64")
    assert "corrections" not in report.facts["accuracy, float32"]
    assert report.failures[VARIANT].endswith(report.facts["variant"].removeprefix("none; "))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("fault", "decoupled", "axis", "value"),
    [
        (None, False, "epsilon", "outside"),
        (None, False, "decay", "L2"),
        (None, True, "decay", "decoupled, times lr"),
        ("no second correction", False, "correction", "first only"),
        ("eps inside the root", False, "epsilon", "inside the root"),
        ("eps before the correction", False, "epsilon", "before the correction"),
        ("decay dropped", False, "decay", "none"),
        ("amsgrad ignored", False, "amsgrad", "none"),
    ],
)
def test_the_variant_is_found_in_every_dtype(dtype, fault, decoupled, axis, value):
    """The settings are chosen so that even bfloat16, with its three digits, distinguishes the variants."""
    skip_where_missing(adam_arithmetic, dtype, torch.device("cpu"))

    report = check_adam(partial(adam.FaultyAdam, fault=fault, decoupled=decoupled), dtypes=[dtype], only=[VARIANT])

    assert report.measured["variant"][axis] == value
    assert "cannot be told apart" not in report.facts
    assert report.passed


@pytest.mark.parametrize(
    ("demanded", "departure"),
    [
        ("adam", "decay is 'decoupled, times lr', but should be 'L2'"),
        ("remark of section 2", "epsilon is 'outside', but should be 'before the correction'"),
        (Variant(correction="none"), "correction is 'both', but should be 'none'"),
    ],
)
def test_a_variant_other_than_the_required_one_is_a_failure(demanded, departure):
    """Even if it is another published variant, as in DeepSpeed PR 8307."""
    report = check_adam(torch.optim.AdamW, dtypes=[torch.float32], variant=demanded, only=[VARIANT, BOUND])

    assert departure in report.failures[VARIANT]
    assert BOUND in report.failures


def test_float32_corrections_are_reported_and_can_be_refused():
    make = partial(differentiable, torch.optim.Adam, differentiable=True)
    options = {"dtypes": [torch.float64], "only": [VARIANT, BOUND.replace("float32", "float64")]}

    report = check_adam(make, **options)
    demanding = check_adam(make, variant=Variant(scalars="float64"), **options)

    assert report.passed
    assert "corrections in float32" in report.facts["variant"]
    assert not demanding.passed


@pytest.mark.skipif(TORCH < (2, 1), reason="torch 2.0 does not compile under Python 3.11")
def test_a_check_compiles_every_variant_of_a_compiled_function():
    """By default torch compiles eight variants of a function, and runs the ninth uncompiled without a warning."""
    compiled = torch.compile(
        lambda x: torch.zeros_like(x) if torch._dynamo.is_compiling() else x,  # noqa: SLF001
        backend="eager",
        dynamic=False,
    )

    def runs_compiled(_subject):
        uncompiled = [n for n in range(1, 11) if compiled(torch.ones(n)).any()]
        assert not uncompiled, f"{uncompiled} entries are computed uncompiled"

    assert run(Check("it runs compiled", runs_compiled), None, Recorder()).detail == ""


def test_names_of_checks_are_distinct_sentences():
    names = [check.name for check in adam_checks()]

    assert len(set(names)) == len(names)
    assert all(any(name.startswith(defect.check) for name in names) for defect in DEFECTS)
    assert all("_" not in check.name for check in CHECKS)


@pytest.mark.parametrize(
    ("name", "compared"),
    [("each parameter moves independently", "3 of 128 parameters"),
     ("memory layout changes nothing", "3 of 30 pairs of layouts")],
)  # fmt: skip
def test_a_check_that_runs_out_of_time_reports_how_much_it_compared(name, compared, monkeypatch):
    """Of 2, 6 and 120 parameters, the first of each is compared in any case, unless there is no time to begin."""
    asked = iter([True, True, True])
    monkeypatch.setattr(Study, "in_time", lambda _: next(asked, False))

    result = check_adam(torch.optim.Adam, only=[name])[name]

    assert (result.status, result.detail) == (Status.HOLDS, f"the time limit allowed only {compared}")


def test_the_optimizer_of_a_check_has_parameters_of_the_checks_type_and_a_rate_that_moves_them():
    """By default of the first type that it takes; in every type, a step of 1 is neither lost nor infinite."""
    study = Study(Subject(torch.optim.Adam), dtypes=[torch.float64, torch.float16])

    default = study.driven([0.0, 1.0], 2.0)
    assert [p.dtype for p in default.parameters] == [torch.float64] * 2

    for dtype in study.dtypes:
        skip_where_missing(adam_arithmetic, dtype, study.device)
        driven = study.driven([0.0, 1.0], 2.0, dtype=dtype)
        before = [p.detach().clone() for p in driven.parameters]
        driven.step(*(torch.ones_like(p) for p in before))
        moved = [(after - p).abs() for after, p in zip(driven.parameters, before, strict=True)]
        assert [p.dtype for p in driven.parameters] == [dtype] * 2
        assert all(bool((step > 0).all() and (step < 1).all()) for step in moved)


@pytest.mark.parametrize(("steps", "which"), [(1, "the first step"), (5, "the fifth step"), (21, "step 21")])
def test_an_exception_is_reported_with_its_step(steps, which):
    driven = Study(Subject(torch.optim.SGD)).driven([0.0], dtype=torch.float32)
    for _ in range(steps - 1):
        driven.step(torch.ones(1))
    driven.optimizer.step = None

    with pytest.raises(SubjectError, match=f"^raises TypeError: 'NoneType' object is not callable at {which}$"):
        driven.step(torch.ones(1))


@pytest.mark.parametrize("step_size", ["lr", "learning_rate", "step_size", "alpha"])
@pytest.mark.parametrize("decay", ["weight_decay", "wd"])
@pytest.mark.parametrize("declared", [True, False])
def test_hyper_parameters_are_found_by_the_names_in_use(step_size, decay, declared):
    """In the signature, or by trial if it has ``**kwargs``."""

    def renamed(params, **options):
        if unknown := options.keys() - {step_size, decay}:
            raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
        return torch.optim.AdamW(params, lr=options.get(step_size, 1e-3), weight_decay=options.get(decay, 0.0))

    if declared:
        names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in (step_size, decay)]
        renamed.__signature__ = inspect.Signature(names)

    report = check_adam(renamed, dtypes=[torch.float32], only=["it takes steps", VARIANT])

    assert report.facts["takes"] == f"{step_size}, {decay}"
    assert report.measured["variant"]["decay"] == "decoupled, times lr"


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        ([np.zeros(3)], "ValueError: advance returns 1 parameters, but should return 2"),
        ([np.zeros(3), 1.0, 2.0], "ValueError: advance returns 3 parameters, but should return 2"),
        ([np.zeros(3, np.float32), 1.0],
         "TypeError: advance returns a parameter of torch.float32, but it should be of torch.float64"),
        ([np.zeros(4), 1.0], "ValueError: advance returns a parameter of shape (4,), but it should be of shape (3,)"),
    ],
    ids=["too few", "too many", "dtype", "size"],
)  # fmt: skip
def test_an_adapter_that_returns_other_parameters_than_it_got_is_told_so(returned, error):
    class Wrong(ArrayOptimizer):
        def start(self, parameters):
            assert [p.shape for p in parameters] == [(3,), ()]

        def advance(self, gradients):
            assert [g.shape for g in gradients] == [(3,), ()]
            return returned

    driven = Subject(Wrong).build([torch.ones(shape, dtype=torch.float64) for shape in [(3,), ()]])
    with pytest.raises(SubjectError) as raised:
        driven.step(*(torch.ones_like(p) for p in driven.parameters))

    assert str(raised.value) == f"raises {error} at the first step"


def test_an_adapter_may_return_parameters_in_another_shape_of_the_same_size():
    class Flat(ArrayOptimizer):
        def start(self, parameters):
            self.parameters = parameters

        def advance(self, gradients):
            return (p.ravel() - g.ravel() for p, g in zip(self.parameters, gradients, strict=True))

    driven = Subject(Flat).build([torch.tensor([[3.0, 4.0]]), torch.tensor(5.0)])
    driven.step(*(torch.ones_like(p) for p in driven.parameters))

    assert [p.tolist() for p in driven.parameters] == [[[2.0, 3.0]], 4.0]


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (lambda driven: driven.state_dict(), "in state_dict after 2 steps"),
        (lambda driven: driven.load({}), "in load_state_dict"),
        (lambda driven: driven.copied(), "in deepcopy after 2 steps"),
        (lambda driven: driven.step(closure=lambda: 1), "at the third step, with a closure"),
    ],
    ids=["state_dict", "load_state_dict", "deepcopy", "step"],
)
def test_an_exception_is_reported_with_the_method_that_raises_it(call, where):
    """A long message is cut."""

    class Raises:
        def step(self, *closure):
            if closure:
                self.state_dict()

        def state_dict(self):
            raise RuntimeError("x" * 201)

        __deepcopy__ = load_state_dict = lambda self, _: self.state_dict()

    driven = Driven(Raises(), [])
    for _ in range(2):
        driven.step()

    with pytest.raises(SubjectError) as raised:
        call(driven)
    assert str(raised.value) == f"raises RuntimeError: {'x' * 200}... {where}"
    assert isinstance(raised.value.error, RuntimeError)
