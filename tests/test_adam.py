"""One step of Adam, in each implementation, against Algorithm 1."""

import os
import sys
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.optim import Adam, AdamW

from simplenet.testing.assertions import assert_identical, assert_in_balls, assert_within, refuted
from simplenet.testing.bounds import TRITON_ROUNDINGS, gamma, smallest_subnormal
from simplenet.testing.fused_cuda import FusedCuda
from simplenet.testing.implementations import (
    COMPILED,
    FOR_LOOP,
    IMPLEMENTATIONS,
    LR,
    AdamUnderTest,
    Implementation,
    apply_step,
)
from simplenet.testing.one_step import TorchHyper, TrainingState, one_step
from simplenet.testing.oracle import ROUNDINGS
from simplenet.testing.plugin import selected_devices
from simplenet.testing.strategies import DTYPES, adam_arithmetic, floats, skip_where_missing, tensors
from tests.faults.adam import FAULTS, FaultyAdam
from tests.states import hypers, read, states, write

CPU = torch.device("cpu")

# The last two are longer than a vector register of 8 or 16 float32s: kernels have a vectorized body and a scalar tail.
shapes = st.sampled_from([(1,), (3,), (2, 2), (11,), (19,)])


def check_one_step(adam, data, dtype, shapes=shapes, **choices):
    """Take one step from a drawn state, and compare parameter and state with Algorithm 1."""
    hyper = data.draw(hypers(dtype, adam.implementation), label="hyper")
    state, g = data.draw(states(data.draw(shapes, label="shape"), dtype, amsgrad=hyper.amsgrad), label="state, g")
    expected = one_step(state, g, hyper, tensor_scalars=adam.tensor_scalars, **choices)
    assume(expected.bounded)
    p = adam.parameter(torch.zeros_like(state.p, device=adam.device))
    optimizer = adam([p], **hyper.options())
    apply_step(optimizer, [p], [torch.zeros_like(p)])  # allocates the state
    write(optimizer, p, state)

    apply_step(optimizer, [p], [g.to(adam.device)])

    assert_expected(read(optimizer, p), expected, state.t + 1)


def assert_expected(after, expected, t):
    assert after.t == t, f"step count is {after.t}, but should be {t}"
    assert_in_balls(after.m.flatten(), expected.m, claim="first moment")
    assert_in_balls(after.v.flatten(), expected.v, claim="second moment")
    if expected.v_max is not None:
        assert_in_balls(after.v_max.flatten(), expected.v_max, claim="largest second moment")
    assert_in_balls(after.p.flatten(), expected.p, claim="parameter")


@pytest.mark.claim("4.2/moments", "4.2/update")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_one_step_from_any_state_is_that_of_algorithm_1(adam, dtype, data):
    """Parameter and state, from any (p, m, v, t), to within the rounding errors of Algorithm 1's operations."""
    skip_where_missing(adam_arithmetic, dtype, adam.device)
    check_one_step(adam, data, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_one_step_of_a_parameter_without_dimensions_is_that_of_algorithm_1(adam, dtype, data):
    """The computation is in the parameter's dtype, although type promotion gives such tensors no priority."""
    skip_where_missing(adam_arithmetic, dtype, adam.device)
    check_one_step(adam, data, dtype, shapes=st.just(()))


# The arithmetic of the fused kernel on CUDA, with its scalars declared as there.
FUSED_ON_CUDA = Implementation("fused on CUDA", build=FusedCuda.build, tensor_scalars=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_one_step_of_cudas_fused_kernel_is_that_of_algorithm_1(dtype, data):
    """Emulated on the CPU."""
    check_one_step(AdamUnderTest(FUSED_ON_CUDA, CPU), data, dtype)


@refuted
@given(data=st.data())
def test_cudas_fused_kernel_has_float64_scalars(data):
    """Until torch 2.10 it had; since then its scalars must be declared as tensors."""
    check_one_step(AdamUnderTest(replace(FUSED_ON_CUDA, tensor_scalars=False), CPU), data, torch.float32)


@pytest.mark.parametrize(
    ("kind", "version", "rounded"),
    [("cuda", (2, 11), True), ("cuda:1", (2, 13), True), ("cuda", (2, 10), False), ("cpu", (2, 13), False)],
)
def test_the_fused_kernel_of_cuda_rounds_its_scalars_from_torch_2_11_on(monkeypatch, kind, version, rounded):
    monkeypatch.setattr("simplenet.testing.oracle.TORCH", version)
    (fused,) = (one for one in IMPLEMENTATIONS if one.name == "fused")

    assert AdamUnderTest(fused, torch.device(kind)).tensor_scalars == rounded
    assert not AdamUnderTest(FOR_LOOP, torch.device(kind)).tensor_scalars


# As by default on CUDA: over all parameters at once.
CAPTURABLE = Implementation("capturable on the CPU", {"capturable": True, "foreach": True}, tensor_scalars=True)


@pytest.fixture(scope="module")
def capturable():
    """Make torch accept ``capturable`` on the CPU, where its operations are the same and no graph is recorded."""
    name = "_get_capturable_supported_devices"
    modules = [module for cls in (Adam, AdamW) if hasattr(module := sys.modules[cls.__module__], name)]
    if not modules:
        pytest.skip(f"torch {torch.__version__} does not keep the devices of capturable Adam in a list")
    with pytest.MonkeyPatch.context() as patched:
        for module in modules:
            patched.setattr(module, name, lambda **_: ["cpu"])
        yield AdamUnderTest(CAPTURABLE, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@given(data=st.data())
def test_one_capturable_step_from_any_state_is_that_of_algorithm_1(capturable, dtype, data):
    """On the CPU; in float64, its float32 bias corrections are a known defect."""
    check_one_step(capturable, data, dtype)


def test_capturable_has_its_known_defects_on_the_cpu_too(capturable):
    """The defects of its foreach code: lr 0 is right, but an epsilon that rounds to 0 in float16 is not."""
    zero = torch.zeros(1)
    off = first_step(capturable, torch.ones(1), torch.float64, lr=1.0, eps=0.0) + 1
    ended = {
        "at lr 0": first_step(capturable, zero, lr=0.0),
        "in float16": first_step(capturable, zero, torch.float16),
        "at a small lr in float16": first_step(capturable, torch.full((1,), 200.0), torch.float16, lr=2.0**-12),
    }

    assert [name for name, value in ended.items() if not value.isfinite()] == ["in float16"]
    assert ended["at lr 0"] == 0
    assert ended["at a small lr in float16"] == 0, "the step vanishes"
    assert off.abs() > 1e-12, "corrected in float32"


@refuted
@given(data=st.data())
def test_one_step_is_within_half_a_rounding_an_operation(data):
    """So the count of two is at most four times what torch's for-loop needs."""
    check_one_step(AdamUnderTest(FOR_LOOP, CPU), data, torch.float32, roundings=0.5)


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_the_oracle_detects_every_planted_fault(fault):
    """A correct Adam passes; with any one fault it does not."""
    adam = AdamUnderTest(Implementation(f"fault {fault}", {"fault": fault}, build=FaultyAdam.build), CPU)

    @given(data=st.data())
    def one_step_is_that_of_algorithm_1(data):
        check_one_step(adam, data, torch.float32)

    if fault is None:
        one_step_is_that_of_algorithm_1()
    else:
        refuted(one_step_is_that_of_algorithm_1)()


# The longest path of torch's first step: m 2 (constant, product), v 3 and half of them under the
# root 2, root 2, correction 2, eps 2, quotient 1, step size 2, product 1, weight 1: 15.
FIRST_STEP_ROUNDINGS = 15


def first_step_rtol(adam):
    """Bound the first step; with corrections in float32, 1 - beta loses digits by cancellation."""
    rtol = gamma(FIRST_STEP_ROUNDINGS, torch.float32)
    if adam.tensor_scalars:
        beta1, beta2 = 0.9, 0.999
        rtol += gamma(2, torch.float32) * (beta1 / (1 - beta1) + beta2 / (1 - beta2) / 2)
    return rtol


def first_step(adam, gradient, dtype=torch.float32, **options):
    """Take one step from 0 and return the parameter, in float64."""
    p = adam.parameter(torch.zeros(gradient.shape, dtype=dtype, device=adam.device))
    apply_step(adam([p], **options), [p], [gradient.to(dtype=dtype, device=adam.device)])
    return p.detach().cpu().double()


gradients = tensors((3,), elements=floats(torch.float32, min_exponent=-40, max_exponent=40).filter(bool))


@pytest.mark.claim("4.2/bias-correction")
@given(g=gradients, eps=st.sampled_from([0.0, 2.0**-40, 1e-8]))
def test_the_first_step_is_minus_lr_times_g_over_magnitude_plus_eps(adam, g, eps):
    """At t = 1 both bias corrections cancel the averages exactly: the step is lr g / (|g| + eps)."""
    actual = first_step(adam, g, eps=eps)

    expected = -LR * g.double() / (g.double().abs() + eps)
    assert_within(actual, expected, rtol=first_step_rtol(adam), claim="first step")


@pytest.mark.claim("4.2/adaptive-rates")
@given(g=gradients)
def test_the_first_step_is_no_longer_than_the_learning_rate(adam, g):
    """Whatever the gradient's scale: Kingma and Ba 2015, §2.1."""
    longest = first_step(adam, g, eps=0.0).abs().max().item()

    assert longest <= LR * (1 + first_step_rtol(adam)), f"first step is {longest / LR} lr"


def test_a_first_step_0_9_percent_too_long_passes_default_tolerances_and_fails_ours():
    """``torch.testing``'s float32 default allows 1e-5, a hundredth of a step at lr 1e-3."""
    long = AdamUnderTest(Implementation("long", {"fault": "step 0.9 % too long"}, build=FaultyAdam.build), CPU)
    g = torch.tensor([1.0, -2.0, 3.0])

    actual = first_step(long, g)

    expected = -LR * g.double().sign()
    torch.testing.assert_close(actual.float(), expected.float())
    with pytest.raises(AssertionError, match="first step"):
        assert_within(actual, expected, rtol=gamma(FIRST_STEP_ROUNDINGS, torch.float32), claim="first step")


@pytest.mark.parametrize("fault", ["eps inside the root", "eps before the correction"])
def test_the_positions_of_epsilon_are_distinguished(fault):
    """At gradients of 1 the first differs by 5e-9 lr and the second by 3e-7 lr; at small gradients by much more."""
    wrong = AdamUnderTest(Implementation(fault, {"fault": fault}, build=FaultyAdam.build), CPU)
    unit, small = torch.tensor([1.0]), torch.tensor([2.0**-20])

    torch.testing.assert_close(first_step(wrong, unit).float(), first_step(AdamUnderTest(FOR_LOOP, CPU), unit).float())
    expected = -LR * small.double() / (small.double() + 1e-8)
    with pytest.raises(AssertionError):
        assert_within(first_step(wrong, small), expected, rtol=gamma(FIRST_STEP_ROUNDINGS, torch.float32), claim=fault)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_a_zero_gradient_from_a_fresh_state_moves_nothing(adam, dtype, eps):
    """0 / (0 + eps) is 0 in every type."""
    skip_where_missing(adam_arithmetic, dtype, adam.device)
    p = adam.parameter(torch.ones(3, dtype=dtype, device=adam.device))

    apply_step(adam([p], eps=eps), [p], [torch.zeros_like(p)])

    assert_identical(p, torch.ones(3, dtype=dtype), claim="parameter after a zero gradient")


@pytest.mark.claim("4.2/epsilon")
def test_the_default_epsilon_is_zero_in_float16_and_in_no_other_type():
    """So a zero gradient gives 0/0: the defect ``adam-float16-zero-gradient``."""
    vanishes = {dtype for dtype in DTYPES if torch.tensor(1e-8, dtype=dtype) == 0}

    assert vanishes == {torch.float16}
    assert smallest_subnormal(torch.float16) / 2 > 1e-8


@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_a_learning_rate_of_zero_moves_nothing(adam, gradient):
    p = adam.parameter(torch.ones(3, device=adam.device))

    apply_step(adam([p], lr=0.0), [p], [torch.full_like(p, gradient)])

    assert_identical(p, torch.ones(3), claim="parameter at lr 0")


def test_a_step_of_a_small_learning_rate_does_not_vanish_in_float16(adam):
    """The first step has the length lr; the gradient's square is within float16's 65504."""
    skip_where_missing(adam_arithmetic, torch.float16, adam.device)

    moved = first_step(adam, torch.full((1,), 200.0), torch.float16, lr=2.0**-12)

    assert_within(moved, [-(2.0**-12)], rtol=gamma(FIRST_STEP_ROUNDINGS, torch.float16), claim="first step")


def test_the_step_count_continues_past_two_to_the_24(adam):
    """Where float32 stops counting by ones."""
    p = adam.parameter(torch.zeros(1, device=adam.device))
    optimizer = adam([p])
    apply_step(optimizer, [p], [torch.ones_like(p)])
    write(optimizer, p, read(optimizer, p)._replace(t=2**24))

    apply_step(optimizer, [p], [torch.ones_like(p)])

    assert read(optimizer, p).t == 2**24 + 1


DEFAULTS = TorchHyper(lr=LR)
COMPILED_HYPERS = {
    "defaults": DEFAULTS,
    "amsgrad": replace(DEFAULTS, amsgrad=True, eps=1e-3),
    "L2": replace(DEFAULTS, weight_decay=0.1, maximize=True),
    "decoupled": replace(DEFAULTS, weight_decay=0.1, decoupled=True, beta1=0.5),
    "no moments": replace(DEFAULTS, beta1=0.0, beta2=0.0, eps=0.0),
}


def pytest_generate_tests(metafunc):
    """Compile for two dtypes and one set of hyper-parameters, or under ``explore`` for all; each takes seconds."""
    if "compiled" in metafunc.fixturenames:
        explore = metafunc.config.getoption("--hypothesis-profile") == "explore"
        names, dtypes = (COMPILED_HYPERS, DTYPES) if explore else (["defaults"], [torch.float32, torch.float64])
        cells = [*product(names, selected_devices(metafunc.config))]
        ids = [name if device == CPU else f"{name}-{device}" for name, device in cells]
        metafunc.parametrize("compiled", cells, ids=ids, indirect=True, scope="module")
        metafunc.parametrize("dtype", dtypes, ids=str, scope="module")


@pytest.fixture(scope="module")
def compiled(request, dtype):
    """Return hyper-parameters, a compiled optimizer, its parameter, and a subnormal number computed after compiling."""
    name, device = request.param
    if not COMPILED.runs_on(device):
        pytest.skip("torch.compile takes an optimizer's step from torch 2.3 on")
    adam, hyper = AdamUnderTest(COMPILED, device), COMPILED_HYPERS[name]
    if dtype is torch.float16:  # as for ``hypers``
        hyper = replace(hyper, eps=max(hyper.eps, 1e-3))
    p = adam.parameter(torch.zeros(3, dtype=dtype, device=device))
    optimizer = adam([p], **hyper.options())
    # All optimizers share one code object, which torch compiles only a few times; then it would run uncompiled.
    limit = 2 * len(COMPILED_HYPERS) * len(DTYPES)  # on two devices
    with torch._dynamo.config.patch(cache_size_limit=limit):  # noqa: SLF001
        graphs = torch._dynamo.utils.counters["stats"]  # noqa: SLF001
        before = graphs["unique_graphs"]
        apply_step(optimizer, [p], [torch.ones_like(p)])
        assert graphs["unique_graphs"] > before, "nothing was compiled"
        yield hyper, optimizer, p, torch.tensor(torch.finfo(torch.float32).tiny) / 2


# torch's compiler imports what torch itself deprecates.
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


@compiles
@given(data=st.data())
def test_one_compiled_step_from_any_state_is_that_of_algorithm_1(compiled, data):
    hyper, optimizer, p, _ = compiled
    state, g = data.draw(states((3,), p.dtype, amsgrad=hyper.amsgrad), label="state, g")
    roundings = max(ROUNDINGS, TRITON_ROUNDINGS) if p.is_cuda else ROUNDINGS
    expected = one_step(state, g, hyper, tensor_scalars=COMPILED.tensor_scalars, roundings=roundings)
    assume(expected.bounded)
    write(optimizer, p, state)

    apply_step(optimizer, [p], [g.to(p.device)])

    assert_expected(read(optimizer, p), expected, state.t + 1)


@compiles
def test_compiling_a_step_does_not_turn_subnormal_numbers_into_zero(compiled):
    """Loading compiled code does not change the flush-to-zero mode of other functions."""
    *_, p, half_the_smallest_normal_number = compiled
    if p.is_cuda:
        pytest.skip("code compiled for a GPU does not change the CPU's mode")

    assert half_the_smallest_normal_number > 0


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_one_traced_step_of_a_parameter_of_any_shape_is_that_of_algorithm_1(dtype, shape):
    """With lr and betas that make bias corrections exact; the compiler traces the step, but generates no code."""
    if not COMPILED.runs_on(CPU):
        pytest.skip("torch.compile takes an optimizer's step from torch 2.3 on")
    p = torch.zeros(shape, dtype=dtype, requires_grad=True)
    p.grad = torch.full(shape, 0.5, dtype=dtype)
    zero, hyper = torch.zeros_like(p), TorchHyper(lr=2.0**-10, beta1=0.0, beta2=0.0)
    expected = one_step(TrainingState(zero, zero, zero, None, 0), p.grad, hyper, tensor_scalars=True)
    optimizer = torch.optim.Adam([p], lr=hyper.lr, betas=(0.0, 0.0))
    graphs = torch._dynamo.utils.counters["stats"]  # noqa: SLF001
    before = graphs["unique_graphs"]

    # All optimizers share one code object, and the compiler sets environment variables.
    with patch.dict(os.environ), torch._dynamo.config.patch(cache_size_limit=64):  # noqa: SLF001
        torch.compile(optimizer.step, backend="aot_eager")()

    assert graphs["unique_graphs"] > before, "nothing was traced"
    assert_in_balls(p.flatten(), expected.p, claim="parameter after a traced step")


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", -1.0), ("eps", -1e-8), ("betas", (-0.1, 0.9)), ("betas", (1.0, 0.9)), ("betas", (0.9, 1.0)),
     ("betas", (0.9, float("nan"))), ("weight_decay", -1.0), ("lr", float("nan")), ("eps", float("nan"))],
)  # fmt: skip
def test_an_invalid_hyper_parameter_is_refused(adam, option, value):
    with pytest.raises(ValueError, match=r"Invalid|Tensor lr"):
        adam([adam.parameter(torch.zeros(1))], **{option: value})
