"""One seed repeats every generator, another seed gives other numbers, and an invalid seed is refused.

References:
    The notebook, §2.3.
"""

import contextlib
import os
import random
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from importlib.metadata import version

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.version import Version
from torch.utils.data import DataLoader, TensorDataset

from simplenet import set_seed, xor
from simplenet.seeding import check_seeds
from simplenet.testing.assertions import assert_identical, refuted
from simplenet.testing.strategies import seeds
from tests.generators import disturb, global_generators, nothing_drawn

# The seeds that torch accepts without remapping: unsigned words of 64 bits.
torch_seeds = st.integers(0, 2**64 - 1)

# Including more than 16 numbers, from which on torch's CPU kernels draw in blocks.
counts = st.integers(1, 35)

# How many numbers are drawn in between.
disturbances = st.integers(0, 3)

# Two different streams agree in this many numbers by chance once in 2^96 pairs at most.
ENOUGH = 4


def notebook_set_seed(seed):
    """The function in §2.3."""
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


SEEDINGS = {"notebook": notebook_set_seed, "simplenet": set_seed}

DISTRIBUTIONS = {
    "uniform": lambda n, device: torch.rand(n, device=device),
    "normal": lambda n, device: torch.randn(n, device=device),
    "exponential": lambda n, device: torch.empty(n, device=device).exponential_(),
    "bernoulli": lambda n, device: torch.full((n,), 0.5, device=device).bernoulli(),
    "integers": lambda n, device: torch.randint(2**31 - 1, (n,), device=device),
    "permutation": lambda n, device: torch.randperm(n, device=device),
}


@pytest.mark.claim("2.3/torch-repeats")
@given(seed=torch_seeds, n=counts, disturbance=disturbances)
def test_the_same_seed_draws_the_same_numbers_from_torch(device, seed, n, disturbance):
    """For several distributions in a row, whatever was drawn before."""
    torch.manual_seed(seed)
    first = {name: draw(n, device) for name, draw in DISTRIBUTIONS.items()}
    disturb(disturbance)

    torch.manual_seed(seed)
    second = {name: draw(n, device) for name, draw in DISTRIBUTIONS.items()}

    for name in DISTRIBUTIONS:
        assert_identical(second[name], first[name], claim=f"{n} draws, {name}, from seed {seed}")


@pytest.mark.parametrize("half", ["low", "high"])
@given(seed=torch_seeds)
@example(seed=1)
def test_a_seed_with_one_bit_flipped_draws_other_numbers_from_torch(device, half, seed):
    """Any bit, in either half of the 64 that ``torch.manual_seed`` accepts."""
    draw = global_generators(device)["torch"].draw
    torch.manual_seed(seed)
    first = draw(ENOUGH)
    for bit in range(32, 64) if half == "high" else range(32):
        torch.manual_seed(seed ^ (1 << bit))

        assert draw(ENOUGH) != first, f"seed {seed} and the one with bit {bit} flipped draw the same on {device}"


def draw_from_each(device):
    return {name: generator.draw(ENOUGH) for name, generator in global_generators(device).items()}


@pytest.mark.claim("2.3/everything-repeats")
@given(seed=seeds, disturbance=disturbances)
@example(seed=0, disturbance=1)
@example(seed=2**32 - 1, disturbance=1)
def test_set_seed_repeats_every_generator(device, seed, disturbance):
    """The notebook's function seeds only torch."""
    set_seed(seed)
    first = draw_from_each(device)
    disturb(disturbance)

    set_seed(seed)

    assert draw_from_each(device) == first


@pytest.mark.claim("2.3/everything-repeats")
@pytest.mark.parametrize("generator", ["numpy", "random"])
@refuted
@given(seed=seeds)
def test_the_notebooks_seeding_repeats_every_generator(generator, seed):
    """It seeds only torch; the generators of NumPy and ``random`` continue."""
    draw = global_generators()[generator].draw
    notebook_set_seed(seed)
    first = draw(ENOUGH)

    notebook_set_seed(seed)

    assert draw(ENOUGH) == first


@pytest.mark.claim("2.3/everything-repeats")
@given(seed=seeds)
def test_the_notebooks_seeding_does_not_change_numpy_and_random(seed):
    """And it gives torch the state of ``torch.manual_seed``."""
    torch.manual_seed(seed)

    with nothing_drawn("the notebook's set_seed"):
        notebook_set_seed(seed)


@pytest.mark.skipif(Version(version("lightning")) < Version("2.4"), reason="Lightning before 2.4 logs each seed")
def test_set_seed_logs_nothing(caplog):
    with caplog.at_level("DEBUG"):
        set_seed(1996)

    assert not caplog.records


@given(seed=seeds)
def test_set_seed_gives_each_generator_the_seed_itself(seed):
    """All 32 bits of it: the numbers are those that each library documents for the seed."""
    set_seed(seed)

    own = random.Random(seed)
    assert draw_from_each("cpu") == {
        "torch": torch.rand(ENOUGH, generator=torch.Generator().manual_seed(seed)).tolist(),
        "numpy": np.random.RandomState(seed).random_sample(ENOUGH).tolist(),
        "random": [own.random() for _ in range(ENOUGH)],
    }


@given(seed=seeds)
def test_a_seed_with_one_bit_flipped_draws_other_numbers(device, seed):
    """Any bit, from every generator, for every seed that set_seed accepts."""
    set_seed(seed)
    first = draw_from_each(device)
    for bit in range(32):
        set_seed(seed ^ (1 << bit))
        second = draw_from_each(device)

        same = [name for name in first if first[name] == second[name]]
        assert not same, f"seed {seed} and the one with bit {bit} flipped draw the same numbers from {same}"


@given(seed=st.one_of(st.integers(max_value=-1), st.integers(min_value=2**32)))
@example(seed=-1)
@example(seed=2**32)
@example(seed=1 + 2**32)
def test_a_seed_out_of_range_is_refused_and_nothing_is_seeded(seed):
    """On the CPU, it would repeat the stream of a smaller seed."""
    set_seed(0)

    with (
        nothing_drawn(f"set_seed({seed})"),
        pytest.raises(ValueError, match=f"^seed is {seed}, but should be from 0 to 4294967295$"),
    ):
        set_seed(seed)

    assert os.environ["PL_GLOBAL_SEED"] == os.environ["PYTHONHASHSEED"] == "0"


@given(
    seed=st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.builds(np.int64, seeds),
        st.builds(np.uint32, seeds),
        st.builds(np.bool_, st.booleans()),
        st.builds(torch.tensor, seeds),
        st.builds(Decimal, seeds),
        st.builds(Fraction, seeds),
        st.builds(str, seeds),
    )
)
@example(seed=1996.0)
def test_a_seed_that_is_not_an_int_is_refused_and_nothing_is_seeded(seed):
    """NumPy's integers are refused too, so that the log of a run shows the seed."""
    set_seed(0)

    message = f"seed is {seed!r} of type {type(seed).__name__}, but should be an int"
    with nothing_drawn(f"set_seed({seed!r})"), pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        set_seed(seed)

    assert os.environ["PL_GLOBAL_SEED"] == os.environ["PYTHONHASHSEED"] == "0"


@given(seed=seeds, drawn=counts)
def test_a_restored_generator_state_repeats_the_same_numbers(device, seed, drawn):
    """At any position in a stream, also if a normal number is kept for the next draw."""
    generators = global_generators(device)
    set_seed(seed)
    disturb(drawn)
    states = {name: generator.get_state() for name, generator in generators.items()}
    first = draw_from_each(device)
    disturb(drawn)

    for name, generator in generators.items():
        generator.set_state(states[name])

    assert draw_from_each(device) == first


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@given(seed=torch_seeds)
def test_fork_rng_restores_the_generator_however_its_block_ends(seed, error):
    torch.manual_seed(seed)
    before = torch.get_rng_state()

    with pytest.raises(error) if error else contextlib.nullcontext(), torch.random.fork_rng(devices=[]):
        torch.rand(3)
        torch.manual_seed(seed ^ 1)
        if error:
            raise error

    assert_identical(torch.get_rng_state(), before, claim="state of the generator")


def test_a_gpus_generator_state_is_not_that_of_the_current_gpu(monkeypatch):
    """Torch's default is the current GPU."""
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="the current one": device)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device="the current one": (state, device))

    generator = global_generators("cuda:1")["torch"]

    assert generator.get_state() == "cuda:1"
    assert generator.set_state("state") == ("state", "cuda:1")


@given(seed=seeds, batch_size=st.integers(1, 4), disturbance=disturbances)
def test_the_same_seed_yields_the_same_shuffled_batches(seed, batch_size, disturbance):
    loader = DataLoader(TensorDataset(*xor()), batch_size, shuffle=True)
    set_seed(seed)
    first = [rows for batch in loader for rows in batch]
    disturb(disturbance)

    set_seed(seed)
    second = [rows for batch in loader for rows in batch]

    assert len(first) == len(second)
    for index, (again, before) in enumerate(zip(second, first, strict=True)):
        assert_identical(again, before, claim=f"batch {index // 2} of seed {seed}")


@refuted
@given(seed=seeds, other=seeds)
def test_shuffling_ignores_the_seed(seed, other):
    """The four rows have 24 orders, so some seed soon gives another order."""
    loader = DataLoader(TensorDataset(torch.arange(4)), shuffle=True)

    set_seed(seed)
    first = [row.item() for (row,) in loader]
    set_seed(other)

    assert [row.item() for (row,) in loader] == first


def _hashes():
    return [hash(f"name {i}") for i in range(8)]  # new strings, because a string caches its hash


def _hashes_of_a_child():
    program = "print([hash(f'name {i}') for i in range(8)])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.claim("2.3/hash-seed")
@pytest.mark.parametrize("seeding", SEEDINGS)
def test_the_hash_seed_reaches_child_processes_and_not_this_one(seeding):
    """Python reads PYTHONHASHSEED only when it starts."""
    before = _hashes()

    SEEDINGS[seeding](1996)
    here = _hashes()
    child, twin = _hashes_of_a_child(), _hashes_of_a_child()
    SEEDINGS[seeding](1997)
    other_here = _hashes()
    other_child = _hashes_of_a_child()

    assert here == other_here == before
    assert child == twin != other_child


@pytest.mark.parametrize("kind", [range, lambda count: list(range(count))], ids=["range", "list"])
def test_one_to_the_largest_number_of_seeds_is_accepted(kind):
    for count in range(1, 4):
        assert [*check_seeds(kind(count), 3)] == [*range(count)]
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"^seeds has length {count}, but should have a length from 1 to 3$"):
            check_seeds(kind(count), 3)


def test_accepted_seeds_do_not_change_with_the_list_that_they_came_from():
    given = [1, 2]
    accepted = check_seeds(given, 2)
    given[0] = -1

    assert [*accepted] == [1, 2]


@pytest.mark.claim("2.3/cuda-seeded")
@given(seed=torch_seeds, n=counts, disturbance=disturbances)
def test_manual_seed_all_repeats_every_gpu(device, seed, n, disturbance):
    """Each GPU has its own generator; all of them get the seed, so all draw the same numbers."""
    if device.type != "cuda":
        pytest.skip("manual_seed_all is for CUDA")
    gpus = range(torch.cuda.device_count())
    torch.cuda.manual_seed_all(seed)
    first = [torch.rand(n, device=f"cuda:{gpu}") for gpu in gpus]
    for gpu in gpus:
        torch.randn(disturbance, device=f"cuda:{gpu}")

    torch.cuda.manual_seed_all(seed)

    for gpu in gpus:
        assert_identical(torch.rand(n, device=f"cuda:{gpu}"), first[gpu], claim=f"cuda:{gpu}, seed {seed}")
        assert_identical(first[gpu], first[0], claim=f"cuda:{gpu} against cuda:0, seed {seed}")


@pytest.mark.claim("2.3/cudnn-flags")
@pytest.mark.parametrize("seeding", SEEDINGS)
@pytest.mark.parametrize("available", [True, False], ids=["CUDA", "no CUDA"])
@pytest.mark.parametrize("before", [(False, True), (True, False), (False, False), (True, True)], ids=str)
def test_set_seed_makes_cudnn_deterministic_if_cuda_is_available(monkeypatch, seeding, available, before):
    """Without CUDA the flags do not change. Only the flags are tested, so ``is_available`` is patched."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", before[0])
    monkeypatch.setattr(cudnn, "benchmark", before[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)

    SEEDINGS[seeding](1996)

    assert (cudnn.deterministic, cudnn.benchmark) == ((True, False) if available else before)


@pytest.mark.claim("2.3/cudnn-flags")
@given(seed=seeds)
def test_a_convolution_of_cudnn_repeats_its_gradient(device, seed):
    """The gradient by the weights, which cuDNN's nondeterministic algorithms sum in the order that threads finish."""
    if device.type != "cuda":
        pytest.skip("cuDNN is for CUDA")

    def gradient():
        set_seed(seed)
        convolution = torch.nn.Conv2d(8, 8, 3).to(device)
        convolution(torch.randn(16, 8, 32, 32, device=device)).square().sum().backward()
        return convolution.weight.grad

    assert_identical(gradient(), gradient(), claim=f"convolution, seed {seed}")
