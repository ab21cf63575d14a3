"""Faulty optimizers and networks, under the checks of ``simplenet.testing``."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from simplenet import SimpleNet
from simplenet.testing.checks import check_adam
from simplenet.testing.network import check_network
from simplenet.testing.report import Report
from tests.faults import adam, bookkeeping, networks
from tests.faults.planting import Fault

# One dtype is enough to detect a fault.
DTYPES = (torch.float32,)

FAULTS: list[Fault] = []


def _add(name: str, text: str, check: Callable[[], Report], *, control: bool = False) -> None:
    name = re.sub(r"[^\w.]+", "-", name)
    # Nothing is planted: what is checked is faulty itself.
    FAULTS.append(Fault(name, "implementations", text, lambda: None, None, control=control, judge=check))


def _adam(make: Callable[..., Any], variant: str, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Callable[[], Report]:
    return partial(check_adam, make, dtypes=dtypes, variant=variant)


for _fault in adam.FAULTS:
    _variant = "adamw" if _fault == "L2 for decoupled" else "adam"
    _make = partial(adam.FaultyAdam, fault=_fault, decoupled=_variant == "adamw")
    _add(f"adam: {_fault}", f"A faulty Adam: {_fault}.", _adam(_make, _variant))
for _fault in bookkeeping.FAULTS:
    _judge = _adam(bookkeeping.broken(_fault), "adam", bookkeeping.TYPES.get(_fault, DTYPES))
    _add(f"bookkeeping: {_fault}", f"Torch's Adam with a fault in its bookkeeping: {_fault}.", _judge)
for _fault in networks.FAULTS:
    _check = partial(check_network, partial(networks.FaultyNetwork, _fault))
    _add(f"network: {_fault}", f"A faulty network: {_fault}.", _check)


class ForgetsWhenPickled(torch.optim.Adam):
    """An Adam of which a copy has no moments."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Clear the state."""
        super().__setstate__(state)
        self.state.clear()


class ForgetsWhenResumed(SimpleNet):
    """A network that loads no weights from a checkpoint."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace them by zeros."""
        checkpoint["state_dict"] = {name: torch.zeros_like(t) for name, t in checkpoint["state_dict"].items()}


_add("bookkeeping: copied without its state", "A copy has no state.", _adam(ForgetsWhenPickled, "adam"))
_add(
    "network: weights not resumed",
    "It ignores the weights of a checkpoint.",
    partial(check_network, ForgetsWhenResumed),
)
_add("network: another width", "It takes rows of three numbers.", partial(check_network, partial(nn.Linear, 3, 1)))
_add("adam: none", "A correct Adam.", _adam(partial(adam.FaultyAdam, fault=None), "adam"), control=True)
_add("adamw: none", "A correct AdamW.", _adam(partial(adam.FaultyAdam, decoupled=True), "adamw"), control=True)
_add("bookkeeping: none", "Torch's Adam, unchanged.", _adam(bookkeeping.broken(None), "adam"), control=True)
_add("network: none", "A correct network.", partial(check_network, networks.FaultyNetwork), control=True)
