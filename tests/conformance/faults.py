"""Faults planted in copies of packages, which the report of the checks must name."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance import HERE, Row


def faults() -> dict[str, Row]:
    """Return the faults, by the implementation that is checked with each."""
    return {one["adam"]: one for one in tomllib.loads((HERE / "faults.toml").read_text("utf-8"))["fault"]}


@contextmanager
def planted(fault: Row, package: str, site: Path) -> Iterator[None]:
    """Plant a fault in a package that is installed in a directory.

    Raises:
        ValueError: If the file does not contain the text to replace exactly once.
    """
    file = site / fault["file"]
    text = file.read_text("utf-8")
    if (n := text.count(fault["old"])) != 1:
        raise ValueError(f"{fault['file']} of {package} has {fault['old']!r} {n} times, but should have it once")
    file.write_text(text.replace(fault["old"], fault["new"]), "utf-8")
    try:
        yield
    finally:
        file.write_text(text, "utf-8")


def reported(fault: Row, found: Row) -> list[str]:
    """List what a report contains about a fault."""
    checks = [f"{check}: {found['results'][check][1]}" for check in fault.get("checks", ())]
    return checks + [f"{axis}: {(found['variant'] or {}).get(axis)}" for axis in fault.get("variant", ())]


def check_report(fault: Row, without: Row, found: Row) -> Iterator[str]:
    """List what is missing in the report with a fault, and what is already in the report without it."""
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
    """List the faults that a report does not name, or that were not planted."""
    tried = {name: one for record in records.values() for name, one in record.get("faults", {}).items()}
    for name, fault in faults().items():
        found = tried.get(name, {})
        for what in found["missing"] if found.get("fault") == fault["name"] else ["it was not planted"]:
            yield f"{name} with a fault, {fault['name']}: {what}"
