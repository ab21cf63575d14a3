"""Thousands of seeds trained at once, so that "SimpleNet learns XOR" becomes a number.

A convergence test on one lucky seed proves nothing. Here replica i starts from the very bits that
``set_seed(i); SimpleNet()`` starts from, sees the same batches in the same order and takes the
same Adam steps; from the same state, one step differs from the single network's by roundings only.

The seed is the last, contiguous axis of every tensor, so that one vector instruction serves several
networks, and the gradient is written by hand, so that torch can compile the whole step. Networks
need nothing from each other: a chunk of them is trained from the first step to the last, and what is
compiled for the CPU trains one chunk in each thread.

References:
    The notebook, §4 to §4.3; ``simplenet.reference`` has the same formulas for one network.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parameters_to_vector
from tqdm import tqdm

from simplenet.data import MAX_BATCH_SIZE, xor
from simplenet.environment import TORCH, resolve_device
from simplenet.formulas import CORRECTED, MAX_STEPS, Formulas, compile_whole, corrections, loop
from simplenet.model import ARCHITECTURES, Architecture, SimpleNet
from simplenet.mt19937 import UniformCalls, draw
from simplenet.seeding import check_seeds
from simplenet.validation import MAX_HIDDEN, MAX_LR, check_choice, check_float, check_int, check_type

NEVER = -1  # where a step is asked for: none

# Networks trained together. Compiled for a CPU, their state stays in the cache; elsewhere an operation
# has to be worth its launch. The last chunk is filled up, and the widths are multiples of every vector's,
# so that a seed meets the same instructions wherever it is: its bits do not depend on the other networks of its chunk.
_WIDTH = {"compiled": 1024, "eager": 2048, "cuda": 2**17}

# Numbers in a tensor that holds a weight of every network: 1 GiB in float32. A run needs eleven times as much.
MAX_WEIGHTS = 2**28

# Steps in one call of the compiled loop; Ctrl-C is heard between calls.
_BLOCK = 1000


class State(NamedTuple):
    """Networks in training.

    Attributes:
        weights: The parameters of each, in the order of ``SimpleNet.parameters()``.
        m: Adam's first moments.
        v: Adam's second moments.
        since: The number of steps after which all four rows were right, and have been since; or ``NEVER``.
    """

    weights: Float[Tensor, "parameters seeds"]
    m: Float[Tensor, "parameters seeds"]
    v: Float[Tensor, "parameters seeds"]
    since: Int[Tensor, " seeds"]


def fresh(weights: Float[Tensor, "parameters seeds"]) -> State:
    """Return the state of networks that have taken no step."""
    never = torch.full(weights.shape[1:], NEVER, device=weights.device)
    return State(weights, torch.zeros_like(weights), torch.zeros_like(weights), never)


@dataclass(frozen=True)
class Ensemble:
    """What came of many seeds.

    A network is solved while all four predictions are on their target's side of 1/2. It can lose
    that again: in batches of one, some networks do. What counts is the end.

    Attributes:
        seeds: The seed of each network.
        solved_at: The number of steps after which it was solved and stayed so to the last step;
            ``NEVER`` for a network that is not solved after the last step.
        loss: The MSE over the truth table after the last step.
        weights: The parameters after the last step, as ``parameters_to_vector`` orders them.
        fallback: Why the steps were not compiled although that was asked for, or ``None``.
    """

    seeds: Int[Tensor, " seeds"]
    solved_at: Int[Tensor, " seeds"]
    loss: Float[Tensor, " seeds"]
    weights: Float[Tensor, "seeds parameters"]
    fallback: str | None

    @property
    def solved(self) -> Bool[Tensor, " seeds"]:
        """Whether each network is solved after the last step."""
        return self.solved_at != NEVER


def most_networks(hidden: int) -> int:
    """Return how many networks of this hidden width may be trained: ``MAX_WEIGHTS`` numbers in all."""
    return MAX_WEIGHTS // (4 * hidden + 1)


def initial_weights(
    seeds: Sequence[int], architecture: Architecture = "overview", hidden: int = 4
) -> Float[Tensor, "parameters seeds"]:
    """Draw what ``set_seed(seed); SimpleNet(architecture, hidden)`` starts from, bit for bit.

    Args:
        seeds: From 0 to 2³² - 1 each, as many as ``most_networks`` says.
        architecture: As for ``SimpleNet``.
        hidden: As for ``SimpleNet``.

    Returns:
        A column for each seed, in torch's default dtype; the generator is given back as it was.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no seed or too many, or an argument is out of range.
    """
    architecture = check_choice("architecture", architecture, ARCHITECTURES)
    hidden = check_int("hidden", hidden, 1, MAX_HIDDEN)
    seeds = check_seeds(seeds, most_networks(hidden))
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeds[0])
        with UniformCalls() as draws:
            net = SimpleNet(architecture, hidden)
    first = parameters_to_vector(net.parameters()).detach()
    weights = draw(seeds, draws.calls, first.dtype)
    # They differ if a torch draws in another way than those that this was tested with.
    return weights if torch.equal(weights[:, 0], first) else _one_by_one(seeds, net)


def _one_by_one(seeds: Sequence[int], net: SimpleNet) -> Float[Tensor, "parameters seeds"]:
    """Draw as SimpleNet's constructor draws, without the cost of its modules."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        weights = torch.empty(len(seeds), parameters_to_vector(net.parameters()).numel())
        for seed, row in zip(seeds, weights, strict=True):
            torch.default_generator.manual_seed(seed)
            net.input_layer.reset_parameters()
            net.output_layer.reset_parameters()
            row.copy_(parameters_to_vector(net.parameters()).detach())
    return weights.T.contiguous()


def check_schedule(batch_size: object, steps: object, lr: object) -> tuple[int, int, float]:
    """Return the arguments of ``schedule``, which raises the same errors."""
    return (
        check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE),
        check_int("steps", steps, 1, MAX_STEPS),
        check_float("lr", lr, 0.0, MAX_LR),
    )


def schedule(batch_size: int, steps: int, lr: float) -> Float[Tensor, "steps 6"]:
    """Tabulate what differs from step to step but not from seed to seed.

    Args:
        batch_size: Rows in a batch, in the order of ``xor_dataloader``.
        steps: Optimizer steps, from 1 to ``MAX_STEPS``, for which the table takes 384 MiB in float32.
        lr: Learning rate of Adam, as for ``SimpleNet``.

    Returns:
        A row for each step: the signed step size ``-lr / (1 - β1ᵗ)``, the square root of the second
        bias correction, and for each row of the truth table ``2 / n`` if it is one of the batch's
        ``n``, else 0.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
    """
    batch_size, steps, lr = check_schedule(batch_size, steps, lr)
    table = torch.empty(steps, 6)
    changing = min(steps, CORRECTED)
    table[:changing, :2] = torch.tensor([corrections(t, lr) for t in range(1, changing + 1)])
    table[changing:, :2] = table[changing - 1, :2]
    batches = torch.split(torch.arange(4), batch_size)
    for i, batch in enumerate(batches):
        table[i :: len(batches), 2:] = torch.tensor([2 / len(batch) if row in batch else 0.0 for row in range(4)])
    return table


class Step:
    """One optimizer step of many networks: forward, backward by the chain rule, Adam.

    Args:
        architecture: As for ``SimpleNet``.
        hidden: As for ``SimpleNet``.
        device: Where the networks are; their dtype is torch's default.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If it is out of range.
    """

    def __init__(self, architecture: Architecture, hidden: int, device: torch.device) -> None:
        self.formulas = Formulas(architecture, hidden)
        check_type("device", device, torch.device)
        inputs, targets = (rows.to(device) for rows in xor())
        # Memory of their own: a compiled loop refuses what overlaps.
        self.x1, self.x2 = (column.clone().reshape(4, 1, 1) for column in inputs.unbind(1))
        self.y = targets

    def forward(
        self, weights: Float[Tensor, "parameters seeds"]
    ) -> tuple[Float[Tensor, "4 hidden seeds"], Float[Tensor, "4 seeds"]]:
        """Return what the hidden layer puts out for each row of the truth table, and the predictions."""
        return self.formulas.forward(weights, self.x1, self.x2)

    def solved_since(
        self, t: Int[Tensor, ""], since: Int[Tensor, " seeds"], y_hat: Float[Tensor, "4 seeds"]
    ) -> Int[Tensor, " seeds"]:
        """Bring ``State.since`` up to date with the predictions after ``t`` steps."""
        right = ((y_hat - self.y).abs() < 1 / 2).all(0)
        return torch.where(right, torch.where(since == NEVER, t, since), NEVER)

    def __call__(self, t: Int[Tensor, ""], state: State, rows: Float[Tensor, "block 6"]) -> tuple[Tensor, State]:
        """Take the step after the first ``t``.

        Args:
            t: Steps taken so far, a count.
            state: What they have led to.
            rows: The block of ``schedule`` that this step is in.

        Returns:
            ``t + 1``, and the state then.
        """
        weights, m, v, since = state
        row = rows.index_select(0, t.reshape(1) % _BLOCK).squeeze(0)
        step_size, correction, share = row[0], row[1], row[2:, None]
        h, y_hat = self.forward(weights)
        since = self.solved_since(t, since, y_hat)

        g = self.formulas.gradient(weights, self.x1, self.x2, h, y_hat, share * (y_hat - self.y))
        weights, m, v = self.formulas.adam(weights, m, v, g, step_size, correction)
        return t + 1, State(weights, m, v, since)


_Advance = Callable[[Tensor, State, Tensor], tuple[Tensor, State]]  # a Step, or one compiled

# Runs a state from step ``t`` up to, and not including, step ``end``, inside one block of the schedule.
_Run = Callable[[Tensor, Tensor, State, Tensor], State]


def _loop(step: _Advance) -> _Run:
    """Take the steps one by one."""

    def run(t: Tensor, end: Tensor, state: State, rows: Tensor) -> State:
        for _ in range(int(end - t)):
            t, state = step(t, state, rows)
        return state

    return run


@cache
def _compiled(architecture: Architecture, hidden: int, device: torch.device, dtype: torch.dtype) -> _Run:
    """Compile the step and the loop around it, but on CUDA the step alone where a network does not fit in a thread.

    The CPU's loop uses one thread and lets go of the interpreter, so that chunks run side by side
    and no step waits for another thread.
    """
    if device.type == "cuda" and dtype == torch.float32 and TORCH >= (2, 4):  # the first whose Triton divides exactly
        from simplenet import triton_ensemble

        if hidden <= triton_ensemble.MAX_HIDDEN:
            return partial(triton_ensemble.run, architecture, hidden)
    step = Step(architecture, hidden, device)

    def advance(t: Tensor, state: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, State]:
        return step(t, State(*state), rows)

    if device.type != "cpu":
        return _loop(compile_whole(advance, {}))
    run = compile_whole(loop(advance), {"cpp_wrapper": True, "cpp.threads": 1})
    return lambda t, end, state, rows: State(*run(t, end, tuple(state), rows))


@dataclass(frozen=True)
class _Training:
    """What the chunks of a run have in common."""

    run: _Run
    width: int
    step: Step
    rows: Float[Tensor, "steps 6"]
    place: torch.device
    stop: threading.Event

    def start(self, columns: Float[Tensor, "parameters seeds"]) -> State:
        """Fill a chunk up with its own columns, over and over, and remember nothing yet."""
        return fresh(columns[:, torch.arange(self.width) % columns.shape[1]].to(self.place))

    def warm(self, columns: Float[Tensor, "parameters seeds"]) -> None:
        """Take a step and discard it, so that whatever compiles does so now: on CUDA not before it is called."""
        with torch.no_grad():
            t, end = (torch.tensor(limit, device=self.place) for limit in (0, 1))
            self.run(t, end, self.start(columns), self.block(0))

    def block(self, begin: int) -> Float[Tensor, "block 6"]:
        """Cut a block out of the schedule; past the end there is nothing, and nothing that reads it."""
        rows = self.rows[begin : begin + _BLOCK]
        return functional.pad(rows, (0, 0, 0, _BLOCK - len(rows)))

    def __call__(self, columns: Float[Tensor, "parameters seeds"]) -> list[Tensor]:
        """Train a chunk from the first step to the last; return ``solved_at``, the loss and the weights."""
        steps = len(self.rows)
        with torch.no_grad():  # every thread has a grad mode of its own
            state = self.start(columns)
            for begin in range(0, steps, _BLOCK):
                if self.stop.is_set():
                    break
                t, end = (torch.tensor(limit, device=self.place) for limit in (begin, min(begin + _BLOCK, steps)))
                state = self.run(t, end, state, self.block(begin))
            _, y_hat = self.step.forward(state.weights)
            solved_at = self.step.solved_since(torch.tensor(steps, device=self.place), state.since, y_hat)
            loss = (y_hat - self.step.y).square().mean(0)
        return [result[: columns.shape[1]].cpu() for result in (solved_at, loss, state.weights.T)]


def _side_by_side(
    train: _Training, weights: Float[Tensor, "parameters seeds"], workers: int, *, progress: bool
) -> list[list[Tensor]]:
    """Train all chunks, in as many threads as there are workers; Ctrl-C ends them at their next block."""
    results = []
    pool = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=weights.shape[1], unit="seed", disable=None if progress else True) as bar:
            for result in pool.map(train, torch.split(weights, train.width, dim=1)):
                results.append(result)
                bar.update(len(result[0]))
    finally:
        train.stop.set()
        pool.shutdown(cancel_futures=True)
    return results


def _in_daemon(work: Callable[[], None]) -> None:
    """Work in a thread of its own, which nothing waits for once a signal has ended this one.

    Raises:
        Exception: What the work raises.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    done.result()


def _in_a_line(error: Exception) -> str:
    """Return the first line of an error, and the second where the first only leads to it, as torch.compile's does."""
    first, *others = f"{type(error).__name__}: {error}".splitlines()
    return f"{first} {others[0]}" if first.endswith(":") and others else first


def _cache_hint() -> str:
    """Say where compiled code is kept: torch takes it for this CPU's whichever CPU has left it there."""
    directory = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # torch sets it as it begins to compile
    return f" (remove {directory} if another kind of CPU has filled it)" if directory else ""


def train_ensemble(  # noqa: PLR0913 - the parameters of a run
    seeds: Sequence[int],
    architecture: Architecture = "overview",
    *,
    hidden: int = 4,
    batch_size: int = 4,
    steps: int = 2000,
    lr: float = 0.01,
    device: str = "cpu",
    compiled: bool = True,
    progress: bool = False,
) -> Ensemble:
    """Train a network from each seed, in torch's default dtype.

    Args:
        seeds: From 0 to 2³² - 1 each, as many as ``most_networks`` says; one may come twice.
        architecture: As for ``SimpleNet``.
        hidden: As for ``SimpleNet``, but at most so wide that a chunk, the networks that are trained together,
            has ``MAX_WEIGHTS`` numbers in a tensor: 32,767 on a CPU, 511 on CUDA.
        batch_size: Rows in a batch, as in ``xor_dataloader``.
        steps: Optimizer steps of each network, from 1 to ``MAX_STEPS``.
        lr: Learning rate of Adam, as for ``SimpleNet``.
        device: As in ``resolve_device``.
        compiled: Whether to compile the step: seconds once, and many times as fast from then on.
            Where torch cannot, the same step runs eagerly and ``fallback`` says why.
        progress: Whether to show a bar in a terminal.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, or there is no such device.
    """
    place = resolve_device(device)
    width = _WIDTH.get(place.type, _WIDTH["eager"])
    architecture = check_choice("architecture", architecture, ARCHITECTURES)
    hidden = check_int("hidden", hidden, 1, (MAX_WEIGHTS // width - 1) // 4)
    batch_size, steps, lr = check_schedule(batch_size, steps, lr)
    check_type("compiled", compiled, bool)
    check_type("progress", progress, bool)
    seeds = check_seeds(seeds, most_networks(hidden))
    weights = initial_weights(seeds, architecture, hidden)
    rows = schedule(batch_size, steps, lr).to(place)
    eager = Step(architecture, hidden, place)
    train = _Training(_loop(eager), width, eager, rows, place, threading.Event())
    workers, fallback = 1, None  # eager threads would wait for each other at the interpreter
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # each thread its chunk; threads that share an operation wait for each other
        if compiled:
            try:
                run = _compiled(architecture, hidden, place, torch.get_default_dtype())
                fast = replace(train, run=run, width=_WIDTH.get(place.type, _WIDTH["compiled"]))
                _in_daemon(lambda: fast.warm(weights))
                train, workers = fast, threads if place.type == "cpu" else 1
            except Exception as error:  # noqa: BLE001 - what torch.compile raises depends on what it lacks
                fallback = _in_a_line(error) + _cache_hint()
        results = _side_by_side(train, weights, workers, progress=progress)
    finally:
        torch.set_num_threads(threads)
    solved_at, loss, weights = (torch.cat(parts) for parts in zip(*results, strict=True))
    return Ensemble(torch.from_numpy(np.array(seeds, np.int64)), solved_at, loss, weights, fallback)
