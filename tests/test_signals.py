"""What is left of a program that a signal has ended: nothing that it has started."""

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="no list of child processes")
def test_children_and_theirs_are_killed_and_no_other_process():
    """A child that has started one of its own, as a compiler driver does; in a process that has no others."""
    grandchild = "import subprocess, sys; subprocess.run(['sleep', '600'])"
    program = f"""
import subprocess, sys, time
from pathlib import Path
from simplenet.signals import _children, kill_children
import os
child = subprocess.Popen([sys.executable, "-c", {grandchild!r}])
while len(_children(os.getpid())) < 2:
    time.sleep(0.01)
grandchild = _children(child.pid)[0]
kill_children()
assert child.wait() == -9
while Path(f"/proc/{{grandchild}}/cmdline").exists() and Path(f"/proc/{{grandchild}}/cmdline").read_bytes():
    time.sleep(0.01)
print("ended")
"""
    other = subprocess.Popen(["sleep", "600"])
    try:
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
        )

        assert result.stdout == "ended\n", result.stderr
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
