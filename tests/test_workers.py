"""Other processes: a second one trains to the same bits, and DataLoader workers draw different numbers.

References:
    PyTorch documentation, "Randomness in multi-process data loading".
    Lightning issue 20412: from 2.4.0 to 2.6.0 every base seed gave workers the same torch stream.
"""

import itertools
import json
import os
from functools import cache, partial

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from lightning.fabric.utilities.seed import pl_worker_init_function

from simplenet import set_seed
from simplenet.testing.assertions import assert_identical, refuted
from tests.children.background import Background
from tests.children.forked import launch
from tests.children.fresh_process import (
    DRAWS,
    EPOCHS,
    GENERATORS,
    SEEDS,
    START_METHODS,
    TRAINED,
    WORKERS,
    trained_weights,
)
from tests.generators import global_generators

LIBRARIES = ["torch", "lightning"]


def ask(device, directory):
    """Start another process, with another hash seed, on which nothing may depend."""
    return [launch("-m", "tests.children.fresh_process", device, directory=directory, output="answers.json")]


@cache
def asked(device):
    return Background(partial(ask, device))


on_the_cpu = asked("cpu")  # a global, so that it starts before the first test


@cache
def read(finished, device):
    """Return the results of another process on a device."""
    return json.loads((finished(asked(device)) / "answers.json").read_text().splitlines()[-1])


@pytest.fixture
def answers(finished):
    """Return a function from a device's name to the results of another process."""
    return partial(read, finished)


@pytest.mark.parametrize("run", range(len(TRAINED)), ids=[f"seed {seed}, {name}" for seed, name, *_ in TRAINED])
def test_two_processes_train_to_the_same_bits(answers, device, run):
    """The weights after training, in this process and in another."""
    here = trained_weights(device, *TRAINED[run])

    there = torch.tensor(answers(str(device))["trained"][run])

    assert_identical(there, here.cpu(), claim=f"another process, {TRAINED[run]}")


@pytest.fixture
def forked(answers, library, generator):
    """Return the numbers that forked workers drew: by position in ``SEEDS``, by epoch, by worker."""
    if "fork" not in START_METHODS:
        pytest.skip("this platform does not fork")
    drawn = answers("cpu")[library]
    return [[[worker[generator] for worker in epoch] for epoch in seed] for seed in drawn]


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_workers_draw_the_same_when_run_again(forked):
    """In every epoch of every worker, with other runs in between."""
    assert SEEDS[0] == SEEDS[-1]
    assert forked[0] == forked[-1]
    assert all(len(stream) == DRAWS for seed in forked for epoch in seed for stream in epoch)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("axis", ["base seed", "epoch", "worker"])
def test_the_streams_of_workers_differ(axis, forked, generator):
    """If they differ in one axis only."""
    cells = list(itertools.product(range(2), range(EPOCHS), range(WORKERS)))  # the third seed is the first
    along = ["base seed", "epoch", "worker"].index(axis)

    for one, other in itertools.combinations(cells, 2):
        if [i for i in range(3) if one[i] != other[i]] == [along]:
            (a, b, c), (d, e, f) = one, other
            assert forked[a][b][c] != forked[d][e][f], f"{generator} draws the same for two {axis}s: {one} and {other}"


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("start_method", START_METHODS)
def test_the_start_method_of_workers_does_not_change_what_they_draw(answers, start_method, generator):
    """A forked worker inherits the generators, a spawned one has new ones; both are seeded before they draw."""
    here = answers("cpu")["started"]

    streams = [[worker[generator] for worker in epoch] for epoch in here[start_method]]

    assert streams == [[worker[generator] for worker in epoch] for epoch in here[START_METHODS[0]]]


def test_set_seed_makes_lightning_seed_the_workers(monkeypatch):
    """Lightning also uses the rank: with torch alone, the workers of all ranks draw the same numbers."""
    monkeypatch.setenv("PL_SEED_WORKERS", "0")

    set_seed(1996)

    assert os.environ["PL_SEED_WORKERS"] == "1"


# The inputs of a worker's seed: 63 bits that a DataLoader draws for each epoch, and 16 bits each for the worker and the
# rank in Lightning.
WORKER = {
    "base_seed": st.integers(0, 2**63 - 1),
    "worker": st.integers(0, 2**16 - 1),
    "rank": st.integers(0, 2**16 - 1),
}


def worker_streams(base_seed, worker, rank):
    """Return the numbers that a worker draws from each generator after Lightning has seeded it, in this process."""
    torch.manual_seed(base_seed + worker)  # as torch does first
    pl_worker_init_function(worker, rank)
    return {name: generator.draw(DRAWS) for name, generator in global_generators().items()}


@pytest.mark.parametrize("axis", WORKER)
@given(data=st.data(), one=st.fixed_dictionaries(WORKER))
def test_lightnings_seed_of_a_worker_depends_on(axis, data, one):
    """The base seed, the worker and the rank, each by itself and for every generator.

    torch uses 32 bits of Lightning's hash, so two streams agree by chance once in 2^32 pairs.
    """
    other = one | {axis: data.draw(WORKER[axis].filter(lambda value: value != one[axis]), label=f"other {axis}")}

    first, second = worker_streams(**one), worker_streams(**other)

    same = [name for name in first if first[name] == second[name]]
    assert not same, f"{one} and {other} draw the same numbers from {same}, but should differ"


@given(one=st.fixed_dictionaries(WORKER))
@example(one={"base_seed": 0, "worker": 0, "rank": 0})
@example(one={"base_seed": 2**63 - 1, "worker": 2**16 - 1, "rank": 2**16 - 1})
def test_lightnings_seed_of_a_worker_depends_on_nothing_else(one):
    first = worker_streams(**one)

    assert worker_streams(**one) == first


@refuted
@given(base_seed=WORKER["base_seed"], worker=st.integers(1, 2**16 - 1))
def test_all_workers_draw_the_same_numbers(base_seed, worker):
    """NumPy's generator did so before torch 1.9, which did not seed it."""
    one, other = (worker_streams(base_seed, each, rank=0) for each in (0, worker))

    assert one["numpy"] == other["numpy"]
