"""Run one check, and turn whatever the code under test does (raise, print, warn, hang) into a result."""

import contextlib
import io
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

import torch

from simplenet.testing.optimizers import SubjectError
from simplenet.testing.report import Report, Result, Status

S = TypeVar("S")

# Seconds allowed for a check; the slowest check takes two on one core.
TIME_LIMIT = 60.0


class NotApplicable(Exception):  # noqa: N818 - not an error
    """The subject lacks what a check needs; the message says what."""


class KnownDefect(AssertionError):  # noqa: N818 - torch's error, not the subject's
    """The check fails because of a defect of torch, which the message describes."""


class TimeLimitReached(BaseException):
    """The check took too long; an ``except Exception`` in the code under test does not catch this."""


@dataclass(frozen=True)
class Check(Generic[S]):
    """A property to check.

    Attributes:
        name: A sentence that could be false.
        run: Raises AssertionError with a counter-example if it is false; may return a remark.
    """

    name: str
    run: Callable[[S], str | None]

    def __str__(self) -> str:
        return self.name


# By default torch compiles eight variants of a function and silently runs the ninth uncompiled. Its cache may return
# code with the constants of another variant (compiled-for-another-number in docs/defects.md).
_COMPILED_EACH_TIME: dict[str, dict[str, Any]] = {
    "torch._dynamo.config": {"cache_size_limit": sys.maxsize, "accumulated_cache_size_limit": sys.maxsize},
    "torch._inductor.config": {"force_disable_caches": True},
}


@contextlib.contextmanager
def _compiled_each_time() -> Iterator[None]:
    """If torch's compiler is loaded, make it compile everything that the code under test asks it to."""
    with contextlib.ExitStack() as stack:
        for module, options in _COMPILED_EACH_TIME.items():
            if config := sys.modules.get(module):
                known = {name: value for name, value in options.items() if hasattr(config, name)}
                stack.enter_context(config.patch(known))
        yield


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Stop the block after this time, if it runs in the main thread on a system with timers."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeLimitReached

    previous = signal.signal(signal.SIGALRM, stop)
    started, remaining = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)[0]
    # Again after a second, in case the code under test catches it.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if remaining:  # restart the caller's timer
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - started), 1e-3))


class Recorder:
    """Collect the output and the warnings of the code under test, each line once."""

    def __init__(self) -> None:
        self.printed: dict[str, None] = {}
        self.warned: dict[str, None] = {}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is printed and warned of; restore torch's generators and flags."""
        output = io.StringIO()
        grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
        try:
            with (
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(output),
                warnings.catch_warnings(record=True) as caught,
                torch.random.fork_rng(devices=[]),
                torch.enable_grad(),
            ):
                warnings.simplefilter("always")
                yield
        finally:
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            self.printed |= dict.fromkeys(line.strip() for line in output.getvalue().splitlines() if line.strip())
            self.warned |= dict.fromkeys(
                f"{warning.category.__name__}: {' '.join(str(warning.message).split())[:200]}" for warning in caught
            )

    def describe(self, report: Report) -> None:
        """Add what was printed and warned of to a report."""
        for name, lines in (("warns", self.warned), ("prints", self.printed)):
            if lines:
                more = f", and {len(lines) - 1} more" if len(lines) > 1 else ""
                report.facts[name] = f"{next(iter(lines))[:160]}{more}"
                report.measured[name] = list(lines)


def run(check: Check[S], subject: S, recorder: Recorder, time_limit: float = TIME_LIMIT) -> Result:
    """Run a check.

    Args:
        check: The check.
        subject: The subject of the check.
        recorder: The recorder of output and warnings.
        time_limit: Seconds after which the check is stopped.
    """
    started = time.monotonic()
    status, trace = Status.HOLDS, ""
    try:
        with recorder.recording(), _compiled_each_time(), _limited(time_limit):
            detail = check.run(subject) or ""
    except NotApplicable as reason:
        status, detail = Status.NOT_APPLICABLE, str(reason)
    except TimeLimitReached:
        status, detail = Status.FAILS, f"took more than the {time_limit:g} s that a check may take, and was stopped"
    except KnownDefect as defect:
        status, detail = Status.KNOWN, str(defect)
    except (SubjectError, AssertionError) as error:
        status, detail = Status.FAILS, str(error)
        if isinstance(error, SubjectError):
            trace = "".join(traceback.format_exception(error.error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any exception is a failure of the subject
        status, detail = Status.FAILS, f"raises {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        trace = traceback.format_exc()
    return Result(check.name, status, detail, round(time.monotonic() - started, 3), trace)
