"""Runs that are killed at random moments and resumed.

``python -m tests.children.killed_training DIRECTORY KILLS SEED``.

Each run is a fork of this process, which has imported torch and computed nothing, so that a run takes no longer than
its steps. Prints a line of JSON: the epochs that each resume went on from, and how many ended in other bits
than a run that was never stopped.
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

# The listing never solves XOR, so each run takes all of its epochs; a save every five of them lets kills meet saves.
EPOCHS = 150
EPOCHS_BETWEEN_CHECKPOINTS = 5


def run(directory: Path) -> None:
    """Train from the newest checkpoint in the directory, or from the start; leave the digest of the last state."""
    torch.set_num_threads(1)
    training.EPOCHS_BETWEEN_CHECKPOINTS = EPOCHS_BETWEEN_CHECKPOINTS
    set_seed(1996)
    net, resume, epochs, last = SimpleNet("listing"), None, 0, None
    if any(directory.glob("*.ckpt")):
        resume, refused = newest_checkpoint(directory)
        assert not refused, f"a kill left {refused}"
        assert resume.training is not None
        net, epochs, last = from_checkpoint(resume), resume.training.epochs, resume.path
    if epochs < EPOCHS:  # else the kill came after the last save
        data = XORDataModule(4)
        last = train(net, data, max_epochs=EPOCHS, device="cpu", checkpoint_dir=directory, resume=resume).checkpoint
    saved = digest(torch.load(str(last), weights_only=True))
    (directory / "result.json").write_text(json.dumps({"epochs": epochs, "digest": saved}))


def fork(directory: Path) -> int:
    """Start a run; return its process."""
    process = os.fork()
    if process == 0:
        try:
            logging.disable(logging.WARNING)  # what Lightning says of itself
            run(directory)
            os._exit(0)
        finally:
            os._exit(1)
    return process


def finish(directory: Path) -> dict[str, int | str]:
    """Run to the end."""
    _, status = os.waitpid(fork(directory), 0)
    assert status == 0, f"a run in {directory} failed"
    result: dict[str, int | str] = json.loads((directory / "result.json").read_text())
    return result


def main(directory: str, kills: str, seed: str) -> None:
    """Kill and resume."""
    root, generator = Path(directory), random.Random(int(seed))
    (root / "whole").mkdir()
    start = time.perf_counter()
    whole = finish(root / "whole")
    seconds = time.perf_counter() - start
    resumed = []
    for i in range(int(kills)):
        own = root / str(i)
        own.mkdir()
        process = fork(own)
        time.sleep(generator.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        resumed.append(finish(own))
    other = sum(result["digest"] != whole["digest"] for result in resumed)
    sys.stdout.write(json.dumps({"from": [result["epochs"] for result in resumed], "other": other}))


if __name__ == "__main__":
    main(*sys.argv[1:])
