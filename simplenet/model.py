"""SimpleNet: two inputs, one hidden layer, one output.

The notebook describes three networks under one name, and they do not all learn. Each is kept
here under the name of the place that describes it.

References:
    The notebook, §4 (``overview``), §4.3 (``derivation``) and §5 (``listing``).
"""

from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from simplenet.checkpoint import Checkpoint, digest, read_checkpoint

Architecture = Literal["overview", "derivation", "listing"]

# The activation of the hidden layer and that of the output.
ARCHITECTURES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "overview": (nn.Sigmoid, nn.Identity),
    "derivation": (nn.Sigmoid, nn.Sigmoid),
    "listing": (nn.Identity, nn.Sigmoid),  # affine under a sigmoid: cannot learn XOR
}


def mse_loss(predictions: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Average the squared differences, and refuse what torch would turn into another loss.

    Args:
        predictions: Any shape, at least one element.
        targets: The same shape; torch would broadcast another one, with only a warning.

    Returns:
        A scalar, in the dtype of the differences.

    Raises:
        TypeError: If either is not floating-point.
        ValueError: If the shapes differ or are empty.

    References:
        The notebook, §4.1.
    """
    for name, values in (("predictions", predictions), ("targets", targets)):
        if not values.is_floating_point():
            raise TypeError(f"{name} have dtype {values.dtype}, but should be floating-point")
    if targets.shape != predictions.shape:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, "
            f"but should have that of the predictions, {tuple(predictions.shape)}"
        )
    if predictions.numel() == 0:
        raise ValueError(f"predictions have shape {tuple(predictions.shape)}, but should hold at least one element")
    return functional.mse_loss(predictions, targets)


class SimpleNet(LightningModule):
    """A multilayer perceptron with one hidden layer, trained by Adam on the MSE.

    Args:
        architecture: Which of the notebook's three networks: ``overview``, ``derivation``, ``listing``.
        hidden: Width of the hidden layer; 4 gives the notebook's 17 parameters.
        lr: Learning rate of Adam, in units of the parameters.

    Raises:
        ValueError: If the architecture is unknown, ``hidden`` is not positive or ``lr`` is negative.

    References:
        The notebook, §4 and §5.
    """

    def __init__(self, architecture: Architecture = "overview", hidden: int = 4, lr: float = 0.01) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture is {architecture!r}, but should be one of {', '.join(ARCHITECTURES)}")
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}, but should be at least 1")
        if not 0 <= lr < float("inf"):
            raise ValueError(f"lr is {lr}, but should be finite and at least 0")
        self.save_hyperparameters()
        hidden_activation, output_activation = ARCHITECTURES[architecture]
        self.input_layer = nn.Linear(2, hidden)
        self.hidden_activation = hidden_activation()
        self.output_layer = nn.Linear(hidden, 1)
        self.output_activation = output_activation()

    def forward(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 1"]:
        """Score each row; above 1/2 reads as true.

        Raises:
            TypeError: If ``x`` is not floating-point.
            ValueError: If the last dimension is not 2.
        """
        if not x.is_floating_point():
            raise TypeError(f"inputs have dtype {x.dtype}, but should be floating-point")
        if x.ndim == 0 or x.shape[-1] != self.input_layer.in_features:
            raise ValueError(
                f"inputs have shape {tuple(x.shape)}, but the last dimension should be {self.input_layer.in_features}"
            )
        hidden: Tensor = self.hidden_activation(self.input_layer(x))
        output: Tensor = self.output_activation(self.output_layer(hidden))
        return output

    def training_step(
        self, batch: tuple[Float[Tensor, "n 2"], Float[Tensor, "n 1"]], _batch_idx: int = 0
    ) -> Float[Tensor, ""]:
        """Return the MSE of a batch, and log it as ``train_loss``.

        Raises:
            TypeError: If inputs or targets are not floating-point.
            ValueError: If the targets' shape is not the output's, or the batch is empty.
        """
        x, y = batch
        predictions: Tensor = self(x)
        loss = mse_loss(predictions, y)
        self.log("train_loss", loss, batch_size=len(x))
        return loss

    def configure_optimizers(self) -> torch.optim.Adam:
        """Return Adam with the notebook's settings (§4.2)."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the digest by which ``read_checkpoint`` notices damage."""
        checkpoint["digest"] = digest(checkpoint)


def load_checkpoint(path: str | Path) -> SimpleNet:
    """Load a trained network, on the CPU, in the type it was saved in.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a checkpoint of a ``SimpleNet``, as ``read_checkpoint`` checks it.
    """
    return from_checkpoint(read_checkpoint(path))


def from_checkpoint(checkpoint: Checkpoint) -> SimpleNet:
    """Build the network that a checkpoint holds, on the CPU; no generator is drawn from."""
    # The initial weights are replaced at once.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        net = SimpleNet(**checkpoint.arguments)
    net.to(checkpoint.weights["output_layer.bias"].dtype)
    net.load_state_dict(checkpoint.weights)
    return net
