"""Bad input: each argument of the public interface is checked before any work, and refused by its name.

Each argument has a domain here. Every value outside of it must be refused at once, by a ``ValueError`` or
a ``TypeError`` whose message starts with the argument. The functions and their arguments are read from the
package: an argument without a domain fails.
"""

import enum
import gc
import inspect
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lightning.fabric import Fabric
from torch import Tensor

import simplenet
from simplenet import Certificate, SimpleNet, TrainingRun, formulas, plot, train_ensemble, xor
from simplenet.ensemble import initial_weights, schedule
from simplenet.environment import describe, processor, resolve_device
from simplenet.seeding import check_seeds
from simplenet.validation import check_choice, check_float, check_int, check_type, shown

# Seconds of all threads allowed for a refused call, a hundred times what it takes.
AT_ONCE = 0.1

# Seconds after which a call is stopped that is not refused, and may run forever.
GIVEN_UP = 10


# --- domains of arguments ---


class Domain(NamedTuple):
    """The values that an argument may have.

    Attributes:
        of_type: Whether the type of a value is right; otherwise, a ``TypeError`` is expected.
        within: Whether a value of the right type is in range; otherwise, a ``ValueError`` is expected.
        corners: Values just outside, which are always tried.
        holds: Whether a value contains others, whose types may be wrong too.
    """

    of_type: Callable[[Any], bool]
    within: Callable[[Any], bool]
    corners: Sequence[Any] = ()
    holds: bool = False

    def accepts(self, value):
        return self.of_type(value) and self.within(value)

    def errors(self, value):
        """Return the exceptions that may refuse a value."""
        if not self.of_type(value):
            return {TypeError}
        return {TypeError, ValueError} if self.holds else {ValueError}


def of(*kinds):
    """Return a check of a value's type, in which ``bool`` is not a number."""
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def integer(low, high):
    huge = [value for value in (2**31, 10**12, 10**400, 10**5000) if value > high]
    corners = [low - 1, high + 1, *huge, True, float(low), str(low), np.int64(low), None]
    return Domain(of(int), lambda value: low <= value <= high, corners)


def real(low, high, *, ends=True):
    def within(value):
        return low <= value <= high if ends else low < value < high

    near = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)] if ends else [low, high]
    corners = [*near, math.nan, math.inf, -math.inf, 10**400, True, str(high), np.float32(0.5), np.float64("nan"), None]
    return Domain(of(float, int), within, corners)


def boolean():
    return Domain(of(bool), lambda _: True, [0, 1, None, "False", np.True_])


def choice(*choices):
    first = choices[0]
    corners = ["", first.upper(), f"{first} ", first.encode(), [first], 10**6 * "x", None]
    return Domain(of(str), choices.__contains__, corners)


def instance(kind, *corners):
    return Domain(of(kind), lambda _: True, [None, kind, *corners])


class Vast(Sequence):
    """A sequence too long to read, which must be refused by its length."""

    def __len__(self):
        return 10**12

    def __getitem__(self, _i):
        pytest.fail("an entry was read before the length was checked")


def seeds(most):
    def of_type(value):
        return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)

    def within(value):
        if isinstance(value, range) and value.stop - value.start > most:  # len() fails above 2**63
            return False
        return 1 <= len(value) <= most and all(map(integer(0, 2**32 - 1).accepts, value))

    lengths = [[], range(0), Vast(), range(most + 1), range(10**12), range(10**30)]
    ranges = [range(-1, 2), range(1, -2, -1), range(2**32 - 1, 2**32 + 1), range(10**20, 10**20 + 2)]
    entries = [[0, -1], (2**32,), [1, True], [1.0], ["1"], [None], [np.int64(1)], [[1]]]
    types = ["123", b"123", 3, iter([1]), {1}, {1: 1}, np.arange(3), torch.arange(3), map(int, "12"), None]
    return Domain(of_type, within, [*lengths, *ranges, *entries, *types], holds=True)


def tensor(good, fits, *shapes):
    """Make the domain of float32 tensors on the CPU whose shape fits, such as ``good``."""

    def of_type(value):
        return isinstance(value, Tensor) and value.dtype == torch.float32

    types = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]
    others = [*map(good.to, types), good.to("meta"), good.tolist(), good.numpy(), 1.0, None]
    return Domain(of_type, lambda x: x.device.type == "cpu" and fits(x), [*others, *map(torch.ones, shapes)])


ARCHITECTURE = choice("overview", "derivation", "listing")
BATCH_SIZE, STEPS, LR = integer(1, 2**20), integer(1, 2**24), real(0.0, 1e37)
CONFIDENCE = real(0.0, 1.0, ends=False)
DEVICE = Domain(
    of(str),
    lambda name: re.fullmatch(r"auto|cpu|(cuda|mps)(:\d)?", name),
    ["", "abacus", "CPU", "cuda:99", "cpu:0", b"cpu", None, torch.device("cpu"), 0],
)
X, Y = xor()
ROWS = tensor(X, lambda x: x.ndim > 0 and x.shape[-1] == 2, (), (4, 1), (2, 3), (0,))
FOUR_ROWS = tensor(X, lambda x: x.shape == (4, 2), (), (4, 1), (3, 2), (0, 2), (1, 4, 2))
COLUMN = tensor(Y, lambda y: y.shape == (4, 1), (), (4,), (1, 4), (3, 1), (4, 2), (0, 1))
WEIGHTS = Domain(
    lambda w: isinstance(w, Tensor) and w.is_floating_point(),
    lambda w: w.ndim == 1 and len(w) % 4 == 1 and len(w) > 1,
    [*(torch.ones(shape) for shape in ((), (0,), (1,), (16,), (18,), (17, 1))), torch.ones(17).int(), [0.0] * 17],
)
BATCH = Domain(
    of(tuple, list),
    lambda batch: len(batch) == 2 and FOUR_ROWS.accepts(batch[0]) and COLUMN.accepts(batch[1]),
    [(), (X,), (X, Y, None), X, [None, Y], (X, "1"), (X, Y[:3]), (X[:0], Y[:0]), {"x": X, "y": Y}, (X.double(), Y)],
    holds=True,
)
CERTIFICATES = Domain(of(Sequence), lambda _: False, [[], (), [None], "", {}, None], holds=True)
PATH = instance(Path, "picture.png", b"picture.png")


# --- the interface ---


@cache
def net():
    return SimpleNet()


@cache
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@cache
def certificate():
    return Certificate("overview", 4, 1, 0.9, train_ensemble([1], steps=1, compiled=False))


def run():
    return TrainingRun(net(), Y, [1.0], 1, 1.0, Path("checkpoint"), "budget", None)


@dataclass(frozen=True)
class Call:
    """A function of the package, valid arguments, and the domains of its arguments.

    Attributes:
        function: The function, or a method, which takes ``self``.
        domains: The domain of each argument.
        good: Returns valid arguments.
        names: For an argument, a pattern of other names that a message may start with, if either of two may be wrong.
    """

    function: Callable[..., Any]
    domains: dict[str, Domain]
    good: Callable[[], dict[str, Any]] = dict
    names: dict[str, str] | None = None


CALLS = {
    "SimpleNet": Call(SimpleNet, {"architecture": ARCHITECTURE, "hidden": integer(1, 2**20), "lr": LR}),
    "SimpleNet.forward": Call(SimpleNet.forward, {"x": ROWS}, lambda: {"self": net()}, {"x": "inputs"}),
    "SimpleNet.training_step": Call(
        SimpleNet.training_step,
        {
            "batch": BATCH,
            "_batch_idx": Domain(lambda _: True, lambda _: True),  # Lightning passes it, and nothing reads it
        },
        lambda: {"self": net(), "batch": (X, Y)},
        {"batch": "inputs|targets|predictions"},
    ),
    "XORDataModule": Call(simplenet.XORDataModule, {"batch_size": BATCH_SIZE}),
    "certify": Call(
        simplenet.certify,
        {
            "fabric": instance(Fabric),
            "architecture": ARCHITECTURE,
            "hidden": integer(1, 32767),
            "batch_size": BATCH_SIZE,
            "steps": STEPS,
            "seeds": integer(1, 15790320),
            "confidence": CONFIDENCE,
            "compiled": boolean(),
        },
        lambda: {
            "fabric": fabric(),
            "architecture": "overview",
            "batch_size": 1,
            "steps": 1,
            "seeds": 1,
            "confidence": 0.9,
        },
    ),
    "Certificate.steps_to_solve": Call(
        Certificate.steps_to_solve, {"quantile": real(0.0, 1.0)}, lambda: {"self": certificate()}
    ),
    "clopper_pearson": Call(
        simplenet.clopper_pearson,
        {"successes": integer(0, 9), "trials": integer(3, 2**53), "confidence": CONFIDENCE},
        lambda: {"successes": 3, "trials": 9, "confidence": 0.9},
        {"trials": "successes"},
    ),
    "mse_loss": Call(
        simplenet.mse_loss,
        {"predictions": COLUMN, "targets": COLUMN},
        lambda: {"predictions": Y, "targets": Y},
        {"predictions": "targets"},
    ),
    "set_seed": Call(simplenet.set_seed, {"seed": integer(0, 2**32 - 1)}),
    "train_ensemble": Call(
        train_ensemble,
        {
            "seeds": seeds(15790320),
            "architecture": ARCHITECTURE,
            "hidden": integer(1, 32767),
            "batch_size": BATCH_SIZE,
            "steps": STEPS,
            "lr": LR,
            "device": DEVICE,
            "compiled": boolean(),
            "progress": boolean(),
        },
        lambda: {"seeds": [1]},
    ),
    "xor_dataloader": Call(simplenet.xor_dataloader, {"batch_size": BATCH_SIZE}),
    "formulas.Formulas": Call(
        formulas.Formulas,
        {"architecture": ARCHITECTURE, "hidden": integer(1, 2**20)},
        lambda: {"architecture": "overview", "hidden": 4},
    ),
    "ensemble.initial_weights": Call(
        initial_weights,
        {"seeds": seeds(15790320), "architecture": ARCHITECTURE, "hidden": integer(1, 2**20)},
        lambda: {"seeds": [1]},
    ),
    "ensemble.schedule": Call(
        schedule,
        {"batch_size": BATCH_SIZE, "steps": STEPS, "lr": LR},
        lambda: {"batch_size": 4, "steps": 1, "lr": 0.01},
    ),
    "certificate.critical_point": Call(
        simplenet.certificate.critical_point,
        {"weights": WEIGHTS, "architecture": ARCHITECTURE},
        lambda: {"weights": torch.ones(17), "architecture": "overview"},
    ),
    "environment.resolve_device": Call(resolve_device, {"name": DEVICE}, names={"name": "device"}),
    "environment.describe": Call(describe, {"device": instance(torch.device, "cpu")}),
    "environment.processor": Call(processor, {"device": instance(torch.device, "cpu")}),
    "plot.check_picture": Call(plot.check_picture, {"path": PATH}, names={"path": "plot"}),
    "plot.plot_run": Call(
        plot.plot_run, {"run": instance(TrainingRun), "path": PATH}, lambda: {"run": run(), "path": Path("none/a.png")}
    ),
    "plot.plot_certificates": Call(
        plot.plot_certificates,
        {"certificates": CERTIFICATES, "path": PATH},
        lambda: {"certificates": [certificate()], "path": Path("none/a.png")},
    ),
}

# Callables without domains, each with the reason.  simplenet.reference is not included: it imports nothing of the
# package, so that it can disagree with it, and NumPy refuses wrong arguments.
WITHOUT = {
    "train": "checked in tests/test_training.py",
    "load_checkpoint": "checked in tests/test_checkpoint.py",
    **dict.fromkeys(("ResumableDataLoader", "ResumableDataLoader.load_state_dict"), "checked in tests/test_resume.py"),
    **dict.fromkeys(
        (
            "SimpleNet.on_save_checkpoint",
            *(
                f"ExactResume.{hook}"
                for hook in vars(simplenet.ExactResume)
                if hook == "setup" or hook.startswith("on_")
            ),
        ),
        "a hook, which Lightning's Trainer calls",
    ),
    **dict.fromkeys(("Certificate", "Ensemble", "TrainingRun"), "a result, which the package makes"),
    **dict.fromkeys(
        (
            "formulas.Formulas.forward",
            "formulas.Formulas.gradient",
            "formulas.Formulas.adam",
            "formulas.loop",
            "formulas.compile_whole",
            "formulas.corrections",
        ),
        "a part of a compiled step, or of the loop over thousands of steps",
    ),
}


def parameters(function):
    return set(inspect.signature(function).parameters) - {"self"}


def named(name, thing):
    """Yield the names of a function or a class, and of its public methods, that take arguments."""
    if not inspect.isfunction(thing) and not inspect.isclass(thing):
        return
    if parameters(thing):
        yield name
    for method in vars(thing):
        function = getattr(thing, method)
        public = method == "__call__" or not method.startswith("_")
        if public and inspect.isroutine(function) and parameters(function):
            yield f"{name}.{method}"


def interface():
    """Collect the public callables: those of the package and of ``simplenet.formulas``."""
    public = [(name, getattr(simplenet, name)) for name in simplenet.__all__]
    of_formulas = [
        (f"formulas.{name}", thing)
        for name, thing in vars(formulas).items()
        if getattr(thing, "__module__", None) == formulas.__name__ and not name.startswith("_")
    ]
    return {one for name, thing in (*public, *of_formulas) for one in named(name, thing)}


def test_every_public_callable_has_domains_or_a_reason():
    assert interface() - CALLS.keys() == WITHOUT.keys()


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_has_a_domain(name):
    assert parameters(CALLS[name].function) == CALLS[name].domains.keys()


# --- wrong values ---

small = st.integers(-3, 3)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, 10**12, 10**400, -(10**12)]),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.builds(Decimal, small),
    st.builds(Fraction, small),
    st.builds(np.int64, small),
    st.builds(np.uint8, st.integers(0, 9)),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.float64, st.floats()),
    st.builds(np.bool_, st.booleans()),
    st.builds(np.str_, st.text(max_size=3)),
    st.sampled_from([object(), int, len, ..., NotImplemented, math, range(0), slice(3)]),
)
shapes = st.lists(st.integers(0, 4), max_size=3)
arrays = st.one_of(
    st.builds(
        lambda shape, dtype, value: torch.full(shape, value).to(dtype),
        shapes,
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
        st.sampled_from([0.0, 1.0, math.nan]),
    ),
    st.builds(np.full, shapes, small | st.booleans() | st.floats()),
)
entries = st.lists(scalars | arrays, max_size=3)
containers = st.one_of(
    entries,
    st.builds(tuple, entries),
    st.builds(iter, entries),
    st.dictionaries(st.text(max_size=2) | small, scalars, max_size=2),
    st.frozensets(st.text(max_size=2) | small, max_size=2),
    st.builds(range, st.integers(), st.integers()),
    st.builds(bytearray, st.binary(max_size=3)),
)
anything = scalars | arrays | containers


@contextmanager
def given_up():
    """Fail if the block takes too long."""

    def stop(*_):
        pytest.fail(f"not refused within {GIVEN_UP} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(GIVEN_UP)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refuse(name, parameter, value):
    """Assert that a call is refused, in a message that starts with the argument, before it does anything."""
    __tracebackhide__ = True
    call = CALLS[name]
    arguments = {**call.good(), parameter: value}
    names = "|".join({parameter, (call.names or {}).get(parameter, parameter)})
    gc.disable()  # a collection may take as long
    began = time.process_time()
    try:
        call.function(**arguments)
    except (TypeError, ValueError) as error:
        seconds = time.process_time() - began
        refusal = error
    else:
        pytest.fail(f"{name} accepts {parameter} = {shown(value)}")
    finally:
        gc.enable()
    assert type(refusal) in call.domains[parameter].errors(value), repr(refusal)
    assert re.match(rf"({names})\b.*\bbut ", str(refusal), re.DOTALL), refusal
    assert seconds < AT_ONCE, f"{name} refuses {parameter} after {seconds} s, but should within {AT_ONCE} s"


def refuse_all(name, parameter, drawn):
    """Try the corners and drawn values; return the number of values."""
    domain = CALLS[name].domains[parameter]
    tried = 0
    for value in domain.corners:
        assert not domain.accepts(value), f"{shown(value)} is no corner"
        refuse(name, parameter, value)
        tried += 1

    @drawn
    @given(value=anything)
    def try_anything(value):
        nonlocal tried
        assume(not domain.accepts(value))
        refuse(name, parameter, value)
        tried += 1

    if domain.corners:  # otherwise it accepts everything
        try_anything()
    return tried


CASES = [(name, parameter) for name, call in CALLS.items() for parameter in call.domains]


@pytest.mark.parametrize(("name", "parameter"), CASES, ids=map("-".join, CASES))
def test_a_wrong_value_is_refused_by_name_at_once(name, parameter):
    with given_up():
        refuse_all(name, parameter, settings(max_examples=settings.default.max_examples // 3))


class Long:
    """An object with a repr of a given length."""

    def __init__(self, characters):
        self.characters = characters

    def __repr__(self):
        return self.characters * "x"


MOST_SHOWN = 80  # characters of a value


@pytest.mark.parametrize(
    "make",
    [lambda n: (n - 2) * "x", lambda n: (n - 3) * b"x", lambda n: 10 ** (n - 1), Long],
    ids=["str", "bytes", "int", "another"],
)
@pytest.mark.parametrize("over", [-1, 0, 1, 100])
def test_a_message_shows_a_value_in_full_up_to_a_length_and_then_its_ends(make, over):
    value = make(MOST_SHOWN + over)

    text = shown(value)

    assert len(repr(value)) == MOST_SHOWN + over
    if over <= 0:
        assert text == repr(value)
    else:
        first, last = text.split("...")
        assert len(text) == MOST_SHOWN
        assert repr(value).startswith(first)
        assert repr(value).endswith(last)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_too_long_to_print_is_shown_by_its_size(sign):
    assert shown(sign * 2**2047) == "an integer of 2048 bits"
    assert shown(sign * (2**2047 - 1)).startswith(str(sign * (2**2047 - 1))[:30])


MESSAGES = [
    (lambda: check_type("path", 1, Path), "path is 1 of type int, but should be a Path"),
    (lambda: check_int("n", value=True, low=0, high=9), "n is True of type bool, but should be an int"),
    (lambda: check_int("n", 10, 0, 9), "n is 10, but should be from 0 to 9"),
    (lambda: check_float("x", "1", 0.0, 1.0), "x is '1' of type str, but should be a float"),
    (lambda: check_float("x", 2, 0.0, 1.5), "x is 2, but should be from 0 to 1.5"),
    (lambda: check_float("x", 1.5, 0.0, 1.5, ends=False), "x is 1.5, but should be above 0 and below 1.5"),
    (lambda: check_choice("c", None, ["a", "b"]), "c is None of type NoneType, but should be a str"),
    (lambda: check_choice("c", "z", iter(["a", "b"])), "c is 'z', but should be one of a, b"),
    (
        lambda: check_seeds("12", 9),
        "seeds is '12' of type str, but should be a sequence of ints such as a list or a range",
    ),
    (lambda: check_seeds([], 9), "seeds has length 0, but should have a length from 1 to 9"),
    (lambda: check_seeds(range(2**70), 9), f"seeds has length {sys.maxsize}, but should have a length from 1 to 9"),
    (lambda: check_seeds([0, 1.0], 9), "seeds[1] is 1.0 of type float, but should be an int"),
    (lambda: check_seeds(range(-1, 1), 9), "seeds[0] is -1, but should be from 0 to 4294967295"),
    (lambda: check_seeds(range(1, -2, -1), 9), "seeds[-1] is -1, but should be from 0 to 4294967295"),
    (lambda: net()(X.int()), "inputs have dtype torch.int32, but should be floating-point"),
    (lambda: net()(None), "inputs is None of type NoneType, but should be a Tensor"),
    (
        lambda: net()(X.double()),
        "inputs have dtype torch.float64, but should have that of the parameters, torch.float32",
    ),
    (lambda: net()(X.to("meta")), "inputs are on meta, but should be on the device of the parameters, cpu"),
    (lambda: net()(Y), "inputs have shape (4, 1), but the last dimension should be 2"),
    (lambda: net()(X[0, 0]), "inputs have shape (), but the last dimension should be 2"),
    (lambda: net().training_step({}), "batch is {} of type dict, but should be a tuple or a list"),
    (lambda: net().training_step((X,)), "batch has length 1, but should have length 2: inputs and targets"),
    (
        lambda: net().training_step((X, Y.half())),
        "targets have dtype torch.float16, but should have that of the predictions, torch.float32",
    ),
    (
        lambda: net().training_step((X, Y.flatten())),
        "targets have shape (4,), but should have that of the predictions, (4, 1)",
    ),
    (lambda: simplenet.mse_loss(Y, Y.int()), "targets have dtype torch.int32, but should be floating-point"),
    (
        lambda: simplenet.mse_loss(Y, Y.double()),
        "targets have dtype torch.float64, but should have that of the predictions, torch.float32",
    ),
    (
        lambda: simplenet.mse_loss(Y, Y[:3]),
        "targets have shape (3, 1), but should have that of the predictions, (4, 1)",
    ),
    (lambda: simplenet.mse_loss(Y[:0], Y[:0]), "predictions have shape (0, 1), but should hold at least one element"),
    (
        lambda: simplenet.mse_loss(Y, Y.to("meta")),
        "targets are on meta, but should be on the device of the predictions, cpu",
    ),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=[message for _, message in MESSAGES])
def test_a_message_has_the_value_and_what_it_should_be(call, message):
    with pytest.raises((TypeError, ValueError)) as refused:
        call()

    assert str(refused.value) == message


ENDS = {
    "one hidden unit": lambda: SimpleNet("listing", 1, 0),
    "the widest layer": lambda: SimpleNet("overview", 2**20, 1e37),
    "the largest batch": lambda: list(simplenet.xor_dataloader(2**20)),
    "the largest rate": lambda: schedule(2**20, 1, 1e37),
    "the least trials": lambda: simplenet.clopper_pearson(0, 1, 5e-324),
    "the most trials": lambda: simplenet.clopper_pearson(2**53, 2**53, 1 - 2**-53),
    "the last seed": lambda: train_ensemble((2**32 - 1,), steps=1, compiled=False),
    "a range backwards": lambda: train_ensemble(range(3, -1, -1), steps=1, compiled=False),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_ends_of_a_range_are_accepted(end):
    ENDS[end]()


def test_adam_takes_the_longest_step_that_is_accepted():
    """The first step size is ten times the rate, and must be finite in float32."""
    network = SimpleNet(lr=1e37)
    simplenet.mse_loss(network(X), Y).backward()

    network.configure_optimizers().step()

    assert all(weights.isfinite().all() for weights in network.parameters())


def test_stored_arguments_have_pythons_own_types():
    """A checkpoint with NumPy's types does not load without running code; subclasses of Python's types are accepted."""

    class Width(enum.IntEnum):
        FOUR = 4

    network, data = SimpleNet(np.str_("listing"), Width.FOUR, np.float64(0.5)), simplenet.XORDataModule(Width.FOUR)

    kept = [*network.hparams.values(), *data.hparams.values()]
    assert [(type(value), value) for value in kept] == [(str, "listing"), (int, 4), (float, 0.5), (int, 4)]


@pytest.mark.soak
def test_thousands_of_wrong_values_are_refused_by_name_at_once():
    tried = 0
    for name, parameter in CASES:
        with given_up():
            tried += refuse_all(name, parameter, settings(max_examples=100, derandomize=False))

    assert tried >= 4000


def test_a_name_that_the_package_does_not_have_is_refused_by_name():
    with pytest.raises(AttributeError, match=r"^module 'simplenet' has no attribute 'SimplerNet'$"):
        simplenet.SimplerNet  # noqa: B018 - reading it is the test


def test_a_dependency_that_is_missing_is_an_import_error_and_no_missing_name(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named 'scipy', which {name} needs")

    monkeypatch.setattr(simplenet, "import_module", missing)

    with pytest.raises(ModuleNotFoundError, match="No module named 'scipy'"):
        simplenet.certify  # noqa: B018 - reading it is the test
