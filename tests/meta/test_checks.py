"""Which checks run, what their results become in a report and in a test, and how an optimizer under test is driven."""

from argparse import Namespace
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch

from simplenet.testing import checks, optimizers
from simplenet.testing.checks import (
    BoundCheck,
    adam_checks,
    add_results,
    as_expected,
    demand_known,
    parametrized,
    run_adam,
)
from simplenet.testing.optimizers import ArrayOptimizer, Driven, Subject, SubjectError, attempt, differentiable, spelled
from simplenet.testing.oracle import Hyper, resolve_variant
from simplenet.testing.report import Report, Result, Status
from simplenet.testing.runner import TIME_LIMIT, Check, Recorder
from simplenet.testing.study import Study

NAMES = ["it starts", "it goes on", "it ends"]
ALL = [Check(name, lambda _: None) for name in NAMES]


def judged(check, status=None):
    """Return a result of a check that ran: it holds unless another status is given by its name."""
    return Result(check.name, (status or {}).get(check.name, Status.HOLDS), "a detail")


def reported(status=None, only=None, expected=None, progress=list):
    report = Report("subject")
    judge = partial(judged, status=status)
    add_results(report, ALL, judge, only=only, expected_failures=expected, progress=progress)
    return {result.check: result.status for result in report.results}


@pytest.mark.parametrize("only", [None, [], NAMES[:1], NAMES[1:], NAMES])
def test_the_chosen_checks_run_in_their_order(only):
    """All by default; the progress bar gets their list."""
    seen = []

    results = reported(only=only, progress=lambda chosen: seen.append(chosen) or chosen)

    chosen = [check for check in ALL if only is None or check.name in only]
    assert [*results] == [check.name for check in chosen]
    assert seen == [chosen]


def test_the_first_check_is_reported_if_it_fails_though_it_was_not_chosen():
    """The others depend on it."""
    assert reported({NAMES[0]: Status.FAILS}, NAMES[1:2]) == {NAMES[0]: Status.FAILS, NAMES[1]: Status.HOLDS}
    assert [*reported({NAMES[0]: Status.FAILS}, NAMES[1:2])] == NAMES[:2]
    assert reported({NAMES[0]: Status.FAILS}, NAMES[1:2], {NAMES[0]: ""})[NAMES[0]] is Status.EXPECTED
    assert [*reported({NAMES[0]: Status.NOT_APPLICABLE}, NAMES[1:2])] == NAMES[1:2]


def test_expected_failures_are_applied_to_each_result():
    assert reported({NAMES[1]: Status.FAILS}, expected={NAMES[1]: "", NAMES[2]: ""}) == dict(
        zip(NAMES, [Status.HOLDS, Status.EXPECTED, Status.FAILS], strict=True)
    )


@pytest.mark.parametrize("argument", ["only", "expected"])
def test_a_check_that_is_not_there_is_refused_with_those_that_are(argument):
    names = "it starts; it goes on; it ends"

    with pytest.raises(ValueError, match=f"^check is 'it flies', but should be one of: {names}$"):
        reported(**{argument: {NAMES[0]: "", "it flies": ""}})
    demand_known(NAMES, ALL)


@pytest.mark.parametrize(
    ("status", "becomes", "detail"),
    [
        (Status.FAILS, Status.EXPECTED, "as known (a detail)"),
        (Status.KNOWN, Status.EXPECTED, "as known (a detail)"),
        (Status.HOLDS, Status.FAILS, "holds, but was expected to fail: as known"),
        (Status.NOT_APPLICABLE, Status.NOT_APPLICABLE, "a detail"),
    ],
)
def test_an_expected_failure_has_to_fail(status, becomes, detail):
    """A check that is not applicable neither holds nor fails."""
    result = Result("it ends", status, "a detail", 1.5, "Traceback")

    assert as_expected(result, {"it ends": "as known"}) == replace(result, status=becomes, detail=detail)
    assert as_expected(result, {"it goes on": "as known"}) is result


@pytest.mark.parametrize(
    ("status", "traceback", "outcome", "text"),
    [
        (Status.FAILS, "", pytest.fail.Exception, "a detail"),
        (Status.FAILS, "Traceback", pytest.fail.Exception, "a detail\nTraceback"),
        (Status.NOT_APPLICABLE, "", pytest.skip.Exception, "not applicable: a detail"),
        (Status.KNOWN, "", pytest.xfail.Exception, "known torch defect: a detail"),
    ],
)
def test_a_result_becomes_the_outcome_of_a_test(status, traceback, outcome, text):
    """Without a traceback through this package."""
    check = BoundCheck("it ends", lambda: Result("it ends", status, "a detail", 0.0, traceback))

    with pytest.raises(outcome) as caught:
        check("subject")

    assert caught.value.msg == text
    assert status is not Status.FAILS or not caught.value.pytrace
    assert checks.__file__ not in {str(entry.path) for entry in caught.traceback.filter(caught)}


@pytest.mark.parametrize("status", [Status.HOLDS, Status.EXPECTED])
def test_a_check_that_holds_is_a_test_that_passes(status):
    BoundCheck("it ends", lambda: Result("it ends", status))()


def test_each_check_of_each_subject_is_a_parameter_and_an_expected_failure_strict():
    first, second = (BoundCheck(name, list) for name in NAMES[:2])

    mark = parametrized("adam", [("a", "A", [first, second]), ("b", "B", [second])], {NAMES[1]: "as known"}).mark

    names, parameters = mark.args
    assert (mark.name, names) == ("parametrize", ("adam", "check"))
    assert [parameter.id for parameter in parameters] == ["A-it starts", "A-it goes on", "B-it goes on"]
    assert [parameter.values for parameter in parameters] == [("a", first), ("a", second), ("b", second)]
    assert [[(m.name, m.kwargs) for m in parameter.marks] for parameter in parameters] == [
        [], [("xfail", {"strict": True, "reason": "as known"})], [("xfail", {"strict": True, "reason": "as known"})],
    ]  # fmt: skip


def test_checks_of_types_are_listed_for_the_chosen_types():
    """By default for float32, float64, bfloat16 and float16."""
    every = [check.name for check in adam_checks()]
    chosen = [check.name for check in adam_checks([torch.float64])]

    assert {name.rpartition(", ")[2] for name in every if ", " in name} == {"float32", "float64", "bfloat16", "float16"}
    assert chosen == [name for name in every if not name.endswith((", float32", ", bfloat16", ", float16"))]
    assert [check.name for check in adam_checks([])] == every


class Recorded:
    """Stands for ``run``: records the time limit of each check, and fails the checks in ``failing``."""

    def __init__(self, *failing):
        self.limits, self.failing = [], failing

    def __call__(self, check, _study, _recorder, time_limit):
        self.limits.append((check.name, time_limit))
        return Result(check.name, Status.FAILS if check.name in self.failing else Status.HOLDS)


def test_the_first_check_runs_once_with_the_time_of_each_type(monkeypatch):
    """And before any other."""
    run = Recorded()
    monkeypatch.setattr(checks, "run", run)
    monkeypatch.setattr(checks.time, "monotonic", lambda: 1000.0)
    first, second, third = adam_checks()[:3]
    study = Study(Subject(torch.optim.Adam), dtypes=[torch.float32, torch.float64])

    results = [run_adam(check, study, Recorder(), 6.0) for check in (second, first, third)]

    assert [result.check for result in results] == [second.name, first.name, third.name]
    assert run.limits == [(first.name, 12.0), (second.name, 6.0), (third.name, 6.0)]
    assert study.enough == 1002.0  # a third of the time limit, for examples


def test_a_failure_is_compared_with_torchs_own(monkeypatch):
    first, second = adam_checks()[:2]
    monkeypatch.setattr(checks, "run", Recorded(second.name))
    monkeypatch.setattr(checks, "recognized", lambda *arguments: arguments)
    study = Study(Subject(torch.optim.Adam))

    assert run_adam(second, study, Recorder(), 6.0) == (Result(second.name, Status.FAILS), second, study, 6.0)
    assert run_adam(first, study, Recorder(), 6.0) == Result(first.name, Status.HOLDS)


def test_if_the_first_check_fails_no_other_runs(monkeypatch):
    first, second = adam_checks()[:2]
    run = Recorded(first.name)
    monkeypatch.setattr(checks, "run", run)
    study = Study(Subject(torch.optim.Adam))

    result = run_adam(second, study, Recorder())

    assert result == Result(second.name, Status.NOT_APPLICABLE, "it takes no steps")
    assert run_adam(first, study, Recorder()).status is Status.FAILS
    assert len(run.limits) == 1


def test_all_options_of_check_adam_reach_its_checks(monkeypatch):
    seen = []
    monkeypatch.setattr(checks, "run", lambda *arguments: seen.append(arguments) or judged(arguments[0]))
    name, *_ = (check.name for check in adam_checks([torch.float64])[1:])

    report = checks.check_adam(
        torch.optim.AdamW, dtypes=[torch.float64], device="meta", variant="adamw", fixed={"eps": 0.5}, time_limit=7.0,
        only=[name], expected_failures={name: "as known"}, progress=lambda chosen: chosen[:1],
    )  # fmt: skip

    (_, study, recorder, limit), (check, *same) = seen
    assert check.name == name
    assert same == [study, recorder, limit]
    assert isinstance(recorder, Recorder)
    assert study.subject.make is torch.optim.AdamW
    assert (study.dtypes, study.asked, study.device.type) == ((torch.float64,), True, "meta")
    assert (str(study.demanded), study.subject.fixed, limit) == (str(resolve_variant("adamw")), {"eps": 0.5}, 7.0)
    assert [(result.check, result.status) for result in report.results] == [(name, Status.FAILS)]  # it holds
    assert report.subject == "AdamW"
    assert report.facts["time limit"] == "7 s a check, the first in each type"
    assert report.facts["torch"] == f"{torch.__version__}, meta, float64"
    of_another_type = next(check.name for check in adam_checks() if check.name.endswith(", float32"))
    with pytest.raises(ValueError, match=f"^check is '{of_another_type}', but should be one of: "):
        checks.check_adam(torch.optim.Adam, dtypes=[torch.float64], only=[of_another_type])


def test_all_options_of_the_parametrization_reach_its_checks(monkeypatch):
    seen = []
    monkeypatch.setattr(checks, "run", lambda *arguments: seen.append(arguments) or judged(arguments[0]))
    types = [torch.float64, torch.float32]

    arguments, every = checks.parametrize_with_checks([torch.optim.Adam, torch.optim.AdamW]).mark.args
    _, chosen = checks.parametrize_with_checks(
        [torch.optim.AdamW], dtypes=types, device="meta", variant="adamw", fixed={"eps": 0.5}, time_limit=7.0
    ).mark.args
    adam = chosen[0].values[0]
    for parameter in (every[0], chosen[0]):
        parameter.values[1](adam)

    names = [check.name for check in adam_checks()]
    assert arguments == ("adam", "check")
    assert [str(parameter.values[1]) for parameter in chosen] == [check.name for check in adam_checks(types)]
    assert [parameter.id for parameter in every] == [f"{one}-{name}" for one in ("Adam", "AdamW") for name in names]
    (plain, (_, study, recorder, limit)) = seen
    assert plain[1].device.type == "cpu"
    assert plain[3] == TIME_LIMIT * len(plain[1].dtypes)
    assert adam is study.subject.make is torch.optim.AdamW
    assert (study.dtypes, study.asked, study.device.type) == (tuple(types), True, "meta")
    assert (str(study.demanded), study.subject.fixed, limit) == (str(resolve_variant("adamw")), {"eps": 0.5}, 14.0)
    assert isinstance(recorder, Recorder)
    of_another_type = next(name for name in names if name.endswith(", float16"))
    with pytest.raises(ValueError, match=f"^check is '{of_another_type}', but should be one of: "):
        checks.parametrize_with_checks([torch.optim.Adam], dtypes=types, expected_failures={of_another_type: ""})


def facts_of(status=Status.HOLDS, *, takes=None, errors=None, **cached):
    """Return what a report says of an Adam that has been studied."""
    study = Study(Subject(torch.optim.Adam, takes=takes or {}), dtypes=[torch.float64, torch.bfloat16])
    study.first = Result("it starts", status)
    study.errors = errors or {}
    vars(study).update(cached)
    report = Report("Adam")
    recorder = Recorder()
    recorder.printed["a line"] = None
    checks._describe(report, study, recorder, 2.5)  # noqa: SLF001
    assert report.facts.pop("prints") == report.measured.pop("prints")[0] == "a line"
    assert report.facts.pop("time limit") == "2.5 s a check, the first in each type"
    assert report.facts.pop("torch") == f"{torch.__version__}, cpu, float64, bfloat16"
    assert report.measured.pop("accuracy") == study.errors
    return report.facts, report.measured


def test_a_report_names_the_variant_if_it_was_determined_and_is_published():
    adam, nearest = resolve_variant("adam"), "nearest is something"
    found = {"variant": adam, "published": True, "nearest": nearest, "undecided": ["eps", "amsgrad"]}
    published, undecided = (
        {"found": Namespace(**found | change)} for change in ({}, {"published": False, "undecided": []})
    )

    facts, measured = facts_of(**published)

    assert facts == {"variant": str(adam), "cannot be told apart": "eps; amsgrad", "takes": ""}
    assert measured == {"variant": vars(adam)}
    assert facts_of(**undecided) == ({"variant": f"none; {nearest}", "takes": ""}, {"variant": None})
    assert facts_of() == ({"takes": ""}, {})
    assert facts_of(Status.FAILS, **published) == ({}, {})  # which may have been by one of several types


def test_a_report_tells_the_names_of_hyper_parameters_and_a_weight_decay_that_is_not_zero():
    takes = {"lr": ("step_size",), "betas": ("b1", "b2"), "weight_decay": ("wd",)}

    assert facts_of(takes=takes)[0] == {"takes": "step_size, b1/b2, wd"}
    assert facts_of(own_decay=0.0, default_decay=0.0)[0] == {"takes": ""}
    assert facts_of(own_decay=0.0, default_decay=0.25)[0] == {"takes": "", "weight decay": "0.25 by default"}
    assert facts_of(own_decay=0.125, default_decay=0.25)[0] == {"takes": "", "weight decay": "0.125, always"}
    assert facts_of(Status.FAILS, takes=takes, own_decay=0.125) == ({}, {})


def test_a_report_tells_the_largest_error_in_each_type():
    of = {"of lr": 1.25e-7, "of bound": 0.5, "with float32 corrections": 0.0, "steps": 12.0}

    facts, _ = facts_of(errors={"float64": of, "bfloat16": of | {"with float32 corrections": 1.0}})

    text = "the largest error of a step is 1.2e-07 lr, 0.5 of the bound"
    assert facts == {
        "takes": "",
        "accuracy, float64": f"{text}, over 12 steps",
        "accuracy, bfloat16": f"{text} for corrections in float32, over 12 steps",
    }


def test_values_of_unknown_hyper_parameters_are_refused():
    with pytest.raises(ValueError, match=r"^fixed has alpha, gamma, but should have names of hyper-parameters$"):
        checks.check_adam(torch.optim.Adam, fixed={"gamma": 1, "eps": 1, "alpha": 1})


def decorated(params):
    return decorated.func(params)


decorated.func = torch.optim.Adam


class Factory:
    """Makes optimizers, without a name of its own."""

    def __call__(self, params):
        return torch.optim.Adam(params)


def made_by_a_function(params):
    return torch.optim.Adam(params)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (torch.optim.Adam, "Adam"),
        (made_by_a_function, "made_by_a_function"),
        (decorated, "decorated"),
        (Factory(), "Factory"),
        (partial(torch.optim.Adam, lr=0.5, foreach=False), "Adam(lr=0.5, foreach=False)"),
        (partial(partial(made_by_a_function), 1), "made_by_a_function"),
        (partial(differentiable, torch.optim.Adam), "differentiable"),
    ],
)
def test_the_name_of_a_subject_is_that_of_its_class_or_function_with_its_options(make, name):
    assert str(Subject(make)) == name
    assert str(Subject(make, name="another")) == "another"


def learnt(make, **options):
    subject = Subject(make, **options)
    subject.learn(lambda: [torch.zeros(1, requires_grad=True)])
    return subject


def test_a_subject_takes_torchs_hyper_parameters_by_the_names_in_its_signature():
    def make(params, learning_rate, b1=0.9, b2=0.99, *, epsilon=1e-8, beta1=0.0):  # noqa: ARG001
        return torch.optim.Adam(params)

    assert learnt(make).takes == {"lr": ("learning_rate",), "betas": ("b1", "b2"), "eps": ("epsilon",)}
    assert learnt(lambda params: torch.optim.Adam(params)).takes == {}  # noqa: PLW0108


@pytest.mark.parametrize("refused", ["amsgrad", "maximize"])
def test_a_flag_that_is_refused_if_it_is_set_is_not_taken(refused):
    tried = []

    def make(params, lr, eps, weight_decay, amsgrad=False, maximize=False):  # noqa: FBT002
        flags = {"amsgrad": amsgrad, "maximize": maximize}
        tried.append((lr, eps, weight_decay, *flags.values()))
        if flags[refused]:
            raise ValueError("no")
        return torch.optim.Adam(params)

    takes = learnt(make).takes

    assert {"lr", "eps", "weight_decay", "amsgrad", "maximize"} - takes.keys() == {refused}
    assert tried[0] == (1e-3, 1e-8, 0.0, False, False)


def test_an_adapter_declares_what_it_takes_in_its_start():
    """So no other name is tried."""
    tried = []

    class Adapter(ArrayOptimizer):
        def __init__(self, parameters, **options):
            tried.append([*options])
            super().__init__(parameters, **options)

        def start(self, parameters, lr, eps):
            pass

    assert [*learnt(Adapter).takes] == ["lr", "eps"]
    assert tried == [["lr", "eps"]]


@pytest.mark.parametrize("error", [ValueError("lr"), TypeError("nothing known")])
def test_a_constructor_that_always_raises_is_refused(error):
    def make(params, lr=1.0):  # noqa: ARG001
        raise error

    told = rf"^raises {type(error).__name__}: {error} when it is constructed$"
    with pytest.raises(SubjectError, match=told) as caught:
        learnt(make)
    assert caught.value.error is error
    with pytest.raises(SubjectError, match=told):
        Subject(make).build([torch.zeros(1)])


def test_a_name_that_the_constructor_refuses_is_replaced_by_the_next_or_left_out():
    """If its signature does not tell."""
    tried = []

    def make(params, **options):
        tried.append({*options})
        for name in ("lr", "learning_rate", "alpha", "betas", "beta1", "b1", "maximize", "weight_decay", "wd"):
            if name in options:
                raise RuntimeError(f"what is {name}?")
        return torch.optim.Adam(params)

    assert learnt(make).takes == {
        "lr": ("step_size",), "betas": ("beta_1", "beta_2"), "eps": ("eps",), "amsgrad": ("amsgrad",),
    }  # fmt: skip
    assert tried[0] == {"lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"}


TAKES = {"lr": ("lr",), "betas": ("b1", "b2"), "amsgrad": ("amsgrad",), "maximize": ("maximize",)}


def test_arguments_are_those_that_it_takes_and_flags_only_if_they_are_set():
    subject = Subject(torch.optim.Adam, takes=TAKES)

    assert subject.options(Hyper(lr=0.5, eps=1.0)) == {"lr": 0.5, "betas": (0.9, 0.999)}
    assert subject.options(Hyper(beta2=0.5, maximize=True)) == {"lr": 1e-3, "betas": (0.9, 0.5), "maximize": True}
    assert subject.options(Hyper(amsgrad=True)) == {"lr": 1e-3, "betas": (0.9, 0.999), "amsgrad": True}


def test_effective_hyper_parameters_are_the_wanted_ones_or_the_fixed_ones():
    subject = Subject(torch.optim.Adam, {"eps": 0.25, "lr": 9.0}, TAKES)

    assert subject.hyper(lr=0.5, beta1=0.25, beta2=0.75, eps=1.0, weight_decay=1.0) == Hyper(0.5, 0.25, 0.75, 0.25)
    assert subject.hyper() == Hyper(9.0, eps=0.25)


def test_an_optimizer_is_built_with_all_that_it_takes():
    got = {}

    def make(params, **options):
        got.update(options, params=params)
        return got

    p = torch.zeros(2)
    groups = [{"params": [p], "lr": 2.0}]
    driven = Subject(make, takes=TAKES).build(iter(groups), lr=0.5, eps=1.0)

    assert got == {"lr": 0.5, "b1": 0.9, "b2": 0.999, "params": groups}
    assert driven.optimizer is got
    assert driven.parameters == [p]
    assert spelled({"betas": (1, 2), "eps": 3}, {"betas": ("x", "y")}) == {"x": 1, "y": 2, "eps": 3}


class Counts:
    """Counts its steps, and raises an error at the last one."""

    def __init__(self, last):
        self.steps, self.last = 0, last

    def step(self, closure=None):
        self.steps += 1
        if self.steps == self.last:
            raise RuntimeError("enough")
        return closure and closure()


@pytest.mark.parametrize(("last", "where"), [(1, "the first step"), (5, "the fifth step"), (6, "step 6")])
def test_a_step_sets_each_gradient_and_is_named_in_an_error(last, where):
    driven = Driven(Counts(last), [torch.zeros(1), torch.zeros(2)])
    gradient = torch.ones(2)
    for _ in range(last - 1):
        driven.step(None, gradient)

    with pytest.raises(SubjectError, match=f"^raises RuntimeError: enough at {where}$"):
        driven.step(None, gradient)
    assert [p.grad for p in driven.parameters] == [None, gradient]
    assert driven.steps == last
    with pytest.raises(ValueError, match="argument"):
        driven.step(None)


def test_a_closure_is_passed_to_the_step_and_its_result_returned():
    assert Driven(Counts(9), []).step(closure=lambda: 7) == 7
    with pytest.raises(SubjectError, match=r"^raises RuntimeError: enough at the first step, with a closure$"):
        Driven(Counts(1), []).step(closure=lambda: 7)


def test_copies_have_values_of_their_own_and_the_count_of_steps():
    driven = Driven(torch.optim.SGD([p := torch.ones(2, requires_grad=True)], lr=1.0), [p])
    driven.step(torch.ones(2))

    values, twin = driven.values(), driven.copied()
    twin.step(torch.ones(2))
    driven.step(torch.ones(2))

    assert [v.tolist() for v in values] == [[0.0, 0.0]]
    assert not values[0].requires_grad
    assert (twin.steps, twin.values()[0].tolist()) == (2, [-1.0, -1.0])
    assert (driven.steps, driven.values()[0].tolist()) == (2, [-1.0, -1.0])


def test_an_optimizer_that_cannot_be_copied_is_told_after_how_many_steps():
    driven = Driven(Counts(9), [torch.zeros(1)])
    driven.step(None)
    driven.optimizer.cause = (i for i in "ab")

    with pytest.raises(SubjectError, match=r"^raises TypeError: .* in deepcopy after 1 steps$"):
        driven.copied()


def test_an_exit_of_the_code_under_test_is_its_failure_and_ctrl_c_is_not():
    def exits():
        raise SystemExit(3)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SubjectError, match=r"^raises SystemExit: 3 here$") as caught:
        attempt(exits, "here")
    assert isinstance(caught.value.__cause__, SystemExit)
    with pytest.raises(KeyboardInterrupt):
        attempt(interrupted, "here")
    assert attempt(lambda: 7, "here") == 7


def test_a_message_of_several_lines_is_one_line_of_200_characters_at_most():
    for length, shown in ((200, "x " + "y" * 198), (201, "x " + "y" * 198 + "...")):
        error = SubjectError(ValueError("x\n\n  " + "y" * (length - 2)), "here")
        assert str(error) == f"raises ValueError: {shown} here"


@pytest.mark.parametrize(
    ("method", "text"), [("start", "start(parameters, lr, ...)"), ("advance", "advance(gradients)")]
)
def test_an_adapter_without_one_of_its_methods_is_told_which(method, text):
    class Adapter(ArrayOptimizer):
        pass

    if method == "advance":
        Adapter.start = Mock()
    with pytest.raises(NotImplementedError) as caught:
        Adapter([torch.zeros(1)]).advance([])
    assert str(caught.value) == f"Adapter has no {text}"


def test_an_adapters_parameters_without_a_gradient_get_none():
    """It gets copies, which it may change."""
    seen = []

    class Adapter(ArrayOptimizer):
        def start(self, parameters, lr):
            self.parameters, self.lr = parameters, lr

        def advance(self, gradients):
            seen.append([g.tolist() for g in gradients])
            gradients[0] += 1
            self.parameters[0] -= self.lr
            return self.parameters

    p, q = torch.ones(1), torch.ones(2)
    optimizer = Adapter([p, q], lr=0.5)
    p.grad = g = torch.full((1,), 3.0)

    for _ in range(2):
        optimizer.step()

    assert seen == [[[3.0]], [[3.0]]]
    assert g.item() == 3
    assert (p.tolist(), q.tolist()) == ([0.0], [1.0, 1.0])


def test_parameters_of_a_differentiable_optimizer_do_not_require_gradients():
    """Of groups, too."""
    p, q = (torch.zeros(1, requires_grad=True) for _ in range(2))

    optimizer = differentiable(torch.optim.SGD, iter([{"params": [p]}, {"params": [q], "lr": 2.0}]), lr=1.0)

    assert not p.requires_grad
    assert not q.requires_grad
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 2.0]
    assert optimizers.parameters_in([p, {"params": [q, p]}]) == [p, q, p]
