"""Training under Lightning's Trainer, from the first step to the truth table.

The Trainer's own way is kept: its optimizer, its batches, its checkpoints, its bits. What is added is a
stop once XOR is solved, a stop that Ctrl-C can ask for, and one progress bar over the whole run.
What is left out is its loop: it costs more than the step does, so it leads the first epoch of a hundred,
and the others are taken by a bare loop that leaves behind what the Trainer's would have.
"""

import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from tqdm import tqdm

from simplenet.data import XORDataModule, xor
from simplenet.environment import resolve_device
from simplenet.model import SimpleNet, mse_loss

# Training stops once every prediction is this near its target; to be right, 1/2 is near enough.
MARGIN = 0.1

# Saving costs as much as a training step, and an epoch is at most four.
EPOCHS_BETWEEN_CHECKPOINTS = 100


@dataclass(frozen=True)
class TrainingRun:
    """What came of a run.

    Attributes:
        net: The trained network, on the CPU.
        predictions: Its output for each row of the truth table.
        losses: The loss of each step of this run, oldest first.
        steps: Optimizer steps taken, those before a resume included.
        seconds: Wall time of the training loop.
        checkpoint: Where the last state was saved.
        stopped_by: ``solved``, ``budget``, ``interrupt`` or ``divergence``.
    """

    net: SimpleNet
    predictions: Float[Tensor, "4 1"]
    losses: list[float]
    steps: int
    seconds: float
    checkpoint: Path
    stopped_by: str

    @property
    def mse(self) -> float:
        """The MSE over the truth table."""
        return mse_loss(self.predictions, xor()[1]).item()

    @property
    def right(self) -> list[bool]:
        """Whether each prediction is on its target's side of 1/2."""
        return [abs(error) < 1 / 2 for error in (self.predictions - xor()[1]).flatten().tolist()]

    @property
    def solved(self) -> bool:
        """Whether all four predictions are right."""
        return all(self.right)


class _Watch(Callback):
    """Record the losses, move the bar, and stop a run that is solved, interrupted or lost.

    The end of an epoch that the Trainer has led is followed by bare ones, up to the next checkpoint.
    """

    def __init__(self, bar: "tqdm[Any]", interrupted: threading.Event) -> None:
        self.bar = bar
        self.interrupted = interrupted
        self.losses: list[Tensor] = []
        self.stopped_by = "budget"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.inputs, self.targets = (rows.to(pl_module.device) for rows in xor())
        self.bar.initial = self.bar.n = trainer.current_epoch

    def on_train_batch_end(self, _trainer: Trainer, _net: LightningModule, outputs: Any, *_: Any) -> None:  # noqa: ANN401
        self.losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(pl_module)
        loader: Iterable[list[Tensor]] = trainer.train_dataloader  # type: ignore[assignment]
        batches = [[part.to(pl_module.device) for part in batch] for batch in loader]
        epochs = 0
        with _unlogged(pl_module):
            while self.stopped_by == "budget" and not _saves(trainer, trainer.current_epoch + 1 + epochs):
                self._bare_epoch(pl_module, trainer.optimizers[0], batches)
                epochs += 1
                self._look(pl_module)
        _count(trainer, epochs, epochs * len(batches))
        trainer.should_stop = self.stopped_by != "budget"
        if self.stopped_by == "solved":
            self.bar.total = trainer.current_epoch + 1

    def _bare_epoch(self, net: LightningModule, optimizer: torch.optim.Optimizer, batches: list[list[Tensor]]) -> None:
        for i, batch in enumerate(batches):
            optimizer.zero_grad()
            loss: Tensor = net.training_step(batch, i)  # type: ignore[assignment]
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.losses.append(loss.detach())

    def _look(self, net: LightningModule) -> None:
        """Decide after an epoch whether to go on, and move the bar."""
        with torch.no_grad():
            errors: Tensor = net(self.inputs) - self.targets
        farthest = errors.abs().max().item()
        if farthest < MARGIN:
            self.stopped_by = "solved"
        elif not math.isfinite(farthest):
            self.stopped_by = "divergence"
        elif self.interrupted.is_set():
            self.stopped_by = "interrupt"
        self.bar.set_postfix(mse=f"{errors.square().mean().item():.2e}", refresh=False)
        self.bar.update()


@contextmanager
def _unlogged(net: LightningModule) -> Iterator[None]:
    """Let a module's ``log`` do nothing: nobody listens, and it takes a third of the Trainer's step."""
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


class _Saver(ModelCheckpoint):
    """Save every hundredth epoch and the last, whichever it is; keep the newest."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop or _saves(trainer, trainer.current_epoch + 1):
            super().on_train_epoch_end(trainer, pl_module)


def train(  # noqa: PLR0913 - the parameters of a run
    net: SimpleNet,
    data: XORDataModule,
    *,
    max_epochs: int,
    device: str = "auto",
    checkpoint_dir: str | Path = "checkpoints",
    resume: str | Path | None = None,
) -> TrainingRun:
    """Train until XOR is solved with margin, or the epochs are used up.

    The first Ctrl-C ends the run after the epoch under way; the second ends it at once.

    Args:
        net: The network to train, in place.
        data: The loader of its batches.
        max_epochs: Passes over the four rows, those before a resume included.
        device: As in ``resolve_device``.
        checkpoint_dir: Where checkpoints go; made if missing.
        resume: A checkpoint of the same network to go on from.

    Raises:
        OSError: If checkpoints cannot be written.
        ValueError: If there is no such device.
    """
    Path(checkpoint_dir).mkdir(parents=True, exist_ok=True)
    target = resolve_device(device)
    saver = _Saver(str(checkpoint_dir), filename="{epoch}-{step}", save_on_train_epoch_end=True)
    # `disable=None` keeps the bar to terminals.
    with tqdm(total=max_epochs, unit="epoch", disable=None) as bar, _interruptible() as interrupted:
        watch = _Watch(bar, interrupted)
        trainer = Trainer(
            accelerator=target.type,
            devices=[target.index or 0] if target.type == "cuda" else 1,
            max_epochs=max_epochs,
            callbacks=[watch, saver],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start = time.perf_counter()
        trainer.fit(net, datamodule=data, ckpt_path=resume)
        seconds = time.perf_counter() - start
    net.cpu()
    with torch.no_grad():
        predictions: Tensor = net(xor()[0])
    return TrainingRun(
        net=net,
        predictions=predictions,
        losses=torch.stack(watch.losses).tolist(),
        steps=trainer.global_step,
        seconds=seconds,
        checkpoint=Path(checkpoint_dir) / Path(saver.best_model_path).name,
        stopped_by=watch.stopped_by,
    )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request; let the second through."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread may handle signals
        return
    handler = signal.getsignal(signal.SIGINT)

    def request(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, handler)

    signal.signal(signal.SIGINT, request)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, handler)
