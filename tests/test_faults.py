"""Planted faults: a dozen of those of ``python -m tests.faults``, and the outcomes that it reports."""

import json
import os
import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.children.background import Background
from tests.children.forked import launch
from tests.faults.__main__ import idle, main
from tests.faults.planted import FAULTS
from tests.faults.planting import Fault, StaleFault, edit, replace, wrap
from tests.faults.runner import ABSENT, KILLED, PASSED, SURVIVED, WRONG, Outcome, files

ROOT = Path(__file__).parents[1]

SUBJECTS = "optimizers", "network", "randomness", "training", "ensemble", "command", "harness", "implementations"

# Fast ones of each subject.
DOZEN = [
    "foreach-skips-the-last-of-110-parameters",
    "the-default-decay-of-adamw-is-zero",
    "the-loss-divides-by-the-rows-alone",
    "a-weight-used-twice-gets-the-gradient-of-its-first-use",
    "numpy-is-not-seeded",
    "deterministic-mode-forgets-that-it-only-warned",
    "one-half-is-right",
    "the-digest-is-not-compared",
    "a-lower-bound-is-rounded-up",
    "a-target-below-the-upper-bound-is-cleared",
    "a-test-leaves-autocast-on",
    "bookkeeping-KeyError-at-the-second-step",
]

# The expected outcome and check of faults made for this test, most of which change the unit roundoff.
OWN = {
    "noticed": (KILLED, "test_the_unit_roundoff_is_half_the_spacing_at_one"),
    "not noticed": (SURVIVED, ""),
    "raised": (WRONG, "test_the_unit_roundoff_is_half_the_spacing_at_one"),
    "no change": (WRONG, ""),
    "stale": (WRONG, ""),
    "no test": (WRONG, ""),
    "dies": (WRONG, ""),
    "control": (PASSED, ""),
    "control that fails": (WRONG, "test_the_unit_roundoff_is_half_the_spacing_at_one"),
    "later": (ABSENT, ""),
    "judged": (KILLED, "c"),
    "judged, and only by torch's own defect": (SURVIVED, ""),
    "judged control": (PASSED, ""),
}


def start(directory):
    """Plant them in another process, because this one has run threads and can no longer fork safely."""
    return [launch("-m", "tests.children.planted_faults", *DOZEN, directory=directory)]


matrix = Background(start)


@cache
def outcomes(finished):
    """Return the outcome of each fault, by name."""
    read = json.loads((finished(matrix) / "matrix.json").read_text("utf-8"))
    return {outcome["fault"]: Outcome(**outcome) for outcome in read}


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")


@forks
@pytest.mark.parametrize("name", DOZEN)
def test_a_planted_fault_is_killed_by_an_assertion(finished, name):
    outcome = outcomes(finished)[name]

    assert outcome.status in (KILLED, ABSENT), outcome


@forks
@pytest.mark.parametrize("name", OWN)
def test_the_outcome_of_each_fault_is_printed(finished, name):
    """A survivor, a kill by anything but an assertion and a fault without effect are not reported as kills.

    Nor is a check that fails as it does for torch's own class.
    """
    outcome = outcomes(finished)[name]

    assert (outcome.status, outcome.check) == OWN[name], outcome
    assert list(outcome.checks) == [outcome.check] * bool(outcome.check)
    assert outcome.good == (outcome.status in (KILLED, PASSED, ABSENT))


def test_the_catalogue_is_complete():
    """Faults and a control of each subject, with distinct names, a sentence each, and a witness or a judge."""
    names = [fault.name for fault in FAULTS]

    assert len(set(names)) == len(names)
    assert {(fault.subject, fault.control) for fault in FAULTS} == set(product(SUBJECTS, (False, True)))
    for fault in FAULTS:
        assert fault.text.endswith("."), fault.name
        assert (fault.judge is None) == (fault.witness is not None) == bool(fault.killed_by), fault.name
        assert len(set(fault.killed_by)) == len(fault.killed_by), fault.name
    assert set(DOZEN) <= set(names)


def test_the_documentation_has_the_number_of_faults():
    """In all, and of each subject, in the order of the catalogue."""
    strength, readme = ((ROOT / name).read_text("utf-8") for name in ("docs/strength.md", "README.md"))
    counts = {fault.subject: [0, 0] for fault in FAULTS}
    for fault in FAULTS:
        counts[fault.subject][fault.control] += 1

    rows = re.findall(r"^\| [^|]+ \| (\d+) \| (\d+) \|$", strength, re.MULTILINE)

    assert [[int(faults), int(controls)] for faults, controls in rows] == list(counts.values())
    faults, controls = map(sum, zip(*counts.values(), strict=True))
    assert f"{faults} faults are killed, {controls} controls pass" in strength
    assert f"plants {faults} faults" in readme


def test_only_the_files_with_the_named_tests_are_collected():
    """None for a fault that names no test, rather than all."""
    by_name = {fault.name: fault for fault in FAULTS}

    assert [Path(file).name for file in files([by_name["one-half-is-right"]])] == ["test_training.py"]
    (folder,) = files([by_name["network-none"]])
    assert not list(Path(folder).rglob("test_*.py"))


def test_the_checks_that_kill_no_fault_are_listed():
    """The tests that faults name, not those of controls, and the checks of ``simplenet.testing``."""
    of_fault, of_control = (
        Fault("f", "own", "", lambda: None, None, killed_by, control=control)
        for killed_by, control in ((("test_a[1]", "test_b"), False), (("test_c",), True))
    )

    listed = idle([Outcome("f", KILLED, checks=["test_a", "it takes steps"])], [of_fault, of_control])

    assert {"test_b", "a schedule is followed", "it takes a batch"} <= set(listed)
    assert not {"test_a", "test_a[1]", "test_c", "it takes steps"} & set(listed)


def test_a_file_that_cannot_be_written_is_refused_before_any_fault_is_planted(tmp_path):
    result = CliRunner().invoke(main, ["network-none", "--json", str(tmp_path / "none" / "outcomes.json")])

    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such file or directory" in result.stderr


def double(x):
    """Multiply by two."""
    return 2 * x


def test_edit_changes_every_reference_to_a_function_and_refuses_missing_code():
    reference, code = double, double.__code__
    try:
        edit(double, ("2 * x", "3 * x"))
        assert reference(1) == 3
        for stale, count in (("2 * x", 0), ("x", 2)):
            message = f"double has {stale!r} {count} times, but should have it once"
            with pytest.raises(StaleFault, match=re.escape(message)):
                edit(double, (stale, "0"))
        edit(reference, ("3", "4"))
        assert double(1) == 4
    finally:
        double.__code__ = code


def test_replacing_an_object_that_no_module_holds_is_refused():
    with pytest.raises(StaleFault, match="no module holds"):
        replace(object(), None)
    with pytest.raises(StaleFault, match="has no such_a_thing"):
        wrap(Fault, "such_a_thing", print)
