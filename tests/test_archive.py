"""The archives of ``torch.save`` are read as values and tensors; anything else is refused in a whole sentence."""

import io
import pickle
import re
import struct
import sys
import zipfile

import pytest
import torch

from simplenet.archive import _MAX_MEMBERS, _MAX_PICKLE_BYTES, read_archive
from simplenet.testing.assertions import assert_identical
from tests.checkpoints import repacked

THREE = {"a": torch.arange(3.0)}


def packed(value, changes=None, **options):
    """Save a value with torch; add or replace members, or with ``None`` remove them, by their names in the folder."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    missing = dict(changes or {})

    def change(name, content):
        folder, _, member = name.partition("/")
        members = {member: missing.pop(member, content)}
        if member == "version":  # what comes after it is never replaced
            members |= missing
        return [(f"{folder}/{new}", data) for new, data in members.items() if data is not None]

    return repacked(buffer.getvalue(), change, **options)


def pickled(content):
    return packed(THREE, {"data.pkl": content})


def text(size):
    """Return a pickle of so many bytes, of a dict with one string."""
    overhead = len(pickle.dumps({"a": "x" * 300}, 2)) - 300
    return pickle.dumps({"a": "x" * (size - overhead)}, 2)


def with_index(index):
    """Return a pickle of 9 bytes, of an empty dict that is put into the memo at an index."""
    return b"\x80\x02}r" + struct.pack("<I", index) + b"."


def with_members(count):
    """Return an archive of so many members."""
    missing = count - len(zipfile.ZipFile(io.BytesIO(packed(THREE))).namelist())
    return packed(THREE, {f"more/{i}": b"" for i in range(missing)})


def with_duplicates():
    return repacked(packed(THREE), lambda name, content: [(name, content)] * 2)


def test_a_view_is_read_with_its_offset_and_its_strides():
    whole = torch.arange(12.0).view(3, 4)

    views = {"offset": whole[1:, 1:], "transposed": whole.T, "strided": whole[:, ::2]}
    for name, view in views.items():
        assert_identical(read_archive(packed({name: view}), [name])[name], view, claim=name)


def test_an_archive_without_a_byte_order_has_that_of_the_machine():
    """As in archives of older releases."""
    assert_identical(read_archive(packed(THREE, {"byteorder": None}), ["a"])["a"], THREE["a"], claim="a")


def test_as_many_members_as_there_may_be_are_read():
    assert read_archive(with_members(_MAX_MEMBERS), ["a"]).keys() == {"a"}


def test_the_largest_pickle_and_the_largest_index_are_read():
    assert len(text(_MAX_PICKLE_BYTES)) == _MAX_PICKLE_BYTES

    assert read_archive(pickled(text(_MAX_PICKLE_BYTES)), ["a"]).keys() == {"a"}
    assert read_archive(pickled(with_index(9)), ["a"]) == {}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"no archive", "it is damaged: BadZipFile: File is not a zip file"),
        (lambda: packed(THREE, {"byteorder": b"other"}), f"its byteorder is 'other', but should be {sys.byteorder!r}"),
        (
            lambda: packed({"a": torch.zeros(1).expand(5)}),
            "a tensor in its data.pkl has size (5,), but 1 numbers",
        ),
        (
            lambda: packed(THREE, {"data/0": b"1234567"}),
            "its member 'data/0' has 7 bytes, but should hold 3 of torch.float32",
        ),
        (lambda: pickled(text(2**16 + 1)), "its data.pkl has 65,537 bytes, but should have at most 65,536"),
        (
            lambda: pickled(b"\x80\x04}\x94."),
            "its data.pkl has MEMOIZE None, which torch.save does not write",
        ),
        (
            lambda: pickled(with_index(10)),
            "its data.pkl has LONG_BINPUT 10, which torch.save does not write",
        ),
        (
            lambda: pickled(b"\x80\x02cother\nFloatStorage\n."),
            "its data.pkl names other.FloatStorage, but should hold only tensors and plain values",
        ),
        (
            lambda: pickled(b"\x80\x02ctorch\nGenerator\n."),
            "its data.pkl names torch.Generator, but should hold only tensors and plain values",
        ),
        (
            lambda: pickled(b"\x80\x02}X\x01\x00\x00\x00actorch\nFloatStorage\ns."),
            "it holds a dtype",
        ),
        (with_duplicates, "its member 'data.pkl' is there twice"),
        (
            lambda: packed(THREE, compression=zipfile.ZIP_DEFLATED),
            "its member 'data.pkl' is compressed",
        ),
        (lambda: with_members(1001), "its archive has 1,001 members, but should have at most 1,000"),
    ],
    ids=lambda value: "" if callable(value) else value[:32],
)
def test_any_other_archive_is_refused_in_a_whole_sentence(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_archive(make(), ["a"])
