"""Training under Lightning's Trainer, from the first step to the truth table.

The Trainer's own way is kept: its optimizer, its batches, its checkpoints, its bits. What is added is a
stop once XOR is solved, a stop that a signal can ask for, a stop at a loss that is not finite, and one
progress bar over the whole run. What is left out is its loop: it costs more than the step does, so it leads
the first epoch of a hundred, and the others are taken by a bare loop that leaves behind what the Trainer's
would have.
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
from simplenet.validation import check_int, check_type

# Training stops once every prediction is this near its target; to be right, 1/2 is near enough.
MARGIN = 0.1

# Saving costs as much as a training step, and an epoch is at most four.
EPOCHS_BETWEEN_CHECKPOINTS = 100

# Ten million epochs take hours, and the losses of their steps a gigabyte.
MAX_EPOCHS = 10**7


@dataclass(frozen=True)
class TrainingRun:
    """What came of a run.

    Attributes:
        net: The trained network, on the CPU.
        predictions: Its output for each row of the truth table.
        losses: The loss of each step of this run, oldest first.
        steps: Optimizer steps taken, those before a resume included.
        seconds: Wall time of the training loop.
        checkpoint: Where the last finite state was saved; ``None`` if there was none to save.
        stopped_by: ``solved``, ``budget``, ``divergence``, or the name of a signal such as ``SIGINT``.
        divergence: What was not finite, and where; ``None`` unless that stopped the run.
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
        """In the type that the run was in, which need not be today's default."""
        return xor()[1].to(self.predictions)

    @property
    def solved(self) -> bool:
        """Whether all four predictions are right."""
        return all(self.right)


class _NotFiniteError(Exception):
    """A loss, a prediction or a part of the state is NaN or infinite."""


class _CheckpointFiles(TorchCheckpointIO):
    """Write each checkpoint whole and under a new name; keep the newest that this run has written.

    Lightning's own ModelCheckpoint would take paths for URLs, and remove files by the name that a checkpoint gives.
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
    """Restore the state to go on from, record the losses, move the bar, save, and stop a run that is over.

    The end of an epoch that the Trainer has led is followed by bare ones, up to the next checkpoint.
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
        self.first_signal.listen()  # only now, for Lightning has installed handlers of its own
        self.inputs, self.targets = (rows.to(pl_module.device) for rows in xor())
        if self.state is not None:
            _restore(trainer.optimizers[0], self.state)
            _count(trainer, self.state.epochs, self.state.steps)
        self.bar.initial = self.bar.n = trainer.current_epoch

    def on_train_batch_start(self, _trainer: Trainer, _net: LightningModule, batch: list[Tensor], *_: int) -> None:
        if not _all_finite(batch):  # a sigmoid would make numbers of infinities
            raise _NotFiniteError(f"{self._where()} holds a value that is not finite")

    def on_before_backward(self, _trainer: Trainer, _net: LightningModule, loss: Tensor) -> None:
        self._record(loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(pl_module)
        loader: Iterable[list[Tensor]] = trainer.train_dataloader  # type: ignore[assignment]
        batches = [[part.to(pl_module.device) for part in batch] for batch in loader]
        epochs = 0
        # The Trainer leads an epoch that holds what is not finite, up to the batch that does.
        bare = all(map(_all_finite, batches))
        with _unlogged(pl_module):
            while bare and self.stopped_by == "budget" and not _saves(trainer, trainer.current_epoch + 1 + epochs):
                epochs += 1
                self._bare_epoch(pl_module, trainer.optimizers[0], batches)
                self._look(pl_module)
        _count(trainer, epochs, epochs * len(batches))
        trainer.should_stop = self.stopped_by != "budget"
        if self.stopped_by == "solved":
            self.bar.total = trainer.current_epoch + 1
        if trainer.should_stop or _saves(trainer, trainer.current_epoch + 1):
            self._save(trainer, pl_module)

    def _bare_epoch(self, net: LightningModule, optimizer: torch.optim.Optimizer, batches: list[list[Tensor]]) -> None:
        for i, batch in enumerate(batches):
            optimizer.zero_grad()
            loss: Tensor = net.training_step(batch, i)  # type: ignore[assignment]
            self._record(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _record(self, loss: Tensor) -> None:
        """Keep the loss of a step, before the step is taken."""
        value = loss.item()
        if not math.isfinite(value):
            raise _NotFiniteError(f"the loss of {self._where()} is {value}")
        self.losses.append(value)

    def _where(self) -> str:
        epoch, batch = divmod(self.steps_taken, self.batches)
        return f"batch {batch + 1} in epoch {epoch + 1}"

    @property
    def steps_taken(self) -> int:
        """Optimizer steps so far, those before a resume included."""
        return len(self.losses) + (self.state.steps if self.state else 0)

    def _look(self, net: LightningModule) -> None:
        """Decide after an epoch whether to go on, and move the bar."""
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
    """Let a module's ``log`` do nothing: no logger is attached, and it takes a third of the Trainer's step."""
    net.log = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del net.log


def _saves(trainer: Trainer, epochs: int) -> bool:
    """Whether the state after so many epochs is saved whatever else happens."""
    return epochs == trainer.max_epochs or epochs % EPOCHS_BETWEEN_CHECKPOINTS == 0


def _count(trainer: Trainer, epochs: int, batches: int) -> None:
    """Add epochs to the Trainer's counters, as they would be had its own loop led them; checkpoints hold them."""
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
    """Put Adam into the state that a checkpoint holds."""
    step = torch.tensor(float(state.steps))
    states = {
        i: {"step": step.clone(), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
        for i, (m, v) in enumerate(state.moments)
    }
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _resumed(net: SimpleNet, data: XORDataModule, resume: str | Path | Checkpoint, max_epochs: int) -> TrainingState:
    """Take the weights over from a checkpoint of the same run; return the rest of its state."""
    checkpoint = resume if isinstance(resume, Checkpoint) else read_checkpoint(resume, training=True)
    state = checkpoint.training
    if state is None:
        raise ValueError(f"{checkpoint.path} was read without training=True, but resume needs the state of training")
    given = {**net.hparams, "batch_size": data.hparams["batch_size"]}
    for name, value in {**checkpoint.arguments, "batch_size": state.batch_size}.items():
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
    """Train until XOR is solved with margin, or the epochs are used up.

    The first Ctrl-C, SIGTERM or SIGHUP ends the run after the epoch under way, with its state saved; the
    second ends it at once. A loss, prediction or state that is not finite ends it at that step; the
    checkpoint is then the last one before.

    Args:
        net: The network to train, in place.
        data: The loader of its batches.
        max_epochs: Passes over the four rows, those before a resume included; from 1 to 10⁷.
        device: As in ``resolve_device``.
        checkpoint_dir: Where checkpoints go; made if missing. Of those that this run writes the newest is kept,
            no other file is removed.
        resume: A checkpoint of the same network and batch size to go on from, or its path.

    Raises:
        KeyboardInterrupt: At the second Ctrl-C.
        OSError: If checkpoints cannot be read or written.
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no such device, ``max_epochs`` is out of range, or the checkpoint is damaged or
            belongs to another network.
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
    # `disable=None` keeps the bar to terminals.
    with tqdm(total=max_epochs, unit="epoch", disable=None) as bar, FirstSignal() as first_signal:
        watch = _Watch(bar, first_signal, directory, batches_per_epoch(data.hparams["batch_size"]), state)
        with warnings.catch_warnings():
            # Whoever chooses the CPU knows of the GPU.
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
            # Lightning's own ways out: status 0 at a SIGTERM before training begins, from 2.5 on 1 at a Ctrl-C.
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
