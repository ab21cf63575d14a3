"""A pytest plugin: record golden runs, compare with them, and write the results of an environment."""

from pathlib import Path
from typing import Any

import pytest

from simplenet.environment import describe, processor
from simplenet.testing.plugin import run_only, selected_devices
from tests.environments.drift import kernels, line, table
from tests.environments.golden import (
    COMMITTED,
    CPU,
    SEEDS,
    STEPS,
    TRAJECTORIES,
    Drift,
    Golden,
    read,
    record,
    runs_here,
    writable,
)
from tests.environments.page import FORMAT, dumps

_GOLDEN = pytest.StashKey[Golden]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-write",
        metavar="FILE",
        help="run no tests, but write this file for --golden in another environment: weights, losses and optimizer "
        f"states of {len(TRAJECTORIES)} runs of {STEPS:,} steps on the CPU; takes about half a minute",
    )
    parser.addoption(
        "--golden",
        metavar="FILE",
        help="only compare this environment with the one that wrote FILE by --golden-write: what differs, from which "
        "step on, and by how much; takes about half a minute",
    )
    parser.addoption(
        "--drift-write",
        metavar="FILE",
        help="write the results of this run for python -m tests.environments: versions, outcomes, defects, checks, "
        "drift of every golden run; takes a few more seconds",
    )


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With --golden-write, record instead of running tests."""
    if config.option.golden_write is None or config.option.help or config.option.version:
        return None
    path = Path(config.option.golden_write)
    try:
        golden = record(path)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    print(f"{path}: {len(golden.runs)} runs of {STEPS:,} steps, {kernels(golden.environment)}")  # noqa: T201
    return 0


def pytest_configure(config: pytest.Config) -> None:
    """Read the golden file, and refuse wrong files before the collection."""
    if config.option.golden_write is not None:
        return
    try:
        config.stash[_GOLDEN] = read(Path(config.option.golden or COMMITTED))
        if config.option.drift_write is not None:
            Path(config.option.drift_write).parent.mkdir(parents=True, exist_ok=True)
            writable("drift-write", Path(config.option.drift_write))
    except (OSError, ValueError) as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.golden is not None and CPU not in selected_devices(config):
        raise pytest.UsageError(f"golden is compared on the CPU, but the device is {config.option.device!r}")
    if not hasattr(config, "workerinput"):  # under xdist the workers measure, and the controller reports
        config.pluginmanager.register(Report(config), "simplenet-drift")
        if config.option.drift_write is not None:
            config.pluginmanager.register(Writer(config), "simplenet-drift-writer")


@pytest.hookimpl(tryfirst=True)  # before -k and -m deselect items
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """With --golden, run only the comparison; without it, the comparison uses the committed file."""
    if config.option.golden:
        run_only(config, items, {"golden"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    here = [one for one in config.stash[_GOLDEN].runs if runs_here(one) and CPU in selected_devices(config)]
    if "trajectory" in metafunc.fixturenames:
        metafunc.parametrize("trajectory", here, ids=str)
    if "free_run" in metafunc.fixturenames:
        # Each takes about a second: without these options, only the notebook's network and seed are run.
        thorough = config.option.golden or config.option.drift_write
        chosen = [one for one in here if thorough or (one.architecture, one.seed) == ("overview", SEEDS[0])]
        metafunc.parametrize("free_run", chosen, ids=str)


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Golden:
    """The recorded runs to compare with."""
    return pytestconfig.stash[_GOLDEN]


class Report:
    """Collect the drifts from the tests' reports, and print them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.drifts: list[Drift] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            found: list[Any] = [value for kind, value in report.user_properties if kind == "drift"]
            self.drifts += [Drift(**one) for one in found]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.drifts:
            return
        golden = self.config.stash[_GOLDEN]
        if self.config.option.golden:
            terminalreporter.section(f"drift from {self.config.option.golden}")
            for text in table(golden, self.drifts):
                terminalreporter.write_line(text)
        terminalreporter.write_line(line(golden, self.drifts))


class Writer:
    """Write the record at the end of the run, when xdist's workers have ended."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        if exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            terminalreporter.write_line(f"drift: not written, because the run was aborted ({exitstatus})", red=True)
            return
        tally: Any = self.config.pluginmanager.get_plugin("simplenet-tally")
        collected: Any = self.config.pluginmanager.get_plugin("simplenet-drift")
        stats = terminalreporter.stats
        kinds = {"passed": "passed", "failed": "failed", "errors": "error", "xfailed": "xfailed", "skipped": "skipped"}
        record = {
            "format": FORMAT,
            "environment": {**describe(CPU), "cpu": processor(CPU)},
            "verdict": {name: len(stats.get(key, [])) for name, key in kinds.items()},
            "failures": sorted({report.nodeid for key in ("failed", "error") for report in stats.get(key, [])}),
            "defects": sorted(tally.defects),
            "checks": dict(sorted(tally.checks.items())),
            "golden": kernels(self.config.stash[_GOLDEN].environment),
            "drifts": [one._asdict() for one in sorted(collected.drifts)],
        }
        path = Path(self.config.option.drift_write)
        path.write_text(dumps(record), "utf-8")
        terminalreporter.write_line(f"drift: written to {path}")
