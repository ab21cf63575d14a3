"""Kill this process in the middle of a write.

``python -m tests.children.killed_write FUNCTION PATH CONTENT LINE``.

It sends itself SIGKILL, at which no handler and no ``finally`` runs, before it executes the LINE-th line of
``simplenet.files``, in the order of execution. If fewer lines are executed, it prints that it has written.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from simplenet import files


def main(function: str, path: str, content: str, line: str) -> None:
    """Write, and kill this process."""
    left = int(line)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    getattr(files, function)(Path(path), content.encode())
    sys.settrace(None)
    sys.stdout.write("written")


if __name__ == "__main__":
    main(*sys.argv[1:])
