"""Training steps: every strategy takes the step of the formulas, and only as many as it is told."""

import os
import re
from functools import cache
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from simplenet import ARCHITECTURES, SimpleNet, XORDataModule, reference, set_seed, steps, train, xor
from simplenet.steps import STRATEGIES, Training, stepper, unavailable
from simplenet.testing.assertions import assert_identical, assert_in_balls, refuted
from simplenet.testing.balls import Balls, in_balls
from simplenet.testing.strategies import architectures, batches, few, networks, seeds
from tests.oracle import ROUNDINGS, STEPS, Hyper, State, one_step

CPU = torch.device("cpu")
FORCED = 5  # steps in a row, each from the state that the one before has led to

# An example is five steps in balls, 50 ms: a third of the others' examples.
a_few = settings(max_examples=settings.default.max_examples // 3)

# torch's compiler imports what torch itself deprecates, and before 2.5 warns of what it does not serialize.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def pytest_generate_tests(metafunc):
    """Compiling takes seconds a cell, so by default each strategy has one."""
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
    with patch.dict(os.environ):  # torch's compiler leaves its own there
        return net, x, y, stepper(strategy, net, x, y)


def made(strategy, architecture, dtype, device):
    """Make a network, XOR in its type, and a stepper of both, once for all tests of it."""
    if reason := unavailable(strategy, device):
        pytest.skip(reason)
    return _made(strategy, architecture, dtype, device)


def check_step(net, x, y, before, after, **choices):
    """Demand that ``after`` is where a step of the formulas leads from ``before``, to within its roundings."""
    __tracebackhide__ = True
    twin = SimpleNet(net.hparams["architecture"], net.hparams["hidden"]).to(x)
    vector_to_parameters(before.weights.clone(), twin.parameters())
    gradients = reference.gradients(*in_balls(twin, x, y), net.hparams["architecture"])
    flat = np.concatenate([g.flatten() for g in gradients])
    g = Balls(flat.centre, flat.radius, dtype=x.dtype, roundings=ROUNDINGS)
    hyper = Hyper(net.hparams["lr"], 0.9, 0.999, 1e-8, 0.0, decoupled=False, amsgrad=False, maximize=False)
    state = State(*before[:3], None, before.t)
    expected = one_step(state, g, hyper, tensor_scalars=False, **choices)
    assume(expected.bounded)
    assert after.t == before.t + 1, f"step count is {after.t}, but should be {before.t + 1}"
    assert_in_balls(after.m, expected.m, claim=f"first moments after step {after.t}")
    assert_in_balls(after.v, expected.v, claim=f"second moments after step {after.t}")
    assert_in_balls(after.weights, expected.p, claim=f"weights after step {after.t}")


@st.composite
def trainings(draw, net, gradient_scale=1.0):
    """Draw where a training of ``net`` is: its weights, moments of either sign, and any number of steps."""
    weights = parameters_to_vector(net.parameters()).detach()
    t = draw(st.sampled_from([*STEPS[:5], steps.CORRECTED - 1, steps.CORRECTED]))
    if t == 0:
        return Training(weights, torch.zeros_like(weights), torch.zeros_like(weights), 0)
    generator = torch.Generator().manual_seed(draw(seeds))
    m, v = gradient_scale * torch.randn((2, len(weights)), generator=generator).to(weights)
    return Training(weights, m, v * v, t)


def check_five_steps(net, x, y, take, start):
    take.write(start)
    for _ in range(FORCED):
        before = take.read()
        take()
        check_step(net, x, y, before, take.read())


@a_few
@given(data=st.data())
def test_five_steps_from_any_state_are_those_of_algorithm_1(strategy, architecture, dtype, device, data):
    """Each from the strategy's own state before it: weights, both moments and the count."""
    net, x, y, take = made(strategy, architecture, dtype, device)
    drawn = data.draw(networks(st.just(architecture), st.just(4), dtype, device))

    check_five_steps(net, x, y, take, data.draw(trainings(drawn)))


@given(data=st.data())
def test_a_chunk_is_as_many_steps_as_it_is_told(strategy, architecture, dtype, device, data):
    """Bit for bit what they are one by one."""
    *_, take = made(strategy, architecture, dtype, device)
    start = data.draw(trainings(data.draw(networks(st.just(architecture), st.just(4), dtype, device))))
    count = data.draw(st.integers(0, 7), label="steps")

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
    """Its parameters are where the stepper says, on the device where they were."""
    net, x, _, take = made(strategy, architecture, dtype, device)
    before = take.read()

    take(3)

    weights = parameters_to_vector(net.parameters())
    assert weights.device == x.device
    assert not torch.equal(weights, before.weights)
    assert_identical(weights, take.read().weights, claim="parameters of the network")


@pytest.mark.parametrize("strategy", ["eager", "foreach", "fused"])
@a_few
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_rows_and_width_are_free(device, strategy, data, dtype):
    if reason := unavailable(strategy, device):
        pytest.skip(reason)
    net = data.draw(networks(architectures, few, dtype, device))
    x, y = data.draw(batches(few, dtype, device))

    start = data.draw(trainings(net))
    check_five_steps(net, x, y, stepper(strategy, net, x, y), start)


class Launched(TorchDispatchMode):
    """The names of the operations that torch launches, without their overloads'."""

    def __enter__(self):
        self.names = set()
        return super().__enter__()

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        self.names.add(str(operation).rpartition(".")[0])
        return operation(*args, **kwargs or {})


# What moves the weights, in torch's Adam by implementation.
MOVES = {"for-loop": "aten.addcdiv_", "foreach": "aten._foreach_addcdiv_", "fused": "aten._fused_adam_"}


@pytest.mark.parametrize("strategy", ["eager", "foreach", "fused"])
def test_a_strategy_launches_the_operations_that_it_is_named_for(device, strategy):
    """Its numbers cannot tell: they are those of the formulas in all of them."""
    if reason := unavailable(strategy, device):
        pytest.skip(reason)
    net = SimpleNet().to(device)
    take = stepper(strategy, net, *(rows.to(device) for rows in xor()))

    with Launched() as launched:
        take()

    torchs_own = "foreach" if device.type == "cuda" else "for-loop"
    expected = torchs_own if strategy == "eager" else strategy
    assert [name for name, move in MOVES.items() if move in launched.names] == [expected]


def by_hand(monkeypatch, net, x, y):
    """Make the compiled strategy's stepper without its compiler: the formulas, at a hundredth of the cost."""
    monkeypatch.setattr(steps, "_compile", lambda function, _device: function)
    return steps._Compiled(net, x, y, chunk=False)  # noqa: SLF001


@a_few
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_formulas_are_those_of_the_reference_whatever_the_rows_and_width(data, dtype):
    net = data.draw(networks(architectures, few, dtype))
    x, y = data.draw(batches(few, dtype))

    with pytest.MonkeyPatch.context() as patched:
        start = data.draw(trainings(net))
        check_five_steps(net, x, y, by_hand(patched, net, x, y), start)


def test_the_compiled_stepper_checks_its_arguments_as_the_eager_one_does(monkeypatch):
    """The eager one's are in test_bad_input.py."""
    take = by_hand(monkeypatch, SimpleNet(), *xor())
    start = take.read()

    with pytest.raises(ValueError, match=r"^steps is -1, but should be from 0 to 16777216"):
        take(-1)
    with pytest.raises(ValueError, match=r"^training\.m has shape \(1,\), but should have shape \(17,\)"):
        take.write(start._replace(m=torch.zeros(1)))


def half_the_gradient(*arguments):
    *others, d_mse = arguments
    return gradient(*others, d_mse / 2)


gradient, corrections, adam = steps.Formulas.gradient, steps.corrections, steps.Formulas.adam

FAULTS = {
    None: (steps.Formulas, "gradient", gradient),
    "no first correction": (steps, "corrections", lambda t, lr: (-lr, corrections(t, lr)[1])),
    "no second correction": (steps, "corrections", lambda t, lr: (corrections(t, lr)[0], 1.0)),
    "t off by one": (steps, "corrections", lambda t, lr: corrections(t + 1, lr)),
    "step 0.01 % too long": (steps, "corrections", lambda t, lr: corrections(t, lr * 1.0001)),
    "half the gradient": (steps.Formulas, "gradient", half_the_gradient),
    "moments swapped": (
        steps.Formulas,
        "adam",
        staticmethod(lambda weights, m, v, *rest: [adam(weights, m, v, *rest)[i] for i in (0, 2, 1)]),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_oracle_kills_every_planted_fault(fault):
    """A fault in the formulas, one at a time; without one the same test passes."""

    @given(data=st.data())
    def steps_are_those_of_algorithm_1(data):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(*FAULTS[fault])
            net = data.draw(networks())
            x, y = data.draw(batches(few))
            start = data.draw(trainings(net))
            steps._table.cache_clear()  # noqa: SLF001
            check_five_steps(net, x, y, by_hand(patched, net, x, y), start)

    try:
        if fault is None:
            a_few(steps_are_those_of_algorithm_1)()
        else:
            refuted(steps_are_those_of_algorithm_1)()
    finally:
        steps._table.cache_clear()  # noqa: SLF001


def test_the_eager_step_is_the_trainers_bit_for_bit(tmp_path):
    set_seed(1996)
    result = train(SimpleNet(), XORDataModule(4), max_epochs=20, device="cpu", checkpoint_dir=tmp_path)
    set_seed(1996)
    net = SimpleNet()

    take = stepper("eager", net, *xor())
    take(20)

    assert take.read().t == result.steps
    assert_identical(
        take.read().weights, parameters_to_vector(result.net.parameters()).detach(), claim="weights after 20 steps"
    )
    saved = torch.load(result.checkpoint, weights_only=True)["optimizer_states"][0]["state"].values()
    for part, name in ((take.read().m, "exp_avg"), (take.read().v, "exp_avg_sq")):
        trainers = torch.cat([own[name].flatten() for own in saved])
        assert_identical(part, trainers, claim=f"{name} after 20 steps")


def test_torch_compiles_for_every_stepper_however_many_there_are():
    """It gives up on code that it has compiled a few times, here once, and closures of one function share theirs."""
    if reason := unavailable("compiled", CPU):
        pytest.skip(reason)

    def scaled_by(factor):
        return lambda x: factor * x

    with patch.dict(os.environ), torch._dynamo.config.patch(cache_size_limit=1):  # noqa: SLF001
        counted = torch._dynamo.utils.counters["stats"]  # noqa: SLF001
        before = counted["unique_graphs"]
        scaled = [steps.compile_whole(scaled_by(factor), {})(torch.ones(())) for factor in (2, 3)]

    assert scaled == [2, 3]
    assert counted["unique_graphs"] == before + 2


def test_an_unknown_strategy_is_refused_with_those_there_are():
    message = "strategy is 'abacus', but should be one of eager, foreach, fused, compiled, compiled-chunk, cuda-graph"
    with pytest.raises(ValueError, match=re.escape(message)):
        stepper("abacus", SimpleNet(), *xor())


def test_a_strategy_of_another_device_is_refused():
    with pytest.raises(ValueError, match=r"'cuda-graph' on cpu, but it needs a device of type cuda"):
        stepper("cuda-graph", SimpleNet(), *xor())


def test_a_strategy_of_a_later_torch_is_refused(monkeypatch):
    monkeypatch.setattr(steps, "TORCH", (2, 3))

    message = f"'fused' on cpu under torch {torch.__version__}, but it needs torch 2.4"
    with pytest.raises(ValueError, match=re.escape(message)):
        stepper("fused", SimpleNet(), *xor())


@pytest.mark.parametrize("strategy", ["eager", "compiled"])
def test_a_batch_that_does_not_fit_is_refused_before_anything_is_compiled(strategy):
    if reason := unavailable(strategy, CPU):
        pytest.skip(reason)
    inputs, targets = xor()

    with pytest.raises(ValueError, match=r"targets have shape \(4,\), but should have that of the predictions"):
        stepper(strategy, SimpleNet(), inputs, targets.flatten())
