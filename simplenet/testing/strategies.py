"""The Hypothesis strategies of the suite, with the reason for each limit."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from simplenet import ARCHITECTURES, SimpleNet
from simplenet.model import Architecture

# The types that torch computes in; each is tested if the operation supports it.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def skip_where_missing(operation: Callable[[Tensor], object], dtype: torch.dtype, device: torch.device) -> None:
    """Skip a test, with torch's message, if torch has no kernel of that type for that device."""
    try:
        operation(torch.ones(1, 1, dtype=dtype, device=device))
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} on {device}: {error}")


def adam_arithmetic(one: Tensor) -> None:
    """Call the operations of a step of Adam: before 2.2, torch has them in float16 only on CUDA."""
    one.lerp(one, 0.5).sqrt().addcmul(one, one).addcdiv(one, one)


architectures: st.SearchStrategy[Architecture] = st.sampled_from(list(ARCHITECTURES))

# One row, the four of XOR, and more than a vector register's 16 float32s, so that kernels run their scalar tails.
batch_sizes = st.integers(1, 35)

# A few units; wider layers cost more in the reference without reaching other code.
hidden_widths = st.integers(1, 9)

# Rows or units for tests with exact arithmetic: enough for sums of one, two and more terms.
few = st.integers(1, 5)

# No batch dimension or up to three, any of which may be empty.
batch_shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)

# The seeds that set_seed accepts.
seeds = st.integers(0, 2**32 - 1)


@cache
def floats(
    dtype: torch.dtype, *, min_exponent: int | None = None, max_exponent: int | None = None, signed: bool = True
) -> st.SearchStrategy[float]:
    """Draw finite numbers of a dtype, uniformly over the exponents, and its extreme values more often.

    Args:
        dtype: The type to draw from.
        min_exponent: The smallest magnitude besides zero is 2 to this; by default subnormals are drawn.
        max_exponent: The largest magnitude is below 2 to this; by default the largest finite number is drawn.
        signed: Whether negative numbers and -0 are drawn.
    """
    finfo = torch.finfo(dtype)
    digits = round(-np.log2(finfo.eps))  # bits after the leading one
    lowest = round(np.log2(finfo.tiny)) if min_exponent is None else min_exponent
    highest = round(np.log2(finfo.max)) if max_exponent is None else max_exponent
    # A number is a unit times an integer: the leading one, unless it is subnormal, plus a fraction.
    normals = [(2.0 ** (exponent - digits), 2**digits) for exponent in range(lowest, highest)]
    favoured = [(0.0, 0)]
    if lowest <= 0 < highest:
        favoured.append(normals[-lowest])
    if min_exponent is None:
        favoured.append((finfo.tiny * finfo.eps, 0))
    if max_exponent is None:
        favoured.append(normals[-1])
    scales = favoured * (1 + len(normals) // (2 * len(favoured))) + normals
    if signed:
        scales += [(-unit, leading) for unit, leading in scales]
    # Only two draws a number, because a draw costs as much as a step of Adam.  A fraction out of range is clipped.
    return st.builds(
        lambda scale, fraction: scale[0] * (scale[1] + min(max(fraction, 0), 2**digits - 1)),
        st.sampled_from(scales),
        st.integers(-(2**digits), 2 ** (digits + 1)),
    )


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    elements: st.SearchStrategy[float] | None = None,
) -> Tensor:
    """Draw a contiguous tensor; by default of numbers from 2^-20 to 2^20, whose squares and products are normal."""
    if elements is None:
        elements = floats(dtype, min_exponent=-20, max_exponent=20)
    size = int(np.prod(shape))
    values = draw(st.lists(elements, min_size=size, max_size=size))
    return torch.tensor(values, dtype=dtype).reshape(shape)


def _scatter(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Draw weights or inputs with magnitudes up to 8, as in trained networks, one in eight of them 0.

    In 16-bit types magnitudes are below 1, so that the error of a sum is below 1 too.
    """
    exponents = torch.randint(-10, 3 if dtype in {torch.float32, torch.float64} else 0, shape, generator=generator)
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    kept = torch.randint(0, 8, shape, generator=generator) > 0
    significands = 1 + torch.rand(shape, generator=generator, dtype=torch.float64)
    return (kept * signs * significands * 2.0**exponents).to(dtype)


@st.composite
def networks(
    draw: st.DrawFn,
    architecture: st.SearchStrategy[Architecture] = architectures,
    hidden: st.SearchStrategy[int] = hidden_widths,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> SimpleNet:
    """Draw a network; its weights come from one drawn seed, forty times faster than one draw for each weight."""
    net = SimpleNet(draw(architecture), hidden=draw(hidden)).to(device, dtype)
    generator = torch.Generator().manual_seed(draw(seeds))
    for parameter in net.parameters():
        parameter.data = _scatter(tuple(parameter.shape), dtype, generator).to(device)
    return net


@st.composite
def batches(
    draw: st.DrawFn,
    rows: st.SearchStrategy[int] = batch_sizes,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw inputs and targets of the same number of rows, in the way ``networks`` draws weights."""
    n = draw(rows)
    generator = torch.Generator().manual_seed(draw(seeds))
    inputs, targets = (_scatter((n, width), dtype, generator).to(device) for width in (2, 1))
    return inputs, targets
