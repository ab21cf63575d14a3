"""docs/drift.md shows the records of the tox environments."""

import json
import re

import pytest

from tests import ledger
from tests.environments import page as pages
from tests.environments.golden import ADAMS, MARKS, Drift
from tests.environments.page import PAGE, PICTURE, RECORDS, dumps, gather, page, plot, stamp

SEEDS = (1, 2)


def record(torch, *, first=None, ulps=0, defects=(), failures=(), adams=tuple(ADAMS)):
    """Make a record of an environment with that torch; ``first`` and ``ulps`` are those of the second seed."""
    versions = {"python": "3.11.7 on Linux", "torch": torch, "lightning": "2.6.6", "numpy": "2.4.6"}
    return {
        "format": pages.FORMAT,
        "environment": {**versions, "device": "cpu (x86_64 AVX2)", "cpu": "Abacus 1"},
        "verdict": {"passed": 9, "failed": len(failures), "errors": 0, "xfailed": 5, "skipped": 1},
        "failures": list(failures),
        "defects": list(defects),
        "checks": {"cpu": 7},
        "golden": "torch 2.13.0, cpu (x86_64 AVX2)",
        "drifts": [
            Drift(name, "overview", seed, first if seed == 2 else None, [ulps * (seed == 2)] * 5, [0] * 5)._asdict()
            for name in adams
            for seed in SEEDS
        ],
    }


@pytest.fixture
def records(tmp_path):
    """Return three records, read from files whose order is not that of the versions."""
    old = record(
        "2.0.1+cu117", first=57, ulps=1234, failures=["tests/test_x.py::test_y"], adams=("for-loop", "foreach")
    )
    for name, one in {
        "b-new": record("2.13.0"),
        "a-newer": record("2.15.0", defects=["manual-seed-ignores-high-bits"]),
        "c-old": old,
    }.items():
        (tmp_path / f"{name}.json").write_text(dumps(one), "utf-8")
    return gather(tmp_path)


def rows(text, start):
    """Return the cells of the rows whose first cell is ``start``."""
    return [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in text.splitlines()
        if row.startswith(f"| {start} |")
    ]


def test_environments_come_in_the_order_of_their_versions(records):
    assert list(records) == ["c-old", "b-new", "a-newer"]


def test_the_page_has_the_first_step_and_the_largest_difference_and_merges_equal_rows(records):
    verdict, checks, drifted = rows(page(records), "`c-old`")

    assert verdict[1:] == ["2.0.1+cu117", "2.6.6", "2.4.6", "3.11.7", "AVX2", "9", "1", "5", "1"]
    assert checks[1:] == ["7"]
    assert drifted[1:] == ["for-loop, foreach", "2 of 2", "57 (overview, seed 2)", *["1,234"] * len(MARKS)]


def test_the_page_names_failed_tests_and_the_environments_with_each_defect(records):
    text = page(records)

    assert "- `c-old` fails `tests/test_x.py::test_y`" in text
    assert rows(text, "`manual-seed-ignores-high-bits`") == [["`manual-seed-ignores-high-bits`", "", "", "●"]]
    assert all(len(rows(text, f"`{id_}`")) == 1 for id_ in ledger.defects())


def test_the_plot_is_stamped_with_the_records_of_the_page(records, tmp_path):
    plot(records, tmp_path / "drift.png")

    assert stamp("drift", page(records)).encode() in (tmp_path / "drift.png").read_bytes()


def test_page_and_plot_show_the_current_records():
    text = page(gather(RECORDS))

    assert PAGE.read_text("utf-8") == text, "stale: run python -m tests.environments"
    assert stamp("drift", text).encode() in PICTURE.read_bytes(), "stale: run python -m tests.environments"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "should hold records, but holds none: pytest --drift-write=FILE writes one"),
        ({"a.json": ""}, "a.json' should be written by pytest --drift-write, but its format is None, not "),
        (
            {"a.json": '{"format": "other"}'},
            "a.json' should be written by pytest --drift-write, but its format is 'other'",
        ),
        ({"a.json": json.dumps({"format": pages.FORMAT})}, "a.json' should be as it was written, but lacks checks, "),
    ],
    ids=["none", "empty", "foreign", "cut"],
)
def test_a_file_that_is_not_a_record_is_refused_by_name(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")

    with pytest.raises(ValueError, match=re.escape(message)):
        gather(tmp_path)
