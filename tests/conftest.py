"""The suite's own plugin: what is under test, the ledger of claims, and defects expected where they live."""

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests import ledger
from tests.background import Background
from tests.strategies import DTYPES
from tests.targets import adams, devices, networks, user_checks

# What a run's checks are counted by: the parameter, and the values that count, if not all.
AXES = {"adam": None, "network": None, "device": None, "dtype": DTYPES}

# Parameters whose values are a device, or end in "-" and one.
DEVICE_AXES = ("adam", "network", "device")

# What a user brings, code or another environment's bits, and the fixture that the tests of it have: they run alone.
USERS = {"--adam": "adam_check", "--net": "network_check", "--golden": "golden"}

# The -m that pyproject.toml gives: it leaves out what no floor counts. One on the command line takes its place.
NOT_SOAK = "not soak"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "adam" in metafunc.fixturenames:
        metafunc.parametrize("adam", adams(metafunc.config), ids=str)
    if "network" in metafunc.fixturenames:
        metafunc.parametrize("network", networks(metafunc.config), ids=str)
    for option in ("--adam", "--net"):
        if USERS[option] in metafunc.fixturenames:
            metafunc.parametrize(USERS[option], user_checks(metafunc.config, option), ids=str)


def alive(row: dict[str, Any]) -> bool:
    """Whether what a row of data says, a defect's or a floor's, is to be expected in the versions at hand."""
    return all(
        SpecifierSet(range_).contains(Version(version(name)).base_version, prereleases=True)
        for name, range_ in row["versions"].items()
    )


def _in_cell(item: pytest.Function, cell: dict[str, Any]) -> bool:
    """Whether an item of the cell's test has every parameter that the cell names; ``cuda:1`` counts as ``cuda``."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    named = {name: re.sub(r"\b(cuda|mps):\d+$", r"\1", str(value)) for name, value in parameters.items()}
    return all(named.get(name) in values for name, values in cell.items() if name != "test")


def _on_selected_device(cell: dict[str, Any], config: pytest.Config) -> bool:
    """Whether the run has a device of each kind that the cell is about."""
    selected = {device.type for device in devices(config)}
    cells_devices = [{value.rpartition("-")[2] for value in cell[axis]} for axis in DEVICE_AXES if axis in cell]
    return all(selected & of_axis for of_axis in cells_devices)


def _waits(item: pytest.Item) -> bool:
    """Whether an item asks processes beside the tests."""
    return "finished" in getattr(item, "fixturenames", ())


@pytest.hookimpl(tryfirst=True)  # before -k and -m take items away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    # Without its option there is nothing to check; the committed record is golden without one.
    idle = {USERS[option] for option in ("--adam", "--net") if config.getoption(option) is None}
    items[:] = [item for item in items if idle.isdisjoint(item.fixturenames)]
    items.sort(key=_waits)  # last, and otherwise in order
    for item in items:
        for mark in item.iter_markers("claim"):
            item.user_properties += [("claim", claim) for claim in mark.args]
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        item.user_properties += [
            ("axis", str(parameters[name]).removeprefix("torch."))
            for name, values in AXES.items()
            if name in parameters and (values is None or parameters[name] in values)
        ]
    theirs = {fixture for option, fixture in USERS.items() if config.getoption(option)}
    if theirs:  # what speaks of torch or SimpleNet has no say: neither other tests nor the ledger of defects
        others = [item for item in items if theirs.isdisjoint(item.fixturenames)]
        items[:] = [item for item in items if not theirs.isdisjoint(item.fixturenames)]
        config.hook.pytest_deselected(items=others)
        return
    narrowed = any("::" in argument for argument in config.args)
    for id_, defect in ledger.defects().items():
        if not alive(defect):
            continue
        for cell in defect["cell"]:
            namesakes = [item for item in items if item.originalname == cell["test"]]
            found = [item for item in namesakes if _in_cell(item, cell)]
            if namesakes and not found and not narrowed and _on_selected_device(cell, config):
                raise pytest.UsageError(f"tests/defects.toml: {id_}: no test is in the cell {cell}")
            for item in found:
                item.user_properties.append(("defect", id_))
                item.add_marker(
                    pytest.mark.xfail(
                        strict=True,
                        raises=ledger.error(defect),
                        reason=f"defect {id_}; if this passes, it is fixed here: narrow its versions in defects.toml",
                    )
                )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Do not shrink what is expected to fail: any failing example will do, and shrinking takes seconds."""
    test = getattr(item, "obj", None)
    name = "_hypothesis_internal_use_settings"
    if item.get_closest_marker("xfail") is None or not hasattr(test, name):
        return (yield)
    usual = getattr(test, name)
    phases = [Phase.explicit, Phase.generate]
    # One bug at a time: two of one kind would be raised as a group, which is of another kind.
    setattr(test, name, settings(usual, phases=phases, report_multiple_bugs=False, print_blob=False))
    try:
        return (yield)
    finally:
        setattr(test, name, usual)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what tests will wait for; under xdist no worker knows who waits, so each starts when it does."""
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return
    for module in {item.module for item in session.items if _waits(item)}:
        for value in vars(module).values():
            if isinstance(value, Background):
                value.start()


@pytest.fixture
def finished() -> Callable[[Background], Path]:
    """Wait for processes beside the tests; return the directory that they wrote into."""
    return Background.finish


class _Tally:
    """Count what was decided, from the reports: under xdist they come from the workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.decided: set[str] = set()
        self.failed: set[str] = set()
        self.alive: set[str] = set()
        self.checks: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        as_expected = report.when == "call" and (report.passed or hasattr(report, "wasxfail"))
        for kind, name in report.user_properties:
            if kind == "axis":
                self.checks[name] += as_expected
            elif kind == "defect":
                self.alive |= {name} if as_expected and report.skipped else set()
            elif kind == "claim" and report.failed:
                self.failed.add(name)
            elif kind == "claim" and as_expected:
                self.decided.add(name)

    def missing(self) -> dict[str, int]:
        """Return by how many checks a whole run falls short of the floor; a partial run cannot.

        What a GPU checks has not been counted: each axis of the CPU's floor should have a check there, too.
        """
        options = self.config.option
        own = any(map(self.config.getoption, USERS))
        chosen = options.keyword or options.markexpr not in {"", NOT_SOAK}
        partial = own or chosen or options.benchmark_only
        if partial or self.config.args != self.config.getini("testpaths") or options.collectonly:
            return {}
        floors = tomllib.loads((ledger.TESTS / "floor.toml").read_text("utf-8"))["floor"]
        floor = {axis: count for row in floors if alive(row) for axis, count in row["checks"].items()}
        on_gpus = [str(device) for device in devices(self.config) if device.type == "cuda"]
        on_gpus = {axis.removesuffix("cpu") + gpu: 1 for axis in floor if axis.endswith("cpu") for gpu in on_gpus}
        floor = floor | on_gpus if options.device == "all" else on_gpus
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
            write(f"checks: {axis} falls {count} short of tests/floor.toml: what no longer runs?", red=True)
        write(
            f"defects: {len(self.alive)} of {len(ledger.defects())} known ones show in torch {torch.__version__} "
            f"and lightning {version('lightning')}"
        )
        write(
            f"claims: {verdicts['holds']} hold, {verdicts['refuted']} are refuted as expected, "
            f"{len(claims) - len(decided)} went unchecked"
        )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # under xdist, the controller counts
        config.pluginmanager.register(_Tally(config), "simplenet-tally")
