"""The ensemble: each of its networks equals the single network of the same seed."""

import importlib.util
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from importlib.metadata import version
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.steps import stepper
from simplenet import SimpleNet, ensemble, mse_loss, set_seed, train_ensemble, xor, xor_dataloader
from simplenet.ensemble import NEVER, State, Step, initial_weights, schedule
from simplenet.environment import TORCH
from simplenet.formulas import CORRECTED, compile_whole, corrections, loop
from simplenet.model import ARCHITECTURES
from simplenet.mt19937 import draw
from simplenet.testing.assertions import assert_identical, assert_within, refuted
from simplenet.testing.balls import Balls, TritonBalls
from simplenet.testing.bounds import EXP_ROUNDINGS, TRITON_EXP_ROUNDINGS, TRITON_ROUNDINGS, gamma
from simplenet.testing.one_step import TrainingState, assert_training_step, training_step
from simplenet.testing.settings import default_dtype, num_threads
from simplenet.testing.strategies import architectures, floats, seeds, tensors
from tests.children import triton_kernel
from tests.children.background import Background
from tests.children.forked import launch

CPU = torch.device("cpu")
dtypes = st.sampled_from([torch.float32, torch.float64])


# --- the beginning ---


def check_beginnings(drawn, architecture, hidden):
    __tracebackhide__ = True
    many = initial_weights(drawn, architecture, hidden)
    for seed, column in zip(drawn, many.T, strict=True):
        set_seed(seed)
        alone = parameters_to_vector(SimpleNet(architecture, hidden).parameters())
        assert_identical(column, alone.detach(), claim=f"initial weights of seed {seed}")


@pytest.fixture
def at_once(monkeypatch):
    """Fail if the seeds are not drawn together."""
    monkeypatch.setattr(ensemble, "_one_by_one", lambda *_: pytest.fail("the first seed's weights are not SimpleNet's"))


# The possible default dtypes.
all_dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.usefixtures("at_once")
@given(
    drawn=st.lists(seeds, min_size=1, max_size=3),
    architecture=architectures,
    hidden=st.integers(1, 40),
    dtype=st.sampled_from(all_dtypes),
)
def test_each_network_starts_from_the_bits_of_its_seed(drawn, architecture, hidden, dtype):
    with default_dtype(dtype):
        check_beginnings(drawn, architecture, hidden)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("dtype", all_dtypes, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("hidden", [57, 156, 1000])
def test_each_network_of_many_weights_starts_from_the_bits_of_its_seed(hidden, architecture, dtype):
    """With more weights than a state of the generator has words, for the smallest, middle and largest seeds."""
    with default_dtype(dtype):
        check_beginnings([0, 1, 2**31 - 1, 2**31, 2**32 - 1], architecture, hidden)


def test_each_network_starts_from_the_bits_of_its_seed_even_if_torch_draws_differently(monkeypatch):
    """Simulated by drawing the weights of another seed."""
    monkeypatch.setattr(ensemble, "draw", lambda seeds, *_: draw([seed ^ 1 for seed in seeds], *_))

    check_beginnings([2, 3, 5], "overview", 4)


@pytest.mark.usefixtures("at_once")
def test_networks_start_on_the_cpu_whatever_the_default_device():
    expected = initial_weights([1, 2])

    with torch.device("meta"):
        actual = initial_weights([1, 2])

    assert_identical(actual, expected, claim="initial weights")


def test_networks_that_have_taken_no_step_have_no_moments_and_are_not_solved():
    weights = torch.ones(17, 3)

    state = ensemble.fresh(weights)

    expected = State(weights, torch.zeros(17, 3), torch.zeros(17, 3), torch.full((3,), NEVER))
    for name, part in state._asdict().items():
        assert_identical(part, getattr(expected, name), claim=name)


def test_the_generator_is_restored():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    train_ensemble([1, 2], steps=1, compiled=False)

    assert_identical(torch.rand(3), expected, claim="draws after an ensemble")


@given(batch_size=st.integers(1, 9), steps=st.integers(1, 9))
def test_the_schedule_has_the_batches_of_the_loader(batch_size, steps):
    """A row has the factor 2/n of the loss's gradient if it is in the batch, else 0."""
    batches = [inputs.tolist() for inputs, _ in xor_dataloader(batch_size)]

    shares = schedule(batch_size, steps, lr=0.01)[:, 2:]

    for t, share in enumerate(shares.tolist()):
        batch = batches[t % len(batches)]
        expected = [2 / len(batch) if row in batch else 0 for row in xor()[0].tolist()]
        assert share == torch.tensor(expected).tolist()


@given(data=st.data(), dtype=dtypes, lr=st.sampled_from([0.0, 0.01, 1e37]))
def test_the_schedule_holds_the_corrections_of_each_step(data, dtype, lr):
    """Bit for bit, also beyond the step from which they are constant."""
    steps = data.draw(st.integers(1, 2 * CORRECTED), label="steps")
    t = data.draw(st.sampled_from(sorted({1, CORRECTED - 1, CORRECTED, CORRECTED + 1, steps})).filter(steps.__ge__))

    with default_dtype(dtype):
        row = schedule(3, steps, lr)[t - 1]
        expected = torch.tensor(corrections(t, lr))

    assert_identical(row[:2], expected, claim=f"corrections of step {t}")


# --- one step ---


def step_of_one(weights, m, v, *, t, architecture, batch_size, lr):
    """Take step ``t`` with a ``SimpleNet`` and torch's Adam, from any state."""
    net = SimpleNet(architecture, (len(weights) - 1) // 4, lr)
    take = stepper("eager", net, *batch_at(t, batch_size))
    take.write(TrainingState(weights, m, v, None, t - 1))
    take()
    return take.read()[:3]


def batch_at(t, batch_size):
    batches = list(xor_dataloader(batch_size))
    return batches[(t - 1) % len(batches)]


# Weights up to 16, so that the squares of gradients, which are up to 16^3, do not overflow float32.
numbers = {dtype: floats(dtype, min_exponent=-20, max_exponent=4) for dtype in (torch.float32, torch.float64)}


@st.composite
def steps_to_take(draw):
    """Draw any state of one network, and the settings of a step from it."""
    dtype = draw(dtypes)
    size = 4 * draw(st.integers(1, 4)) + 1
    weights, m, v = (draw(tensors((size,), dtype, numbers[dtype])) for _ in range(3))
    step = {
        "t": draw(st.integers(1, 3000)),
        "architecture": draw(architectures),
        "batch_size": draw(st.integers(1, 4)),
        "lr": draw(st.sampled_from([0.01, 0.5])),
    }
    return (weights, m, v.abs()), step


def step_of_many(state, *, t, architecture, batch_size, lr):
    """Take step ``t`` with an ensemble of three, of which the network is the second."""
    columns = [torch.stack([torch.zeros_like(part), part, -part.abs()], dim=1) for part in state[:2]]
    columns.append(torch.stack([torch.ones_like(state[2]), state[2], state[2]], dim=1))
    step = Step(architecture, (len(state[0]) - 1) // 4, CPU)
    rows = schedule(batch_size, t, lr)[(t - 1) // ensemble._BLOCK * ensemble._BLOCK :]  # noqa: SLF001
    _, after = step(torch.tensor(t - 1), State(*columns, torch.full((3,), NEVER)), rows)
    return [part[:, 1] for part in after[:3]]


def check_step(actual, state, *, t, architecture, batch_size, lr, kind=Balls):
    __tracebackhide__ = True
    net = SimpleNet(architecture, (len(state[0]) - 1) // 4, lr)
    vector_to_parameters(state[0].clone(), net.parameters())
    before = TrainingState(*state, None, t - 1)
    _, expected = training_step(net, before, *batch_at(t, batch_size), kind=kind)
    assert_training_step(actual, expected, claim=f"after step {t} of {architecture}, batch {batch_size}")


@given(drawn=steps_to_take())
def test_a_step_of_a_replica_is_exact_to_its_roundings(drawn):
    """From any state; the single network is in the same ball, so they differ at most by its width."""
    state, step = drawn
    with default_dtype(state[0].dtype):
        check_step(step_of_many(state, **step), state, **step)


@given(drawn=steps_to_take())
def test_a_step_of_the_single_network_is_exact_to_its_roundings(drawn):
    state, step = drawn
    with default_dtype(state[0].dtype):
        check_step(step_of_one(*state, **step), state, **step)


@refuted
@given(drawn=steps_to_take())
def test_a_step_of_a_replica_is_a_ten_thousandth_longer(drawn):
    state, step = drawn
    with default_dtype(state[0].dtype):
        check_step(step_of_many(state, **{**step, "lr": step["lr"] * 1.0001}), state, **step)


ACTIVATIONS = sys.modules[ensemble.Formulas.__module__]._ACTIVATIONS  # noqa: SLF001


@pytest.mark.parametrize("module", ACTIVATIONS)
def test_the_derivative_of_an_activation_is_that_of_autograd(module):
    """For every activation, including ReLU at 0."""
    value, slope = ACTIVATIONS[module]
    z = torch.linspace(-6, 6, 97, dtype=torch.float64, requires_grad=True)
    expected = module()(z)
    expected.sum().backward()

    a = value(z.detach())

    assert_identical(a, expected, claim="value")
    # At most three roundings of numbers up to 1: a product and a difference from 1.
    assert_within(slope(a), z.grad, atol=2 * gamma(3, torch.float64), claim="slope")


# --- the compiled function and its loop, in Python ---


def while_loop(ahead, advance, carried):
    while ahead(*carried):
        carried = advance(*carried)
    return carried


@pytest.mark.parametrize(("t", "end"), [(0, 0), (0, 3), (2, 3), (4, 9)])
def test_a_loop_takes_each_step_up_to_its_end(monkeypatch, t, end):
    """Each starts from the state after the step before; the other tensors are constant."""
    monkeypatch.setitem(sys.modules, "torch._higher_order_ops.while_loop", SimpleNamespace(while_loop=while_loop))
    run = loop(lambda t, state, *constants: (t + 1, tuple([*part, (t, *constants)] for part in state)))

    after = run(t, end, (["a"], ["b"]), "c", "d")

    taken = [(step, "c", "d") for step in range(t, end)]
    assert after == (["a", *taken], ["b", *taken])


def test_a_copy_of_a_function_is_compiled_whole_and_for_one_size(monkeypatch):
    """With its defaults and closure, and only with options that this torch has."""
    compiled = []
    monkeypatch.setattr(torch, "_inductor", SimpleNamespace(list_options=lambda: ["known", "other"]), raising=False)
    monkeypatch.setattr(torch, "compile", lambda function, **options: (compiled.append(options), function)[1])
    three = 3

    def function(one, two=2):
        return one, two, three

    copy = compile_whole(function, {"known": 4, "unknown": 5})

    assert copy.__code__ is not function.__code__
    assert copy.__name__ == function.__name__
    assert copy(1) == (1, 2, 3)
    assert compiled == [{"fullgraph": True, "dynamic": False, "options": {"known": 4}}]


# --- many steps ---


@given(right=st.lists(st.booleans(), min_size=1, max_size=12))
def test_solved_at_is_the_step_from_which_all_rows_stay_right_to_the_end(right):
    """The definition, for given histories: entry t says whether all rows are right after t steps."""
    step = Step("overview", 4, CPU)
    targets = xor()[1]

    since = torch.full((1,), NEVER)
    for t, all_right in enumerate(right):
        wrong = torch.zeros(4, 1)
        wrong[t % 4] = 0 if all_right else 0.5  # exactly 1/2 is on neither side
        since = step.solved_since(torch.tensor(t), since, (targets - wrong).abs())

    expected = [t for t in range(len(right)) if all(right[t:])]
    assert since.item() == (expected[0] if expected else NEVER)


SIGMOID_ROUNDINGS = EXP_ROUNDINGS + 2  # the sum and the quotient


def test_a_network_with_a_replicas_weights_has_its_loss_and_predictions():
    """After 300 steps, when some networks are solved and some are not."""
    many = train_ensemble(range(40), steps=300, compiled=False)

    assert 0 < many.solved.sum() < 40
    for weights, solved, loss in zip(many.weights, many.solved, many.loss, strict=True):
        net = SimpleNet()
        vector_to_parameters(weights.clone(), net.parameters())
        with torch.no_grad():
            predictions = net(xor()[0])
        errors = (predictions - xor()[1]).abs()
        # A prediction has two sums of 3 and 5 terms, their products and a sigmoid, in each of two evaluations.
        magnitude = weights[3 * 4 :].abs().sum().item() * (1 + weights[: 3 * 4].abs().max().item())
        slack = 2 * gamma(3 + 1 + SIGMOID_ROUNDINGS + 5, torch.float32) * magnitude
        if (errors - 1 / 2).abs().min() > slack:
            assert solved == bool((errors < 1 / 2).all())
        # The loss changes by at most 2 |error| times a prediction's change; its evaluation has 1 + 1 + 4 roundings.
        atol = 2 * errors.max().item() * slack + slack**2
        expected = mse_loss(predictions, xor()[1]).item()
        assert_within(loss, expected, atol=atol, rtol=2 * gamma(6, torch.float32), claim="MSE of a replica")


def test_a_repeated_seed_is_trained_twice():
    result = train_ensemble((7, 3, 7), steps=20, compiled=False)

    assert result.seeds.tolist() == [7, 3, 7]
    assert_identical(result.weights[0], result.weights[2], claim="weights of seed 7")


def tensors_of(result):
    return {"solved_at": result.solved_at, "loss": result.loss, "weights": result.weights}


def assert_same_seeds_same_bits(actual, expected):
    for name, part in tensors_of(actual).items():
        assert_identical(part, tensors_of(expected)[name], claim=f"{name} with other seeds")


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_the_bits_of_a_seed_do_not_depend_on_the_other_seeds(batch_size):
    """Nor on the chunk that it is in."""
    options = {"steps": 30, "batch_size": batch_size, "compiled": False}

    many = train_ensemble(range(2100), **options)
    few = train_ensemble([2050, 3], **options)

    for i, seed in enumerate([2050, 3]):
        assert_identical(few.weights[i], many.weights[seed], claim=f"weights of seed {seed}")
        assert_identical(few.loss[i], many.loss[seed], claim=f"loss of seed {seed}")


@given(block=st.integers(1, 7), steps=st.integers(1, 20), seeds=st.lists(seeds, min_size=1, max_size=3))
def test_the_length_of_a_block_changes_no_bit(block, steps, seeds):
    options = {"batch_size": 3, "steps": steps, "compiled": False}
    expected = train_ensemble(seeds, **options)

    with patch.object(ensemble, "_BLOCK", block):
        actual = train_ensemble(seeds, **options)

    assert_same_seeds_same_bits(actual, expected)


@pytest.fixture
def blocks(monkeypatch):
    """Make a block two steps long, and record the arguments and the number of threads of each."""
    recorded = []

    def run(t, end, state, rows):
        recorded.append((int(t), int(end), tuple(state.weights.shape), len(rows), torch.get_num_threads()))
        return state

    monkeypatch.setattr(ensemble, "_BLOCK", 2)
    monkeypatch.setattr(ensemble, "_compiled", lambda *_: run)
    return recorded


@pytest.mark.parametrize("threads", [1, 3])
def test_every_chunk_is_full_and_runs_all_its_blocks_in_one_thread(blocks, monkeypatch, threads):
    """With as many workers as torch has threads; a step is taken first, to compile it. The setting is restored."""
    workers = []
    executor = ensemble.ThreadPoolExecutor
    monkeypatch.setattr(ensemble, "ThreadPoolExecutor", lambda count: (workers.append(count), executor(1))[1])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        train_ensemble(range(1025), steps=5)
        train_ensemble(range(3), steps=1, compiled=False)
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)

    chunk = [(t, min(t + 2, 5), (17, 1024), 2, 1) for t in (0, 2, 4)]
    assert blocks == [(0, 1, (17, 1024), 2, 1), *chunk, *chunk]
    assert workers == [threads, 1]
    assert after == threads


@pytest.mark.usefixtures("blocks")
def test_results_are_in_the_order_of_the_seeds_whichever_chunk_ends_first(monkeypatch):
    second = threading.Event()

    def delayed(train, columns, call=ensemble._Training.__call__):  # noqa: SLF001
        if torch.equal(columns, first):
            assert second.wait(60)
        result = call(train, columns)
        second.set()
        return result

    expected = train_ensemble(range(2048), steps=2).weights
    first = expected[:1024].T
    monkeypatch.setattr(ensemble._Training, "__call__", delayed)  # noqa: SLF001
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        actual = train_ensemble(range(2048), steps=2).weights
    finally:
        torch.set_num_threads(before)

    assert second.is_set()
    assert_identical(actual, expected, claim="weights")


def test_a_run_starts_no_block_after_a_request_to_stop(monkeypatch):
    monkeypatch.setattr(ensemble, "_BLOCK", 2)
    stop = threading.Event()
    begun = []

    def run(t, _end, state, _rows):
        begun.append(int(t))
        stop.set()
        return state

    train = ensemble._Training(run, 8, Step("overview", 4, CPU), schedule(4, 9, 0.01), CPU, stop)  # noqa: SLF001
    parts = train(initial_weights([1]))

    assert begun == [0]
    assert [part.shape for part in parts] == [(1,), (1,), (1, 17)]


def test_all_tensors_of_a_run_are_on_its_device(monkeypatch):
    """Not on the default device."""
    meta = torch.device("meta")
    step, rows = Step("overview", 4, meta), schedule(4, 9, 0.01).to(meta)
    seen = []

    def run(t, end, state, rows):
        seen.extend([t, end, *state, rows])
        return state

    monkeypatch.setattr(step, "solved_since", lambda t, since, y_hat: (seen.extend([t, since, y_hat]), since)[1])
    train = ensemble._Training(run, 8, step, rows, meta, threading.Event())  # noqa: SLF001
    train.warm(initial_weights([1]))
    with pytest.raises(NotImplementedError, match="no data"):  # a meta tensor has no data to copy to the CPU
        train(initial_weights([1]))

    assert len(seen) == 2 * 7 + 3
    assert {part.device for part in seen} == {meta}


@pytest.mark.parametrize("compiled", [True, False])
def test_a_run_on_another_device_uses_its_chunk_width_and_stays_on_it(monkeypatch, compiled):
    meta, asked, runs = torch.device("meta"), [], []
    monkeypatch.setattr(ensemble, "resolve_device", lambda _: meta)
    monkeypatch.setitem(ensemble._WIDTH, "meta", 64)  # noqa: SLF001
    monkeypatch.setattr(ensemble, "_compiled", lambda *given: (asked.append(given), lambda *_: None)[1])
    monkeypatch.setattr(
        ensemble, "_train_chunks", lambda train, _, workers, **__: (runs.append((train, workers)), [[]])[1]
    )

    with num_threads(3), default_dtype(torch.float64), suppress(ValueError):  # the stand-ins return no result
        train_ensemble([1], compiled=compiled)

    ((train, workers),) = runs
    assert (train.width, train.device, train.rows.device, train.step.y.device) == (64, meta, meta, meta)
    assert workers == 1
    assert asked == [("overview", 4, meta, torch.float64)] * compiled


@pytest.mark.parametrize(("options", "expected"), [({}, True), ({"progress": True}, None)])
def test_a_run_takes_2000_steps_and_shows_no_bar_by_default(blocks, monkeypatch, options, expected):
    disabled, tqdm = [], ensemble.tqdm
    monkeypatch.setattr(ensemble, "tqdm", lambda **options: (disabled.append(options["disable"]), tqdm(**options))[1])

    train_ensemble([1], **options)

    assert blocks[-1][:2] == (1998, 2000)
    assert disabled == [expected]


@pytest.mark.parametrize("width", [2048, 2**17, 2**28 // 9])
def test_a_chunk_of_the_widest_networks_fits_and_one_of_wider_ones_would_not(monkeypatch, width):
    monkeypatch.setitem(ensemble._WIDTH, "eager", width)  # noqa: SLF001

    with pytest.raises(ValueError, match="hidden is 0, but should be from 1 to") as refused:
        train_ensemble([1], hidden=0)

    widest = int(str(refused.value).split()[-1])
    assert (4 * widest + 1) * width <= ensemble.MAX_WEIGHTS < (4 * (widest + 1) + 1) * width


class Chunks:
    """A stand-in for training that fails in one chunk; the other chunks wait to be stopped."""

    width = 2

    def __init__(self, failing):
        self.stop, self.failing, self.begun = threading.Event(), failing, 0

    def __call__(self, columns):
        self.begun += 1
        if self.begun == self.failing:
            raise ValueError("that is enough")
        if self.failing:
            self.stop.wait(60)
            time.sleep(0.01)
        return [columns[0]]


def test_an_error_stops_all_chunks_and_starts_no_new_one():
    """Only chunks that start before the error is known are run."""
    chunks = Chunks(failing=1)

    with pytest.raises(ValueError, match="that is enough"):
        ensemble._train_chunks(chunks, torch.zeros(17, 400), 2, progress=False)  # noqa: SLF001

    assert chunks.stop.is_set()
    assert chunks.begun < 200


@pytest.mark.parametrize(("progress", "disabled"), [(True, None), (False, True)])
def test_a_progress_bar_counts_the_seeds_in_a_terminal(monkeypatch, progress, disabled):
    """Which tqdm does with ``disable=None``."""
    made, updates = [], []

    class Bar(nullcontext):
        update = updates.append

    monkeypatch.setattr(ensemble, "tqdm", lambda **options: (made.append(options), Bar(Bar))[1])
    weights = torch.arange(17 * 5.0).reshape(17, 5)

    results = ensemble._train_chunks(Chunks(failing=0), weights, 1, progress=progress)  # noqa: SLF001

    assert made == [{"total": 5, "unit": "seed", "disable": disabled}]
    assert updates == [2, 2, 1]
    assert torch.cat([result[0] for result in results]).tolist() == weights[0].tolist()


def test_python_exits_without_waiting_for_the_compiling_thread():
    """It is a daemon thread, so a signal ends the process while it works."""
    daemons = []

    ensemble._in_daemon_thread(lambda: daemons.append(threading.current_thread().daemon))  # noqa: SLF001

    assert daemons == [True]


def test_a_step_needs_a_device():
    with pytest.raises(TypeError, match=re.escape("device is 'cpu' of type str, but should be a device")):
        Step("overview", 4, "cpu")


def start_compiled(directory):
    """Compile in another process while other tests run, because it takes seconds; not with a torch that cannot."""
    if TORCH < (2, 5):
        return []
    return [launch("-m", "tests.children.compiled_ensemble", directory=directory)]


in_the_background = Background(start_compiled)


@pytest.mark.skipif(TORCH < (2, 5), reason="torch compiles a loop on the CPU from 2.5 on")
def test_a_compiled_step_stays_in_the_same_ball_and_its_loop_takes_the_requested_steps(finished):
    """From the states after 250 steps."""
    found = torch.load(finished(in_the_background) / "compiled.pt", weights_only=True)
    before, after = State(*found["before"]), State(*found["after"])

    for i in (0, 1, 511, 1022, 1023):
        state, actual = ([part[:, i] for part in whole[:3]] for whole in (before, after))
        check_step(actual, state, t=251, architecture="overview", batch_size=3, lr=0.01)
    for part, unchanged in zip(found["none"], before, strict=True):
        assert_identical(part, unchanged, claim="state after no step")
    for part, expected in zip(found["three"], found["single"], strict=True):
        assert_identical(part, expected, claim="state after three steps at once")
    assert found["fallback"] is None
    assert_identical(found["few"], found["many"], claim="compiled weights of seed 1028")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("hidden", [4, 9])
def test_a_compiled_step_on_a_gpu_stays_in_its_ball(device, hidden):
    """From the states after 250 eager steps; 9 units are too many for the Triton kernel."""
    if device.type != "cuda":
        pytest.skip(f"{device} is not a CUDA device")
    with patch.dict(os.environ):  # torch's compiler sets variables
        run = ensemble._compiled("overview", hidden, device, torch.float32)  # noqa: SLF001
        rows = torch.nn.functional.pad(schedule(3, 260, 0.01), (0, 0, 0, 740)).to(device)
        weights = initial_weights(range(1024), hidden=hidden).to(device)
        start, t, end = (torch.tensor(limit, device=device) for limit in (0, 250, 251))
        with torch.no_grad():
            begin = ensemble.fresh(weights)
            before = ensemble._loop(Step("overview", hidden, device))(start, t, begin, rows)  # noqa: SLF001
            after = run(t, end, before, rows)
        fallback = train_ensemble(range(3), hidden=hidden, steps=2, device=str(device)).fallback

    for i in (0, 1, 511, 1022, 1023):
        state, actual = ([part[:, i].cpu() for part in whole[:3]] for whole in (before, after))
        check_step(actual, state, t=251, architecture="overview", batch_size=3, lr=0.01, kind=TritonBalls)
    assert fallback is None


def start_interpreted(directory):
    """Interpret the kernel in another process while other tests run, if Triton is installed."""
    if importlib.util.find_spec("triton") is None or TORCH < (2, 4):
        return []
    command = [sys.executable, "-W", "ignore", "-m", "tests.children.triton_kernel", "interpreted.pt"]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": "1"}
    return [subprocess.Popen(command, cwd=directory, env=settings, stderr=subprocess.PIPE)]


interpreted = Background(start_interpreted)


@pytest.fixture
def kernel_states(case, device, finished):
    """Return the states that the kernel computes, on the CPU in Triton's interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed; it comes with torch's CUDA wheels")
    if TORCH < (2, 4):
        pytest.skip(f"the kernel needs the Triton of torch 2.4, and this is torch {torch.__version__}")
    if device.type == "cuda":
        return triton_kernel.states(*case, device)
    if Version(version("triton")) < Version("3.2") and Version(np.__version__) >= Version("2"):
        pytest.skip("the interpreter of Triton 3.0 and 3.1 stores nothing under NumPy 2")
    found = torch.load(finished(interpreted) / "interpreted.pt", weights_only=True)[triton_kernel.CASES.index(case)]
    return {name: State(*state) for name, state in found.items()}


@pytest.mark.parametrize("case", triton_kernel.CASES, ids=str)
def test_every_step_of_the_triton_kernel_is_exact_to_its_roundings(kernel_states, case):
    """From states of the kernel itself; zero steps change nothing, and three at once equal three single steps."""
    architecture, hidden = case
    before, after = kernel_states["before"], kernel_states["after"]

    for i in (0, 1, 31, 32, 33):
        state, actual = ([part[:, i] for part in whole[:3]] for whole in (before, after))
        step = {"t": triton_kernel.STEPS + 1, "batch_size": triton_kernel.BATCH_SIZE, "lr": triton_kernel.LR}
        check_step(actual, state, architecture=architecture, kind=TritonBalls, **step)
    for part, unchanged in zip(kernel_states["none"], before, strict=True):
        assert_identical(part, unchanged, claim="state after no step")
    for part, expected in zip(kernel_states["three"], kernel_states["singly"], strict=True):
        assert_identical(part, expected, claim="state after three steps at once")

    with default_dtype(torch.float64):
        y_hat = Step(architecture, hidden, CPU).forward(before.weights.double())[1]
    expected = Step(architecture, hidden, CPU).solved_since(torch.tensor(triton_kernel.STEPS), before.since, y_hat)
    # This bounds every sum of absolute values in a prediction, and no derivative of an activation exceeds 1.
    inner, outer = before.weights.abs().split([3 * hidden, hidden + 1])
    magnitude = (1 + 3 * inner.amax(0)) * outer.sum(0)
    roundings = TRITON_ROUNDINGS * (4 + hidden + 2 * SIGMOID_ROUNDINGS) + 2 * TRITON_EXP_ROUNDINGS * magnitude.max()
    slack = gamma(math.ceil(roundings), torch.float32) * magnitude
    clear = ((y_hat - xor()[1]).abs() - 1 / 2).abs().amin(0) > slack
    can_solve = architecture != "listing" and hidden > 1
    assert (before.since[clear] != NEVER).any() == can_solve
    assert (before.since[clear] == NEVER).any()
    assert_identical(after.since[clear], expected[clear], claim="step since which a network is solved")


def start_two(directory):
    """Start two processes at once, as a cluster would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    settings = [{**rendezvous, "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [
        launch("-m", "tests.children.sharded_ensemble", directory=directory, environment=one, output=one["LOCAL_RANK"])
        for one in settings
    ]


two = Background(start_two)


def test_two_processes_give_exactly_the_result_of_one(finished):
    """For an odd number of seeds, split by Lightning Fabric over gloo."""
    directory = finished(two)

    alone = train_ensemble(range(1101), batch_size=3, steps=60, compiled=False)
    for rank in range(2):
        world_size, drawn, *parts = torch.load(directory / f"{rank}.pt", weights_only=True)
        assert world_size == 2
        assert drawn.tolist() == list(range(1101))
        for part, (name, expected) in zip(parts, tensors_of(alone).items(), strict=True):
            assert_identical(part, expected, claim=f"{name} of two processes")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("no C++ compiler\nand more", "no C++ compiler"),
        ("backend raised:\nno vectors\nand more", "backend raised: no vectors"),
    ],
)
def test_without_a_compiler_the_same_steps_run_eagerly_and_fallback_says_why(monkeypatch, message, line):
    def broken(*_arguments, **_options):
        raise RuntimeError(message)

    monkeypatch.setattr(ensemble, "_compiled", broken)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    fallen = train_ensemble(range(3), steps=20)

    assert fallen.fallback == f"RuntimeError: {line}"
    assert_same_seeds_same_bits(fallen, train_ensemble(range(3), steps=20, compiled=False))


def test_a_compiler_that_fails_at_the_first_call_of_a_step_is_a_fallback_too(monkeypatch):
    """On CUDA the step is compiled and the loop is Python's, so torch compiles at the first step."""

    def without_triton(*_):
        raise RuntimeError("no Triton")

    monkeypatch.setattr(ensemble, "_compiled", lambda *_: ensemble._loop(without_triton))  # noqa: SLF001
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    fallen = train_ensemble(range(3), steps=20)

    assert fallen.fallback == "RuntimeError: no Triton"
    assert_same_seeds_same_bits(fallen, train_ensemble(range(3), steps=20, compiled=False))


def test_the_compiling_step_is_not_a_training_step(monkeypatch):
    taken = []

    def on_cuda(architecture, hidden, device, _dtype):
        step = Step(architecture, hidden, device)
        return ensemble._loop(lambda t, *rest: (taken.append(int(t)), step(t, *rest))[1])  # noqa: SLF001

    monkeypatch.setattr(ensemble, "_compiled", on_cuda)

    compiled = train_ensemble(range(3), steps=20)

    assert taken == [0, *range(20)]
    assert_same_seeds_same_bits(compiled, train_ensemble(range(3), steps=20, compiled=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "seeds has length 0, but should have a length from 1 to 15790320"),
        ({"seeds": [3, -1]}, "seeds[1] is -1, but should be from 0 to 4294967295"),
        ({"seeds": [2**32]}, "seeds[0] is 4294967296, but should be from 0 to 4294967295"),
        ({"seeds": range(-1, 3)}, "seeds[0] is -1, but should be from 0 to 4294967295"),
        ({"seeds": range(2**32 - 3, 2**32 + 1)}, "seeds[-1] is 4294967296, but should be from 0 to 4294967295"),
        ({"seeds": range(3, -2, -1)}, "seeds[-1] is -1, but should be from 0 to 4294967295"),
        ({"seeds": range(15790321)}, "seeds has length 15790321, but should have a length from 1 to 15790320"),
        (
            {"seeds": range(10**12), "hidden": 8192},
            "seeds has length 1000000000000, but should have a length from 1 to 8191",
        ),
        ({"steps": 0}, "steps is 0, but should be from 1 to 16777216"),
        ({"batch_size": 0}, "batch_size is 0, but should be from 1 to 1048576"),
        ({"hidden": 0}, "hidden is 0, but should be from 1 to 32767"),
        ({"lr": math.nan}, "lr is nan, but should be from 0 to 1e+37"),
        ({"architecture": "other"}, "architecture is 'other', but should be one of overview"),
        ({"device": "abacus"}, "device is 'abacus', but should be auto or an available device: cpu"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}(, .*)?$"):
        train_ensemble(**{"seeds": [1], "compiled": False, **arguments})
