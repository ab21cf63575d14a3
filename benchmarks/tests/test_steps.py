"""Training steps: every strategy follows the formulas, and takes the requested number of steps."""

import math
import os
import re
import sys
import threading
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from itertools import product
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from benchmarks import steps
from benchmarks.steps import STRATEGIES, stepper, unavailable
from simplenet import ARCHITECTURES, SimpleNet, XORDataModule, ensemble, formulas, reference, set_seed, train, xor
from simplenet.testing.assertions import assert_identical, assert_in_balls, refuted
from simplenet.testing.balls import AutocastBalls, Balls, Tf32Balls, TritonBalls, balls
from simplenet.testing.fused_cuda import FusedCuda
from simplenet.testing.one_step import STEPS, TrainingState, assert_training_step, training_step
from simplenet.testing.oracle import fused_rounds_scalars
from simplenet.testing.strategies import architectures, batches, few, networks, seeds, skip_where_missing

CPU = torch.device("cpu")
FORCED = 5  # consecutive steps to check

# An example is five steps in ball arithmetic, 50 ms, so a third of the usual number of examples.
a_few = settings(max_examples=settings.default.max_examples // 3)

# torch's compiler imports modules that torch deprecates, and before 2.5 warns of what it cannot serialize.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def pytest_generate_tests(metafunc):
    """Compiling takes seconds, so by default each strategy is tested with one architecture and dtype."""
    if "architecture" not in metafunc.fixturenames:
        return
    explore = metafunc.config.getoption("hypothesis_profile") == "explore"
    cells = [
        (strategy, architecture, dtype)
        for strategy, architecture, dtype in product(STRATEGIES, ARCHITECTURES, (torch.float32, torch.float64))
        if explore or (architecture, dtype) == ("overview", torch.float32)
    ]
    metafunc.parametrize(("strategy", "architecture", "dtype"), cells, ids=str)


@cache
def _made(strategy, architecture, dtype, device):
    net = SimpleNet(architecture).to(device, dtype)
    x, y = (rows.to(device, dtype) for rows in xor())
    with patch.dict(os.environ):  # torch's compiler changes it
        return net, x, y, stepper(strategy, net, x, y)


def made(strategy, architecture, dtype, device):
    """Return a network, XOR in its dtype, and a stepper of both; one for all tests, as compiling is slow."""
    if reason := unavailable(strategy, device):
        pytest.skip(reason)
    return _made(strategy, architecture, dtype, device)


# The arithmetic of a stepper in float32; that of compiled steps, only on CUDA.
KINDS = {steps._Autocast: AutocastBalls, steps._Tf32: Tf32Balls}  # noqa: SLF001


def arithmetic(x, take):
    """Return the kind of balls for a stepper; in float64, none casts, and Triton is as exact as torch."""
    if x.dtype == torch.float64:
        return Balls
    compiled = isinstance(take, steps._Compiled)  # noqa: SLF001
    return TritonBalls if compiled and x.device.type == "cuda" else KINDS.get(type(take), Balls)


def check_step(net, x, y, before, after, *, tensor_scalars=False, kind=Balls):
    """Assert that ``after`` is the result of a step from ``before``, to within its rounding error."""
    __tracebackhide__ = True
    twin = SimpleNet(**net.hparams).to(x)
    vector_to_parameters(before.p.clone(), twin.parameters())
    _, expected = training_step(twin, before, x, y, tensor_scalars=tensor_scalars, kind=kind)
    assume(expected.bounded)
    assert after.t == before.t + 1, f"step count is {after.t}, but should be {before.t + 1}"
    assert_training_step(after, expected, claim=f"after step {after.t}")


@st.composite
def trainings(draw, net):
    """Draw a state of training: the weights of ``net``, random moments, and a step count."""
    weights = parameters_to_vector(net.parameters()).detach()
    t = draw(st.sampled_from([*STEPS[:5], formulas.CORRECTED - 1, formulas.CORRECTED]))
    if t == 0:
        return TrainingState(weights, torch.zeros_like(weights), torch.zeros_like(weights), None, 0)
    generator = torch.Generator().manual_seed(draw(seeds))
    m, v = torch.randn((2, len(weights)), generator=generator).to(weights)
    return TrainingState(weights, m, v * v, None, t)


def check_five_steps(net, x, y, take, start):
    fused = isinstance(take, steps._Autograd) and take.optimizer.defaults["fused"]  # noqa: SLF001
    terms = {"tensor_scalars": bool(fused) and fused_rounds_scalars(x.device), "kind": arithmetic(x, take)}
    take.write(start)
    for _ in range(FORCED):
        before = take.read()
        take()
        check_step(net, x, y, before, take.read(), **terms)


def check_drawn_steps(data, make, net, *of_the_batch):
    """Check five steps of a drawn network from a drawn state on a drawn batch."""
    net, (x, y) = data.draw(net), data.draw(batches(few, *of_the_batch))
    start = data.draw(trainings(net))
    check_five_steps(net, x, y, make(net, x, y), start)


@a_few
@given(data=st.data())
def test_five_steps_from_any_state_are_those_of_algorithm_1(strategy, architecture, dtype, device, data):
    """Each step is checked from the strategy's own state before it: weights, both moments and the count."""
    net, x, y, take = made(strategy, architecture, dtype, device)
    drawn = data.draw(networks(st.just(architecture), st.just(4), dtype, device))

    check_five_steps(net, x, y, take, data.draw(trainings(drawn)))


@given(data=st.data())
def test_a_chunk_takes_the_requested_number_of_steps(strategy, architecture, dtype, device, data):
    """With the same result, bit for bit, as single steps."""
    *_, take = made(strategy, architecture, dtype, device)
    start = data.draw(trainings(data.draw(networks(st.just(architecture), st.just(4), dtype, device))))
    count = data.draw(st.integers(0, 7) | st.sampled_from([16, 35]), label="steps")  # 16 are a graph on CUDA

    take.write(start)
    take(count)
    chunk = take.read()

    take.write(start)
    for _ in range(count):
        take()
    assert chunk.t == start.t + count
    for part, one_by_one, name in zip(chunk, take.read(), ("weights", "m", "v"), strict=False):
        assert_identical(part, one_by_one, claim=f"{name} after {count} steps at once")


def test_the_network_itself_is_trained(strategy, architecture, dtype, device):
    """Its parameters equal the stepper's state, and stay on their device."""
    net, x, _, take = made(strategy, architecture, dtype, device)
    before = take.read()

    take(3)

    weights = parameters_to_vector(net.parameters())
    assert weights.device == x.device
    assert not torch.equal(weights, before.p)
    assert_identical(weights, take.read().p, claim="parameters of the network")


@pytest.mark.parametrize("strategy", ["eager", "foreach", "fused", "autocast", "tf32"])
@a_few
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_formulas_take_any_number_of_rows_and_units(device, strategy, data, dtype):
    if reason := unavailable(strategy, device):
        pytest.skip(reason)

    check_drawn_steps(data, partial(stepper, strategy), networks(architectures, few, dtype, device), dtype, device)


@pytest.mark.parametrize("rounded", [True, False])
def test_five_steps_of_cudas_fused_kernel_need_its_rounded_scalars(rounded):
    """Tested without a GPU: the bound for scalars in float64 is refuted."""

    @given(data=st.data())
    def steps_follow_the_formulas(data):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(torch.optim, "Adam", FusedCuda)
            patched.setitem(globals(), "fused_rounds_scalars", lambda _: rounded)
            net, (x, y) = data.draw(networks()), xor()
            start = data.draw(trainings(net))
            check_five_steps(net, x, y, steps._Autograd(net, x, y, fused=True), start)  # noqa: SLF001

    (a_few if rounded else refuted)(steps_follow_the_formulas)()


class Tf32Products(TorchDispatchMode):
    """Emulate matrix products in TF32: drop 13 of the 23 bits of the fraction of each operand."""

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        if operation in {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}:
            assert torch.get_float32_matmul_precision() == "high"
            *bias, a, b = args
            args = (*bias, *((x.view(torch.int32) & ~0x1FFF).view(torch.float32) for x in (a, b)))
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("strategy", ["autocast", "tf32"])
def test_a_narrower_type_needs_a_bound_of_its_own(strategy, needed):
    """On the CPU, where TF32 is emulated: the bound of float32 is refuted."""

    @given(data=st.data())
    def steps_are_within_the_bound(data):
        make = steps._STRATEGIES[strategy].make  # noqa: SLF001
        with pytest.MonkeyPatch.context() as patched, Tf32Products() if strategy == "tf32" else nullcontext():
            if not needed:
                patched.setitem(globals(), "arithmetic", lambda *_: Balls)
            check_drawn_steps(data, make, networks())

    (a_few if needed else refuted)(steps_are_within_the_bound)()


class Launched(TorchDispatchMode):
    """Record the names of the operations that torch runs, without their overloads."""

    def __enter__(self):
        self.names = set()
        return super().__enter__()

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        self.names.add(str(operation).rpartition(".")[0])
        return operation(*args, **kwargs or {})


# The operation that updates the weights, by implementation of torch's Adam.
MOVES = {"for-loop": "aten.addcdiv_", "foreach": "aten._foreach_addcdiv_", "fused": "aten._fused_adam_"}


@pytest.mark.parametrize("strategy", ["eager", "foreach", "fused"])
def test_a_strategy_launches_the_operations_of_its_name(device, strategy):
    """The results do not show it, because they agree for all strategies."""
    if reason := unavailable(strategy, device):
        pytest.skip(reason)
    net = SimpleNet().to(device)
    take = stepper(strategy, net, *(rows.to(device) for rows in xor()))

    with Launched() as launched:
        take()

    default = "foreach" if device.type == "cuda" else "for-loop"
    expected = default if strategy == "eager" else strategy
    assert [name for name, move in MOVES.items() if move in launched.names] == [expected]


def by_hand(monkeypatch, net, x, y):
    """Make the stepper of the compiled strategy without compiling, which takes a hundredth of the time."""
    monkeypatch.setattr(steps, "_compile", lambda function, _device: function)
    return steps._Compiled(net, x, y)  # noqa: SLF001


@a_few
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_formulas_are_those_of_the_reference_whatever_the_rows_and_width(data, dtype):
    with pytest.MonkeyPatch.context() as patched:
        check_drawn_steps(data, partial(by_hand, patched), networks(architectures, few, dtype), dtype)


class OnMeta(TorchDispatchMode):
    """Refuse operations on tensors of the CPU, with which CUDA would wait or fail."""

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        devices = {value.device.type for value in given}
        assert devices <= {"meta"}, f"{operation} is given tensors on {devices}, but should be on meta alone"
        return operation(*args, **kwargs or {})


META = torch.device("meta")


def compiled_on_meta(monkeypatch, dtype=torch.float32):
    monkeypatch.setattr(steps._Compiled, "read", lambda take: TrainingState(*take.state, None, 0))  # noqa: SLF001 - has no count
    x, y = (rows.to(META, dtype) for rows in xor())
    return by_hand(monkeypatch, SimpleNet().to(META, dtype), x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_compiled_step_gets_tensors_of_its_device_only(monkeypatch, dtype):
    take = compiled_on_meta(monkeypatch, dtype)

    with OnMeta():
        take(2)


@pytest.mark.parametrize("name", ["t", "state", "table", "batch"])
def test_a_tensor_of_a_compiled_step_that_is_left_on_the_cpu_is_caught(monkeypatch, name):
    take = compiled_on_meta(monkeypatch)
    setattr(take, name, torch.zeros_like(getattr(take, name), device=CPU))

    with OnMeta(), pytest.raises(AssertionError, match=r"is given tensors on .*'cpu'.*, but should be on meta alone"):
        take(2)


def test_a_step_of_an_ensemble_gets_tensors_of_its_device_only():
    """From the initial state and the schedule to the decision, after the last step, whether XOR is solved."""
    step = ensemble.Step("overview", 4, META)
    rows = ensemble.schedule(3, 5, 0.01).to(META)
    train = ensemble._Training(ensemble._loop(step), 8, step, rows, META, threading.Event())  # noqa: SLF001
    state, block, t = train.start(torch.zeros(17, 3)), train.block(0), torch.zeros((), dtype=torch.int64, device=META)

    with OnMeta():
        t, state = step(t, state, block)
        step.solved_since(t, state.since, step.forward(state.weights)[1])


@pytest.mark.parametrize("strategy", ["eager", "foreach", "fused"])
def test_a_step_of_autograd_stays_on_the_device_of_its_network(monkeypatch, strategy):
    """Parameters, gradients and moments; the step count is on the CPU, except for the fused implementation."""
    if reason := unavailable(strategy, CPU):
        pytest.skip(reason)
    if strategy == "foreach":
        skip_where_missing(lambda one: torch._foreach_addcdiv_([one], [one], [one], [0.5]), torch.float32, META)
    # The constructor, or in later versions the first step, checks that the device has fused kernels.
    module = sys.modules[torch.optim.Adam.__module__]
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["meta"], raising=False)
    net, (x, y) = SimpleNet().to(META), (rows.to(META) for rows in xor())

    take = steps._STRATEGIES[strategy].make(net, x, y)  # noqa: SLF001 - which no strategy is offered on
    take(2)

    states = [take.optimizer.state[p] for p in net.parameters()]
    tensors = [value for p, own in zip(net.parameters(), states, strict=True) for value in (p, p.grad, *own.values())]
    left = {value.device.type for value in tensors if value.dim()}
    assert left == {"meta"}
    assert {own["step"].device.type for own in states} == {"meta" if strategy == "fused" else "cpu"}


class RecordedCuda:
    """A stand-in for CUDA graphs that logs the calls in their order."""

    def __init__(self, monkeypatch):
        self.log, self.graphs = [], 0
        stand_ins = {
            "device": lambda device: self.within(f"device {device}"),
            "current_stream": lambda: self.stream("current"),
            "Stream": lambda: self.stream("side"),
            "stream": lambda stream: self.within(f"stream {stream.name}"),
            "CUDAGraph": self.graph,
            "graph": lambda _, *, stream: self.within(f"recording on {stream.name}"),
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        step = steps._Autograd.step  # noqa: SLF001

        def logged(take):
            gradients = any(p.grad is not None for p in take.net.parameters())
            self.log.append("step over gradients" if gradients else "step")
            step(take)

        monkeypatch.setattr(steps._Autograd, "step", logged)  # noqa: SLF001

    def graph(self):
        self.graphs += 1
        return SimpleNamespace(replay=partial(self.log.append, f"replay of graph {self.graphs}"))

    def stream(self, name):
        return SimpleNamespace(name=name, wait_stream=lambda other: self.log.append(f"{name} waits for {other.name}"))

    @contextmanager
    def within(self, what):
        self.log.append(what)
        yield
        self.log.append(f"end of {what}")


def test_a_graph_is_recorded_on_its_batchs_device_without_taking_a_step(monkeypatch):
    """In the order of PyTorch's documentation. Gradients are freed first, so that the graph allocates its own."""
    if reason := unavailable("fused", CPU):
        pytest.skip(reason)
    recorded = RecordedCuda(monkeypatch)
    net = SimpleNet()
    before = parameters_to_vector(net.parameters()).detach().clone()

    take = steps._CudaGraph(net, *xor())  # noqa: SLF001 - which no CPU has

    assert recorded.log == [
        "device cpu",
        "side waits for current",
        *["stream side", "step", "step over gradients", "step over gradients", "end of stream side"],
        "current waits for side",
        *["recording on side", "step", "end of recording on side"],
        "end of device cpu",
    ]
    weights, m, v, _, t = take.read()
    assert_identical(weights, before, claim="weights after the recording")
    assert (m.count_nonzero(), v.count_nonzero(), t) == (0, 0, 0)
    recorded.log.clear()
    take(2)
    assert recorded.log == ["replay of graph 1"] * 2


def test_a_chunk_on_a_gpu_replays_the_longer_graph_first(monkeypatch):
    """Recording takes no step."""
    monkeypatch.setattr(steps, "_compile", lambda function, _device: function)
    recorded = RecordedCuda(monkeypatch)

    take = steps._CompiledGraphs(SimpleNet(), *xor())  # noqa: SLF001 - which no CPU has

    assert recorded.log.count("recording on side") == 2
    assert take.read().t == 0
    assert not take.state[1:].any()
    recorded.log.clear()
    take(35)
    assert recorded.log == ["replay of graph 1"] * 2 + ["replay of graph 2"] * 3


def sigmoid_on_cuda(z):
    """Compute a sigmoid as Triton does, with the largest errors that NVIDIA documents, all of one sign."""
    u = torch.finfo(torch.float32).eps / 2
    exponent = -z.double() * math.log2(math.e)
    e = (exponent + 2 * u * exponent.abs()).exp2() * (1 + 2.0**-22)
    quotient = 1 / (1 + e.float()).double() * (1 - 2 * 2 * u)
    return quotient.float()


def check_sigmoid_on_cuda(kind):
    """Assert that the least exact sigmoid is within the bound of ball arithmetic."""
    z = torch.linspace(-80, 80, 801)
    in_its_ball = reference.sigmoid(balls(z, dtype=z.dtype, roundings=5, kind=kind))
    assert_in_balls(sigmoid_on_cuda(z), in_its_ball, claim="sigmoid")


def test_the_errors_that_nvidia_documents_of_a_compiled_sigmoid_are_covered():
    check_sigmoid_on_cuda(TritonBalls)


def test_the_errors_that_nvidia_documents_exceed_the_bound_of_torchs_own_kernels():
    """So code compiled for CUDA needs another bound."""
    with pytest.raises(AssertionError, match="sigmoid"):
        check_sigmoid_on_cuda(Balls)


@a_few
@given(data=st.data())
def test_steps_compiled_for_cuda_get_the_bound_of_tritons_arithmetic(data):
    """Tested without a GPU, with the least exact sigmoid."""
    with pytest.MonkeyPatch.context() as patched:
        sigmoid = formulas._ACTIVATIONS[torch.nn.Sigmoid]._replace(value=sigmoid_on_cuda)  # noqa: SLF001
        patched.setitem(formulas._ACTIVATIONS, torch.nn.Sigmoid, sigmoid)  # noqa: SLF001
        patched.setitem(globals(), "arithmetic", lambda *_: TritonBalls)
        check_drawn_steps(data, partial(by_hand, patched), networks())


def half_the_gradient(*arguments):
    *others, d_mse = arguments
    return gradient(*others, d_mse / 2)


gradient, corrections, adam = formulas.Formulas.gradient, formulas.corrections, formulas.Formulas.adam

FAULTS = {
    None: (formulas.Formulas, "gradient", gradient),
    "no first correction": (steps, "corrections", lambda t, lr: (-lr, corrections(t, lr)[1])),
    "no second correction": (steps, "corrections", lambda t, lr: (corrections(t, lr)[0], 1.0)),
    "t off by one": (steps, "corrections", lambda t, lr: corrections(t + 1, lr)),
    "step 0.01 % too long": (steps, "corrections", lambda t, lr: corrections(t, lr * 1.0001)),
    "half the gradient": (formulas.Formulas, "gradient", half_the_gradient),
    "moments swapped": (
        formulas.Formulas,
        "adam",
        staticmethod(lambda weights, m, v, *rest: [adam(weights, m, v, *rest)[i] for i in (0, 2, 1)]),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_oracle_detects_every_planted_fault(fault):
    """One fault in the formulas at a time; without a fault, the same test passes."""

    @given(data=st.data())
    def steps_are_those_of_algorithm_1(data):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(*FAULTS[fault])
            steps._table.cache_clear()  # noqa: SLF001
            check_drawn_steps(data, partial(by_hand, patched), networks())

    try:
        (refuted if fault else a_few)(steps_are_those_of_algorithm_1)()
    finally:
        steps._table.cache_clear()  # noqa: SLF001


def test_the_eager_step_equals_the_trainers_bit_for_bit(device, tmp_path):
    """On each device; the Trainer returns the network on the CPU."""
    set_seed(1996)
    result = train(SimpleNet(), XORDataModule(4), max_epochs=20, device=str(device), checkpoint_dir=tmp_path)
    set_seed(1996)
    net = SimpleNet().to(device)

    take = stepper("eager", net, *(rows.to(device) for rows in xor()))
    take(20)

    assert take.read().t == result.steps
    weights = parameters_to_vector(result.net.parameters()).detach()
    assert weights.device == CPU
    assert_identical(take.read().p, weights, claim="weights after 20 steps")
    states = torch.load(result.checkpoint, weights_only=True, map_location=CPU)["optimizer_states"][0]["state"]
    for part, name in ((take.read().m, "exp_avg"), (take.read().v, "exp_avg_sq")):
        trainers = torch.cat([own[name].flatten() for own in states.values()])
        assert_identical(part, trainers, claim=f"{name} after 20 steps")


def test_torch_compiles_for_every_stepper_however_many_there_are():
    """Torch compiles a code object only a few times (here once), and closures of one function share it."""
    if reason := unavailable("compiled", CPU):
        pytest.skip(reason)

    def scaled_by(factor):
        return lambda x: factor * x

    with patch.dict(os.environ), torch._dynamo.config.patch(cache_size_limit=1):  # noqa: SLF001
        counted = torch._dynamo.utils.counters["stats"]  # noqa: SLF001
        before = counted["unique_graphs"]
        scaled = [formulas.compile_whole(scaled_by(factor), {})(torch.ones(())) for factor in (2, 3)]

    assert scaled == [2, 3]
    assert counted["unique_graphs"] == before + 2


def test_a_strategy_of_another_device_is_refused():
    with pytest.raises(ValueError, match=r"'cuda-graph' on cpu, but it needs a device of type cuda"):
        stepper("cuda-graph", SimpleNet(), *xor())


def test_a_strategy_that_this_torch_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(steps, "TORCH", (2, 3))

    message = f"'fused' on cpu under torch {torch.__version__}, but it needs torch 2.4"
    with pytest.raises(ValueError, match=re.escape(message)):
        stepper("fused", SimpleNet(), *xor())
