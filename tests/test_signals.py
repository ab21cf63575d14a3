"""Signals that end a program, and the child processes that it kills."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from simplenet import signals
from simplenet.signals import (
    ENDING,
    EndingSignal,
    FirstSignal,
    ending_at_once,
    ending_by_exception,
    kill_children,
    status,
)

PROJECT = Path(__file__).parent.parent
BY_EXCEPTION = [number for number in ENDING if number != signal.SIGINT]


@pytest.fixture(autouse=True)
def _handlers_are_restored():
    """Set the default handlers before each test, because a shell's background jobs ignore some signals."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def got():
    """Handle the ending signals, and record them in a list."""
    arrived = []
    for number in ENDING:
        signal.signal(number, lambda number, _: arrived.append(number))
    return arrived


def handlers():
    return [signal.getsignal(number) for number in ENDING]


def in_a_thread(work):
    """Call a function in another thread, where signals cannot be handled."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_a_status_is_128_plus_the_number_of_the_signal():
    assert [status(number) for number in (1, 2, 15)] == [129, 130, 143]


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_is_recorded_and_the_second_acts_as_usual(got, number):
    """From ``listen`` on; after the first, all handlers are restored."""
    before = handlers()
    with FirstSignal() as first:
        signal.raise_signal(number)
        assert (first.received, got) == (None, [number])

        first.listen()
        signal.raise_signal(number)
        assert (first.received, got) == (signal.Signals(number), [number])
        assert isinstance(first.received, signal.Signals)

        assert handlers() == before
        signal.raise_signal(number)
        assert got == [number, number]


def test_no_signal_is_recorded_after_the_block(got):
    with FirstSignal() as first:
        first.listen()
    for number in ENDING:
        signal.raise_signal(number)

    assert first.received is None
    assert got == ENDING


def test_an_ignored_signal_stays_ignored_by_the_command():
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)

    with FirstSignal() as first, ending_by_exception(), ending_at_once():
        first.listen()
        for number in ENDING:
            signal.raise_signal(number)

    assert first.received is None
    assert handlers() == [signal.SIG_IGN] * len(ENDING)


def test_a_handler_not_installed_by_python_becomes_the_default(got, monkeypatch):
    """Python cannot restore a handler that it has not installed."""
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda _: None)
        first = FirstSignal()
    with first:
        first.listen()

    assert handlers() == [signal.SIG_DFL] * len(ENDING)
    assert got == []


@pytest.mark.parametrize("number", BY_EXCEPTION)
def test_the_first_signal_raises_an_exception_and_the_second_ends_the_process(number):
    inside = []

    def end():
        with ending_by_exception():
            inside.append([callable(signal.getsignal(other)) for other in BY_EXCEPTION])
            try:
                signal.raise_signal(number)
            finally:
                inside.append(handlers())

    with pytest.raises(EndingSignal, match=f"^{signal.Signals(number).name}$") as ended:
        end()

    assert inside == [[True] * len(BY_EXCEPTION), [signal.SIG_DFL] * len(ENDING)]

    assert ended.value.status == 128 + number
    assert handlers() == [signal.SIG_DFL] * len(ENDING)


def test_a_handler_installed_by_the_caller_is_kept(got):
    before = handlers()

    with ending_by_exception():
        assert handlers() == before
        signal.raise_signal(signal.SIGTERM)

    assert handlers() == before
    assert got == [signal.SIGTERM]


def test_the_default_handlers_are_restored_after_a_block_without_a_signal():
    with ending_by_exception():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL

    assert handlers() == [signal.SIG_DFL] * len(ENDING)


def test_a_signal_ends_the_process_while_native_code_runs(got):
    """Python's handlers, which would run only after it, are restored."""
    before = handlers()

    with ending_at_once():
        assert handlers() == [signal.SIG_DFL] * len(ENDING)

    assert handlers() == before
    assert got == []


def test_in_another_thread_signal_handlers_are_unchanged(got):
    def work():
        with FirstSignal() as first, ending_by_exception(), ending_at_once():
            first.listen()
            return first.received, handlers() == before

    before = handlers()

    assert in_a_thread(work) == (None, True)
    assert handlers() == before
    assert got == []


@pytest.mark.skipif(sys.platform != "linux", reason="no list of child processes")
def test_descendants_are_listed_and_killed_but_not_the_process_itself(monkeypatch):
    """A process that has already ended is no error."""

    def kill_one_that_has_ended(process, number):
        kill(process, number)
        raise ProcessLookupError

    kill = os.kill
    parent = subprocess.Popen(["sh", "-c", "sh -c 'sleep 600 & wait' & wait; read line"], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while len(found := signals._children(parent.pid)) < 2 and time.monotonic() < deadline:  # noqa: SLF001
            time.sleep(0.01)
        assert len(found) == 2
        monkeypatch.setattr(os, "getpid", lambda: parent.pid)
        monkeypatch.setattr(os, "kill", kill_one_that_has_ended)

        kill_children()

        monkeypatch.undo()
        assert parent.poll() is None
        while set(found) & set(signals._children(parent.pid)) and time.monotonic() < deadline:  # noqa: SLF001
            time.sleep(0.01)
        assert set(found).isdisjoint(signals._children(parent.pid))  # noqa: SLF001
    finally:
        for process in (parent.pid, *signals._children(parent.pid)):  # noqa: SLF001
            kill(process, signal.SIGKILL)
        parent.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="no list of child processes")
def test_descendants_are_killed_and_no_other_process():
    """With a child that has started a child, as a compiler driver does; in a process without other children."""
    other = subprocess.Popen(["sleep", "600"])
    try:
        command = [sys.executable, "-m", "tests.children.killed_grandchild"]
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)

        assert result.stdout == "ended\n", result.stderr
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_descendants_of_all_threads_are_listed_before_their_parents(monkeypatch, tmp_path):
    """All but those of a process that ends meanwhile, whose list cannot be read."""
    for process, thread, children in [(1, 1, "2 3 "), (1, 7, "4"), (2, 2, "5 6"), (3, 3, ""), (5, 5, "7")]:
        (tmp_path / f"{process}/task/{thread}").mkdir(parents=True)
        (tmp_path / f"{process}/task/{thread}/children").write_text(children)
    (tmp_path / "4/task/4/children").mkdir(parents=True)
    monkeypatch.setattr(signals, "Path", lambda path: tmp_path / path.removeprefix("/proc/"))

    listed = signals._children(1)  # noqa: SLF001

    assert sorted(listed) == [2, 3, 4, 5, 6, 7]
    assert listed.index(7) < listed.index(5) < listed.index(2)
