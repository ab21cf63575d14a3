"""A training step written by hand (forward, backward and Adam), so that torch can compile all of it.

The formulas take one network or many: ``simplenet.ensemble`` compiles them for all its networks at once.

References:
    The notebook, §4 to §4.3; ``simplenet.reference`` has the same formulas without torch.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simplenet.model import ARCHITECTURES, Architecture
from simplenet.validation import MAX_HIDDEN, check_choice, check_int

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # the defaults of torch.optim.Adam, which the notebook uses

# From this step on both bias corrections round to 1: BETA2**CORRECTED is below half of float64's spacing below 1.
CORRECTED = 37_500

# The most steps of a run; torch's own Adam counts steps in float32, which cannot count further by ones.
MAX_STEPS = 2**24


class _Activation(NamedTuple):
    """An activation function, and its derivative in terms of its value."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


_ACTIVATIONS = {
    nn.Identity: _Activation(lambda z: z, torch.ones_like),
    nn.Sigmoid: _Activation(torch.sigmoid, lambda a: a * (1 - a)),
    nn.Tanh: _Activation(torch.tanh, lambda a: 1 - a * a),
    nn.ReLU: _Activation(torch.relu, lambda a: (a > 0).to(a.dtype)),
}


class Formulas:
    """The hand-written step of one network, or of many with the network as the last axis of every tensor.

    Args:
        architecture: As for ``SimpleNet``.
        hidden: As for ``SimpleNet``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If it is out of range.
    """

    def __init__(self, architecture: Architecture, hidden: int) -> None:
        architecture = check_choice("architecture", architecture, ARCHITECTURES)
        hidden = check_int("hidden", hidden, 1, MAX_HIDDEN)
        self.hidden, self.output = (_ACTIVATIONS[activation] for activation in ARCHITECTURES[architecture])
        self.sizes = [2 * hidden, hidden, hidden, 1]

    def forward(
        self,
        weights: Float[Tensor, "parameters *nets"],
        x1: Float[Tensor, "rows 1 *#nets"],
        x2: Float[Tensor, "rows 1 *#nets"],
    ) -> tuple[Float[Tensor, "rows hidden *nets"], Float[Tensor, "rows *nets"]]:
        """Return the hidden layer's outputs for each row, and the predictions.

        Args:
            weights: In the order of ``SimpleNet.parameters()``.
            x1: The first input of each row.
            x2: The second input of each row.
        """
        w_in, b_in, w_out, b_out = weights.split_with_sizes(self.sizes)
        h = self.hidden.value(w_in[::2] * x1 + w_in[1::2] * x2 + b_in)
        return h, self.output.value((w_out * h).sum(1) + b_out)

    def gradient(  # noqa: PLR0913, PLR0917 - the symbols of the formulas
        self,
        weights: Float[Tensor, "parameters *nets"],
        x1: Float[Tensor, "rows 1 *#nets"],
        x2: Float[Tensor, "rows 1 *#nets"],
        h: Float[Tensor, "rows hidden *nets"],
        y_hat: Float[Tensor, "rows *nets"],
        d_mse: Float[Tensor, "rows *nets"],
    ) -> Float[Tensor, "parameters *nets"]:
        """Compute the gradient by the chain rule from ``d_mse``, the derivative of the loss by the predictions."""
        w_out = weights.split_with_sizes(self.sizes)[2]
        d_out = d_mse * self.output.slope(y_hat)  # dE / d(pre-activation of the output)
        d_in = d_out[:, None] * w_out * self.hidden.slope(h)  # dE / d(pre-activation of the hidden layer)
        g_in = torch.stack([(d_in * x1).sum(0), (d_in * x2).sum(0)], dim=1).flatten(0, 1)
        g_out = (d_out[:, None] * h).sum(0)
        return torch.cat([g_in, d_in.sum(0), g_out, d_out.sum(0, keepdim=True)])

    @staticmethod
    def adam(  # noqa: PLR0913, PLR0917 - the symbols of the formulas
        weights: Float[Tensor, "parameters *nets"],
        m: Float[Tensor, "parameters *nets"],
        v: Float[Tensor, "parameters *nets"],
        g: Float[Tensor, "parameters *nets"],
        step_size: Float[Tensor, ""],
        correction: Float[Tensor, ""],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights and moments after a step along ``g``; ``corrections`` gives the last two arguments."""
        m = torch.lerp(m, g, 1 - BETA1)
        v = torch.addcmul(v * BETA2, g, g, value=1 - BETA2)
        return weights + step_size * m / (v.sqrt() / correction + EPSILON), m, v


def corrections(t: int, lr: float) -> tuple[float, float]:
    """Return the numbers in step ``t`` of Adam that depend on ``t``, as torch computes them.

    Returns:
        The signed step size ``-lr / (1 - β1ᵗ)``, and the square root of the second bias correction.
    """
    return -lr / (1 - BETA1**t), (1 - BETA2**t) ** 0.5


def loop(step: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]) -> Callable[..., tuple[Tensor, ...]]:
    """Turn a step into a loop that torch compiles without graph breaks.

    Args:
        step: Maps ``t``, a state and further tensors to ``t + 1`` and the next state.

    Returns:
        A function from ``t``, ``end``, a state and further tensors to the state after step ``end - 1``.
    """
    from torch._higher_order_ops.while_loop import while_loop

    def run(t: Tensor, end: Tensor, state: tuple[Tensor, ...], *constants: Tensor) -> tuple[Tensor, ...]:
        def ahead(t: Tensor, *_: Tensor) -> Tensor:
            return t < end

        # Quoted, because torch's compiler before 2.7 cannot build a tuple's type.
        def advance(t: Tensor, *state: Tensor) -> "tuple[Tensor, ...]":
            t, after = step(t, state, *constants)
            return t, *after

        results: tuple[Tensor, ...] = while_loop(ahead, advance, (t, *state))  # type: ignore[no-untyped-call]
        return results[1:]

    return run


def compile_whole(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Compile a function without graph breaks, for static shapes.

    torch compiles the same code object at most 8 times in a process, and closures of one function share
    their code object, so each function gets its own copy.

    Args:
        function: The function to compile; it may be a closure.
        options: Options of torch's compiler; those that this release of torch does not have are dropped.
    """
    own = FunctionType(
        function.__code__.replace(), function.__globals__, argdefs=function.__defaults__, closure=function.__closure__
    )
    known = torch._inductor.list_options()  # noqa: SLF001
    options = {name: value for name, value in options.items() if name in known}
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)
