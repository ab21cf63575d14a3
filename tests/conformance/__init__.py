"""Which Adam is it? Published implementations, each checked by ``simplenet.testing`` in its own environment.

``python -m tests.conformance check`` creates the environments, one at a time, writes the results to docs/conformance,
and then writes docs/conformance.md and its plot; without arguments it writes only the last two. Each deviation from the
published Adam has a row in deviations.toml, and the results must agree with the rows. ``python -m tests.conformance
faults`` plants each fault of faults.toml in a copy of a package; the report must name it.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RECORDS = ROOT / "docs" / "conformance"
FORMAT = "simplenet conformance 1"

Row = dict[str, Any]

# A negative control must fail this check; the other checks that it fails are not deviations.
PUBLISHED = "it is a published variant of Adam"
CONTROL = "not an Adam"


def environments() -> dict[str, Row]:
    """Return the environments by name."""
    return {one["name"]: one for one in tomllib.loads((HERE / "catalogue.toml").read_text("utf-8"))["environment"]}


def deviations() -> list[Row]:
    """Return the known deviations from the published Adam."""
    return tomllib.loads((HERE / "deviations.toml").read_text("utf-8"))["deviation"]


def adams() -> dict[str, Row]:
    """Return the implementations by name, each with its environment."""
    return {adam["name"]: adam | {"environment": one} for one in environments().values() for adam in one["adam"]}


def reproduction(deviation: Row, adam: Row) -> str:
    """Return the code that shows a deviation of an implementation, which the code imports as Adam."""
    module, _, name = str(adam.get("native", adam["make"])).partition(":")
    return deviation["reproduction"].strip().replace("from PACKAGE import", f"from {module} import {name} as") + "\n"


def found_in(records: dict[str, Row]) -> Iterator[tuple[str, Row, Row]]:
    """List each implementation that was checked, with its row of the catalogue and its results."""
    for name, adam in adams().items():
        record = records.get(adam["environment"]["name"], {})
        if found := record.get("checks", {}).get(name):
            yield name, adam, found | {"times": record.get("times", {}).get(name, {})}


def disagreements(records: dict[str, Row]) -> Iterator[str]:
    """List the differences between records and deviations: failures without a row, and rows without a failure."""
    shown = {name: one for record in records.values() for name, one in record.get("reproductions", {}).items()}
    rows = deviations()
    for name, adam, found in found_in(records):
        own = [row for row in rows if name in row["adams"]]
        fails = {check for check, (status, _) in found["results"].items() if status == "FAILS"}
        if adam.get("kind") == CONTROL:
            if PUBLISHED not in fails:
                yield f"{name} is {CONTROL} and should fail '{PUBLISHED}', but does not"
            fails = set()  # no deviations
        expected = {check for row in own for check in row.get("checks", ())}
        for check in sorted(fails - expected):
            yield f"{name} fails '{check}', and deviations.toml has no row: {found['results'][check][1]}"
        for check in sorted(expected - fails):
            yield f"{name} should fail '{check}' by deviations.toml, but does not"
        for row in own:
            if (came := shown.get(name, {}).get(row["id"], "it was not run")) is not True:
                yield f"{name} does not reproduce {row['id']}: {came}"
            if "variant" in row and any((found["variant"] or {}).get(k) != v for k, v in row["variant"].items()):
                yield f"{name} should be {row['variant']} by deviations.toml, but is {found['variant']}"
        explained = set().union(*(row.get("variant", {}) for row in own))
        for axis in found["departs"].keys() - explained:
            yield f"{name} has {axis} {found['departs'][axis]}, and deviations.toml has no row"
