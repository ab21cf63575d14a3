"""Background processes of tests: they start before the first test, and the tests that need them run last."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.children.background import Background


def _waits(item: pytest.Item) -> TypeGuard[pytest.Function]:
    return "finished" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests that wait for background processes to the end."""
    items.sort(key=_waits)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the background processes; under xdist, a worker starts each when a test waits for it."""
    gc.freeze()  # the collector need not search the imported objects, nor copy them in a forked process
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return
    for module in {item.module for item in session.items if _waits(item)}:
        for value in vars(module).values():
            if isinstance(value, Background):
                value.start()


@pytest.fixture
def finished() -> Callable[[Background], Path]:
    """Return a function that waits for background processes and returns the directory with their results."""
    return Background.finish
