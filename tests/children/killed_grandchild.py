"""Start a child that starts a child of its own, kill both, and print "ended": ``python -m`` this module."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from simplenet.signals import _children, kill_children

if __name__ == "__main__":
    program = "import subprocess; subprocess.run(['sleep', '600'])"
    child = subprocess.Popen([sys.executable, "-c", program])
    while len(_children(os.getpid())) < 2:
        time.sleep(0.01)
    (grandchild,) = _children(child.pid)
    kill_children()
    assert child.wait() == -signal.SIGKILL
    command = Path(f"/proc/{grandchild}/cmdline")
    while command.exists() and command.read_bytes():  # a zombie has no command line
        time.sleep(0.01)
    sys.stdout.write("ended\n")
