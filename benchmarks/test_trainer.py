"""What Lightning's Trainer costs: a step and an epoch of it, the notebook's way and ours, against a bare loop.

The four ways take the same steps from the same seed, and end in the same bits.  An epoch of one batch has one step;
what it costs beyond one of four batches' steps is the epoch's own.
"""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.utils import parameters_to_vector

from simplenet import SimpleNet, XORDataModule, set_seed, train, xor_dataloader

pytestmark = pytest.mark.benchmark(group="trainer")


def notebook(net, data, epochs, directory):
    """Save a checkpoint each epoch, as the source does."""
    lightning(net, data, epochs, directory, callbacks=[ModelCheckpoint(str(directory))])


def lightning(net, data, epochs, _directory, callbacks=()):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, datamodule=data)


def ours(net, data, epochs, directory):
    """Train as ``simplenet train`` does."""
    train(net, data, max_epochs=epochs, device="cpu", checkpoint_dir=directory)


def bare(net, data, epochs, _directory):
    optimizer = net.configure_optimizers()
    for _ in range(epochs):
        for inputs, targets in data.train_dataloader():
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(inputs), targets).backward()
            optimizer.step()


WAYS = {"notebook": notebook, "trainer": lightning, "simplenet": ours, "eager": bare}


@pytest.mark.parametrize("batch_size", [1, 4], ids="batch={}".format)
@pytest.mark.parametrize("way", WAYS)
def test_epochs(clock, way, batch_size, timed, tmp_path):
    epochs = 100 if timed else 2
    data = XORDataModule(batch_size)

    def fresh(way, count=epochs):
        set_seed(1996)
        net = SimpleNet()
        WAYS[way](net, data, count, tmp_path / way)
        return parameters_to_vector(net.parameters())

    assert torch.equal(fresh(way, 2), fresh("eager", 2))

    clock(
        lambda: fresh(way),
        torch.device("cpu"),
        strategy=way,
        steps=epochs * len(xor_dataloader(batch_size)),
        rows=batch_size,
        hidden=4,
        training=True,
        rounds=5,
    )
