"""Constructors for the implementations that the checks cannot call directly: other frameworks, and torch's options.

Each constructor imports its framework itself, because each environment has only one framework.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from simplenet import reference
from simplenet.testing import ArrayOptimizer
from simplenet.testing.implementations import COMPILED, IMPLEMENTATIONS, AdamUnderTest


def torch_adam(parameters: Iterable[Any], implementation: str, **options: Any) -> torch.optim.Optimizer:
    """Create ``torch.optim.Adam`` with the flags of a named implementation."""
    chosen = next(one for one in [*IMPLEMENTATIONS, COMPILED] if one.name == implementation)
    if chosen is COMPILED:  # after one step has raised, all others would: compiled-closure in deviations.toml
        torch.compiler.reset()
    return AdamUnderTest(chosen, torch.device("cpu"))(parameters, **options)


def heavyball_uncompiled(parameters: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    """Create ``heavyball.AdamW`` without compilation, which takes minutes for the shapes and types of the checks."""
    import heavyball

    heavyball.utils.compile_mode = None
    return heavyball.AdamW(parameters, **options)


def schedule_free_adamw(parameters: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    """Create ``schedulefree.AdamWScheduleFree`` in training mode, which its steps need."""
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(parameters, **options)
    optimizer.train()
    return optimizer


class Native(ArrayOptimizer):
    """An adapter whose native step can be timed without the conversion to and from NumPy."""

    parameters: Sequence[Any]

    def from_numpy(self, values: ndarray) -> Any:
        """Convert a NumPy array to an array of the framework."""
        return values

    def native_step(self, gradients: Sequence[Any]) -> None:
        """Take a step along gradients that are arrays of the framework; return when it is finished."""
        raise NotImplementedError

    def advance(self, gradients: list[ndarray]) -> Sequence[Any]:
        self.native_step([self.from_numpy(g) for g in gradients])
        return [self.to_numpy(p) for p in self.parameters]

    def to_numpy(self, parameter: Any) -> Any:
        """Convert a parameter to an array that NumPy accepts."""
        return parameter


class Reference(Native):
    """``simplenet.reference.adam``, which is Algorithm 1 in NumPy."""

    def start(self, parameters, lr, betas, eps) -> None:
        self.parameters, self.hyper = parameters, (lr, *betas, eps)
        self.states = [reference.adam_start(p) for p in parameters]

    def native_step(self, gradients: Sequence[ndarray]) -> None:
        stepped = [
            reference.adam(p, g, s, *self.hyper)
            for p, g, s in zip(self.parameters, gradients, self.states, strict=True)
        ]
        self.parameters, self.states = [p for p, _ in stepped], [s for _, s in stepped]


class Copied(Native):
    """Adam in NumPy, in place, with the bias corrections in the learning rate: the remark at the end of §2."""

    def start(self, parameters, lr, betas, eps) -> None:
        self.parameters, self.lr, self.betas, self.eps, self.t = parameters, lr, betas, eps, 0
        self.m, self.v = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]

    def native_step(self, gradients: Sequence[ndarray]) -> None:
        self.t += 1
        beta1, beta2 = self.betas
        rate = self.lr * np.sqrt(1 - beta2**self.t).item() / (1 - beta1**self.t)
        for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
            m[...] = beta1 * m + (1 - beta1) * g
            v[...] = beta2 * v + (1 - beta2) * g * g
            p[...] = p - rate * m / (np.sqrt(v) + self.eps)


class Jax(Native):
    """A compiled optimizer on JAX arrays, in 64-bit mode if the parameters are float64."""

    def compile(self, parameters: list[ndarray], init: Any, update: Any) -> None:
        """Compile ``update(gradients, state, parameters)``, which returns the new parameters and state."""
        import jax

        self.precision = jax.enable_x64(parameters[0].dtype == np.float64)
        with self.precision:
            self.parameters = [jax.numpy.asarray(p) for p in parameters]
            self.state, self.update = init(self.parameters), jax.jit(update)

    def from_numpy(self, values: ndarray) -> Any:
        import jax

        with self.precision:
            return jax.numpy.asarray(values)

    def native_step(self, gradients: Sequence[Any]) -> None:
        import jax

        with self.precision:
            moved = self.update(gradients, self.state, self.parameters)
            self.parameters, self.state = jax.block_until_ready(moved)


class OptaxAdam(Jax):
    """``optax.adam``."""

    def start(self, parameters, lr, betas, eps) -> None:
        import optax

        self.compile_optax(parameters, optax.adam(lr, *betas, eps=eps))

    def compile_optax(self, parameters: list[ndarray], adam: Any) -> None:
        """Compile an update and its application, as in Optax's documentation."""
        import optax

        def update(gradients: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
            updates, state = adam.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state

        self.compile(parameters, adam.init, update)


class OptaxAdamW(OptaxAdam):
    """``optax.adamw``."""

    def start(self, parameters, lr, betas, eps, weight_decay) -> None:
        import optax

        self.compile_optax(parameters, optax.adamw(lr, *betas, eps=eps, weight_decay=weight_decay))


class OptaxAMSGrad(OptaxAdam):
    """``optax.amsgrad``."""

    def start(self, parameters, lr, betas, eps, *, amsgrad=False) -> None:
        import optax

        self.compile_optax(parameters, (optax.amsgrad if amsgrad else optax.adam)(lr, *betas, eps=eps))


class NumPyro(Jax):
    """``numpyro.optim.Adam``, which calls that of ``jax.example_libraries``."""

    def start(self, parameters, lr, betas, eps) -> None:
        from numpyro.optim import Adam

        adam = Adam(lr, *betas, eps)

        def update(gradients: Any, state: Any, _parameters: Any) -> tuple[Any, Any]:
            state = adam.update(gradients, state)
            return adam.get_params(state), state

        self.compile(parameters, adam.init, update)


class Keras(Native):
    """``keras.optimizers.AdamW`` with the torch backend, not compiled."""

    def start(self, parameters, lr, betas, eps, weight_decay, *, amsgrad=False) -> None:
        import keras

        self.parameters = [keras.Variable(p, dtype=str(p.dtype)) for p in parameters]
        options = {"weight_decay": weight_decay, "amsgrad": amsgrad}
        self.adam = keras.optimizers.AdamW(lr, beta_1=betas[0], beta_2=betas[1], epsilon=eps, **options)
        self.adam.build(self.parameters)

    def from_numpy(self, values: ndarray) -> Any:
        import keras

        return keras.ops.convert_to_tensor(values)

    def native_step(self, gradients: Sequence[Any]) -> None:
        self.adam.apply(gradients, self.parameters)

    def to_numpy(self, parameter: Any) -> Any:
        import keras

        return keras.ops.convert_to_numpy(parameter)


class KerasOnJax(Jax):
    """``keras.optimizers.AdamW`` with the JAX backend, called as Keras's trainer calls it."""

    def start(self, parameters, lr, betas, eps, weight_decay, *, amsgrad=False) -> None:
        import keras

        options = {"weight_decay": weight_decay, "amsgrad": amsgrad}
        adam = keras.optimizers.AdamW(lr, beta_1=betas[0], beta_2=betas[1], epsilon=eps, **options)
        adam.build([keras.Variable(p, dtype=str(p.dtype)) for p in parameters])

        def update(gradients: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
            return adam.stateless_apply(state, gradients, parameters)

        self.compile(parameters, lambda _parameters: [v.value for v in adam.variables], update)


class TinygradAdam(Native):
    """``tinygrad.nn.optim.Adam``; a parameter of shape () is passed as shape (1,), because it would raise an error."""

    def start(self, parameters, lr, betas, eps) -> None:
        from tinygrad.nn.optim import Adam

        self.parameters = [self.from_numpy(p) for p in parameters]
        self.adam = Adam(self.parameters, lr, *betas, eps)

    def from_numpy(self, values: ndarray) -> Any:
        from tinygrad import Tensor

        return Tensor(np.atleast_1d(values)).realize()

    def native_step(self, gradients: Sequence[Any]) -> None:
        from tinygrad import Tensor

        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        with Tensor.train():
            self.adam.step()

    def to_numpy(self, parameter: Any) -> Any:
        return parameter.numpy()


class TinygradAdamW(TinygradAdam):
    """``tinygrad.nn.optim.AdamW``."""

    def start(self, parameters, lr, betas, eps, weight_decay) -> None:
        from tinygrad.nn.optim import AdamW

        self.parameters = [self.from_numpy(p) for p in parameters]
        self.adam = AdamW(self.parameters, lr, *betas, eps, weight_decay)


class Mlx(Native):
    """``mlx.optimizers.AdamW``."""

    def start(self, parameters, lr, betas, eps, weight_decay, *, bias_correction=False) -> None:
        from mlx.optimizers import AdamW

        self.parameters = [self.from_numpy(p) for p in parameters]
        self.adam = AdamW(lr, list(betas), eps, weight_decay, bias_correction)

    def from_numpy(self, values: ndarray) -> Any:
        import mlx.core as mx

        return mx.array(values, dtype=getattr(mx, str(values.dtype)))

    def native_step(self, gradients: Sequence[Any]) -> None:
        import mlx.core as mx

        moved = self.adam.apply_gradients(dict(enumerate(gradients)), dict(enumerate(self.parameters)))
        self.parameters = list(moved.values())
        mx.eval(self.parameters, self.adam.state)


class MlxCorrected(Mlx):
    """``mlx.optimizers.AdamW(bias_correction=True)``."""

    def start(self, parameters, lr, betas, eps, weight_decay) -> None:
        super().start(parameters, lr, betas, eps, weight_decay, bias_correction=True)


class PaddleAdam(Native):
    """``paddle.optimizer.Adam``."""

    def start(self, parameters, lr, betas, eps, *, amsgrad=False) -> None:
        import paddle

        options = {"beta1": betas[0], "beta2": betas[1], "epsilon": eps, "amsgrad": amsgrad}
        self.adam = paddle.optimizer.Adam(lr, parameters=self.tensors_from(parameters), **options)

    def tensors_from(self, parameters: list[ndarray]) -> list[Any]:
        """Create tensors that require gradients, from NumPy arrays."""
        self.parameters = [self.from_numpy(p) for p in parameters]
        for p in self.parameters:
            p.stop_gradient = False
        return self.parameters

    def from_numpy(self, values: ndarray) -> Any:
        import paddle

        return paddle.to_tensor(values)

    def native_step(self, gradients: Sequence[Any]) -> None:
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        self.adam.step()

    def to_numpy(self, parameter: Any) -> Any:
        return parameter.numpy()


class PaddleAdamW(PaddleAdam):
    """``paddle.optimizer.AdamW``."""

    def start(self, parameters, lr, betas, eps, weight_decay, *, amsgrad=False) -> None:
        import paddle

        options = {"beta1": betas[0], "beta2": betas[1], "epsilon": eps, "amsgrad": amsgrad}
        self.adam = paddle.optimizer.AdamW(
            lr, parameters=self.tensors_from(parameters), weight_decay=weight_decay, **options
        )


class Thinc(Native):
    """``thinc.api.Adam``, without the gradient clipping and parameter averages that are on by default.

    A parameter of shape () is passed as shape (1,), because Thinc's arrays have at least one dimension.
    """

    parameters: list[ndarray]

    def start(self, parameters, lr, betas, eps, weight_decay) -> None:
        from thinc.api import Adam

        if 0 in betas:
            raise ValueError(f"betas are {betas}, but should not be 0, with which Thinc's Adam is SGD or raises")
        options = {"L2": weight_decay, "L2_is_weight_decay": True, "grad_clip": 0.0, "use_averages": False}
        self.parameters = [np.atleast_1d(p) for p in parameters]
        self.adam = Adam(lr, beta1=betas[0], beta2=betas[1], eps=eps, **options)

    def native_step(self, gradients: Sequence[Any]) -> None:
        for i, g in enumerate(gradients):
            self.parameters[i], _ = self.adam((i, "p"), self.parameters[i], np.atleast_1d(g))


class ScikitLearn(Native):
    """The optimizer of ``sklearn.neural_network.MLPClassifier(solver="adam")``."""

    def start(self, parameters, lr, betas, eps) -> None:
        from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

        self.parameters = parameters
        self.adam = AdamOptimizer(parameters, lr, *betas, eps)

    def native_step(self, gradients: Sequence[Any]) -> None:
        self.adam.update_params(self.parameters, gradients)


class Autograd(Native):
    """``autograd.misc.optimizers.adam``, which takes all steps in one call: each step here repeats all earlier ones."""

    def start(self, parameters, lr, betas, eps) -> None:
        self.initial, self.options = parameters, (lr, *betas, eps)
        self.gradients: list[Sequence[ndarray]] = []

    def native_step(self, gradients: Sequence[Any]) -> None:
        from autograd.misc.optimizers import adam

        self.gradients.append(gradients)
        self.parameters = [
            adam(lambda _x, t, i=i: self.gradients[t][i].ravel(), p.ravel(), None, len(self.gradients), *self.options)
            for i, p in enumerate(self.initial)
        ]
