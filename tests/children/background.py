"""Other processes that tests ask, started before the first test so that they work beside the others."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.children.forked import Forked

# Several of them share what one process of tests leaves of the cores, and nobody waits for them yet.
NICENESS = 10


class Background:
    """Processes and the directory they write into.

    A module holds one as a global, and its tests get at it by the fixture ``finished``: ``conftest.py`` starts it
    before the first test, and has the tests that ask for it come last.

    Args:
        launch: Start the processes, in the directory it is given.
    """

    def __init__(self, launch: Callable[[Path], Sequence["Forked | subprocess.Popen[bytes]"]]) -> None:
        self._launch = launch
        self._processes: Sequence[Forked | subprocess.Popen[bytes]] | None = None

    def start(self) -> None:
        """Start, unless started already."""
        if self._processes is None:
            self._directory = tempfile.TemporaryDirectory()
            self._processes = self._launch(Path(self._directory.name))
            for process in self._processes if hasattr(os, "setpriority") else []:
                os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)

    def finish(self) -> Path:
        """Wait until all have ended well; return the directory."""
        self.start()
        assert self._processes is not None
        for process in self._processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, (
                f"{process.args!r} ended with {process.returncode}: {(errors or b'').decode()}"
            )
        return Path(self._directory.name)
