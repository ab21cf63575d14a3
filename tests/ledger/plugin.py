"""A pytest plugin: xfail the tests of known defects, and count claims, defects and checks."""

import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings

from simplenet.testing.plugin import USER_TESTS, selected_devices
from simplenet.testing.strategies import DTYPES
from tests import ledger

# The parameters by which checks are counted, and the counted values, if not all.
AXES = {"adam": None, "network": None, "device": None, "dtype": DTYPES}

# Parameters whose values are a device, or end in "-" and one.
DEVICE_AXES = ("adam", "network", "device")

# Options that test an object supplied by the user, to which the ledger of torch's defects does not apply.
USERS = (*USER_TESTS, "--golden")

# Options that leave tests out.
PARTIAL = ("keyword", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "benchmark_only", "collectonly", *USERS)

# The default of -m, from pyproject.toml: it deselects only tests that no floor counts.
NOT_SOAK = "not soak"


def _parameters(item: pytest.Function) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _in_cell(item: pytest.Function, cell: dict[str, Any]) -> bool:
    """Whether a test has all parameters of a defect's cell; ``cuda:1`` counts as ``cuda``."""
    named = {name: re.sub(r"\b(cuda|mps):\d+$", r"\1", str(value)) for name, value in _parameters(item).items()}
    return all(named.get(name) in cell[name] for name in cell.keys() - {"test", "versions", "error"})


def _on_selected_device(cell: dict[str, Any], config: pytest.Config) -> bool:
    """Whether the run has a device of each type in the cell."""
    selected = {device.type for device in selected_devices(config)}
    cells_devices = [{value.rpartition("-")[2] for value in cell[axis]} for axis in DEVICE_AXES if axis in cell]
    return all(selected & of_axis for of_axis in cells_devices)


@pytest.hookimpl(tryfirst=True)  # before -k and -m deselect items
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Record the claims and the axes of each test, and expect the known defects."""
    for item in items:
        item.user_properties += [("claim", claim) for mark in item.iter_markers("claim") for claim in mark.args]
        parameters = _parameters(item)
        item.user_properties += [
            ("axis", str(parameters[name]).removeprefix("torch."))
            for name, values in AXES.items()
            if name in parameters and (values is None or parameters[name] in values)
        ]
    if not any(map(config.getoption, USERS)):
        _expect_defects(config, items)


def _expect_defects(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Mark the tests in the cells of each defect that these versions have as strict expected failures.

    Raises:
        UsageError: If no test is in a cell.
    """
    narrowed = any("::" in argument for argument in config.args)
    for id_, defect in ledger.defects().items():
        for cell in defect["cell"]:
            if not ledger.applies_here(defect | cell):
                continue
            namesakes = [item for item in items if item.originalname == cell["test"]]
            found = [item for item in namesakes if _in_cell(item, cell)]
            if namesakes and not found and not narrowed and _on_selected_device(cell, config):
                raise pytest.UsageError(f"tests/ledger/defects.toml: {id_}: no test is in the cell {cell}")
            for item in found:
                item.user_properties.append(("defect", id_))
                item.add_marker(
                    pytest.mark.xfail(
                        strict=True,
                        raises=ledger.error(defect | cell),
                        reason=f"defect {id_}; if this passes, it is fixed here: narrow its versions in defects.toml",
                    )
                )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Do not shrink the example of an expected failure: any example suffices, and shrinking takes seconds."""
    test = getattr(item, "obj", None)
    name = "_hypothesis_internal_use_settings"
    if item.get_closest_marker("xfail") is None or not hasattr(test, name):
        return (yield)
    before = getattr(test, name)
    phases = [Phase.explicit, Phase.generate]
    # Two bugs would be raised as an ExceptionGroup, which is not the expected type.
    setattr(test, name, settings(before, phases=phases, report_multiple_bugs=False, print_blob=False))
    try:
        return (yield)
    finally:
        setattr(test, name, before)


class Tally:
    """Count checks, defects and claims from the reports, which under xdist come from the workers.

    Attributes:
        checks: The number of checks for each value of an axis.
        defects: The defects that occurred.
        decided: The claims for which a test has confirmed the ledger's verdict.
        failed: The claims for which a test has failed.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.checks: Counter[str] = Counter()
        self.defects: set[str] = set()
        self.decided: set[str] = set()
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        as_expected = report.when == "call" and (report.passed or hasattr(report, "wasxfail"))
        for kind, value in report.user_properties:
            name = str(value)
            if kind == "axis":
                self.checks[name] += as_expected
            elif kind == "defect" and as_expected and report.skipped:
                self.defects.add(name)
            elif kind == "claim" and report.failed:
                self.failed.add(name)
            elif kind == "claim" and as_expected:
                self.decided.add(name)

    def missing(self) -> dict[str, int]:
        """Return how many checks a complete run lacks, by axis; a partial run has no floor.

        The floor of a GPU is that of CUDA; without one, each axis of the CPU's floor needs one check on the GPU too.
        """
        option = self.config.getoption
        partial = any(option(name, None) for name in PARTIAL) or option("markexpr") not in {"", NOT_SOAK}
        if partial or self.config.args != self.config.getini("testpaths"):
            return {}
        rows = [row for row in ledger.floors() if ledger.applies_here(row)]
        floor = {axis: count for row in rows for axis, count in row["checks"].items()}
        on_cuda = {axis.removesuffix("cpu"): 1 for axis in floor if axis.endswith("cpu")}
        on_cuda |= {axis.removesuffix("cuda"): floor.pop(axis) for axis in list(floor) if axis.endswith("cuda")}
        gpus = [str(device) for device in selected_devices(self.config) if device.type == "cuda"]
        on_gpus = {axis + gpu: count for axis, count in on_cuda.items() for gpu in gpus}
        floor = floor | on_gpus if option("--device") == "all" else on_gpus
        return {axis: count - self.checks[axis] for axis, count in floor.items() if self.checks[axis] < count}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.missing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        claims = ledger.claims()
        decided = claims.keys() & (self.decided - self.failed)
        verdicts = Counter(claims[id_]["verdict"] for id_ in decided)
        write = terminalreporter.write_line
        write("checks: " + ", ".join(f"{axis} {count}" for axis, count in sorted(self.checks.items())))
        if any(map(self.config.getoption, USERS)):
            return
        for axis, count in self.missing().items():
            write(f"checks: {axis} is {count} below tests/ledger/floor.toml: some tests no longer run", red=True)
        write(
            f"defects: {len(self.defects)} of {len(ledger.defects())} known ones occur in torch {torch.__version__} "
            f"and lightning {version('lightning')}"
        )
        write(
            f"claims: {verdicts['holds']} hold, {verdicts['refuted']} are refuted as expected, "
            f"{len(claims) - len(decided)} unchecked"
        )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # under xdist, the controller counts
        config.pluginmanager.register(Tally(config), "simplenet-tally")
