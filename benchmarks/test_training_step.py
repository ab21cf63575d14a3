"""A training step, by strategy, device and size; and the same step of the peers."""

import pytest
import torch

from benchmarks import peers
from benchmarks.check import AutocastBalls, Balls, Tf32Balls, TritonBalls, check_step
from benchmarks.peers import PEERS, TERMS
from benchmarks.steps import STRATEGIES, Stepper, stepper, unavailable
from simplenet import SimpleNet, set_seed, xor
from simplenet.testing.oracle import fused_rounds_scalars

pytestmark = [
    pytest.mark.benchmark(group="training step", max_time=0.5),
    # torch's compiler imports modules that torch deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

KINDS = {"autocast": AutocastBalls, "tf32": Tf32Balls}
CHECKED = 5  # steps to check before timing
LARGEST = 2**23  # rows times hidden units to check at once; the oracle has a dozen arrays of that size


def batch(rows, device):
    """Return XOR; for more than four rows, XOR repeated with noise."""
    set_seed(1996)
    x, y = (part.repeat(rows // 4, 1) for part in xor())
    return (x + (rows > 4) * 0.1 * torch.randn_like(x)).to(device), y.to(device)


def checked(make, rows, hidden, device, **terms) -> Stepper:
    """Make a stepper, and check its first steps against the oracle."""
    x, y = batch(rows, device)
    set_seed(1996)
    take = make(SimpleNet(hidden=hidden).to(device), x, y)
    if terms.get("kind") in KINDS.values():  # from a fresh state, the sign of a small gradient is a rounding error
        start = take.read()
        take.write(start._replace(v=torch.ones_like(start.v), t=1))
    if rows * hidden > LARGEST:  # check fewer rows, in a stepper of their own
        checked(make, LARGEST // hidden, hidden, device, **terms)
        take()
        return take
    for _ in range(CHECKED):
        before = take.read()
        take()
        check_step(x, y, before, take.read(), **terms)
    return take


def chunk(rows, hidden, *, loop):
    """Return the number of steps per timed call: about a tenth of a second's, and at least one."""
    return max(1, min(1000 if loop else 50, 2**22 // (rows * hidden)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_step(clock, strategy, timed_device, rows, hidden, timed):
    """On CUDA, a step of 17 parameters measures launches; copying the batch to the device is not timed."""
    if reason := unavailable(strategy, timed_device):
        pytest.skip(reason)
    if "compiled" in strategy and not timed:
        pytest.skip("compiling takes seconds: only with --benchmark-only, and once in benchmarks/tests/test_steps.py")
    terms = {
        "float32_scalars": strategy in {"fused", "cuda-graph"} and fused_rounds_scalars(timed_device),
        "kind": TritonBalls if timed_device.type == "cuda" and "compiled" in strategy else KINDS.get(strategy, Balls),
    }
    take = checked(lambda *arguments: stepper(strategy, *arguments), rows, hidden, timed_device, **terms)
    steps = chunk(rows, hidden, loop=strategy in {"compiled-chunk", "cuda-graph"})
    take(steps)

    clock(
        lambda: take(steps),
        timed_device,
        strategy=strategy,
        steps=steps,
        rows=rows,
        hidden=hidden,
        training=True,
        launch=take,
    )


@pytest.mark.parametrize("peer", PEERS, indirect=True)
def test_training_step_of_a_peer(clock, peer, timed_device, rows, hidden):
    """The same network, batch and Adam, checked against the same oracle; JAX runs on its GPU too, if it has one."""
    if reason := peers.unavailable(peer, timed_device):
        pytest.skip(reason)
    take = checked(PEERS[peer], rows, hidden, timed_device, **TERMS.get(peer, {}))
    steps = chunk(rows, hidden, loop=peer == "jax-scan")
    take(steps)

    clock(lambda: take(steps), timed_device, strategy=peer, steps=steps, rows=rows, hidden=hidden, training=True)
