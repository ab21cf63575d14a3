"""The network, its loss, its gradients and Adam in NumPy: the reference implementation.

It imports neither torch nor the rest of the package, so that it can disagree with them, and it follows
the formulas line by line, so that a reader can verify it. Every function computes in the dtype of its
arguments.

References:
    The notebook, §4 to §4.3, with the corrections of docs/claims.md.
    D. P. Kingma and J. Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, Algorithm 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def sigmoid(z: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    """Compute 1 / (1 + e^-z) without overflow."""
    e = np.exp(-np.abs(z))
    a: ndarray = np.where(z >= 0, 1, e) / (1 + e)
    return a


def sigmoid_slope(a: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    """Return the derivative of the sigmoid, given its value ``a``."""
    slope: ndarray = a * (1 - a)
    return slope


def identity(z: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    """Return ``z``."""
    return z


def identity_slope(a: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    """Return the derivative of the identity, given its value ``a``."""
    return np.ones_like(a)


class Activation(NamedTuple):
    """An activation function, and its derivative in terms of its value."""

    value: Callable[[ndarray], ndarray]
    slope: Callable[[ndarray], ndarray]


SIGMOID = Activation(sigmoid, sigmoid_slope)
IDENTITY = Activation(identity, identity_slope)

# The activation of the hidden layer and that of the output, in each of the notebook's three networks.
ARCHITECTURES = {
    "overview": (SIGMOID, IDENTITY),  # §4
    "derivation": (SIGMOID, SIGMOID),  # §4.3
    "listing": (IDENTITY, SIGMOID),  # §5
}


class Parameters(NamedTuple):
    """The parameters of the network, or anything of their shapes: gradients, moments."""

    w_in: Float[ndarray, "hidden 2"]
    b_in: Float[ndarray, " hidden"]
    w_out: Float[ndarray, "1 hidden"]
    b_out: Float[ndarray, " 1"]


def forward(
    p: Parameters, x: Float[ndarray, "n 2"], architecture: str
) -> tuple[Float[ndarray, "n hidden"], Float[ndarray, "n 1"]]:
    """Return the hidden layer's output and the prediction (§4)."""
    f, g = ARCHITECTURES[architecture]
    h = f.value(x @ p.w_in.T + p.b_in)
    y_hat = g.value(h @ p.w_out.T + p.b_out)
    return h, y_hat


def mse(y: Float[ndarray, "n 1"], y_hat: Float[ndarray, "n 1"]) -> float:
    """Compute the mean squared error (§4.1)."""
    return float(np.mean((y - y_hat) ** 2))


def backpropagate(
    p: Parameters, x: Float[ndarray, "n 2"], upstream: Float[ndarray, "n 1"], architecture: str
) -> Parameters:
    """Compute the gradient by the parameters from that by the predictions, by the chain rule (§4.3).

    The notebook omits the factor ``w_out`` in the hidden layer's gradient; here it is included.
    """
    f, g = ARCHITECTURES[architecture]
    h, y_hat = forward(p, x, architecture)
    d_out = upstream * g.slope(y_hat)  # gradient by the pre-activation of the output
    d_in = d_out @ p.w_out * f.slope(h)  # gradient by the pre-activation of the hidden layer
    return Parameters(d_in.T @ x, d_in.sum(axis=0), d_out.T @ h, d_out.sum(axis=0))


def gradients(p: Parameters, x: Float[ndarray, "n 2"], y: Float[ndarray, "n 1"], architecture: str) -> Parameters:
    """Compute the gradient of the MSE, which is twice the loss in the notebook's derivation (§4.3)."""
    _, y_hat = forward(p, x, architecture)
    return backpropagate(p, x, 2 * (y_hat - y) / y.size, architecture)


class AdamState(NamedTuple):
    """Adam's state of one tensor: both moments, and the number of steps taken."""

    m: Float[ndarray, "*shape"]
    v: Float[ndarray, "*shape"]
    t: int


def adam_start(theta: Float[ndarray, "*shape"]) -> AdamState:
    """Return the state before the first step."""
    return AdamState(np.zeros_like(theta), np.zeros_like(theta), 0)


def adam(  # noqa: PLR0913, PLR0917 - the symbols of Algorithm 1
    theta: Float[ndarray, "*shape"],
    g: Float[ndarray, "*shape"],
    state: AdamState,
    alpha: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Float[ndarray, "*shape"], AdamState]:
    """Take one step of Adam: the five formulas of §4.2, in order."""
    t = state.t + 1
    m = beta1 * state.m + (1 - beta1) * g
    v = beta2 * state.v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    theta = theta - alpha * m_hat / (np.sqrt(v_hat) + epsilon)
    return theta, AdamState(m, v, t)
