"""The convergence certificate: how often XOR is solved, after how many steps, and with what confidence.

Seeds are treated as independent draws from one distribution of initial weights. Then the number of seeds
that solve XOR is binomial, and its Clopper-Pearson bounds are exact.

References:
    C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits illustrated in the
    case of the binomial, Biometrika 26, 1934.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from lightning.fabric import Fabric
from scipy.special import betaincinv  # type: ignore[import-untyped]
from torch import Tensor

from simplenet.ensemble import Ensemble, Step, most_networks, train_ensemble
from simplenet.model import ARCHITECTURES, Architecture, check_floating_point
from simplenet.signals import ending_at_once
from simplenet.validation import MAX_HIDDEN, check_choice, check_float, check_int, check_type

QUANTILES = (0.5, 0.9, 0.99)

# The bounds are computed in float64, which represents every integer up to this one.
MAX_TRIALS = 2**53


def clopper_pearson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Bound a success probability from counted successes, from below and from above.

    Args:
        successes: A count from 0 to ``trials``.
        trials: The number of independent trials, from 1 to ``MAX_TRIALS``.
        confidence: The confidence of each bound by itself, above 0 and below 1.

    Returns:
        The lower and the upper bound; each is true with at least this confidence.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If it is out of range.

    References:
        Clopper and Pearson 1934, as quantiles of the beta distribution.
    """
    n = check_int("trials", trials, 1, MAX_TRIALS)
    k = check_int("successes", successes, 0, n)
    confidence = check_float("confidence", confidence, 0.0, 1.0, ends=False)
    lower = float(betaincinv(k, n - k + 1, 1 - confidence)) if k > 0 else 0.0
    upper = float(betaincinv(k + 1, n - k, confidence)) if k < n else 1.0
    return lower, upper


@dataclass(frozen=True)
class Certificate:
    """How often seeds 0, 1, 2, ... solve XOR.

    Attributes:
        architecture: The architecture of the networks.
        batch_size: Rows in a batch.
        steps: Optimizer steps of each network.
        confidence: The confidence of each bound, a probability.
        ensemble: The trained networks.
    """

    architecture: Architecture
    batch_size: int
    steps: int
    confidence: float
    ensemble: Ensemble

    @property
    def seeds(self) -> int:
        """The number of seeds trained."""
        return len(self.ensemble.seeds)

    @property
    def hidden(self) -> int:
        """The hidden width of the networks."""
        return (self.ensemble.weights.shape[1] - 1) // 4

    @property
    def network(self) -> str:
        """The architecture, and the widths of the layers if they differ from the notebook's."""
        return self.architecture if self.hidden == 4 else f"{self.architecture} 2-{self.hidden}-1"  # noqa: PLR2004

    @property
    def solved(self) -> int:
        """The number of seeds that solve XOR after the last step."""
        return int(self.ensemble.solved.sum())

    @property
    def percent(self) -> str:
        """The confidence in percent, with all its digits."""
        return f"{100 * self.confidence:.15g} %"

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper bound of the probability that a seed solves XOR."""
        return clopper_pearson(self.solved, self.seeds, self.confidence)

    @property
    def failed(self) -> list[int]:
        """The seeds that do not solve XOR."""
        seeds: list[int] = self.ensemble.seeds[~self.ensemble.solved].tolist()
        return seeds

    def steps_to_solve(self, quantile: float) -> int | None:
        """Return the number of steps after which this fraction of all seeds has solved XOR and stays solved.

        Returns:
            A count, or ``None`` if a smaller fraction solves XOR.

        Raises:
            TypeError: If the fraction is not a ``float``.
            ValueError: If it is not from 0 to 1.
        """
        quantile = check_float("quantile", quantile, 0.0, 1.0)
        rank = bisect_left(range(self.seeds + 1), quantile, key=lambda count: count / self.seeds)
        if rank == 0:
            return 0
        solved_at = self.ensemble.solved_at[self.ensemble.solved].sort().values
        return int(solved_at[rank - 1]) if rank <= len(solved_at) else None

    def __str__(self) -> str:
        """Summarize the certificate in one line; a bound is rounded in the direction in which it stays true."""
        lower, upper = self.bounds
        if self.solved:
            bound = f"at least {math.floor(1000 * lower) / 10:.1f} %"
        else:
            bound = f"at most {math.ceil(1000 * upper) / 10:.1f} %"
        return (
            f"{self.network}, batch {self.batch_size}, {self.steps:,} steps: "
            f"{self.solved:,} of {self.seeds:,} seeds solve XOR; "
            f"{bound} with {self.percent} confidence (Clopper-Pearson)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the certificate as values that JSON can represent."""
        lower, upper = self.bounds
        return {
            "architecture": self.architecture,
            "hidden": self.hidden,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "seeds": self.seeds,
            "solved": self.solved,
            "confidence": self.confidence,
            "at_least": lower,
            "at_most": upper,
            "steps_to_solve": {str(quantile): self.steps_to_solve(quantile) for quantile in QUANTILES},
            "failed": self.failed,
            "compiled": self.ensemble.fallback is None,
        }


def certify(  # noqa: PLR0913 - the parameters of a certificate
    fabric: Fabric,
    architecture: Architecture,
    *,
    hidden: int = 4,
    batch_size: int,
    steps: int,
    seeds: int,
    confidence: float,
    compiled: bool = True,
) -> Certificate:
    """Train seeds 0, 1, 2, ..., split among the fabric's devices, and count those that solve XOR.

    The result does not depend on the number of devices. A signal such as Ctrl-C ends a process that waits for the
    results of others at once, without ``KeyboardInterrupt``.

    Args:
        fabric: A launched fabric.
        architecture: As for ``SimpleNet``.
        hidden: As for ``train_ensemble``.
        batch_size: Rows in a batch.
        steps: Optimizer steps of each network, as for ``train_ensemble``.
        seeds: The number of seeds, at most ``most_networks(hidden)``: every device receives all weights.
        confidence: The confidence of each bound, above 0 and below 1.
        compiled: As for ``train_ensemble``.

    Returns:
        The same certificate on every device.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
    """
    check_type("fabric", fabric, Fabric)
    architecture = check_choice("architecture", architecture, ARCHITECTURES)
    hidden = check_int("hidden", hidden, 1, MAX_HIDDEN)
    seeds = check_int("seeds", seeds, 1, most_networks(hidden))
    confidence = check_float("confidence", confidence, 0.0, 1.0, ends=False)
    devices, rank = fabric.world_size, fabric.global_rank
    # Every device trains the same number of seeds, so that the results can be gathered; the last seed may repeat.
    share: Sequence[int] = range(rank, seeds, devices)
    if len(share) * devices < seeds:
        share = [*share, seeds - 1]
    part = train_ensemble(
        share,
        architecture,
        hidden=hidden,
        batch_size=batch_size,
        steps=steps,
        device=str(fabric.device),
        compiled=compiled,
        progress=fabric.is_global_zero,
    )

    def gathered(tensor: Tensor) -> Tensor:
        if devices == 1:
            return tensor
        with ending_at_once():  # torch waits for the other processes in native code
            parts: Any = fabric.all_gather(tensor)
        merged: Tensor = parts.cpu().transpose(0, 1).flatten(0, 1)[:seeds]
        return merged

    seeds_, solved_at, loss, weights = map(gathered, (part.seeds, part.solved_at, part.loss, part.weights))
    ensemble = Ensemble(seeds_, solved_at, loss, weights, part.fallback)
    return Certificate(architecture, batch_size, steps, confidence, ensemble)


@dataclass(frozen=True)
class CriticalPoint:
    """The loss surface around a trained network, in float64.

    Attributes:
        predictions: The predictions for the rows of the truth table.
        loss: The MSE over the truth table.
        gradient: Euclidean norm of the gradient of the MSE.
        curvatures: Eigenvalues of the Hessian of the MSE, in ascending order.
    """

    predictions: list[float]
    loss: float
    gradient: float
    curvatures: Float[Tensor, " parameters"]

    def __str__(self) -> str:
        """Summarize the point in one line."""
        # An eigenvalue of 0 is computed to within this error.
        zero = len(self.curvatures) * torch.finfo(self.curvatures.dtype).eps * float(self.curvatures.abs().max())
        down, up = int((self.curvatures < -zero).sum()), int((self.curvatures > zero).sum())
        flat = len(self.curvatures) - down - up
        return (
            f"predicts {' '.join(f'{prediction:.3f}' for prediction in self.predictions)}, "
            f"MSE {self.loss:.4f}, gradient {self.gradient:.0e}; "
            f"curves up in {up}, down in {down}, neither in {flat}: shaped like a {'saddle' if down else 'minimum'}"
        )


@torch.inference_mode(mode=False)
def critical_point(weights: Float[Tensor, " parameters"], architecture: Architecture) -> CriticalPoint:
    """Compute the gradient and the Hessian of the loss at the weights of a network.

    Args:
        weights: The parameters of one network, a row of ``Ensemble.weights``.
        architecture: The architecture of that network.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no such architecture, or no network has this number of weights.
    """
    check_floating_point("weights", weights)
    if weights.ndim != 1 or len(weights) % 4 != 1 or len(weights) == 1:
        raise ValueError(f"weights have shape {tuple(weights.shape)}, but should have shape (4 h + 1,), for h units")
    step = Step(architecture, len(weights) // 4, torch.device("cpu"))

    def mse(point: Tensor) -> Tensor:
        return (step.forward(point[:, None])[1] - step.y).square().mean()

    point = weights.double().cpu().clone()  # autograd refuses a tensor that was made in inference mode
    _, y_hat = step.forward(point[:, None])
    gradient: Tensor = torch.autograd.functional.jacobian(mse, point)  # type: ignore[no-untyped-call]
    hessian: Tensor = torch.autograd.functional.hessian(mse, point)  # type: ignore[no-untyped-call]
    curvatures = torch.linalg.eigvalsh(hessian)
    return CriticalPoint(y_hat.flatten().tolist(), mse(point).item(), gradient.norm().item(), curvatures)
