"""Other processes that tests ask: started before the first test, waited for by the last."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.children.background import Background


def _waits(item: pytest.Item) -> TypeGuard[pytest.Function]:
    return "finished" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that wait last, and the others in their order."""
    items.sort(key=_waits)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what tests will wait for; under xdist no worker knows who waits, so each starts when it does."""
    gc.freeze()  # the garbage collector need not search what was imported, a million objects, nor copy it in a fork
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return
    for module in {item.module for item in session.items if _waits(item)}:
        for value in vars(module).values():
            if isinstance(value, Background):
                value.start()


@pytest.fixture
def finished() -> Callable[[Background], Path]:
    """Wait for processes that work while the other tests run; return the directory that they wrote into."""
    return Background.finish
