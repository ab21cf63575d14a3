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
    "activation kept where the next one is",
    "weight read as contiguous",
    "input read as contiguous",
    "dropout from a generator of its own",
    "weights shared with copies",
    "parameters of a copy not frozen",
    "copy in training mode",
    "weights of a copy drawn anew",
    "copy that calls the original",
)


class _Negated(torch.autograd.Function):
    """Return the input, and the negated gradient."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: object, upstream: Tensor) -> Tensor:
        return -upstream


class _Kept(torch.autograd.Function):
    """Square the input, which is kept where the next call keeps its own."""

    kept: Tensor

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        _Kept.kept = x
        return x * x

    @staticmethod
    def backward(_ctx: object, upstream: Tensor) -> Tensor:
        return 2 * _Kept.kept * upstream


def _contiguous(values: Tensor) -> Tensor:
    """Read a matrix as if its rows followed one another in memory."""
    return values.as_strided(values.shape, (values.shape[1], 1))


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

    def __deepcopy__(self, memo: dict[int, object]) -> "FaultyNetwork":
        """Copy it with the fault."""
        twin = FaultyNetwork(self.fault).train(self.training)
        if self.fault != "weights of a copy drawn anew":
            twin.load_state_dict(self.state_dict())
        for own, other in zip(self.parameters(), twin.parameters(), strict=True):
            other.requires_grad_(own.requires_grad or self.fault == "parameters of a copy not frozen")
        if self.fault == "weights shared with copies":
            twin.hidden = self.hidden
        if self.fault == "copy that calls the original":
            twin.forward = self.forward  # type: ignore[method-assign]
        if self.fault == "copy in training mode":
            twin.output.train()
        return twin

    def forward(self, x: Tensor) -> Tensor:
        """Score each row."""
        fault = self.fault
        if fault == "input written to":
            x += 1
        if fault == "calls counted while scoring":
            self.count = self.count + 1
        if fault == "input read as contiguous":
            x = _contiguous(x)
        weight = self.hidden.weight
        if fault == "weight read as contiguous":
            weight = _contiguous(weight)
        h = torch.tanh(nn.functional.linear(x, weight, self.hidden.bias))
        if fault == "activation kept where the next one is":
            h = _Kept.apply(h)
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
