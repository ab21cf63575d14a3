"""The benchmarks' harness: its check detects errors, and its clock waits for the device."""

import ast
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from shutil import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import conftest, test_ensemble
from benchmarks.check import Balls, TritonBalls, check_step
from benchmarks.conftest import Clock, copy_bytes_per_second, device_seconds_per_step, matmul_flops_per_second
from benchmarks.peers import Jax, NumPy, unavailable
from benchmarks.steps import stepper
from simplenet import SimpleNet, ensemble, set_seed, xor
from tests.children import slowed_step

pytest_plugins = "pytester"

PROJECT = Path(__file__).parent.parent.parent


def one_step(make):
    set_seed(1996)
    net, (x, y) = SimpleNet(), xor()
    take = make(net, x, y)
    before = take.read()
    take()
    return x, y, before, take.read()


@pytest.mark.parametrize("make", [lambda *rest: stepper("eager", *rest), NumPy], ids=["eager", "numpy"])
def test_a_step_of_algorithm_1_passes_the_benchmarks_check(make):
    check_step(*one_step(make))


@pytest.mark.parametrize(("part", "name"), [("p", "weights"), ("m", "m"), ("v", "v")])
def test_an_error_of_a_thousandth_fails_the_check(part, name):
    """A thousandth of each entry; the bound is about a thousand times smaller."""
    x, y, before, after = one_step(NumPy)

    with pytest.raises(AssertionError, match=f"{name} after step 1: error is"):
        check_step(x, y, before, after._replace(**{part: getattr(after, part) * 1.001}))


def test_an_extra_step_fails_the_check():
    x, y, before, after = one_step(NumPy)

    with pytest.raises(AssertionError, match="step count is 2, but should be 1"):
        check_step(x, y, before, after._replace(t=2))


def test_a_missing_factor_of_the_loss_fails_the_check():
    """Although the size of a first step is almost independent of the gradient's scale."""
    x, y, before, after = one_step(NumPy)

    with pytest.raises(AssertionError, match="after step 1"):
        check_step(x, y, before, after, share=1 / 2)


@pytest.mark.parametrize(("part", "name"), [("p", "weights"), ("m", "m"), ("v", "v")])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_fails_the_check(value, part, name):
    """In any entry."""
    x, y, before, after = one_step(NumPy)
    for i in range(len(after.p)):
        values = getattr(after, part).clone()
        values[i] = value

        with pytest.raises(AssertionError, match=rf"^{name} after step 1: error is {value}.* \[entry {i}: "):
            check_step(x, y, before, after._replace(**{part: values}))


@pytest.mark.parametrize(("kind", "covered"), [(Balls, False), (TritonBalls, True)])
def test_triton_balls_cover_the_errors_of_triton(kind, covered):
    """As NVIDIA documents them: 4 unit roundoffs for a quotient, and 44 for an exponential of -20."""
    u = 2.0**-24

    assert ((kind(1.0) / kind(3.0)).radius >= 4 * u / 3) == covered
    assert (np.exp(kind(-20.0)).radius >= 44 * u * np.exp(-20.0)) == covered


def test_the_bound_of_a_layer_covers_a_sum_that_starts_with_the_bias():
    """Each of a thousand products is lost in the bias: less than half the spacing of float32 numbers near 1."""
    x, w, bias = np.ones((1, 1000)), np.full((1000, 1), 2.0**-25), 1.0

    layer = Balls(x) @ Balls(w) + bias

    total = np.float32(bias)
    for product in np.float32(w[:, 0]):
        total += product
    assert total == bias
    assert np.abs(total - layer.centre) <= layer.radius


# --- an asynchronous device ---

WORK = 0.005  # seconds of a launch


class Queue:
    """A stand-in for CUDA: it runs what is launched only when somebody waits for it."""

    def __init__(self):
        self.waiting = []

    def launch(self, work=None):
        self.waiting.append(work or partial(time.sleep, WORK))

    def __matmul__(self, _):
        self.launch()

    def copy_(self, _):
        self.launch()

    def wait(self, *_):
        while self.waiting:
            self.waiting.pop(0)()

    def event(self, **_):
        """Make an event, which records the time when the queue reaches it."""
        times = []
        return SimpleNamespace(
            times=times,
            record=lambda: self.launch(lambda: times.append(time.perf_counter())),
            query=lambda: bool(times),
            synchronize=self.wait,
            elapsed_time=lambda end: 1000 * (end.times[-1] - times[-1]),
        )


@pytest.fixture
def queue(monkeypatch):
    """Replace CUDA by the stand-in."""
    queue = Queue()
    stand_ins = {"synchronize": queue.wait, "Event": queue.event, "device": lambda _: nullcontext()}
    stand_ins["_sleep"] = lambda _: queue.launch()
    stand_ins |= {"reset_peak_memory_stats": lambda _: None, "max_memory_allocated": lambda _: 0}
    stand_ins["get_device_name"] = lambda _: "stand-in"
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch, "full", lambda *_, **__: queue)  # the operands of the product and the copy
    return queue


class Stopwatch:
    """A stand-in for pytest-benchmark, which records a call's time and the length of the queue after it."""

    stats = None

    def __init__(self, queue):
        self.queue, self.extra_info, self.seconds, self.left = queue, {}, [], []

    def __call__(self, function):
        start = time.perf_counter()
        function()
        self.seconds.append(time.perf_counter() - start)
        self.left.append(len(self.queue.waiting))

    def pedantic(self, function, rounds):
        for _ in range(rounds):
            self(function)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("rounds", [None, 2], ids="rounds={}".format)
def test_a_timed_function_waits_for_the_result_and_its_time_is_that_of_the_work(queue, rounds):
    """Measured in real time; a sleep never ends early."""
    stopwatch = Stopwatch(queue)

    Clock(stopwatch)(queue.launch, CUDA, strategy="stand-in", steps=2, rows=4, hidden=4, rounds=rounds)

    assert stopwatch.left == [0] * (rounds or 1)
    assert min(stopwatch.seconds) >= WORK


class Simulated:
    """A stand-in for CUDA in simulated time: launches take time on the host, and kernels on the device."""

    LAUNCH, KERNEL, CYCLE, QUEUE = 1e-5, 2e-6, 1e-9, 1024

    def __init__(self, monkeypatch):
        self.host = 0.0
        self.ends = [0.0]  # end of each kernel
        stand_ins = {"device": lambda _: nullcontext(), "Event": lambda **_: self.event()}
        stand_ins["_sleep"] = lambda cycles: self.launch(cycles * self.CYCLE)
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def launch(self, seconds=KERNEL):
        self.host += self.LAUNCH
        if len(self.ends) > self.QUEUE:  # the queue is full
            self.host = max(self.host, self.ends[-self.QUEUE])
        self.ends.append(max(self.host, self.ends[-1]) + seconds)

    def event(self):
        event = SimpleNamespace(query=lambda: event.time <= self.host, synchronize=lambda: self.wait(event.time))
        event.record = lambda: setattr(event, "time", max(self.host, self.ends[-1]))
        event.elapsed_time = lambda end: 1000 * (end.time - event.time)
        return event

    def wait(self, until=None):
        self.host = max(self.host, self.ends[-1] if until is None else until)


@pytest.mark.parametrize("kernels", [1, 50], ids="kernels={}".format)
def test_the_device_time_is_that_of_its_kernels_even_if_python_is_slower(monkeypatch, kernels):
    """Fifty kernels of 2 µs, each launched in 10 µs, take 100 µs on the device, not 500."""
    device = Simulated(monkeypatch)

    seconds = device_seconds_per_step(lambda steps: [device.launch() for _ in range(kernels * steps)], CUDA)

    assert seconds == pytest.approx(kernels * device.KERNEL)


@pytest.mark.parametrize(
    "step",
    [lambda device: device.wait(device.launch()), lambda device: [device.launch() for _ in range(100)]],
    ids=["waits", "fills the queue"],
)
def test_no_device_time_is_recorded_if_the_host_has_to_wait_for_the_device(monkeypatch, step):
    device = Simulated(monkeypatch)

    assert device_seconds_per_step(lambda steps: [step(device) for _ in range(steps)], CUDA) is None


def test_the_record_has_the_bytes_that_a_step_moves_in_the_devices_own_time(queue, monkeypatch):
    """And the bytes per second as a fraction of a copy's."""
    monkeypatch.setattr(conftest, "device_seconds_per_step", lambda launch, _: launch(1))
    monkeypatch.setattr(conftest, "copy_bytes_per_second", lambda _: 1000.0)
    stopwatch = Stopwatch(queue)
    stopwatch.stats = SimpleNamespace(stats=SimpleNamespace(median=8.0))

    Clock(stopwatch)(
        queue.launch, CUDA, strategy="eager", steps=1, rows=4, hidden=4, training=True, launch=lambda steps: 4.0 * steps
    )

    moved = 4 * (4 * 3 + 17 * 6)
    info = stopwatch.extra_info
    assert (info["bytes_per_step"], info["device_seconds_per_step"]) == (moved, 4.0)
    assert (info["bytes_per_second"], info["fraction_of_copy"]) == (moved / 4, moved / 4000)


@pytest.mark.parametrize(
    ("rate", "most"), [(matmul_flops_per_second, 2 * 8192**3 / WORK), (copy_bytes_per_second, 2 * 2**30 / WORK)]
)
def test_the_peak_measurement_of_a_device_waits_for_the_result(queue, rate, most):
    """By a product of matrices, and by a copy, which reads and writes each byte."""
    measured = rate.__wrapped__(CUDA)

    assert not queue.waiting
    assert measured <= most


@pytest.mark.parametrize("scan", [False, True], ids=["jit", "scan"])
def test_steps_of_jax_wait_for_the_result(queue, scan):
    """JAX is asynchronous on the CPU too, so the peer waits for the result."""
    take = object.__new__(Jax)
    take.scan, take.p, take.state = scan, None, None
    take.one = take.several = lambda p, state, _=None: (queue.launch(), (p, state))[1]
    take.jax = SimpleNamespace(block_until_ready=queue.wait)

    take(3)

    assert not queue.waiting


def test_jax_computes_in_float32_on_the_device_that_is_recorded():
    """Independent of JAX's defaults. JAX is configured with two CPU devices, so that no GPU is needed."""
    pytest.importorskip("jax")
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}

    command = [sys.executable, "-m", "tests.children.jax_device"]
    run = subprocess.run(command, cwd=PROJECT, env=os.environ | flags, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("peer", "kind", "reason"),
    [
        ("jax-jit", "cpu", None),
        ("jax-jit", "cuda", None),
        ("jax-vmap", "cuda:1", None),
        ("jax-scan", "cuda:2", "jax-scan does not run on cuda:2: device is cuda:2, but JAX has 2 of that type"),
        ("numpy", "cpu", None),
        ("scikit-learn", "cuda", "scikit-learn runs on the CPU alone, not on cuda"),
    ],
)
def test_a_peer_runs_where_its_library_has_the_device(monkeypatch, peer, kind, reason):
    """With a stand-in for JAX that has two GPUs."""
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(devices={"cpu": [0], "cuda": [0, 1]}.__getitem__))

    assert unavailable(peer, torch.device(kind)) == reason


@pytest.mark.parametrize(
    ("chosen", "devices"),
    [("all", "cpu cuda"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("auto", "cuda")],
)
def test_benchmarks_run_on_the_selected_device(monkeypatch, chosen, devices):
    """The id of a benchmark is the type of its device, so that records of different GPUs are compared."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = {}
    metafunc = SimpleNamespace(
        fixturenames=["timed_device"],
        config=SimpleNamespace(getoption=lambda _: chosen),
        parametrize=lambda _, values, ids, indirect: asked.update(zip(ids, values, strict=indirect)),
    )

    conftest.pytest_generate_tests(metafunc)

    assert " ".join(map(str, asked.values())) == devices
    assert list(asked) == [device.type for device in asked.values()]


def test_nothing_is_timed_on_a_device_for_which_the_clock_does_not_wait():
    """The clock waits for CUDA; work on the CPU ends before the call."""
    with pytest.raises(pytest.skip.Exception, match="the clock does not wait for mps"):
        conftest.timed_device.__wrapped__(SimpleNamespace(param=torch.device("mps")))


def test_the_time_of_an_ensemble_excludes_drawing_its_weights(monkeypatch):
    """As for JAX. Drawing takes as long as hundreds of compiled steps."""

    def clock(train, *_, **__):
        monkeypatch.setattr(SimpleNet, "__init__", lambda *_: pytest.fail("weights are drawn while the clock runs"))
        train()

    test_ensemble.test_ensemble(clock, CPU, "eager", (3, 2), timed=False, monkeypatch=monkeypatch)


@pytest.mark.parametrize(("kind", "chunks"), [("cpu", ("eager", "compiled")), ("cuda", ("cuda",))])
def test_a_timed_ensemble_has_only_full_chunks(kind, chunks):
    for chunk in chunks:
        assert test_ensemble.seeds_on(torch.device(kind)) % ensemble._WIDTH[chunk] == 0, chunk  # noqa: SLF001


def test_every_benchmark_uses_the_clock_fixture():
    """pytest-benchmark's own fixture does not wait for a device."""
    for path in (PROJECT / "benchmarks").glob("test_*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                arguments = {argument.arg for argument in node.args.args}
                assert "clock" in arguments, f"{node.name} of {path.name} times nothing"
                assert "benchmark" not in arguments, f"{node.name} of {path.name} times without a barrier"


def test_a_slower_step_is_recorded_as_slower(pytester, monkeypatch):
    """By exactly the added delay, on a simulated clock, so that the machine's load has no effect."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # under xdist, pytest-benchmark does not time
    monkeypatch.syspath_prepend(PROJECT)
    pytester.makeconftest("from benchmarks.conftest import *")
    copy(slowed_step.__file__, pytester.path / "test_step.py")

    result = pytester.runpytest_inprocess(
        "--benchmark-only", "--benchmark-json=run.json", "-p", "no:randomly", "-p", "no:xdist"
    )

    assert result.ret == 0
    steps = slowed_step.STEPS
    plain, slowed = json.loads(Path("run.json").read_text("utf-8"))["benchmarks"]
    for run, step in ((plain, slowed_step.STEP), (slowed, slowed_step.STEP + slowed_step.DELAY)):
        assert run["stats"]["median"] == pytest.approx(1e-9 * (steps * step + 1), abs=1e-12)  # a reading adds one
        assert run["extra_info"]["flops_per_second"] == 573 / (run["stats"]["median"] / steps)
        assert run["extra_info"]["samples_per_second"] == 4 / (run["stats"]["median"] / steps)
