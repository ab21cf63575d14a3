"""Train thousands of seeds at once, to measure how often SimpleNet learns XOR.

A convergence test on one seed proves little. Here replica i starts from the same bits as
``set_seed(i); SimpleNet()``, gets the same batches in the same order and takes the same Adam steps;
from the same state, one step differs from the single network's only by rounding.

The seed is the last, contiguous axis of every tensor, so that one vector instruction processes several
networks. The gradient is written by hand, so that torch can compile the whole step. Networks are
independent: a chunk of them is trained from the first step to the last, and code compiled for the CPU
trains one chunk in each thread.

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

NEVER = -1  # in place of a step: the network is not solved

# Networks in a chunk. Compiled for a CPU, the state of a chunk fits in the cache; elsewhere a chunk is large enough to
# outweigh the cost of launching an operation. The last chunk is padded, and the widths are multiples of every vector
# width, so that each network is computed by the same instructions: its bits do not depend on the rest of its chunk.
_WIDTH = {"compiled": 1024, "eager": 2048, "cuda": 2**17}

# Numbers in a tensor with the weights of all networks: 1 GiB in float32. A run needs eleven times as much.
MAX_WEIGHTS = 2**28

# Steps in one call of the compiled loop; Ctrl-C is handled between calls.
_BLOCK = 1000


class State(NamedTuple):
    """Networks in training.

    Attributes:
        weights: The parameters of each, in the order of ``SimpleNet.parameters()``.
        m: Adam's first moments.
        v: Adam's second moments.
        since: The number of steps since which all four predictions have been right, or ``NEVER``.
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
    """The result of training many seeds.

    A network is solved while all four predictions are on their target's side of 1/2. It can become
    unsolved again: with batches of one row, some networks do. The state after the last step decides.

    Attributes:
        seeds: The seed of each network.
        solved_at: The number of steps since which it has been solved, up to the last step;
            ``NEVER`` for a network that is not solved after the last step.
        loss: The MSE over the truth table after the last step.
        weights: The parameters after the last step, as ``parameters_to_vector`` orders them.
        fallback: Why the steps could not be compiled as requested, or ``None``.
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
    """Return how many networks of this hidden width can be trained: those with ``MAX_WEIGHTS`` numbers in all."""
    return MAX_WEIGHTS // (4 * hidden + 1)


def initial_weights(
    seeds: Sequence[int], architecture: Architecture = "overview", hidden: int = 4
) -> Float[Tensor, "parameters seeds"]:
    """Draw the initial weights of ``set_seed(seed); SimpleNet(architecture, hidden)``, bit for bit.

    The state of torch's generator is restored.

    Args:
        seeds: From 0 to 2³² - 1 each, at most ``most_networks(hidden)``.
        architecture: As for ``SimpleNet``.
        hidden: As for ``SimpleNet``.

    Returns:
        A column for each seed, in torch's default dtype.

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
    # They would differ if a release of torch drew in another way.
    return weights if torch.equal(weights[:, 0], first) else _one_by_one(seeds, net)


def _one_by_one(seeds: Sequence[int], net: SimpleNet) -> Float[Tensor, "parameters seeds"]:
    """Draw as SimpleNet's constructor does, without the cost of building modules."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        weights = torch.empty(len(seeds), parameters_to_vector(net.parameters()).numel())
        for seed, row in zip(seeds, weights, strict=True):
            torch.default_generator.manual_seed(seed)
            net.input_layer.reset_parameters()
            net.output_layer.reset_parameters()
            row.copy_(parameters_to_vector(net.parameters()).detach())
    return weights.T.contiguous()


def check_schedule(batch_size: object, steps: object, lr: object) -> tuple[int, int, float]:
    """Check and return the arguments of ``schedule``."""
    return (
        check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE),
        check_int("steps", steps, 1, MAX_STEPS),
        check_float("lr", lr, 0.0, MAX_LR),
    )


def schedule(batch_size: int, steps: int, lr: float) -> Float[Tensor, "steps 6"]:
    """Tabulate the numbers that depend on the step but not on the seed.

    Args:
        batch_size: Rows in a batch, in the order of ``xor_dataloader``.
        steps: Optimizer steps, from 1 to ``MAX_STEPS``; the largest table takes 384 MiB in float32.
        lr: Learning rate of Adam, as for ``SimpleNet``.

    Returns:
        A row for each step: the signed step size ``-lr / (1 - β1ᵗ)``, the square root of the second
        bias correction, and for each row of the truth table ``2 / n`` if it is in the step's batch of
        ``n`` rows, else 0.

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
        device: The networks' device; their dtype is torch's default.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If it is out of range.
    """

    def __init__(self, architecture: Architecture, hidden: int, device: torch.device) -> None:
        self.formulas = Formulas(architecture, hidden)
        check_type("device", device, torch.device)
        inputs, targets = (rows.to(device) for rows in xor())
        # Clones, because a compiled loop refuses inputs that overlap in memory.
        self.x1, self.x2 = (column.clone().reshape(4, 1, 1) for column in inputs.unbind(1))
        self.y = targets

    def forward(
        self, weights: Float[Tensor, "parameters seeds"]
    ) -> tuple[Float[Tensor, "4 hidden seeds"], Float[Tensor, "4 seeds"]]:
        """Return the hidden layer's outputs for each row of the truth table, and the predictions."""
        return self.formulas.forward(weights, self.x1, self.x2)

    def solved_since(
        self, t: Int[Tensor, ""], since: Int[Tensor, " seeds"], y_hat: Float[Tensor, "4 seeds"]
    ) -> Int[Tensor, " seeds"]:
        """Update ``State.since`` from the predictions after ``t`` steps."""
        right = ((y_hat - self.y).abs() < 1 / 2).all(0)
        return torch.where(right, torch.where(since == NEVER, t, since), NEVER)

    def __call__(self, t: Int[Tensor, ""], state: State, rows: Float[Tensor, "block 6"]) -> tuple[Tensor, State]:
        """Take one step.

        Args:
            t: Steps taken so far, a count.
            state: The state after them.
            rows: The block of ``schedule`` with this step.

        Returns:
            ``t + 1``, and the state after the step.
        """
        weights, m, v, since = state
        row = rows.index_select(0, t.reshape(1) % _BLOCK).squeeze(0)
        step_size, correction, share = row[0], row[1], row[2:, None]
        h, y_hat = self.forward(weights)
        since = self.solved_since(t, since, y_hat)

        g = self.formulas.gradient(weights, self.x1, self.x2, h, y_hat, share * (y_hat - self.y))
        weights, m, v = self.formulas.adam(weights, m, v, g, step_size, correction)
        return t + 1, State(weights, m, v, since)


_Advance = Callable[[Tensor, State, Tensor], tuple[Tensor, State]]  # a Step, compiled or not

# Takes the steps ``t`` to ``end - 1``, which are in one block of the schedule.
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
    """Compile the step and the loop around it; on CUDA only the step, if a network does not fit in a thread.

    The CPU's loop uses one thread and releases the GIL, so that chunks run in parallel
    and no step waits for another thread.
    """
    if device.type == "cuda" and dtype == torch.float32 and TORCH >= (2, 4):  # Triton divides exactly from there on
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
    """The data that the chunks of a run share."""

    run: _Run
    width: int
    step: Step
    rows: Float[Tensor, "steps 6"]
    device: torch.device
    stop: threading.Event

    def start(self, columns: Float[Tensor, "parameters seeds"]) -> State:
        """Return the state of a chunk before the first step, padded by repeating its columns."""
        return fresh(columns[:, torch.arange(self.width) % columns.shape[1]].to(self.device))

    def warm(self, columns: Float[Tensor, "parameters seeds"]) -> None:
        """Take a step and discard it, because torch compiles at the first call."""
        with torch.no_grad():
            t, end = (torch.tensor(limit, device=self.device) for limit in (0, 1))
            self.run(t, end, self.start(columns), self.block(0))

    def block(self, begin: int) -> Float[Tensor, "block 6"]:
        """Return a block of the schedule; past its end, padding that is never read."""
        rows = self.rows[begin : begin + _BLOCK]
        return functional.pad(rows, (0, 0, 0, _BLOCK - len(rows)))

    def __call__(self, columns: Float[Tensor, "parameters seeds"]) -> list[Tensor]:
        """Train a chunk from the first step to the last; return ``solved_at``, the loss and the weights."""
        steps = len(self.rows)
        with torch.no_grad():  # each thread has its own grad mode
            state = self.start(columns)
            for begin in range(0, steps, _BLOCK):
                if self.stop.is_set():
                    break
                t, end = (torch.tensor(limit, device=self.device) for limit in (begin, min(begin + _BLOCK, steps)))
                state = self.run(t, end, state, self.block(begin))
            _, y_hat = self.step.forward(state.weights)
            solved_at = self.step.solved_since(torch.tensor(steps, device=self.device), state.since, y_hat)
            loss = (y_hat - self.step.y).square().mean(0)
        return [result[: columns.shape[1]].cpu() for result in (solved_at, loss, state.weights.T)]


def _train_chunks(
    train: _Training, weights: Float[Tensor, "parameters seeds"], workers: int, *, progress: bool
) -> list[list[Tensor]]:
    """Train all chunks in a pool of threads; Ctrl-C ends each chunk at its next block."""
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


def _in_daemon_thread(work: Callable[[], None]) -> None:
    """Run a function in a daemon thread and wait for it; after a signal the process exits without waiting.

    Raises:
        Exception: Whatever the function raises.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    done.result()


def _one_line(error: Exception) -> str:
    """Return the first line of an error, and the second if the first ends in a colon, as torch.compile's does."""
    first, *others = f"{type(error).__name__}: {error}".splitlines()
    return f"{first} {others[0]}" if first.endswith(":") and others else first


def _cache_hint() -> str:
    """Name the cache of compiled code: torch loads code from it even if another type of CPU compiled it."""
    directory = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # torch sets it when it starts to compile
    return f" (remove {directory} if another type of CPU has filled it)" if directory else ""


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
        seeds: From 0 to 2³² - 1 each, at most ``most_networks(hidden)``; seeds may repeat.
        architecture: As for ``SimpleNet``.
        hidden: As for ``SimpleNet``, but limited so that a chunk, the networks trained together, has at most
            ``MAX_WEIGHTS`` weights: 32,767 on a CPU, 511 on CUDA.
        batch_size: Rows in a batch, as in ``xor_dataloader``.
        steps: Optimizer steps of each network, from 1 to ``MAX_STEPS``.
        lr: Learning rate of Adam, as for ``SimpleNet``.
        device: As in ``resolve_device``.
        compiled: Whether to compile the step, which takes seconds once and makes each step many times faster.
            If torch cannot compile it, the same step runs eagerly and ``fallback`` says why.
        progress: Whether to show a progress bar in a terminal.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, or there is no such device.
    """
    torch_device = resolve_device(device)
    width = _WIDTH.get(torch_device.type, _WIDTH["eager"])
    architecture = check_choice("architecture", architecture, ARCHITECTURES)
    hidden = check_int("hidden", hidden, 1, (MAX_WEIGHTS // width - 1) // 4)
    batch_size, steps, lr = check_schedule(batch_size, steps, lr)
    check_type("compiled", compiled, bool)
    check_type("progress", progress, bool)
    seeds = check_seeds(seeds, most_networks(hidden))
    weights = initial_weights(seeds, architecture, hidden)
    rows = schedule(batch_size, steps, lr).to(torch_device)
    eager = Step(architecture, hidden, torch_device)
    train = _Training(_loop(eager), width, eager, rows, torch_device, threading.Event())
    workers, fallback = 1, None  # eager threads would wait for each other at the GIL
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # one chunk a thread; threads that share an operation would wait for each other
        if compiled:
            try:
                run = _compiled(architecture, hidden, torch_device, torch.get_default_dtype())
                fast = replace(train, run=run, width=_WIDTH.get(torch_device.type, _WIDTH["compiled"]))
                _in_daemon_thread(lambda: fast.warm(weights))
                train, workers = fast, threads if torch_device.type == "cpu" else 1
            except Exception as error:  # noqa: BLE001 - the type that torch.compile raises varies
                fallback = _one_line(error) + _cache_hint()
        results = _train_chunks(train, weights, workers, progress=progress)
    finally:
        torch.set_num_threads(threads)
    solved_at, loss, weights = (torch.cat(parts) for parts in zip(*results, strict=True))
    return Ensemble(torch.from_numpy(np.array(seeds, np.int64)), solved_at, loss, weights, fallback)
