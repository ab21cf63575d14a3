"""Background processes, which start before the first test, so that they run while the other tests do."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.children.forked import Forked

# Several of them share the cores that one process of tests leaves idle, and no test waits for them yet.
NICENESS = 10


class Background:
    """Processes, and the temporary directory that they write to.

    A module has one as a global variable. ``conftest.py`` starts it before the first test, and moves the tests that
    wait for it, by the fixture ``finished``, to the end.

    Args:
        launch: Starts the processes, given the directory.
    """

    def __init__(self, launch: Callable[[Path], Sequence["Forked | subprocess.Popen[bytes]"]]) -> None:
        self._launch = launch
        self._processes: Sequence[Forked | subprocess.Popen[bytes]] | None = None

    def start(self) -> None:
        """Start the processes, unless they have been started."""
        if self._processes is None:
            self._directory = tempfile.TemporaryDirectory()
            self._processes = self._launch(Path(self._directory.name))
            for process in self._processes if hasattr(os, "setpriority") else []:
                os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)

    def finish(self) -> Path:
        """Wait until all have exited with status 0; return the directory."""
        self.start()
        assert self._processes is not None
        for process in self._processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, (
                f"{process.args!r} ended with {process.returncode}: {(errors or b'').decode()}"
            )
        return Path(self._directory.name)
