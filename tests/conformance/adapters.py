"""Optimizers that are made otherwise than ``simplenet.testing`` makes them: those of other frameworks, and torch's own.

Each imports its framework when it is made, for in each environment there is one.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from simplenet import reference
from simplenet.testing import ArrayOptimizer
from simplenet.testing.implementations import COMPILED, IMPLEMENTATIONS, AdamUnderTest


def of_torch(parameters: Iterable[Any], implementation: str, **options: Any) -> torch.optim.Optimizer:
    """Make one of torch's own."""
    given = list(parameters)
    chosen = next(one for one in [*IMPLEMENTATIONS, COMPILED] if one.name == implementation)
    if chosen.flags.get("differentiable"):  # what is differentiated through may not be a leaf that requires gradients
        for p in (p for group in given for p in (group["params"] if isinstance(group, dict) else [group])):
            p.requires_grad_(requires_grad=False)
    return AdamUnderTest(chosen, torch.device("cpu"))(given, **options)


def heavyball_eagerly(parameters: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    """Make ``heavyball.AdamW`` without its compiler, which takes minutes for the shapes and types of the checks."""
    import heavyball

    heavyball.utils.compile_mode = None
    return heavyball.AdamW(parameters, **options)


def schedule_free(parameters: Iterable[Any], **options: Any) -> torch.optim.Optimizer:
    """Make ``schedulefree.AdamWScheduleFree``, which has to be told that it trains."""
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(parameters, **options)
    optimizer.train()
    return optimizer


class Native(ArrayOptimizer):
    """An optimizer of another framework: a step of it can be timed without the way there and back."""

    parameters: Sequence[Any]

    def array(self, values: ndarray) -> Any:
        """Hand an array over to the framework."""
        return values

    def move(self, gradients: Sequence[Any]) -> None:
        """Take a step along the framework's own arrays, and wait until it is taken."""
        raise NotImplementedError

    def advance(self, gradients: list[ndarray]) -> Sequence[Any]:
        self.move([self.array(g) for g in gradients])
        return [self.back(p) for p in self.parameters]

    def back(self, parameter: Any) -> Any:
        """Hand a parameter back as what NumPy takes."""
        return parameter


class Reference(Native):
    """SimpleNet's own, in NumPy, line by line as in Algorithm 1."""

    def start(self, parameters, lr, betas, eps) -> None:
        self.parameters, self.hyper = parameters, (lr, *betas, eps)
        self.states = [reference.adam_start(p) for p in parameters]

    def move(self, gradients: Sequence[ndarray]) -> None:
        stepped = [
            reference.adam(p, g, s, *self.hyper)
            for p, g, s in zip(self.parameters, gradients, self.states, strict=True)
        ]
        self.parameters, self.states = [p for p, _ in stepped], [s for _, s in stepped]


class Copied(Native):
    """The NumPy lines that go round: in place, with the corrections drawn into the learning rate, as §2 remarks."""

    def start(self, parameters, lr, betas, eps) -> None:
        self.parameters, self.lr, self.betas, self.eps, self.t = parameters, lr, betas, eps, 0
        self.m, self.v = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]

    def move(self, gradients: Sequence[ndarray]) -> None:
        self.t += 1
        beta1, beta2 = self.betas
        rate = self.lr * np.sqrt(1 - beta2**self.t).item() / (1 - beta1**self.t)
        for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
            m[...] = beta1 * m + (1 - beta1) * g
            v[...] = beta2 * v + (1 - beta2) * g * g
            p[...] = p - rate * m / (np.sqrt(v) + self.eps)


class Jax(Native):
    """An optimizer on JAX's arrays, compiled; 64 bits wide where the parameters are."""

    def setup(self, parameters: list[ndarray], init: Any, update: Any) -> None:
        """Compile ``update(gradients, state, parameters)``, which returns parameters and state."""
        import jax

        self.wide = jax.enable_x64(parameters[0].dtype == np.float64)
        with self.wide:
            self.parameters = [jax.numpy.asarray(p) for p in parameters]
            self.state, self.update = init(self.parameters), jax.jit(update)

    def array(self, values: ndarray) -> Any:
        import jax

        with self.wide:
            return jax.numpy.asarray(values)

    def move(self, gradients: Sequence[Any]) -> None:
        import jax

        with self.wide:
            moved = self.update(gradients, self.state, self.parameters)
            self.parameters, self.state = jax.block_until_ready(moved)


class OptaxAdam(Jax):
    """``optax.adam``."""

    def start(self, parameters, lr, betas, eps) -> None:
        import optax

        self.chain(parameters, optax.adam(lr, *betas, eps=eps))

    def chain(self, parameters: list[ndarray], adam: Any) -> None:
        """Set it up as Optax's documentation does."""
        import optax

        def update(gradients: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
            updates, state = adam.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state

        self.setup(parameters, adam.init, update)


class OptaxAdamW(OptaxAdam):
    """``optax.adamw``."""

    def start(self, parameters, lr, betas, eps, weight_decay) -> None:
        import optax

        self.chain(parameters, optax.adamw(lr, *betas, eps=eps, weight_decay=weight_decay))


class OptaxAMSGrad(OptaxAdam):
    """``optax.amsgrad``."""

    def start(self, parameters, lr, betas, eps, *, amsgrad=False) -> None:
        import optax

        self.chain(parameters, (optax.amsgrad if amsgrad else optax.adam)(lr, *betas, eps=eps))


class NumPyro(Jax):
    """``numpyro.optim.Adam``, which is that of ``jax.example_libraries``."""

    def start(self, parameters, lr, betas, eps) -> None:
        from numpyro.optim import Adam

        adam = Adam(lr, *betas, eps)

        def update(gradients: Any, state: Any, _parameters: Any) -> tuple[Any, Any]:
            state = adam.update(gradients, state)
            return adam.get_params(state), state

        self.setup(parameters, adam.init, update)


class Keras(Native):
    """``keras.optimizers.AdamW``, eagerly, with torch."""

    def start(self, parameters, lr, betas, eps, weight_decay, *, amsgrad=False) -> None:
        import keras

        self.parameters = [keras.Variable(p, dtype=str(p.dtype)) for p in parameters]
        options = {"weight_decay": weight_decay, "amsgrad": amsgrad}
        self.adam = keras.optimizers.AdamW(lr, beta_1=betas[0], beta_2=betas[1], epsilon=eps, **options)
        self.adam.build(self.parameters)

    def array(self, values: ndarray) -> Any:
        import keras

        return keras.ops.convert_to_tensor(values)

    def move(self, gradients: Sequence[Any]) -> None:
        self.adam.apply(gradients, self.parameters)

    def back(self, parameter: Any) -> Any:
        import keras

        return keras.ops.convert_to_numpy(parameter)


class KerasOnJax(Jax):
    """``keras.optimizers.AdamW``, as Keras's own trainer calls it with JAX."""

    def start(self, parameters, lr, betas, eps, weight_decay, *, amsgrad=False) -> None:
        import keras

        options = {"weight_decay": weight_decay, "amsgrad": amsgrad}
        adam = keras.optimizers.AdamW(lr, beta_1=betas[0], beta_2=betas[1], epsilon=eps, **options)
        adam.build([keras.Variable(p, dtype=str(p.dtype)) for p in parameters])

        def update(gradients: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
            return adam.stateless_apply(state, gradients, parameters)

        self.setup(parameters, lambda _parameters: [v.value for v in adam.variables], update)


class TinygradAdam(Native):
    """``tinygrad.nn.optim.Adam``, which raises for a parameter without dimensions: it is given one."""

    def start(self, parameters, lr, betas, eps) -> None:
        from tinygrad.nn.optim import Adam

        self.parameters = [self.array(p) for p in parameters]
        self.adam = Adam(self.parameters, lr, *betas, eps)

    def array(self, values: ndarray) -> Any:
        from tinygrad import Tensor

        return Tensor(np.atleast_1d(values)).realize()

    def move(self, gradients: Sequence[Any]) -> None:
        from tinygrad import Tensor

        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        with Tensor.train():
            self.adam.step()

    def back(self, parameter: Any) -> Any:
        return parameter.numpy()


class TinygradAdamW(TinygradAdam):
    """``tinygrad.nn.optim.AdamW``."""

    def start(self, parameters, lr, betas, eps, weight_decay) -> None:
        from tinygrad.nn.optim import AdamW

        self.parameters = [self.array(p) for p in parameters]
        self.adam = AdamW(self.parameters, lr, *betas, eps, weight_decay)


class Mlx(Native):
    """``mlx.optimizers.AdamW``."""

    def start(self, parameters, lr, betas, eps, weight_decay, *, bias_correction=False) -> None:
        from mlx.optimizers import AdamW

        self.parameters = [self.array(p) for p in parameters]
        self.adam = AdamW(lr, list(betas), eps, weight_decay, bias_correction)

    def array(self, values: ndarray) -> Any:
        import mlx.core as mx

        return mx.array(values, dtype=getattr(mx, str(values.dtype)))

    def move(self, gradients: Sequence[Any]) -> None:
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
        self.adam = paddle.optimizer.Adam(lr, parameters=self.tensors_of(parameters), **options)

    def tensors_of(self, parameters: list[ndarray]) -> list[Any]:
        """Make its tensors."""
        self.parameters = [self.array(p) for p in parameters]
        for p in self.parameters:
            p.stop_gradient = False
        return self.parameters

    def array(self, values: ndarray) -> Any:
        import paddle

        return paddle.to_tensor(values)

    def move(self, gradients: Sequence[Any]) -> None:
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        self.adam.step()

    def back(self, parameter: Any) -> Any:
        return parameter.numpy()


class PaddleAdamW(PaddleAdam):
    """``paddle.optimizer.AdamW``."""

    def start(self, parameters, lr, betas, eps, weight_decay, *, amsgrad=False) -> None:
        import paddle

        options = {"beta1": betas[0], "beta2": betas[1], "epsilon": eps, "amsgrad": amsgrad}
        self.adam = paddle.optimizer.AdamW(
            lr, parameters=self.tensors_of(parameters), weight_decay=weight_decay, **options
        )


class Thinc(Native):
    """``thinc.api.Adam``, without the clipping and the averages that it has by default.

    Its arrays have a dimension at least, and betas of 0 make it SGD.
    """

    parameters: list[ndarray]

    def start(self, parameters, lr, betas, eps, weight_decay) -> None:
        from thinc.api import Adam

        if 0 in betas:
            raise ValueError(f"betas are {betas}, with which this is no Adam")
        options = {"L2": weight_decay, "L2_is_weight_decay": True, "grad_clip": 0.0, "use_averages": False}
        self.parameters = [np.atleast_1d(p) for p in parameters]
        self.adam = Adam(lr, beta1=betas[0], beta2=betas[1], eps=eps, **options)

    def move(self, gradients: Sequence[Any]) -> None:
        for i, g in enumerate(gradients):
            self.parameters[i], _ = self.adam((i, "p"), self.parameters[i], np.atleast_1d(g))


class ScikitLearn(Native):
    """What ``sklearn.neural_network.MLPClassifier(solver="adam")`` steps by."""

    def start(self, parameters, lr, betas, eps) -> None:
        from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

        self.parameters = parameters
        self.adam = AdamOptimizer(parameters, lr, *betas, eps)

    def move(self, gradients: Sequence[Any]) -> None:
        self.adam.update_params(self.parameters, gradients)


class Autograd(Native):
    """``autograd.misc.optimizers.adam``, which runs from start to end: it is run anew up to each step."""

    def start(self, parameters, lr, betas, eps) -> None:
        self.starts, self.options = parameters, (lr, *betas, eps)
        self.seen: list[Sequence[ndarray]] = []

    def move(self, gradients: Sequence[Any]) -> None:
        from autograd.misc.optimizers import adam

        self.seen.append(gradients)
        self.parameters = [
            adam(lambda _x, t, i=i: self.seen[t][i].ravel(), p.ravel(), None, len(self.seen), *self.options)
            for i, p in enumerate(self.starts)
        ]
