"""Every domain that a property draws from, with the reason for each of its limits."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from simplenet import ARCHITECTURES

# What torch itself computes in; each is tried where the operation supports it.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

architectures = st.sampled_from(list(ARCHITECTURES))

# One row, the four of XOR, and past a vector register's 16 float32s, so that kernels meet their tails.
batch_sizes = st.integers(1, 35)

# One unit to a few; wider layers multiply the cost of a reference without adding a path through the code.
hidden_widths = st.integers(1, 9)

# No batch dimension, some, and empty ones in any place.
batch_shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)

# The seeds that set_seed accepts, its corners included.
seeds = st.integers(0, 2**32 - 1)


def floats(
    dtype: torch.dtype, *, min_exponent: int | None = None, max_exponent: int | None = None, signed: bool = True
) -> st.SearchStrategy[float]:
    """Draw finite numbers that ``dtype`` holds exactly, evenly over the exponents, and its corners.

    Args:
        dtype: The type to draw from.
        min_exponent: Nothing but zero is smaller than 2 to this; by default subnormals are drawn.
        max_exponent: Nothing is larger than 2 to this; by default the largest finite number is drawn.
        signed: Whether negative numbers and -0 are drawn.
    """
    finfo = torch.finfo(dtype)
    digits = round(-np.log2(finfo.eps))  # after the leading one
    lowest = round(np.log2(finfo.tiny)) if min_exponent is None else min_exponent
    highest = round(np.log2(finfo.max)) - 1 if max_exponent is None else max_exponent - 1
    significands = st.one_of(st.just(0), st.integers(0, 2**digits - 1))
    normals = st.builds(
        lambda fraction, exponent: float((2**digits + fraction) * 2.0 ** (exponent - digits)),
        significands,
        st.integers(lowest, highest),
    )
    magnitudes = [st.just(0.0), st.just(1.0), normals]
    if min_exponent is None:
        magnitudes.append(st.integers(1, 2**digits - 1).map(lambda n: n * finfo.tiny * finfo.eps))
    if max_exponent is None:
        magnitudes.append(st.just(finfo.max))
    values = st.one_of(*magnitudes)
    return st.builds(lambda value, sign: sign * value, values, st.sampled_from([1.0, -1.0])) if signed else values


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    elements: st.SearchStrategy[float] | None = None,
) -> Tensor:
    """Draw a contiguous tensor; by default of numbers from 2^-20 to 2^20, whose squares and products stay normal."""
    if elements is None:
        elements = floats(dtype, min_exponent=-20, max_exponent=20)
    size = int(np.prod(shape))
    values = draw(st.lists(elements, min_size=size, max_size=size))
    return torch.tensor(values, dtype=dtype).reshape(shape)


# Guard bands hold this; no computation here produces it.
SENTINEL = -777.0


class Placed(NamedTuple):
    """A matrix somewhere in a larger piece of memory.

    Attributes:
        tensor: The view that the code under test gets.
        base: The memory it lies in.
        guard: Where in ``base`` the tensor is not.
    """

    tensor: Tensor
    base: Tensor
    guard: Tensor

    def guard_is_intact(self) -> bool:
        """Whether nothing around the tensor was written to."""
        return bool((self.base[self.guard] == SENTINEL).all())


# How a matrix may lie in memory: each maps its shape to that of a base, and the base to the view.
LAYOUTS = {
    "contiguous": (lambda rows, columns: (rows, columns), lambda base: base),
    "transposed": (lambda rows, columns: (columns, rows), lambda base: base.T),
    "strided": (lambda rows, columns: (rows, columns + 3), lambda base: base[:, :-3]),
    "offset": (lambda rows, columns: (rows + 1, columns), lambda base: base[1:]),
    "interleaved": (lambda rows, columns: (2 * rows, 2 * columns), lambda base: base[::2, 1::2]),
}


def place(values: Tensor, layout: str) -> Placed:
    """Lay a matrix out in memory with a guard band around it.

    Args:
        values: A matrix, copied.
        layout: One of ``LAYOUTS``.
    """
    base_shape, view = LAYOUTS[layout]
    base = torch.full(base_shape(*values.shape), SENTINEL, dtype=values.dtype, device=values.device)
    guard = torch.ones(base.shape, dtype=torch.bool, device=values.device)
    view(guard).zero_()
    tensor = view(base)
    tensor.copy_(values)
    return Placed(tensor, base, guard)
