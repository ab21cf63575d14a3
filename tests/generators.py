"""The global random generators: torch's, NumPy's and Python's."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch


class Generator(NamedTuple):
    """A global generator.

    Attributes:
        draw: Returns this many numbers, uniform from 0 to 1; for torch, from the device's generator.
        get_state: Returns the state of the generator.
        set_state: Restores a state.
    """

    draw: Callable[[int], list[float]]
    get_state: Callable[[], Any]
    set_state: Callable[[Any], None]


def global_generators(device: torch.device | str = "cpu") -> dict[str, Generator]:
    """Return the three generators by name; torch has one for the CPU and one for each GPU."""
    get_state: Callable[[], Any] = torch.get_rng_state
    set_state: Callable[[Any], None] = torch.set_rng_state
    if torch.device(device).type == "cuda":  # torch's default is the current GPU
        get_state = partial(torch.cuda.get_rng_state, device=device)
        set_state = partial(torch.cuda.set_rng_state, device=device)
    return {
        "torch": Generator(lambda n: torch.rand(n, device=device).tolist(), get_state, set_state),
        "numpy": Generator(lambda n: np.random.random(n).tolist(), np.random.get_state, np.random.set_state),  # noqa: NPY002
        "random": Generator(lambda n: [random.random() for _ in range(n)], random.getstate, random.setstate),
    }


def disturb(n: int) -> None:
    """Draw ``n`` numbers from each; after an odd number of normal draws, a generator keeps one for the next draw."""
    torch.randn(n)
    np.random.standard_normal(n)  # noqa: NPY002
    for _ in range(n):
        random.gauss()


@contextmanager
def nothing_drawn(claim: str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Assert that the block does not advance any generator of the CPU or of ``device``."""
    before = _states(device)
    yield
    after = _states(device)
    moved = [name for name in before if before[name] != after[name]]
    assert not moved, f"{claim}: the generator of {', '.join(moved)} advanced, but none should"


def _states(device: torch.device | str) -> dict[str, str | bytes]:
    words: Any
    _, words, *rest = np.random.get_state()  # noqa: NPY002
    states = {
        "torch on the CPU": torch.get_rng_state().numpy().tobytes(),
        "numpy": words.tobytes() + repr(rest).encode(),
        "random": repr(random.getstate()),
    }
    if torch.device(device).type == "cuda":
        states[f"torch on {device}"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    return states
