"""The archives that ``torch.save`` writes, read into plain values and tensors and nothing else.

``torch.load(weights_only=True)`` runs no code of a file either, but it does not compare a member with its CRC,
and releases differ in whether they compare a tensor's size with the bytes that are there. So ``zipfile``
reads the archive, and ``pickle.Unpickler`` the pickle in it, with a list of all that it may build.

References:
    PyTorch documentation, "Serialization semantics". Python documentation, "Restricting Globals".
"""

import io
import math
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

# What torch writes for a network is near 4 kB of pickle in 23 members.
_MAX_PICKLE_BYTES = 2**16
_MAX_MEMBERS = 1000

# Every opcode that torch.save writes for values, dicts, lists, tuples and tensors. Others can allocate memory
# of a size that the file names.
_OPCODES = frozenset(
    "PROTO MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "  # noqa: SIM905
    "EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL REDUCE BUILD BINPERSID".split()
)

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "ByteStorage": torch.uint8,
}


def read_archive(content: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Read entries of the dict that an archive holds.

    Args:
        content: The whole file.
        names: The entries that are wanted; others are not looked at.

    Returns:
        Those that are there: numbers, strings, dicts, lists, tuples, and tensors on the CPU.

    Raises:
        ValueError: If the archive is damaged, is not one of torch's, or holds anything else.
    """
    budget = iter(range(_MAX_PICKLE_BYTES))
    try:
        saved = _unpickled(_members(content))
        return {name: _plain(saved[name], budget) for name in names if name in saved}
    except _DamagedError:
        raise
    except Exception as error:  # what zipfile, pickle and torch raise depends on the damage
        raise _DamagedError(f"it is damaged: {type(error).__name__}: {error}") from error


class _DamagedError(ValueError):
    pass


def _expect(message: str, *, holds: bool) -> None:
    if not holds:
        raise _DamagedError(message)


def _members(content: bytes) -> dict[str, bytes]:
    """Return the members of a zip archive by their names in its one folder, each compared with its CRC."""
    # A file may claim any number of members, and their names alone take memory.
    headers = content.count(b"PK\x01\x02")
    _expect(f"its archive has {headers:,} members, not at most {_MAX_MEMBERS:,}", holds=headers <= _MAX_MEMBERS)
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            name = member.filename.partition("/")[2]
            _expect(f"its member {name!r} is there twice", holds=name not in members)
            _expect(f"its member {name!r} is compressed", holds=member.compress_type == zipfile.ZIP_STORED)
            members[name] = archive.read(member)
    return members


class _Dict(dict[Any, Any]):
    """An ``OrderedDict`` without the attributes that torch gives it, and that a file could hide methods behind."""

    def __setstate__(self, _: object) -> None:
        pass


class _Storage(NamedTuple):
    """The memory of a tensor, as a file has it."""

    content: bytes
    dtype: torch.dtype


class _Stored(NamedTuple):
    """A tensor, as a file has it: not a ``Tensor`` yet, for a pickle may call methods of what it has built."""

    storage: object
    offset: object
    size: object
    stride: object

    def tensor(self) -> Tensor:
        """Return the tensor, in memory of its own."""
        storage, size, stride, offset = cast("Any", (self.storage, self.size, self.stride, self.offset))
        memory = torch.frombuffer(bytearray(storage.content), dtype=storage.dtype)
        # A stride of 0 would make a tensor of any size.
        message = f"a tensor in its data.pkl has size {size}, but {len(memory)} numbers"
        _expect(message, holds=math.prod(size) <= len(memory))
        return memory.as_strided(size, stride, offset).clone()


def _rebuild_tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> _Stored:
    """Take the arguments of ``torch._utils._rebuild_tensor_v2``."""
    return _Stored(storage, offset, size, stride)


class _Unpickler(pickle.Unpickler):
    """Build plain values and tensors, and nothing else."""

    def __init__(self, members: dict[str, bytes]) -> None:
        super().__init__(io.BytesIO(members["data.pkl"]))
        self.members = members

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or a function that the pickle names."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _DamagedError(f"its data.pkl names {module}.{name}, but should hold tensors and plain values alone")

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage of a tensor: ``("storage", type, member, device, elements)``."""
        _, dtype, member, _, elements = pid
        content = self.members[f"data/{member}"]
        itemsize = torch.empty((), dtype=dtype).element_size()
        message = f"its member 'data/{member}' has {len(content)} bytes, but should hold {elements} of {dtype}"
        _expect(message, holds=len(content) == elements * itemsize)
        return _Storage(content, dtype)


def _unpickled(members: dict[str, bytes]) -> Any:
    size = len(members["data.pkl"])
    message = f"its data.pkl has {size:,} bytes, but should have at most {_MAX_PICKLE_BYTES:,}"
    _expect(message, holds=size <= _MAX_PICKLE_BYTES)
    order = members.get("byteorder", sys.byteorder.encode()).decode()
    _expect(f"its byteorder is {order!r}, but should be {sys.byteorder!r}", holds=order == sys.byteorder)
    for opcode, argument, _ in pickletools.genops(members["data.pkl"]):
        # An index makes room for all that are smaller.
        known = opcode.name in _OPCODES and not (opcode.name == "LONG_BINPUT" and cast("int", argument) > size)
        _expect(f"its data.pkl has {opcode.name} {argument!r}, which torch.save does not write", holds=known)
    return _Unpickler(members).load()


def _plain(value: object, budget: Iterator[int]) -> Any:
    """Copy a nested value, its tensors made; ``budget`` runs out where references multiply a value."""
    next(budget)
    if isinstance(value, dict):
        return {name: _plain(part, budget) for name, part in value.items()}
    if isinstance(value, _Stored):
        return value.tensor()
    if type(value) in (list, tuple):
        return type(value)([_plain(part, budget) for part in value])  # type: ignore[attr-defined, call-arg]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise _DamagedError(f"it holds a {type(value).__name__}")
