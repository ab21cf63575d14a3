"""Properties of each implementation of Adam: those that ``simplenet.testing`` checks in any optimizer, and others.

The others hold bit for bit: scaling, symmetry, independence of entries and groups, the state by torch's names.
"""

import contextlib
import io
import math
import warnings
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR

from simplenet.environment import TORCH
from simplenet.testing.assertions import assert_identical, assert_in_balls, assert_within, refuted
from simplenet.testing.bounds import gamma, unit_roundoff
from simplenet.testing.checks import adam_checks, run_adam
from simplenet.testing.fused_cuda import FusedCuda
from simplenet.testing.implementations import FOR_LOOP, LR, AdamUnderTest, Implementation, adams, apply_step
from simplenet.testing.layouts import LAYOUTS, place
from simplenet.testing.one_step import TorchHyper, TrainingState, one_step
from simplenet.testing.optimizers import Subject
from simplenet.testing.report import Status
from simplenet.testing.runner import Recorder
from simplenet.testing.strategies import DTYPES, adam_arithmetic, floats, skip_where_missing, tensors
from simplenet.testing.study import Study
from tests.states import read, write

SHAPE = (2, 5)  # longer than vectors of four and eight, so that kernels run their scalar tails
STEPS = 3

# Far from float32's limits: squares, and squares scaled by 2^±20, are normal.
moderate = floats(torch.float32, min_exponent=-10, max_exponent=10)
parameters = tensors(SHAPE, elements=moderate)
runs = st.lists(tensors(SHAPE, elements=moderate), min_size=STEPS, max_size=STEPS)


@cache
def study(adam):
    """Keep what the checks of an implementation have in common."""
    return Study(Subject(adam, name=str(adam)), device=adam.device, variant="adam")


@pytest.mark.parametrize("check", adam_checks(), ids=str)
def test_an_implementation_passes_the_check(adam, check):
    """Where a defect is expected to fail it, ``simplenet.testing.known`` recognizes that defect."""
    result = run_adam(check, study(adam), Recorder())

    if result.status is Status.FAILS:
        pytest.fail(result.detail)
    missing = ["it takes no tensor as lr"] if TORCH < (2, 1) or adam.implementation.name == "foreach" else []
    missing += ["it does not take float16"] if TORCH < (2, 2) and adam.device.type == "cpu" else []
    allowed = result.status is Status.NOT_APPLICABLE and result.detail.startswith(tuple(missing))
    assert result.status is Status.HOLDS or allowed, result.detail


def trajectory(adam, start, gradients, **options):
    """Take a step for each gradient, from ``start``; return the parameter after each step."""
    p = adam.parameter(start.clone().to(adam.device))
    optimizer = adam([p], **options)
    visited = []
    for g in gradients:
        apply_step(optimizer, [p], [g.to(adam.device)])
        visited.append(p.detach().clone())
    return torch.stack(visited)


@given(p=parameters, gradients=runs, k=st.integers(-20, 20), eps=st.sampled_from([0.0, 2.0**-27]))
def test_scaling_the_gradients_and_epsilon_by_a_power_of_two_changes_nothing(adam, p, gradients, k, eps):
    """The magnitudes of parameter updates are invariant to rescaling of the gradient: Kingma and Ba 2015, §1."""
    gradients = [g + (g == 0) for g in gradients]  # with eps = 0, a zero gradient is 0/0

    scaled = trajectory(adam, p, [g * 2.0**k for g in gradients], eps=eps * 2.0**k)

    assert_identical(scaled, trajectory(adam, p, gradients, eps=eps), claim="trajectory")


@given(p=parameters, gradients=runs)
def test_negating_the_start_and_the_gradients_negates_the_trajectory(adam, p, gradients):
    mirrored = trajectory(adam, -p, [-g for g in gradients])

    assert_identical(mirrored + 0.0, -trajectory(adam, p, gradients) + 0.0, claim="trajectory")


@given(g=tensors(SHAPE, elements=moderate))
def test_twice_the_learning_rate_is_twice_the_displacement(adam, g):
    """From 0, where the parameter's own rounding does not matter."""
    start = torch.zeros(SHAPE)

    double = trajectory(adam, start, [g], lr=2 * LR)

    assert_identical(double, 2 * trajectory(adam, start, [g]), claim="displacement")


@given(p=parameters, gradients=runs, data=st.data())
def test_splitting_and_permuting_parameters_with_an_empty_one_changes_no_step(adam, p, gradients, data):
    """A matrix moves as its rows do, in any order, with an empty one too: bit for bit, or within a step's bound."""
    if not adam.implementation.position_independent:
        gradients = gradients[:1]  # only the first step has a bound
    rows = [adam.parameter(row.clone().to(adam.device)) for row in p]
    empty = adam.parameter(torch.zeros((0, 3), device=adam.device))
    order = data.draw(st.permutations([*range(len(rows)), None]), label="order, with the empty one")
    optimizer = adam(empty if i is None else rows[i] for i in order)

    for g in gradients:
        apply_step(optimizer, [*rows, empty], [*g.to(adam.device), torch.zeros_like(empty)])

    moved = {"rows": torch.stack([row.detach() for row in rows]), "matrix": trajectory(adam, p, gradients)[-1]}
    if adam.implementation.position_independent:
        assert_identical(*moved.values(), claim="parameter")
        return
    fresh = TrainingState(p, torch.zeros(SHAPE), torch.zeros(SHAPE), None, 0)
    expected = one_step(fresh, gradients[0], TorchHyper(lr=LR), tensor_scalars=False)
    for claim, values in moved.items():
        assert_in_balls(values.flatten(), expected.p, claim=f"parameter as {claim}")


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"weight_decay": 0.1}, {"maximize": True}], ids=str)
@given(p=tensors((3, 2), elements=moderate), gradients=st.lists(tensors((3, 2), elements=moderate), min_size=2))
def test_a_complex_parameter_moves_as_its_real_and_imaginary_parts(adam, options, p, gradients):
    """But the fused kernels take none."""
    if TORCH < (2, 1) and options.keys() & {"amsgrad", "weight_decay"}:
        pytest.skip(f"torch {torch.__version__} has no maximum of complex numbers, nor their decay in a list")
    parts = [torch.view_as_complex(t.clone()) for t in (p, *gradients)]
    if adam.implementation.name.startswith("fused"):
        with pytest.raises(RuntimeError, match="floating point Tensors"):
            trajectory(adam, parts[0], parts[1:], **options)
        return

    moved = trajectory(adam, parts[0], parts[1:], **options)

    assert_identical(torch.view_as_real(moved), trajectory(adam, p, gradients, **options), claim="parts")


@pytest.mark.parametrize("gradient_layout", [*LAYOUTS, "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fused_kernel_of_cuda_refuses_different_strides_and_moves_nothing(device, layout, gradient_layout):
    """It takes the same strides, which change no step. Emulated on the CPU."""
    emulated = AdamUnderTest(Implementation("fused on CUDA", build=FusedCuda.build), torch.device("cpu"))
    adam = next((one for one in adams([device]) if str(one).startswith("fused-cuda")), emulated)
    start, g = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(1996)).to(adam.device)
    # Expanded: one row, repeated with a stride of 0.
    g = g[:1].expand(SHAPE) if gradient_layout == "expanded" else place(g, gradient_layout).tensor
    placed = place(start, layout)
    p = adam.parameter(placed.tensor)
    optimizer = adam([p])
    # Moments get the order of their parameter's strides, without gaps.
    takes = {layout, gradient_layout} <= {"contiguous", "offset"} or layout == gradient_layout == "transposed"

    with contextlib.nullcontext() if takes else pytest.raises(RuntimeError, match="layout"):
        for _ in range(STEPS):
            apply_step(optimizer, [p], [g])

    expected = trajectory(adam, start, [g.contiguous()] * STEPS)[-1] if takes else start
    assert placed.guard_is_intact(), f"memory around the {layout} parameter was written to"
    assert_identical(placed.tensor, expected, claim=f"{layout} parameter, {gradient_layout} gradient")


def gradient_scaler(device):
    if TORCH >= (2, 3):
        return torch.amp.GradScaler(device.type)
    if device.type != "cuda":
        pytest.skip(f"torch scales gradients on {device.type} from 2.3 on")
    return torch.cuda.amp.GradScaler()


@pytest.mark.parametrize("skipped", [0, 1])
@given(p=parameters, gradients=runs)
def test_a_step_skipped_for_an_overflow_changes_neither_the_parameters_nor_later_steps(adam, skipped, p, gradients):
    """The gradient scaler or the optimizer skips it; scales are powers of two, so scaling is exact."""
    scaler = gradient_scaler(adam.device)
    scaler.scale(torch.ones((), device=adam.device))  # initializes the scale
    scaled, plain = (adam.parameter(p.clone().to(adam.device)) for _ in "ab")
    optimizer, twin = adam([scaled]), adam([plain])

    def scaled_step(g):
        scaled.grad = g.to(adam.device) * scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()

    for i, g in enumerate(gradients):
        if i == skipped:
            scaled_step(torch.full_like(g, torch.inf))
            assert_identical(scaled, plain, claim="parameter after a skipped step")
        scaled_step(g)
        apply_step(twin, [plain], [g.to(adam.device)])

    assert_identical(scaled, plain, claim="parameter")
    for name, value in twin.state[plain].items():
        assert_identical(torch.as_tensor(optimizer.state[scaled][name]), torch.as_tensor(value), claim=name)


@given(p=parameters, gradients=runs, data=st.data())
def test_parameter_groups_are_independent_in_any_order(adam, p, gradients, data):
    """Two groups that differ in every option; the second may be added after the first step."""
    options = [
        {"lr": 4 * LR, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": False, "maximize": True},
        {"lr": LR / 4, "betas": (0.5, 0.9), "eps": 1e-5, "weight_decay": 0.0, "amsgrad": True, "maximize": False},
    ]
    late = data.draw(st.booleans(), label="second group added after the first step")
    order = [0, 1] if late else data.draw(st.permutations([0, 1]), label="order")
    rows = [adam.parameter(row.clone().to(adam.device)) for row in p]
    rates = [
        adam([row], **own).param_groups[0]["lr"] for row, own in zip(rows, options, strict=True)
    ]  # some in tensors
    groups = [{"params": [row], **own, "lr": lr} for row, own, lr in zip(rows, options, rates, strict=True)]
    optimizer = adam([groups[i] for i in order[: 1 if late else 2]])
    for i, g in enumerate(gradients):
        if late and i == 1:
            optimizer.add_param_group(groups[1])
        apply_step(optimizer, rows, list(g.to(adam.device)))

    for i, row in enumerate(rows):
        own_gradients = [g[i] for g in gradients][1 if late and i == 1 else 0 :]
        expected = trajectory(adam, p[i], own_gradients, **options[i])[-1]
        assert_identical(row, expected, claim=f"parameter of group {i}")


@given(p=parameters, g=tensors(SHAPE, elements=moderate), factors=st.permutations([1.0, 0.5, 0.25]))
def test_each_group_follows_its_own_schedule(adam, p, g, factors):
    """From one rate for all groups, each schedule gives its own rate; the factors are powers of two, so it is exact."""
    rows = [adam.parameter(row.clone().to(adam.device)) for row in p]
    optimizer = adam([{"params": [row]} for row in rows])
    if not isinstance(optimizer, torch.optim.Optimizer):
        pytest.skip(f"torch's schedules need an optimizer of torch, and {adam} is none")

    LambdaLR(optimizer, [lambda _, factor=factor: factor for factor in factors[: len(rows)]])
    apply_step(optimizer, rows, list(g.to(adam.device)))

    for i, (row, factor) in enumerate(zip(rows, factors, strict=False)):
        expected = trajectory(adam, p[i], [g[i]], lr=factor * LR)[-1]
        assert_identical(row, expected, claim=f"parameter of group {i} at {factor} of the rate")


# A first step of lr 1 with epsilon 1/4, in which every operation is exact in every type: m is g/2 and v is g^2/4, the
# bias corrections 1/2 and 1/4, the denominator |g| + 1/4, a power of two, and the step g / (|g| + 1/4).
EXACT = {"lr": 1.0, "betas": (0.5, 0.75), "eps": 0.25}
EXACT_GRADIENTS = torch.tensor([0.25, -0.75, 1.75, -0.25, 0.75, -1.75])
EXACT_STEPS = torch.tensor([0.5, -0.75, 0.875, -0.5, 0.75, -0.875])

# More than the blocks of kernels and of lists of tensors, 65,536 numbers and 110 tensors, and no multiple of a vector.
MANY = [(2**16 + 5,), (130, 33), *[(), (1,), (2, 5), (3,), (17,)] * 23]


def test_a_first_step_is_exact_at_every_size(adam):
    """For large, many and small parameters of every type in one group; also for the moments."""
    types = [dtype for dtype in DTYPES if dtype not in study(adam).refusals]
    index = torch.arange(2**16 + 5)
    numbers = (index % 5) - 2, EXACT_GRADIENTS[index % 6], EXACT_STEPS[index % 6]
    # Large ones in each type, the others in alternating types; another test is for parameters without dimensions.
    given = [(shape, dtype) for shape in MANY[:2] for dtype in types]
    given += [(shape, types[i % len(types)] if shape else torch.float64) for i, shape in enumerate(MANY[2:])]
    starts, gradients, steps = (
        [values[: math.prod(shape)].reshape(shape).to(adam.device, dtype) for shape, dtype in given]
        for values in numbers
    )
    parameters = [adam.parameter(start.clone()) for start in starts]
    optimizer = adam(parameters, **EXACT)

    apply_step(optimizer, parameters, gradients)

    for dtype in types:
        own = [i for i, p in enumerate(parameters) if p.dtype == dtype]
        start, g, step = (torch.cat([values[i].flatten() for i in own]) for values in (starts, gradients, steps))
        after = [read(optimizer, parameters[i]) for i in own]
        p, m, v = (torch.cat([getattr(state, name).flatten() for state in after]) for name in ("p", "m", "v"))
        assert_identical(p, start - step, claim=f"parameters in {dtype}")
        assert_identical(m, g / 2, claim=f"first moments in {dtype}")
        assert_identical(v, g * g / 4, claim=f"second moments in {dtype}")


DOCUMENTED = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}


@pytest.mark.parametrize(
    ("cls", "documented"),
    [(torch.optim.Adam, DOCUMENTED), (torch.optim.AdamW, DOCUMENTED | {"weight_decay": 0.01})],
    ids=["Adam", "AdamW"],
)
def test_the_defaults_are_those_of_the_documentation(cls, documented):
    """In the groups, and in the steps."""
    default, explicit = (torch.ones(3, requires_grad=True) for _ in "ab")
    optimizer, twin = cls([default]), cls([explicit], **documented)

    for _ in range(STEPS):
        apply_step(optimizer, [default], [torch.ones(3)])
        apply_step(twin, [explicit], [torch.ones(3)])

    assert {name: optimizer.param_groups[0][name] for name in documented} == documented
    assert_identical(default, explicit, claim="parameter")


# Gradients that shrink, so that AMSGrad's maximum is not the last second moment.
FALLING = [torch.full(SHAPE, 4.0), torch.full(SHAPE, -0.5), torch.full(SHAPE, 0.25), torch.full(SHAPE, 0.125)]
OTHER = {"lr": 2.0**-4, "betas": (0.5, 0.75), "eps": 2.0**-6, "weight_decay": 0.125, "amsgrad": True, "maximize": True}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_loaded_from_a_file_takes_the_same_steps_bit_for_bit(adam, dtype):
    """In an optimizer constructed with other options; past 256 steps, where bfloat16 stops counting by ones."""
    skip_where_missing(adam_arithmetic, dtype, adam.device)
    *earlier, later = (g.to(adam.device, dtype) for g in FALLING)
    p = adam.parameter(torch.ones(SHAPE, dtype=dtype, device=adam.device))
    optimizer = adam([p], **OTHER)
    for g in earlier:
        apply_step(optimizer, [p], [g])
    write(optimizer, p, read(optimizer, p)._replace(t=300))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)

    q = adam.parameter(p.detach().clone())
    loaded = adam([q])
    loaded.load_state_dict(torch.load(file, weights_only=True))
    apply_step(optimizer, [p], [later])
    apply_step(loaded, [q], [later])

    assert {name: loaded.param_groups[0][name] for name in OTHER} == OTHER
    after, expected = read(loaded, q), read(optimizer, p)
    assert (after.t, expected.t) == (301, 301)
    for name in ("p", "m", "v", "v_max"):
        assert_identical(getattr(after, name), getattr(expected, name), claim=name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_gradient_stays_in_its_entry_of_the_moments(adam, value):
    p = adam.parameter(torch.ones(SHAPE, device=adam.device))
    optimizer = adam([p])
    spoilt = torch.ones_like(p)
    spoilt[0, 2] = value

    for g in (spoilt, torch.ones_like(p)):
        apply_step(optimizer, [p], [g])

    after = read(optimizer, p)
    for moment in (after.m, after.v):
        assert torch.equal(moment.isfinite(), spoilt.isfinite()), f"moment is {moment} after a gradient of {value}"


@pytest.fixture(scope="module")
def something_compiled():
    """Compile a function, because torch's compiler changes all optimizers; skip where that matters but cannot be."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what torch itself deprecates
            torch.compile(lambda x: x, backend="eager")(torch.ones(1))
    except RuntimeError as error:
        if (2, 1) <= TORCH < (2, 3):
            pytest.skip(f"torch {torch.__version__}: {error}")


@pytest.mark.usefixtures("something_compiled")
@pytest.mark.parametrize("loads", [False, True])
def test_a_step_calls_a_hook_its_closure_and_a_hook_in_this_order(adam, loads):
    """Each once for all groups; the closure with gradients enabled. Only the last hook sees the parameters moved.

    Loading a state changes nothing of that.
    """
    tensors, seen = [adam.parameter(torch.ones(3, device=adam.device)) for _ in "ab"], []
    optimizer = adam([{"params": [p]} for p in tensors])

    def record(what):
        seen.append((what, torch.cat(tensors).detach()))

    optimizer.register_step_pre_hook(lambda *_: record("before"))
    optimizer.register_step_post_hook(lambda *_: record("after"))
    if loads:
        optimizer.load_state_dict(optimizer.state_dict())
    for p in tensors:
        p.grad = torch.ones_like(p)

    with torch.no_grad():
        optimizer.step(lambda: record(torch.is_grad_enabled()))

    assert [name for name, _ in seen] == ["before", True, "after"]
    for (_, values), expected in zip(seen, (torch.ones(6), torch.ones(6), torch.cat(tensors)), strict=True):
        assert_identical(values, expected, claim="parameters")
    assert (torch.cat(tensors) != 1).all()


def test_clearing_to_zero_keeps_the_gradients_memory(adam):
    """Which may be a part of a buffer of all gradients."""
    p, buffer = adam.parameter(torch.ones(3, device=adam.device)), torch.ones(5, device=adam.device)
    p.grad = buffer[1:4]

    adam([p]).zero_grad(set_to_none=False)

    assert buffer.tolist() == [1, 0, 0, 0, 1]
    assert p.grad.data_ptr() == buffer[1:].data_ptr()


@pytest.mark.skipif(TORCH < (2, 1), reason="the learning rate may be a tensor from torch 2.1 on")
@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
def test_a_learning_rate_that_is_a_tensor_is_copied_when_it_is_loaded(cls):
    saving, loading = (cls([torch.zeros(1)], lr=torch.tensor(lr), foreach=False) for lr in (0.5, 0.25))
    state = saving.state_dict()
    loading.load_state_dict(state)

    loading.param_groups[0]["lr"].fill_(0.125)

    assert (saving.param_groups[0]["lr"], state["param_groups"][0]["lr"]) == (0.5, 0.5)


def test_adamw_decouples_its_decay_though_it_loads_a_state_of_adam(adam):
    """Since torch 2.7 it is an option of Adam's groups, which a loaded state brings."""
    options = {"weight_decay": 0.5}
    p, zero = (adam.parameter(torch.full(SHAPE, value, device=adam.device)) for value in (1.0, 0.0))
    optimizer = adam([p], decoupled=True, **options)

    optimizer.load_state_dict(adam([zero], **options).state_dict())
    apply_step(optimizer, [p], [zero.detach()])

    expected = trajectory(adam, torch.ones(SHAPE), [torch.zeros(SHAPE)], decoupled=True, **options)
    assert_identical(p, expected[0], claim="parameter")
    assert (p < 1).all()


@pytest.mark.claim("4.2/memory")
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_state_is_two_tensors_a_parameter_and_a_count(adam, amsgrad):
    """With the parameter's shape, dtype and device; AMSGrad has one more. Without a gradient there is no state."""
    p, without_gradient = (adam.parameter(torch.ones(SHAPE, device=adam.device)) for _ in "ab")
    optimizer = adam([p, without_gradient], amsgrad=amsgrad)
    apply_step(optimizer, [p], [torch.ones_like(p)])

    state = dict(optimizer.state[p])

    assert set(optimizer.state) == {p}
    assert float(state.pop("step")) == 1
    assert set(state) == {"exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if amsgrad else set())
    assert all((s.shape, s.dtype, s.device) == (p.shape, p.dtype, p.device) for s in state.values())


@given(p=parameters, gradients=runs)
def test_the_two_weight_decays_agree_at_zero_and_differ_elsewhere(adam, p, gradients):
    p = p + (p == 0)
    without = [trajectory(adam, p, gradients, weight_decay=0.0, decoupled=decoupled) for decoupled in (False, True)]
    with_decay = [trajectory(adam, p, gradients, weight_decay=0.5, decoupled=decoupled) for decoupled in (False, True)]

    assert_identical(*without, claim="without decay")
    assert not torch.equal(*with_decay)


# In float32: three roundings a step in each of m and v, and 8 in the rest; the bound's factors are in float64.
def step_ratio_rtol(steps):
    return gamma(6 * steps + 8, torch.float32)


def cauchy_schwarz(t, beta1, beta2):
    """Bound |m_hat| / sqrt(v_hat) after ``t`` steps, for any gradients.

    m_t is the inner product of the weights (1 - b1) b1^i / sqrt(b2^i) with sqrt(b2^i) g_i, and the squared
    norm of the second vector is v_t / (1 - b2). By the Cauchy-Schwarz inequality, with r = b1^2 / b2:
    (1 - b1) / (1 - b1^t) * sqrt((1 - r^t) / (1 - r)) * sqrt((1 - b2^t) / (1 - b2)).
    """
    r = beta1**2 / beta2
    return (1 - beta1) / (1 - beta1**t) * ((1 - r**t) / (1 - r)) ** 0.5 * ((1 - beta2**t) / (1 - beta2)) ** 0.5


lengths = st.integers(1, 12)


def longest_step(adam, gradients, betas):
    """Return the largest entry of the last step, in units of lr."""
    return last_displacement(adam, gradients, lr=1.0, betas=betas, eps=1e-30).abs().max().item()


@given(data=st.data(), t=lengths, betas=st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)]))
def test_no_step_is_longer_than_the_cauchy_schwarz_bound(adam, data, t, betas):
    """In units of the learning rate, and for any sequence of gradients."""
    gradients = [data.draw(tensors(SHAPE, elements=moderate)) for _ in range(t)]

    longest = longest_step(adam, gradients, betas)

    limit = cauchy_schwarz(t, *betas) * (1 + step_ratio_rtol(t))
    if adam.tensor_scalars:  # as in test_adam.py: float32 corrections cancel
        limit *= 1 + gamma(2 * t, torch.float32) * (1 / (1 - betas[0]) + 1 / (1 - betas[1]) / 2)
    assert longest <= limit, f"step {t} is {longest} lr, but should be at most {limit} lr"


@pytest.mark.parametrize("t", [1, 2, 5, 12])
def test_the_gradients_that_attain_cauchy_and_schwarz_come_within_rounding_of_the_limit(adam, t):
    """So the bound is tight: it is attained if sqrt(b2^i) g_i is proportional to the weights."""
    beta1, beta2 = 0.5, 0.9
    gradients = [torch.full(SHAPE, (beta1 / beta2) ** (t - 1 - i)) for i in range(t)]

    longest = longest_step(adam, gradients, (beta1, beta2))

    rtol = step_ratio_rtol(t) + gamma(2 * t, torch.float32) * (1 / (1 - beta1) + 1 / (1 - beta2) / 2)
    assert_within(torch.tensor(longest), cauchy_schwarz(t, beta1, beta2), rtol=rtol, claim=f"step {t} in units of lr")


@refuted
@given(data=st.data())
def test_no_later_step_is_longer_than_the_learning_rate(data):
    """It is true only of the first step."""
    gradients = [data.draw(tensors(SHAPE, elements=moderate)) for _ in range(4)]

    assert longest_step(AdamUnderTest(FOR_LOOP, torch.device("cpu")), gradients, (0.5, 0.9)) <= 1 + step_ratio_rtol(4)


@pytest.mark.claim("4.2/adagrad-and-rmsprop")
@given(gradients=runs)
def test_with_beta1_0_adam_is_rmsprop_with_bias_correction(adam, gradients):
    """beta1 = 0. torch's RMSprop has no correction, so its eps = 0 step is Adam's times sqrt(1 - beta2^t)."""
    beta2 = 0.9
    gradients = [(g + (g == 0)).double() for g in gradients]
    actual = last_displacement(adam, gradients, lr=LR, betas=(0.0, beta2), eps=0.0)

    rmsprop = last_displacement(torch.optim.RMSprop, gradients, lr=LR, alpha=beta2, eps=0.0)

    # Both sides: v three roundings a step; root, correction, quotient and product.
    rtol = gamma(6 * STEPS + 12, torch.float64)
    if adam.tensor_scalars:
        rtol += gamma(2 * STEPS, torch.float32) / (1 - beta2)  # corrected in float32: a known defect, not this claim
    assert_within(actual, rmsprop * (1 - beta2**STEPS) ** 0.5, rtol=rtol, claim="displacement")


@pytest.mark.claim("4.2/adagrad-and-rmsprop")
@given(gradients=runs)
def test_as_beta2_approaches_one_adam_becomes_adagrad(adam, gradients):
    """beta1 = 0, 1 - beta2 = d small, and lr / sqrt(t): Kingma and Ba 2015, §5.

    v_hat is then a weighted mean of the squares whose weights differ by at most (1 - d)^t, so the relative error of the
    root is at most t d. 1 - beta2^t is computed in the scalars' type with an error of 2 t roundings of 1, a relative
    error of 2 t u / t d, half of which remains after the root. Both are small if d is the root of u.
    """
    scalars = torch.float32 if adam.tensor_scalars else torch.float64
    u = unit_roundoff(scalars)
    d = 2.0 ** round(math.log2(u) / 2)
    gradients = [(g + (g == 0)).double() for g in gradients]
    actual = last_displacement(adam, gradients, lr=LR / STEPS**0.5, betas=(0.0, 1 - d), eps=0.0)

    adagrad = last_displacement(torch.optim.Adagrad, gradients, lr=LR, eps=0.0)

    # The learning rate is a scalar of that type too; the rest is as in the test of RMSprop.
    rtol = STEPS * d + u / d + gamma(2, scalars) + gamma(6 * STEPS + 12, torch.float64)
    assert_within(actual, adagrad, rtol=rtol, claim="displacement")


def last_displacement(optimizer_class, gradients, **options):
    """Take each step from 0, so that the parameter is not rounded; return the last displacement."""
    p = torch.zeros_like(gradients[0], device=getattr(optimizer_class, "device", "cpu"), requires_grad=True)
    optimizer = optimizer_class([p], **options)
    for g in gradients:
        with torch.no_grad():
            p.zero_()
        apply_step(optimizer, [p], [g.to(p.device)])
    return p.detach().cpu()
