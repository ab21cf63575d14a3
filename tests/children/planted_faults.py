"""Plant a fault with each possible outcome, and the named ones: ``python -m tests.children.planted_faults NAME...``.

The outcomes are saved as ``matrix.json`` in the working directory.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from simplenet.testing import bounds
from simplenet.testing.report import Report, Result, Status
from tests.faults.planted import FAULTS
from tests.faults.planting import Fault, edit, replace
from tests.faults.runner import Outcome, run

TEST = "test_the_unit_roundoff_is_half_the_spacing_at_one"
KEPT = [bounds.unit_roundoff]  # in a list, because a name would be replaced too


def planted(change: Callable[[torch.dtype], float]) -> Callable[[], None]:
    """Plant another unit roundoff."""
    return lambda: replace(bounds.unit_roundoff, change)


def same(dtype: torch.dtype) -> float:
    """Change nothing."""
    return KEPT[0](dtype)


def doubled(dtype: torch.dtype) -> float:
    """Be wrong in every type."""
    return 2 * KEPT[0](dtype)


def doubled_in_float64(dtype: torch.dtype) -> float:
    """Be wrong in a type that the witness does not use."""
    return KEPT[0](dtype) * (1 + (dtype == torch.float64))


def raises(_: torch.dtype) -> float:
    """Fail by something other than an assertion."""
    raise KeyError("eps")


def witness() -> object:
    """Return the value that must change when a fault is planted."""
    try:
        return bounds.unit_roundoff(torch.float32)
    except KeyError as error:
        return error


def judged(name: str, *results: Result, control: bool = False) -> Fault:
    """Make a fault that is an optimizer or a network, of which a check reports this."""
    return Fault(name, "own", "", lambda: None, None, control=control, judge=lambda: Report("it", list(results)))


HOLDS, KNOWN, FAILS = Result("a", Status.HOLDS), Result("b", Status.KNOWN, "1"), Result("c", Status.FAILS, "2")
OWN = [
    Fault("noticed", "own", "", planted(doubled), witness, (TEST,)),
    Fault("not noticed", "own", "", planted(doubled), witness, ("test_every_layout_has_its_strides_tested",)),
    Fault("raised", "own", "", planted(raises), witness, (TEST,)),
    Fault("no change", "own", "", planted(same), witness, (TEST,)),
    Fault("stale", "own", "", lambda: edit(bounds.gamma, ("n * 3", "n")), witness, (TEST,)),
    Fault("no test", "own", "", planted(raises), witness, ("test_that_there_is_none",)),
    Fault("dies", "own", "", lambda: os._exit(0), witness, (TEST,)),
    Fault("control", "own", "", planted(same), witness, (TEST,), control=True),
    Fault("control that fails", "own", "", planted(doubled_in_float64), witness, (TEST,), control=True),
    Fault("later", "own", "", planted(raises), witness, (TEST,), since=(99, 0)),
    judged("judged", HOLDS, KNOWN, FAILS),
    judged("judged, and only by torch's own defect", HOLDS, KNOWN),
    judged("judged control", HOLDS, KNOWN, control=True),
]


def main(*names: str) -> None:
    """Plant them one after the other."""
    outcomes: list[Outcome] = []
    run([*OWN, *(fault for fault in FAULTS if fault.name in names)], processes=1, done=outcomes.append)
    Path("matrix.json").write_text(json.dumps([vars(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main(*sys.argv[1:])
