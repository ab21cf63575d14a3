"""SimpleNet: two inputs, one hidden layer, one output.

The notebook describes three networks under one name, and not all of them learn XOR. Each is named
here after the section that describes it.

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
from simplenet.environment import autocasts
from simplenet.validation import MAX_HIDDEN, MAX_LR, check_choice, check_float, check_int, check_type, refuse_type

Architecture = Literal["overview", "derivation", "listing"]

# The activation of the hidden layer and that of the output.
ARCHITECTURES: dict[Architecture, tuple[type[nn.Module], type[nn.Module]]] = {
    "overview": (nn.Sigmoid, nn.Identity),
    "derivation": (nn.Sigmoid, nn.Sigmoid),
    "listing": (nn.Identity, nn.Sigmoid),  # affine under a sigmoid: cannot learn XOR
}


def check_fits(name: str, values: Tensor, other: Tensor, whose: str) -> None:
    """Refuse a tensor whose dtype or device differs from another's.

    Dtypes may differ in an autocast region, which casts both tensors to one dtype, unless one is float64.
    """
    same = values.dtype == other.dtype
    if not same and (torch.float64 in {values.dtype, other.dtype} or not autocasts(other.device)):
        raise TypeError(f"{name} have dtype {values.dtype}, but should have that of the {whose}, {other.dtype}")
    if values.device != other.device:
        raise ValueError(f"{name} are on {values.device}, but should be on the device of the {whose}, {other.device}")


def check_floating_point(name: str, values: Tensor) -> None:
    check_type(name, values, Tensor)
    if not values.is_floating_point():
        raise TypeError(f"{name} have dtype {values.dtype}, but should be floating-point")


def mse_loss(predictions: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Compute the mean squared error; refuse shapes and dtypes that torch would broadcast or promote.

    Args:
        predictions: Any shape, at least one element.
        targets: The same shape and dtype. torch would broadcast another shape with only a warning, and promote
            another dtype, which not every release can differentiate. In an autocast region, where torch computes
            this loss in float32, either may have any dtype but float64.

    Returns:
        A scalar, in the dtype of both; in float32 if autocast casts them.

    Raises:
        TypeError: If either is not a floating-point tensor, or their dtypes differ.
        ValueError: If the shapes or the devices differ, or the shapes are empty.

    References:
        The notebook, §4.1.
    """
    for name, values in (("predictions", predictions), ("targets", targets)):
        check_floating_point(name, values)
    check_fits("targets", targets, predictions, "predictions")
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
        hidden: Width of the hidden layer, from 1 to ``MAX_HIDDEN``; 4 gives the notebook's 17 parameters.
        lr: Learning rate of Adam, in units of the parameters, from 0 to ``MAX_LR``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the architecture is unknown, or ``hidden`` or ``lr`` is out of range.

    References:
        The notebook, §4 and §5.
    """

    def __init__(
        self, architecture: Architecture = "overview", hidden: int = 4, lr: float = 0.01
    ) -> None:  # pragma: no mutate block
        super().__init__()
        architecture = check_choice("architecture", architecture, ARCHITECTURES)
        hidden = check_int("hidden", hidden, 1, MAX_HIDDEN)
        lr = check_float("lr", lr, 0.0, MAX_LR)
        self.save_hyperparameters()  # it reads its caller's local variables, which differ in a mutant
        hidden_activation, output_activation = ARCHITECTURES[architecture]
        self.input_layer = nn.Linear(2, hidden)
        self.hidden_activation = hidden_activation()
        self.output_layer = nn.Linear(hidden, 1)
        self.output_activation = output_activation()

    def forward(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 1"]:
        """Predict the target of each row; a prediction above 1/2 is true.

        Args:
            x: In the dtype of the parameters; in an autocast region, either may have any dtype but float64.

        Raises:
            TypeError: If ``x`` is not a floating-point tensor, or its dtype is not that of the parameters.
            ValueError: If the last dimension is not 2, or ``x`` is on another device than the parameters.
        """
        check_floating_point("inputs", x)
        weight = self.input_layer.weight
        if isinstance(weight, Tensor):  # a method once the layer is quantized
            check_fits("inputs", x, weight, "parameters")
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

        Args:
            batch: Inputs and targets, as for ``forward`` and ``mse_loss``, which raise the same errors.

        Raises:
            TypeError: If it is not a tuple or a list, or an element has the wrong type.
            ValueError: If it is not a pair, or the targets' shape is not the output's, or it has no rows.
        """
        if not isinstance(batch, tuple | list):
            raise refuse_type("batch", batch, "a tuple or a list")
        if len(batch) != 2:  # noqa: PLR2004 - a pair
            raise ValueError(f"batch has length {len(batch)}, but should have length 2: inputs and targets")
        x, y = batch
        predictions: Tensor = self(x)
        loss = mse_loss(predictions, y)
        self.log("train_loss", loss, batch_size=len(x))
        return loss

    def configure_optimizers(self) -> torch.optim.Adam:
        """Return Adam with the notebook's settings (§4.2)."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the digest by which ``read_checkpoint`` detects damage."""
        checkpoint["digest"] = digest(checkpoint)


def load_checkpoint(path: str | Path) -> SimpleNet:
    """Load a trained network, on the CPU, in the dtype it was saved in.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a checkpoint of a ``SimpleNet``, as ``read_checkpoint`` checks it.
    """
    return from_checkpoint(read_checkpoint(path))


def from_checkpoint(checkpoint: Checkpoint) -> SimpleNet:
    """Build the network that a checkpoint holds, on the CPU, without advancing torch's generator."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        net = SimpleNet(**checkpoint.arguments)
    net.to(checkpoint.weights["output_layer.bias"].dtype)
    net.load_state_dict(checkpoint.weights)
    return net
