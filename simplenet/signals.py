"""Signals that end a program: SIGINT (Ctrl-C), SIGTERM (``kill``, cluster schedulers) and SIGHUP (a closed terminal).

References:
    POSIX.1-2017, <signal.h>; and 2.8.2, the status of a command that a signal ended: above 128.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

# Windows has no SIGHUP.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def status(number: int) -> int:
    """Return the exit status of a program that a signal ended."""
    return 128 + number


def _handlers() -> dict[signal.Signals, Any]:
    """Return the handlers of the ending signals, if this is the main thread: no other can handle signals."""
    main = threading.current_thread() is threading.main_thread()
    return {number: signal.getsignal(number) for number in ENDING if main}


@contextmanager
def _installed(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class FirstSignal:
    """Record the first ending signal, so that work can stop at a consistent state; a second signal acts as usual.

    Signals are recorded from the call of ``listen`` to the end of the ``with`` block. An ignored signal, as under
    ``nohup`` and in a shell's background jobs, stays ignored. In threads other than the main one, which cannot
    handle signals, nothing is recorded.

    Attributes:
        received: The signal, or ``None``.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before = _handlers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def listen(self) -> None:
        """Start to record signals."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is signal.SIG_IGN else self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class EndingSignal(BaseException):
    """A SIGTERM or SIGHUP, as ``KeyboardInterrupt`` is a SIGINT.

    Attributes:
        status: The exit status of a program that this signal ended.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = status(number)


@contextmanager
def ending_by_exception() -> Iterator[None]:
    """Raise an exception at a SIGTERM or SIGHUP, as Python does at a Ctrl-C, so that resources are released.

    Raises:
        EndingSignal: At the first of these signals. A second one ends the process at once.
    """

    def end(number: int, _: FrameType | None) -> None:
        for other in new:
            signal.signal(other, signal.SIG_DFL)
        raise EndingSignal(number)

    default = [number for number, handler in _handlers().items() if handler is signal.SIG_DFL]
    new: dict[signal.Signals, Any] = {number: end for number in default if number != signal.SIGINT}
    with _installed(new):
        yield


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let a signal end the process at once, also in native code that waits: Python's handlers run only after it.

    An ignored signal stays ignored.
    """
    with _installed({number: signal.SIG_DFL for number, handler in _handlers().items() if callable(handler)}):
        yield


def kill_children() -> None:
    """Kill all descendants of this process, such as compilers.

    Does nothing on a system that does not list them under ``/proc``, as Linux does.
    """
    for child in _children(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _children(process: int) -> list[int]:
    found = []
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # the process has ended
            for child in map(int, listed.read_text().split()):
                found += [*_children(child), child]
    return found
