"""The exclusive-or problem: four rows, and the loaders that serve them.

Everything the network will ever see fits in this module, so a property of training can be
checked on all of it.

References:
    The notebook, §3.1.
"""

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from simplenet.validation import check_int

# There are four rows, and a larger batch holds them all; but an older torch makes a list of as many entries.
MAX_BATCH_SIZE = 2**20


def xor() -> tuple[Float[Tensor, "4 2"], Float[Tensor, "4 1"]]:
    """Return the truth table: inputs in counting order, and a target of 0 or 1 for each.

    Returns:
        New tensors, in torch's default dtype.
    """
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    return inputs, targets


def xor_dataloader(batch_size: int = 1) -> DataLoader[tuple[Tensor, ...]]:
    """Serve the truth table in its order, never shuffled.

    Args:
        batch_size: Rows in a batch, from 1 to ``MAX_BATCH_SIZE``; the last batch of an epoch holds what is left.

    Returns:
        A loader of ``(inputs, targets)`` pairs of shapes ``(n, 2)`` and ``(n, 1)``.

    Raises:
        TypeError: If ``batch_size`` is not an ``int``.
        ValueError: If it is out of range.
    """
    batch_size = check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
    return DataLoader(TensorDataset(*xor()), batch_size=batch_size)


class XORDataModule(LightningDataModule):
    """The truth table as a Lightning data module.

    Args:
        batch_size: Rows in a batch, as in ``xor_dataloader``; errors are those, too.
    """

    def __init__(self, batch_size: int = 1) -> None:  # pragma: no mutate block
        super().__init__()
        batch_size = check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        self.save_hyperparameters()  # reads the local variables of its caller, which a mutant is no longer

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Serve the four rows for training."""
        return xor_dataloader(self.hparams["batch_size"])
