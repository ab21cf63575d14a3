"""The forward pass, without gradients."""

import pytest
import torch

from benchmarks.check import Balls, split
from benchmarks.test_training_step import batch
from simplenet import SimpleNet, reference, set_seed

pytestmark = pytest.mark.benchmark(group="forward", max_time=0.5)


def test_forward(clock, timed_device, rows, hidden):
    """On CUDA, a pass of four rows measures the launch of its kernels."""
    x, _ = batch(rows, timed_device)
    set_seed(1996)
    net = SimpleNet(hidden=hidden).to(timed_device)
    weights = torch.cat([p.detach().flatten() for p in net.parameters()]).cpu().double().numpy()
    few = x[:4096].cpu().double().numpy()  # each row's score is independent of the others
    _, expected = reference.forward(split(Balls(weights, 0 * weights), hidden), Balls(few), "overview")
    with torch.no_grad():
        error = abs(net(x)[:4096].cpu().double().numpy() - expected.centre)
    assert (error <= expected.radius).all(), f"error is {error.max()}, but should be at most {expected.radius.max()}"

    def passes(count=10):
        with torch.no_grad():
            for _ in range(count):
                net(x)

    clock(passes, timed_device, strategy="eager", steps=10, rows=rows, hidden=hidden, launch=passes)
