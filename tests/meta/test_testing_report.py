"""The report of checks as a user reads it: the table, the JSON, one result by its name."""

import json

import pytest

from simplenet.testing.report import Report, Result, Status

FULL = Report(
    "mine:MyAdam",
    [
        Result("it takes steps", Status.HOLDS, seconds=0.5),
        Result("gradients are not written to", Status.FAILS, "entry 0 is 1.0, but should be 2.0", 0.25, "Traceback"),
        Result("groups keep their own options", Status.NOT_APPLICABLE, "it takes no groups"),
        Result("it is differentiable", Status.EXPECTED, "not yet"),
        Result("it is pickled", Status.HOLDS),
    ],
    {"takes": "lr, betas", "weight decay": "none"},
    {"accuracy": {"float32": (0.5, float("inf"), [float("nan"), -float("inf")])}},
)
FULL_TABLE = """\
mine:MyAdam

takes         lr, betas
weight decay  none

it takes steps                 holds
gradients are not written to   FAILS             entry 0 is 1.0, but should be 2.0
groups keep their own options  not applicable    it takes no groups
it is differentiable           expected failure  not yet
it is pickled                  holds

2 holds, 1 fails, 1 not applicable, 1 expected failure"""


def test_the_table_has_aligned_columns_and_ends_with_the_count_of_each_status():
    assert str(FULL) == FULL_TABLE


@pytest.mark.parametrize(
    ("report", "table"),
    [
        (Report("mine:Net", [Result("it takes a batch", Status.KNOWN, "0/0")]),
         "mine:Net\n\nit takes a batch  known torch defect  0/0\n\n1 known torch defect"),
        (Report("mine:Net", facts={"warns": "once"}), "mine:Net\n\nwarns  once"),
        (Report("mine:Net"), "mine:Net"),
    ],
    ids=["no facts", "no results", "neither"],
)  # fmt: skip
def test_a_part_of_the_table_that_is_empty_is_left_out(report, table):
    assert str(report) == table


def test_the_json_has_every_attribute_and_infinity_and_nan_as_strings():
    text = FULL.to_json()

    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == {
        "subject": "mine:MyAdam",
        "passed": False,
        "facts": {"takes": "lr, betas", "weight decay": "none"},
        "measured": {"accuracy": {"float32": [0.5, "inf", ["nan", "-inf"]]}},
        "results": [
            {"check": "it takes steps", "status": "holds", "detail": "", "seconds": 0.5, "traceback": ""},
            {"check": "gradients are not written to", "status": "FAILS",
             "detail": "entry 0 is 1.0, but should be 2.0", "seconds": 0.25, "traceback": "Traceback"},
            {"check": "groups keep their own options", "status": "not applicable", "detail": "it takes no groups",
             "seconds": 0.0, "traceback": ""},
            {"check": "it is differentiable", "status": "expected failure", "detail": "not yet", "seconds": 0.0,
             "traceback": ""},
            {"check": "it is pickled", "status": "holds", "detail": "", "seconds": 0.0, "traceback": ""},
        ],
    }  # fmt: skip
    assert text.startswith('{\n  "subject"')
    assert text.endswith("}\n")


def test_a_result_is_found_by_its_name_and_an_unknown_name_is_refused_with_the_known_ones():
    assert FULL["it is pickled"] is FULL.results[-1]
    with pytest.raises(KeyError) as refused:
        Report("mine:Net", FULL.results[:2])["it flies"]
    assert refused.value.args == (
        "check is 'it flies', but should be one of those of mine:Net: it takes steps, gradients are not written to",
    )


@pytest.mark.parametrize("status", Status)
def test_a_report_passes_unless_a_check_fails(status):
    report = Report("mine:Net", [Result("one", Status.HOLDS), Result("two", status, "why"), Result("3", Status.HOLDS)])

    assert report.passed is (status is not Status.FAILS)
    assert report.exit_status == (1 if status is Status.FAILS else 0)
    assert report.failures == ({"two": "why"} if status is Status.FAILS else {})


def test_a_report_without_results_does_not_pass():
    assert not Report("mine:Net").passed
