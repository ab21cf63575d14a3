"""Training under Lightning's Trainer.

The optimizer, the batches, the checkpoints and every bit of the result are the Trainer's. Training also stops
when XOR is solved, after a signal, and at a loss that is not finite, and one progress bar covers the whole run.
The Trainer's loop costs more than the step itself, so it runs only the first of every hundred epochs. A bare
loop runs the others and leaves the same state as the Trainer's loop.
"""

import io
import math
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from simplenet.checkpoint import Checkpoint, TrainingState, batches_per_epoch, read_checkpoint
from simplenet.data import XORDataModule, xor
from simplenet.environment import resolve_device
from simplenet.files import check_writable, remove_stale_files, write_new_file
from simplenet.model import SimpleNet, mse_loss
from simplenet.signals import FirstSignal, status
from simplenet.validation import MAX_EPOCHS, check_int, check_type

# Training stops when every prediction is within this distance of its target; within 1/2, a prediction is right.
MARGIN = 0.1

# Saving costs as much as a training step, and an epoch has at most four steps.
EPOCHS_BETWEEN_CHECKPOINTS = 100


@dataclass(frozen=True)
class TrainingRun:
    """The result of a run.

    Attributes:
        net: The trained network, on the CPU.
        predictions: Its output for each row of the truth table.
        losses: The loss of each step of this run, in order.
        steps: Optimizer steps taken, including those before a resume.
        seconds: Wall time of the training loop.
        checkpoint: The file with the last finite state; ``None`` if none was saved.
        stopped_by: ``solved``, ``budget``, ``divergence``, or the name of a signal such as ``SIGINT``.
        divergence: The value that was not finite and the step where it occurred; ``None`` unless it stopped the run.
    """

    net: SimpleNet
    predictions: Float[Tensor, "4 1"]
    losses: list[float]
    steps: int
    seconds: float
    checkpoint: Path | None
    stopped_by: str
    divergence: str | None

    @property
    def mse(self) -> float:
        """The MSE over the truth table."""
        return mse_loss(self.predictions, self._targets).item()

    @property
    def right(self) -> list[bool]:
        """Whether each prediction is on its target's side of 1/2."""
        return [abs(error) < 1 / 2 for error in (self.predictions - self._targets).flatten().tolist()]

    @property
    def _targets(self) -> Float[Tensor, "4 1"]:
        """The targets, in the dtype of the run, which may differ from torch's current default."""
        return xor()[1].to(self.predictions)

    @property
    def solved(self) -> bool:
        """Whether all four predictions are right."""
        return all(self.right)


class _NotFiniteError(Exception):
    """A loss, a prediction, a weight or a moment is NaN or infinite."""


class _CheckpointFiles(TorchCheckpointIO):
    """Write each checkpoint atomically and under a new name; keep only the newest one of this run.

    Lightning's ModelCheckpoint would treat paths as URLs, and delete files that a checkpoint names.
    """

    newest: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write a checkpoint, then remove the one before it."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        before, self.newest = self.newest, write_new_file(Path(path), buffer.getvalue())
        if before is not None:
            before.unlink(missing_ok=True)


class _Watch(Callback):
    """Restore the state to resume from, record losses, update the progress bar, save checkpoints, and stop the run.

    After an epoch of the Trainer's loop, it runs the bare loop up to the next checkpoint.
    """

    def __init__(
        self, bar: "tqdm[Any]", first_signal: FirstSignal, directory: Path, batches: int, state: TrainingState | None
    ) -> None:
        self.bar = bar
        self.first_signal = first_signal
        self.directory = directory
        self.batches = batches  # in an epoch
        self.state = state
        self.losses: list[float] = []
        self.stopped_by = "budget"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first_signal.listen()  # only now, because Lightning has just installed its own handlers
        self.inputs, self.targets = (rows.to(pl_module.device) for rows in xor())
        if self.state is not None:
            _restore(trainer.optimizers[0], self.state)
            _count(trainer, self.state.epochs, self.state.steps)
        self.bar.initial = self.bar.n = trainer.current_epoch

    def on_train_batch_start(self, _trainer: Trainer, _net: LightningModule, batch: list[Tensor], *_: int) -> None:
        if not _all_finite(batch):  # a sigmoid would turn infinities into finite numbers
            raise _NotFiniteError(f"{self._where()} holds a value that is not finite")

    def on_before_backward(self, _trainer: Trainer, _net: LightningModule, loss: Tensor) -> None:
        self._record(loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_epoch(pl_module)
        loader: Iterable[list[Tensor]] = trainer.train_dataloader  # type: ignore[assignment]
        batches = [[part.to(pl_module.device) for part in batch] for batch in loader]
        epochs = 0
        # The Trainer's loop runs an epoch with values that are not finite, up to the batch that holds them.
        bare = all(map(_all_finite, batches))
        with _unlogged(pl_module):
            while bare and self.stopped_by == "budget" and not _is_saved(trainer, trainer.current_epoch + 1 + epochs):
                epochs += 1
                self._bare_epoch(pl_module, trainer.optimizers[0], batches)
                self._end_epoch(pl_module)
        _count(trainer, epochs, epochs * len(batches))
        trainer.should_stop = self.stopped_by != "budget"
        if self.stopped_by == "solved":
            self.bar.total = trainer.current_epoch + 1
        if trainer.should_stop or _is_saved(trainer, trainer.current_epoch + 1):
            self._save(trainer, pl_module)

    def _bare_epoch(self, net: LightningModule, optimizer: torch.optim.Optimizer, batches: list[list[Tensor]]) -> None:
        for i, batch in enumerate(batches):
            optimizer.zero_grad()
            loss: Tensor = net.training_step(batch, i)  # type: ignore[assignment]
            self._record(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _record(self, loss: Tensor) -> None:
        """Record the loss of a step, before the step is taken."""
        value = loss.item()
        if not math.isfinite(value):
            raise _NotFiniteError(f"the loss of {self._where()} is {value}")
        self.losses.append(value)

    def _where(self) -> str:
        epoch, batch = divmod(self.steps_taken, self.batches)
        return f"batch {batch + 1} in epoch {epoch + 1}"

    @property
    def steps_taken(self) -> int:
        """Optimizer steps so far, including those before a resume."""
        return len(self.losses) + (self.state.steps if self.state else 0)

    def _end_epoch(self, net: LightningModule) -> None:
        """Decide after an epoch whether to stop, and update the progress bar."""
        with torch.no_grad():
            errors: Tensor = net(self.inputs) - self.targets
        farthest = errors.abs().max().item()
        if not math.isfinite(farthest):
            raise _NotFiniteError(f"a prediction after step {self.steps_taken:,} is not finite")
        if farthest < MARGIN:
            self.stopped_by = "solved"
        elif self.first_signal.received is not None:
            self.stopped_by = self.first_signal.received.name
        self.bar.set_postfix(mse=f"{errors.square().mean().item():.2e}", refresh=False)
        self.bar.update()

    def _save(self, trainer: Trainer, net: LightningModule) -> None:
        moments = [part for own in trainer.optimizers[0].state.values() for part in own.values()]
        if not _all_finite([*net.parameters(), *moments]):
            raise _NotFiniteError(f"a weight or a moment of Adam after step {self.steps_taken:,} is not finite")
        name = f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(self.directory / name, weights_only=False)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


@contextmanager
def _unlogged(net: LightningModule) -> Iterator[None]:
    """Disable a module's ``log``: no logger is attached, and it takes a third of the time of the Trainer's step."""
    net.log = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del net.log


def _is_saved(trainer: Trainer, epochs: int) -> bool:
    """Whether the state after this number of epochs is always saved."""
    return epochs == trainer.max_epochs or epochs % EPOCHS_BETWEEN_CHECKPOINTS == 0


def _count(trainer: Trainer, epochs: int, batches: int) -> None:
    """Add epochs of the bare loop to the Trainer's counters, which are saved in checkpoints."""
    loop = trainer.fit_loop
    optimizer = loop.epoch_loop.automatic_optimization.optim_progress.optimizer
    counters = [(loop.epoch_progress.total, epochs), (loop.epoch_progress.current, epochs)]
    counters += [
        (part.total, batches) for part in (loop.epoch_loop.batch_progress, optimizer.step, optimizer.zero_grad)
    ]
    for counter, more in counters:
        for name, value in vars(counter).items():
            setattr(counter, name, value + more)
    loop.epoch_loop._batches_that_stepped += batches  # noqa: SLF001


def _restore(optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Set the state of Adam to that of a checkpoint."""
    states = {
        i: {"step": state.count.clone(), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
        for i, (m, v) in enumerate(state.moments)
    }
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _resumed(net: SimpleNet, data: XORDataModule, resume: str | Path | Checkpoint, max_epochs: int) -> TrainingState:
    """Load the weights from a checkpoint of the same run; return the rest of its state."""
    checkpoint = resume if isinstance(resume, Checkpoint) else read_checkpoint(resume, training=True)
    state = checkpoint.training
    if state is None:
        raise ValueError(f"{checkpoint.path} was read without training=True, but resume needs the training state")
    given = {**data.hparams, **net.hparams, "default dtype": torch.get_default_dtype()}
    dtype = checkpoint.weights["output_layer.bias"].dtype
    for name, value in {**checkpoint.arguments, "batch_size": state.batch_size, "default dtype": dtype}.items():
        if given[name] != value:
            raise ValueError(f"{name} is {given[name]!r}, but should be {value!r} as in {checkpoint.path}")
    if max_epochs <= state.epochs:
        raise ValueError(f"max_epochs is {max_epochs}, but should be more than the {state.epochs} done")
    net.load_state_dict(checkpoint.weights)
    return state


def train(  # noqa: PLR0913 - the parameters of a run
    net: SimpleNet,
    data: XORDataModule,
    *,
    max_epochs: int,
    device: str = "auto",
    checkpoint_dir: str | Path = "checkpoints",
    resume: str | Path | Checkpoint | None = None,
) -> TrainingRun:
    """Train until XOR is solved to within ``MARGIN``, or for ``max_epochs``.

    The first Ctrl-C, SIGTERM or SIGHUP ends the run after the current epoch and saves its state; the second
    ends it at once. A loss, prediction, weight or moment that is not finite ends it at that step; the newest
    checkpoint is then from before that step.

    Args:
        net: The network to train, in place.
        data: The data module.
        max_epochs: Passes over the four rows, including those before a resume; from 1 to 10⁷.
        device: As in ``resolve_device``.
        checkpoint_dir: The directory for checkpoints; created if missing. The newest checkpoint of this run is kept,
            its earlier ones are removed.
        resume: A checkpoint of the same network and batch size to resume from, or its path.

    Raises:
        KeyboardInterrupt: At the second Ctrl-C.
        OSError: If checkpoints cannot be read or written.
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no such device, ``max_epochs`` is out of range, or the checkpoint is damaged or
            belongs to another network or another dtype than torch's default.
    """
    check_type("net", net, SimpleNet)
    check_type("data", data, XORDataModule)
    check_int("max_epochs", max_epochs, 1, MAX_EPOCHS)
    target = resolve_device(device)
    state = None if resume is None else _resumed(net, data, resume, max_epochs)
    directory = Path(checkpoint_dir)
    directory.mkdir(parents=True, exist_ok=True)
    remove_stale_files(directory)
    check_writable(directory / "checkpoint")

    files = _CheckpointFiles()
    divergence = None
    # With `disable=None` the bar is shown only in a terminal.
    with (
        tqdm(total=max_epochs, unit="epoch", disable=None) as bar,
        FirstSignal() as first_signal,
        torch.inference_mode(mode=False),  # of the caller, which Lightning would keep
    ):
        watch = _Watch(bar, first_signal, directory, batches_per_epoch(data.hparams["batch_size"]), state)
        with warnings.catch_warnings():
            # The CPU was chosen on purpose.
            warnings.filterwarnings("ignore", "GPU available but not used")
            trainer = Trainer(
                accelerator=target.type,
                devices=[target.index or 0] if target.type == "cuda" else 1,
                max_epochs=max_epochs,
                callbacks=[watch],
                plugins=[files],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        start = time.perf_counter()
        try:
            trainer.fit(net, datamodule=data)
        except _NotFiniteError as error:
            divergence = str(error)
        except SystemExit as ending:
            # Lightning exits with status 0 at a SIGTERM before training starts, and from 2.5 on with 1 at a Ctrl-C.
            if trainer.received_sigterm:
                raise SystemExit(status(signal.SIGTERM)) from None
            if ending.code == 1:
                raise KeyboardInterrupt from None
            raise
        else:
            if trainer.interrupted:  # before 2.5
                raise KeyboardInterrupt
        seconds = time.perf_counter() - start
    net.cpu()
    with torch.no_grad():
        predictions: Tensor = net(xor()[0])
    return TrainingRun(
        net=net,
        predictions=predictions,
        losses=watch.losses,
        steps=watch.steps_taken,
        seconds=seconds,
        checkpoint=files.newest,
        stopped_by=watch.stopped_by if divergence is None else "divergence",
        divergence=divergence,
    )
