"""A network with one selectable fault; without a fault it passes the suite."""

import random

import torch
from torch import Tensor, nn

FAULTS = (
    "weights from a generator of their own",
    "noise in the output",
    "input written to",
    "calls counted while scoring",
    "mean of the batch taken off",
    "weight that is no parameter",
    "parameter left out",
    "gradient negated",
    "dropout from a generator of its own",
)


class _Negated(torch.autograd.Function):
    """Return the input, and the negated gradient."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: object, upstream: Tensor) -> Tensor:
        return -upstream


class FaultyNetwork(nn.Module):
    """Two inputs, three hidden units, one output, and a selectable fault.

    Args:
        fault: One of ``FAULTS``, or ``None`` for a correct network.
    """

    def __init__(self, fault: str | None = None) -> None:
        if fault not in (None, *FAULTS):
            raise ValueError(f"fault is {fault!r}, but should be None or one of {', '.join(FAULTS)}")
        super().__init__()
        self.fault = fault
        self.hidden, self.output = nn.Linear(2, 3), nn.Linear(3, 1)
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))
        own = random.SystemRandom()
        if fault == "weights from a generator of their own":
            nn.init.constant_(self.hidden.weight, own.random())
        if fault == "weight that is no parameter":
            self.loose = torch.rand(1)
        if fault == "parameter left out":
            self.unused = nn.Parameter(torch.ones(1))
        self.seed = own.getrandbits(32)

    def forward(self, x: Tensor) -> Tensor:
        """Score each row."""
        fault = self.fault
        if fault == "input written to":
            x += 1
        if fault == "calls counted while scoring":
            self.count = self.count + 1
        h = torch.tanh(self.hidden(x))
        if fault == "mean of the batch taken off":
            h = h - h.mean(0)
        if fault == "dropout from a generator of its own" and self.training:
            self.seed += 1
            h = h * torch.rand(h.shape, generator=torch.Generator().manual_seed(self.seed))
        y: Tensor = self.output(h)
        if fault == "noise in the output":
            y = y + torch.rand(())
        if fault == "weight that is no parameter":
            y = y + self.loose
        return _Negated.apply(y) if fault == "gradient negated" else y
