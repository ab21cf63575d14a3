"""Optimizers under test: how to construct them, whatever their arguments are called, and how to drive them.

Any exception of their code becomes a ``SubjectError`` that says where it was raised: a failure of that code.
"""

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from simplenet.testing.oracle import Hyper

# The possible names of each hyper-parameter, torch's first.
SPELLINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "lr": (("lr",), ("learning_rate",), ("step_size",), ("alpha",)),
    "betas": (("betas",), ("beta1", "beta2"), ("b1", "b2"), ("beta_1", "beta_2")),
    "eps": (("eps",), ("epsilon",)),
    "weight_decay": (("weight_decay",), ("wd",)),
    "amsgrad": (("amsgrad",),),
    "maximize": (("maximize",),),
}

ORDINALS = ("first", "second", "third", "fourth", "fifth")


class SubjectError(Exception):
    """An exception of the code under test, and where it was raised."""

    def __init__(self, error: BaseException, where: str) -> None:
        message = " ".join(str(error).split())
        if len(message) > 200:  # noqa: PLR2004 - a line of a table
            message = message[:200] + "..."
        super().__init__(f"raises {type(error).__name__}: {message} {where}")
        self.error = error


def attempt(call: Callable[[], Any], where: str) -> Any:
    """Call the code under test.

    Raises:
        SubjectError: If it raises any exception, or exits.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:
        raise SubjectError(error, where) from error


class ArrayOptimizer:
    """An adapter for an optimizer of another framework: parameters and gradients are passed as NumPy arrays.

    Subclass it and define two methods. For Optax's Adam::

        class Optax(ArrayOptimizer):
            def start(self, parameters, lr, betas, eps):
                self.parameters = [jnp.asarray(p) for p in parameters]
                self.adam = optax.adam(lr, *betas, eps=eps)
                self.state = self.adam.init(self.parameters)

            def advance(self, gradients):
                updates, self.state = self.adam.update([jnp.asarray(g) for g in gradients], self.state)
                self.parameters = optax.apply_updates(self.parameters, updates)
                return self.parameters

    ``start`` takes the hyper-parameters that the optimizer has, by these names; ``advance`` returns the new
    parameters, in any type that ``numpy.asarray`` takes.
    """

    def __init__(self, parameters: Iterable[Tensor], **hyper: Any) -> None:
        self.tensors = list(parameters)
        self.start([p.detach().cpu().numpy().copy() for p in self.tensors], **hyper)

    def start(self, parameters: list[ndarray], **hyper: Any) -> None:
        """Construct the optimizer for these parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no start(parameters, lr, ...)")

    def advance(self, gradients: list[ndarray]) -> Sequence[Any]:
        """Take a step along the gradients, one for each parameter; return the new parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no advance(gradients)")

    def step(self) -> None:
        """Take a step along the tensors' ``grad``.

        Raises:
            TypeError: If a parameter is returned in another dtype.
            ValueError: If the parameters that are returned are of another number or size.
        """
        moved = list(self.advance([p.grad.detach().cpu().numpy().copy() for p in self.tensors if p.grad is not None]))
        if len(moved) != len(self.tensors):
            raise ValueError(f"advance returns {len(moved)} parameters, but should return {len(self.tensors)}")
        with torch.no_grad():
            for p, new in zip(self.tensors, moved, strict=True):
                values = torch.from_numpy(np.array(new))
                if values.dtype != p.dtype:
                    raise TypeError(f"advance returns a parameter of {values.dtype}, but it should be of {p.dtype}")
                if values.numel() != p.numel():
                    shapes = f"{tuple(values.shape)}, but it should be of shape {tuple(p.shape)}"
                    raise ValueError(f"advance returns a parameter of shape {shapes}")
                p.copy_(values.reshape(p.shape))


def parameters_in(given: Iterable[Any]) -> list[Tensor]:
    """List the parameters in an argument of an optimizer: parameters, or groups of them."""
    return [p for group in given for p in (group["params"] if isinstance(group, dict) else [group])]


def spelled(options: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Rename hyper-parameters to an optimizer's own names."""
    renamed: dict[str, Any] = {}
    for name, value in options.items():
        own = names.get(name, (name,))
        renamed |= dict(zip(own, value, strict=True)) if len(own) > 1 else {own[0]: value}
    return renamed


def differentiable(cls: Callable[..., Any], parameters: Iterable[Any], **options: Any) -> Any:
    """Construct a differentiable optimizer; its steps raise for leaves that require gradients, so none will."""
    given = list(parameters)
    for p in parameters_in(given):
        p.requires_grad = False
    return cls(given, **options)


@dataclass
class Subject:
    """A class or function that makes optimizers, and the hyper-parameters that it takes.

    Attributes:
        make: A class, partial or function, called with parameters and hyper-parameters.
        fixed: The values of hyper-parameters that it does not take, if they differ from torch's defaults.
        takes: The hyper-parameters that it takes, each with its names there.
        name: Its name in reports.
        sample: One of its optimizers, to look up methods and attributes.
    """

    make: Callable[..., Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    takes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = ""
    sample: Any = None

    def __post_init__(self) -> None:
        if not self.name:
            made = self.make
            while not hasattr(made, "__name__") and hasattr(made, "func"):
                made = made.func
            options = getattr(self.make, "keywords", {})
            name = getattr(made, "__name__", type(made).__name__)
            self.name = name + (f"({', '.join(f'{k}={v}' for k, v in options.items())})" if options else "")

    def __str__(self) -> str:
        return self.name

    @property
    def foreign(self) -> bool:
        """Whether it is an adapter, which lacks torch's interface except for parameters and steps."""
        return isinstance(self.sample, ArrayOptimizer)

    def learn(self, parameters: Callable[[], list[Tensor]]) -> None:
        """Find out which hyper-parameters it takes: from its signature, or by trial if that has ``**kwargs``.

        Args:
            parameters: Makes new parameters for each trial.

        Raises:
            SubjectError: If it cannot be constructed at all.
        """
        names = self._declared()
        defaults = Hyper()
        values: dict[str, Any] = {
            "lr": defaults.lr, "betas": (defaults.beta1, defaults.beta2), "eps": defaults.eps, "weight_decay": 0.0,
            "amsgrad": False, "maximize": False,
        }  # fmt: skip
        self.takes = {}
        for name, spellings in SPELLINGS.items():
            known = [spelling for spelling in spellings if names is None or names.issuperset(spelling)]
            if known:
                self.takes[name] = known[0]
        refused: set[tuple[str, ...]] = set()
        while True:
            options = {name: values[name] for name in self.takes}
            try:
                self.sample = self.make(parameters(), **spelled(options, self.takes))
            except (Exception, SystemExit) as error:
                # With ``**kwargs``, it may refuse a name by any exception.
                unknown = names is None or isinstance(error, TypeError)
                if not (unknown and self._drop_unknown(str(error), refused)):
                    raise SubjectError(error, "when it is constructed") from error
            else:
                break
        for name in {"amsgrad", "maximize"} & self.takes.keys():
            try:
                self.make(parameters(), **spelled({**options, name: True}, self.takes))
            except (Exception, SystemExit):  # noqa: BLE001 - some take the argument but refuse True
                del self.takes[name]

    def _declared(self) -> set[str] | None:
        """Return the names in its signature, or ``None`` if it takes any name."""
        made: Any = self.make
        if isinstance(made, type) and issubclass(made, ArrayOptimizer):
            made = made.start
        try:
            parameters = inspect.signature(made).parameters.values()
        except (TypeError, ValueError):
            return None
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        return {p.name for p in parameters}

    def _drop_unknown(self, message: str, refused: set[tuple[str, ...]]) -> bool:
        """Try the next name of the hyper-parameter in a message, or drop it; return whether it names one."""
        for name, spelling in list(self.takes.items()):
            if any(re.search(rf"\b{re.escape(word)}\b", message) for word in spelling):
                refused.add(spelling)
                others = [other for other in SPELLINGS[name] if other not in refused]
                if others:
                    self.takes[name] = others[0]
                else:
                    del self.takes[name]
                return True
        return False

    def options(self, hyper: Hyper) -> dict[str, Any]:
        """Turn hyper-parameters into arguments, without those that it does not take."""
        values = {"lr": hyper.lr, "betas": (hyper.beta1, hyper.beta2)}
        values |= {name: getattr(hyper, name) for name in ("eps", "weight_decay", "amsgrad", "maximize")}
        # Flags that are off are not passed, in case these names mean something else there.
        return {n: v for n, v in values.items() if n in self.takes and (n not in ("amsgrad", "maximize") or v)}

    def hyper(self, **wanted: Any) -> Hyper:
        """Return the effective hyper-parameters: the wanted values if it takes them, else its own."""
        defaults = vars(Hyper()) | dict(self.fixed)
        names = {"beta1": "betas", "beta2": "betas"}
        return Hyper(**{n: wanted.get(n, v) if names.get(n, n) in self.takes else v for n, v in defaults.items()})

    def build(self, parameters: Iterable[Any], **options: Any) -> "Driven":
        """Construct an optimizer for parameters or groups.

        Raises:
            SubjectError: If it cannot be constructed.
        """
        given = list(parameters)
        # Pass all that it takes: some have no default, and some defaults differ from torch's.
        options = {**self.options(Hyper()), **options}
        options = {name: value for name, value in options.items() if name in self.takes}
        made = attempt(lambda: self.make(given, **spelled(options, self.takes)), "when it is constructed")
        return Driven(made, parameters_in(given))


class Driven:
    """An optimizer under test, and its parameters."""

    def __init__(self, optimizer: Any, parameters: Sequence[Tensor]) -> None:
        self.optimizer = optimizer
        self.parameters = list(parameters)
        self.steps = 0

    def step(self, *gradients: Tensor | None, closure: Callable[[], Any] | None = None) -> Any:
        """Set each parameter's gradient and take a step.

        Raises:
            SubjectError: If that raises any exception.
        """
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.steps += 1
        which = f"the {ORDINALS[self.steps - 1]} step" if self.steps <= len(ORDINALS) else f"step {self.steps}"
        if closure is not None:
            return attempt(lambda: self.optimizer.step(closure), f"at {which}, with a closure")
        # The method is looked up inside the call, because it may be missing.
        return attempt(lambda: self.optimizer.step(), f"at {which}")  # noqa: PLW0108

    def state_dict(self) -> Any:
        """Return the state.

        Raises:
            SubjectError: If that raises any exception.
        """
        return attempt(self.optimizer.state_dict, f"in state_dict after {self.steps} steps")

    def load(self, state: Any) -> None:
        """Load a state.

        Raises:
            SubjectError: If that raises any exception.
        """
        attempt(lambda: self.optimizer.load_state_dict(state), "in load_state_dict")

    def values(self) -> list[Tensor]:
        """Copy the parameters."""
        return [p.detach().cpu().clone() for p in self.parameters]

    def copied(self) -> "Driven":
        """Copy optimizer and parameters together.

        Raises:
            SubjectError: If they cannot be copied.
        """
        optimizer, parameters = attempt(
            lambda: copy.deepcopy((self.optimizer, self.parameters)), f"in deepcopy after {self.steps} steps"
        )
        driven = Driven(optimizer, parameters)
        driven.steps = self.steps
        return driven
