"""The ledgers are complete, true to the tests, and rendered as they stand."""

import contextlib
import json

import pytest
import torch
from hypothesis import settings

from tests import ledger
from tests.children.background import Background
from tests.children.forked import FX_GRAPH_CACHE, launch

CLAIMS, DEFECTS = ledger.claims(), ledger.defects()
SLOW = {id_: defect for id_, defect in DEFECTS.items() if defect.get("slow")}
QUICK = {id_: defect for id_, defect in DEFECTS.items() if id_ not in SLOW}

# What a reproduction may raise in a version that lacks what it is about.
WITHOUT_THE_FEATURE = RuntimeError, TypeError, AttributeError


def test_every_claim_has_a_test_and_every_mark_names_a_claim():
    marked = {claim for claim, _, _ in ledger.claim_marks()}

    assert set(CLAIMS) - marked == set(), "claims that nothing decides"
    assert marked - set(CLAIMS) == set(), "marks that name no claim"


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_a_claim_holds_or_is_refuted_and_then_corrected(claim):
    assert claim["verdict"] in {"holds", "refuted"}
    assert ("correction" in claim) == (claim["verdict"] == "refuted")


@pytest.mark.parametrize("path", ledger.PAGES, ids=lambda path: path.name)
def test_a_page_shows_the_ledger_as_it_stands(path):
    assert path.read_text("utf-8") == ledger.PAGES[path](), "stale: run python -m tests.ledger"


def check_length(defect):
    assert len([line for line in defect["reproduction"].splitlines() if line.strip()]) <= 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("defect", QUICK.values(), ids=list(QUICK))
def test_a_reproduction_is_short_and_fails_where_the_defect_is_and_only_there(defect):
    check_length(defect)
    reproduction = compile(defect["reproduction"], defect["id"], "exec")

    outcome = (
        pytest.raises(ledger.error(defect))
        if ledger.applies_here(defect)
        else contextlib.suppress(*WITHOUT_THE_FEATURE)
    )
    try:
        with outcome:
            exec(reproduction, {})
    finally:
        torch.use_deterministic_algorithms(mode=False)  # should it end before its last line


def runs_here(defect):
    """Say whether what takes seconds is worth them: where the defect is not, its tests pass, which says as much."""
    return ledger.applies_here(defect) or settings.default.max_examples >= settings.get_profile("explore").max_examples


def start_slow(directory):
    """Run the reproductions that take seconds beside the tests."""
    return [
        launch(
            "-m", "tests.children.reproduction", id_, directory=directory, environment={FX_GRAPH_CACHE: "1"}, output=id_
        )
        for id_, defect in SLOW.items()
        if runs_here(defect)
    ]


slow = Background(start_slow)


@pytest.mark.parametrize("defect", SLOW.values(), ids=list(SLOW))
def test_a_slow_reproduction_is_short_and_fails_where_the_defect_is_and_only_there(defect, finished):
    check_length(defect)
    if not runs_here(defect):
        pytest.skip("it takes seconds, and the defect's tests pass here: only under --hypothesis-profile=explore")

    raised = json.loads((finished(slow) / defect["id"]).read_text("utf-8"))

    if ledger.applies_here(defect):
        assert ledger.error(defect).__name__ in raised
    else:
        assert not raised or {error.__name__ for error in WITHOUT_THE_FEATURE} & set(raised)


def test_every_defect_names_tests_that_exist():
    names = {function.name for _, function in ledger.functions()}

    assert {cell["test"] for defect in DEFECTS.values() for cell in defect["cell"]} <= names
