"""The one-step oracle: what a step of Adam may do, from any state, to within its own rounding.

The formulas are those of ``simplenet.reference``, evaluated in balls; to them come the variants
that torch offers. The state before the step is the implementation's own ("teacher-forced"), so
that errors do not pile up and a bug cannot hide in the chaos of a trajectory.

References:
    Kingma and Ba 2015, Algorithm 1. Loshchilov and Hutter 2019, Algorithm 2 (decoupled decay).
    Reddi, Kale and Kumar 2018, Algorithm 2 (AMSGrad; torch corrects its maximum for bias too).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from simplenet import SimpleNet, reference
from simplenet.testing.assertions import assert_in_balls
from simplenet.testing.balls import Balls, TritonBalls, balls, in_balls
from simplenet.testing.bounds import TRITON_ROUNDINGS, unit_roundoff
from simplenet.testing.oracle import ROUNDINGS, Hyper

formulas: Any = reference  # written for arrays of NumPy; balls take their operations too

# Steps taken before, from which tests go on; float32 counts to 2^24.
STEPS = (0, 1, 9, 999, 10**6 - 1, 2**24 - 2, 2**24 - 1)


@dataclass(frozen=True)
class TorchHyper(Hyper):
    """The hyper-parameters of torch's Adam and, with ``decoupled``, its AdamW."""

    decoupled: bool = False

    def options(self) -> dict[str, object]:
        """Return what an ``AdamUnderTest`` takes."""
        options = dict(vars(self))
        options["betas"] = options.pop("beta1"), options.pop("beta2")
        return options


class TrainingState(NamedTuple):
    """Parameters, and what the optimizer remembers of them."""

    p: Tensor
    m: Tensor
    v: Tensor
    v_max: Tensor | None
    t: int


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
    state: TrainingState, g: Tensor | Balls, hyper: TorchHyper, *, tensor_scalars: bool, roundings: float = ROUNDINGS
) -> Expected:
    """Compute where a step from ``state`` along ``g`` may end.

    Args:
        state: The state before the step.
        g: The gradient: exact, or balls.
        hyper: The hyper-parameters.
        tensor_scalars: Whether bias corrections may be computed in the parameter's type (at least float32)
            instead of in float64.
        roundings: What one operation of Algorithm 1 may cost.

    Raises:
        ValueError: If AMSGrad is asked for, and the state has no largest second moment.
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
    before = formulas.AdamState(m, v, state.t)
    settings = [scalar(x) for x in (hyper.lr, hyper.beta1, hyper.beta2, hyper.eps)]
    moved, after = formulas.adam(theta, gradient, before, *settings)
    v_max = None
    if hyper.amsgrad:
        if state.v_max is None:
            raise ValueError("state.v_max is None, but AMSGrad should have the largest second moment")
        v_max = balls(state.v_max.flatten(), dtype=dtype, roundings=roundings).maximum(after.v)
        correction1, correction2 = (1 - beta ** (before.t + 1) for beta in settings[1:3])
        moved = theta - settings[0] * (after.m / correction1) / (np.sqrt(v_max / correction2) + settings[3])
    return Expected(moved, after.m, after.v, v_max)


# The notebook's settings (§4.2), which are torch's defaults but for the learning rate.
NOTEBOOK = TorchHyper(lr=0.01)


def training_step(  # noqa: PLR0913 - a step and the arithmetic that it is taken in
    net: SimpleNet, state: TrainingState, x: Tensor, y: Tensor, *, tensor_scalars: bool = False, triton: bool = False
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
    _, y_hat = formulas.forward(p, inputs, architecture)
    loss = ((targets - y_hat) ** 2).sum() / targets.size
    g: Any = np.concatenate([part.flatten() for part in formulas.gradients(p, inputs, targets, architecture)])
    roundings = max(ROUNDINGS, TRITON_ROUNDINGS * triton)
    hyper = replace(NOTEBOOK, lr=net.hparams["lr"])
    return loss, one_step(state, g, hyper, tensor_scalars=tensor_scalars, roundings=roundings)


def assert_training_step(actual: Iterable[Tensor], expected: Expected, *, claim: str) -> None:
    """Demand that weights, first and second moments, or the first of these, are where a step may lead."""
    __tracebackhide__ = True
    names = ("weights", "first moments", "second moments")
    for name, one, ball in zip(names, actual, expected[:3], strict=False):
        assert_in_balls(one, ball, claim=f"{name} {claim}")
