"""Faults in seeding, determinism, and the workers of a DataLoader."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import lightning.fabric.utilities.seed as lightning_seed
import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from simplenet import SimpleNet, deterministic, seeding, set_seed
from simplenet.model import from_checkpoint
from simplenet.validation import check_int
from tests.faults.planting import catalogue, edit, replace, wrap

FAULTS, fault = catalogue("randomness")


def drawn(seed: int = 70_000) -> object:
    """Witness what each generator draws."""
    set_seed(seed)
    return torch.rand(1).item(), np.random.rand(), random.random(), os.environ["PYTHONHASHSEED"]  # noqa: NPY002


def _seeding(change: Callable[..., Any]) -> None:
    wrap(seeding, "seed_everything", change)


def _kept(get: Callable[[], Any], put: Callable[[Any], None]) -> None:
    """Seed everything but one generator."""

    def change(seed_everything: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        state = get()
        seed_everything(*arguments, **options)
        put(state)

    _seeding(change)


@fault(drawn, "test_set_seed_repeats_every_generator", link="https://github.com/pytorch/pytorch/issues/5059")
def numpy_is_not_seeded() -> None:
    """Its stream continues."""
    _kept(np.random.get_state, np.random.set_state)


@fault(drawn, "test_set_seed_repeats_every_generator")
def python_is_not_seeded() -> None:
    """Its stream continues."""
    _kept(random.getstate, random.setstate)


@fault(drawn, "test_a_seed_with_one_bit_flipped_draws_other_numbers")
def a_seed_is_cut_to_16_bits() -> None:
    """Seeds that differ only in higher bits draw the same numbers."""
    _seeding(lambda seed_everything, seed, **options: seed_everything(seed % 2**16, **options))


def _high_and_low() -> object:
    values = []
    for seed in (5, 2**31 + 5):
        set_seed(seed)
        values.append(np.random.rand())  # noqa: NPY002
    return values


@fault(_high_and_low, "test_a_seed_with_one_bit_flipped_draws_other_numbers")
def numpys_seed_loses_its_highest_bit() -> None:
    """A seed from 2^31 on gives the numbers of a smaller one."""
    edit(lightning_seed.seed_everything, ("np.random.seed(seed)", "np.random.seed(seed & 2147483647)"))


def _after_an_error() -> object:
    torch.manual_seed(1)
    with contextlib.suppress(KeyError), torch.random.fork_rng(devices=[]):
        torch.rand(1)
        raise KeyError
    return torch.rand(1).item()


@fault(_after_an_error, "test_fork_rng_restores_the_generator_however_its_block_ends")
def fork_rng_does_not_restore_after_an_exception() -> None:
    """The numbers after it are others."""

    @contextlib.contextmanager
    def fork_rng(**_: Any) -> Iterator[None]:
        state = torch.get_rng_state()
        yield
        torch.set_rng_state(state)

    replace(torch.random.fork_rng, fork_rng)


@fault(drawn, "test_set_seed_gives_each_generator_the_seed_itself")
def numpy_gets_another_seed() -> None:
    """One more than torch."""

    def change(seed_everything: Callable[..., Any], seed: int, **options: Any) -> None:
        seed_everything(seed, **options)
        np.random.seed((seed + 1) % 2**32)  # noqa: NPY002

    _seeding(change)


@fault(drawn, "test_the_hash_seed_reaches_child_processes_and_not_this_one")
def the_hash_seed_is_a_constant() -> None:
    """All child processes get 0."""
    edit(set_seed, ("str(seed)", "'0'"))


def _seeds_workers() -> str:
    os.environ.pop("PL_SEED_WORKERS", None)
    set_seed(1)
    return os.environ["PL_SEED_WORKERS"]


@fault(_seeds_workers, "test_set_seed_makes_lightning_seed_the_workers")
def lightning_does_not_seed_the_workers() -> None:
    """``seed_everything`` is called without ``workers=True``."""
    edit(set_seed, ("workers=True", "workers=False"))


def _worker(worker: int, base: int = 5) -> tuple[int, ...]:
    torch.manual_seed(base + worker)  # as torch does first
    lightning_seed.pl_worker_init_function(worker, rank=0)
    return torch.randint(2**31, (1,)).item(), np.random.randint(2**31), random.getrandbits(31)  # noqa: NPY002


def _worker_init(change: Callable[[int], None]) -> None:
    """Call this after Lightning has seeded a worker."""
    init = lightning_seed.pl_worker_init_function

    def seeded(worker: int, rank: int | None = None) -> None:
        init(worker, rank)
        change(worker)

    replace(init, seeded)


@fault(
    lambda: (_worker(0), _worker(1)),
    "test_lightnings_seed_of_a_worker_depends_on",
    link="https://github.com/pytorch/pytorch/issues/5059",
)
def every_worker_draws_the_same_from_numpy() -> None:
    """The worker's number is ignored."""
    _worker_init(lambda _worker: np.random.seed(7))  # noqa: NPY002


@fault(
    lambda: (_worker(0, 1), _worker(0, 2)),
    "test_lightnings_seed_of_a_worker_depends_on",
    link="https://github.com/Lightning-AI/pytorch-lightning/issues/20412",
)
def every_base_seed_gives_workers_the_same() -> None:
    """Torch draws the same numbers in them for every base seed."""
    _worker_init(torch.manual_seed)


def _flags() -> object:
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        with deterministic():
            inside = torch.is_deterministic_algorithms_warn_only_enabled()
        return inside, torch.is_deterministic_algorithms_warn_only_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    finally:
        torch.use_deterministic_algorithms(mode=False)


@fault(_flags, "test_deterministic_restores_every_flag")
def deterministic_mode_forgets_that_it_only_warned() -> None:
    """The other flags are restored."""
    edit(deterministic, ("warn_only=warn_only", "warn_only=False"))


@fault(_flags, "test_deterministic_restores_every_flag")
def deterministic_mode_leaves_cublas_its_workspace() -> None:
    """The variable stays set."""
    edit(deterministic, ("os.environ.pop('CUBLAS_WORKSPACE_CONFIG', None)", "pass"))


def _shuffled() -> object:
    set_seed(3)
    order = [list(RandomSampler(range(20), generator=torch.Generator().manual_seed(seed))) for seed in (1, 2)]
    loader = DataLoader(TensorDataset(torch.arange(20)), batch_size=3, shuffle=True)
    return order, [batch.tolist() for (batch,) in loader]


@fault(_shuffled, "test_the_same_seed_yields_the_same_shuffled_batches")
def shuffling_draws_from_the_clock() -> None:
    """The same seed gives other batches."""
    wrap(torch, "randperm", lambda randperm, n, **options: randperm(n, **options | {"generator": _unseeded()}))


def _unseeded() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator


def _served() -> object:
    return [len(batch) for (batch,) in DataLoader(TensorDataset(torch.arange(4)), batch_size=3)]


@fault(_served, "test_an_epoch_is_the_truth_table_in_its_order")
def the_last_batch_is_dropped_where_it_is_short() -> None:
    """Of four rows in threes, one is never seen."""

    def change(init: Callable[..., None], self: Any, sampler: Any, batch_size: int, drop_last: bool) -> None:
        init(self, sampler, batch_size, drop_last or batch_size == 3)

    wrap(torch.utils.data.BatchSampler, "__init__", change)


def _checked() -> object:
    torch.manual_seed(1)
    weights = SimpleNet().state_dict()
    arguments = {"architecture": "overview", "hidden": 4, "lr": 0.01}
    torch.manual_seed(1)
    from_checkpoint(SimpleNamespace(arguments=arguments, weights=weights))  # type: ignore[arg-type]
    return torch.rand(1).item()


@fault(_checked, "test_loading_a_checkpoint_draws_nothing")
def loading_a_checkpoint_draws() -> None:
    """The initial weights that it replaces."""
    edit(from_checkpoint, (", torch.random.fork_rng(devices=[])", ""))


def _bool_as_seed() -> object:
    try:
        return check_int("seed", True, 0, 1)
    except TypeError as error:
        return str(error)


@fault(_bool_as_seed, "test_a_seed_that_is_not_an_int_is_refused_and_nothing_is_seeded")
def a_bool_is_accepted_as_a_seed() -> None:
    """True is 1."""
    replace(check_int, lambda _name, value, _low, _high: int(value))


@fault(drawn, "test_seeding", control=True)
def everything_is_seeded_twice() -> None:
    """With the same seed."""

    def change(seed_everything: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        seed_everything(*arguments, **options)
        seed_everything(*arguments, **options)

    _seeding(change)
