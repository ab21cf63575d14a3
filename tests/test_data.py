"""The truth table and its data loaders."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.cli import LightningCLI
from torch.autograd import Variable
from torch.utils.data import DataLoader

from simplenet import SimpleNet, XORDataModule, load_checkpoint, mse_loss, set_seed, xor, xor_dataloader
from simplenet.testing.assertions import assert_identical
from simplenet.testing.strategies import architectures, batch_shapes, seeds, tensors


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


@given(batch_size=st.integers(1, 9))
def test_an_epoch_is_the_truth_table_in_its_order(batch_size):
    """For any batch size, no row is dropped, repeated or shuffled."""
    inputs, targets = zip(*xor_dataloader(batch_size), strict=True)

    assert torch.equal(torch.cat(inputs), xor()[0])
    assert torch.equal(torch.cat(targets), xor()[1])
    assert [len(batch) for batch in inputs[:-1]] == [batch_size] * (len(inputs) - 1)


@pytest.mark.claim("3.1/batch-of-one")
@pytest.mark.parametrize(
    "loader", [xor_dataloader, lambda: XORDataModule().train_dataloader()], ids=["loader", "module"]
)
def test_the_default_batch_size_is_one(loader):
    """Four batches of one row and its target."""
    batches = list(loader())

    assert len(batches) == 4
    for row, (inputs, targets) in enumerate(batches):
        assert_identical(inputs, xor()[0][row : row + 1], claim=f"inputs of batch {row}")
        assert_identical(targets, xor()[1][row : row + 1], claim=f"targets of batch {row}")


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
    weights = []
    for loader in (DataLoader(pairs, batch_size=1), xor_dataloader()):
        set_seed(seed)
        net = SimpleNet(architecture)
        optimizer = net.configure_optimizers()
        for inputs, targets in loader:
            optimizer.zero_grad()
            mse_loss(net(inputs), targets).backward()
            optimizer.step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))

    assert_identical(*weights, claim=f"{architecture} on Variables, seed {seed}")


@pytest.mark.parametrize("make", [xor_dataloader, XORDataModule])
@pytest.mark.parametrize(
    ("batch_size", "error"), [(0, ValueError), (-1, ValueError), (2**31, ValueError), (1.5, TypeError)]
)
def test_a_batch_size_that_is_not_a_positive_integer_is_refused(make, batch_size, error):
    """By the module's constructor too, not only at the first batch."""
    with pytest.raises(error, match=f"^batch_size is {batch_size}"):
        make(batch_size)


def test_the_data_module_yields_the_same_batches():
    module = XORDataModule(batch_size=3)

    yielded = [rows.tolist() for batch in module.train_dataloader() for rows in batch]

    assert yielded == [rows.tolist() for batch in xor_dataloader(3) for rows in batch]


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
