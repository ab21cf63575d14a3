"""What is published of other Adams is what was recorded, and every deviation in it has a row that can fail."""

import builtins
import re
from contextlib import suppress

import pytest
from click.testing import CliRunner

from simplenet.testing.checks import adam_checks, check_adam
from simplenet.testing.oracle import Variant
from tests.conformance import CONTROL, PUBLISHED, ROOT, __main__, adams, deviations, disagreements, found_in, page
from tests.conformance import adapters as adapted
from tests.conformance.faults import check_report, faults, planted, survivors
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
    recorded = {name for name, _, _ in found_in(gather())}

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
    monkeypatch.setattr("tests.conformance.adams", lambda: {name: {"environment": {"name": "e"}}})
    monkeypatch.setattr("tests.conformance.deviations", lambda: [row])

    found = "\n".join(disagreements(_record(it_holds="holds", it_fails="FAILS")))

    assert f"{name} fails 'it fails', and deviations.toml has no row: 0 is 1" in found
    assert f"{name} should fail 'it holds' by deviations.toml, but does not" in found
    assert f"{name} does not reproduce r: it was not run" in found
    assert f"{name} should be {{'epsilon': 'outside'}} by deviations.toml, but is None" in found


def test_a_negative_control_must_be_no_variant_of_adam_and_may_fail_other_checks(monkeypatch):
    control = {"kind": CONTROL, "environment": {"name": "e"}}
    monkeypatch.setattr("tests.conformance.adams", lambda: {"torch NAdam": control})
    monkeypatch.setattr("tests.conformance.deviations", list)
    found = _record(it_fails="FAILS")
    found["e"]["checks"]["torch NAdam"]["results"][PUBLISHED] = ["FAILS", "no Adam"]

    assert list(disagreements(found)) == []

    found["e"]["checks"]["torch NAdam"]["results"][PUBLISHED] = ["holds", ""]
    assert list(disagreements(found)) == [f"torch NAdam is not an Adam and should fail '{PUBLISHED}', but does not"]


@pytest.mark.parametrize(
    ("make", "epsilon"), [(adapted.Reference, "outside"), (adapted.Copied, "before the correction")]
)
def test_an_adapter_has_the_variant_of_its_adam(make, epsilon):
    report = check_adam(make, only=["it takes steps", PUBLISHED, "the first step has its closed form, float64"])

    assert report.passed, str(report)
    assert report.measured["variant"]["epsilon"] == epsilon


def test_every_fault_is_named_by_a_report():
    assert list(survivors(gather())) == []


@pytest.mark.parametrize("name", faults())
def test_every_fault_names_what_there_is(name):
    fault, known = faults()[name], {check.name for check in adam_checks()}

    assert name in adams()
    assert set(fault.get("checks", ())) <= known
    assert fault.get("checks") or fault.get("variant")
    Variant(**fault.get("variant", {}))


FAULT = {
    "name": "it adds",
    "adam": "a",
    "file": "package/adam.py",
    "old": "p - g",
    "new": "p + g",
    "checks": ["it holds"],
}


def _site(directory, text):
    (directory / "package").mkdir()
    file = directory / "package" / "adam.py"
    file.write_text(text, "utf-8")
    return file


def test_a_fault_is_there_while_it_is_planted_and_no_longer(tmp_path):
    file = _site(tmp_path, "return p - g\n")

    with suppress(RuntimeError), planted(FAULT, "package 1.0", tmp_path):
        with_it = file.read_text("utf-8")
        raise RuntimeError("of the checks")

    assert with_it == "return p + g\n"
    assert file.read_text("utf-8") == "return p - g\n"


@pytest.mark.parametrize(("text", "times"), [("return p * g\n", 0), ("p - g\np - g\n", 2)])
def test_a_fault_that_cannot_be_planted_names_its_file_and_the_version_of_the_package(tmp_path, text, times):
    file = _site(tmp_path, text)
    message = f"package/adam.py of package 1.0 has 'p - g' {times} times, but should have it once"

    with pytest.raises(ValueError, match=re.escape(message)), planted(FAULT, "package 1.0", tmp_path):
        pass

    assert file.read_text("utf-8") == text


def _found(status="holds", detail="", epsilon="outside"):
    return {"results": {"it holds": [status, detail]}, "variant": epsilon and {"epsilon": epsilon}}


@pytest.mark.parametrize(
    ("without", "found", "message"),
    [
        (_found(), _found("FAILS", "p is 1, but should be 0"), ""),
        (_found(), _found(), "'it holds' should fail: holds"),
        (_found(), _found("known torch defect", "p is 1"), "'it holds' should fail: known torch defect"),
        (
            _found(),
            _found("FAILS", "raises TypeError: g at the first step"),
            "'it holds' should fail by an assertion: r",
        ),
        (_found(), _found("FAILS", "took more than the 60 s"), "'it holds' should fail by an assertion: took"),
        (_found("FAILS", "p is 2"), _found("FAILS", "p is 1"), "'it holds' should hold without the fault: FAILS"),
    ],
)
def test_a_fault_is_named_by_a_check_that_holds_without_it_and_fails_with_it_by_an_assertion(without, found, message):
    wrong = list(check_report(FAULT, without, found))

    assert len(wrong) == bool(message)
    assert all(one.startswith(message) for one in wrong)


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [("outside", "as a clamp", True), ("outside", "outside", False), ("as a clamp", "as a clamp", False),
     ("outside", None, False), (None, "as a clamp", True)],
)  # fmt: skip
def test_a_fault_is_named_by_another_variant(before, now, named):
    fault = {"variant": {"epsilon": "as a clamp"}}

    assert (list(check_report(fault, _found(epsilon=before), _found(epsilon=now))) == []) is named


@pytest.mark.parametrize(
    ("tried", "message"),
    [
        ({}, "a with a fault, it adds: it was not planted"),
        ({"a": {"fault": "it divides", "missing": []}}, "a with a fault, it adds: it was not planted"),
        ({"a": {"fault": "it adds", "missing": ["holds"]}}, "a with a fault, it adds: holds"),
        ({"a": {"fault": "it adds", "missing": []}}, None),
    ],
)
def test_a_fault_that_no_report_names_is_a_survivor(monkeypatch, tried, message):
    monkeypatch.setattr("tests.conformance.faults.faults", lambda: {"a": FAULT})

    assert list(survivors({"e": {"faults": tried}})) == ([message] if message else [])


def test_a_fault_is_planted_in_a_copy_of_a_package_of_the_current_environment(monkeypatch, tmp_path):
    here, seen = _site(tmp_path, "return p - g\n"), []

    def run_probe(python, what, _adams):
        files = sorted(python.parent.rglob("adam.py"))
        seen.append((what, [file.read_text("utf-8") for file in files], here.read_text("utf-8")))
        found = {"a": _found("FAILS", "p is 1, but should be 0") if what == "checks" else _found()}
        return {"packages": {"package": "1.0"}, "found": found}

    monkeypatch.setattr(__main__, "packages", lambda directory=tmp_path: directory)
    monkeypatch.setattr(__main__, "install", lambda _environment, directory: directory / "python")
    monkeypatch.setattr(__main__, "faults", lambda: {"a": FAULT})
    monkeypatch.setattr(__main__, "run_probe", run_probe)
    ((_, found),) = __main__.with_faults({"adam": [{"name": "a"}, {"name": "of which no fault is known"}]})

    assert seen == [("baseline", [], "return p - g\n"), ("checks", ["return p + g\n"], "return p - g\n")]
    assert found == {"a": {"fault": "it adds", "report": ["it holds: p is 1, but should be 0"], "missing": []}}


def test_an_environment_without_a_fault_is_not_created(monkeypatch):
    monkeypatch.setattr(__main__, "install", lambda *_: pytest.fail("it was"))

    assert list(__main__.with_faults({"adam": [{"name": "of which no fault is known"}]})) == []


def test_the_command_writes_the_page_and_its_plot_and_fails_where_they_differ_from_the_lists(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "PICTURE", tmp_path / "page.png")

    assert (result := CliRunner().invoke(__main__.main)).exit_code == 0, result.output
    assert page.PAGE.read_bytes() == PAGE.read_bytes()
    assert page.PICTURE.read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(__main__, "survivors", lambda _: ["a with a fault, it adds: it was not planted"])
    result = CliRunner().invoke(__main__.main)
    assert (result.exit_code, result.stderr) == (1, "Error: a with a fault, it adds: it was not planted\n")
