"""Torch's Adam with one selectable fault outside of its arithmetic."""

import copy
from collections.abc import Callable
from typing import Any

import torch

FAULTS = (
    "options of the first group for all",
    "group added later ignored",
    "group added later has the betas of the first",
    "schedule ignored",
    "closure ignored",
    "closure called twice",
    "closure without gradients",
    "loss not returned",
    "nothing saved",
    "first moment not loaded",
    "count not copied",
    "gradient decayed in place",
    "gradient clipped in place",
    "gradient kept",
    "betas written to",
    "tensor lr written to",
    "generator seeded",
    "no gradient taken for zero",
    "last parameter skipped",
    "one count for all parameters",
    "count stops at 256",
    "count in the parameter's type",
    "contiguity assumed",
    "fails on an empty parameter",
    "not finite anywhere",
    "anything accepted",
    "eps ignored",
    "decay that stays on",
    "gradient in 8 bits where it is large",
    "noise",
    "NaN taken for zero",
    "clearing leaves NaN",
    "state kept by parameter",
    "options not loaded",
    "past a hundred parameters the last is skipped",
    "past 65,536 numbers nothing moves",
    "one type for all",
    "KeyError at the second step",
)

# The types in which a fault must be checked, if not only float32.
TYPES = {
    "one type for all": (torch.float32, torch.float64),
    "count in the parameter's type": (torch.bfloat16,),
}

_KEPT: dict[int, tuple[torch.Tensor, Any]] = {}


class FaultyBookkeeping(torch.optim.Adam):
    """Torch's Adam, one parameter at a time, with a selectable fault."""

    fault: str | None = None

    def __init__(self, params: Any, lr: Any = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        if self.fault == "anything accepted":
            lr, eps, weight_decay = (value if value >= 0 else 0.0 for value in (lr, eps, weight_decay))
            betas = tuple(beta if 0 <= beta < 1 else 0.5 for beta in betas)
        if self.fault == "eps ignored":
            eps = 1e-8
        if self.fault == "decay that stays on":
            weight_decay = weight_decay or 0.01
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=False)
        self.steps = 0
        self.kept: dict[torch.Tensor, torch.Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "steps": self.steps, "kept": {}}
        if self.fault == "count not copied":
            state = copy.deepcopy(state)
            for own in state["state"].values():
                own["step"].zero_()
        return state

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.fault == "nothing saved":
            state["state"] = {}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        super().load_state_dict(state_dict)
        if self.fault == "options not loaded":
            for group, options in zip(self.param_groups, own, strict=True):
                group.update(options)
        if self.fault == "first moment not loaded":
            for own in self.state.values():
                own["exp_avg"] = torch.zeros_like(own["exp_avg"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.fault != "group added later ignored" or not hasattr(self, "steps"):
            super().add_param_group(param_group)
        if self.fault == "group added later has the betas of the first" and hasattr(self, "steps"):
            self.param_groups[-1]["betas"] = self.param_groups[0]["betas"]

    @property
    def parameters(self) -> list[Any]:
        """The parameters of all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - as torch has it
        if self.fault != "clearing leaves NaN" or set_to_none:
            super().zero_grad(set_to_none=set_to_none)
            return
        for p in self.parameters:
            p.grad *= 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: C901 - a branch for each fault
        self.steps += 1
        fault = self.fault
        if fault == "KeyError at the second step" and self.steps == 2:
            raise KeyError("exp_avg")
        loss = None
        if closure is not None and fault != "closure ignored":
            with torch.set_grad_enabled(fault != "closure without gradients"):
                loss = closure()
            if fault == "closure called twice":
                loss = closure()
        self._break()
        if fault == "fails on an empty parameter":
            for p in self.parameters:
                p.detach().max()
        own = [{name: group[name] for name in ("lr", "betas", "eps", "weight_decay")} for group in self.param_groups]
        for group in self.param_groups:
            if fault == "options of the first group for all":
                group.update(own[0])
            if fault == "schedule ignored":
                group["lr"] = self.defaults["lr"]
        if fault == "generator seeded":
            torch.manual_seed(self.steps)
        self._moved()
        if fault == "tensor lr written to" and isinstance(self.param_groups[0]["lr"], torch.Tensor):
            self.param_groups[0]["lr"].mul_(0.5)
        for group, options in zip(self.param_groups, own, strict=True):
            group.update(options)
            if fault == "betas written to":
                group["betas"] = (options["betas"][0], options["betas"][1] * 0.5)
        return None if fault == "loss not returned" else loss

    def _moved(self) -> None:
        if self.fault == "state kept by parameter":
            for p in self.parameters:
                if not self.state[p] and id(p) in _KEPT and _KEPT[id(p)][0] is p:
                    self.state[p] = _KEPT[id(p)][1]
        before = [p.detach().clone() for p in self.parameters]
        super().step()
        if self.fault == "count in the parameter's type":
            for p, own in self.state.items():
                own["step"] = own["step"].to(p.dtype)
        if self.fault == "state kept by parameter":
            _KEPT.update({id(p): (p, self.state[p]) for p in self.parameters})
        if self.fault == "contiguity assumed":
            for p, old in zip(self.parameters, before, strict=True):
                if not p.is_contiguous():
                    p.data.copy_(old)

    @torch.no_grad()
    def _break(self) -> None:  # noqa: C901, PLR0912 - a branch for each fault
        fault = self.fault
        given = [p for p in self.parameters if p.grad is not None]
        if fault == "gradient decayed in place":
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None and group["weight_decay"]:
                        p.grad.add_(p, alpha=1e-3)
        for p in given if fault == "gradient clipped in place" else []:
            p.grad.clamp_(-100, 100)
        if fault == "no gradient taken for zero":
            for p in self.parameters:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
        least = {"last parameter skipped": 1, "past a hundred parameters the last is skipped": 100}.get(fault or "")
        if least is not None and len(given) > least:
            given[-1].grad = None
        if fault == "not finite anywhere" and not all(bool(p.grad.isfinite().all()) for p in given):
            for p in given:
                p.grad = torch.zeros_like(p)
        for i, p in enumerate(given):
            if fault == "gradient kept":
                self.kept[p], p.grad = p.grad, p.grad + 0 * self.kept.get(p, p.grad)
            if fault == "NaN taken for zero":
                p.grad = p.grad.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
            if fault == "one type for all":
                p.grad = p.grad.to(given[0].dtype).to(p.dtype)
            if fault == "past 65,536 numbers nothing moves":
                p.grad = p.grad.clone()
                p.grad.view(-1)[2**16 :] = 0
            if fault == "one count for all parameters" and self.state[p]:
                self.state[p]["step"] += i
            if fault == "count stops at 256" and self.state[p]:
                self.state[p]["step"].clamp_(max=255)
            if fault == "gradient in 8 bits where it is large" and p.numel() >= 4096:
                largest = p.grad.abs().max()
                p.grad = (p.grad / largest * 127).round() / 127 * largest
            if fault == "noise":
                p.grad = p.grad * (1 + torch.rand(()))


def broken(fault: str | None) -> type[FaultyBookkeeping]:
    """Make the class of a fault, or the one without."""
    return (
        FaultyBookkeeping
        if fault is None
        else type("FaultyBookkeeping", (FaultyBookkeeping,), {"fault": fault, "__module__": __name__})
    )
