"""The objects under test: torch's seven implementations of Adam and the notebook's three networks, on each device."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from simplenet import ARCHITECTURES, SimpleNet
from simplenet.environment import TORCH, resolve_device
from simplenet.testing.optimizers import differentiable
from simplenet.testing.oracle import fused_rounds_scalars


def _plain(cls: type[Adam | AdamW], parameters: Iterable[Tensor], **options: Any) -> Optimizer:
    return cls(parameters, **options)


@dataclass(frozen=True)
class Implementation:
    """One way to compute Adam.

    Attributes:
        name: Its name in test ids.
        flags: Arguments of the constructor besides the hyper-parameters.
        since: The first release of torch with it, by device type; a missing type is not supported.
        tensor_scalars: Whether the bias corrections are computed in tensors instead of Python's floats.
        position_independent: Whether the bits of an entry do not depend on its index: the vectorized body and the
            scalar tail of a fused CPU kernel round differently.
        build: Makes an optimizer from a class, ``Adam`` or ``AdamW``, and its arguments.
    """

    name: str
    flags: dict[str, Any] = field(default_factory=dict, hash=False)
    since: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {"cpu": (2, 0), "cuda": (2, 0), "mps": (2, 0)}, hash=False
    )
    tensor_scalars: bool = False
    position_independent: bool = True
    build: Callable[..., Optimizer] = _plain

    def runs_on(self, device: torch.device) -> bool:
        """Whether this release of torch has it on that device."""
        return device.type in self.since and self.since[device.type] <= TORCH


def _with_tensor_lr(cls: type[Adam | AdamW], parameters: Iterable[Tensor], *, lr: float, **options: Any) -> Optimizer:
    # In the parameters' real type, or float32 for narrower types: a coarser rate would need a larger bound.
    parameters = list(parameters)
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    dtype = torch.promote_types(first.real.dtype, torch.float32)
    return cls(parameters, lr=torch.tensor(lr, dtype=dtype), **options)


def _compiled(cls: type[Adam | AdamW], parameters: Iterable[Tensor], **options: Any) -> Optimizer:
    optimizer = cls(parameters, **options)
    optimizer.step = torch.compile(optimizer.step)  # type: ignore[method-assign]
    return optimizer


FOR_LOOP = Implementation("for-loop", {"foreach": False})
IMPLEMENTATIONS = [
    FOR_LOOP,
    Implementation("foreach", {"foreach": True}),
    Implementation("fused", {"fused": True}, since={"cpu": (2, 4), "cuda": (2, 0)}, position_independent=False),
    Implementation("differentiable", {"differentiable": True}, tensor_scalars=True, build=differentiable),
    Implementation("tensor-lr", {"foreach": False}, since={"cpu": (2, 1), "cuda": (2, 1)}, build=_with_tensor_lr),
    Implementation("capturable", {"capturable": True}, since={"cuda": (2, 0)}, tensor_scalars=True),
]
COMPILED = Implementation(
    "compiled", {"foreach": True}, since={"cpu": (2, 3), "cuda": (2, 3)}, tensor_scalars=True, build=_compiled
)


LR = 1e-3  # torch's default


@dataclass(frozen=True)
class AdamUnderTest:
    """An implementation on a device: call it with parameters and hyper-parameters to build an optimizer."""

    implementation: Implementation
    device: torch.device

    def __str__(self) -> str:
        return f"{self.implementation.name}-{self.device}"

    @property
    def tensor_scalars(self) -> bool:
        """Whether its scalars on this device have the type of tensors instead of that of Python's floats."""
        fused = self.implementation.flags.get("fused", False)
        return self.implementation.tensor_scalars or (fused and fused_rounds_scalars(self.device))

    def parameter(self, values: Tensor) -> Tensor:
        """Make a parameter, which shares the memory of ``values``."""
        return values.detach().requires_grad_()

    def __call__(self, parameters: Iterable[Any], *, decoupled: bool = False, **options: Any) -> Optimizer:
        """Build an optimizer; ``decoupled`` chooses AdamW; ``weight_decay`` is 0 by default."""
        options = {"lr": LR, "weight_decay": 0.0, **options}
        return self.implementation.build(
            AdamW if decoupled else Adam, parameters, **self.implementation.flags, **options
        )


def devices(chosen: str = "all") -> list[torch.device]:
    """List the devices to run on: the chosen one, or for ``all`` the CPU, and CUDA if it is available.

    Raises:
        ValueError: If there is no such device.
    """
    if chosen != "all":
        return [resolve_device(chosen)]
    return [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()


def adams(on: Iterable[torch.device]) -> list[AdamUnderTest]:
    """List each implementation of Adam on each of these devices."""
    return [AdamUnderTest(one, device) for device in on for one in IMPLEMENTATIONS if one.runs_on(device)]


@dataclass(frozen=True)
class NetworkUnderTest:
    """A network on a device.

    Attributes:
        name: Its name in test ids.
        build: Makes a network of two inputs, with weights drawn from torch's generator.
        device: Its device.
    """

    name: str
    build: Callable[[], nn.Module]
    device: torch.device

    def __str__(self) -> str:
        return f"{self.name}-{self.device}"


def networks(on: Iterable[torch.device]) -> list[NetworkUnderTest]:
    """List the notebook's networks on each of these devices."""
    return [NetworkUnderTest(name, partial(SimpleNet, name), device) for device in on for name in ARCHITECTURES]


def apply_step(optimizer: Optimizer, parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Set each parameter's gradient and take one step."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
