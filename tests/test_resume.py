"""A resumed run equals an uninterrupted one: the rows of each batch, and the final state.

A run is interrupted wherever a checkpoint can be saved, and resumed with a new module, loader and Trainer, with other
initial weights and other generator states, so that everything must come from the checkpoint. Each row contains its
number: the rows of the interrupted and of the resumed run together must be those of an uninterrupted run.

``python -m tests.test_resume DIRECTORY`` does the same in new processes, with DataLoader workers too.
"""

import contextlib
import copy
import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler

from simplenet import ExactResume, ResumableDataLoader, SimpleNet, XORDataModule, resume, set_seed
from simplenet.testing.assertions import assert_identical
from tests.children.background import Background
from tests.children.forked import launch
from tests.generators import disturb, global_generators

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers"),
    # The resumed run has no ModelCheckpoint.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    # Lightning before 2.2 does not know that a loader can resume.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

SEED = 1996

VALIDATION: dict[str, dict[str, Any] | None] = {
    "none": None,
    "after each epoch": {},
    "after each second epoch": {"check_val_every_n_epoch": 2},
    "in each epoch": {"val_check_interval": 0.7},
    "in each third epoch": {"val_check_interval": 0.7, "check_val_every_n_epoch": 3},
    "twice an epoch": {"val_check_interval": 0.5},
    "after each second batch": {"val_check_interval": 2, "check_val_every_n_epoch": None},
}


ORDERS = ["fixed", "shuffled", "loader", "sampler", "batch sampler"]


@dataclass(frozen=True)
class Case:
    """The data set and the settings of a run.

    Attributes:
        rows: Size of the data set; the last batch of an epoch has the remaining rows.
        limit: The largest number of batches in an epoch.
        order: A name from ``ORDERS``: the order of the rows, or the object whose own generator shuffles them.
        validation: A name from ``VALIDATION``.
    """

    rows: int = 7
    batch_size: int = 3
    limit: int = 9
    order: str = "shuffled"
    validation: str = "none"
    epochs: int = 3
    workers: int = 0

    @property
    def batches(self) -> int:
        return min(-(-self.rows // self.batch_size), self.limit)

    @property
    def steps(self) -> int:
        return self.batches * self.epochs


class Rows(Dataset):
    """Rows with their number and with random numbers from three generators."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return torch.tensor([index, torch.randn(()), np.random.standard_normal(), random.gauss()])  # noqa: NPY002


class Net(LightningModule):
    """A linear layer with dropout and a learning rate that changes each step; it records the numbers of its rows."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(3, 1)
        self.dropout = torch.nn.Dropout(0.25)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append([batch_idx, *batch[:, 0].int().tolist()])
        return self.line(self.dropout(batch[:, 1:])).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ValidatedNet(Net):
    def validation_step(self, batch, _):
        torch.rand(len(batch))


@dataclass
class Run:
    """A finished run.

    Attributes:
        seen: For each batch, its number and those of its rows.
        left: The final state, by name.
    """

    trainer: Trainer
    seen: list[list[int]]
    left: dict[str, Any]


def arguments(case, generator):
    """Return the arguments of a DataLoader."""
    rows, size = Rows(case.rows), case.batch_size
    if case.order in {"sampler", "batch sampler"}:
        sampler = RandomSampler(rows, generator=generator)
        if case.order == "sampler":
            return {"dataset": rows, "batch_size": size, "sampler": sampler}
        return {"dataset": rows, "batch_sampler": BatchSampler(sampler, size, drop_last=False)}
    own = generator if case.order == "loader" else None
    return {"dataset": rows, "batch_size": size, "shuffle": case.order != "fixed", "generator": own}


def train(case, *callbacks, checkpoint=None, loader=ResumableDataLoader, net=None, device="cpu", **options):
    """Fit, from the seed or from a checkpoint; in the second case, from other generator states."""
    set_seed(SEED if checkpoint is None else SEED + 1)
    disturb(0 if checkpoint is None else 3)
    validation = VALIDATION[case.validation]
    net = net or (Net() if validation is None else ValidatedNet())
    generator = torch.Generator().manual_seed(SEED)
    rows = loader(**arguments(case, generator), num_workers=case.workers)
    device = torch.device(device)
    options = {"max_epochs": case.epochs, "limit_train_batches": case.batches} | (validation or {}) | options
    trainer = Trainer(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(net, rows, DataLoader(Rows(5), 2) if validation is not None else None, ckpt_path=checkpoint)
    return Run(trainer, net.seen, left(trainer, net, generator))


def left(trainer, net, generator):
    """Return the final state of a run: the module, optimizer and scheduler, the counters, the generators."""
    loops = copy.deepcopy(trainer.fit_loop.state_dict())
    counters = {name: loops[name] for name in loops if "val_loop" not in name and name != "state_dict"}
    validations = loops["epoch_loop.val_loop.batch_progress"]
    numpy = np.random.get_state()  # noqa: NPY002
    generators = {"torch": torch.get_rng_state(), "numpy": [numpy[1].tolist(), *numpy[2:]], "random": random.getstate()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    return plain(
        {
            "weights": dict(net.named_parameters()),
            "optimizer": trainer.optimizers[0].state_dict() if trainer.optimizers else {},
            "scheduler": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "step and epoch": [trainer.global_step, trainer.current_epoch],
            "counters": counters,
            "counters of validation": validations,
            "own generator": generator.get_state(),
            **generators,
        }
    )


def plain(value):
    """Turn a state into values that JSON represents exactly: every float32 is a double."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def assert_resumes_exactly(whole, interrupted, resumed, claim):
    """Assert that an interrupted run and its resumption equal the whole run."""
    __tracebackhide__ = True
    assert interrupted + resumed.seen == whole.seen, f"{claim}: rows are repeated, omitted, or in another order"
    differing = [name for name in whole.left if resumed.left[name] != whole.left[name]]
    assert not differing, f"{claim}: {', '.join(differing)} should be those of an uninterrupted run"


def save_each_step(directory):
    return ModelCheckpoint(str(directory), filename="{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.mark.parametrize(
    ("order", "validation"),
    [*((order, "none") for order in ORDERS), *(("shuffled", validation) for validation in list(VALIDATION)[1:])],
)
def test_a_run_that_is_resumed_after_any_step_equals_an_uninterrupted_run(tmp_path, device, order, validation):
    """From the checkpoints of a ModelCheckpoint, in the middle of an epoch and at its end."""
    case = Case(order=order, validation=validation)
    whole = train(case, save_each_step(tmp_path), ExactResume(), device=device)

    for step in range(1, case.steps):
        resumed = train(case, ExactResume(), checkpoint=tmp_path / f"step={step}.ckpt", device=device)

        assert_resumes_exactly(whole, whole.seen[:step], resumed, f"step {step} of {case.steps}")


class Saver(Callback):
    """Save at each call of a hook.

    Attributes:
        saved: The step and the checkpoint of each call.
        trainer: The Trainer of the last call.
    """

    def __init__(self, directory, hook):
        self.directory, self.saved = directory, []
        setattr(self, hook, self.save)

    def save(self, trainer, *_):
        if not trainer.sanity_checking:
            self.trainer = trainer
            self.saved.append((trainer.global_step, self.directory / f"{len(self.saved)}.ckpt"))
            trainer.save_checkpoint(self.saved[-1][1])


HOOKS = [
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
]


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("hook", HOOKS)
def test_the_hook_that_saves_and_the_order_of_callbacks_do_not_matter(tmp_path, hook, position):
    case = Case(rows=3, batch_size=2, validation="twice an epoch")
    saver = Saver(tmp_path, hook)
    train(case, *((saver, ExactResume()) if position == "before" else (ExactResume(), saver)))
    longer = replace(case, epochs=4)
    whole = train(longer, ExactResume())

    for step, checkpoint in saver.saved:
        resumed = train(longer, ExactResume(), checkpoint=checkpoint)

        assert_resumes_exactly(whole, whole.seen[:step], resumed, f"{hook} after step {step}")
    assert saver.saved


@pytest.mark.parametrize("stop", [2, 3, 4])
@pytest.mark.parametrize("hook", ["on_train_start", *HOOKS])
def test_a_resumed_run_may_be_saved_before_and_after_it_trains(tmp_path, hook, stop):
    """If it resumes in the middle of an epoch, at its end or after its first batch."""
    case = Case(validation="twice an epoch")
    whole = train(case, ExactResume())
    train(case, ExactResume(), save_each_step(tmp_path), max_steps=stop)
    saver = Saver(tmp_path, hook)
    train(case, ExactResume(), saver, checkpoint=tmp_path / f"step={stop}.ckpt")

    step, checkpoint = saver.saved[0]
    resumed = train(case, ExactResume(), checkpoint=checkpoint)

    if step < case.steps:
        assert_resumes_exactly(whole, whole.seen[: step or stop], resumed, f"{hook} after step {step}")


class Unreadable(Rows):
    """Rows of which fetching the fifth fails."""

    def __init__(self, rows):
        super().__init__(rows)
        self.fetched = 0

    def __getitem__(self, index):
        self.fetched += 1
        if self.fetched == 5:
            raise InterruptedError
        return super().__getitem__(index)


@pytest.mark.parametrize("validation", ["none", "twice an epoch"])
def test_a_resumed_run_may_be_interrupted_while_it_fetches_discarded_batches(tmp_path, validation):
    """And its Trainer still validates."""
    case, saver = Case(validation=validation), Saver(tmp_path, "on_exception")
    whole = train(case, ExactResume())
    train(case, ExactResume(), max_steps=5).trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    with pytest.raises(InterruptedError):
        train(
            case,
            saver,
            ExactResume(),
            checkpoint=tmp_path / "stopped.ckpt",
            loader=lambda **options: ResumableDataLoader(**options | {"dataset": Unreadable(case.rows)}),
        )

    resumed = train(case, ExactResume(), checkpoint=saver.saved[0][1])
    saver.trainer.validate(ValidatedNet(), DataLoader(Rows(5), 2), verbose=False)

    assert_resumes_exactly(whole, whole.seen[:5], resumed, "interrupted while fetching")
    assert saver.trainer.num_val_batches == [3]


@pytest.mark.parametrize("validation", VALIDATION)
def test_a_resumed_run_may_be_interrupted_in_its_first_batch(tmp_path, validation):
    """Also if it has not repeated the validation before that batch."""
    case = Case(rows=5, batch_size=2, validation=validation, epochs=2)
    whole = train(case, ExactResume())

    for step in range(1, case.steps):
        _, stopped = interrupted(case, "max_steps", step, tmp_path)
        taken, checkpoint = interrupted(case, "exception in a step", 0, tmp_path, checkpoint=stopped)
        resumed = train(case, ExactResume(), checkpoint=checkpoint)

        assert taken == step
        assert_resumes_exactly(whole, whole.seen[:step], resumed, f"after step {step} of {case.steps}")


@pytest.mark.parametrize("validation", VALIDATION)
def test_a_run_may_be_interrupted_again_and_again(tmp_path, validation):
    """After each step; and a checkpoint that is only loaded and saved again is still valid."""
    case = Case(order="loader", validation=validation)
    whole = train(case, ExactResume())
    seen, checkpoint = [], None

    for step in range(1, case.steps + 1):
        part = train(case, ExactResume(), checkpoint=checkpoint, max_steps=step)
        seen += part.seen
        checkpoint = tmp_path / f"{step}.ckpt"
        part.trainer.save_checkpoint(checkpoint)
        idle = train(case, ExactResume(), checkpoint=checkpoint, max_steps=step)
        assert idle.seen == []
        idle.trainer.save_checkpoint(checkpoint)

    assert_resumes_exactly(whole, seen, replace(part, seen=[]), "one step at a time")


def test_a_callback_that_saves_changes_nothing(tmp_path):
    case = Case(validation="twice an epoch")

    saved = train(case, save_each_step(tmp_path), ExactResume())

    assert_resumes_exactly(train(case), [], saved, "a run that saves each step")


cases = st.builds(
    Case,
    rows=st.integers(1, 8),
    batch_size=st.integers(1, 4),
    limit=st.sampled_from([2, 9]),
    order=st.sampled_from(ORDERS),
    validation=st.sampled_from(sorted(VALIDATION)),
    epochs=st.integers(1, 3),
)


class Stopper(Callback):
    """Set ``should_stop`` in a hook after a step."""

    def __init__(self, step, hook="on_train_batch_end"):
        self.step = step
        setattr(self, hook, self.stop)

    def stop(self, trainer, *_):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            trainer.should_stop = True


class Failing(Callback):
    """Raise after a number of calls of a hook."""

    def __init__(self, hook, calls):
        self.calls = calls
        setattr(self, hook, self.fail)

    def fail(self, trainer, *_):
        self.calls -= not trainer.sanity_checking
        if self.calls < 0:
            raise InterruptedError


def interrupted(case, how, step, directory, checkpoint=None):
    """Interrupt a run, or one resumed from a checkpoint; return the step of its checkpoint, and the checkpoint."""
    saver = Saver(directory, "on_exception")
    if how == "max_steps":
        run = train(case, ExactResume(), checkpoint=checkpoint, max_steps=step)
    elif how == "should_stop":
        run = train(case, Stopper(step), ExactResume(), checkpoint=checkpoint)
    else:
        hook = {"exception in a step": "on_before_backward", "exception in validation": "on_validation_batch_end"}[how]
        with contextlib.suppress(InterruptedError):
            run = train(case, Failing(hook, step), ExactResume(), saver, checkpoint=checkpoint)
    if saver.saved:
        return saver.saved[0]
    run.trainer.save_checkpoint(directory / "ended.ckpt")
    return run.trainer.global_step, directory / "ended.ckpt"


@pytest.mark.parametrize("how", ["max_steps", "should_stop", "exception in a step", "exception in validation"])
@given(case=cases, step=st.integers(1, 12))
@example(case=Case(validation="after each epoch"), step=1)
@example(case=Case(), step=2)
@settings(max_examples=settings.default.max_examples // 2)
def test_a_run_resumes_exactly_after_any_kind_of_interruption(tmp_path_factory, how, case, step):
    """A stop in the middle of an epoch, which Lightning counts as its end, or an exception in a batch."""
    whole = train(case, ExactResume())

    taken, checkpoint = interrupted(case, how, min(step, case.steps), tmp_path_factory.mktemp("interrupted"))
    resumed = train(case, ExactResume(), checkpoint=checkpoint)

    if taken < case.steps:  # otherwise nothing is left to do
        for run in whole, resumed:
            del run.left["counters of validation"]  # it had another validation, or a part of one
        assert_resumes_exactly(whole, whole.seen[:taken], resumed, f"{how} after step {taken} of {case.steps}")


@pytest.mark.parametrize("hook", ["on_train_start", *HOOKS])
def test_a_run_resumes_exactly_whichever_hook_stops_it(tmp_path, hook):
    """Also before the first batch of an epoch, which Lightning then counts as ended."""
    case = Case(rows=3, batch_size=2, validation="twice an epoch", epochs=2)
    whole = train(case, ExactResume())

    for step in range(case.steps):
        run = train(case, Stopper(step, hook), ExactResume())
        taken = run.trainer.global_step
        run.trainer.save_checkpoint(tmp_path / "stopped.ckpt")
        resumed = train(case, ExactResume(), checkpoint=tmp_path / "stopped.ckpt")

        if taken < case.steps:
            assert_resumes_exactly(whole, whole.seen[:taken], resumed, f"{hook} after step {taken}")


class SkippingNet(Net):
    """A network that skips the last batches of each epoch."""

    def on_train_batch_start(self, _, batch_idx):
        return -1 if batch_idx == 2 else None


def test_a_module_may_skip_the_rest_of_an_epoch(tmp_path):
    """Which does not stop the run: it is resumed with the next epoch."""
    case, saver = Case(rows=12), Saver(tmp_path, "on_train_epoch_end")
    whole = train(case, saver, ExactResume(), net=SkippingNet())
    del whole.left["counters"]  # Lightning counts a skipped batch as processed, but not as started

    for step, checkpoint in saver.saved[:-1]:
        resumed = train(case, ExactResume(), net=SkippingNet(), checkpoint=checkpoint)

        assert_resumes_exactly(whole, whole.seen[:step], resumed, f"after step {step}")


class Epochs(Callback):
    """List the epochs that start and end."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, _):
        self.seen.append(("start", trainer.current_epoch))

    def on_train_epoch_end(self, trainer, _):
        self.seen.append(("end", trainer.current_epoch))


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end"])
@pytest.mark.parametrize("stop", [3, 6])
def test_a_run_that_is_stopped_at_the_end_of_an_epoch_resumes_with_the_next(tmp_path, hook, stop):
    """Each epoch starts once and ends once, for every callback."""
    case, saver = Case(validation="after each epoch"), Saver(tmp_path, hook)
    whole, stopped, resumed = Epochs(), Epochs(), Epochs()
    train(case, ExactResume(), whole)
    train(case, ExactResume(), stopped, saver, max_steps=stop)

    train(case, ExactResume(), resumed, checkpoint=saver.saved[-1][1])

    assert stopped.seen + resumed.seen == whole.seen


def test_a_resumed_run_that_stops_at_once_leaves_the_limit_of_validation_as_it_was(tmp_path):
    """After a validation in the middle of an epoch, which is not repeated."""
    case, checkpoint = Case(validation="twice an epoch"), tmp_path / "stopped.ckpt"

    for step in range(1, case.steps):
        train(case, ExactResume(), max_steps=step).trainer.save_checkpoint(checkpoint)
        resumed = train(case, Stopper(step, "on_train_start"), ExactResume(), checkpoint=checkpoint)

        assert resumed.trainer.limit_val_batches == 1.0


def test_a_callback_may_be_used_for_another_run(tmp_path):
    """It keeps nothing of a run that has ended, nor of one that could not be resumed."""
    case, used = Case(validation="twice an epoch"), ExactResume()
    whole = train(case, ExactResume())
    train(case, used, max_steps=2)

    train(case, used, save_each_step(tmp_path))
    for step in range(1, case.steps):
        resumed = train(case, ExactResume(), checkpoint=tmp_path / f"step={step}.ckpt")
        assert_resumes_exactly(whole, whole.seen[:step], resumed, f"step {step} of a second run")

    with pytest.raises(ValueError, match="batches_per_epoch is 3 in the checkpoint"):
        train(replace(case, rows=12), used, checkpoint=tmp_path / "step=4.ckpt")
    assert_resumes_exactly(whole, [], train(case, used), "a run after one that could not be resumed")


@pytest.mark.parametrize("how", ["max_steps", "should_stop"])
@pytest.mark.parametrize("validation", ["after each epoch", "twice an epoch"])
def test_a_run_may_be_validated_before_it_is_saved(tmp_path, how, validation):
    """Which advances generators, and after which the Trainer has no training loader."""
    case = Case(rows=5, batch_size=2, order="loader", validation=validation, epochs=2)
    whole = train(case, ExactResume())
    del whole.left["counters of validation"]  # a stop may add a validation

    for step in range(1, case.steps):
        stopper = Stopper(step if how == "should_stop" else None)
        trainer = train(case, stopper, ExactResume(), max_steps=step if how == "max_steps" else -1).trainer
        trainer.validate(trainer.lightning_module, DataLoader(Rows(5)), verbose=False)
        trainer.save_checkpoint(tmp_path / "validated.ckpt")
        resumed = train(case, ExactResume(), checkpoint=tmp_path / "validated.ckpt")

        assert_resumes_exactly(whole, whole.seen[:step], resumed, f"validated after step {step}")


def test_the_examples_include_a_stop_at_an_unscheduled_validation():
    """A validation that runs only because of the stop advances generators."""
    case = Case(validation="after each epoch")
    validations = []

    class Count(Callback):
        def on_validation_start(self, trainer, _):
            validations.append(trainer.global_step)

    train(case, Count(), Stopper(4))

    assert validations == [0, 3, 4]  # the first is Lightning's sanity check


@pytest.mark.parametrize("generator", ["torch", "numpy", "random", "own"])
def test_a_resume_that_omits_a_generator_fails_the_comparison(tmp_path, monkeypatch, generator):
    case = Case(order="loader")
    whole = train(case, save_each_step(tmp_path), ExactResume())
    restore = resume._restore  # noqa: SLF001

    def restore_without(states, own):
        restore(states | {generator: resume._capture(own)[generator]}, own)  # noqa: SLF001

    monkeypatch.setattr(resume, "_restore", restore_without)
    resumed = train(case, ExactResume(), checkpoint=tmp_path / "step=4.ckpt")

    with pytest.raises(
        AssertionError, match="should be those of an uninterrupted" if generator != "own" else "in another order"
    ):
        assert_resumes_exactly(whole, whole.seen[:4], resumed, "")


WORKERS = [0, 2]
STOP = 4
PART = Case(validation="twice an epoch")


def ask(directory):
    """Start other processes, with another hash seed, on which nothing may depend."""
    return [launch("-m", "tests.test_resume", str(directory), directory=directory)]


processes = Background(ask)


def main(directory, name="whole"):
    """Train a whole run and one up to a step, which another process resumes; both write rows and final states."""
    for workers in WORKERS:
        case, checkpoint = replace(PART, workers=workers), Path(directory, f"{workers}.ckpt")
        run = train(case, ExactResume(), checkpoint=checkpoint if name == "resumed" else None)
        Path(directory, f"{name} {workers}.json").write_text(json.dumps({"seen": run.seen, "left": run.left}))
        if name == "whole":
            train(case, ExactResume(), max_steps=STOP).trainer.save_checkpoint(checkpoint)
    if name == "whole":
        subprocess.run([sys.executable, "-m", "tests.test_resume", directory, "resumed"], check=True)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_run_that_is_resumed_in_another_process_equals_an_uninterrupted_run(finished, workers):
    """In the middle of the second epoch; with and without DataLoader workers, which have their own generators."""
    directory = finished(processes)
    whole, resumed = (
        Run(None, **json.loads((directory / f"{name} {workers}.json").read_text())) for name in ("whole", "resumed")
    )

    assert_resumes_exactly(whole, whole.seen[:STOP], resumed, f"{workers} workers")
    assert len(whole.seen) == PART.steps


@pytest.mark.parametrize("order", ["fixed", "shuffled"])
@pytest.mark.parametrize("where", ["at the end of an epoch", "in its middle", "after a stop in its middle"])
@pytest.mark.parametrize("by", ["Lightning", "ExactResume"])
def test_after_a_resume_training_continues_with_the_next_rows(tmp_path, by, where, order):
    """With Lightning and a DataLoader, and with ``ExactResume`` and a ``ResumableDataLoader``."""
    case, step = Case(order=order), 3 if where == "at the end of an epoch" else 4
    loader, callbacks = (DataLoader, []) if by == "Lightning" else (ResumableDataLoader, [ExactResume()])
    whole = train(case, *callbacks, loader=loader)
    if where == "after a stop in its middle":
        checkpoint = tmp_path / "stopped.ckpt"
        train(case, *callbacks, loader=loader, max_steps=step).trainer.save_checkpoint(checkpoint)
    else:
        saver = Saver(tmp_path, "on_train_epoch_end" if where == "at the end of an epoch" else "on_train_batch_end")
        train(case, saver, *callbacks, loader=loader)
        checkpoint = dict(saver.saved)[step]

    resumed = train(case, *callbacks, checkpoint=checkpoint, loader=loader)

    assert [rows for _, *rows in resumed.seen] == [rows for _, *rows in whole.seen[step:]]


globally = global_generators()


@given(case=cases, stop=st.integers(0, 12), used=st.booleans())
@example(case=Case(order="loader"), stop=4, used=True)
@example(case=Case(order="loader"), stop=3, used=True)
def test_a_resumable_loader_yields_the_batches_of_a_dataloader(case, stop, used):
    """And leaves the generators in the same state; stopped after any batch, another loader resumes, used or not."""
    per_epoch = -(-case.rows // case.batch_size)
    stop = min(stop, per_epoch * case.epochs)

    def loader(kind):
        return kind(**arguments(case, torch.Generator().manual_seed(SEED)))

    def batches(loader, epochs=case.epochs):
        return [batch.tolist() for _ in range(epochs) for batch in loader]

    def drawn():
        return {name: generator.draw(1) for name, generator in globally.items()}

    set_seed(SEED)
    expected = batches(loader(DataLoader)), drawn()
    set_seed(SEED)
    whole = batches(loader(ResumableDataLoader)), drawn()
    set_seed(SEED)
    stopped, yielded = loader(ResumableDataLoader), []
    yielded += batches(stopped, stop // per_epoch)
    yielded += [batch.tolist() for _, batch in zip(range(stop % per_epoch), stopped, strict=False)]
    state, states = stopped.state_dict(), {name: generator.get_state() for name, generator in globally.items()}
    set_seed(SEED + 1)
    other = loader(ResumableDataLoader)
    if used:
        next(iter(other))
    other.load_state_dict(state)
    again = other.state_dict()
    for name, generator in globally.items():
        generator.set_state(states[name])
    rest = batches(other, case.epochs - stop // per_epoch)

    assert whole == expected
    assert (yielded + rest, drawn()) == expected
    assert again["batches"] == state["batches"]
    assert stop % per_epoch == 0 or plain(again) == plain(state)


def test_the_generator_of_a_sampler_without_batches_is_one_of_the_loaders():
    """With ``batch_size=None`` there is no batch sampler."""
    sampler = RandomSampler(Rows(3), generator=torch.Generator())

    assert len(ResumableDataLoader(Rows(3), batch_size=None, sampler=sampler).state_dict()["own"]) == 1


def test_a_position_beyond_the_end_of_the_data_leaves_no_batch():
    """The data set has fewer rows than when the state was saved; the next epoch has all of them."""
    long, short = ResumableDataLoader(Rows(5)), ResumableDataLoader(Rows(2))
    for _ in zip(range(4), long, strict=False):
        state = long.state_dict()

    short.load_state_dict(state)

    assert [len(list(short)) for _ in range(2)] == [0, 2]


words = st.one_of(
    st.sampled_from([0, 1, 2**32 - 1]).map(lambda word: [word] * 624),
    st.integers(0).map(lambda seed: random.Random(seed).choices(range(2**32), k=624)),
).map(torch.tensor)
finite = st.floats(allow_nan=False, allow_infinity=False)


def of_both(parts):
    """Return the entries of a state for NumPy's generator and for Python's."""
    return {f"{name}_{part}": value for name in ("numpy", "random") for part, value in parts.items()}


@given(
    twisters=st.fixed_dictionaries(
        of_both({"words": words, "position": st.integers(0, 624), "gauss": st.none() | finite})
    )
)
@example(twisters=of_both({"words": torch.zeros(624, dtype=torch.int64), "position": 624, "gauss": 0.0}))
def test_a_loader_returns_every_state_as_it_was_loaded(twisters):
    """As tensors, plain numbers and None, and lists and dicts of them."""
    loader = ResumableDataLoader(Rows(5), 2)
    state = loader.state_dict() | {"batches": 1}
    state["epoch_start"] |= twisters

    loader.load_state_dict(state)
    again = loader.state_dict()

    assert plain(again) == plain(state)
    assert types(again) <= {torch.Tensor, int, float, type(None)}


def types(value):
    """Return the types of the values in nested lists and dicts."""
    if isinstance(value, list | dict):
        return {type_ for part in (value.values() if isinstance(value, dict) else value) for type_ in types(part)}
    return {type(value)}


class Philox:
    """A generator with a state of 16 bytes, as on a GPU."""

    def __init__(self):
        self.state = torch.arange(16, dtype=torch.uint8)

    def get_state(self):
        return self.state.clone()

    def set_state(self, state):
        if state.shape != (16,):
            raise RuntimeError("RNG state is wrong size")
        self.state = state.clone()

    def draw(self):
        self.state += 1
        return int(self.state[0])


@pytest.fixture
def gpu(monkeypatch):
    """Return the generator of a simulated GPU."""

    class Generator(torch.Generator):
        def __new__(cls, device="cpu"):
            return Philox() if torch.device(device) == torch.device("cuda") else super().__new__(cls, device)

    generator = Philox()
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", generator.get_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", generator.set_state)
    return generator


def test_the_generator_of_the_current_gpu_is_restored(gpu):
    """For a data set that draws from it."""

    class Drawn(Rows):
        def __getitem__(self, index):
            return gpu.draw()

    def loader():
        return ResumableDataLoader(Drawn(5), batch_size=None)

    stopped, resumed = loader(), loader()
    batches = iter(stopped)
    next(batches)
    state, now = stopped.state_dict(), gpu.get_state()
    rest = list(batches)
    gpu.set_state(torch.zeros(16, dtype=torch.uint8))

    resumed.load_state_dict(state)
    again = resumed.state_dict()
    gpu.set_state(now)

    assert plain(again) == plain(state)
    assert list(resumed) == rest


@pytest.mark.usefixtures("gpu")
def test_a_state_that_is_not_that_of_a_gpus_generator_is_refused():
    loader = ResumableDataLoader(Rows(5))
    state = loader.state_dict()
    state["epoch_start"]["cuda"] = torch.get_rng_state()

    wanted = "cuda should be the state of a generator on cuda, but is not: RNG state is wrong size"
    with pytest.raises(ValueError, match=exactly(wanted)):
        loader.load_state_dict(state)


OURS = ("callbacks", "ExactResume")
NOW = (*OURS, "generators")
NO_STATE = "should be the state of a generator on cpu, but is not: "
WORDS = "should be 624 numbers of 32 bits, as int64"
COUNTERS = "loops should hold Lightning's counters, but reading them failed: "
FORGED = [
    ("batches is -1, but should be a count", (*OURS, "batches"), -1),
    ("batches is True, but should be a count", (*OURS, "batches"), True),
    ("batches is 2, but should be 0 or Lightning's count of 1, of 3", (*OURS, "batches"), 2),
    ("batches is of type str, but should be of type int", (*OURS, "batches"), "1"),
    ("epoch is of type Tensor, but should be of type int", (*OURS, "epoch"), torch.ones(1)),
    (
        "batches_per_epoch is 4 in the checkpoint, but should be that of the training loader, 3",
        (*OURS, "batches_per_epoch"),
        4,
    ),
    ("batches_per_epoch is of type NoneType, but should be of type int", (*OURS, "batches_per_epoch"), None),
    ("validated is of type int, but should be of type bool", (*OURS, "validated"), 1),
    ("validation_due is of type int, but should be of type bool", (*OURS, "validation_due"), 1),
    ("ExactResume is of type list, but should be of type dict", OURS, [1]),
    ("generators is of type NoneType, but should be of type dict", NOW, None),
    ("epoch_start is of type list, but should be of type dict", (*OURS, "epoch_start"), []),
    (f"torch {NO_STATE}", (*NOW, "torch"), torch.zeros(5056, dtype=torch.uint8)),
    (f"torch {NO_STATE}", (*NOW, "torch"), torch.zeros(3)),
    (f"torch {NO_STATE}", (*NOW, "torch"), None),
    ("own is of type dict, but should be of type list", (*NOW, "own"), {}),
    ("own holds 0 states, but should hold one for each of 1 generators", (*NOW, "own"), []),
    (f"own {NO_STATE}", (*NOW, "own"), [3]),
    ("numpy_words is of type list, but should be of type Tensor", (*NOW, "numpy_words"), []),
    (f"numpy_words {WORDS}", (*NOW, "numpy_words"), torch.zeros(625, dtype=torch.int64)),
    (f"numpy_words {WORDS}", (*NOW, "numpy_words"), torch.full((624,), 2**32)),
    (f"random_words {WORDS}", (*NOW, "random_words"), torch.full((624,), -1)),
    (f"random_words {WORDS}", (*NOW, "random_words"), torch.full((624,), 0.5)),
    (f"random_words {WORDS}", (*NOW, "random_words"), torch.ones(624, dtype=torch.int64).to_sparse()),
    (f"random_words {WORDS}", (*NOW, "random_words"), torch.ones(624, dtype=torch.int64, device="meta")),
    ("numpy_position is 625, but should be at most 624", (*NOW, "numpy_position"), 625),
    ("random_position is -1, but should be a count", (*NOW, "random_position"), -1),
    ("numpy_gauss is nan, but should be None or a finite float", (*NOW, "numpy_gauss"), float("nan")),
    ("random_gauss is 1, but should be None or a finite float", (*NOW, "random_gauss"), 1),
    (COUNTERS, ("loops", "fit_loop", "epoch_progress"), None),
    (COUNTERS, ("loops",), 3),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a checkpoint in the middle of an epoch."""
    path = tmp_path_factory.mktemp("checkpoint") / "middle.ckpt"
    train(Case(order="loader"), ExactResume(), max_steps=4).trainer.save_checkpoint(path)
    return path


def exactly(message):
    """Match the whole message; after a colon at its end comes another library's."""
    return f"^{re.escape(message)}{'' if message.endswith(': ') else '$'}"


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # torch 2.14 on, as it reads a checkpoint
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # torch 2.12, once in a process
@pytest.mark.parametrize(("message", "entry", "value"), FORGED, ids=lambda part: part if isinstance(part, str) else "")
def test_a_state_that_the_callback_did_not_save_is_refused_by_name(tmp_path, checkpoint, message, entry, value):
    forged = torch.load(checkpoint, weights_only=True)
    *path, name = entry
    holder = forged
    for part in path:
        holder = holder[part]
    holder[name] = value
    if value is None:
        del holder[name]
    torch.save(forged, tmp_path / "forged.ckpt")

    with pytest.raises(ValueError, match=exactly(message)):
        train(Case(order="loader"), ExactResume(), checkpoint=tmp_path / "forged.ckpt")


def test_the_state_of_a_cuda_generator_is_refused_without_cuda(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    forged = torch.load(checkpoint, weights_only=True)
    forged["callbacks"]["ExactResume"]["generators"]["cuda"] = torch.zeros(16, dtype=torch.uint8)
    torch.save(forged, tmp_path / "forged.ckpt")

    wanted = "cuda is the state of a CUDA generator, but should be missing without a CUDA device"
    with pytest.raises(ValueError, match=exactly(wanted)):
        train(Case(order="loader"), ExactResume(), checkpoint=tmp_path / "forged.ckpt")


def test_resuming_a_checkpoint_saved_without_the_callback_warns(tmp_path):
    train(Case(), save_each_step(tmp_path))

    warning = (
        "The checkpoint was saved without ExactResume: the run resumes, but its bits will differ from those of "
        "an uninterrupted run."
    )
    with pytest.warns(UserWarning, match=exactly(warning)):
        train(Case(), ExactResume(), checkpoint=tmp_path / "step=3.ckpt")


def test_validating_a_checkpoint_warns_of_nothing(tmp_path):
    train(Case(), save_each_step(tmp_path))
    trainer = Trainer(accelerator="cpu", barebones=True, callbacks=[ExactResume()])

    trainer.validate(ValidatedNet(), DataLoader(Rows(5)), ckpt_path=tmp_path / "step=3.ckpt")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(4, 4))


class PlateauNet(Net):
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters())
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss"}}


class ManualNet(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class ByTheClock(Callback):
    def on_train_start(self, trainer, _):
        trainer.val_check_batch = None  # as Lightning 2.6 does for val_check_interval="00:10:00"


NEEDED = "but should be a simplenet.ResumableDataLoader for ExactResume; it takes the arguments of a DataLoader"
NO_LENGTH = "the training loader has no length, but should have one for ExactResume: give its data set a __len__"
REFUSED = {
    f"the training loader is a DataLoader, {NEEDED}": {"loader": DataLoader},
    f"the training loader is a list, {NEEDED}": {"loader": lambda **options: [ResumableDataLoader(**options)]},
    NO_LENGTH: {"loader": lambda **_: ResumableDataLoader(Stream())},
    "persistent_workers of the training loader is True, but should be False for ExactResume": {
        "loader": lambda **options: ResumableDataLoader(**options | {"num_workers": 1, "persistent_workers": True})
    },
    "accumulate_grad_batches of the Trainer is 2, but should be 1 for ExactResume": {"accumulate_grad_batches": 2},
    "reload_dataloaders_every_n_epochs of the Trainer is 1, but should be 0 for ExactResume": {
        "reload_dataloaders_every_n_epochs": 1
    },
    "automatic_optimization of the module is False, but should be True for ExactResume": {"net": ManualNet},
    "reduce_on_plateau of a scheduler is True, but should be False for ExactResume": {"net": PlateauNet},
    "validation by wall time is True, but should be False for ExactResume": {"before": ByTheClock},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_run_that_cannot_be_resumed_exactly_is_refused_before_its_first_step(tmp_path, message):
    """And a checkpoint of it has no state, though an earlier run with the same callback had one."""
    options = dict(REFUSED[message])
    net, saver, callback = options.pop("net", Net)(), Saver(tmp_path, "on_exception"), ExactResume()
    train(Case(), callback, max_steps=1)

    with pytest.raises(MisconfigurationException, match=exactly(message)):
        train(Case(), options.pop("before", Callback)(), callback, saver, net=net, **options)

    assert net.seen == []
    assert "ExactResume" not in torch.load(saver.saved[0][1], weights_only=True)["callbacks"]


def test_a_run_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(Trainer, "world_size", 2)

    with pytest.raises(
        MisconfigurationException, match=r"^world_size of the Trainer is 2, but should be 1 for ExactResume$"
    ):
        train(Case(), ExactResume())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's CLI calls deprecated functions of jsonargparse
@pytest.mark.parametrize("classes", ["given to it", "named in the command"])
def test_lightningcli_trains_saves_and_resumes(tmp_path, monkeypatch, classes):
    """``fit``, then ``fit --ckpt_path``: the same bits as one run."""
    monkeypatch.setattr("sys.argv", ["program"])

    def fit(directory, epochs, *options):
        named = ["--model=simplenet.SimpleNet", "--data=simplenet.XORDataModule", "--data.batch_size=3"]
        trainer = ["accelerator=cpu", f"max_epochs={epochs}", f"default_root_dir={tmp_path / directory}"]
        quiet = ["logger=false", "enable_progress_bar=false", "enable_model_summary=false"]
        arguments = [*named[2 * (classes == "given to it") :], *(f"--trainer.{option}" for option in trainer + quiet)]
        given_to_it = (SimpleNet, XORDataModule) if classes == "given to it" else ()
        cli = LightningCLI(
            *given_to_it, save_config_callback=None, args=["fit", "--seed_everything=7", *arguments, *options]
        )
        return cli.model, next((tmp_path / directory).rglob("*.ckpt"))

    whole, _ = fit("whole", 5)
    _, stopped = fit("stopped", 3)
    resumed, last = fit("stopped", 5, f"--ckpt_path={stopped}")

    assert last.name == "epoch=4-step=10.ckpt"
    for name, weights in whole.named_parameters():
        assert_identical(resumed.get_parameter(name), weights, claim=name)


class Data(LightningDataModule):
    def train_dataloader(self):
        return ResumableDataLoader(Rows(7), 3, shuffle=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_under_lightningcli_resumes_exactly_with_the_callback(tmp_path, monkeypatch):
    """``--trainer.callbacks=simplenet.ExactResume``; stopped in the middle of an epoch."""
    monkeypatch.setattr("sys.argv", ["program"])

    def fit(*options):
        names = ["--model=tests.test_resume.Net", "--data=tests.test_resume.Data", "--seed_everything=7"]
        quiet = ["logger=false", "enable_progress_bar=false", "enable_model_summary=false", "accelerator=cpu"]
        trainer = [f"--trainer.{option}" for option in (*quiet, "max_epochs=3", "callbacks=simplenet.ExactResume")]
        return LightningCLI(save_config_callback=None, args=["fit", *names, *trainer, *options])

    whole = fit("--trainer.enable_checkpointing=false")
    fit(f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=4")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    resumed = fit("--trainer.enable_checkpointing=false", f"--ckpt_path={checkpoint}")

    assert resumed.model.seen == whole.model.seen[4:]
    for name, weights in whole.model.named_parameters():
        assert_identical(resumed.model.get_parameter(name), weights, claim=name)


if __name__ == "__main__":
    main(*sys.argv[1:])
