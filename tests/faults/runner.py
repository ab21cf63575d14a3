"""Plant each fault in its own process, forked after import, and find the test that fails.

pytest collects the tests once; a child process runs those that a fault names, as pytest does, up to the first failure.
"""

import contextlib
import gc
import io
import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.faults.planting import Fault, StaleFault

TESTS = Path(__file__).parents[1]

# Seconds after which a child process is killed; the slowest takes a tenth of it.
TIME_LIMIT = 120.0

KILLED, SURVIVED, WRONG, PASSED, ABSENT = "killed", "SURVIVED", "WRONG", "passed", "not here"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a planted fault.

    Attributes:
        fault: The fault's name.
        status: One of the above: ``WRONG`` is a kill by something other than an assertion, a fault that changes
            nothing, or a control that fails.
        check: The test or check that killed it.
        message: The first line of its message.
        checks: All checks that failed, other than by a known defect of torch; for a fault that is an optimizer or a
            network, all checks are run.
        seconds: The duration.
    """

    fault: str
    status: str
    check: str = ""
    message: str = ""
    checks: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether this is the expected outcome."""
        return self.status not in {SURVIVED, WRONG}


class _Session:
    """A pytest plugin that forks instead of running the tests."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        self.work = work
        self.raised: list[tuple[pytest.Item, BaseException]] = []

    def pytest_collection(self) -> None:
        settings.load_profile("unshrunk")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not session.testsfailed:
            self.work(session.items)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report = yield
        if report.failed:
            self.raised.append((item, call.excinfo.value if call.excinfo else AssertionError(str(report.longrepr))))
        return report


def _is_assertion(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_assertion, error.exceptions))
    return isinstance(error, AssertionError | pytest.fail.Exception)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def select(items: Sequence[pytest.Function], names: Sequence[str]) -> list[pytest.Function]:
    """Select the tests with these names of files, functions or cases, in order, without expected failures."""
    usable = [item for item in items if item.get_closest_marker("xfail") is None]
    return [item for name in names for item in usable if name in (item.path.stem, item.originalname, item.name)]


def _judge(fault: Fault, items: Sequence[pytest.Function], session: _Session) -> Outcome:
    """Plant a fault in this process, and run the tests that it names."""
    if fault.judge is not None:
        report = fault.judge()
        check, message = next(iter(report.failures.items()), ("", ""))
        return Outcome(fault.name, _verdict(fault, killed=bool(check)), check, message, tuple(report.failures))
    chosen = select(items, fault.killed_by)
    if missing := [name for name in fault.killed_by if not select(items, [name])]:
        return Outcome(fault.name, WRONG, message=f"there is no test {', '.join(missing)}")
    assert fault.witness is not None
    before = repr(fault.witness())
    try:
        fault.plant()
    except StaleFault as stale:
        return Outcome(fault.name, WRONG, message=f"cannot be planted: {stale}")
    if (repr(fault.witness()) == before) != fault.control:
        change = "changes its witness" if fault.control else "does not change its witness"
        return Outcome(fault.name, WRONG, message=f"{change}: {before[:100]}")
    for item, following in zip(chosen, [*chosen[1:], None], strict=True):
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.raised:
            failed, error = session.raised[0]
            name = failed.originalname if isinstance(failed, pytest.Function) else failed.name
            status, message = _verdict(fault, killed=True), _first_line(error)
            if not _is_assertion(error):
                status, message = WRONG, f"{type(error).__name__}: {message}"
            return Outcome(fault.name, status, name, message, (name,))
    return Outcome(fault.name, _verdict(fault, killed=False))


def _verdict(fault: Fault, *, killed: bool) -> str:
    if fault.control:
        return WRONG if killed else PASSED
    return KILLED if killed else SURVIVED


@dataclass
class _Child:
    fault: Fault
    process: int
    pipe: int
    started: float
    answer: bytes = b""

    def kill(self) -> None:
        """Kill it, and the processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)

    def outcome(self) -> Outcome:
        """Wait for it, and read its result."""
        os.close(self.pipe)
        _, status = os.waitpid(self.process, 0)
        self.kill()  # processes that it has left behind
        seconds = round(time.monotonic() - self.started, 2)
        try:
            return Outcome(**json.loads(self.answer) | {"seconds": seconds})
        except json.JSONDecodeError:
            code = os.waitstatus_to_exitcode(status)
            late = seconds > TIME_LIMIT
            message = f"took more than {TIME_LIMIT:g} s" if late else f"its process ended with {code}"
            return Outcome(self.fault.name, WRONG, message=message, seconds=seconds)


def _fork(fault: Fault, items: Sequence[pytest.Function], session: _Session) -> _Child:
    """Judge a fault in a child process, which writes the outcome to a pipe."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        with contextlib.suppress(OSError):  # the child may have done it first
            os.setpgid(process, process)
        return _Child(fault, process, reading, time.monotonic())
    os.setpgid(0, 0)  # the parent handles Ctrl-C
    os.close(reading)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # discard the output of Lightning and the tests
        os.dup2(null, stream)
    try:
        outcome = _judge(fault, items, session)
    except BaseException as error:  # noqa: BLE001 - the parent reports it
        outcome = Outcome(fault.name, WRONG, message=f"raises {type(error).__name__}: {_first_line(error)}")
    with os.fdopen(writing, "w") as pipe:
        json.dump(vars(outcome), pipe)
    os._exit(0)


def _run_all(
    faults: Sequence[Fault], processes: int, fork: Callable[[Fault], _Child], done: Callable[[Outcome], None]
) -> None:
    waiting = list(faults)
    running: dict[Any, _Child] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    child = fork(waiting.pop(0))
                    running[child.pipe] = child
                    selector.register(child.pipe, selectors.EVENT_READ)
                for key, _ in selector.select(timeout=1.0):
                    child = running[key.fd]
                    part = os.read(child.pipe, 2**16)
                    child.answer += part
                    if not part:
                        selector.unregister(child.pipe)
                        del running[child.pipe]
                        done(child.outcome())
                for child in running.values():
                    if time.monotonic() - child.started > TIME_LIMIT:
                        child.kill()
        finally:
            for child in running.values():
                child.kill()
                child.outcome()


def files(faults: Sequence[Fault]) -> list[str]:
    """List the files with the tests that faults name: collecting a few is faster than collecting all."""
    names = {name.partition("[")[0] for fault in faults for name in fault.killed_by}
    texts = {path: path.read_text("utf-8") for path in sorted(TESTS.rglob("test_*.py"))}
    named = [
        str(path) for path, text in texts.items() if any(path.stem == name or f"def {name}(" in text for name in names)
    ]
    return named or [str(Path(__file__).parent)]  # a folder without tests; without an argument, pytest collects all


def run(faults: Sequence[Fault], *, processes: int, done: Callable[[Outcome], None]) -> None:
    """Plant each of these faults that this torch has the code for.

    Args:
        faults: The faults.
        processes: How many to plant at a time.
        done: Called with each outcome.

    Raises:
        RuntimeError: If the tests cannot be collected.
    """
    present = [fault for fault in faults if fault.is_here]
    for fault in faults:
        if fault not in present:
            done(Outcome(fault.name, ABSENT))
    torch.set_num_threads(1)  # each process has one core, and OpenMP's threads do not survive a fork

    def work(items: Sequence[pytest.Function]) -> None:
        gc.collect()
        gc.freeze()
        _run_all(present, processes, lambda fault: _fork(fault, items, session), done)

    session = _Session(work)
    arguments = [f"--rootdir={TESTS.parent}", "-c", str(TESTS.parent / "pyproject.toml"), "-p", "no:cacheprovider"]
    # With --collect-only, no background processes are started.
    arguments += ["--collect-only", "-q", "--device=cpu", *files(present)]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = pytest.main(arguments, plugins=[session])
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"the tests cannot be collected:\n{output.getvalue()}")
