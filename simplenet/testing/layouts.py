"""Memory layouts of a matrix, with guard bands around it."""

from typing import NamedTuple

import torch
from torch import Tensor

# The value in the guard bands; no computation here produces it.
SENTINEL = -777.0

LAYOUTS = ("contiguous", "transposed", "strided", "offset", "interleaved")


class Placed(NamedTuple):
    """A matrix that is a view of a larger tensor.

    Attributes:
        tensor: The view, for the code under test.
        base: The larger tensor.
        guard: A mask of the entries of ``base`` outside the view.
    """

    tensor: Tensor
    base: Tensor
    guard: Tensor

    def guard_is_intact(self) -> bool:
        """Whether nothing outside the view was written to."""
        return bool((self.base.detach()[self.guard] == SENTINEL).all())


def _view(base: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return base.T
    if layout == "strided":
        return base[:, :-3]
    if layout == "offset":
        return base[1:]
    return base[::2, 1::2] if layout == "interleaved" else base


def place(values: Tensor, layout: str) -> Placed:
    """Copy a matrix into a layout, one of ``LAYOUTS``."""
    rows, columns = values.shape
    shape = {
        "contiguous": (rows, columns),
        "transposed": (columns, rows),
        "strided": (rows, columns + 3),
        "offset": (rows + 1, columns),
        "interleaved": (2 * rows, 2 * columns),
    }[layout]
    base = torch.full(shape, SENTINEL, dtype=values.dtype, device=values.device)
    guard = torch.ones(shape, dtype=torch.bool, device=values.device)
    _view(guard, layout).zero_()
    tensor = _view(base, layout)
    tensor.copy_(values)
    return Placed(tensor, base, guard)
