"""A training step, by strategy, by device and by size, beside what else could take it."""

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
    # torch's compiler imports what torch itself deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

KINDS = {"autocast": AutocastBalls, "tf32": Tf32Balls}
CHECKED = 5  # steps that are checked before any is timed
LARGEST = 2**23  # rows times units that are checked at once; the oracle holds a dozen arrays of them


def batch(rows, device):
    """Return XOR, or as many rows of it with noise."""
    set_seed(1996)
    x, y = (part.repeat(rows // 4, 1) for part in xor())
    return (x + (rows > 4) * 0.1 * torch.randn_like(x)).to(device), y.to(device)


def checked(make, rows, hidden, device, **terms) -> Stepper:
    """Make a stepper, and hold its first steps to the oracle."""
    x, y = batch(rows, device)
    set_seed(1996)
    take = make(SimpleNet(hidden=hidden).to(device), x, y)
    if terms.get("kind") in KINDS.values():  # in a fresh state, a rounding error alone decides about small gradients
        start = take.read()
        take.write(start._replace(v=torch.ones_like(start.v), t=1))
    if rows * hidden > LARGEST:  # then a part of the rows is checked, by a stepper of its own
        checked(make, LARGEST // hidden, hidden, device, **terms)
        take()
        return take
    for _ in range(CHECKED):
        before = take.read()
        take()
        check_step(x, y, before, take.read(), **terms)
    return take


def chunk(rows, hidden, *, loop):
    """Choose the steps to a call: about as many as take a tenth of a second, and at least one."""
    return max(1, min(1000 if loop else 50, 2**22 // (rows * hidden)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_step(clock, strategy, place, rows, hidden, timed):
    """On CUDA a step of 17 parameters measures launches; the batch is on the device before the clock starts."""
    if reason := unavailable(strategy, place):
        pytest.skip(reason)
    if "compiled" in strategy and not timed:
        pytest.skip("compiling takes seconds: benchmarks/tests/test_steps.py does it once, and --benchmark-only")
    terms = {
        "float32_scalars": strategy in {"fused", "cuda-graph"} and fused_rounds_scalars(place),
        "kind": TritonBalls if place.type == "cuda" and "compiled" in strategy else KINDS.get(strategy, Balls),
    }
    take = checked(lambda *arguments: stepper(strategy, *arguments), rows, hidden, place, **terms)
    steps = chunk(rows, hidden, loop=strategy in {"compiled-chunk", "cuda-graph"})
    take(steps)

    clock(
        lambda: take(steps),
        place,
        strategy=strategy,
        steps=steps,
        rows=rows,
        hidden=hidden,
        training=True,
        launch=take,
    )


@pytest.mark.parametrize("peer", PEERS, indirect=True)
def test_training_step_of_a_peer(clock, peer, place, rows, hidden):
    """The same network, batch and Adam, held to the same oracle; where JAX has a GPU, on it and on the CPU."""
    if reason := peers.unavailable(peer, place):
        pytest.skip(reason)
    take = checked(PEERS[peer], rows, hidden, place, **TERMS.get(peer, {}))
    steps = chunk(rows, hidden, loop=peer == "jax-scan")
    take(steps)

    clock(lambda: take(steps), place, strategy=peer, steps=steps, rows=rows, hidden=hidden, training=True)
