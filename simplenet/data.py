"""The exclusive-or problem: four rows, and their data loaders.

The whole data set is in this module, so a property of training can be checked on all of it.

References:
    The notebook, §3.1.
"""

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from simplenet.validation import check_int

# Any batch of 4 or more holds all rows, but older releases of torch allocate a list of this length.
MAX_BATCH_SIZE = 2**20


def xor() -> tuple[Float[Tensor, "4 2"], Float[Tensor, "4 1"]]:
    """Return the truth table: inputs in counting order, and a target of 0 or 1 for each row.

    Returns:
        New tensors, in torch's default dtype.
    """
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    return inputs, targets


def xor_dataloader(batch_size: int = 1) -> DataLoader[tuple[Tensor, ...]]:
    """Make a loader of the truth table in its order, without shuffling.

    Args:
        batch_size: Rows in a batch, from 1 to ``MAX_BATCH_SIZE``; the last batch of an epoch holds the remaining rows.

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
        batch_size: As for ``xor_dataloader``, which raises the same errors.
    """

    def __init__(self, batch_size: int = 1) -> None:  # pragma: no mutate block
        super().__init__()
        batch_size = check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        self.save_hyperparameters()  # it reads its caller's local variables, which differ in a mutant

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the loader of the four rows."""
        return xor_dataloader(self.hparams["batch_size"])
