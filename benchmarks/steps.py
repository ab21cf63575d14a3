"""One training step, by execution strategy: the same formulas, at different speeds.

A step of 17 parameters is all overhead, so its time depends on how it is launched; the time of a large step depends on
memory, so a narrower type is faster.  Each strategy takes the same Adam step on the MSE of one fixed batch.  The tests
check each against the one-step oracle, and the benchmarks time it.

References:
    PyTorch documentation, "CUDA semantics", whole-network capture.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from simplenet.environment import TORCH
from simplenet.formulas import CORRECTED, Formulas, compile_whole, corrections, loop
from simplenet.model import SimpleNet, mse_loss
from simplenet.testing.one_step import TrainingState
from simplenet.testing.settings import matmul_precision

# Steps in the longer of two CUDA graphs.
_RECORDED = 16


class Stepper:
    """Takes training steps of a network, in place, on one batch."""

    def __call__(self, steps: int = 1) -> None:
        """Take ``steps`` steps; on CUDA, do not wait for them."""
        raise NotImplementedError

    def read(self) -> TrainingState:
        """Return a copy of the state of the training."""
        raise NotImplementedError

    def write(self, state: TrainingState) -> None:
        """Set the state of the training."""
        raise NotImplementedError


class _Autograd(Stepper):
    """Forward, backward and ``torch.optim.Adam``, each operation launched from Python."""

    def __init__(self, net: SimpleNet, x: Tensor, y: Tensor, **flags: Any) -> None:
        self.net, self.x, self.y = net, x, y
        self.optimizer = net.configure_optimizers()
        if flags:  # construct Adam anew, because its constructor checks that the flags are supported
            self.optimizer = torch.optim.Adam(net.parameters(), lr=net.hparams["lr"], **flags)
        counted = x.device if flags.get("fused") or flags.get("capturable") else torch.device("cpu")
        for p in net.parameters():
            p.grad = None
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.optimizer.state[p] = {"step": torch.zeros((), device=counted, dtype=torch.float32), **moments}

    def loss(self) -> Tensor:
        return mse_loss(self.net(self.x), self.y)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def __call__(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.step()

    def _states(self) -> list[dict[str, Tensor]]:
        return [self.optimizer.state[p] for p in self.net.parameters()]

    def read(self) -> TrainingState:
        m, v = (torch.cat([own[name].flatten() for own in self._states()]) for name in ("exp_avg", "exp_avg_sq"))
        weights = parameters_to_vector(self.net.parameters()).detach()
        return TrainingState(weights, m, v, None, int(self._states()[0]["step"]))

    @torch.no_grad()
    def write(self, state: TrainingState) -> None:
        parameters = list(self.net.parameters())
        sizes = [p.numel() for p in parameters]
        parts = (torch.split(part, sizes) for part in state[:3])
        for p, own, weights, m, v in zip(parameters, self._states(), *parts, strict=True):
            p.copy_(weights.view_as(p))
            own["exp_avg"].copy_(m.view_as(p))
            own["exp_avg_sq"].copy_(v.view_as(p))
            own["step"].fill_(state.t)


class _Autocast(_Autograd):
    """The eager step with the network in bfloat16; its loss, its weights and Adam stay in float32."""

    def loss(self) -> Tensor:
        with torch.autocast(self.x.device.type, torch.bfloat16):
            return super().loss()


class _Tf32(_Autograd):
    """The eager step with matrix products in TF32, in both passes."""

    def step(self) -> None:
        with matmul_precision("high"):
            super().step()


@contextmanager
def _side_stream(device: torch.device, warm: Callable[[], None]) -> Iterator[torch.cuda.Stream]:
    """Yield a stream to record graphs on, after ``warm`` has run on it, so that libraries are initialized."""
    with torch.cuda.device(device):
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            warm()
        current.wait_stream(side)
        yield side


def _record(work: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """Record the kernels that ``work`` launches, without running them."""
    graph = torch.cuda.CUDAGraph()
    # Without a stream, torch records on a stream of the device that the process's first recording used.
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph


class _CudaGraph(_Autograd):
    """The same operations, recorded once as a CUDA graph and replayed."""

    def __init__(self, net: SimpleNet, x: Tensor, y: Tensor) -> None:
        super().__init__(net, x, y, capturable=True, fused=True)
        before = self.read()
        with _side_stream(x.device, lambda: super(_CudaGraph, self).__call__(3)) as side:
            self.optimizer.zero_grad()  # so that the graph allocates its own gradients
            self.graph = _record(self.step, side)
        self.write(before)

    def __call__(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.graph.replay()


class _Compiled(Stepper):
    """``Formulas``, compiled: one step per call of compiled code, or with ``chunk`` any number.

    The state is one tensor, and so is the batch: a step is so little work that each tensor passed to it
    costs measurable time.
    """

    def __init__(self, net: SimpleNet, x: Tensor, y: Tensor, *, chunk: bool = False) -> None:
        weights = parameters_to_vector(net.parameters()).detach()
        self.state = torch.stack([weights, torch.zeros_like(weights), torch.zeros_like(weights)])
        self.t = torch.zeros((), dtype=torch.int64, device=x.device)
        self.batch = torch.cat([x.T, y.T]).detach().contiguous()
        self.table = _table(net.hparams["lr"]).to(x)
        self.chunk = chunk
        for p in net.parameters():
            p.grad = None
        vector_to_parameters(self.state[0], net.parameters())  # from here on the parameters are views of the state
        formulas = Formulas(net.hparams["architecture"], net.hparams["hidden"])
        self.run = _compile(_one_call(formulas, chunk=chunk), x.device)
        before = self.read()
        _Compiled.__call__(self, 1)  # compiles
        self.write(before)

    @torch.no_grad()
    def __call__(self, steps: int = 1) -> None:
        if self.chunk:
            self.run(self.t, self.state, self.table, self.batch, torch.tensor(steps, device=self.t.device))
        else:
            for _ in range(steps):
                self.run(self.t, self.state, self.table, self.batch)

    def read(self) -> TrainingState:
        weights, m, v = self.state.clone()
        return TrainingState(weights, m, v, None, int(self.t))

    def write(self, state: TrainingState) -> None:
        self.state.copy_(torch.stack(state[:3]))
        self.t.fill_(state.t)


class _CompiledGraphs(_Compiled):
    """The compiled step, recorded as two CUDA graphs: one of a single step, one of many."""

    def __init__(self, net: SimpleNet, x: Tensor, y: Tensor) -> None:
        super().__init__(net, x, y)
        before = self.read()
        take = super().__call__
        with _side_stream(x.device, lambda: take(3)) as side:
            self.graphs = {length: _record(partial(take, length), side) for length in (_RECORDED, 1)}
        self.write(before)

    def __call__(self, steps: int = 1) -> None:
        for length, graph in self.graphs.items():
            for _ in range(steps // length):
                graph.replay()
            steps %= length


def _compiled_chunk(net: SimpleNet, x: Tensor, y: Tensor) -> Stepper:
    """Choose by device: on CUDA, each iteration of a compiled loop copies its condition to the CPU and waits."""
    return _CompiledGraphs(net, x, y) if x.device.type == "cuda" else _Compiled(net, x, y, chunk=True)


@cache
def _table(lr: float) -> Float[Tensor, "steps 2"]:
    """Tabulate ``corrections`` up to the step from which they are constant; float32 powers would be inexact."""
    return torch.tensor([corrections(t, lr) for t in range(1, CORRECTED + 1)], dtype=torch.float64)


def _one_call(formulas: Formulas, *, chunk: bool) -> Callable[..., None]:
    """Return a function that takes one step, or with ``chunk`` any number, and updates the state in place."""

    def step(
        t: Int[Tensor, ""],
        state: tuple[Float[Tensor, "3 parameters"]],
        table: Float[Tensor, "steps 2"],
        batch: Float[Tensor, "3 rows"],
    ) -> tuple[Tensor, tuple[Tensor]]:
        weights, m, v = state[0].unbind()
        step_size, correction = table.index_select(0, t.clamp(max=CORRECTED - 1).reshape(1)).squeeze(0).unbind()
        x1, x2, y = batch[0, :, None], batch[1, :, None], batch[2]
        h, y_hat = formulas.forward(weights, x1, x2)
        g = formulas.gradient(weights, x1, x2, h, y_hat, 2 / len(y) * (y_hat - y))
        return t + 1, (torch.stack(formulas.adam(weights, m, v, g, step_size, correction)),)

    if not chunk:

        def one(t: Tensor, state: Tensor, table: Tensor, batch: Tensor) -> None:
            after, (result,) = step(t, (state,), table, batch)
            t.copy_(after)
            state.copy_(result)

        return one

    many = loop(step)

    def several(t: Tensor, state: Tensor, table: Tensor, batch: Tensor, steps: Tensor) -> None:
        end = t + steps
        (result,) = many(t, end, (state,), table, batch)
        t.copy_(end)
        state.copy_(result)

    return several


def _compile(function: Callable[..., None], device: torch.device) -> Callable[..., None]:
    options = {
        "force_pointwise_cat": True,  # concatenate in the kernel that reads the result, not in a kernel per part
        "cpp_wrapper": device.type == "cpu",  # compile the code that calls the kernels too
    }
    return compile_whole(function, options)


class _Strategy(NamedTuple):
    """The constructor of a stepper, and the first version of torch that supports it, for each device type."""

    make: Callable[[SimpleNet, Tensor, Tensor], Stepper]
    since: dict[str, tuple[int, int]]


# eager      as the Trainer does it, with torch's default implementation of Adam (foreach on CUDA)
# foreach    each of Adam's operations for all parameters at once
# fused      Adam in one kernel
# compiled   the whole step as compiled code
# compiled-chunk  many steps in one call of compiled code; on CUDA, the compiled step as a CUDA graph
# cuda-graph the eager step with fused Adam, as a CUDA graph
# autocast   eager, with the network in bfloat16
# tf32       eager, with matrix products in TF32
_STRATEGIES = {
    "eager": _Strategy(_Autograd, {"cpu": (2, 0), "cuda": (2, 0), "mps": (2, 0)}),
    "foreach": _Strategy(partial(_Autograd, foreach=True), {"cpu": (2, 0), "cuda": (2, 0)}),
    "fused": _Strategy(partial(_Autograd, fused=True), {"cpu": (2, 4), "cuda": (2, 0)}),
    "compiled": _Strategy(_Compiled, {"cpu": (2, 4), "cuda": (2, 4)}),
    "compiled-chunk": _Strategy(_compiled_chunk, {"cpu": (2, 6), "cuda": (2, 4)}),
    "cuda-graph": _Strategy(_CudaGraph, {"cuda": (2, 0)}),
    "autocast": _Strategy(_Autocast, {"cpu": (2, 0), "cuda": (2, 0)}),
    "tf32": _Strategy(_Tf32, {"cuda": (2, 0)}),
}
STRATEGIES = tuple(_STRATEGIES)


def unavailable(strategy: str, device: torch.device) -> str | None:
    """Return why this torch does not support a strategy on a device, or ``None`` if it does."""
    since = _STRATEGIES[strategy].since
    if device.type not in since:
        return f"strategy is {strategy!r} on {device}, but it needs a device of type {' or '.join(since)}"
    if (needed := since[device.type]) > TORCH:
        version = ".".join(map(str, needed))
        return f"strategy is {strategy!r} on {device} under torch {torch.__version__}, but it needs torch {version}"
    return None


def stepper(strategy: str, net: SimpleNet, x: Float[Tensor, "rows 2"], y: Float[Tensor, "rows 1"]) -> Stepper:
    """Return a stepper that trains ``net`` on a batch; compiling and recording happen here.

    Args:
        strategy: One of ``STRATEGIES``.
        net: Network to train in place, by Adam from its initial state.
        x: The batch's inputs, on the network's device and in its dtype.
        y: Its targets.

    Raises:
        ValueError: If torch does not support the strategy on this device.
    """
    if (reason := unavailable(strategy, x.device)) is not None:
        raise ValueError(reason)
    return _STRATEGIES[strategy].make(net, x, y)
