"""Context managers that change a global setting of torch and restore it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")


@contextmanager
def _changed(read: Callable[[], T], write: Callable[[T], None], value: T) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


default_dtype = partial(_changed, torch.get_default_dtype, torch.set_default_dtype)
num_threads = partial(_changed, torch.get_num_threads, torch.set_num_threads)
matmul_precision = partial(_changed, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
