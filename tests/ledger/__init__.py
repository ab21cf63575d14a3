"""The ledgers of the notebook's claims and of the defects of torch and Lightning, and their documentation pages.

``python -m tests.ledger`` writes docs/claims.md and docs/defects.md.
"""

import ast
import builtins
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

LEDGER = Path(__file__).parent
TESTS = LEDGER.parent
DOCS = TESTS.parent / "docs"


def claims() -> dict[str, dict[str, Any]]:
    """Return the claims by id, in the notebook's order."""
    return {claim["id"]: claim for claim in tomllib.loads((LEDGER / "claims.toml").read_text("utf-8"))["claim"]}


def defects() -> dict[str, dict[str, Any]]:
    """Return the defects by id."""
    return {defect["id"]: defect for defect in tomllib.loads((LEDGER / "defects.toml").read_text("utf-8"))["defect"]}


def floors() -> list[dict[str, Any]]:
    """Return the smallest numbers of checks in a complete run, by versions."""
    return tomllib.loads((LEDGER / "floor.toml").read_text("utf-8"))["floor"]


def applies_here(row: dict[str, Any]) -> bool:
    """Whether a defect or a floor applies to the installed versions."""
    return all(
        SpecifierSet(range_).contains(Version(version(name)).base_version, prereleases=True)
        for name, range_ in row["versions"].items()
    )


def error(defect: dict[str, Any]) -> type[Exception]:
    """Return the type that a defect's reproduction and its tests raise, by default ``AssertionError``."""
    return getattr(builtins, defect.get("error", "AssertionError"))


@cache
def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Return every function in the tests, with its file's name."""
    paths = sorted(TESTS.rglob("test_*.py"))
    nodes = [
        (path.relative_to(TESTS).as_posix(), node) for path in paths for node in ast.parse(path.read_text("utf-8")).body
    ]
    return [(file, node) for file, node in nodes if isinstance(node, ast.FunctionDef)]


def claim_marks() -> Iterator[tuple[str, str, str]]:
    """Find each ``@pytest.mark.claim(id)``: yield the id, the test's file and its name."""
    for file, function in functions():
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.claim":
                for argument in decorator.args:
                    yield ast.literal_eval(argument), file, function.name


def claims_page() -> str:
    """Render the claims, the tests that decide them, and the corrections of false ones."""
    tests: dict[str, list[str]] = {}
    for id_, file, name in claim_marks():
        tests.setdefault(id_, []).append(f"[`{name}`](../tests/{file})")
    lines = [
        "# The notebook's claims",
        "",
        "Every statement of *Anatomia de Uma Rede Neural: SimpleNet* that a test can decide, and the tests that do.",
        "`python -m tests.ledger` writes this page from [claims.toml](../tests/ledger/claims.toml).",
        "",
        "| section | claim | verdict | decided by |",
        "| --- | --- | --- | --- |",
    ]
    for id_, claim in claims().items():
        section, name = id_.split("/")
        verdict = claim["verdict"] if "correction" not in claim else f"[{claim['verdict']}](#{_anchor(id_)})"
        deciding = "<br>".join(tests.get(id_, ["nothing"]))
        lines.append(f"| §{section} | {claim['statement']} | {verdict} | {deciding} |")
    for id_, claim in claims().items():
        if "correction" in claim:
            lines += ["", f"## {_heading(id_)}", ""]
            lines += [f"> {claim['statement']}", "", claim["correction"].strip()]
    return "\n".join(lines) + "\n"


def defects_page() -> str:
    """Render the defects with their reproductions."""
    lines = [
        "# Defects of torch and Lightning",
        "",
        "Each defect is a strict expected failure of the named tests in the named versions: the suite fails if a",
        "defect occurs in another version, and if it is fixed. In these versions, each reproduction raises an",
        "`AssertionError`, or the named error. `python -m tests.ledger` writes this page from",
        "[defects.toml](../tests/ledger/defects.toml).",
    ]
    for id_, defect in defects().items():
        lines += [
            "",
            f"## {defect['title']}",
            "",
            f"`{id_}` · {', '.join(f'{name} {range_}' for name, range_ in defect['versions'].items())}"
            + (f" · `{defect['error']}`" if "error" in defect else "")
            + (f" · [upstream]({defect['link']})" if "link" in defect else ""),
            "",
            defect["consequence"].strip(),
            "",
            f"Found by {', '.join(dict.fromkeys(found for cell in defect['cell'] for found in _found_by(cell)))}.",
            "",
            "```python",
            defect["reproduction"].strip(),
            "```",
        ]
    return "\n".join(lines) + "\n"


PAGES = {DOCS / "claims.md": claims_page, DOCS / "defects.md": defects_page}


def _found_by(cell: dict[str, Any]) -> list[str]:
    """Name the checks of a cell, or else its test."""
    return [f"*{check}*" for check in cell.get("check", ())] or [f"`{cell['test']}`"]


def _heading(id_: str) -> str:
    section, name = id_.split("/")
    return f"§{section}, {name.replace('-', ' ')}"


def _anchor(id_: str) -> str:
    return _heading(id_).replace("§", "").replace(".", "").replace(",", "").replace(" ", "-")
