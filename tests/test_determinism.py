"""Training is a function of its seed: repeated, on more threads, or with logging, it gives the same bits.

References:
    The notebook, §2.3.
    PyTorch documentation, "Reproducibility".
"""

import itertools
import os
from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from simplenet import SimpleNet, deterministic, ensemble, load_checkpoint, mse_loss, set_seed, xor, xor_dataloader
from simplenet.testing.assertions import assert_identical, assert_within, refuted
from simplenet.testing.bounds import gamma
from simplenet.testing.settings import num_threads
from simplenet.testing.strategies import architectures, seeds
from tests.children.fresh_process import trained_weights
from tests.generators import disturb, nothing_drawn

# Including a batch with all rows, and one size that does not divide their number.
batch_sizes = st.integers(1, 4)

# Including more than Adam's first step, which is special, and at batch size 1 a step of the second epoch.
step_counts = st.integers(1, 5)


@given(seed=seeds, architecture=architectures, batch_size=batch_sizes, steps=step_counts)
def test_the_same_seed_gives_the_same_weights_after_any_step(device, seed, architecture, batch_size, steps):
    """Whatever was drawn in between."""
    first = trained_weights(device, seed, architecture, batch_size, steps)
    disturb(3)

    second = trained_weights(device, seed, architecture, batch_size, steps)

    assert_identical(second, first, claim=f"{architecture} after {steps} steps, seed {seed}")


def test_a_hundred_repetitions_are_identical(device):
    """In one process, so that any state left behind would change the next."""
    first = trained_weights(device, 1996, "overview", 1, 5)

    for repetition in range(1, 100):
        again = trained_weights(device, 1996, "overview", 1, 5)
        assert_identical(again, first, claim=f"repetition {repetition}")


@refuted
@given(seed=seeds)
def test_training_gives_the_same_weights_for_another_seed(device, seed):
    first = trained_weights(device, seed, "overview", 1, 2)

    assert_identical(trained_weights(device, seed ^ 1, "overview", 1, 2), first, claim=f"seed {seed}")


@given(seed=seeds, architecture=architectures, batch_size=batch_sizes, steps=step_counts)
def test_the_number_of_threads_changes_no_bit_of_training(device, seed, architecture, batch_size, steps):
    """Torch does not split four rows among threads."""
    with num_threads(1):
        one = trained_weights(device, seed, architecture, batch_size, steps)

    with num_threads(2):
        two = trained_weights(device, seed, architecture, batch_size, steps)

    assert_identical(two, one, claim=f"{architecture} on 2 threads, seed {seed}")


# More than torch's grain size of 32,768 elements, so that two threads share the sum.
MANY_ROWS = 40_000


def all_positive_step(rows, dtype, device):
    """Return the loss and the gradients of a step in which all summands are positive, so that no sum cancels."""
    set_seed(1996)
    inputs = torch.rand(rows, 2, dtype=dtype).to(device)
    gaps = torch.rand(rows, 1, dtype=dtype).to(device)
    net = SimpleNet().to(device, dtype)
    with torch.no_grad():
        net.output_layer.weight.abs_()
        targets = net(inputs) - gaps

    loss = mse_loss(net(inputs), targets)
    loss.backward()
    return {"loss": loss.detach(), **{name: parameter.grad for name, parameter in net.named_parameters()}}


def two_sums_rtol(dtype):
    """Bound the relative difference of two sums over the rows in different orders.

    The summand of a row is computed in one thread. Each sum is within gamma(n) of the exact sum of n positive
    products: n - 1 additions and the rounding of the product.
    """
    once = gamma(MANY_ROWS, dtype)
    return 2 * once / (1 - once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_number_of_threads_changes_sums_over_many_rows_only_by_rounding(device, dtype):
    """Two threads add in another order: at 40,000 rows, the output bias' gradient differs by an ulp."""
    with num_threads(1):
        one = all_positive_step(MANY_ROWS, dtype, device)

    with num_threads(2):
        two = all_positive_step(MANY_ROWS, dtype, device)

    for name in one:
        assert_within(two[name], one[name].double(), rtol=two_sums_rtol(dtype), claim=f"{name} on 2 threads")


@refuted
@given(missing=st.integers(1, 9))
def test_omitting_a_row_stays_within_the_bound(missing):
    """In float64; float32's bound exceeds the share of a row."""
    whole = torch.ones(1, dtype=torch.float64)

    partial = whole * (1 - missing / MANY_ROWS)

    assert_within(
        partial, whole, rtol=two_sums_rtol(torch.float64), claim=f"{missing} of {MANY_ROWS} equal rows omitted"
    )


# Every setting that `deterministic` changes, with all values that it may have before.
flags = st.fixed_dictionaries(
    {
        "algorithms": st.booleans(),
        "warn only": st.booleans(),
        "cudnn.deterministic": st.booleans(),
        "cudnn.benchmark": st.booleans(),
        "CUBLAS_WORKSPACE_CONFIG": st.sampled_from([None, "", ":16:8", ":4096:8"]),
    }
)
INSIDE = {
    "algorithms": True,
    "warn only": False,
    "cudnn.deterministic": True,
    "cudnn.benchmark": False,
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
AS_TORCH_STARTS = dict.fromkeys(INSIDE, False) | {"CUBLAS_WORKSPACE_CONFIG": None}


def get_flags():
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def set_flags(values):
    torch.use_deterministic_algorithms(values["algorithms"], warn_only=values["warn only"])
    torch.backends.cudnn.deterministic = values["cudnn.deterministic"]
    torch.backends.cudnn.benchmark = values["cudnn.benchmark"]
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if values["CUBLAS_WORKSPACE_CONFIG"] is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = values["CUBLAS_WORKSPACE_CONFIG"]


@contextmanager
def flags_set(values):
    before = get_flags()
    set_flags(values)
    try:
        yield
    finally:
        set_flags(before)


class Error(Exception):
    """An exception that ``deterministic`` does not raise itself."""


class Interruption(BaseException):
    """An exception that ``except Exception`` does not catch, like KeyboardInterrupt."""


@pytest.mark.parametrize("way_out", [None, Error, Interruption], ids=["its end", "an error", "an interrupt"])
@given(before=flags, changed=flags)
@example(before=AS_TORCH_STARTS, changed=AS_TORCH_STARTS)
def test_deterministic_restores_every_flag(way_out, before, changed):
    """However the block ends, and whatever it does to the flags; an exception leaves it."""
    with flags_set(before):
        with pytest.raises(way_out) if way_out else nullcontext(), deterministic():
            inside = get_flags()
            set_flags(changed)
            if way_out:
                raise way_out

        assert inside == INSIDE
        assert get_flags() == before


@given(before=flags)
def test_deterministic_blocks_can_be_nested(before):
    """The end of the inner block restores the flags of the outer one."""
    with flags_set(before):
        with deterministic():
            with deterministic():
                assert get_flags() == INSIDE
            assert get_flags() == INSIDE

        assert get_flags() == before


def put_with_a_repeated_index(device):
    """Write two values to one index: the order decides which one remains, and torch has no deterministic algorithm."""
    return torch.zeros(3, device=device).put_(
        torch.tensor([1, 1], device=device), torch.tensor([1.0, 2.0], device=device)
    )


@given(before=flags)
def test_an_operation_without_a_deterministic_algorithm_raises_inside_and_nowhere_else(device, before):
    """Also if the mode was warn-only before; after the block it runs again."""
    refusal = pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation")

    with flags_set(before), deterministic(), refusal:
        put_with_a_repeated_index(device)

    with flags_set(before | {"algorithms": False}):
        with deterministic():
            pass
        assert put_with_a_repeated_index(device)[1] in (1, 2)


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_training_runs_and_repeats_in_deterministic_mode(device, workspace):
    """On CUDA, cuBLAS needs CUBLAS_WORKSPACE_CONFIG, which the block sets."""
    with flags_set(AS_TORCH_STARTS | {"CUBLAS_WORKSPACE_CONFIG": workspace}), deterministic():
        first = trained_weights(device, 1996, "overview", 4, 9)
        second = trained_weights(device, 1996, "overview", 4, 9)

    assert_identical(second, first, claim="9 steps")


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a short run."""
    directory = tmp_path_factory.mktemp("checkpoint")
    trainer = Trainer(max_epochs=1, callbacks=[ModelCheckpoint(str(directory))], **QUIET)
    trainer.fit(SimpleNet(), xor_dataloader())
    return trainer.checkpoint_callback.best_model_path


@given(seed=seeds, drawn=st.integers(0, 3))
def test_loading_a_checkpoint_draws_nothing(device, checkpoint, seed, drawn):
    """Not even initial weights: a run that loads a checkpoint continues like one that does not."""
    set_seed(seed)
    disturb(drawn)

    with nothing_drawn("load_checkpoint", device):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "draw",
    [load_checkpoint, lambda _: ensemble.initial_weights([1]), lambda _: ensemble._one_by_one([1], SimpleNet())],  # noqa: SLF001
    ids=["load_checkpoint", "initial_weights", "one by one"],
)
def test_drawing_weights_on_the_cpu_does_not_touch_the_generators_of_gpus(checkpoint, monkeypatch, draw):
    """Copying the states of their generators would initialize CUDA on each GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: pytest.fail("a GPU's generator is copied"))

    draw(checkpoint)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no Trainer to log to
@given(seed=seeds, architecture=architectures)
def test_a_training_step_a_prediction_and_a_save_draw_no_random_numbers(device, tmp_path_factory, seed, architecture):
    """After the initial weights are drawn, training is a function of the rows."""
    set_seed(seed)
    net = SimpleNet(architecture).to(device)
    optimizer = net.configure_optimizers()
    inputs, targets = (tensor.to(device) for tensor in xor())
    path = tmp_path_factory.getbasetemp() / "weights.pt"

    with nothing_drawn("a training step", device):
        net.training_step((inputs, targets)).backward()
        optimizer.step()
    with nothing_drawn("a score", device), torch.no_grad():
        net.eval()(inputs)
    with nothing_drawn("a save", device):
        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, path)


class Order(Callback):
    """Record the rows in the order of training."""

    def __init__(self):
        self.rows = []

    def on_train_batch_start(self, _trainer, _net, batch, _index):
        self.rows += batch[0].tolist()


class ValidatedNet(SimpleNet):
    def validation_step(self, batch, _):
        self.log("val_loss", mse_loss(self(batch[0]), batch[1]))


# Activities besides training, as arguments of the Trainer; each is a function of a directory.
MEANWHILE = {
    "logging": lambda path: {"logger": CSVLogger(path), "log_every_n_steps": 1},
    "saving": lambda path: {"callbacks": [ModelCheckpoint(path, every_n_train_steps=1, save_top_k=-1)]},
    "a sanity check": lambda _: {"num_sanity_val_steps": 2, "limit_val_batches": 2, "check_val_every_n_epoch": 99},
    "validation": lambda _: {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 1},
}


def order_of_rows(callbacks=(), **options):
    """Train for three shuffled epochs and return the order of the rows."""
    order = Order()
    # Thirty-two rows: two random orders agree by chance once in 32! times.
    rows = TensorDataset(torch.arange(64.0).reshape(32, 2), torch.zeros(32, 1))
    loaders = [DataLoader(rows, batch_size=8, shuffle=True)]
    if "num_sanity_val_steps" in options:
        loaders.append(DataLoader(rows, batch_size=8))
    options |= {"max_epochs": 3, "callbacks": [order, *callbacks], "enable_checkpointing": bool(callbacks)}
    set_seed(1996)
    Trainer(**QUIET | options).fit(SimpleNet() if len(loaders) == 1 else ValidatedNet(), *loaders)
    return order.rows


@pytest.mark.parametrize("activity", MEANWHILE)
@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
def test_the_order_of_the_rows_does_not_depend_on_logging_saving_or_validation(tmp_path, activity):
    """For shuffled epochs under the Trainer."""
    without = order_of_rows()

    rows = order_of_rows(**MEANWHILE[activity](tmp_path))

    epochs = [sorted(rows[start : start + 32]) for start in (0, 32, 64)]
    assert all(a == b for a, b in itertools.pairwise(epochs)), "every epoch should hold every row"
    assert rows == without, f"with {activity}, the rows come in another order, but should come in the same"


@given(seed=seeds, batch_size=st.integers(1, 9))
def test_a_pass_over_a_loader_draws_one_number_from_torch_and_no_more(seed, batch_size):
    """The base seed of the workers, even without workers; with its own generator, a loader draws none."""
    rows = TensorDataset(torch.zeros(8, 1))
    set_seed(seed)
    torch.empty((), dtype=torch.int64).random_()
    after_one = torch.get_rng_state()

    set_seed(seed)
    for _ in DataLoader(rows, batch_size):
        pass

    assert_identical(torch.get_rng_state(), after_one, claim="torch's generator after a pass")
    with nothing_drawn("a loader with its own generator"):
        for _ in DataLoader(rows, batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed)):
            pass
