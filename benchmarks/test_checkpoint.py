"""Saving and loading a checkpoint, of the notebook's network and of a wide one; a step is a file."""

import pytest
import torch
from lightning.pytorch import Trainer

from simplenet import SimpleNet, XORDataModule, load_checkpoint, set_seed

pytestmark = pytest.mark.benchmark(group="checkpoint", max_time=0.5)


@pytest.fixture
def trainer():
    """Leave a Trainer with something to save."""
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.parametrize("strategy", ["save", "load"])
@pytest.mark.parametrize("hidden", [4, 4096], ids="hidden={}".format)
def test_checkpoint(clock, strategy, hidden, trainer, tmp_path):
    """As Lightning writes it, and as ``simplenet predict`` reads it."""
    set_seed(1996)
    net = SimpleNet(hidden=hidden)
    trainer.fit(net, datamodule=XORDataModule(4))
    path = tmp_path / "file.ckpt"
    trainer.save_checkpoint(path)
    assert all(map(torch.equal, load_checkpoint(path).parameters(), net.parameters()))

    function = {"save": lambda: trainer.save_checkpoint(path), "load": lambda: load_checkpoint(path)}[strategy]

    clock(function, torch.device("cpu"), strategy=strategy, hidden=hidden)
