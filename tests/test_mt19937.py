"""Many generators at once: each draws the numbers that torch draws after ``manual_seed``."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplenet import mt19937
from simplenet.mt19937 import Uniform, UniformCalls, draw, state_words
from simplenet.testing.assertions import assert_identical
from simplenet.testing.strategies import seeds

CORNERS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
bounds = st.floats(0, 100)


@pytest.mark.parametrize("twists", [1, 2, 5])
def test_the_words_equal_torchs_state(twists):
    """All 624 words, after one twist and after more."""
    words = state_words(np.array(CORNERS, np.uint32), 624 * twists)

    for seed, column in zip(CORNERS, words.T, strict=True):
        generator = torch.Generator().manual_seed(seed)
        torch.empty(624 * twists, dtype=torch.float32).uniform_(generator=generator)
        state = generator.get_state().numpy().view(np.uint64)[3 : 3 + 624]
        assert column[-624:].tolist() == state.tolist()


# Counts at which the words that a twist reads, or the twist itself, belong to another state or another stride.
edges = [n + i for n in (227, 397, 624, 2 * 227, 2 * 397, 2 * 624) for i in (-1, 0, 1)]


@pytest.mark.parametrize("count", [1, *edges])
def test_the_first_words_do_not_depend_on_how_many_are_computed(count):
    """For few words, only a part of the first state is computed."""
    seeds = np.array(CORNERS, np.uint32)

    assert state_words(seeds, count).tolist() == state_words(seeds, 3 * 624)[:count].tolist()


@given(
    drawn=st.lists(seeds | st.sampled_from(CORNERS), min_size=1, max_size=4),
    calls=st.lists(st.builds(Uniform, st.integers(1, 1500), bounds.map(float.__neg__), bounds), min_size=1, max_size=4),
    dtype=dtypes,
)
def test_each_seed_draws_the_numbers_of_torch(drawn, calls, dtype):
    """Bit for bit, in every dtype, for any calls and bounds."""
    many = draw(drawn, calls, dtype)

    for seed, column in zip(drawn, many.T, strict=True):
        generator = torch.Generator().manual_seed(seed)
        alone = [torch.empty(n, dtype=dtype).uniform_(low, high, generator=generator) for n, low, high in calls]
        assert_identical(column, torch.cat(alone), claim=f"draws of seed {seed}")


@given(dtype=dtypes, most_seeds=st.integers(1, 5), most_words=st.integers(1, 5000))
def test_the_block_that_a_seed_is_in_changes_no_bit(dtype, most_seeds, most_words):
    calls = [Uniform(8, -1.0, 1.0), Uniform(300, 0.0, 1.0)]
    expected = torch.cat([draw([seed], calls, dtype) for seed in range(7)], dim=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mt19937, "_MOST_SEEDS", most_seeds)
        patch.setattr(mt19937, "_MOST_WORDS", most_words)
        actual = draw(range(7), calls, dtype)

    assert_identical(actual, expected, claim="draws")


@pytest.mark.parametrize(
    ("limit", "most", "numbers", "many"),
    [
        ("_MOST_SEEDS", 8, 17, 1600),
        ("_MOST_WORDS", 8 * (624 + 620), 620, 160),
        ("_MOST_WORDS", 8 * (624 + 5000), 5000, 160),
    ],
)
def test_the_working_memory_of_a_block_is_smaller_than_the_result(monkeypatch, limit, most, numbers, many):
    """With all seeds in one block it would be larger: 624 words for each seed, and one for each number."""
    monkeypatch.setattr(mt19937, limit, most)
    calls = [Uniform(numbers, -1.0, 1.0)]
    draw(range(2), calls, torch.float32)
    tracemalloc.start()
    try:
        result = draw(range(many), calls, torch.float32)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    size = result.numel() * result.element_size()
    assert size < peak < 2 * size


@pytest.mark.parametrize("outputs", [1, 2])
def test_each_load_fills_the_whole_state(outputs):
    """Of which 623 words are drawn from, and the two words of a number are loaded together."""
    starts = []

    class Parts:
        def __getitem__(self, rows):
            starts.append(rows.start)
            return torch.empty(1)

    mt19937._Loaded().uniform(np.zeros((1500, outputs), np.uint32), Uniform(1500, 0.0, 1.0), Parts())  # noqa: SLF001

    assert starts == [*range(0, 1500, 623 // outputs)]


def test_recorded_calls_include_default_bounds():
    """Torch does not pass default bounds on to the dispatcher."""
    tensor = torch.empty(2, 3)

    with UniformCalls() as recorded:
        tensor.uniform_()
        tensor.uniform_(-1.0)
        tensor[0].uniform_(-1.0, 1.0)
        tensor.uniform_(-2.0, 3.0).normal_()
    tensor.uniform_()

    assert recorded.calls == [Uniform(6, 0.0, 1.0), Uniform(6, -1.0, 1.0), Uniform(3, -1.0, 1.0), Uniform(6, -2.0, 3.0)]


def test_recorded_calls_draw_the_same_numbers_as_unrecorded_ones():
    """With keyword arguments, such as a generator."""

    def numbers():
        generator = torch.Generator().manual_seed(1996)
        return torch.full((3,), 2, dtype=torch.float64).uniform_(-1.0, 1.0, generator=generator)

    with UniformCalls():
        inside = numbers()

    assert_identical(inside, numbers(), claim="draws inside")
