"""One check: whatever the code under test raises, prints, warns of, changes or waits for becomes its result."""

import itertools
import re
import signal
import sys
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from simplenet.testing.optimizers import attempt
from simplenet.testing.report import Report, Result, Status
from simplenet.testing.runner import Check, KnownDefect, NotApplicable, Recorder, run

SHORT = 0.1  # seconds


def result_of(does, recorder=None, **options):
    """Run a check that calls a function of nothing; return its result."""
    return run(Check("it flies", lambda _: does()), None, recorder or Recorder(), **options)


def raises(error):
    def does():
        raise error

    return does


@pytest.mark.parametrize(("remark", "detail"), [(None, ""), ("to within 2 roundings", "to within 2 roundings")])
def test_a_check_that_holds_may_return_a_remark(remark, detail):
    result = result_of(lambda: remark)

    assert replace(result, seconds=0.0) == Result("it flies", Status.HOLDS, detail)


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (NotApplicable("it has no wings"), Status.NOT_APPLICABLE, "it has no wings"),
        (KnownDefect("torch has no wings"), Status.KNOWN, "torch has no wings"),
        (AssertionError("the height is 0, but should be 1"), Status.FAILS, "the height is 0, but should be 1"),
    ],
    ids=["not applicable", "known", "fails"],
)
def test_what_a_check_finds_is_its_result(error, status, detail):
    result = result_of(raises(error))

    assert replace(result, seconds=0.0) == Result("it flies", status, detail)


@pytest.mark.parametrize(
    ("does", "detail"),
    [
        (lambda: attempt(raises(KeyError("wing")), "at the first step"), "raises KeyError: 'wing' at the first step"),
        (raises(ValueError("two\n  lines")), "raises ValueError: two lines"),
        (raises(RuntimeError("x" * 201)), f"raises RuntimeError: {'x' * 200}"),
        (raises(SystemExit(3)), "raises SystemExit: 3"),
    ],
    ids=["in the code under test", "in the check", "long", "exit"],
)
def test_any_other_exception_is_a_failure_with_its_traceback(does, detail):
    result = result_of(does)

    assert (result.status, result.detail) == (Status.FAILS, detail)
    assert re.search(f"^{detail.split()[1]}", result.traceback, re.MULTILINE)


def test_ctrl_c_ends_the_check_and_all_others():
    with pytest.raises(KeyboardInterrupt):
        result_of(raises(KeyboardInterrupt))


def test_the_duration_is_recorded_in_seconds_to_a_millisecond(monkeypatch):
    tick = 0.123456789
    monkeypatch.setattr(time, "monotonic", itertools.count(0.0, tick).__next__)

    assert result_of(lambda: None).seconds in {round(reads * tick, 3) for reads in range(1, 9)}


def wait_for_ever():
    while True:
        time.sleep(SHORT)


def refuse_to_end():
    """Catch the exception of the first signal; the second comes a second later."""
    try:
        wait_for_ever()
    except BaseException:  # noqa: BLE001
        wait_for_ever()


@pytest.mark.parametrize("does", [wait_for_ever, refuse_to_end])
def test_a_check_that_does_not_end_is_stopped(does):
    result = result_of(does, time_limit=SHORT)

    assert result.status is Status.FAILS
    assert result.detail == "took more than the 0.1 s that a check may take, and was stopped"
    assert result.seconds >= SHORT


def test_no_signal_comes_after_the_check():
    before = signal.getsignal(signal.SIGALRM)

    result_of(lambda: None, time_limit=SHORT)

    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize(("seconds", "rings"), [(SHORT, True), (60.0, False)], ids=["during", "after"])
def test_a_timer_of_the_caller_keeps_its_time(seconds, rings):
    """The signal comes at its time, or after the check if its time has passed by then."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        result_of(lambda: time.sleep(2 * SHORT))
        remaining, _ = signal.getitimer(signal.ITIMER_REAL)
        time.sleep(SHORT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert bool(rung) is rings
    assert remaining <= max(seconds - 2 * SHORT, 1e-3)


def test_outside_of_the_main_thread_a_check_runs_without_a_limit():
    results = []
    thread = threading.Thread(target=lambda: results.append(result_of(lambda: time.sleep(SHORT), time_limit=1e-3)))
    thread.start()
    thread.join()

    assert [result.status for result in results] == [Status.HOLDS]


def test_what_is_printed_and_warned_of_is_recorded_once_and_not_shown(capsys):
    def does():
        for _ in range(2):
            print("  flying  ")  # noqa: T201
            print("\nhigh", file=sys.stderr)  # noqa: T201
            warnings.warn("too\n  near the sun", RuntimeWarning, stacklevel=1)
            warnings.warn("x" * 201, UserWarning, stacklevel=1)

    recorder = Recorder()
    result_of(does, recorder)

    assert [*recorder.printed] == ["flying", "high"]
    assert [*recorder.warned] == ["RuntimeWarning: too near the sun", f"UserWarning: {'x' * 200}"]
    assert capsys.readouterr() == ("", "")


def test_torchs_generator_grad_mode_and_default_type_are_those_of_before():
    def does():
        assert torch.is_grad_enabled()
        torch.rand(3)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)

    before = torch.random.get_rng_state()
    with torch.no_grad():
        result = result_of(does)
        assert not torch.is_grad_enabled()

    assert result.status is Status.HOLDS
    assert torch.get_default_dtype() is torch.float32
    assert np.array_equal(torch.random.get_rng_state(), before)


def test_output_and_warnings_are_facts_of_the_report():
    """The first line of each, at most 160 characters of it, and the number of further lines; all of them as data."""
    report, recorder = Report("mine:MyAdam"), Recorder()

    recorder.describe(report)
    assert report == Report("mine:MyAdam")

    recorder.printed = {"x" * 161: None}
    recorder.warned = {"UserWarning: one": None, "UserWarning: two": None}
    recorder.describe(report)
    assert report.facts == {"warns": "UserWarning: one, and 1 more", "prints": "x" * 160}
    assert report.measured == {"warns": [*recorder.warned], "prints": [*recorder.printed]}

    recorder.warned = dict.fromkeys("abc")
    recorder.describe(report)
    assert report.facts["warns"] == "a, and 2 more"
