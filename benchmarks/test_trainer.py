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


def trained(way, batch_size, epochs, directory):
    """Train from the notebook's seed; return the weights."""
    set_seed(1996)
    net = SimpleNet()
    WAYS[way](net, XORDataModule(batch_size), epochs, directory)
    return parameters_to_vector(net.parameters()).detach()


@pytest.mark.benchmark(group="trainer")
@pytest.mark.parametrize("batch_size", [1, 4], ids="batch={}".format)
@pytest.mark.parametrize("way", WAYS)
def test_epochs(clock, way, batch_size, timed, tmp_path):
    epochs = 100 if timed else 2
    assert torch.equal(trained(way, batch_size, 2, tmp_path), trained("eager", batch_size, 2, tmp_path))

    clock(
        lambda: trained(way, batch_size, epochs, tmp_path),
        torch.device("cpu"),
        strategy=way,
        steps=epochs * len(xor_dataloader(batch_size)),
        rows=batch_size,
        hidden=4,
        training=True,
        rounds=5,
    )


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """Return after how many epochs ``simplenet train`` finds XOR solved, and the weights then."""
    set_seed(1996)
    run = train(
        SimpleNet(), XORDataModule(), max_epochs=3000, device="cpu", checkpoint_dir=tmp_path_factory.mktemp("run")
    )
    assert run.solved
    return run.steps // len(xor_dataloader()), parameters_to_vector(run.net.parameters()).detach()


@pytest.mark.benchmark(group="until solved")
@pytest.mark.parametrize("way", ["eager", "notebook", "simplenet"])
def test_training_until_solved(clock, way, timed, request, tmp_path):
    """The whole of it, from the Trainer's construction to the epoch after which XOR is solved."""
    if not timed:
        pytest.skip("it takes seconds, and its epochs are those of the benchmark above")
    epochs, weights = request.getfixturevalue("solved")
    ends = []

    clock(
        lambda: ends.append(trained(way, 1, epochs, tmp_path)),
        torch.device("cpu"),
        strategy=way,
        steps=epochs * len(xor_dataloader()),
        rows=1,
        hidden=4,
        training=True,
        rounds=3,
    )

    assert all(torch.equal(end, weights) for end in ends)
