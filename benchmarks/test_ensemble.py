"""Ensembles of networks trained at once; times are per step of one network."""

import pytest
import torch

from benchmarks.check import Balls, TritonBalls, check_step
from benchmarks.peers import JaxVmap, unavailable
from benchmarks.test_training_step import batch
from simplenet import ensemble
from simplenet.ensemble import initial_weights, train_ensemble
from simplenet.testing.one_step import TrainingState

pytestmark = [
    pytest.mark.benchmark(group="ensemble"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

SEEDS, STEPS = 2048, 2000


def seeds_on(device):
    """Return a number of networks that fills whole chunks: padding takes time, but its steps are not counted."""
    return max(SEEDS, ensemble._WIDTH.get(device.type, 0))  # noqa: SLF001


@pytest.fixture
def scale(timed, timed_device):
    return (seeds_on(timed_device), STEPS) if timed else (3, 2)


def check_first_step(weights, start, **terms):
    """Check the first step of two networks against the formulas; the moments are not accessible."""
    x, y = batch(4, torch.device("cpu"))
    zero = torch.zeros_like(start[0])
    for i in (0, len(start) - 1):
        before, after = TrainingState(start[i], zero, zero, None, 0), TrainingState(weights[i], zero, zero, None, 1)
        check_step(x, y, before, after, moments=False, float32_scalars=True, **terms)


@pytest.mark.parametrize("strategy", ["eager", "compiled-chunk"])
def test_ensemble(clock, timed_device, strategy, scale, timed, monkeypatch):
    """Timed from the initial weights to the last step; drawing the weights and compiling are not timed."""
    seeds, steps = scale
    start = initial_weights(range(seeds))
    monkeypatch.setattr(ensemble, "initial_weights", lambda *_: start)
    compiled = strategy == "compiled-chunk"
    if compiled and not timed:
        pytest.skip("compiling takes seconds: only with --benchmark-only, and once in tests/test_ensemble.py")
    first = train_ensemble(range(seeds), steps=1, device=str(timed_device), compiled=compiled)
    if first.fallback is not None:
        pytest.skip(f"not compiled: {first.fallback}")
    check_first_step(first.weights, start.T, kind=TritonBalls if compiled and timed_device.type == "cuda" else Balls)

    def train():
        train_ensemble(range(seeds), steps=steps, device=str(timed_device), compiled=compiled)

    clock(train, timed_device, strategy=strategy, steps=seeds * steps, rows=4, hidden=4, training=True, rounds=3)


@pytest.mark.parametrize("peer", ["jax-vmap"], indirect=True)
def test_ensemble_of_a_peer(clock, peer, timed_device, scale):
    if reason := unavailable(peer, timed_device):
        pytest.skip(reason)
    seeds, steps = scale
    start = initial_weights(range(seeds)).T.contiguous()
    x, y = batch(4, timed_device)
    many = JaxVmap(start, x, y)
    check_first_step(many(1), start)
    many(steps)

    clock(
        lambda: many(steps), timed_device, strategy=peer, steps=seeds * steps, rows=4, hidden=4, training=True, rounds=3
    )
