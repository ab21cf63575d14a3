"""When a failure counts as a known defect of torch's: only if torch's own class fails in the same way."""

import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from simplenet.testing import known
from simplenet.testing.known import Defect, recognized
from simplenet.testing.optimizers import Subject
from simplenet.testing.report import Result, Status
from simplenet.testing.runner import Check, NotApplicable
from simplenet.testing.study import Study

FAILURE = Result("it steps, float32", Status.FAILS, "entry 3 is 0.25: too much: 2", 1.5, "Traceback")
SAME = AssertionError(FAILURE.detail)


class Own(torch.optim.Adam):
    """A class that is not torch's."""


def judge(monkeypatch, of_torch, *defects, result=FAILURE, make=Own, seconds=0.0, time_limit=60.0, **options):
    """Return the result after a comparison with what the check finds in the study of each class of torch's.

    Args:
        monkeypatch: The fixture.
        of_torch: What the check raises, by the name of the class; None if it holds.
        defects: The known defects.
        result: The result of the class that is checked.
        make: The class that is checked.
        seconds: How long the check takes.
        time_limit: How long it may take.
        options: Options of the study.
    """
    seen = []

    def run(study):
        seen.append((study.subject.name, study.dtypes, study.device))
        time.sleep(seconds)
        if (error := of_torch[study.subject.name]) is not None:
            raise error

    monkeypatch.setattr(known, "DEFECTS", defects)
    study = Study(Subject(make, sample=make([torch.zeros(1)])), **options)
    return recognized(result, Check(result.check, run), study, time_limit), seen


def test_a_failure_like_torchs_keeps_its_detail_and_names_the_defect(monkeypatch):
    """The numbers of the counter-example may differ, and what follows the colon."""
    torchs = {"Adam": AssertionError("entry 12 is 0.5: more")}

    judged, seen = judge(monkeypatch, torchs, Defect("it steps", "its step is wrong"))

    text = f"entry 3 is 0.25: too much: 2 [torch {torch.__version__} itself: its step is wrong]"
    assert judged == replace(FAILURE, status=Status.KNOWN, detail=text)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("of_torch", "defect"),
    [
        (AssertionError("entry 3 is missing: too much"), Defect("it steps", "")),
        (None, Defect("it steps", "")),
        (NotApplicable(FAILURE.detail), Defect("it steps", "")),
        (SAME, Defect("it sleeps", "")),
        (SAME, Defect("steps", "")),
    ],
    ids=["another failure", "torch passes", "not applicable to torch", "another check", "not the prefix"],
)
def test_any_other_failure_stays_one(of_torch, defect, monkeypatch):
    judged, _ = judge(monkeypatch, {"Adam": of_torch}, defect)

    assert judged is FAILURE


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.FAILS])
def test_only_failures_are_compared(status, monkeypatch):
    result = replace(FAILURE, status=status)

    judged, seen = judge(monkeypatch, {"Adam": SAME}, Defect("it steps", ""), result=result)

    assert judged is result
    assert not seen


FUSED = partial(torch.optim.Adam, foreach=False)  # stands for an implementation that a flag of torch's selects


@pytest.mark.parametrize(
    ("make", "status"), [(torch.optim.AdamW, Status.KNOWN), (FUSED, Status.KNOWN), (Own, Status.FAILS)]
)
def test_a_defect_of_a_flag_counts_only_for_torchs_own_classes(make, status, monkeypatch):
    judged, _ = judge(monkeypatch, {"Adam(foreach=False)": SAME}, Defect("it steps", "", FUSED), make=make)

    assert judged.status is status


def test_each_defect_of_the_check_is_compared_until_one_agrees(monkeypatch):
    """Although the first is of another check, torch cannot construct the second, and passes in the third."""
    never = partial(torch.optim.Adam, foreach=True, fused=True)
    torchs = {"Adam(foreach=True, fused=True)": SAME, "Adam(foreach=False)": None, "Adam": SAME}
    others = Defect("it sleeps", ""), Defect("it steps", "", never), Defect("it steps", "", FUSED)
    right = Defect("it steps", "right"), Defect("it steps", "late")

    judged, seen = judge(monkeypatch, torchs, *others, *right, make=torch.optim.Adam)
    assert judged.detail.endswith("itself: right]")
    assert [name for name, *_ in seen] == ["Adam(foreach=False)", "Adam"]

    judged, seen = judge(monkeypatch, torchs, *others, *right)
    assert judged.detail.endswith("itself: right]")
    assert [name for name, *_ in seen] == ["Adam"]


def test_torch_is_checked_with_the_hyper_parameters_that_the_other_takes_and_its_values_of_the_rest():
    """By torch's names."""
    subject = Subject(Own, {"beta2": 0.5, "eps": 0.25}, takes={"lr": ("alpha",), "amsgrad": ("amsgrad",)})

    own = known._torchs(torch.optim.Adam, subject)  # noqa: SLF001
    own.learn(lambda: [torch.zeros(1)])

    assert own.takes == {"lr": ("lr",), "amsgrad": ("amsgrad",)}
    assert own.name == "Adam"
    assert own.hyper(lr=2.0, eps=1.0) == subject.hyper(lr=2.0, eps=1.0)
    for name, value in {"lr": 1e-3, "betas": (0.9, 0.5), "eps": 0.25, "weight_decay": 0, "maximize": False}.items():
        assert own.sample.defaults[name] == value, name


def test_torch_is_checked_in_the_same_types_on_the_same_device(monkeypatch):
    device = torch.device("cpu", 0)

    _, ((_, *seen),) = judge(monkeypatch, {"Adam": None}, Defect("it steps", ""), dtypes=[torch.float64], device=device)

    assert seen == [(torch.float64,), device]


def test_torch_is_stopped_at_the_time_limit_too(monkeypatch):
    judged, _ = judge(monkeypatch, {"Adam": SAME}, Defect("it steps", ""), seconds=0.3, time_limit=0.1)

    assert judged is FAILURE
