"""Child processes that are forks behave as if Python had started them anew, and leave the parent unchanged."""

import json
import multiprocessing
import os

import pytest

from tests.children.background import Background
from tests.children.forked import launch

TOLD = """
import json, multiprocessing, os, sys

print(json.dumps([
    __name__, sys.argv, os.getcwd(), os.environ["SET_HERE"], os.environ["OF_THE_TEST"], os.environ["PYTHONHASHSEED"],
    multiprocessing.get_start_method(), multiprocessing.current_process().daemon, "lightning.pytorch" in sys.modules,
]))
sys.stderr.write("about it")
sys.exit(3)
"""


def test_a_program_in_a_fork_runs_as_under_a_new_interpreter(tmp_path, monkeypatch):
    """With the test's environment variables, the given changes, and a fixed hash seed."""
    monkeypatch.setenv("OF_THE_TEST", "yes")
    environment = {**os.environ}

    program = launch("-c", TOLD, "one", "two", directory=tmp_path, environment={"SET_HERE": "so"}, output="told")
    _, errors = program.communicate(timeout=300)

    name, argv, directory, changed, kept, hash_seed, method, daemon, preloaded = json.loads(
        (tmp_path / "told").read_text()
    )
    assert (name, argv, directory) == ("__main__", ["-c", "one", "two"], str(tmp_path))
    assert (changed, kept, hash_seed) == ("so", "yes", "1")
    assert method == multiprocessing.get_start_method()
    assert not daemon  # it may start child processes
    assert preloaded == hasattr(program, "process")
    assert (program.returncode, errors) == (3, b"about it")
    assert environment == {**os.environ}


def start_failing(directory):
    return [launch("-c", "raise KeyError('the reason')", directory=directory)]


failing = Background(start_failing)


def test_a_failing_child_process_fails_the_test_with_its_output(finished):
    """Its exit status and its traceback are in the message."""
    with pytest.raises(AssertionError, match=r"(?s)ended with 1: .*KeyError: 'the reason'"):
        finished(failing)
