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


def disagreements(records: dict[str, Row]) -> Iterator[str]:
    """List the differences between records and deviations: failures without a row, and rows without a failure."""
    known = adams()
    rows = [(row, name) for row in deviations() for name in row["adams"]]
    shown = {name: one for record in records.values() for name, one in record.get("reproductions", {}).items()}
    for name, found in (
        (n, f) for record in records.values() for n, f in record.get("checks", {}).items() if n in known
    ):
        own = [row for row, of in rows if of == name]
        fails = {check for check, (status, _) in found["results"].items() if status == "FAILS"}
        if known[name].get("kind") == CONTROL:
            fails ^= {PUBLISHED}  # it must fail this one
            fails &= {PUBLISHED}
        expected = {check for row in own for check in row.get("checks", ())}
        for check in sorted(fails - expected):
            yield f"{name} fails '{check}', and deviations.toml has no row: {found['results'].get(check, ['', ''])[1]}"
        for check in sorted(expected - fails):
            yield f"{name} should fail '{check}' by deviations.toml, but does not"
        for row in own:
            if (came := shown.get(name, {}).get(row["id"], "it was not run")) is not True:
                yield f"{name} does not reproduce {row['id']}: {came}"
            if "variant" in row and any((found["variant"] or {}).get(k) != v for k, v in row["variant"].items()):
                yield f"{name} should be {row['variant']} by deviations.toml, but is {found['variant']}"
        explained = set().union(*(row.get("variant", {}) for row in own))
        for axis in (found["departs"] or {}).keys() - explained:
            yield f"{name} has {axis} {found['departs'][axis]}, and deviations.toml has no row"
