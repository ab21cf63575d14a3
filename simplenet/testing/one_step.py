"""The one-step oracle: the possible results of one step of Adam from any state, to within its rounding errors.

The formulas are those of ``simplenet.reference``, evaluated in balls, with the options that torch
adds. The state before the step is the implementation's own ("teacher forcing"), so that errors do
not accumulate, and a bug cannot hide in the chaotic growth of differences along a trajectory.

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

formulas: Any = reference  # written for NumPy's arrays; balls support the same operations

# Numbers of steps taken before the step under test; float32 counts up to 2^24.
STEPS = (0, 1, 9, 999, 10**6 - 1, 2**24 - 2, 2**24 - 1)


@dataclass(frozen=True)
class TorchHyper(Hyper):
    """The hyper-parameters of torch's Adam and, with ``decoupled``, its AdamW."""

    decoupled: bool = False

    def options(self) -> dict[str, object]:
        """Return the arguments of an ``AdamUnderTest``."""
        options = dict(vars(self))
        options["betas"] = options.pop("beta1"), options.pop("beta2")
        return options


class TrainingState(NamedTuple):
    """Parameters, and the optimizer's state of them."""

    p: Tensor
    m: Tensor
    v: Tensor
    v_max: Tensor | None
    t: int


class Expected(NamedTuple):
    """The balls that must contain a step's results, flattened."""

    p: Balls
    m: Balls
    v: Balls
    v_max: Balls | None

    @property
    def bounded(self) -> bool:
        """Whether the bound is finite; it is infinite if rounding alone can make a denominator 0."""
        return bool(np.isfinite(self.p.radius).all())


def one_step(
    state: TrainingState, g: Tensor | Balls, hyper: TorchHyper, *, tensor_scalars: bool, roundings: float = ROUNDINGS
) -> Expected:
    """Compute the balls that contain the results of a step from ``state`` along ``g``.

    Args:
        state: The state before the step.
        g: The gradient: exact, or balls.
        hyper: The hyper-parameters.
        tensor_scalars: Whether bias corrections may be computed in the parameter's type (at least float32)
            instead of in float64.
        roundings: The roundings of one operation of Algorithm 1, at most.

    Raises:
        ValueError: If AMSGrad is on, and the state has no largest second moment.
    """
    dtype = state.p.dtype
    theta, m, v = (balls(x.flatten(), dtype=dtype, roundings=roundings) for x in (state.p, state.m, state.v))
    if isinstance(g, Tensor):
        g = balls(g.flatten(), dtype=dtype)
    gradient = Balls(g.centre, g.radius, dtype=dtype, roundings=roundings)

    # Python's scalars are float64 and exact; in a tensor they are rounded first.
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
            raise ValueError("state.v_max is None, but should be the largest second moment for AMSGrad")
        v_max = balls(state.v_max.flatten(), dtype=dtype).maximum(after.v)
        correction1, correction2 = (1 - beta ** (before.t + 1) for beta in settings[1:3])
        moved = theta - settings[0] * (after.m / correction1) / (np.sqrt(v_max / correction2) + settings[3])
    return Expected(moved, after.m, after.v, v_max)


# The notebook's settings (§4.2): torch's defaults, except for the learning rate.
NOTEBOOK = TorchHyper(lr=0.01)


def training_step(  # noqa: PLR0913 - a step and its arithmetic
    net: SimpleNet,
    state: TrainingState,
    x: Tensor,
    y: Tensor,
    *,
    tensor_scalars: bool = False,
    kind: type[Balls] = Balls,
) -> tuple[Balls, Expected]:
    """Compute the balls that contain the results of a whole training step: forward, backward and Adam.

    Args:
        net: The network, with the weights of ``state``.
        state: The state before the step, with all parameters in one vector.
        x: The batch's inputs, of shape ``(n, 2)``.
        y: The batch's targets, of shape ``(n, 1)``.
        tensor_scalars: As for ``one_step``.
        kind: The arithmetic of the forward and the backward pass; ``TritonBalls`` is that of the optimizer too.

    Returns:
        The balls of the batch's loss before the step, and of the state after it.
    """
    architecture = net.hparams["architecture"]
    p, inputs, targets = in_balls(net, x, y, kind=kind)
    inputs = inputs.converted()
    _, y_hat = formulas.forward(p, inputs, architecture)
    loss = ((targets - y_hat) ** 2).sum() / targets.size
    g: Any = np.concatenate([part.flatten() for part in formulas.gradients(p, inputs, targets, architecture)])
    roundings = max(ROUNDINGS, TRITON_ROUNDINGS * (kind is TritonBalls))
    hyper = replace(NOTEBOOK, lr=net.hparams["lr"])
    return loss, one_step(state, g, hyper, tensor_scalars=tensor_scalars, roundings=roundings)


def assert_training_step(actual: Iterable[Tensor], expected: Expected, *, claim: str) -> None:
    """Assert that the weights, the first moments and the second moments, as many as are given, are in their balls."""
    __tracebackhide__ = True
    names = ("weights", "first moments", "second moments")
    for name, one, ball in zip(names, actual, expected[:3], strict=False):
        assert_in_balls(one, ball, claim=f"{name} {claim}")
