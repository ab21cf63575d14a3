"""Kill runs at random moments and resume them.

``python -m tests.children.killed_training DIRECTORY KILLS SEED``.

Each run is a fork of this process, which has already imported torch, so a run takes no longer than its steps. Prints a
line of JSON: the epoch that each run was resumed from, and how many ended with other bits than an uninterrupted run.
"""

import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from simplenet import SimpleNet, XORDataModule, set_seed, train, training
from simplenet.checkpoint import digest, newest_checkpoint
from simplenet.model import from_checkpoint

# The listing never solves XOR, so each run takes all epochs; with a save every five epochs, some kills hit a save.
EPOCHS = 150
EPOCHS_BETWEEN_CHECKPOINTS = 5


def run(directory: Path) -> None:
    """Train from the newest checkpoint in the directory, or from the start; write the digest of the last state."""
    torch.set_num_threads(1)
    training.EPOCHS_BETWEEN_CHECKPOINTS = EPOCHS_BETWEEN_CHECKPOINTS
    set_seed(1996)
    net, resume, epochs, last = SimpleNet("listing"), None, 0, None
    if any(directory.glob("*.ckpt")):
        resume, refused = newest_checkpoint(directory)
        assert not refused, f"a kill left {refused}"
        assert resume.training is not None
        net, epochs, last = from_checkpoint(resume), resume.training.epochs, resume.path
    if epochs < EPOCHS:  # otherwise the kill came after the last save
        data = XORDataModule(4)
        last = train(net, data, max_epochs=EPOCHS, device="cpu", checkpoint_dir=directory, resume=resume).checkpoint
    saved = digest(torch.load(str(last), weights_only=True))
    (directory / "result.json").write_text(json.dumps({"epochs": epochs, "digest": saved}))


def fork(directory: Path) -> int:
    """Start a run; return its process."""
    process = os.fork()
    if process == 0:
        try:
            logging.disable(logging.WARNING)  # Lightning's messages
            run(directory)
            os._exit(0)
        finally:
            os._exit(1)
    return process


def finish(process: int, directory: Path) -> dict[str, int | str]:
    """Wait for the end of a run."""
    _, status = os.waitpid(process, 0)
    assert status == 0, f"a run in {directory} failed"
    result: dict[str, int | str] = json.loads((directory / "result.json").read_text())
    return result


def wait_for_a_checkpoint(process: int, directory: Path) -> None:
    """Wait until a run has saved for the first time: how long it takes to start depends on the load."""
    while not any(directory.glob("*.ckpt")):
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, f"a run in {directory} ended without a checkpoint"
        time.sleep(0.001)


def main(directory: str, kills: str, seed: str) -> None:
    """Kill and resume: every fourth run before or after its first checkpoint, the others after it."""
    root, generator = Path(directory), random.Random(int(seed))
    (root / "whole").mkdir()
    start = time.perf_counter()
    process = fork(root / "whole")
    wait_for_a_checkpoint(process, root / "whole")
    saved = time.perf_counter()
    whole = finish(process, root / "whole")
    end = time.perf_counter()
    resumed = []
    for i in range(int(kills)):
        own = root / str(i)
        own.mkdir()
        process = fork(own)
        if i % 4 == 3:
            time.sleep(generator.uniform(0, end - start))
        else:
            wait_for_a_checkpoint(process, own)
            time.sleep(generator.uniform(0, end - saved))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        resumed.append(finish(fork(own), own))
    other = sum(result["digest"] != whole["digest"] for result in resumed)
    sys.stdout.write(json.dumps({"from": [result["epochs"] for result in resumed], "other": other}))


if __name__ == "__main__":
    main(*sys.argv[1:])
