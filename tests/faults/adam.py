"""A plain Adam with one selectable fault.

Without a fault it passes the suite, so a failure is caused by the fault.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

FAULTS = (
    "no first correction",
    "no second correction",
    "t one behind",
    "eps inside the root",
    "eps before the correction",
    "eps dropped",
    "betas swapped",
    "g for g squared",
    "L2 for decoupled",
    "decoupled for L2",
    "decay dropped",
    "maximize ignored",
    "amsgrad ignored",
    "step 0.9 % too long",
    "last entry skipped",
    "first moment forgotten",
)


class FaultyAdam(Optimizer):
    """Adam and AdamW with torch's options, and a selectable fault.

    Args:
        parameters: The parameters to optimize.
        fault: One of ``FAULTS``, or ``None`` for a correct Adam.
        decoupled: Whether weight decay is that of AdamW.
        options: As for ``torch.optim.Adam``.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, fault: str | None = None, decoupled: bool = False, **options: Any
    ) -> None:
        if fault not in (None, *FAULTS):
            raise ValueError(f"fault is {fault!r}, but should be None or one of {', '.join(FAULTS)}")
        for name, value in options.items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(0 <= number < (1 if name == "betas" else float("inf")) for number in numbers):
                raise ValueError(f"{name} is {value}, but should be in its domain")
        defaults = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
        super().__init__(parameters, {**defaults, **options})
        self.fault = fault
        self.decoupled = decoupled

    def __getstate__(self) -> dict[str, Any]:
        """Add the attributes that torch's own method does not copy."""
        return {**super().__getstate__(), "fault": self.fault, "decoupled": self.decoupled}

    @classmethod
    def build(cls, torchs: type[Optimizer], parameters: Iterable[Tensor], **options: Any) -> "FaultyAdam":
        """Build one in place of torch's Adam or AdamW."""
        return cls(parameters, decoupled=torchs is torch.optim.AdamW, **options)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step, by the formulas of §4.2 in order."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)

    def _move(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:  # noqa: C901 - a branch for each fault
        fault = self.fault
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        if fault == "betas swapped":
            beta1, beta2 = beta2, beta1
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(p)
        state["step"] += 1
        t = int(state["step"]) - (fault == "t one behind" and int(state["step"]) > 1)

        if group["maximize"] and fault != "maximize ignored":
            g = -g
        decoupled = self.decoupled or fault == "decoupled for L2"
        if group["weight_decay"] and fault != "decay dropped":
            if decoupled and fault != "L2 for decoupled":
                p.mul_(1 - lr * group["weight_decay"])
            else:
                g = g + group["weight_decay"] * p

        m, v = state["exp_avg"], state["exp_avg_sq"]
        m.copy_((0 if fault == "first moment forgotten" else beta1) * m + (1 - beta1) * g)
        v.copy_(beta2 * v + (1 - beta2) * (g.abs() if fault == "g for g squared" else g * g))
        second = v
        if group["amsgrad"] and fault != "amsgrad ignored":
            second = torch.maximum(state["max_exp_avg_sq"], v, out=state["max_exp_avg_sq"])
        correction1 = 1.0 if fault == "no first correction" else 1 - beta1**t
        correction2 = 1.0 if fault == "no second correction" else 1 - beta2**t

        if fault == "eps inside the root":
            denominator = (second / correction2 + eps).sqrt()
        elif fault == "eps before the correction":
            denominator = (second.sqrt() + eps) / correction2**0.5
        else:
            denominator = (second / correction2).sqrt() + (0 if fault == "eps dropped" else eps)
        step = (1.009 if fault == "step 0.9 % too long" else 1) * lr * (m / correction1) / denominator
        if fault == "last entry skipped":
            step.view(-1)[-1:] = 0
        p.sub_(step)
