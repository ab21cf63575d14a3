"""Faults in the Trainer, in checkpoints, and in resuming from them."""

import io
import math
import random
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset

from simplenet import SimpleNet, TrainingRun, XORDataModule, checkpoint, resume, set_seed, signals, train, training, xor
from simplenet.model import from_checkpoint
from tests.faults.planting import catalogue, edit, wrap

FAULTS, fault = catalogue("training")


def trained(
    epochs: int = 3,
    *,
    batch_size: int = 4,
    then: int = 0,
    lr: float = 0.01,
    value: float = 0.0,
    architecture: Any = "overview",
) -> Callable[[], object]:
    """Witness the losses of a run and of its resumption, and the saved state."""

    def run() -> object:
        set_seed(1)
        with tempfile.TemporaryDirectory() as directory:
            data = XORDataModule(batch_size)
            if value:
                rows = TensorDataset(torch.full((4, 2), value), xor()[1])
                data.train_dataloader = lambda: DataLoader(rows, batch_size=4)  # type: ignore[method-assign]

            def fit(max_epochs: int, **options: Any) -> TrainingRun:
                options |= {"device": "cpu", "checkpoint_dir": directory}
                return train(SimpleNet(architecture, lr=lr), data, max_epochs=max_epochs, **options)

            first = fit(epochs)
            seen = [first.losses, first.steps, first.stopped_by, first.divergence]
            if first.checkpoint is not None:
                seen.append(sorted(path.name for path in Path(directory).iterdir()))
                if then:
                    on = fit(then, resume=first.checkpoint)
                    assert on.checkpoint is not None
                    saved = torch.load(on.checkpoint, weights_only=True)
                    seen += [on.losses, on.steps, on.checkpoint.name, saved["global_step"], str(saved["loops"])]
        return seen

    return run


@fault(trained(batch_size=1), "test_the_trainer_trains_to_the_bits_of_a_bare_loop")
def lightning_does_not_clear_gradients() -> None:
    """They add up from step to step."""
    LightningModule.optimizer_zero_grad = lambda *_: None  # type: ignore[method-assign,assignment]


@fault(trained(), "test_the_trainer_trains_to_the_bits_of_a_bare_loop")
def the_bare_epochs_do_not_clear_gradients() -> None:
    """They add up from step to step."""
    edit(training._Watch._bare_epoch, ("optimizer.zero_grad()", "pass"))


@fault(
    trained(),
    "test_the_trainer_trains_to_the_bits_of_a_bare_loop",
    link="https://github.com/Lightning-AI/pytorch-lightning/issues/11555",
)
def a_bare_epoch_takes_an_extra_step() -> None:
    """Its last batch is trained on twice."""
    edit(training._Watch._bare_epoch, ("enumerate(batches)", "enumerate([*batches, batches[-1]])"))


@fault(
    trained(then=6),
    "test_a_run_that_is_stopped_and_resumed_equals_an_uninterrupted_run",
    link="https://github.com/Lightning-AI/pytorch-lightning/issues/2613",
)
def a_resume_forgets_the_moments() -> None:
    """Adam starts from zero moments, with its step count."""
    edit(training._restore, ("'exp_avg': m.clone()", "'exp_avg': torch.zeros_like(m)"))


@fault(trained(then=6), "test_a_run_that_is_stopped_and_resumed_equals_an_uninterrupted_run")
def a_resume_forgets_the_count() -> None:
    """The moments are corrected for bias as if they were new."""
    edit(training._restore, ("state.count.clone()", "torch.zeros(())"))


@fault(
    trained(then=6),
    "test_a_resumed_run_saves_the_same_checkpoint_as_an_uninterrupted_run",
    link="https://github.com/Lightning-AI/pytorch-lightning/issues/6470",
)
def a_resume_forgets_lightnings_count_of_steps() -> None:
    """Its loops begin at 0."""
    edit(
        training._Watch.on_train_start,
        ("_count(trainer, self.state.epochs, self.state.steps)", "_count(trainer, self.state.epochs, 0)"),
    )


@fault(trained(110, architecture="listing"), "test_a_run_keeps_its_newest_checkpoint_and_removes_no_other_file")
def the_oldest_checkpoint_is_kept() -> None:
    """Each new one is removed."""
    edit(
        training._CheckpointFiles.save_checkpoint,
        (
            "if before is not None:\n        before.unlink(missing_ok=True)",
            "if before is not None:\n        self.newest.unlink()\n        self.newest = before",
        ),
    )


@fault(trained(110, architecture="listing"), "test_a_run_keeps_its_newest_checkpoint_and_removes_no_other_file")
def every_checkpoint_is_kept() -> None:
    """None is removed."""
    edit(training._CheckpointFiles.save_checkpoint, ("before is not None", "False"))


@fault(lambda: training._is_saved(_Trainer(), 200), "test_every_hundredth_epoch_and_the_last_are_saved")  # type: ignore[arg-type]
def only_the_last_epoch_is_saved() -> None:
    """A run that is killed loses everything."""
    edit(training._is_saved, ("epochs % EPOCHS_BETWEEN_CHECKPOINTS == 0", "False"))


class _Trainer:
    max_epochs = 300


@fault(trained(value=math.nan), "test_nonfinite_data_stop_the_run_before_their_step")
def nan_in_a_batch_is_trained_on() -> None:
    """The weights are NaN after this step."""
    edit(training._Watch.on_train_batch_start, ("not _all_finite(batch)", "False"))


@fault(trained(lr=1e37, epochs=20), "test_a_nonfinite_loss_stops_the_run_at_its_batch_and_keeps_the_last_checkpoint")
def a_loss_that_is_not_finite_is_recorded() -> None:
    """And training continues."""
    edit(training._Watch._record, ("not math.isfinite(value)", "False"))
    edit(training._Watch._end_epoch, ("not math.isfinite(farthest)", "False"))


def made(errors: list[float]) -> TrainingRun:
    """Make a run with these errors of its predictions."""
    predictions = xor()[1] + torch.tensor(errors)[:, None]
    return TrainingRun(SimpleNet(), predictions, [], 0, 0.0, None, "budget", None)


@fault(lambda: made([0.0, -0.5, 0.0, 0.0]).right, "test_a_prediction_of_one_half_is_right_for_neither_target")
def one_half_is_right() -> None:
    """Of both targets."""
    edit(TrainingRun.right, ("abs(error) < 1 / 2", "abs(error) <= 1 / 2"))


@fault(lambda: made([0.0, -0.3, 0.0, 0.0]).right, "test_a_prediction_of_one_half_is_right_for_neither_target")
def a_prediction_beyond_the_margin_is_wrong() -> None:
    """Between the margin and 1/2 a prediction counts as wrong."""
    edit(TrainingRun.right, ("1 / 2", "MARGIN"))


@fault(lambda: made([0.0, 0.9, 0.0, 0.0]).solved, "test_a_prediction_of_one_half_is_right_for_neither_target")
def one_right_row_is_enough_to_solve() -> None:
    """Of four rows."""
    edit(TrainingRun.solved, ("all(", "any("))


@fault(trained(600), "test_a_run_stops_where_every_prediction_is_within_the_margin")
def a_run_stops_before_the_margin() -> None:
    """It stops when all predictions are right."""
    training.MARGIN = 0.5


def _second_signal() -> object:
    with signals.FirstSignal() as first:
        first.listen()
        first._note(signal.SIGTERM, None)
        return signal.getsignal(signal.SIGTERM) == first._note


@fault(_second_signal, "test_the_second_signal_ends_the_run_at_once")
def the_second_signal_is_recorded_like_the_first() -> None:
    """Nothing ends a run before its epoch."""
    edit(signals.FirstSignal._note, ("self._restore()", "pass"))


def _tampered() -> object:
    with tempfile.TemporaryDirectory() as directory:
        run = train(SimpleNet(), XORDataModule(4), max_epochs=1, device="cpu", checkpoint_dir=directory)
        assert run.checkpoint is not None
        saved = torch.load(run.checkpoint, weights_only=True)
        saved["state_dict"]["output_layer.bias"] += 1
        torch.save(saved, run.checkpoint)
        try:
            return checkpoint.read_checkpoint(run.checkpoint).architecture
        except ValueError as error:
            return str(error)[-40:]


@fault(_tampered, "test_an_edited_entry_without_its_digest_is_refused")
def the_digest_is_not_compared() -> None:
    """What was edited is loaded."""
    edit(
        checkpoint._checked,
        ("(found := root['digest'].value) != (expected := digest(root.value))", "(found := (expected := False))"),
    )


def _newest() -> object:
    with tempfile.TemporaryDirectory() as directory:
        for epochs in (10, 9):
            train(SimpleNet(), XORDataModule(4), max_epochs=epochs, device="cpu", checkpoint_dir=directory)
        return checkpoint.newest_checkpoint(directory)[0].path.name


@fault(_newest, "test_the_newest_intact_checkpoint_of_a_directory_is_taken")
def the_newest_checkpoint_is_the_last_by_name() -> None:
    """Instead of by time."""
    edit(checkpoint.newest_checkpoint, ("(path.stat().st_mtime_ns, path)", "(path.name, path)"))


def _in_float64() -> object:
    net = SimpleNet().double()
    arguments = {"architecture": "overview", "hidden": 4, "lr": 0.01}
    loaded = from_checkpoint(SimpleNamespace(arguments=arguments, weights=net.state_dict()))  # type: ignore[arg-type]
    return loaded.output_layer.bias.dtype


@fault(_in_float64, "test_a_network_is_loaded_in_the_dtype_it_was_saved_in")
def a_network_is_loaded_in_float32() -> None:
    """Instead of the dtype of its training."""
    edit(from_checkpoint, ("net.to(checkpoint.weights['output_layer.bias'].dtype)", "pass"))


def _generators() -> object:
    states = resume._capture([])
    torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
    resume._restore(states, [])
    return torch.equal(states["torch"], torch.get_rng_state()), np.random.get_state()[2] == states["numpy"][2]  # noqa: NPY002


@fault(_generators, "test_a_run_that_is_resumed_after_any_step_equals_an_uninterrupted_run")
def an_exact_resume_forgets_numpys_generator() -> None:
    """Augmentations draw other numbers."""
    edit(resume._restore, ("np.random.set_state(states['numpy'])", "pass"))


@fault(_generators, "test_a_run_that_is_resumed_after_any_step_equals_an_uninterrupted_run")
def an_exact_resume_forgets_torchs_generator() -> None:
    """The rows come in another order."""
    edit(resume._restore, ("torch.set_rng_state(states['torch'])", "pass"))


def _left() -> object:
    loader = resume.ResumableDataLoader(TensorDataset(torch.arange(6)), batch_size=2)
    next(iter(loader))
    other = resume.ResumableDataLoader(TensorDataset(torch.arange(6)), batch_size=2)
    other.load_state_dict(loader.state_dict())
    return [batch.tolist() for (batch,) in other]


@fault(
    _left,
    "test_a_resumable_loader_yields_the_batches_of_a_dataloader",
    link="https://github.com/Lightning-AI/pytorch-lightning/issues/1182",
)
def an_exact_resume_serves_the_epochs_first_rows_again() -> None:
    """And not its last rows."""
    edit(resume.ResumableDataLoader.load_state_dict, ("(start, batches) if batches else None", "None"))


@fault(
    trained(then=6),
    "test_a_run_that_is_stopped_and_resumed_equals_an_uninterrupted_run",
    "test_the_trainer_trains_to_the_bits_of_a_bare_loop",
    control=True,
)
def a_checkpoint_is_written_twice() -> None:
    """The second copy is discarded."""

    def change(save: Callable[..., None], file: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(file, dict):
            save(file, io.BytesIO())
        save(file, *arguments, **options)

    wrap(torch, "save", change)
