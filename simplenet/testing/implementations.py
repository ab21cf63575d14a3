"""What is under test: each implementation of Adam and each network, on each device that it runs on.

An implementation is a way to build an optimizer, of which torch brings seven. The networks are the notebook's
three.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from simplenet import ARCHITECTURES, SimpleNet, set_seed
from simplenet.environment import TORCH, resolve_device
from simplenet.testing.oracle import fused_rounds_scalars


def _plain(cls: type[Adam | AdamW], parameters: Iterable[Tensor], **options: Any) -> Optimizer:
    return cls(parameters, **options)


@dataclass(frozen=True)
class Implementation:
    """One way to compute Adam.

    Attributes:
        name: What the tests' ids call it.
        flags: What the constructor is given beside the hyper-parameters.
        since: The first torch with it, by device type; no entry, no support.
        tensor_scalars: Whether the bias corrections are computed in tensors rather than in Python's floats, everywhere.
        position_independent: Whether the bits of an entry do not depend on its index: the body of a fused CPU kernel,
            in vectors, and its tail, in scalars, round differently.
        build: Turn a class, ``Adam`` or ``AdamW``, and its arguments into an optimizer.
    """

    name: str
    flags: dict[str, Any] = field(default_factory=dict)
    since: dict[str, tuple[int, int]] = field(default_factory=lambda: {"cpu": (2, 0), "cuda": (2, 0), "mps": (2, 0)})
    tensor_scalars: bool = False
    position_independent: bool = True
    build: Callable[..., Optimizer] = _plain

    def runs_on(self, device: torch.device) -> bool:
        """Whether this torch has it on that device."""
        return device.type in self.since and self.since[device.type] <= TORCH


def _with_tensor_lr(cls: type[Adam | AdamW], parameters: Iterable[Tensor], *, lr: float, **options: Any) -> Optimizer:
    # A rate in the parameters' type, or float32 for narrower ones: a coarser one would be a coarser claim.
    parameters = list(parameters)
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    dtype = torch.promote_types(first.dtype, torch.float32)
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
    Implementation("differentiable", {"differentiable": True}, tensor_scalars=True),
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
        """Whether its scalars have the type of tensors here, rather than that of Python's floats."""
        fused = self.implementation.flags.get("fused", False)
        return self.implementation.tensor_scalars or (fused and fused_rounds_scalars(self.device))

    @property
    def refuses_strides(self) -> bool:
        """Whether it refuses a parameter, gradient or moment of other strides, by a RuntimeError."""
        return self.device.type == "cuda" and self.implementation.flags.get("fused", False)

    def parameter(self, values: Tensor) -> Tensor:
        """Make something that this optimizer takes, in the memory of ``values``."""
        # What is differentiated through may not be a leaf that requires gradients.
        return values.detach().requires_grad_(not self.implementation.flags.get("differentiable"))

    def __call__(self, parameters: Iterable[Any], *, decoupled: bool = False, **options: Any) -> Optimizer:
        """Build an optimizer; ``decoupled`` chooses AdamW, whose weight decay is 0 here unless it is given."""
        options = {"lr": LR, "weight_decay": 0.0, **options}
        return self.implementation.build(
            AdamW if decoupled else Adam, parameters, **self.implementation.flags, **options
        )


def devices(chosen: str = "all") -> list[torch.device]:
    """List the devices to run on: the one that is chosen, else the CPU, and CUDA where there is one.

    Raises:
        ValueError: If there is no such device here.
    """
    if chosen != "all":
        return [resolve_device(chosen)]
    return [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()


def adams(here: Iterable[torch.device]) -> list[AdamUnderTest]:
    """List each implementation of Adam on each of some devices."""
    return [AdamUnderTest(one, device) for device in here for one in IMPLEMENTATIONS if one.runs_on(device)]


@dataclass(frozen=True)
class NetworkUnderTest:
    """A network on a device: call it with a seed to build one.

    Attributes:
        name: What the tests' ids call it.
        build: Make a network of two inputs, its weights drawn from torch's generator.
        device: Where it is put.
    """

    name: str
    build: Callable[[], nn.Module]
    device: torch.device

    def __str__(self) -> str:
        return f"{self.name}-{self.device}"

    def __call__(self, seed: int) -> nn.Module:
        """Build the network of a seed."""
        set_seed(seed)
        return self.build().to(self.device)

    def inputs(self, rows: int, seed: int) -> Tensor:
        """Draw a batch."""
        return torch.randn((rows, 2), generator=torch.Generator().manual_seed(seed)).to(self.device)

    def score(self, net: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
        """Return the output for each row; what it draws while training, it draws from ``seed``."""
        torch.manual_seed(seed)
        output: Tensor = net(x)
        return output


def networks(here: Iterable[torch.device]) -> list[NetworkUnderTest]:
    """List the notebook's networks on each of some devices."""
    return [NetworkUnderTest(name, partial(SimpleNet, name), device) for device in here for name in ARCHITECTURES]


def apply_step(optimizer: Optimizer, parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Give each parameter its gradient and take one step."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
