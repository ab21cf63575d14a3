"""Read and write the state of an optimizer, and draw states and hyper-parameters."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import Optimizer

from simplenet.testing.implementations import Implementation
from simplenet.testing.one_step import STEPS, TorchHyper, TrainingState
from simplenet.testing.strategies import floats


def read(optimizer: Optimizer, p: Tensor) -> TrainingState:
    """Copy the state of one parameter."""
    state = optimizer.state[p]
    v_max = state.get("max_exp_avg_sq")
    own, m, v = (tensor.detach().clone() for tensor in (p, state["exp_avg"], state["exp_avg_sq"]))
    return TrainingState(own, m, v, None if v_max is None else v_max.clone(), int(state["step"]))


def write(optimizer: Optimizer, p: Tensor, state: TrainingState) -> None:
    """Write a parameter and its state; the optimizer must have taken a step, so that its tensors exist."""
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


# Values in torch's documentation and in use, and the ends of the domain [0, 1).
BETAS = (0.0, 0.5, 0.9, 0.999, 0.99999, 1 - 2**-53)
EPSILONS = (0.0, 1e-15, 1e-8, 1e-3)
# The largest power of ten that scales gradients: at 10^±12 their squares stay in float32's range, 10^±38.
LARGEST_SCALE = 12


@st.composite
def hypers(draw: st.DrawFn, dtype: torch.dtype, implementation: Implementation) -> TorchHyper:
    """Draw hyper-parameters; another test is for a learning rate of 0.

    float16 has no numbers between 0 and 6e-8, and none above 65504. In float16, beta2 is therefore small enough that
    (1 - beta2) g^2 does not underflow for g near 1, beta1 small enough that 1/(1 - beta1) does not overflow, and
    epsilon does not round to 0. If the denominator is divided by the step size, lr is large enough that this does not
    overflow; another test is for that defect, ``adam-float16-step-vanishes``.

    Args:
        draw: Given by Hypothesis.
        dtype: The dtype of the parameters.
        implementation: The implementation, whose limits apply.
    """
    small = dtype is torch.float16
    lowest = -9 if small and implementation.tensor_scalars else -14
    flags = {name: draw(st.booleans(), label=name) for name in ("amsgrad", "maximize", "decoupled")}
    return TorchHyper(
        lr=draw(floats(torch.float32, min_exponent=lowest, max_exponent=1, signed=False).filter(bool), label="lr"),
        beta1=draw(st.sampled_from(BETAS[:3] if small else BETAS), label="beta1"),
        beta2=draw(st.sampled_from(BETAS[:4] if small else BETAS), label="beta2"),
        eps=draw(st.sampled_from(EPSILONS[3:] if small else EPSILONS), label="eps"),
        weight_decay=draw(st.sampled_from([0.0, 0.1]), label="weight_decay"),
        **flags,
    )


@st.composite
def states(
    draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, *, amsgrad: bool
) -> tuple[TrainingState, Tensor]:
    """Draw a state to step from, and a gradient of its scale; the parameter starts at 0 half of the time.

    Args:
        draw: Given by Hypothesis.
        shape: The shape of the parameter.
        dtype: The dtype of the parameter.
        amsgrad: Whether the state has the largest second moment.
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
    return TrainingState(p, m, v, v_max, t), g
