"""The ledgers are complete, true to the tests, and rendered as they stand."""

import contextlib
import os
from unittest import mock

import pytest
import torch
from hypothesis import settings

from tests import ledger
from tests.conftest import alive

CLAIMS, DEFECTS = ledger.claims(), ledger.defects()


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("defect", DEFECTS.values(), ids=list(DEFECTS))
def test_a_reproduction_is_short_and_fails_where_the_defect_is_and_only_there(defect):
    lines = [line for line in defect["reproduction"].splitlines() if line.strip()]
    assert len(lines) <= 10

    reproduction = compile(defect["reproduction"], defect["id"], "exec")

    if alive(defect):
        outcome = pytest.raises(ledger.error(defect))
    elif defect.get("slow") and settings.default.max_examples < settings.get_profile("explore").max_examples:
        pytest.skip("it takes seconds, and the defect's tests pass here: only under --hypothesis-profile=explore")
    else:
        outcome = contextlib.suppress(RuntimeError, TypeError, AttributeError)  # a version without the feature
    try:
        with mock.patch.dict(os.environ), outcome:  # the compiler leaves settings there
            exec(reproduction, {})
    finally:
        torch.use_deterministic_algorithms(mode=False)  # should it end before its last line


def test_every_defect_names_tests_that_exist():
    names = {function.name for _, function in ledger.functions()}

    assert {cell["test"] for defect in DEFECTS.values() for cell in defect["cell"]} <= names
