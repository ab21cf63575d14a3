"""Resume a run from a checkpoint, bit for bit as if it had never stopped, for any LightningModule and DataLoader.

Lightning saves weights, moments and counters, but no generators, and after a resume in the middle of an epoch it
repeats the epoch's first batches. Here a callback saves and restores the generators and corrects Lightning's counters,
and a loader returns to its position: it starts the epoch again with the generators of that time, and discards the
batches that were already trained on.

References:
    PyTorch documentation, "Reproducibility" and "Randomness in multi-process data loading".
"""

import math
import random
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

_Batch_co = TypeVar("_Batch_co", covariant=True)

# The state of each library's generator, as the library returns it; `own` lists those of the loader.
_Generators = dict[str, Any]

_WORDS = 624  # of 32 bits, in the state of a Mersenne Twister


class ResumableDataLoader(DataLoader[_Batch_co]):
    """A DataLoader that can resume in the middle of an epoch, also in a new process.

    It takes the arguments of a DataLoader and yields the same batches. To resume, it fetches the first batches of the
    epoch again and discards them, so that samplers, workers and augmentations draw the same numbers again; that
    takes as long as fetching them.

    It restores the generators of torch on the CPU and on the current CUDA device, NumPy's global one, Python's
    ``random``, and the ``generator`` of the loader, of its sampler and of its batch sampler. Other state that a data
    set or a sampler keeps between epochs is not restored.
    """

    _start: _Generators | None = None  # before the epoch's first draw
    _batches = 0  # yielded in this epoch
    _resume: tuple[_Generators, int] | None = None

    def __iter__(self) -> Iterator[_Batch_co]:  # type: ignore[override]
        # A generator function, so that nothing is drawn before the first batch is requested: versions of Lightning
        # differ in when and how often they call `iter`.
        own = _own_generators(self)
        now = _capture(own)
        self._start, self._batches = self._resume or (now, 0)
        self._resume, skip = None, self._batches
        if skip:
            _restore(self._start, own)
        batches = super().__iter__()
        for _ in range(skip):
            next(batches, None)
        if skip:
            _restore(now, own)
        for batch in batches:
            self._batches += 1
            yield batch
        self._start, self._batches = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's position in its epoch, as tensors and plain numbers.

        Returns:
            ``batches``, the number of batches yielded in this epoch; ``epoch_start``, the states of the generators
            before its first draw; ``own``, the current states of the generators of the loader and its samplers.
        """
        now = _capture(_own_generators(self))
        start, batches = self._resume or (self._start or now, self._batches)
        return {"batches": batches, "epoch_start": _encode(start), "own": now["own"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a state at the next iteration, whatever the states of the program's generators are then.

        Raises:
            ValueError: If an entry is not one that ``state_dict`` returns for this loader.
        """
        own, batches = _own_generators(self), _count(state_dict, "batches")
        start = _decode(_entry(state_dict, "epoch_start", dict), own)
        for generator, state in zip(own, _own_states(state_dict, own), strict=True):
            generator.set_state(state)
        self._start, self._batches = None, 0
        self._resume = (start, batches) if batches else None


class ExactResume(Callback):
    """Make ``Trainer.fit(ckpt_path=...)`` end with the same bits as an uninterrupted run.

    Weights, moments, counters, generators and the order of the rows are those of the uninterrupted run, provided that
    module, data, Trainer and versions are the same. The checkpoint may be saved at any hook at which a ModelCheckpoint
    saves, on an exception, or after ``fit``, and the order of the callbacks does not matter.

    The training loader must be one ``ResumableDataLoader`` with a length. Runs that cannot be resumed exactly are
    refused when training starts: those with several loaders or processes, accumulated gradients, manual optimization
    (and so several optimizers), persistent workers, schedulers that monitor a metric, loaders that are reloaded during
    training, or validation by wall time. Lightning before 2.2 still warns of a resume in the middle of an epoch.

    Two things are not restored: averages of logged values over the part of an epoch before the interruption, which
    Lightning does not save, and the position in a validation, which is run again from its start. Draws in a hook that
    Lightning calls again on resume, such as ``on_train_start``, are not undone.
    """

    _loaded: dict[str, Any] | None = None
    _loader: ResumableDataLoader[Any] | None = None  # of the run that has started
    _settled: _Generators  # after the last batch and the validation scheduled after it
    _unsettled = False  # since a validation has started that has not ended or was not scheduled
    _validated_at: int | None = None  # number of batches trained on before the last scheduled validation that has ended
    _limit_val_batches: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Forget an earlier run."""
        if stage == "fit":
            self._loaded = self._loader = self._validated_at = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Add the state here, because ``state_dict`` does not get the Trainer."""
        if self._loaded is not None:  # no batch has been trained on since it was loaded
            checkpoint["callbacks"][self.state_key] = self._loaded
        elif self._loader is not None:
            checkpoint["callbacks"][self.state_key] = self._state(trainer, self._loader)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Keep the state until the loader exists, and correct Lightning's counters before Lightning reads them.

        Raises:
            ValueError: If an entry of the state is not one that this callback saves.
        """
        if trainer.state.fn != "fit":
            return
        if self.state_key not in checkpoint["callbacks"]:
            rank_zero_warn(
                "The checkpoint was saved without ExactResume: the run resumes, but its bits will differ from those of "
                "an uninterrupted run."
            )
            return
        state = _entry(checkpoint["callbacks"], self.state_key, dict)
        for name in ("epoch", "batches", "batches_per_epoch"):
            _count(state, name)
        for name in ("validation_due", "validated"):
            _entry(state, name, bool)
        _correct_counters(checkpoint, state, stages=_reads_stages(trainer))
        self._loaded = state

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore generators, loader and loops; refuse a run that cannot be resumed exactly.

        Raises:
            MisconfigurationException: If the run cannot be resumed exactly.
            ValueError: If the state was not saved with this loader.
        """
        loader = _supported_loader(trainer, pl_module)
        if self._loaded is not None:
            self._resume(trainer, loader, self._loaded)
        self._loader = loader
        self._settle()

    def _resume(self, trainer: Trainer, loader: ResumableDataLoader[Any], state: dict[str, Any]) -> None:
        batches, per_epoch = state["batches"], state["batches_per_epoch"]
        if batches and per_epoch != trainer.num_training_batches:
            raise ValueError(
                f"batches_per_epoch is {per_epoch} in the checkpoint, but should be that of the training loader, "
                f"{trainer.num_training_batches}"
            )
        own = _own_generators(loader)
        now = _decode(_entry(state, "generators", dict), own)
        complete = batches == per_epoch
        position = {"batches": 0 if complete else batches, "epoch_start": state.get("epoch_start"), "own": now["own"]}
        loader.load_state_dict(position)
        _restore(now, own)
        if state["validated"]:
            self._validated_at = _batches(trainer)
        epoch_loop: Any = trainer.fit_loop.epoch_loop
        if not batches:
            epoch_loop.restarting = False  # with max_steps, Lightning would end the last epoch again
        elif _validation_is_pending(state):
            total = epoch_loop.val_loop.batch_progress.total
            total.ready = total.started = total.completed  # Lightning has read what `_correct_counters` set
        elif complete:
            epoch_loop.val_loop._has_run = True  # noqa: SLF001 - or Lightning would request another batch
        elif state["validated"]:
            # Lightning before 2.5 would validate again. The limit is not used otherwise before the next batch.
            self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        """Let the Trainer validate again after a resume that fails."""
        self._restore_limit(trainer)

    def _restore_limit(self, trainer: Trainer) -> None:
        if self._limit_val_batches is not None:
            trainer.limit_val_batches, self._limit_val_batches = self._limit_val_batches, None

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """End the resume: the loaded state no longer describes the run."""
        self._loaded = None
        self._restore_limit(trainer)

    def on_train_batch_end(self, *_: Any) -> None:
        """Keep the generators: a run that an exception ends in its next batch resumes from here."""
        self._settle()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Note that from now on the generators are not those between two batches."""
        if _is_training(trainer):
            self._unsettled = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the generators, unless the validation runs only because training stops in the middle of an epoch."""
        if _is_training(trainer) and _validation_is_due(trainer, trainer.current_epoch):
            self._validated_at = _batches(trainer)
            self._settle()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """End the resume, if the epoch had no batch left."""
        self._loaded = None
        trainer.fit_loop.epoch_loop.restarting = False  # Lightning 2.5 and later leaves it set

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Keep the generators: a validation or test may precede the saving of a checkpoint."""
        self._restore_limit(trainer)
        if not self._unsettled:
            self._settle()

    def _settle(self) -> None:
        loader: Any = self._loader
        self._settled, self._unsettled = _capture(_own_generators(loader)), False

    def _state(self, trainer: Trainer, loader: ResumableDataLoader[Any]) -> dict[str, Any]:
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        epoch: Any = trainer.fit_loop.epoch_progress.current
        batches, per_epoch = progress.processed, int(trainer.num_training_batches)
        ended = epoch.processed == epoch.started
        # Lightning also counts an epoch that was stopped in its middle, or before its first batch, as ended.
        stopping = trainer.should_stop or trainer.global_step == trainer.max_steps
        stopped = ended and stopping and batches < per_epoch
        if ended and not stopped:
            batches = 0
        epochs = max(0, epoch.processed - stopped)
        between_batches = trainer.state.fn == "fit" and progress.ready == progress.processed and not self._unsettled
        return {
            "epoch": epochs,
            "batches": batches,
            "batches_per_epoch": per_epoch,
            "validation_due": batches > 0 and _validation_is_due(trainer, epochs),
            "validated": self._validated_at == _batches(trainer),
            "generators": _encode(_capture(_own_generators(loader)) if between_batches else self._settled),
            "epoch_start": loader.state_dict()["epoch_start"],
        }


def _is_training(trainer: Trainer) -> bool:
    """Whether the Trainer is fitting, and not in its sanity check."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _batches(trainer: Trainer) -> int:
    """Return the number of batches that the run has trained on."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def _validation_is_due(trainer: Trainer, epoch: int) -> bool:
    """Whether a validation is scheduled after the batches trained on so far."""
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    interval: Any = trainer.val_check_batch
    every = trainer.check_val_every_n_epoch
    batches = _batches(trainer) if every is None else current.processed
    in_epoch = every is None or (epoch + 1) % every == 0
    return bool(trainer.enable_validation and in_epoch and batches % interval == 0)


def _validation_is_pending(state: dict[str, Any]) -> bool:
    """Whether a scheduled validation had not ended."""
    return bool(state["validation_due"] and not state["validated"])


def _reads_stages(trainer: Trainer) -> bool:
    """Whether Lightning infers from its counters at which hook a checkpoint was saved, as it does from 2.5 on."""
    return hasattr(trainer.fit_loop, "restarted_mid_epoch")


def _supported_loader(trainer: Trainer, net: LightningModule) -> ResumableDataLoader[Any]:
    """Return the training loader.

    Raises:
        MisconfigurationException: If it is not a ``ResumableDataLoader``, or the run cannot be resumed exactly.
    """
    loader: Any = trainer.train_dataloader
    if not isinstance(loader, ResumableDataLoader):
        raise MisconfigurationException(
            f"the training loader is a {type(loader).__name__}, but should be a simplenet.ResumableDataLoader for "
            "ExactResume; it takes the arguments of a DataLoader"
        )
    try:
        len(loader)
    except TypeError:
        raise MisconfigurationException(
            "the training loader has no length, but should have one for ExactResume: give its data set a __len__"
        ) from None
    options: Any = trainer
    needed = {
        "accumulate_grad_batches of the Trainer": (options.accumulate_grad_batches, 1),
        "reload_dataloaders_every_n_epochs of the Trainer": (options.reload_dataloaders_every_n_epochs, 0),
        "validation by wall time": (options.val_check_batch is None, False),
        "world_size of the Trainer": (options.world_size, 1),
        "automatic_optimization of the module": (net.automatic_optimization, True),
        "reduce_on_plateau of a scheduler": (any(c.reduce_on_plateau for c in trainer.lr_scheduler_configs), False),
        "persistent_workers of the training loader": (loader.persistent_workers, False),
    }
    for name, (value, expected) in needed.items():
        if value != expected:
            raise MisconfigurationException(f"{name} is {value}, but should be {expected} for ExactResume")
    return loader


def _correct_counters(checkpoint: dict[str, Any], state: dict[str, Any], *, stages: bool) -> None:
    """Set Lightning's counters to their values between two batches.

    The counters that Lightning saves depend on the hook at which it saves, and their meaning on its version.

    Args:
        checkpoint: The checkpoint that Lightning has loaded and will read; changed in place.
        state: The state that the callback saved.
        stages: The result of ``_reads_stages``.

    Raises:
        ValueError: If the counters are missing, or are not those of the state.
    """
    epochs, batches, per_epoch = state["epoch"], state["batches"], state["batches_per_epoch"]
    pending = _validation_is_pending(state)
    try:
        loops = checkpoint["loops"]["fit_loop"]
        epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        validation = loops["epoch_loop.val_loop.batch_progress"]
        processed = batch["current"]["processed"]
        for part in ("total", "current"):
            begun = epochs + (batches > 0 and (stages or part == "current"))
            epoch[part] = dict.fromkeys(epoch[part], epochs) | {"ready": begun, "started": begun}
            batch[part] = dict.fromkeys(batch[part], batch[part]["processed"])
            steps = optimizer["step"][part]["completed"]
            for counter in optimizer.values():
                counter[part] = dict.fromkeys(counter[part], steps)
        # A pending validation runs before the next batch, and Lightning counts it as a batch.
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = batch["total"]["processed"] - pending
        if pending:
            done = validation["total"]["completed"]
            validation["total"] = dict.fromkeys(validation["total"], done)
            validation["current"] = dict.fromkeys(validation["current"], 0)
            if stages:  # Lightning runs a validation that had started before it requests a batch
                validation["total"] |= {"ready": done + 1, "started": done + 1}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"loops should hold Lightning's counters, but reading them failed: {error!r}") from error
    if batches > per_epoch or batches not in {0, processed}:
        raise ValueError(f"batches is {batches}, but should be 0 or Lightning's count of {processed}, of {per_epoch}")


def _own_generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Return the generators of a loader and its samplers, each once."""
    batch_sampler = loader.batch_sampler
    holders = (loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    generators = (getattr(holder, "generator", None) for holder in holders)
    return list(dict.fromkeys(generator for generator in generators if isinstance(generator, torch.Generator)))


def _capture(own: list[torch.Generator]) -> _Generators:
    states = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - augmentations draw from the global generator
        "random": random.getstate(),
        "own": [generator.get_state() for generator in own],
    }
    if torch.cuda._initialized:  # noqa: SLF001 - `is_initialized` is not typed
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: _Generators, own: list[torch.Generator]) -> None:
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["random"])
    for generator, state in zip(own, states["own"], strict=True):
        generator.set_state(state)
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _encode(states: _Generators) -> dict[str, Any]:
    """Turn the states into tensors and plain numbers, which ``torch.load`` reads with ``weights_only=True``."""
    _, words, position, has_gauss, gauss = states["numpy"]
    _, (*internal, index), next_gauss = states["random"]
    twisters = _twister("numpy", words.tolist(), position, gauss if has_gauss else None)
    twisters |= _twister("random", internal, index, next_gauss)
    return {name: state for name, state in states.items() if name not in {"numpy", "random"}} | twisters


def _twister(name: str, words: list[int], position: int, gauss: float | None) -> dict[str, Any]:
    return {f"{name}_words": torch.tensor(words), f"{name}_position": position, f"{name}_gauss": gauss}


def _decode(state: dict[str, Any], own: list[torch.Generator]) -> _Generators:
    """Decode the result of ``_encode``, for a loader with these generators.

    Raises:
        ValueError: If an entry is not the state of a generator.
    """
    words, position, gauss = _read_twister(state, "numpy")
    decoded: _Generators = {
        "torch": _torch_state(state.get("torch"), "torch", torch.device("cpu")),
        "numpy": ("MT19937", np.array(words), position, int(gauss is not None), gauss or 0.0),
        "own": _own_states(state, own),
    }
    words, position, gauss = _read_twister(state, "random")
    decoded["random"] = (3, (*words, position), gauss)
    if "cuda" in state:
        if not torch.cuda.is_available():
            raise ValueError("cuda is the state of a CUDA generator, but should be missing without a CUDA device")
        decoded["cuda"] = _torch_state(state["cuda"], "cuda", torch.device("cuda"))
    return decoded


def _own_states(state: dict[str, Any], own: list[torch.Generator]) -> list[Tensor]:
    states = _entry(state, "own", list)
    if len(states) != len(own):
        raise ValueError(f"own holds {len(states)} states, but should hold one for each of {len(own)} generators")
    return [_torch_state(one, "own", generator.device) for one, generator in zip(states, own, strict=True)]


def _torch_state(value: Any, name: str, device: torch.device) -> Tensor:
    try:
        torch.Generator(device).set_state(value)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} should be the state of a generator on {device}, but is not: {error}") from error
    state: Tensor = value
    return state


def _read_twister(state: dict[str, Any], name: str) -> tuple[list[int], int, float | None]:
    words: Tensor = _entry(state, f"{name}_words", Tensor)
    position, gauss = _count(state, f"{name}_position"), state.get(f"{name}_gauss")
    dense = words.layout == torch.strided and words.device.type == "cpu"
    expected = dense and words.dtype == torch.int64 and words.shape == (_WORDS,)
    if not (expected and 0 <= words.min() <= words.max() < 2**32):
        raise ValueError(f"{name}_words should be {_WORDS} numbers of 32 bits, as int64")
    if position > _WORDS:  # NumPy would read memory beyond the words
        raise ValueError(f"{name}_position is {position}, but should be at most {_WORDS}")
    if gauss is not None and not (isinstance(gauss, float) and math.isfinite(gauss)):
        raise ValueError(f"{name}_gauss is {gauss!r}, but should be None or a finite float")
    return words.tolist(), position, gauss


def _count(state: dict[str, Any], name: str) -> int:
    value: int = _entry(state, name, int)
    if isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {value!r}, but should be a count")
    return value


def _entry(state: dict[str, Any], name: str, type_: type) -> Any:
    value = state.get(name)
    if not isinstance(value, type_):
        found, expected = type(value).__name__, type_.__name__
        raise ValueError(f"{name} is of type {found}, but should be of type {expected}")  # noqa: TRY004 - of a file
    return value
