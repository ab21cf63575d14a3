"""torch's CPU generator for many seeds at once.

Seeding computes 624 words of state, of which a small network needs only a few, and a Python call for each seed
costs more than the computation. Here NumPy computes the words of all seeds at once, and only those that are needed.
They become the state of one generator, from which torch draws: tempering and the conversion of an output to a float
are left to torch, which rounds once if the CPU has a fused multiply-add, else twice.

References:
    M. Matsumoto and T. Nishimura, Mersenne Twister: a 623-dimensionally equidistributed uniform
    pseudo-random number generator, ACM TOMACS 8, 1998, doi 10.1145/272991.272995; with their seeding of 2002.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt32
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# The words of state, and the offset of the word that a twist adds.
_N, _M = 624, 397

# The position of the words in the result of ``Generator.get_state``, in units of 8 bytes.
_WORDS = slice(3, 3 + _N)

# Seeds, and words of state, in a block: enough to outweigh the overhead of NumPy's calls, and at most 64 MiB.
_MOST_SEEDS, _MOST_WORDS = 8192, 2**24


class Uniform(NamedTuple):
    """A call of ``Tensor.uniform_`` that draws this many numbers from ``low`` to ``high``."""

    numbers: int
    low: float
    high: float


class UniformCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record each call of ``Tensor.uniform_`` inside the ``with`` block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Uniform] = []

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.uniform_.default:
            bounds = (*args[1:], *(0.0, 1.0)[len(args) - 1 :])  # defaults are not in args
            self.calls.append(Uniform(args[0].numel(), *bounds))
        return func(*args, **(kwargs or {}))


def state_words(seeds: UInt32[np.ndarray, " seeds"], count: int) -> UInt32[np.ndarray, "count seeds"]:
    """Return the words of state that become the first ``count`` outputs of each seed's generator by tempering."""
    words = np.empty((_N + count, len(seeds)), np.uint32)
    words[0] = seeds
    # The part of the seeded state that the twists below read.
    shift, factor, indices = (np.array(number, np.uint32) for number in (30, 1812433253, range(_N)))
    last = words[0]
    for i, word in zip(indices[1 : _M + count, None], words[1:], strict=False):
        np.right_shift(last, shift, word)
        np.bitwise_xor(last, word, word)
        np.multiply(word, factor, word)
        np.add(word, i, word)
        last = word
    # A twist reads only words at least _N - _M before the one that it computes.
    for start in range(0, count, _N - _M):
        stop = min(start + _N - _M, count)
        joined = words[start:stop] & 0x80000000 | words[start + 1 : stop + 1] & 0x7FFFFFFF
        words[_N + start : _N + stop] = words[_M + start : _M + stop] ^ joined >> 1 ^ (joined & 1) * 0x9908B0DF
    return words[_N:]


class _Loaded:
    """A generator that draws from given words of state."""

    def __init__(self) -> None:
        self.generator = torch.Generator()  # of the CPU; all its words are replaced
        # The first output follows a twist. After it, all words but the first are still to be drawn.
        torch.empty(1, dtype=torch.float32, device="cpu").uniform_(generator=self.generator)
        self.state = self.generator.get_state()
        self.words = self.state.numpy().view(np.uint64)[_WORDS][1:]

    def uniform(self, words: UInt32[np.ndarray, "numbers outputs"], call: Uniform, into: Tensor) -> None:
        """Fill a tensor with numbers, each computed from a row of words."""
        length = len(self.words) // words.shape[1]
        for start in range(0, len(words), length):
            row = words[start : start + length].reshape(-1)
            self.words[: len(row)] = row
            self.generator.set_state(self.state)
            into[start : start + length].uniform_(call.low, call.high, generator=self.generator)


def draw(seeds: Sequence[int], calls: Sequence[Uniform], dtype: torch.dtype) -> Float[Tensor, "numbers seeds"]:
    """Draw the numbers that ``torch.manual_seed(seed)`` and these calls of ``uniform_`` give on the CPU, for each seed.

    Args:
        seeds: From 0 to 2³² - 1 each.
        calls: The calls, in order.
        dtype: The dtype of the numbers.

    Returns:
        A column for each seed, with the numbers of all calls in order.
    """
    numbers = sum(call.numbers for call in calls)
    outputs = 2 if dtype == torch.float64 else 1  # of the generator, for a number
    block = min(_MOST_SEEDS, max(_MOST_WORDS // (_N + outputs * numbers), 1))
    bits = f"i{torch.finfo(dtype).bits // 8}"  # copied by NumPy, in one thread; torch would wake its thread pool
    drawn: NDArray[Any] = np.empty((numbers, len(seeds)), bits)
    loaded = _Loaded()
    for start in range(0, len(seeds), block):
        columns = np.array(seeds[start : start + block], np.uint32)
        words = state_words(columns, outputs * numbers).reshape(numbers, outputs, -1)
        last = 0
        for call in calls:
            first, last = last, last + call.numbers
            part: NDArray[Any] = np.empty((call.numbers, len(columns)), bits)
            rows = words[first:last].swapaxes(1, 2).reshape(-1, outputs)
            loaded.uniform(rows, call, torch.from_numpy(part).flatten().view(dtype))
            drawn[first:last, start : start + block] = part
    return torch.from_numpy(drawn).view(dtype)
