"""Peers: the same training step in NumPy, JAX and scikit-learn, with the interface of ``benchmarks.steps``.

Each takes the same step of Adam on the mean squared error of the same batch, and is checked against the
same oracle as torch's strategies before it is timed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from benchmarks.check import split
from benchmarks.steps import Stepper
from simplenet import SimpleNet, reference
from simplenet.testing.one_step import TrainingState


def _flat(parts: Any) -> Tensor:
    return torch.from_numpy(np.concatenate([np.ravel(part) for part in parts]))


class NumPy(Stepper):
    """``simplenet.reference``, in float32."""

    p: reference.Parameters
    states: list[reference.AdamState]

    def __init__(self, net: SimpleNet, x: Tensor, y: Tensor) -> None:
        self.lr, self.hidden, self.x, self.y = net.hparams["lr"], net.hparams["hidden"], x.numpy(), y.numpy()
        weights = parameters_to_vector(net.parameters()).detach()
        self.write(TrainingState(weights, torch.zeros_like(weights), torch.zeros_like(weights), None, 0))

    def __call__(self, steps: int = 1) -> None:
        for _ in range(steps):
            gradients = reference.gradients(self.p, self.x, self.y, "overview")
            stepped = [
                reference.adam(theta, g, state, self.lr)
                for theta, g, state in zip(self.p, gradients, self.states, strict=True)
            ]
            self.p = reference.Parameters(*(theta for theta, _ in stepped))
            self.states = [state for _, state in stepped]

    def read(self) -> TrainingState:
        m, v = (_flat(getattr(state, name) for state in self.states) for name in "mv")
        return TrainingState(_flat(self.p), m, v, None, self.states[0].t)

    def write(self, state: TrainingState) -> None:
        self.p, m, v = (split(part.clone().numpy(), self.hidden) for part in state[:3])
        self.states = [reference.AdamState(*moments, state.t) for moments in zip(m, v, strict=True)]


def jax_device(device: torch.device) -> Any:
    """Return JAX's device of a torch device; JAX computes where its arrays are, whatever its default device is.

    Raises:
        RuntimeError: If JAX has no such device.
    """
    import jax

    found = jax.devices(device.type)
    if len(found) <= (device.index or 0):
        raise RuntimeError(f"device is {device}, but JAX has {len(found)} of that type")
    return found[device.index or 0]


class Jax(Stepper):
    """JAX and optax: a call of a jitted step for each step, or one ``scan`` over all steps."""

    def __init__(self, net: SimpleNet, x: Tensor, y: Tensor, *, scan: bool) -> None:
        import jax
        import optax

        self.jax, self.hidden, self.scan = jax, net.hparams["hidden"], scan
        self.put = partial(jax.device_put, device=jax_device(x.device))
        x, y = self.put(x.cpu().numpy()), self.put(y.cpu().numpy())
        optimizer = optax.adam(net.hparams["lr"])
        weights = parameters_to_vector(net.parameters()).detach()
        self.p = self._split(weights)
        self.state = optimizer.init(self.p)

        def loss(p: Any) -> Any:
            h = jax.nn.sigmoid(x @ p.w_in.T + p.b_in)
            return jax.numpy.mean((h @ p.w_out.T + p.b_out - y) ** 2)

        def step(p: Any, state: Any) -> Any:
            with jax.default_matmul_precision("highest"):  # float32, not TF32
                updates, state = optimizer.update(jax.grad(loss)(p), state)
            return optax.apply_updates(p, updates), state

        def several(p: Any, state: Any, steps: int) -> Any:
            return jax.lax.scan(lambda carry, _: (step(*carry), None), (p, state), length=steps)[0]

        self.one, self.several = jax.jit(step), jax.jit(several, static_argnums=2)

    def _split(self, vector: Tensor) -> reference.Parameters:
        return reference.Parameters(*map(self.put, split(vector.detach().cpu().clone().numpy(), self.hidden)))

    def __call__(self, steps: int = 1) -> None:
        if self.scan:
            self.p, self.state = self.several(self.p, self.state, steps)
        else:
            for _ in range(steps):
                self.p, self.state = self.one(self.p, self.state)
        self.jax.block_until_ready(self.p)

    def read(self) -> TrainingState:
        adam = self.state[0]
        return TrainingState(_flat(self.p), _flat(adam.mu), _flat(adam.nu), None, int(adam.count))

    def write(self, state: TrainingState) -> None:
        self.p, mu, nu = map(self._split, state[:3])
        count = self.put(np.asarray(state.t, self.state[0].count.dtype))
        self.state = (self.state[0]._replace(count=count, mu=mu, nu=nu), *self.state[1:])


class JaxVmap:
    """JAX and optax for many networks: ``vmap`` of ``scan``."""

    def __init__(self, start: Tensor, x: Tensor, y: Tensor) -> None:
        import jax
        import optax

        put = partial(jax.device_put, device=jax_device(x.device))
        inputs, targets = put(x.cpu().numpy()), put(y.cpu().numpy())[:, 0]
        optimizer = optax.adam(0.01)
        hidden = (start.shape[1] - 1) // 4

        def loss(weights: Any) -> Any:
            w_in, b_in, w_out, b_out = jax.numpy.split(weights, np.cumsum([2 * hidden, hidden, hidden]))
            h = jax.nn.sigmoid(inputs @ w_in.reshape(hidden, 2).T + b_in)
            return jax.numpy.mean((h @ w_out + b_out - targets) ** 2)

        def step(carry: Any, _: Any) -> Any:
            weights, state = carry
            with jax.default_matmul_precision("highest"):
                updates, state = optimizer.update(jax.grad(loss)(weights), state)
            return (optax.apply_updates(weights, updates), state), None

        def train(weights: Any, steps: int) -> Any:
            return jax.lax.scan(step, (weights, optimizer.init(weights)), length=steps)[0][0]

        self.start = put(start.numpy())
        self.train = jax.jit(jax.vmap(train, (0, None)), static_argnums=1)

    def __call__(self, steps: int) -> Tensor:
        """Train for ``steps`` steps from the initial weights, and return the weights."""
        return torch.from_numpy(np.array(self.train(self.start, steps)))


class ScikitLearn(Stepper):
    """``MLPRegressor.partial_fit``, of which one call is a step."""

    def __init__(self, net: SimpleNet, x: Tensor, y: Tensor) -> None:
        from sklearn.neural_network import MLPRegressor

        self.x, self.y = x.numpy(), y.flatten().numpy()
        self.model = MLPRegressor(
            hidden_layer_sizes=(net.hparams["hidden"],),
            activation="logistic",
            solver="adam",
            alpha=0.0,
            batch_size=len(x),
            learning_rate_init=net.hparams["lr"],
            shuffle=False,
        )
        self.model.partial_fit(self.x, self.y)  # makes weights and moments
        weights = parameters_to_vector(net.parameters()).detach()
        self.write(TrainingState(weights, torch.zeros_like(weights), torch.zeros_like(weights), None, 0))

    def __call__(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.model.partial_fit(self.x, self.y)

    def _lists(self) -> list[list[np.ndarray]]:
        optimizer = self.model._optimizer  # noqa: SLF001
        return [self.model.coefs_ + self.model.intercepts_, optimizer.ms, optimizer.vs]

    def read(self) -> TrainingState:
        p, m, v = (_flat((w_in.T, b_in, w_out.T, b_out)) for w_in, w_out, b_in, b_out in self._lists())
        return TrainingState(p, m, v, None, self.model._optimizer.t)  # noqa: SLF001

    def write(self, state: TrainingState) -> None:
        for own, part in zip(self._lists(), state[:3], strict=True):
            p = split(part.numpy(), self.model.hidden_layer_sizes[0])
            for array, values in zip(own, (p.w_in.T, p.w_out.T, p.b_in, p.b_out), strict=True):
                array[...] = values
        self.model._optimizer.t = state.t  # noqa: SLF001


# Modules of each, to import before a test records the environment variables, which imports change.
NEEDS = {"numpy": (), "jax-jit": ("jax", "optax"), "jax-scan": ("jax", "optax"), "scikit-learn": ("sklearn",)}
NEEDS["jax-vmap"] = NEEDS["jax-scan"]


def unavailable(peer: str, device: torch.device) -> str | None:
    """Return why a peer does not run on a device, or ``None`` if it does."""
    if "jax" not in NEEDS[peer]:
        return None if device.type == "cpu" else f"{peer} runs on the CPU alone, not on {device}"
    try:
        jax_device(device)
    except RuntimeError as error:
        return f"{peer} does not run on {device}: {error}"
    return None


PEERS: dict[str, Callable[[SimpleNet, Tensor, Tensor], Stepper]] = {
    "numpy": NumPy,
    "jax-jit": partial(Jax, scan=False),
    "jax-scan": partial(Jax, scan=True),
    "scikit-learn": ScikitLearn,
}

# Where a peer's step differs from the published formulas: arguments with which the oracle computes the same step.
TERMS: dict[str, dict[str, Any]] = {
    "jax-jit": {"float32_scalars": True},
    "jax-scan": {"float32_scalars": True},
    # The loss is half the squared error; epsilon is added to the root before the correction.
    "scikit-learn": {"share": 1 / 2, "epsilon": lambda t: 1e-8 / (1 - 0.999**t) ** 0.5},
}
