"""Read the archives that ``torch.save`` writes, into plain values and tensors only.

``torch.load(weights_only=True)`` does not run code from a file either, but it does not verify the CRC of a member,
and only some releases compare a tensor's size with the number of stored bytes. So ``zipfile`` reads the archive
here, and a ``pickle.Unpickler`` with a list of allowed types reads the pickle in it.

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

# torch writes about 4 kB of pickle and 23 members for a network.
_MAX_PICKLE_BYTES = 2**16
_MAX_MEMBERS = 1000

# Every opcode that torch.save writes for values, dicts, lists, tuples and tensors. Other opcodes can allocate as
# much memory as the file asks for.
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
    """Read entries of the dict in an archive.

    Args:
        content: The whole file.
        names: The entries to read; all others are ignored.

    Returns:
        The entries that exist: numbers, strings, dicts, lists, tuples, and tensors on the CPU.

    Raises:
        ValueError: If the archive is damaged, was not written by torch, or holds values of another type.
    """
    budget = iter(range(_MAX_PICKLE_BYTES))
    try:
        saved = _unpickled(_members(content))
        return {name: _plain(saved[name], budget) for name in names if name in saved}
    except _DamagedError:
        raise
    except Exception as error:  # the type that zipfile, pickle and torch raise depends on the damage
        raise _DamagedError(f"it is damaged: {type(error).__name__}: {error}") from error


class _DamagedError(ValueError):
    pass


def _expect(message: str, *, holds: bool) -> None:
    if not holds:
        raise _DamagedError(message)


def _members(content: bytes) -> dict[str, bytes]:
    """Return the members of a zip archive by their names without the folder; verify the CRC of each."""
    # A file can declare any number of members, and their names alone take memory.
    headers = content.count(b"PK\x01\x02")
    message = f"its archive has {headers:,} members, but should have at most {_MAX_MEMBERS:,}"
    _expect(message, holds=headers <= _MAX_MEMBERS)
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            name = member.filename.partition("/")[2]
            _expect(f"its member {name!r} is there twice", holds=name not in members)
            _expect(f"its member {name!r} is compressed", holds=member.compress_type == zipfile.ZIP_STORED)
            members[name] = archive.read(member)
    return members


class _Dict(dict[Any, Any]):
    """An ``OrderedDict`` without the attributes that torch sets on it: a file could override methods with them."""

    def __setstate__(self, _: object) -> None:
        pass


class _Storage(NamedTuple):
    """The memory of a tensor, as read from a file."""

    content: bytes
    dtype: torch.dtype


class _Stored(NamedTuple):
    """A tensor, as read from a file: not a ``Tensor`` yet, because a pickle can call methods of what it has built."""

    storage: object
    offset: object
    size: object
    stride: object

    def tensor(self) -> Tensor:
        """Return the tensor, in its own memory."""
        storage, size, stride, offset = cast("Any", (self.storage, self.size, self.stride, self.offset))
        memory = torch.frombuffer(bytearray(storage.content), dtype=storage.dtype)
        # With a stride of 0, a few bytes could become a tensor of any size.
        message = f"a tensor in its data.pkl has size {size}, but {len(memory)} numbers"
        _expect(message, holds=math.prod(size) <= len(memory))
        return memory.as_strided(size, stride, offset).clone()


def _rebuild_tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> _Stored:
    """Replace ``torch._utils._rebuild_tensor_v2``, with the same arguments."""
    return _Stored(storage, offset, size, stride)


class _Unpickler(pickle.Unpickler):
    """Build plain values and tensors only."""

    def __init__(self, members: dict[str, bytes]) -> None:
        super().__init__(io.BytesIO(members["data.pkl"]))
        self.members = members

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a class or function that the pickle names."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _DamagedError(f"its data.pkl names {module}.{name}, but should hold only tensors and plain values")

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
        # The memo of the unpickler grows to the largest index.
        known = opcode.name in _OPCODES and not (opcode.name == "LONG_BINPUT" and cast("int", argument) > size)
        _expect(f"its data.pkl has {opcode.name} {argument!r}, which torch.save does not write", holds=known)
    return _Unpickler(members).load()


def _plain(value: object, budget: Iterator[int]) -> Any:
    """Copy a nested value and build its tensors; ``budget`` runs out if references repeat a value too often."""
    next(budget)
    if isinstance(value, dict):
        _expect("a key of a dict in it is neither a str nor an int", holds={*map(type, value)} <= {str, int})
        return {name: _plain(part, budget) for name, part in value.items()}
    if isinstance(value, _Stored):
        return value.tensor()
    if type(value) in (list, tuple):
        return type(value)([_plain(part, budget) for part in value])  # type: ignore[attr-defined, call-arg]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise _DamagedError(f"it holds a {type(value).__name__}")
