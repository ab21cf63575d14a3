"""What it takes to begin: a new process each time."""

import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.benchmark(group="start-up")

# What is started, and what it prints.
STARTS = {
    "python": (["-c", "print('ready')"], "ready"),
    "import simplenet": (["-c", "import simplenet; print('ready')"], "ready"),
    "simplenet --help": (["-m", "simplenet", "--help"], "Usage: "),
    "import torch": (["-c", "import torch; print('ready')"], "ready"),
    "import SimpleNet": (["-c", "from simplenet import SimpleNet; print('ready')"], "ready"),
}


@pytest.mark.parametrize("strategy", STARTS, ids=lambda name: name.replace(" ", "-"))
def test_start_up(clock, strategy, timed):
    arguments, printed = STARTS[strategy]
    if not timed and "--help" not in strategy:
        pytest.skip("importing torch takes seconds; the rest of the suite does")

    def start():
        answer = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
        assert answer.stdout.startswith(printed)

    clock(start, torch.device("cpu"), strategy=strategy, rounds=5)
