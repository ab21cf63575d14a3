"""The truth table and its data loaders."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.cli import LightningCLI
from torch.autograd import Variable
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader

from simplenet import SimpleNet, XORDataModule, load_checkpoint, mse_loss, set_seed, xor, xor_dataloader
from simplenet.testing.assertions import assert_identical
from simplenet.testing.settings import default_dtype
from simplenet.testing.strategies import architectures, batch_shapes, seeds, tensors
from tests.children.fresh_process import trained_weights


@pytest.mark.claim("3.1/truth-table")
def test_the_targets_are_the_exclusive_or_of_the_inputs():
    """In counting order, as in §3.1."""
    inputs, targets = xor()

    assert [(int(a), int(b)) for a, b in inputs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert targets.flatten().tolist() == [a != b for a, b in inputs.tolist()]


def test_xor_returns_new_tensors():
    """A caller that changes its tensors does not change those of the next call."""
    inputs, targets = xor()
    inputs.fill_(7)
    targets.fill_(7)

    assert xor()[0].max() == 1
    assert xor()[1].max() == 1


def assert_batches(loader, size):
    """Assert that the batches are the truth table in its order, each of this size, and the last of what remains."""
    batches, expected = list(loader), list(zip(*(rows.split(size) for rows in xor()), strict=True))
    assert [len(inputs) for inputs, _ in batches] == [len(inputs) for inputs, _ in expected]
    for i, (batch, (inputs, targets)) in enumerate(zip(batches, expected, strict=True)):
        assert_identical(batch[0], inputs, claim=f"inputs of batch {i}")
        assert_identical(batch[1], targets, claim=f"targets of batch {i}")


@given(batch_size=st.integers(1, 9))
def test_an_epoch_is_the_truth_table_in_its_order(batch_size):
    """For any batch size, no row is dropped, repeated or shuffled."""
    assert_batches(xor_dataloader(batch_size), batch_size)


@pytest.mark.claim("3.1/batch-of-one")
@pytest.mark.parametrize(
    "loader", [xor_dataloader, lambda: XORDataModule().train_dataloader()], ids=["loader", "module"]
)
def test_the_default_batch_size_is_one(loader):
    """Four batches of one row and its target."""
    assert_batches(loader(), 1)


@pytest.mark.claim("3.1/variable")
@given(data=st.data(), shape=batch_shapes, requires_grad=st.booleans())
def test_a_variable_is_the_tensor_it_wraps(data, shape, requires_grad):
    """The same type, memory and autograd graph."""
    tensor = data.draw(tensors(shape), label="tensor").requires_grad_(requires_grad)

    variable = Variable(tensor)

    assert type(variable) is torch.Tensor
    assert variable.data_ptr() == tensor.data_ptr()
    assert_identical(variable, tensor, claim="Variable")


@pytest.mark.claim("3.1/variable")
@given(seed=seeds, architecture=architectures)
def test_training_on_variables_gives_the_same_bits_as_on_tensors(seed, architecture):
    """§3.1's loader of wrapped pairs against ``xor_dataloader``, over an epoch."""
    pairs = [tuple(map(Variable, pair)) for pair in zip(*xor(), strict=True)]
    set_seed(seed)
    net = SimpleNet(architecture)
    optimizer = net.configure_optimizers()
    for inputs, targets in DataLoader(pairs, batch_size=1):
        optimizer.zero_grad()
        mse_loss(net(inputs), targets).backward()
        optimizer.step()

    expected = trained_weights("cpu", seed, architecture, batch_size=1, steps=4)
    assert_identical(
        parameters_to_vector(net.parameters()), expected, claim=f"{architecture} on Variables, seed {seed}"
    )


def test_the_data_module_yields_the_same_batches():
    assert_batches(XORDataModule(batch_size=3).train_dataloader(), 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's CLI calls deprecated functions of jsonargparse
def test_lightningcli_runs_the_model_and_the_data(tmp_path, monkeypatch):
    """``LightningCLI(SimpleNet, XORDataModule)`` needs nothing but the two classes."""
    arguments = [
        "fit",
        "--model.architecture=derivation",
        "--data.batch_size=2",
        "--trainer.max_steps=3",
        "--seed_everything=7",
    ]
    quiet = ["logger=false", "enable_progress_bar=false", "enable_model_summary=false", "accelerator=cpu"]

    options = [f"--trainer.{option}" for option in (*quiet, f"default_root_dir={tmp_path}")]
    monkeypatch.setattr("sys.argv", ["program", *arguments, *options])
    cli = LightningCLI(SimpleNet, XORDataModule, save_config_callback=None)

    assert cli.trainer.global_step == 3
    assert cli.model.hparams["architecture"] == "derivation"
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert load_checkpoint(checkpoint).hparams["architecture"] == "derivation"


def test_a_data_module_yields_the_default_dtype_of_each_pass():
    data = XORDataModule(4)
    for dtype in (torch.float32, torch.float64, torch.float32):
        with default_dtype(dtype):
            ((x, y),) = data.train_dataloader()

        assert x.dtype == y.dtype == dtype
