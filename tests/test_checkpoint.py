"""A checkpoint is checked before it is used: no code in it runs, no path in it is used, no value is trusted.

The ``soak`` tests try all cases, the others a random part of them.
"""

import copy
import io
import os
import pickle
import random
import socket
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from simplenet import SimpleNet, XORDataModule, archive, checkpoint, load_checkpoint, set_seed, train
from simplenet.checkpoint import digest, newest_checkpoint, read_checkpoint
from simplenet.model import from_checkpoint
from simplenet.testing.assertions import assert_identical
from simplenet.testing.layouts import LAYOUTS, place
from simplenet.testing.settings import default_dtype
from tests.checkpoints import (
    damaged,
    entry,
    hostile,
    loaded,
    paths,
    repacked,
    saved,
    with_entry,
    without_entry,
    wrong_values,
)

ARGUMENTS = {"architecture": "overview", "hidden": 4, "lr": 0.01}


class Content(bytes):
    """The bytes of a file, with a short repr for failing tests."""

    def __repr__(self):
        return f"{len(self)} bytes"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The checkpoint of a short run."""
    set_seed(1996)
    directory = tmp_path_factory.mktemp("checkpoints")
    run = train(SimpleNet(), XORDataModule(2), max_epochs=3, device="cpu", checkpoint_dir=directory)
    return Content(run.checkpoint.read_bytes())


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file.ckpt"


def taken(path):
    """Return everything that is read from a checkpoint, bit for bit."""
    read = read_checkpoint(path, training=True)
    tensors = [*read.weights.values(), *(moment for pair in read.training.moments for moment in pair)]
    bits = [(tensor.dtype, tensor.flatten().view(torch.uint8).tolist()) for tensor in tensors]
    return read.arguments, read.training.batch_size, read.training.steps, list(read.weights), bits


def is_taken(path):
    """Whether the digest covers an entry."""
    return path[0] in checkpoint.ENTRIES


def test_a_checkpoint_round_trips_bit_for_bit(content, file):
    file.write_bytes(content)
    expected = loaded(content)

    read = read_checkpoint(file, training=True)

    assert read.arguments == expected["hyper_parameters"]
    assert read.training.batch_size == 2
    assert read.training.epochs == 3
    assert read.training.steps == expected["global_step"] == 6
    assert all(torch.equal(read.weights[name], weight) for name, weight in expected["state_dict"].items())
    for i, moments in enumerate(read.training.moments):
        state = expected["optimizer_states"][0]["state"][i]
        assert all(map(torch.equal, moments, (state["exp_avg"], state["exp_avg_sq"])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_network_is_loaded_in_the_dtype_it_was_saved_in(content, file, dtype):
    whole = loaded(content)
    whole["state_dict"] = {name: weight.to(dtype) for name, weight in whole["state_dict"].items()}
    file.write_bytes(saved(whole))

    net = load_checkpoint(file)

    assert all(torch.equal(net.state_dict()[name], weight) for name, weight in whole["state_dict"].items())
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}


def test_a_checkpoint_with_only_weights_loads_but_does_not_resume(content, file):
    whole = loaded(content)
    file.write_bytes(saved({name: whole[name] for name in ("hyper_parameters", "state_dict")}))

    assert load_checkpoint(file)(torch.zeros(2)).isfinite()
    for name in ("optimizer_states", "datamodule_hyper_parameters"):
        file.write_bytes(saved(without_entry(whole, (name,))))
        wanted = f"it holds only weights, without {name}: training cannot resume from it$"
        with pytest.raises(ValueError, match=wanted):
            read_checkpoint(file, training=True)


# Paths and code.


def snapshot(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("named", ["directory", "file", "url"])
def test_a_path_in_a_checkpoint_is_not_written_deleted_or_opened(content, tmp_path, monkeypatch, named):
    """Lightning would delete the file that ``best_model_path`` names, and contact the server of a URL."""
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "letter.txt").write_text("Dear reader,")
    before = snapshot(documents)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a server was contacted"))
    path = {"directory": str(documents), "file": str(documents / "letter.txt"), "url": "http://localhost:9/evil.ckpt"}
    evil = tmp_path / "evil.ckpt"
    evil.write_bytes(saved(hostile(loaded(content), path[named])))

    resumed = train(
        load_checkpoint(evil),
        XORDataModule(2),
        max_epochs=250,
        device="cpu",
        checkpoint_dir=tmp_path / "mine",
        resume=evil,
    )

    assert resumed.solved
    assert snapshot(documents) == before
    assert evil.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"documents", "evil.ckpt", "mine"}


class Malicious:
    """An object that runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", [(), ("state_dict",), ("callbacks",), ("hyper_parameters", "lr")], ids=str)
def test_code_in_a_checkpoint_is_not_run(content, tmp_path, file, where):
    trace = tmp_path / "trace"
    buffer = io.BytesIO()
    torch.save(with_entry(loaded(content), where, Malicious(trace)), buffer)
    file.write_bytes(buffer.getvalue())

    with pytest.raises(ValueError, match=r"file\.ckpt should be .* its data\.pkl names __builtin__\.getattr"):
        load_checkpoint(file)

    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists(), "the file is harmless, so the test proves nothing"


def with_pickle(content, pickled):
    return repacked(content, lambda name, old: [(name, pickled if name.endswith("data.pkl") else old)])


def with_nested_key(depth):
    """Return the pickle of a checkpoint's arguments with a key of nested tuples."""
    pickled = pickle.dumps({"hyper_parameters": ARGUMENTS | {"key": None}}, 2)
    return pickled.replace(b"X\x03\x00\x00\x00key", b")" + b"\x85" * depth)


def doubled(depth):
    """Return a list that contains another list twice, and so on: small in a file, but exponentially large."""
    value = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


BOMBS = {
    "a memo index that allocates all smaller ones": lambda c: with_pickle(c, b"\x80\x02}r\xff\xff\xff\x7f."),
    "a byte array of a declared size": lambda c: with_pickle(c, b"\x80\x05\x96" + b"\xff" * 7 + b"\x00."),
    "a long string": lambda c: with_pickle(c, pickle.dumps("a" * 2**17, 2)),
    "a tensor of stride 0": lambda c: saved(
        with_entry(loaded(c), ("state_dict", "output_layer.bias"), torch.zeros(1).expand(2**40)), sealed=False
    ),
    "references that multiply": lambda c: saved({**loaded(c), "lr_schedulers": doubled(200)}, sealed=False),
    "deep nesting": lambda c: with_pickle(c, b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b"."),
    "a deeply nested key": lambda c: with_pickle(c, with_nested_key(5000)),
    "compressed zeros": lambda c: repacked(
        c, lambda name, old: [(name, bytes(2**26) if name.endswith("data/0") else old)], zipfile.ZIP_DEFLATED
    ),
    "many members": lambda c: repacked(c, lambda name, old: [(name, old), *((f"{name} {i}", b"") for i in range(100))]),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_cannot_take_much_memory_or_time(content, file, bomb):
    file.write_bytes(BOMBS[bomb](content))
    assert file.stat().st_size < 2**19

    tracemalloc.start()
    start = time.thread_time()  # not wall time, which depends on other processes
    try:
        with pytest.raises(ValueError, match=r"file\.ckpt should be a checkpoint"):
            read_checkpoint(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2**24
    assert time.thread_time() - start < 5


def test_a_file_of_the_largest_size_is_read(content, file, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", len(content))
    file.write_bytes(content)

    assert read_checkpoint(file).hidden == 4


def test_a_file_that_is_too_large_is_refused_before_it_is_read(file, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", 1000)
    file.write_bytes(bytes(1001))

    with pytest.raises(ValueError, match=r"file\.ckpt has 1,001 bytes, but should have at most 1,000"):
        read_checkpoint(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_a_path_that_is_not_a_regular_file_is_refused_at_once(tmp_path):
    """A read from a named pipe would block."""
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "directory.ckpt").mkdir()

    for name in ("pipe.ckpt", "directory.ckpt"):
        with pytest.raises(ValueError, match=f"{name} should be a regular file"):
            load_checkpoint(tmp_path / name)


# Damage.


def outcome(file, content):
    """Return everything that is read from a file with this content, or ``"refused"``."""
    file.write_bytes(content)
    try:
        return taken(file)
    except ValueError as error:
        refusal = str(error)
    assert refusal.startswith(f"{file} should be a checkpoint of a SimpleNet, but "), refusal
    return "refused"


@given(seed=st.integers(0, 2**64 - 1))
def test_a_damaged_checkpoint_is_refused_or_gives_the_same_bits(content, tmp_path_factory, seed):
    """In everything that is read; 30 damaged files an example."""
    generator = random.Random(seed)
    file = tmp_path_factory.getbasetemp() / "damaged.ckpt"
    whole = outcome(file, content)

    for _ in range(30):
        assert outcome(file, damaged(content, generator)) in ("refused", whole)


def members_with_numbers(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {info.filename: info for info in file.infolist() if "/data/" in info.filename}


def test_every_flipped_bit_of_a_weight_or_moment_is_refused(content, file):
    for info in members_with_numbers(content).values():
        start = info.header_offset + 30
        start += sum(int.from_bytes(content[info.header_offset + i :][:2], "little") for i in (26, 28))
        for bit in range(start * 8, (start + info.file_size) * 8, 7):  # a step of 7 reaches every bit of a byte in turn
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            assert outcome(file, bytes(flipped)) == "refused", f"bit {bit} of {info.filename}"


@pytest.mark.soak
def test_every_flipped_bit_of_the_file_is_refused_or_gives_the_same_bits(content, file):
    whole = outcome(file, content)
    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        assert outcome(file, bytes(flipped)) in ("refused", whole), f"bit {bit}"


@pytest.mark.soak
def test_three_thousand_damaged_files_are_refused_or_give_the_same_bits(content, file):
    generator = random.Random(1996)
    whole = outcome(file, content)
    refused = 0
    for _ in range(3000):
        result = outcome(file, damaged(content, generator))
        assert result in ("refused", whole)
        refused += result == "refused"
    assert refused > 2000


def test_swapped_or_duplicate_members_are_refused(content, file):
    """Although their CRCs are right."""
    names = list(members_with_numbers(content))
    contents = loaded_members(content)
    for one in names:
        for other in names:
            if contents[one] != contents[other] and len(contents[one]) == len(contents[other]):
                swap = {one: other, other: one}
                swapped = repacked(content, lambda name, old, swap=swap: [(swap.get(name, name), old)])
                assert outcome(file, swapped) == "refused"
        with pytest.warns(UserWarning, match="Duplicate name"):
            doubled = repacked(content, lambda name, old, one=one: [(name, old)] * (1 + (name == one)))
        assert outcome(file, doubled) == "refused"


def loaded_members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_another_byte_order_is_refused(content, file):
    """Torch before 2.1 does not store the byte order."""

    def big_endian(name, old):
        if name.endswith("/byteorder"):
            return []
        order = [(name.removesuffix("data.pkl") + "byteorder", b"big")]
        return [(name, old), *(order if name.endswith("/data.pkl") else [])]

    other = repacked(content, big_endian)

    assert outcome(file, other) == "refused"


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"PK\x03\x04 truncated", {"a": torch.ones(1)}, [1], "text", 7],
    ids=["empty", "text", "truncated", "other weights", "list", "string", "number"],
)
def test_a_file_that_is_not_a_checkpoint_is_refused_by_name(file, content):
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)

    with pytest.raises(ValueError, match=r"file\.ckpt should be a checkpoint of a SimpleNet"):
        load_checkpoint(file)


def test_a_file_of_torchs_old_format_is_refused(content, file):
    torch.save(loaded(content), file, _use_new_zipfile_serialization=False)

    with pytest.raises(ValueError, match=r"file\.ckpt should be a checkpoint of a SimpleNet"):
        load_checkpoint(file)


def test_a_missing_checkpoint_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.ckpt")


# Edits: without the right digest, and with it.


def test_an_edited_entry_without_its_digest_is_refused(content, file):
    """Every entry that is read, set to another value of its type."""
    whole = loaded(content)
    edited = 0
    for path in paths(whole):
        value = entry(whole, path)
        other = value + 1 if isinstance(value, torch.Tensor | int | float) and not isinstance(value, bool) else None
        if isinstance(value, str):
            other = value + "x"
        if other is not None and is_taken(path):
            assert outcome(file, saved(with_entry(whole, path, other), sealed=False)) == "refused", path
            edited += 1
    assert edited > 30


def tampered(whole):
    """Yield each entry that is read with a change: removed, or set to a wrong value."""
    for path in paths(whole):
        if is_taken(path):
            if isinstance(entry(whole, path[:-1]), dict):
                yield path, "left out", without_entry(whole, path)
            for value in wrong_values(entry(whole, path)):
                yield path, value, with_entry(whole, path, value)


def assert_refused_or_the_same(file, expected, path, value, changed):
    """The same, if a removed option of a group takes its default, or 6 becomes 6.0."""
    result = outcome(file, saved(changed))
    assert result in ("refused", expected), f"{path} set to {value!r} is accepted"


@given(data=st.data())
def test_a_tampered_entry_with_its_digest_is_refused(content, tmp_path_factory, data):
    """With a message of one line; 30 cases an example."""
    whole = loaded(content)
    cases = list(tampered(whole))
    file = tmp_path_factory.getbasetemp() / "tampered.ckpt"
    expected = outcome(file, content)
    for path, value, changed in random.Random(data.draw(st.integers(0, 2**32), label="seed")).sample(cases, 30):
        assert_refused_or_the_same(file, expected, path, value, changed)


@pytest.mark.soak
def test_every_tampered_entry_with_its_digest_is_refused(content, file):
    whole = loaded(content)
    cases = list(tampered(whole))
    assert len(cases) > 1000
    expected = outcome(file, content)
    for path, value, changed in cases:
        assert_refused_or_the_same(file, expected, path, value, changed)


WEIGHTS = "input_layer.weight, input_layer.bias, output_layer.weight, output_layer.bias"
BIAS = ("state_dict", "output_layer.bias")
GROUPS = ("optimizer_states", 0, "param_groups")
STATE = ("optimizer_states", 0, "state")


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        (("hyper_parameters",), 7, "a dict or a list"),
        (("hyper_parameters",), ARGUMENTS | {"more": 1}, "architecture, hidden and lr"),
        (("hyper_parameters", "architecture"), "\x1b[2J", "one of overview, derivation, listing"),
        (("hyper_parameters", "hidden"), 0, "from 1 to 1048576"),
        (("hyper_parameters", "lr"), -1.0, "from 0 to 1e+37"),
        (("state_dict",), [], f"weights by the names {WEIGHTS}"),
        (("state_dict",), {}, f"weights by the names {WEIGHTS}"),
        (("state_dict", "input_layer.weight"), torch.zeros(4, 2).long(), "floating-point of shape (4, 2)"),
        (BIAS, "text", "torch.float32 of shape (1,)"),
        (BIAS, torch.zeros(2), "torch.float32 of shape (1,)"),
        (BIAS, torch.zeros(1).double(), "torch.float32 of shape (1,)"),
        (BIAS, torch.full((1,), torch.nan), "finite in each entry"),
        (("datamodule_hyper_parameters", "batch_size"), 0, "from 1 to 1048576"),
        (("global_step",), 0, "from 1 to 1000000000"),
        (("global_step",), 10**9 + 2, "from 1 to 1000000000"),
        (("global_step",), 7, "a multiple of 2, at the end of an epoch"),
        (("epoch",), -1, "from 0 to 1000000000"),
        (("epoch",), 10**9 + 1, "from 0 to 1000000000"),
        (("epoch",), 1, "2 or 3"),
        (("epoch",), 4, "2 or 3"),
        (("lr_schedulers",), [{}], "empty"),
        (("optimizer_states",), [], "a list of one optimizer's state"),
        (("optimizer_states",), [1, 2], "a list of one optimizer's state"),
        (("optimizer_states",), {0: 1}, "a list of one optimizer's state"),
        (GROUPS, [], "a list of one group"),
        (GROUPS, {0: 1}, "a list of one group"),
        ((*GROUPS, 0, "params"), [0, 1, 2], "[0, 1, 2, 3]"),
        ((*GROUPS, 0, "params"), [torch.zeros(2), 1, 2, 3], "[0, 1, 2, 3]"),
        ((*GROUPS, 0, "eps"), 1e-3, "1e-08"),
        ((*GROUPS, 0, "eps"), torch.zeros(2), "1e-08"),
        ((*GROUPS, 0, "lr"), 0.5, "0.01"),
        (STATE, [], "the state of each parameter"),
        (STATE, {}, "the state of each parameter"),
        ((*STATE, 2), [], "step, exp_avg and exp_avg_sq"),
        ((*STATE, 2), {}, "step, exp_avg and exp_avg_sq"),
        ((*STATE, 2, "step"), torch.tensor(5.0), "6"),
        ((*STATE, 3, "exp_avg"), torch.zeros(2), "torch.float32 of shape (1,)"),
        ((*STATE, 3, "exp_avg_sq"), torch.zeros(1).double(), "torch.float32 of shape (1,)"),
        ((*STATE, 3, "exp_avg_sq"), torch.full((1,), -1.0), "at least 0 in each entry"),
    ],
    ids=lambda part: text if (text := str(part)).isprintable() else "",
)
def test_an_error_names_the_entry_its_value_and_what_it_should_be(content, file, path, value, wanted):
    file.write_bytes(saved(with_entry(loaded(content), path, value)))

    with pytest.raises(ValueError, match=r"^.*$") as raised:
        read_checkpoint(file, training=True)

    name = path[0] + "".join(f"[{key!r}]" for key in path[1:])
    found = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
    message = f"its {name} is {found}, but should be {wanted}"
    assert str(raised.value) == f"{file} should be a checkpoint of a SimpleNet, but {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 4.0}, "its hyper_parameters['hidden'] is 4.0 of type float, but should be an int"),
        ({"lr": "1"}, "its hyper_parameters['lr'] is '1' of type str, but should be a float"),
        ({}, "its hyper_parameters['architecture'] is missing"),
    ],
    ids=str,
)
def test_an_error_names_a_type_and_what_is_missing(content, file, arguments, message):
    file.write_bytes(saved(loaded(content) | {"hyper_parameters": arguments and ARGUMENTS | arguments}))

    with pytest.raises(ValueError, match=r"^.*$") as raised:
        read_checkpoint(file)

    assert str(raised.value) == f"{file} should be a checkpoint of a SimpleNet, but {message}"


def test_the_state_of_a_long_run_and_second_moments_of_zero_are_accepted(content, file):
    """Adam counts its steps in float32, up to 2^24; weights without a gradient have moments of 0."""
    whole = loaded(content) | {"global_step": 2**25, "epoch": 2**24}
    for state in whole["optimizer_states"][0]["state"].values():
        state |= {"step": torch.tensor(2.0**24), "exp_avg_sq": torch.zeros_like(state["exp_avg_sq"])}
    file.write_bytes(saved(whole))

    training = read_checkpoint(file, training=True).training

    assert training.steps == 2**25
    assert not any(second.any() for _, second in training.moments)


def test_an_error_names_the_digest_and_what_it_should_be(content, file):
    whole = loaded(content)
    file.write_bytes(saved(whole | {"digest": "0"}, sealed=False))

    with pytest.raises(ValueError, match=r"^.*$") as raised:
        read_checkpoint(file)

    expected = f"its digest is '0', but should be {whole['digest']}: an entry was damaged or edited"
    assert str(raised.value) == f"{file} should be a checkpoint of a SimpleNet, but {expected}"


def test_a_checkpoint_of_another_optimizer_does_not_resume(content, file):
    """SGD's state has no moments; the weights can still be loaded."""
    whole = loaded(content)
    whole["optimizer_states"] = [torch.optim.SGD(SimpleNet().parameters(), lr=0.01).state_dict()]
    file.write_bytes(saved(whole))

    assert load_checkpoint(file)
    with pytest.raises(ValueError, match="its optimizer_states"):
        read_checkpoint(file, training=True)


def test_the_digest_is_the_same_in_every_version():
    """As recorded, with a value of each kind; otherwise saved checkpoints would be refused."""
    whole = {
        "hyper_parameters": {"architecture": "overview", "hidden": 4, "lr": 0.01},
        "state_dict": {"output_layer.bias": torch.tensor([1.5, -2.0])},
        "epoch": None,
        "optimizer_states": [(1, True), {2: torch.zeros((), dtype=torch.int64)}, object()],
        "other": 7,
    }

    assert digest(whole) == "592066651415716ae2c66733c7e85e170ce0e12184a03541e6a679921479e4b2"
    assert digest(whole | {"other": 8}) == digest(whole)
    assert digest(whole | {"global_step": 8}) != digest(whole)


@pytest.mark.parametrize("i", [0, 2**16, -1])
def test_the_digest_covers_every_number_of_a_large_tensor(i):
    values = torch.zeros(2**17 + 3)
    before = digest({"state_dict": {"weight": values}})

    values[i] = 2.0**-149

    assert digest({"state_dict": {"weight": values}}) != before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_digest_does_not_depend_on_the_memory_layout(layout):
    values = torch.arange(12.0).reshape(3, 4)

    assert digest({"state_dict": {"weight": place(values, layout).tensor}}) == digest(
        {"state_dict": {"weight": values}}
    )


@given(data=st.data())
@example(data=None)
def test_the_digest_of_a_file_is_that_of_what_was_saved(content, data):
    """And differs for any other value."""
    whole = loaded(content)
    assert digest(whole) == whole["digest"]
    if data is not None:
        path = data.draw(st.sampled_from([path for path in paths(whole) if path[0] in checkpoint.ENTRIES]))
        value = data.draw(st.sampled_from(wrong_values(entry(whole, path))), label="value")
        if type(value) is not type(entry(whole, path)):
            assert digest(with_entry(whole, path, value)) != whole["digest"]


def test_a_float64_network_keeps_all_digits_whatever_the_default_dtype(tmp_path):
    with default_dtype(torch.float64):
        run = train(SimpleNet(), XORDataModule(4), max_epochs=3, device="cpu", checkpoint_dir=tmp_path)

    net = load_checkpoint(run.checkpoint)

    for name, values in net.state_dict().items():
        assert_identical(values, run.net.state_dict()[name], claim=name)
        assert (values != values.float()).all()


def test_networks_made_from_one_checkpoint_share_no_memory(content, file):
    file.write_bytes(content)
    read = read_checkpoint(file)
    first, second = (from_checkpoint(read) for _ in range(2))

    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(torch.nan)

    for name, values in second.state_dict().items():
        assert_identical(values, read.weights[name], claim=name)
        assert values.isfinite().all()


# The newest checkpoint of a directory.


def test_the_newest_intact_checkpoint_of_a_directory_is_taken(content, tmp_path):
    for i, (name, data) in enumerate(
        {"old.ckpt": content, "good.ckpt": content, "cut.ckpt": content[:-9], "text.ckpt": b"text"}.items()
    ):
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, ns=(1000 * i, 1000 * i))  # all within a second

    read, refused = newest_checkpoint(tmp_path)

    assert read.path == tmp_path / "good.ckpt"
    assert [reason.split(" should be ")[0] for reason in refused] == [
        str(tmp_path / name) for name in ("text.ckpt", "cut.ckpt")
    ]


def test_a_checkpoint_that_is_removed_meanwhile_does_not_prevent_a_resume(content, tmp_path):
    """As by another run in the same directory; here a link to nothing."""
    (tmp_path / "good.ckpt").write_bytes(content)
    (tmp_path / "removed.ckpt").symlink_to(tmp_path / "none")

    assert newest_checkpoint(tmp_path)[0].path == tmp_path / "good.ckpt"


def test_of_checkpoints_of_the_same_age_the_last_by_name_is_taken(content, tmp_path):
    for name in ("b.ckpt", "c.ckpt", "a.ckpt"):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (0, 0))

    assert newest_checkpoint(tmp_path)[0].path == tmp_path / "c.ckpt"


def test_a_directory_that_cannot_be_read_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")

    for name, error in (("none", FileNotFoundError), ("file", NotADirectoryError)):
        with pytest.raises(error):
            newest_checkpoint(tmp_path / name)


def test_a_directory_without_an_intact_checkpoint_is_refused_with_the_reasons(content, tmp_path):
    wanted = f"{tmp_path} should hold a checkpoint (*.ckpt) of a training run, but holds none"
    reasons = []
    for name in ("", "a.ckpt", "b.ckpt"):
        if name:
            (tmp_path / name).write_bytes(content[:-9])
            os.utime(tmp_path / name, (0, 0))
            with pytest.raises(ValueError, match="should be a checkpoint of a SimpleNet") as refused:
                read_checkpoint(tmp_path / name)
            reasons.insert(0, f"\n  {refused.value}")
        with pytest.raises(ValueError, match="holds none") as refused:
            newest_checkpoint(tmp_path)
        assert str(refused.value) == wanted + "".join(reasons)


def test_every_opcode_and_class_that_torch_writes_is_known(content):
    """So that this test fails if a release of torch writes others."""
    assert archive.read_archive(content, ["callbacks", "loops", *loaded(content)]).keys() == loaded(content).keys()
    copy.deepcopy(archive.read_archive(content, ["state_dict"]))
