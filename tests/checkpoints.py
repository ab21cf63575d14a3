"""Damaged and edited checkpoints, for tests."""

import copy
import io
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from simplenet.checkpoint import digest


def saved(checkpoint: dict[str, Any], *, sealed: bool = True) -> bytes:
    """Save a checkpoint with torch; ``sealed``, with its digest."""
    buffer = io.BytesIO()
    torch.save({**checkpoint, "digest": digest(checkpoint)} if sealed else checkpoint, buffer)
    return buffer.getvalue()


def loaded(content: bytes) -> dict[str, Any]:
    """Load a whole checkpoint with torch."""
    checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return checkpoint


def repacked(content: bytes, change: Callable[[str, bytes], list[tuple[str, bytes]]], compression: int = 0) -> bytes:
    """Rewrite an archive, with right CRCs; ``change`` returns the new members in place of each old one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            for changed in change(name, old.read(name)):
                new.writestr(*changed)
    return buffer.getvalue()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every entry of a nested value, from the outermost on."""
    if path:
        yield path
    if isinstance(value, dict | list | tuple):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(part, (*path, name))


def entry(value: Any, path: tuple[Any, ...]) -> Any:
    """Return the entry at a path."""
    for name in path:
        value = value[name]
    return value


def with_entry(checkpoint: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Copy a checkpoint with one entry replaced."""
    if not path:
        return value
    name, *rest = path
    outer = dict(checkpoint) if isinstance(checkpoint, dict) else list(checkpoint)
    outer[name] = with_entry(checkpoint[name], tuple(rest), value)
    return tuple(outer) if isinstance(checkpoint, tuple) else outer


def without_entry(checkpoint: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """Copy a checkpoint without an entry of a dict."""
    outer = dict(entry(checkpoint, path[:-1]))
    del outer[path[-1]]
    return with_entry(checkpoint, path[:-1], outer)


def wrong_values(value: Any) -> list[Any]:
    """List wrong values for an entry: other types, and values out of the range of all entries."""
    wrong: list[Any] = [None, True, "text", "", -1, 0.5, 2**40, 10**30, float("nan"), float("inf"), 1e308]
    wrong += [[], {}, (), [value], (value, value), {"a": value}, {0: value}, torch.zeros(2)]
    if isinstance(value, Tensor):
        wrong += [
            value.double(),
            value.to(torch.int64),
            value[None],
            value.flatten()[:0],
            torch.full_like(value, torch.nan),
        ]
        wrong += [torch.full_like(value, torch.inf), value.expand(1000, *value.shape)]
    return wrong


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Damage a file at a random position: a bit, a byte, zeros, truncation, a repeated or a swapped piece."""
    data = bytearray(content)
    at, size = generator.randrange(len(data)), generator.choice([1, 2, 8, 64, 512])
    kind = generator.choice(["bit", "byte", "zeros", "cut", "repeat", "exchange", "length"])
    if kind == "bit":
        data[at] ^= 1 << generator.randrange(8)
    elif kind == "byte":
        data[at] = generator.randrange(256)
    elif kind == "zeros":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == "cut":
        del data[at:]
    elif kind == "repeat":
        data[at:at] = data[at : at + size]
    elif kind == "exchange":
        other = generator.randrange(len(data))
        data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
    else:
        data[at : at + 4] = struct.pack("<I", generator.choice([0, 1, 2**16, 2**31, 2**32 - 1]))
    return bytes(data)


def hostile(checkpoint: dict[str, Any], path: str) -> dict[str, Any]:
    """Store a path wherever Lightning's checkpoints have one."""
    state: dict[str, Any] = dict.fromkeys(("best_model_path", "last_model_path", "kth_best_model_path"), path)
    state |= {
        "dirpath": path,
        "best_k_models": {path: torch.tensor(1.0)},
        "best_model_score": None,
        "kth_value": torch.tensor(1.0),
    }
    arguments = {"monitor": None, "mode": "min", "every_n_train_steps": 0, "every_n_epochs": 1}
    arguments["train_time_interval"] = None
    names = ("_Saver", "_Watch", "ModelCheckpoint")
    keys = [*names, *(f"{name}{arguments}" for name in names)]
    hostile = copy.deepcopy(checkpoint)
    hostile["callbacks"] = dict.fromkeys(keys, state)
    hostile["hyper_parameters"] |= {"_class_path": path, "_instantiator": path, "_logger": path}
    return hostile | {"hparams_name": path, "dirpath": path}
