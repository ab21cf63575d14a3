"""Check an Adam in one call, or as tests in your own suite.

The interface follows scikit-learn's ``check_estimator`` and ``parametrize_with_checks``.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from simplenet.testing import adam, adam_interface
from simplenet.testing.known import recognized
from simplenet.testing.optimizers import Subject
from simplenet.testing.oracle import Hyper, Variant
from simplenet.testing.report import Report, Result, Status
from simplenet.testing.runner import TIME_LIMIT, Check, Recorder, run
from simplenet.testing.study import DTYPES, Study, short

if TYPE_CHECKING:
    import pytest

Progress = Callable[[Sequence[Check[Any]]], Iterable[Check[Any]]]


def adam_checks(dtypes: Sequence[torch.dtype] | None = None) -> list[Check[Study]]:
    """List the checks of an Adam, in the order in which they run."""
    return [*adam.PLAIN, *adam.by_dtype(tuple(dtypes or DTYPES)), *adam_interface.CHECKS]


def check_adam(  # noqa: PLR0913 - options for the user
    make: Callable[..., Any],
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    device: torch.device | str = "cpu",
    variant: str | Variant | None = None,
    expected_failures: Mapping[str, str] | None = None,
    fixed: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    time_limit: float = TIME_LIMIT,
    progress: Progress = list,
) -> Report:
    """Check an Adam from its parameters and gradients.

    Args:
        make: A class, a partial or a function, called with parameters and the hyper-parameters that it takes, by
            torch's names: ``make(parameters, lr=, betas=, eps=, weight_decay=, amsgrad=, maximize=)``. Wrap an
            optimizer of another framework in a subclass of ``ArrayOptimizer``.
        dtypes: The types that it must take; by default float32, float64, bfloat16 and float16, if it takes them.
        device: The device of its parameters.
        variant: Which Adam it must be: a ``Variant``, or ``algorithm 1``, ``adam``, ``adamw``, ``remark of section
            2``. By default it may be any published one, and the report says which.
        expected_failures: The names of checks that must fail, each with the reason.
        fixed: The values of hyper-parameters that it does not take, if they are not torch's defaults.
        only: The names of the checks to run; by default all.
        time_limit: Seconds after which a check is stopped, if the system supports timers.
        progress: A wrapper around the list of checks, such as ``tqdm``.

    Returns:
        The report: ``str(report)`` is a table, ``report.passed`` the verdict.

    Raises:
        ValueError: If there is no such variant, hyper-parameter or check.
    """
    if unknown := set(fixed or {}) - set(vars(Hyper())):
        raise ValueError(f"fixed has {', '.join(sorted(unknown))}, but should have names of hyper-parameters")
    study = Study(Subject(make, fixed=fixed or {}), dtypes=dtypes, device=device, variant=variant)
    report, recorder = Report(str(study.subject)), Recorder()
    judge = partial(run_adam, study=study, recorder=recorder, time_limit=time_limit)
    add_results(report, adam_checks(dtypes), judge, only=only, expected_failures=expected_failures, progress=progress)
    _describe(report, study, recorder, time_limit)
    return report


def add_results(  # noqa: PLR0913 - the options of check_adam
    report: Report,
    checks: Sequence[Check[Any]],
    judge: Callable[[Check[Any]], Result],
    *,
    only: Collection[str] | None,
    expected_failures: Mapping[str, str] | None,
    progress: Progress,
) -> None:
    """Add the results of the chosen checks to a report.

    All checks depend on the first one, so if that fails, it is reported in any case.

    Raises:
        ValueError: If there is no such check.
    """
    expected = dict(expected_failures or {})
    demand_known([*expected, *(only or ())], checks)
    chosen = [check for check in checks if only is None or check.name in only]
    for check in progress(chosen):
        report.results.append(as_expected(judge(check), expected))
    if checks[0] not in chosen and (first := judge(checks[0])).status is Status.FAILS:
        report.results.insert(0, as_expected(first, expected))


class BoundCheck:
    """A check of one subject, to be called in a test.

    Args:
        name: The name of the check.
        judge: A function that runs it.
    """

    def __init__(self, name: str, judge: Callable[[], Result]) -> None:
        self.name, self.judge = name, judge

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def __call__(self, _subject: object = None) -> None:
        """Run the check; if it is not applicable, skip the test; at a known defect of torch, make it an xfail."""
        import pytest

        __tracebackhide__ = True
        result = self.judge()
        if result.status is Status.FAILS:
            pytest.fail(result.detail + (f"\n{result.traceback}" if result.traceback else ""), pytrace=False)
        if result.status is Status.NOT_APPLICABLE:
            pytest.skip(f"not applicable: {result.detail}")
        if result.status is Status.KNOWN:
            pytest.xfail(f"known torch defect: {result.detail}")


def bound_checks(
    study: Study, dtypes: Sequence[torch.dtype] | None = None, time_limit: float = TIME_LIMIT
) -> list[BoundCheck]:
    """List the checks of an Adam, bound to it."""
    return [
        BoundCheck(check.name, partial(run_adam, check, study, Recorder(), time_limit)) for check in adam_checks(dtypes)
    ]


def parametrize_with_checks(  # noqa: PLR0913 - as for check_adam
    makes: Sequence[Callable[..., Any]],
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    device: torch.device | str = "cpu",
    variant: str | Variant | None = None,
    expected_failures: Mapping[str, str] | None = None,
    fixed: Mapping[str, Any] | None = None,
    time_limit: float = TIME_LIMIT,
) -> "pytest.MarkDecorator":
    """Parametrize a test in your own suite with each check of each Adam.

    ::

        @parametrize_with_checks([MyAdam])
        def test_my_adam(adam, check):
            check(adam)

    Args:
        makes: As ``make`` of ``check_adam``.
        dtypes: As for ``check_adam``.
        device: As for ``check_adam``.
        variant: As for ``check_adam``.
        expected_failures: As for ``check_adam``; their tests must fail.
        fixed: As for ``check_adam``.
        time_limit: As for ``check_adam``.

    Raises:
        ValueError: If there is no such variant, or no check with the name of an expected failure.
    """
    demand_known(expected_failures or (), adam_checks(dtypes))
    studies = [Study(Subject(make, fixed=fixed or {}), dtypes=dtypes, device=device, variant=variant) for make in makes]
    subjects = [
        (make, str(study.subject), bound_checks(study, dtypes, time_limit))
        for make, study in zip(makes, studies, strict=True)
    ]
    return parametrized("adam", subjects, expected_failures or {})


def parametrized(
    name: str, subjects: Iterable[tuple[Any, str, Sequence[BoundCheck]]], expected_failures: Mapping[str, str]
) -> "pytest.MarkDecorator":
    """Parametrize a test with each check of each subject.

    Args:
        name: The test's argument for the subject; the other argument is ``check``.
        subjects: Each subject, its name in test ids, and its checks.
        expected_failures: The names of checks that must fail, each with the reason.
    """
    import pytest

    parameters = []
    for subject, id_, checks in subjects:
        for check in checks:
            reason = expected_failures.get(check.name)
            marks = [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]
            parameters.append(pytest.param(subject, check, marks=marks, id=f"{id_}-{check}"))
    return pytest.mark.parametrize((name, "check"), parameters)


def _warm_up() -> None:
    """Let torch import what its optimizers need, outside of any time limit: it takes seconds."""
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def run_adam(check: Check[Study], study: Study, recorder: Recorder, time_limit: float = TIME_LIMIT) -> Result:
    """Run one check of an Adam; if it takes no steps, all checks but the first are not applicable."""
    first = adam.PLAIN[0]
    if study.first is None:
        _warm_up()
        # It takes steps in each type; an optimizer that compiles itself compiles for each.
        study.first = run(first, study, recorder, time_limit * len(study.dtypes))
    if check.name == first.name:
        return study.first
    if study.first.status is Status.FAILS:
        return Result(check.name, Status.NOT_APPLICABLE, "it takes no steps")
    study.enough = time.monotonic() + time_limit / 3
    result = run(check, study, recorder, time_limit)
    return recognized(result, check, study, time_limit)


def demand_known(names: Iterable[str], checks: Sequence[Check[Any]]) -> None:
    """Refuse names that no check has.

    Raises:
        ValueError: If there is such a name.
    """
    known = [check.name for check in checks]
    for name in names:
        if name not in known:
            raise ValueError(f"check is {name!r}, but should be one of: {'; '.join(known)}")


def as_expected(result: Result, expected: Mapping[str, str]) -> Result:
    """Apply the expected failures to a result: an expected failure passes, and a check that holds instead fails."""
    reason = expected.get(result.check)
    if reason is None:
        return result
    if result.status in (Status.FAILS, Status.KNOWN):
        return replace(result, status=Status.EXPECTED, detail=f"{reason} ({result.detail})")
    if result.status is Status.HOLDS:
        return replace(result, status=Status.FAILS, detail=f"holds, but was expected to fail: {reason}")
    return result


def _describe(report: Report, study: Study, recorder: Recorder, time_limit: float) -> None:
    """Add the facts: the variant, the accuracy, what was printed and warned of."""
    facts = report.facts
    takes = study.subject.takes
    steps = study.first is not None and study.first.status is Status.HOLDS
    if steps and "found" in vars(study):
        found = study.found
        facts["variant"] = str(found.variant) if found.published else f"none; {found.nearest}"
        if found.undecided:
            facts["cannot be told apart"] = "; ".join(found.undecided)
        report.measured["variant"] = vars(found.variant) if found.published else None
    if steps:
        facts["takes"] = ", ".join("/".join(spelling) for spelling in takes.values())
        if vars(study).get("own_decay"):
            facts["weight decay"] = f"{study.own_decay:g}, always"
        elif vars(study).get("default_decay"):
            facts["weight decay"] = f"{study.default_decay:g} by default"
    for dtype, errors in study.errors.items():
        text = f"the largest error of a step is {errors['of lr']:.2g} lr, {errors['of bound']:.2g} of the bound"
        if errors["with float32 corrections"]:
            text += " for corrections in float32"
        facts[f"accuracy, {dtype}"] = f"{text}, over {errors['steps']:.0f} steps"
    report.measured["accuracy"] = study.errors
    recorder.describe(report)
    facts["time limit"] = f"{time_limit:g} s a check, the first in each type"
    facts["torch"] = f"{torch.__version__}, {study.device}, {', '.join(map(short, study.dtypes))}"
