"""Check a network as a black box: reproducible weights, independent rows, a complete state dict, training, resuming.

``forward`` may take one tensor, several, or a dictionary of them, and return a tensor, a tuple, a dictionary or an
object with attributes. A module with a ``training_step`` is trained by it, unless that optimizes manually.
"""

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from simplenet.testing.assertions import identical
from simplenet.testing.bounds import gamma, unit_roundoff
from simplenet.testing.checks import BoundCheck, Progress, add_results, demand_known, parametrized
from simplenet.testing.optimizers import SubjectError, attempt
from simplenet.testing.report import Report, Result, Status
from simplenet.testing.runner import TIME_LIMIT, Check, KnownDefect, NotApplicable, Recorder, run

if TYPE_CHECKING:
    import pytest

_STEPS = 3


def tensors_of(value: Any, name: str = "", within: frozenset[int] = frozenset()) -> Iterator[tuple[str, Tensor]]:
    """List the tensors in a nested structure, each with the path to it as its name; a cycle is followed once."""
    if isinstance(value, Tensor):
        yield name or "output", value
    elif id(value) not in within:
        for step, item in _parts(value):
            yield from tensors_of(item, name + step, within | {id(value)})


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif isinstance(value, type):
        return  # of an Enum's member, for instance
    elif dataclasses.is_dataclass(value):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value))
    elif hasattr(value, "__dict__"):
        yield from ((f".{key}", item) for key, item in vars(value).items())


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to each tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    return type(value)(mapped(item, change) for item in value) if isinstance(value, list | tuple) else value


def _real(values: Tensor) -> Tensor:
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def _wide(values: Tensor) -> Tensor:
    """Convert to real numbers of float32 or wider."""
    values = _real(values)
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit; all NaN are equal."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(identical(_real(a), _real(b)).all())


def _defines_step(net: nn.Module) -> bool:
    step = getattr(type(net), "training_step", None)
    return step is not None and not step.__module__.startswith(("lightning.", "pytorch_lightning."))


def _call(net: nn.Module, x: Any) -> Any:
    if isinstance(x, Mapping):
        return net(**x)
    return net(*x) if isinstance(x, tuple) else net(x)


class NetworkStudy:
    """A network under test.

    Args:
        factory: Makes the network, with weights drawn from torch's generator.
        inputs: An example batch: a tensor, a tuple of the arguments of ``forward``, or a dictionary of them by name. By
            default the network's ``example_input_array``, else rows of two numbers.
        batch: An example batch for ``training_step``; by default inputs, and targets of the output's shape.
        loss: A function from the output of ``forward`` to a loss; by default the mean of squares.
        device: The device of the network.
        independent_rows: Whether a row's output depends only on that row: ``True``, only in ``"eval"`` mode, ``False``.
        roundings: Roundings by which outputs may differ that are equal in exact arithmetic.

    Attributes:
        seeds: The seeds of the networks to build.
        rows: The batch sizes to try. A single row has no neighbours; above 16, kernels use vectors.
    """

    seeds: Sequence[int] = (1996, 1, 2)
    rows: Sequence[int] = (2, 5, 19)

    def __init__(  # noqa: PLR0913 - options for the user
        self,
        factory: Callable[[], nn.Module],
        *,
        inputs: Any = None,
        batch: Any = None,
        loss: Callable[[Any], Tensor] | None = None,
        device: torch.device | str = "cpu",
        independent_rows: bool | str = True,
        roundings: int = 0,
    ) -> None:
        if isinstance(factory, nn.Module):
            name = type(factory).__name__
            raise ValueError(f"{name} is a network, but should be a class or function that builds one")  # noqa: TRY004
        if independent_rows not in (True, False, "eval"):
            raise ValueError(f"independent_rows is {independent_rows!r}, but should be True, False or 'eval'")
        self.factory, self.inputs, self.batch, self.given_loss = factory, inputs, batch, loss
        self.device = torch.device(device)
        self.independent_rows, self.roundings = independent_rows, roundings
        self.name = str(getattr(factory, "__name__", type(factory).__name__))
        self.first: Result | None = None

    def constructed(self, seed: int) -> nn.Module:
        """Construct the network after ``set_seed(seed)``; the weights of lazy modules are drawn in a first call."""
        from simplenet import set_seed

        set_seed(seed)
        net: nn.Module = attempt(lambda: self.factory().to(self.device), "when it is constructed")
        if any(is_lazy(tensor) for tensor in (*net.parameters(), *net.buffers())):
            mode, x = net.training, self.drawn(net, self.rows[0], seed)
            with torch.no_grad():
                attempt(lambda: _call(net.eval(), x), "in forward")
            net.train(mode)
        return net

    def build(self, seed: int) -> nn.Module:
        """Construct the network; its embeddings have dense gradients, because torch's Adam takes no sparse ones."""
        net = self.constructed(seed)
        for module in net.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                module.sparse = False
        return net

    def drawn(self, net: nn.Module, rows: int, seed: int) -> Any:
        """Draw the arguments of ``forward``; tensors of integers, which may be indices, take rows of the example."""
        example = self.example(net)
        return self._like(torch.zeros(4, 2) if example is None else example, rows, seed)

    def example(self, net: nn.Module) -> Any:
        """Return the example batch of the user, or ``None``."""
        return getattr(net, "example_input_array", None) if self.inputs is None else self.inputs

    def _like(self, example: Any, rows: int, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)

        def draw(values: Tensor) -> Tensor:
            if values.dim() == 0:
                return values.to(self.device)
            if values.is_floating_point():
                drawn = torch.randn((rows, *values.shape[1:]), dtype=values.dtype, generator=generator)
            else:
                drawn = values.cpu()[torch.randint(len(values), (rows,), generator=generator)]
            return drawn.to(self.device)

        return mapped(example, draw)

    def score(self, net: nn.Module, x: Any, seed: int = 0) -> dict[str, Tensor]:
        """Return the tensors of the output by name, detached, after ``torch.manual_seed(seed)``."""
        return {name: tensor.detach() for name, tensor in tensors_of(self.output(net, x, seed))}

    def output(self, net: nn.Module, x: Any, seed: int = 0) -> Any:
        """Call the network after ``torch.manual_seed(seed)``."""
        torch.manual_seed(seed)
        return attempt(lambda: _call(net, x), "in forward")

    def loss(self, net: nn.Module, rows: int, seed: int, change: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
        """Return the training loss: that of its own ``training_step``, if it has one; ``change`` applies to inputs."""
        x = mapped(self.drawn(net, rows, seed), change)
        if self.own_step(net):
            batch = mapped(self._batch(net, x, rows, seed), change)
            torch.manual_seed(seed)
            returned = attempt(lambda: net.training_step(batch, 0), "in training_step")  # type: ignore[operator]
            loss: Any = returned["loss"] if isinstance(returned, Mapping) else returned
        else:
            output = self.output(net, x, seed)
            if self.given_loss is not None:
                given = self.given_loss
                loss = attempt(lambda: given(output), "in the loss")
            else:
                outputs = [t for _, t in tensors_of(output) if t.requires_grad]
                if not outputs:
                    raise NotApplicable("its output requires no gradient")
                loss = sum((_wide(values) - 0.5).square().mean() for values in outputs)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise AssertionError(f"the loss is {loss!r}, but should be a tensor with one element")
        return loss

    def own_step(self, net: nn.Module) -> bool:
        """Whether the network defines its own ``training_step``, which returns a loss: not if it optimizes manually."""
        return _defines_step(net) and bool(getattr(net, "automatic_optimization", True))

    def _batch(self, net: nn.Module, x: Any, rows: int, seed: int) -> Any:
        if self.batch is not None:
            return self._like(self.batch, rows, seed)
        mode = net.training
        with torch.no_grad():
            output = next(iter(self.score(net.eval(), x).values()))
        net.train(mode)
        generator = torch.Generator().manual_seed(seed)
        return x, torch.rand(output.shape, generator=generator).to(output)


def it_takes_a_batch(study: NetworkStudy) -> str:
    """The network can be constructed, and returns tensors for a batch."""
    net = study.build(study.seeds[0]).eval()
    x = study.drawn(net, study.rows[0], 0)
    try:
        outputs = study.score(net, x)
    except SubjectError as error:
        if study.example(net) is not None:
            raise
        where = "in forward of the default batch, rows of two numbers; give inputs or example_input_array"
        raise SubjectError(error.error, where) from error
    if not outputs:
        raise AssertionError("its output holds no tensor")
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in outputs.items())


def _demand(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    if actual.keys() != expected.keys():
        raise AssertionError(f"only one of the two has {sorted(actual.keys() ^ expected.keys())} [{where}]")
    for name, values in expected.items():
        if not _same(actual[name], values):
            raise AssertionError(f"{name} differs{_by(actual[name], values)} [{where}]")


def _state(net: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors of its state dict; an extra state may hold any values."""
    return {name: t.clone() for key, value in net.state_dict().items() for name, t in tensors_of(value, key)}


def _by(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point():
        return ""
    error = float((a.double() - b.double()).abs().nan_to_num(torch.inf).max())
    return f" by up to {error:.3g}"


def the_same_seed_builds_the_same_network(study: NetworkStudy) -> None:
    """Weights and outputs, bit for bit."""
    for seed in study.seeds:
        first, second = study.build(seed), study.build(seed)
        _demand(_state(second), _state(first), f"seed {seed}")
        x = study.drawn(first, study.rows[1], seed)
        _demand(study.score(second.eval(), x), study.score(first.eval(), x), f"seed {seed}")


def prediction_repeats_itself_and_writes_to_nothing(study: NetworkStudy) -> None:
    """In eval mode, it changes neither its input, nor its state, nor torch's generator."""
    for rows in study.rows:
        net = study.build(study.seeds[0]).eval()
        x = study.drawn(net, rows, rows)

        def held(net: nn.Module = net, x: Any = x) -> dict[str, Tensor]:
            kept = {f"input{name.removeprefix('output')}": tensor.clone() for name, tensor in tensors_of(x)}
            return kept | _state(net)

        before = held()
        first = {name: tensor.clone() for name, tensor in study.score(net, x).items()}
        torch.manual_seed(7)
        generator = torch.get_rng_state()
        second = dict(tensors_of(attempt(lambda net=net, x=x: _call(net, x), "in forward")))  # type: ignore[misc]
        if not torch.equal(torch.get_rng_state(), generator):
            raise AssertionError(f"forward in eval mode draws from torch's generator [{rows} rows]")
        _demand(second, first, f"second call, {rows} rows")
        _demand(held(), before, f"after two calls, {rows} rows")


def _demand_counted(
    study: NetworkStudy, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str
) -> bool:
    """Assert equality to within the declared roundings; return whether it is exact."""
    for name, values in expected.items():
        other = actual[name]
        if _same(other, values):
            continue
        if study.roundings and values.is_floating_point() and other.shape == values.shape:
            limit = gamma(study.roundings, values.dtype) * float(values.abs().max())
            if float((other.double() - values.double()).abs().max()) <= limit:
                return False
        raise AssertionError(f"{name} differs{_by(other, values)} [{where}]")
    return True


def _first_difference(study: NetworkStudy, net: nn.Module, x: Any, context: Callable[[], Any]) -> str:
    """Name the first module whose output differs between a call and one in a context."""

    def recorded(context: Callable[[], Any]) -> list[tuple[str, Tensor]]:
        seen: list[tuple[str, Tensor]] = []
        with ExitStack() as stack:
            for name, module in net.named_modules():
                if name:
                    stack.enter_context(
                        module.register_forward_hook(
                            lambda _m, _i, output, name=name: seen.extend(
                                (name, t.detach().clone()) for _, t in tensors_of(output)
                            )
                        )
                    )
            stack.enter_context(context())
            study.score(net, x)
        return seen

    for (name, a), (_, b) in zip(recorded(nullcontext), recorded(context), strict=False):
        if not _same(a, b):
            return f"; the first module that does is {name}, a {type(net.get_submodule(name)).__name__}"
    return ""


def recording_gradients_does_not_change_the_output(study: NetworkStudy) -> None:
    """The output is the same under ``no_grad`` and ``inference_mode``, to within the declared roundings."""
    for rows in study.rows:
        net = study.build(study.seeds[0]).eval()
        x = study.drawn(net, rows, rows)
        expected = study.score(net, x)
        for context in (torch.no_grad, torch.inference_mode):
            try:
                with context():
                    output = study.score(net, x)
            except SubjectError as error:
                raise SubjectError(error.error, f"in forward under {context.__name__}") from error
            try:
                _demand_counted(study, output, expected, f"{context.__name__}, {rows} rows")
            except AssertionError as error:
                raise AssertionError(f"{error}{_first_difference(study, net, x, context)}") from None


def each_row_is_independent_of_the_others(study: NetworkStudy) -> None:
    """Its output stays the same whatever the other rows are, also NaN."""
    if not study.independent_rows:
        raise NotApplicable("declared: its rows depend on each other")
    batched = _batched(study)
    for mode in ("eval", "train") if study.independent_rows is True else ("eval",):
        for rows in study.rows:
            net = study.build(study.seeds[0])
            x, others = study.drawn(net, rows, 1), study.drawn(net, rows, 2)
            row = rows // 2
            kept = copy.deepcopy(net.state_dict())
            expected = study.score(net.train(mode == "train"), x, rows)
            for filling in (others, mapped(x, _nan_like)):
                mixed = _with_row(filling, x, row)
                net.load_state_dict(kept)
                output = study.score(net, mixed, rows)
                own = {name: expected[name][row] for name in batched}
                got = {name: output[name][row] for name in own}
                _demand_counted(study, got, own, f"row {row} of {rows}, {mode}")


def _batched(study: NetworkStudy) -> set[str]:
    """Name the outputs whose first dimension is the number of rows in every batch."""
    net = study.build(study.seeds[0]).eval()
    shapes = [(rows, study.score(net, study.drawn(net, rows, 1))) for rows in study.rows]
    return set.intersection(*({name for name, t in found.items() if t.shape[:1] == (rows,)} for rows, found in shapes))


def _nan_like(values: Tensor) -> Tensor:
    return torch.full_like(values, torch.nan) if values.is_floating_point() and values.dim() else values


def _with_row(filling: Any, x: Any, row: int) -> Any:
    """Replace one row of a batch by that of another."""
    own = [tensor for _, tensor in tensors_of(x)]

    def put(values: Tensor) -> Tensor:
        values, kept = values.clone(), own.pop(0)
        if values.dim():
            values[row] = kept[row]
        return values

    return mapped(filling, put)


def every_parameter_gets_a_gradient_that_lowers_the_loss(study: NetworkStudy) -> None:
    """Some step along the negative gradient lowers the loss, computed in the network's own dtype."""
    net = study.build(study.seeds[0])
    before = study.loss(net, study.rows[1], 3)
    attempt(before.backward, "in backward")
    without = _without_gradient(net)
    if without:  # look at more rows: of several experts, for instance, each row passes through some
        other = study.build(study.seeds[0])
        for seed in range(10):
            attempt(study.loss(other, study.rows[-1], seed).backward, "in backward")
        without = _without_gradient(other)
    if without:
        more = f" and {len(without) - 3} more" * (len(without) > 3)  # noqa: PLR2004 - a line of a table
        raise AssertionError(f"no gradient reaches {', '.join(without[:3])}{more}")
    slope = sum(float(_wide(p.grad).double().square().sum()) for p in net.parameters() if p.grad is not None)
    if not slope < float("inf"):
        raise AssertionError(f"the gradient's squared length is {slope}")
    value = float(before.detach())
    if slope <= abs(value) * 2.0**-20:
        return  # a minimum, or only dead units
    start = [p.detach().clone() for p in net.parameters()]
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for k in range(40):
        with torch.no_grad():
            for p, origin in zip(net.parameters(), start, strict=True):
                p.copy_(origin if p.grad is None else origin - p.grad * 2.0**-k)
            for name, buffer in net.named_buffers():
                buffer.copy_(kept[name])
        if float(study.loss(net, study.rows[1], 3).detach()) < value:
            return
    raise AssertionError(f"no step along the negative gradient lowers the loss, {value:.6g}")


def _without_gradient(net: nn.Module) -> list[str]:
    return [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]


def gradients_of_two_losses_add_up(study: NetworkStudy) -> None:
    """Two forward passes and then two backward passes give the sum of the gradients of one after the other."""

    def apart() -> dict[str, Tensor]:
        net = study.build(study.seeds[0])
        total: dict[str, Tensor] = {}
        for seed in (3, 4):
            net.zero_grad(set_to_none=True)
            attempt(study.loss(net, study.rows[1], seed).backward, "in backward")
            for name, gradient in _gradients(net).items():
                total[name] = total[name] + gradient if name in total else gradient
        return total

    together, expected = study.build(study.seeds[0]), apart()
    try:
        _demand(apart(), expected, "the same losses again")
    except AssertionError as difference:
        raise NotApplicable(f"it does not repeat itself: {difference}") from None
    losses = [study.loss(together, study.rows[1], seed) for seed in (3, 4)]
    for loss in losses:
        attempt(loss.backward, "in the backward pass of two losses")
    _demand(_gradients(together), expected, "two losses")


def _gradients(net: nn.Module) -> dict[str, Tensor]:
    return {f"gradient of {name}": p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def _strided(values: Tensor) -> Tensor:
    """Copy a tensor into every second number of a larger one."""
    return torch.stack((values, values.new_full((), 3).expand_as(values)), -1)[..., 0]


def _transposed(values: Tensor) -> Tensor:
    """Copy a tensor with its dimensions in the reverse order in memory."""
    reverse = tuple(reversed(range(values.dim())))
    return values.permute(reverse).clone(memory_format=torch.contiguous_format).permute(reverse)


_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"strided": _strided, "transposed": _transposed}


def _arrange(module: nn.Module, arrange: Callable[[Tensor], Tensor]) -> None:
    """Put a module's own parameters and buffers into a memory layout."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        tensor.data = arrange(tensor.data)


class _Run(NamedTuple):
    """What a network, or a module of it, has computed: outputs, and gradients; each by name."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]


def _double(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def _float64_network(study: NetworkStudy) -> nn.Module:
    net: nn.Module = attempt(study.build(study.seeds[0]).double, "when it is converted to float64")
    return net


def _float64_run(
    study: NetworkStudy, arrange: Callable[[Tensor], Tensor], modules: Collection[str] | None = None
) -> _Run:
    """Compute a loss, its gradients and an output in float64.

    Args:
        study: The network.
        arrange: Puts tensors into a memory layout.
        modules: The names of the modules whose own parameters and buffers are arranged; by default, inputs are.
    """

    def change(values: Tensor) -> Tensor:
        return arrange(_double(values)) if modules is None else _double(values)

    net = _float64_network(study)
    for name in modules or ():
        _arrange(net.get_submodule(name), arrange)
    loss = study.loss(net, study.rows[1], 3, change)
    attempt(loss.backward, "in backward")
    gradients = _gradients(net)
    outputs = study.score(net.eval(), mapped(study.drawn(net, study.rows[1], 4), change))
    return _Run({"loss": loss.detach(), **outputs}, gradients)


def _difference(actual: _Run, expected: _Run) -> str:
    """Describe the first difference between two float64 runs that float32 could represent, if there is one.

    It is relative to the largest gradient, or output: the gradient of a bias before a normalization is only rounding.
    """
    for others, wanted in zip(actual, expected, strict=True):
        largest = max((float(values.abs().nan_to_num().max()) for values in wanted.values()), default=0.0)
        for name, values in wanted.items():
            error = (others[name] - values).abs() if values.is_floating_point() else None
            near = error is not None and bool((error <= unit_roundoff(torch.float32) * largest).all())
            if not near and not _same(others[name], values):
                return f"{name} differs{_by(others[name], values)}"
    return ""


def _is_torchs_own(study: NetworkStudy, name: str, arrange: Callable[[Tensor], Tensor]) -> bool:
    """Whether a module of torch, called alone with the input that it has in the network, depends on the layout."""
    net, calls = _float64_network(study), list[tuple[Any, Any]]()
    module = net.get_submodule(name)
    if not type(module).__module__.startswith("torch.nn."):
        return False
    with module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True):
        study.loss(net, study.rows[1], 3, _double)
    if not calls:
        return False  # its parameters are used without it

    def run_alone(arrange: Callable[[Tensor], Tensor]) -> _Run:
        alone = copy.deepcopy(module)
        alone.zero_grad()
        _arrange(alone, arrange)
        args, kwargs = mapped(calls[0], lambda t: t.detach().clone().requires_grad_(t.is_floating_point()))
        found = dict(tensors_of(alone(*args, **kwargs)))
        outputs = [t for t in found.values() if t.requires_grad]
        generator = torch.Generator().manual_seed(1)
        torch.autograd.backward(outputs, [torch.rand(t.shape, generator=generator).to(t) for t in outputs])
        of_inputs = {f"gradient of input{path}": t.grad for path, t in tensors_of((args, kwargs)) if t.grad is not None}
        return _Run({path: t.detach() for path, t in found.items()}, _gradients(alone) | of_inputs)

    return bool(_difference(run_alone(arrange), run_alone(lambda values: values)))


def memory_layout_of_inputs_and_parameters_changes_nothing(study: NetworkStudy) -> None:
    """Nor that of buffers; in float64, because kernels may round differently, but not by what float32 can represent."""
    try:
        expected = _float64_run(study, lambda values: values)
    except SubjectError as error:
        raise NotApplicable(f"it does not run in float64: {error}") from None
    if difference := _difference(_float64_run(study, lambda values: values), expected):
        raise NotApplicable(f"it does not repeat itself: {difference}")
    modules = dict(study.build(study.seeds[0]).named_modules())
    for layout, arrange in _LAYOUTS.items():
        if difference := _difference(_float64_run(study, arrange), expected):
            raise AssertionError(f"{difference} [{layout} inputs]")
        if difference := _difference(_float64_run(study, arrange, modules), expected):
            guilty = [name for name in modules if _difference(_float64_run(study, arrange, [name]), expected)]
            named = ", ".join(f"{name or 'the network'}, a {type(modules[name]).__name__}" for name in guilty[:3])
            message = f"{difference} [{layout} parameters{f' of {named}' if named else ''}]"
            if guilty and all(_is_torchs_own(study, name, arrange) for name in guilty):
                raise KnownDefect(f"{message} [torch {torch.__version__}: a call of the module alone, too]")
            raise AssertionError(message)


def _trained(study: NetworkStudy, seed: int) -> dict[str, Tensor]:
    net = study.build(seed).train()
    parameters = [p for p in net.parameters() if p.requires_grad]
    if not parameters:
        raise NotApplicable("it has no parameters to train")
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for i in range(_STEPS):
        optimizer.zero_grad()
        attempt(study.loss(net, study.rows[1], seed + i).backward, "in backward")
        optimizer.step()
    return _state(net)


def training_repeats_itself(study: NetworkStudy) -> str | None:
    """Three steps of Adam on its loss, that of its own ``training_step`` if it has one; bit for bit."""
    for seed in study.seeds:
        _demand(_trained(study, seed), _trained(study, seed), f"{_STEPS} steps, seed {seed}")
    return "by its own training_step" if study.own_step(study.build(study.seeds[0])) else None


def its_state_dict_is_complete(study: NetworkStudy) -> None:
    """Another network with its state dict loaded has the same outputs."""
    net, other = study.build(study.seeds[0]).eval(), study.build(study.seeds[1]).eval()
    x = study.drawn(net, study.rows[1], 5)
    attempt(lambda: other.load_state_dict(net.state_dict()), "in load_state_dict")
    _demand(study.score(other, x), study.score(net, x), "another network with its state loaded")


def a_deep_copy_is_equal_and_independent(study: NetworkStudy) -> None:
    """It has the outputs, modes and frozen parameters of the network; if one of them changes, the other does not."""
    net = study.build(study.seeds[0]).eval()
    for parameter in [*net.parameters()][::2]:
        parameter.requires_grad = False
    try:
        twin = copy.deepcopy(net)
    except Exception as error:  # noqa: BLE001 - whatever its code raises
        raise NotApplicable(f"it cannot be copied: {type(error).__name__}: {error}") from None
    for name, parameter in twin.named_parameters():
        if parameter.requires_grad != net.get_parameter(name).requires_grad:
            became = "trained" if parameter.requires_grad else "frozen"
            raise AssertionError(f"{name} is {became} in a deep copy, but should not be")
    if modes := [name for name, module in twin.named_modules() if module.training]:
        raise AssertionError(f"{modes[0] or 'the network'} is in training mode in a deep copy, but should not be")
    x = study.drawn(net, study.rows[1], 5)
    expected = study.score(net, x)
    try:
        _demand(study.score(net, x), expected, "the same outputs again")
    except AssertionError as difference:
        raise NotApplicable(f"it does not repeat itself: {difference}") from None
    _demand(study.score(twin, x), expected, "its deep copy")
    for changed, other, which in (
        (copy.deepcopy(net), net, "when its deep copy has been set to zero"),
        (net, twin, "its deep copy, when the network has been set to zero"),
    ):
        with torch.no_grad():
            for tensor in (*changed.parameters(), *changed.buffers()):
                tensor.zero_()
        _demand(study.score(other, x), expected, which)


def it_resumes_under_lightning(study: NetworkStudy) -> None:
    """Four epochs under Lightning's Trainer equal two and, from a checkpoint, two more; bit for bit."""
    import tempfile
    from pathlib import Path

    from lightning import LightningModule, Trainer
    from torch.utils.data import DataLoader

    net = study.build(study.seeds[0])
    if not isinstance(net, LightningModule) or not _defines_step(net):
        raise NotApplicable("it is not a LightningModule with its own training_step")
    rows = study.rows[1]
    batches = [study._batch(net, study.drawn(net, rows, i), rows, i) for i in range(2)]  # noqa: SLF001 - ours
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type] # a list is a dataset

    def fitted(epochs: int, root: str, checkpoint: str | None = None) -> Trainer:
        module: Any = study.constructed(study.seeds[0])  # its own optimizer may need sparse gradients
        trainer = Trainer(
            max_epochs=epochs, accelerator=study.device.type, devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=root,
        )  # fmt: skip
        attempt(lambda: trainer.fit(module, loader, ckpt_path=checkpoint), "under Lightning's Trainer")
        return trainer

    with tempfile.TemporaryDirectory() as root:
        whole = _state(fitted(4, root).lightning_module)
        path = str(Path(root) / "half.ckpt")
        half = fitted(2, root)
        attempt(lambda: half.save_checkpoint(path), "when its checkpoint is saved")
        resumed = _state(fitted(4, root, path).lightning_module)
    _demand(resumed, whole, "resumed after 2 of 4 epochs")


CHECKS: tuple[Check[NetworkStudy], ...] = tuple(
    Check(function.__name__.replace("_", " "), function)
    for function in (
        it_takes_a_batch,
        the_same_seed_builds_the_same_network,
        prediction_repeats_itself_and_writes_to_nothing,
        recording_gradients_does_not_change_the_output,
        each_row_is_independent_of_the_others,
        every_parameter_gets_a_gradient_that_lowers_the_loss,
        gradients_of_two_losses_add_up,
        memory_layout_of_inputs_and_parameters_changes_nothing,
        training_repeats_itself,
        its_state_dict_is_complete,
        a_deep_copy_is_equal_and_independent,
        it_resumes_under_lightning,
    )
)


def run_network(
    check: Check[NetworkStudy], study: NetworkStudy, recorder: Recorder, time_limit: float = TIME_LIMIT
) -> Result:
    """Run one check of a network; if it takes no batch, all checks but the first are not applicable."""
    if study.first is None:
        study.first = run(CHECKS[0], study, recorder, time_limit)
    if check.name == CHECKS[0].name:
        return study.first
    if study.first.status is Status.FAILS:
        return Result(check.name, Status.NOT_APPLICABLE, "it takes no batch")
    return run(check, study, recorder, time_limit)


def bound_checks(study: NetworkStudy, time_limit: float = TIME_LIMIT) -> list[BoundCheck]:
    """List the checks of a network, bound to it."""
    return [BoundCheck(check.name, partial(run_network, check, study, Recorder(), time_limit)) for check in CHECKS]


def check_network(  # noqa: PLR0913 - options for the user
    factory: Callable[[], nn.Module],
    *,
    inputs: Any = None,
    batch: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
    device: torch.device | str = "cpu",
    independent_rows: bool | str = True,
    roundings: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    time_limit: float = TIME_LIMIT,
    progress: Progress = list,
) -> Report:
    """Check a network.

    Args:
        factory: Makes the network, with weights drawn from torch's generator.
        inputs: As for ``NetworkStudy``.
        batch: As for ``NetworkStudy``.
        loss: As for ``NetworkStudy``.
        device: As for ``NetworkStudy``.
        independent_rows: As for ``NetworkStudy``.
        roundings: As for ``NetworkStudy``.
        expected_failures: The names of checks that must fail, each with the reason.
        only: The names of the checks to run; by default all.
        time_limit: Seconds after which a check is stopped, if the system supports timers.
        progress: A wrapper around the list of checks, such as ``tqdm``.

    Returns:
        The report.

    Raises:
        ValueError: If there is no such check, or an option has an invalid value.
    """
    options = {"inputs": inputs, "batch": batch, "loss": loss, "independent_rows": independent_rows}
    study = NetworkStudy(factory, device=device, roundings=roundings, **options)
    report, recorder = Report(study.name), Recorder()
    judge = partial(run_network, study=study, recorder=recorder, time_limit=time_limit)
    add_results(report, CHECKS, judge, only=only, expected_failures=expected_failures, progress=progress)
    recorder.describe(report)
    report.facts["time limit"] = f"{time_limit:g} s a check"
    report.facts["torch"] = f"{torch.__version__}, {study.device}"
    return report


def parametrize_network_with_checks(
    factories: Sequence[Callable[[], nn.Module]],
    *,
    expected_failures: Mapping[str, str] | None = None,
    time_limit: float = TIME_LIMIT,
    **options: Any,
) -> "pytest.MarkDecorator":
    """Parametrize a test in your own suite with each check of each network.

    ::

        @parametrize_network_with_checks([MyNet], independent_rows="eval")
        def test_my_network(network, check):
            check(network)

    Args:
        factories: As ``factory`` of ``check_network``.
        expected_failures: As for ``check_network``; their tests must fail.
        time_limit: As for ``check_network``.
        options: As for ``check_network``: ``inputs``, ``batch``, ``loss``, ``device``, ``independent_rows`` and
            ``roundings``.

    Raises:
        ValueError: If an option has an invalid value, or there is no check with the name of an expected failure.
    """
    demand_known(expected_failures or (), CHECKS)
    studies = [NetworkStudy(factory, **options) for factory in factories]
    subjects = [(study.factory, study.name, bound_checks(study, time_limit)) for study in studies]
    return parametrized("network", subjects, expected_failures or {})
