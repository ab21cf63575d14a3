"""What is published of other Adams is what was recorded, and every deviation in it has a row that can fail."""

import builtins

import pytest

from simplenet.testing.checks import adam_checks, check_adam
from tests.conformance import CONTROL, PUBLISHED, ROOT, adams, deviations, disagreements, page
from tests.conformance import adapters as adapted
from tests.conformance.page import PAGE, PICTURE, gather
from tests.environments.page import stamp

ROWS = {one["id"]: one for one in deviations()}
OF_TORCH = [id_ for id_, one in ROWS.items() if "import torch\nfrom PACKAGE import Adam" in one["reproduction"]]


def test_the_page_and_its_plot_show_the_current_records():
    text = page.page(gather())

    assert PAGE.read_text("utf-8") == text, "stale: run python -m tests.conformance"
    assert stamp("conformance", text).encode() in PICTURE.read_bytes(), "stale: run python -m tests.conformance"


def test_the_readme_has_the_first_rows_of_the_page():
    lines, head = page.page(gather()).splitlines(), "| implementation | version |"
    rows = [line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.startswith("|")]
    (first,) = (i for i, line in enumerate(rows) if line.startswith(head))
    (start,) = (i for i, line in enumerate(lines) if line.startswith(head))

    assert rows[first : first + 12] == lines[start : start + 12]


def test_every_implementation_of_the_catalogue_is_recorded():
    recorded = {name for name, _, _ in page.found_in(gather())}

    assert recorded == set(adams())


def test_the_records_fail_exactly_the_checks_listed_as_deviations():
    assert list(disagreements(gather())) == []


@pytest.mark.parametrize("id_", ROWS)
def test_every_deviation_names_what_there_is(id_):
    row, known = ROWS[id_], {check.name for check in adam_checks()}

    assert set(row["adams"]) <= set(adams())
    assert set(row.get("checks", ())) <= known
    assert row["class"] in page.CLASSES
    assert len(row["reproduction"].strip().splitlines()) <= 10


@pytest.mark.parametrize("id_", OF_TORCH)
def test_no_reproduction_shows_a_deviation_in_torchs_own_class(id_):
    """Or it would show nothing of the package."""
    row = ROWS[id_]
    own = "AdamW" if all("AdamW" in name for name in row["adams"]) else "Adam"
    lines = row["reproduction"].replace("from PACKAGE import Adam", f"from torch.optim import {own} as Adam")

    shown = None
    try:
        exec(compile(lines, id_, "exec"), {"__name__": "reproduction"})
    except Exception as error:  # noqa: BLE001 - an option that torch's lacks is a TypeError, for instance
        shown = error

    assert type(shown) is not getattr(builtins, row.get("error", "AssertionError")), shown


def _record(**results):
    statuses = {check.replace("_", " "): [status, "0 is 1"] for check, status in results.items()}
    return {"e": {"checks": {"torch NAdam": {"results": statuses, "variant": None, "departs": {}}}}}


def test_a_failure_without_a_row_and_a_row_without_a_failure_are_reported(monkeypatch):
    name = "torch NAdam"
    row = {"id": "r", "adams": [name], "checks": ["it holds"], "variant": {"epsilon": "outside"}}
    monkeypatch.setattr("tests.conformance.adams", lambda: {name: {}})
    monkeypatch.setattr("tests.conformance.deviations", lambda: [row])

    found = "\n".join(disagreements(_record(it_holds="holds", it_fails="FAILS")))

    assert f"{name} fails 'it fails', and deviations.toml has no row: 0 is 1" in found
    assert f"{name} should fail 'it holds' by deviations.toml, but does not" in found
    assert f"{name} does not show r: it was not tried" in found
    assert f"{name} should be {{'epsilon': 'outside'}} by deviations.toml, but is None" in found


def test_a_negative_control_must_be_no_variant_of_adam_and_may_fail_other_checks(monkeypatch):
    monkeypatch.setattr("tests.conformance.adams", lambda: {"torch NAdam": {"kind": CONTROL}})
    monkeypatch.setattr("tests.conformance.deviations", list)
    found = _record(it_fails="FAILS")
    found["e"]["checks"]["torch NAdam"]["results"][PUBLISHED] = ["FAILS", "no Adam"]

    assert list(disagreements(found)) == []

    found["e"]["checks"]["torch NAdam"]["results"][PUBLISHED] = ["holds", ""]
    (wrong,) = disagreements(found)
    assert PUBLISHED in wrong


@pytest.mark.parametrize(
    ("make", "epsilon"), [(adapted.Reference, "outside"), (adapted.Copied, "before the correction")]
)
def test_an_adapter_has_the_variant_of_its_adam(make, epsilon):
    report = check_adam(make, only=["it takes steps", PUBLISHED, "the first step has its closed form, float64"])

    assert report.passed, str(report)
    assert report.measured["variant"]["epsilon"] == epsilon
