"""The arithmetic of torch's fused Adam on CUDA since 2.11, emulated on the CPU, for tests without a GPU.

The rate, betas and epsilon are rounded to the type that the kernel computes in, float32 or wider, and each average is
two fused multiply-adds. Tensors of different strides are refused.

References:
    PyTorch, pull request 173224.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.optim import Adam, Optimizer


def _fma(a: Any, b: Any, c: Any, dtype: type[np.floating]) -> ndarray:
    """Compute ``a b + c`` with one rounding; float64 represents the product of two float32 numbers exactly."""
    if dtype is np.float32:
        return np.asarray(np.multiply(a, b, dtype=np.float64) + c, np.float32)
    parts = (np.ravel(part).tolist() for part in np.broadcast_arrays(a, b, c))
    exact = (
        float(Fraction(x) * Fraction(y) + Fraction(z)) if np.isfinite([x, y, z]).all() else x * y + z
        for x, y, z in zip(*parts, strict=True)
    )
    return np.array([*exact], np.float64).reshape(np.shape(c))


class FusedCuda(Optimizer):
    """Adam, or with ``decoupled`` AdamW, with torch's options."""

    def __init__(self, parameters: Iterable[Tensor], *, decoupled: bool = False, **options: Any) -> None:
        defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
        defaults |= {"amsgrad": False, "maximize": False, "fused": True}
        super().__init__(parameters, {**defaults, **options})
        self.decoupled = decoupled

    @classmethod
    def build(cls, kind: type[Optimizer], parameters: Iterable[Tensor], **options: Any) -> "FusedCuda":
        """Make a replacement of ``Adam`` or ``AdamW``."""
        return cls(parameters, decoupled=kind is not Adam, **options)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] # without a closure
        """Take a step."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    names = ("exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * group["amsgrad"])
                    state.update({name: torch.zeros_like(p) for name in names}, step=torch.zeros(()))
                tensors = (p, p.grad, state["exp_avg"], state["exp_avg_sq"])
                if len({tensor.stride() for tensor in tensors}) > 1:
                    raise RuntimeError("parameter, gradient and moments should have one layout in memory")
                state["step"] += 1
                self._step(p, p.grad, state, group)

    def _step(self, p: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        dtype = np.float64 if p.dtype == torch.float64 else np.float32

        def read(tensor: Tensor) -> ndarray:
            return tensor.double().numpy().astype(dtype)

        lr, decay, eps, beta1, beta2 = (
            dtype(x) for x in (group["lr"], group["weight_decay"], group["eps"], *group["betas"])
        )
        w, g, m, v = (read(part) for part in (p, gradient, state["exp_avg"], state["exp_avg_sq"]))
        g = -g if group["maximize"] else g
        if decay and self.decoupled:
            w = _fma(-(lr * decay), w, w, dtype)
        elif decay:
            g = _fma(w, decay, g, dtype)
        m = _fma(beta1, m, _fma(-beta1, g, g, dtype), dtype)
        v = _fma(beta2, v, _fma(-beta2, g * g, g * g, dtype), dtype)
        t = float(state["step"])
        correction1, correction2 = (dtype(1) - dtype(np.float64(beta) ** t) for beta in (beta1, beta2))
        moments = {"exp_avg": m, "exp_avg_sq": v}
        if group["amsgrad"]:
            v = moments["max_exp_avg_sq"] = np.maximum(read(state["max_exp_avg_sq"]), v)
        with np.errstate(all="ignore"):  # 0/0, as on the GPU, where epsilon is 0
            w -= lr / correction1 * m / (np.sqrt(v) / np.sqrt(correction2) + eps)
        for tensor, values in [(p, w), *((state[name], values) for name, values in moments.items())]:
            tensor.copy_(torch.from_numpy(np.asarray(values)))
