"""The one-step oracle: what a step of Adam may do, from any state, to within its own rounding.

The formulas are those of ``simplenet.reference``, evaluated in balls; to them come the variants
that torch offers. The state before the step is the implementation's own ("teacher-forced"), so
that errors do not pile up and a bug cannot hide in the chaos of a trajectory.

References:
    Kingma and Ba 2015, Algorithm 1. Loshchilov and Hutter 2019, Algorithm 2 (decoupled decay).
    Reddi, Kale and Kumar 2018, Algorithm 2 (AMSGrad; torch corrects its maximum for bias too).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import Optimizer

from simplenet import SimpleNet, reference
from simplenet.reference import AdamState, adam
from simplenet.testing.assertions import assert_in_balls
from simplenet.testing.balls import Balls, TritonBalls, balls, in_balls
from simplenet.testing.bounds import TRITON_ROUNDINGS, unit_roundoff
from simplenet.testing.implementations import Implementation
from simplenet.testing.oracle import ROUNDINGS
from simplenet.testing.strategies import floats


class Hyper(NamedTuple):
    """The hyper-parameters of a step."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool
    amsgrad: bool
    maximize: bool

    def options(self) -> dict[str, object]:
        """Return what torch's constructors take."""
        options = self._asdict()
        del options["beta1"], options["beta2"]
        return {**options, "betas": (self.beta1, self.beta2)}


class State(NamedTuple):
    """A parameter and what the optimizer remembers of it."""

    p: Tensor
    m: Tensor
    v: Tensor
    v_max: Tensor | None
    t: float


def read(optimizer: Optimizer, p: Tensor) -> State:
    """Copy the state of one parameter."""
    state = optimizer.state[p]
    v_max = state.get("max_exp_avg_sq")
    tensors = (p, state["exp_avg"], state["exp_avg_sq"])
    copies = (tensor.detach().clone() for tensor in tensors)
    return State(*copies, None if v_max is None else v_max.clone(), float(state["step"]))


def write(optimizer: Optimizer, p: Tensor, state: State) -> None:
    """Put a parameter into a state; the optimizer has to have taken a step, so that its tensors exist."""
    own = optimizer.state[p]
    with torch.no_grad():
        p.copy_(state.p)
        own["exp_avg"].copy_(state.m)
        own["exp_avg_sq"].copy_(state.v)
        if state.v_max is not None:
            own["max_exp_avg_sq"].copy_(state.v_max)
        if isinstance(own["step"], Tensor):
            own["step"].fill_(state.t)
        else:
            own["step"] = state.t


class Expected(NamedTuple):
    """The balls in which a step's results have to lie, flat."""

    p: Balls
    m: Balls
    v: Balls
    v_max: Balls | None

    @property
    def bounded(self) -> bool:
        """Whether the bound says anything: false where rounding alone may make a denominator vanish."""
        return bool(np.isfinite(self.p.radius).all())


def one_step(
    state: State, g: Tensor | Balls, hyper: Hyper, *, tensor_scalars: bool, roundings: float = ROUNDINGS
) -> Expected:
    """Compute where a step from ``state`` along ``g`` may end.

    Args:
        state: The state before the step.
        g: The gradient: exact, or balls.
        hyper: The hyper-parameters.
        tensor_scalars: Whether bias corrections may be computed in the parameter's type (at least float32)
            instead of in float64.
        roundings: What one operation of Algorithm 1 may cost.
    """
    dtype = state.p.dtype
    theta, m, v = (balls(x.flatten(), dtype=dtype, roundings=roundings) for x in (state.p, state.m, state.v))
    if isinstance(g, Tensor):
        g = balls(g.flatten(), dtype=dtype)
    gradient = Balls(g.centre, g.radius, dtype=dtype, roundings=roundings)

    # Python's scalars are float64 and exact as given; in a tensor they are rounded first.
    scalar_dtype = max((dtype, torch.float32), key=lambda d: -unit_roundoff(d)) if tensor_scalars else torch.float64
    u = unit_roundoff(scalar_dtype) if tensor_scalars else 0.0

    def scalar(value: float) -> Balls:
        return Balls(value, abs(value) * u, dtype=scalar_dtype, roundings=roundings)

    if hyper.maximize:
        gradient = -gradient
    if hyper.weight_decay and hyper.decoupled:
        theta = theta * (1 - scalar(hyper.lr) * scalar(hyper.weight_decay))
    elif hyper.weight_decay:
        gradient = gradient + scalar(hyper.weight_decay) * theta
    before = AdamState(m, v, int(state.t))
    settings = [scalar(x) for x in (hyper.lr, hyper.beta1, hyper.beta2, hyper.eps)]
    moved, after = adam(theta, gradient, before, *settings)
    v_max = None
    if hyper.amsgrad:
        v_max = balls(state.v_max.flatten(), dtype=dtype, roundings=roundings).maximum(after.v)
        correction1, correction2 = (1 - beta ** (before.t + 1) for beta in settings[1:3])
        moved = theta - settings[0] * (after.m / correction1) / (np.sqrt(v_max / correction2) + settings[3])
    return Expected(moved, after.m, after.v, v_max)


# The notebook's settings (§4.2), which are torch's defaults but for the learning rate.
NOTEBOOK = Hyper(
    lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False, amsgrad=False, maximize=False
)


def training_step(
    net: SimpleNet, state: State, x: Tensor, y: Tensor, *, tensor_scalars: bool = False, triton: bool = False
) -> tuple[Balls, Expected]:
    """Compute where a whole training step may end: forward, backward and Adam.

    Args:
        net: The network, of the weights of ``state``.
        state: The state before the step, all parameters as one vector.
        x: The batch's inputs, of shape ``(n, 2)``.
        y: Its targets, of shape ``(n, 1)``.
        tensor_scalars: As for ``one_step``.
        triton: Whether the step is compiled for CUDA, in float32.

    Returns:
        The balls of the batch's loss before the step, and of what the step leaves.
    """
    architecture = net.hparams["architecture"]
    p, inputs, targets = in_balls(net, x, y, kind=TritonBalls if triton else Balls)
    _, y_hat = reference.forward(p, inputs, architecture)
    loss = ((targets - y_hat) ** 2).sum() / targets.size
    g = np.concatenate([part.flatten() for part in reference.gradients(p, inputs, targets, architecture)])
    roundings = max(ROUNDINGS, TRITON_ROUNDINGS * triton)
    hyper = NOTEBOOK._replace(lr=net.hparams["lr"])
    return loss, one_step(state, g, hyper, tensor_scalars=tensor_scalars, roundings=roundings)


def assert_training_step(actual: Iterable[Tensor], expected: Expected, *, claim: str) -> None:
    """Demand that weights, first and second moments, or the first of these, are where a step may lead."""
    __tracebackhide__ = True
    for name, one, ball in zip(("weights", "first moments", "second moments"), actual, expected, strict=False):
        assert_in_balls(one, ball, claim=f"{name} {claim}")


# What torch's documentation and its users set, and the ends of the domain [0, 1).
BETAS = (0.0, 0.5, 0.9, 0.999, 0.99999, 1 - 2**-53)
EPSILONS = (0.0, 1e-15, 1e-8, 1e-3)
# Steps taken before; float32 counts to 2^24.
STEPS = (0, 1, 9, 999, 10**6 - 1, 2**24 - 2, 2**24 - 1)
# Largest power of ten by which gradients are scaled: at 10^±12 squares stay inside float32's 10^±38.
LARGEST_SCALE = 12


@st.composite
def hypers(draw: st.DrawFn, dtype: torch.dtype, implementation: Implementation) -> Hyper:
    """Draw hyper-parameters; a learning rate of 0 has a test of its own.

    float16 holds nothing between 0 and 6e-8, and nothing above 65504: there, beta2 stays below one at which
    (1 - beta2) g^2 would vanish for g near 1, beta1 below one at which 1/(1 - beta1) would overflow, and
    epsilon is a number that is not 0 in float16. Where the step size divides the denominator it stays large enough
    not to overflow; below, the defect ``adam-float16-step-vanishes`` has a test of its own.

    Args:
        draw: Given by Hypothesis.
        dtype: Of the parameters.
        implementation: Whose limits to keep to.
    """
    small = dtype is torch.float16
    lowest = -9 if small and implementation.tensor_scalars else -14
    flags = {name: draw(st.booleans(), label=name) for name in ("amsgrad", "maximize", "decoupled")}
    return Hyper(
        lr=draw(floats(torch.float32, min_exponent=lowest, max_exponent=1, signed=False).filter(bool), label="lr"),
        beta1=draw(st.sampled_from(BETAS[:3] if small else BETAS), label="beta1"),
        beta2=draw(st.sampled_from(BETAS[:4] if small else BETAS), label="beta2"),
        eps=draw(st.sampled_from(EPSILONS[3:] if small else EPSILONS), label="eps"),
        weight_decay=draw(st.sampled_from([0.0, 0.1]), label="weight_decay"),
        **flags,
    )


@st.composite
def states(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, *, amsgrad: bool) -> tuple[State, Tensor]:
    """Draw a state to step from, and a gradient of its scale; the parameter starts at 0 half of the time.

    Args:
        draw: Given by Hypothesis.
        shape: Of the parameter.
        dtype: Of the parameter.
        amsgrad: Whether the state holds the largest second moment.
    """
    scale = 1.0 if dtype is torch.float16 else 10.0 ** draw(st.integers(-LARGEST_SCALE, LARGEST_SCALE), label="scale")
    size = int(np.prod(shape))
    unit = floats(dtype, min_exponent=-3, max_exponent=2)
    square = floats(dtype, min_exponent=-3, max_exponent=2, signed=False)

    def tensor(name: str, unit: st.SearchStrategy[float], scale: float) -> Tensor:
        values = draw(st.lists(unit, min_size=size, max_size=size), label=name)
        return (torch.tensor(values, dtype=torch.float64) * scale).to(dtype).reshape(shape)

    t = draw(st.sampled_from(STEPS), label="t")
    g = tensor("g / scale", unit, scale)
    p = torch.zeros(shape, dtype=dtype) if draw(st.booleans(), label="p = 0") else tensor("p", unit, 1.0)
    m = v = torch.zeros(shape, dtype=dtype)
    v_max = torch.zeros(shape, dtype=dtype) if amsgrad else None
    if t > 0:
        m, v = tensor("m / scale", unit, scale), tensor("v / scale^2", square, scale**2)
        v_max = tensor("v_max / scale^2", square, scale**2) if amsgrad else None
    return State(p, m, v, v_max, t), g
