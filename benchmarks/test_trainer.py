"""The time of training with Lightning's Trainer, with and without checkpoints, against a bare loop.

All four take the same steps from the same seed, with the same weights bit for bit.  An epoch of one batch has one
step: its time minus that of a step in an epoch of four is the time that an epoch itself takes.
"""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.utils import parameters_to_vector

from simplenet import SimpleNet, XORDataModule, set_seed, train, xor_dataloader


def notebook(net, data, epochs, directory):
    """Save a checkpoint each epoch, as the notebook does."""
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


LOOPS = {"notebook": notebook, "trainer": lightning, "simplenet": ours, "eager": bare}


def trained(loop, batch_size, epochs, directory):
    """Train from the notebook's seed, and return the weights."""
    set_seed(1996)
    net = SimpleNet()
    LOOPS[loop](net, XORDataModule(batch_size), epochs, directory)
    return parameters_to_vector(net.parameters()).detach()


@pytest.mark.benchmark(group="trainer")
@pytest.mark.parametrize("batch_size", [1, 4], ids="batch={}".format)
@pytest.mark.parametrize("loop", LOOPS)
def test_epochs(clock, loop, batch_size, timed, tmp_path):
    epochs = 100 if timed else 2
    assert torch.equal(trained(loop, batch_size, 2, tmp_path), trained("eager", batch_size, 2, tmp_path))

    clock(
        lambda: trained(loop, batch_size, epochs, tmp_path),
        torch.device("cpu"),
        strategy=loop,
        steps=epochs * len(xor_dataloader(batch_size)),
        rows=batch_size,
        hidden=4,
        training=True,
        rounds=5,
    )


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """Return the number of epochs after which ``simplenet train`` has solved XOR, and the weights."""
    set_seed(1996)
    run = train(
        SimpleNet(), XORDataModule(), max_epochs=3000, device="cpu", checkpoint_dir=tmp_path_factory.mktemp("run")
    )
    assert run.solved
    return run.steps // len(xor_dataloader()), parameters_to_vector(run.net.parameters()).detach()


@pytest.mark.benchmark(group="until solved")
@pytest.mark.parametrize("loop", ["eager", "notebook", "simplenet"])
def test_training_until_solved(clock, loop, timed, request, tmp_path):
    """Timed from the construction of the Trainer to the epoch after which XOR is solved."""
    if not timed:
        pytest.skip("takes seconds: only with --benchmark-only; test_epochs runs the same code")
    epochs, weights = request.getfixturevalue("solved")
    ends = []

    clock(
        lambda: ends.append(trained(loop, 1, epochs, tmp_path)),
        torch.device("cpu"),
        strategy=loop,
        steps=epochs * len(xor_dataloader()),
        rows=1,
        hidden=4,
        training=True,
        rounds=3,
    )

    assert all(torch.equal(end, weights) for end in ends)
