"""pytest: what is under test, its options and its fixtures.

``pytest_plugins = ["simplenet.testing.plugin"]`` in a ``conftest.py`` brings them to a suite.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch

from simplenet.testing.checks import BoundCheck, bound_checks
from simplenet.testing.implementations import AdamUnderTest, NetworkUnderTest, adams, devices, networks
from simplenet.testing.importing import import_object
from simplenet.testing.network import NetworkStudy
from simplenet.testing.network import bound_checks as network_checks
from simplenet.testing.optimizers import Subject
from simplenet.testing.study import Study

# The options that name something of the user's, and the fixture that the tests of it ask for: these run alone.
USER_TESTS = {"--adam": "adam_check", "--net": "network_check"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="all",
        help="run on this device alone: cpu, cuda, cuda:1, mps (default: on the CPU, and on CUDA where there is one)",
    )
    parser.addoption(
        "--adam", metavar="PKG.MOD:CLASS", help="check this Adam alone, as `simplenet check adam` does; a test a check"
    )
    parser.addoption(
        "--net",
        metavar="PKG.MOD:FACTORY",
        help="check alone what this factory, called without arguments, builds, as `simplenet check network` does; its "
        "example_input_array, a batch to try, says what it takes (default: two numbers a row)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a wrong option before anything is collected."""
    try:
        selected_devices(config), [user_checks(config, option) for option in USER_TESTS]
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def selected_devices(config: pytest.Config) -> list[torch.device]:
    """List the devices to run on.

    Raises:
        ValueError: If ``--device`` names nothing that is here.
    """
    return devices(config.getoption("--device"))


def user_checks(config: pytest.Config, option: str) -> list[BoundCheck]:
    """List the checks of what ``--adam`` or ``--net`` names, on each device; none without the option.

    Raises:
        ValueError: If there is no such thing.
    """
    path = config.getoption(option)
    if path is None:
        return []
    try:
        made = import_object(path)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
    here = selected_devices(config)
    if option == "--adam":
        return [check for device in here for check in bound_checks(Study(Subject(made), device=device))]
    return [check for device in here for check in network_checks(NetworkStudy(made, device=device))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    values: dict[str, Callable[[], Sequence[object]]] = {
        "device": lambda: selected_devices(config),
        "adam": lambda: adams(selected_devices(config)),
        "network": lambda: networks(selected_devices(config)),
        **{fixture: partial(user_checks, config, option) for option, fixture in USER_TESTS.items()},
    }
    for fixture, under_test in values.items():
        if fixture in metafunc.fixturenames and not _has(metafunc, fixture):
            # They outlive an example of Hypothesis; tests keep their order, which a wider scope would change.
            metafunc.parametrize(fixture, under_test(), ids=str, indirect=True, scope="function")


def _has(metafunc: pytest.Metafunc, argument: str) -> bool:
    """Whether a test brings its own values of an argument, as by ``parametrize_with_checks``."""
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    lists = [names.split(",") if isinstance(names, str) else names for names in named]
    return argument in {name.strip() for names in lists for name in names}


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device to run on: the CPU, and CUDA where there is one, or that of ``--device``."""
    param: torch.device = request.param
    return param


@pytest.fixture(scope="session")
def adam(request: pytest.FixtureRequest) -> AdamUnderTest:
    """Each of torch's implementations of Adam on each device: call it with parameters to build an optimizer."""
    param: AdamUnderTest = request.param
    return param


@pytest.fixture(scope="session")
def network(request: pytest.FixtureRequest) -> NetworkUnderTest:
    """Each of the notebook's networks on each device: call it with a seed to build one."""
    param: NetworkUnderTest = request.param
    return param


@pytest.fixture(scope="session")
def adam_check(request: pytest.FixtureRequest) -> BoundCheck:
    """Each check of the Adam that ``--adam`` names: call it."""
    param: BoundCheck = request.param
    return param


@pytest.fixture(scope="session")
def network_check(request: pytest.FixtureRequest) -> BoundCheck:
    """Each check of the network that ``--net`` names: call it."""
    param: BoundCheck = request.param
    return param


@pytest.hookimpl(tryfirst=True)  # before -k and -m take items away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Run the tests of what the user names alone, and without an option for it none of them."""
    asked_for = {fixture for option, fixture in USER_TESTS.items() if config.getoption(option)}
    without = set(USER_TESTS.values()) - asked_for
    items[:] = [item for item in items if without.isdisjoint(item.fixturenames)]
    for item in items:
        if getattr(item.obj, "refuted", False):
            item.user_properties.append(("refuted", True))
    if asked_for:
        run_alone(config, items, asked_for)


def run_alone(config: pytest.Config, items: list[pytest.Function], fixtures: set[str]) -> None:
    """Deselect the tests that ask for none of some fixtures."""
    others = [item for item in items if fixtures.isdisjoint(item.fixturenames)]
    items[:] = [item for item in items if not fixtures.isdisjoint(item.fixturenames)]
    config.hook.pytest_deselected(items=others)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Report a counter-claim as refuted: its name is false, and the test passes because it is."""
    if report.when == "call" and report.passed and ("refuted", True) in map(tuple, report.user_properties):
        return "passed", ".", ("REFUTED", {"green": True})
    return None
