"""Two benchmarks of a step on a simulated clock, the second slower by ``DELAY``; run by pytest from a copy."""

import pytest
import torch

from benchmarks.conftest import Clock

STEP, DELAY, STEPS = 100_000, 2_000_000, 5  # nanoseconds, nanoseconds, a count

now = 0  # nanoseconds


def timer() -> float:
    """Return the simulated time; it advances at each reading, which pytest-benchmark's calibration needs."""
    global now  # noqa: PLW0603
    now += 1
    return now * 1e-9


@pytest.mark.benchmark(group="training step", timer=timer)
@pytest.mark.parametrize("delay", [0, DELAY])
def test_step(clock: Clock, delay: int) -> None:
    def steps() -> None:
        global now  # noqa: PLW0603
        now += STEPS * (STEP + delay)

    clock(steps, torch.device("cpu"), strategy="eager", steps=STEPS, rows=4, hidden=4, training=True, rounds=3)
