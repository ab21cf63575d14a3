"""A pytest plugin: options that choose the objects under test, and fixtures for them.

Enable it by ``pytest_plugins = ["simplenet.testing.plugin"]`` in a ``conftest.py``.
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

# The options that name a user's object, and the fixture of its tests: with such an option, only these tests run.
USER_TESTS = {"--adam": "adam_check", "--net": "network_check"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="all",
        help="run only on this device: cpu, cuda, cuda:1, mps (default: the CPU, and CUDA if it is available)",
    )
    parser.addoption(
        "--adam", metavar="PKG.MOD:CLASS", help="only check this Adam, like `simplenet check adam`: one test a check"
    )
    parser.addoption(
        "--net",
        metavar="PKG.MOD:FACTORY",
        help="only check the network that this factory returns, like `simplenet check network`: one test a check; the "
        "network's example_input_array is an example batch (default: rows of two numbers)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a wrong option before the collection."""
    try:
        selected_devices(config), [user_checks(config, option) for option in USER_TESTS]
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def selected_devices(config: pytest.Config) -> list[torch.device]:
    """List the devices to run on.

    Raises:
        ValueError: If there is no such device as ``--device`` names.
    """
    return devices(config.getoption("--device"))


def user_checks(config: pytest.Config, option: str) -> list[BoundCheck]:
    """List the checks of the object that ``--adam`` or ``--net`` names, on each device; none without the option.

    Raises:
        ValueError: If it cannot be imported.
    """
    path = config.getoption(option)
    if path is None:
        return []
    try:
        made = import_object(path)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
    on = selected_devices(config)
    if option == "--adam":
        return [check for device in on for check in bound_checks(Study(Subject(made), device=device))]
    return [check for device in on for check in network_checks(NetworkStudy(made, device=device))]


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
            # The fixtures have session scope for Hypothesis; the scope here keeps the order of the tests.
            metafunc.parametrize(fixture, under_test(), ids=str, indirect=True, scope="function")


def _has(metafunc: pytest.Metafunc, argument: str) -> bool:
    """Whether a test parametrizes an argument itself, as ``parametrize_with_checks`` does."""
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    lists = [names.split(",") if isinstance(names, str) else names for names in named]
    return argument in {name.strip() for names in lists for name in names}


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device to run on: the CPU, and CUDA if it is available, or that of ``--device``."""
    param: torch.device = request.param
    return param


@pytest.fixture(scope="session")
def adam(request: pytest.FixtureRequest) -> AdamUnderTest:
    """Each of torch's implementations of Adam on each device: call it with parameters to build an optimizer."""
    param: AdamUnderTest = request.param
    return param


@pytest.fixture(scope="session")
def network(request: pytest.FixtureRequest) -> NetworkUnderTest:
    """Each of the notebook's networks, with its device."""
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


@pytest.hookimpl(tryfirst=True)  # before -k and -m deselect items
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """With ``--adam`` or ``--net``, run only the tests of that object; without them, none of these tests."""
    requested = {fixture for option, fixture in USER_TESTS.items() if config.getoption(option)}
    without = set(USER_TESTS.values()) - requested
    items[:] = [item for item in items if without.isdisjoint(item.fixturenames)]
    for item in items:
        if getattr(item.obj, "refuted", False):
            item.user_properties.append(("refuted", True))
    if requested:
        run_only(config, items, requested)


def run_only(config: pytest.Config, items: list[pytest.Function], fixtures: set[str]) -> None:
    """Deselect the tests that use none of these fixtures."""
    others = [item for item in items if fixtures.isdisjoint(item.fixturenames)]
    items[:] = [item for item in items if not fixtures.isdisjoint(item.fixturenames)]
    config.hook.pytest_deselected(items=others)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Report a passed counter-claim as REFUTED: its name is a false sentence, and an assertion in it failed."""
    if report.when == "call" and report.passed and ("refuted", True) in map(tuple, report.user_properties):
        return "passed", ".", ("REFUTED", {"green": True})
    return None
