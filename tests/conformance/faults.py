"""What the checks are worth on other code: the report has to name a fault that is planted in a copy of a package."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance import HERE, Row


def faults() -> dict[str, Row]:
    """Return the faults by the implementations that are checked with them."""
    return {one["adam"]: one for one in tomllib.loads((HERE / "faults.toml").read_text("utf-8"))["fault"]}


@contextmanager
def planted(fault: Row, package: str, site: Path) -> Iterator[None]:
    """Have a fault in what is installed in a directory.

    Raises:
        ValueError: If what it replaces is not there once.
    """
    file = site / fault["file"]
    text = file.read_text("utf-8")
    if (n := text.count(fault["old"])) != 1:
        raise ValueError(f"{fault['file']} of {package} should have {fault['old']!r} once, but has it {n} times")
    file.write_text(text.replace(fault["old"], fault["new"]), "utf-8")
    try:
        yield
    finally:
        file.write_text(text, "utf-8")


def said(fault: Row, found: Row) -> list[str]:
    """List what a report says of a fault."""
    checks = [f"{check}: {found['results'][check][1]}" for check in fault.get("checks", ())]
    return checks + [f"{axis}: {(found['variant'] or {}).get(axis)}" for axis in fault.get("variant", ())]


def unsaid(fault: Row, without: Row, found: Row) -> Iterator[str]:
    """List what a report should say of a fault, but does not, and what the report without the fault says already."""
    for check in fault.get("checks", ()):
        before, (status, detail) = without["results"][check][0], found["results"][check]
        if before != "holds":
            yield f"'{check}' should hold without the fault: {before}"
        if status != "FAILS":
            yield f"'{check}' should fail: {status}"
        elif detail.startswith(("raises ", "took more than ")):
            yield f"'{check}' should fail by an assertion: {detail}"
    for axis, value in fault.get("variant", {}).items():
        before, now = ((one["variant"] or {}).get(axis) for one in (without, found))
        if now != value or before == value:
            yield f"{axis} should become {value}: {before} without the fault, {now} with it"


def survivors(records: dict[str, Row]) -> Iterator[str]:
    """List the faults that a report does not name, or that were not tried."""
    tried = {name: one for record in records.values() for name, one in record.get("faults", {}).items()}
    for name, fault in faults().items():
        found = tried.get(name, {})
        for what in found["unsaid"] if found.get("fault") == fault["name"] else ["it was not tried"]:
            yield f"{name} with a fault, {fault['name']}: {what}"
