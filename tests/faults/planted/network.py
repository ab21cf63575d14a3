"""Faults in the loss, the network and backpropagation."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

import simplenet.model
from simplenet import SimpleNet, mse_loss
from simplenet.testing.settings import default_dtype
from tests.faults.planting import catalogue, edit, wrap

FAULTS, fault = catalogue("network")


def loss(
    rows: int = 4,
    columns: int = 1,
    dtype: torch.dtype = torch.float32,
    value: float = 1.0,
    *,
    target_too: bool = False,
    upstream: float = 1.0,
) -> Callable[[], object]:
    """Witness a loss and its gradient."""

    def compute() -> object:
        predictions = torch.full((rows, columns), 0.5, dtype=dtype, requires_grad=True)
        targets = torch.zeros_like(predictions).detach().requires_grad_(target_too)
        targets.data[0] = value
        result = mse_loss(predictions, targets)
        result.backward(torch.tensor(upstream, dtype=dtype))
        assert predictions.grad is not None
        return result.item(), predictions.grad.flatten()[[0, -1]].tolist()

    return compute


def scores(rows: int = 4, architecture: Any = "overview", *, transposed: bool = False) -> Callable[[], object]:
    """Witness the output of a network and the gradients of its sum."""

    def compute() -> object:
        torch.manual_seed(1996)
        net = SimpleNet(architecture)
        if transposed:
            for layer in (net.input_layer, net.output_layer):
                layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
        x = (torch.arange(2.0 * rows).reshape(rows, 2) % 3).requires_grad_()
        y = net(x)
        y.sum().backward()
        assert x.grad is not None
        return y.flatten()[[0, -1]].tolist(), x.grad[[0, -1]].tolist(), [p.grad.tolist() for p in net.parameters()]

    return compute


def _in_place_of_mse(change: Callable[[Callable[..., Tensor], Tensor, Tensor], Tensor]) -> None:
    wrap(functional, "mse_loss", lambda f, a, b, **options: change(lambda a, b: f(a, b, **options), a, b))


@fault(
    loss(target_too=True),
    "test_requiring_the_targets_gradient_does_not_change_the_loss",
    link="https://github.com/pytorch/pytorch/issues/43228",
)
def the_loss_is_a_sum_where_targets_require_gradients() -> None:
    """As if that were another code path, without the mean."""
    _in_place_of_mse(lambda mse, a, b: mse(a, b) * (a.numel() if b.requires_grad else 1))


class _UpstreamIgnored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return (a - b).square().mean()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return (a - b) * (2 / a.numel()), (b - a) * (2 / a.numel())


@fault(
    loss(upstream=0.5),
    "test_an_upstream_gradient_multiplies_the_gradient",
    link="https://github.com/flagos-ai/FlagGems/issues/5212",
)
def the_loss_ignores_its_upstream_gradient() -> None:
    """It backpropagates as if the upstream gradient were 1."""
    _in_place_of_mse(lambda mse, a, b: _UpstreamIgnored.apply(a, b) if a.shape == b.shape else mse(a, b))


@fault(loss(rows=2**16 + 8), "test_the_mse_of_exact_numbers_is_exact_at_every_size")
def the_loss_stops_after_a_chunk() -> None:
    """Rows past 65,536 are counted and not added."""
    _in_place_of_mse(
        lambda mse, a, b: (
            mse(a[: 2**16], b[: 2**16]) * (min(len(a), 2**16) / len(a)) if a.dim() and len(a) > 2**16 else mse(a, b)
        )
    )


@fault(loss(columns=3), "test_the_mse_of_exact_numbers_is_exact_at_every_size")
def the_loss_divides_by_the_rows_alone() -> None:
    """Three columns make it three times as large."""
    _in_place_of_mse(lambda mse, a, b: mse(a, b) * math.prod(a.shape[1:]))


@fault(loss(value=math.nan), "test_nonfinite_values_make_the_loss_nonfinite")
def the_loss_hides_nan() -> None:
    """A row of NaN counts as 0."""
    _in_place_of_mse(lambda mse, a, b: mse(a.nan_to_num(), b.nan_to_num()))


class _CoarseBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *upstream: Any) -> Tensor:
        (g,) = upstream
        return g * 1.03 if g.dtype in {torch.float16, torch.bfloat16} else g


@fault(loss(dtype=torch.bfloat16), "test_the_gradient_is_twice_the_difference_over_the_count_in_sixteen_bits")
def the_gradient_of_the_loss_is_inexact_in_16_bits() -> None:
    """By 3 %, a few of bfloat16's roundings."""
    _in_place_of_mse(lambda mse, a, b: mse(_CoarseBackward.apply(a), b))


@fault(loss(value=2.0), "test_mse_is_the_exact_mean_if_no_operation_rounds")
def the_loss_is_the_absolute_difference() -> None:
    """Its mean, not squared."""
    _in_place_of_mse(lambda mse, a, b: (a - b).abs().mean())


@fault(
    lambda: str(_raised(lambda: mse_loss(torch.ones(4, 1), torch.zeros(4)))),
    "test_targets_without_a_column_are_refused_although_torch_only_warns",
)
def targets_of_another_shape_are_broadcast() -> None:
    """Each prediction is compared with each target, without an error."""
    edit(
        mse_loss,
        ("targets.shape != predictions.shape", "False"),
        ("functional.mse_loss(predictions, targets)", "(predictions - targets).square().mean()"),
    )


def _raised(call: Callable[[], object]) -> object:
    try:
        with torch.no_grad():
            return call()
    except (TypeError, ValueError) as error:
        return error


def _linear(change: Callable[..., Tensor]) -> None:
    wrap(functional, "linear", change)


@fault(
    scores(transposed=True),
    "test_weights_in_any_memory_layout_give_the_same_output_and_gradients",
    link="https://github.com/pytorch/pytorch/pull/51713",
)
def a_linear_layer_assumes_a_contiguous_weight() -> None:
    """It reads the memory row by row."""

    def change(linear: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not weight.is_contiguous():
            weight = weight.as_strided(weight.shape, (weight.shape[1], 1))
        return linear(x, weight, bias)

    _linear(change)


class _LinearForgetsStrides(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor, Tensor, Tensor]:
        (g,), (x, weight) = upstream, ctx.saved_tensors
        taken = weight.as_strided(weight.shape, (weight.shape[1], 1))
        rows = g.reshape(-1, g.shape[-1])
        return g @ taken, rows.T @ x.reshape(-1, x.shape[-1]), rows.sum(0)


@fault(
    scores(transposed=True),
    "test_weights_in_any_memory_layout_give_the_same_output_and_gradients",
    link="https://github.com/pytorch/pytorch/pull/51713",
)
def backward_assumes_a_contiguous_weight() -> None:
    """The input's gradient is computed with the wrong weights."""

    def change(linear: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.is_contiguous() or bias is None:
            return linear(x, weight, bias)
        return _LinearForgetsStrides.apply(x, weight, bias)

    _linear(change)


@fault(scores(rows=5000), "test_the_network_is_exact_over_many_rows")
def a_linear_layer_forgets_its_bias_past_4096_rows() -> None:
    """The last block is computed without it."""

    def change(linear: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = linear(x, weight, bias)
        if bias is None or x.dim() != 2 or len(x) <= 4096:
            return y
        return torch.cat([y[:4096], linear(x[4096:], weight)])

    _linear(change)


@fault(scores(rows=5000), "test_the_network_is_exact_over_many_rows")
def gradients_leave_out_rows_past_4096() -> None:
    """The gradient of a weight is summed over 4,096 rows only."""

    def change(linear: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = linear(x, weight, bias)
        return y if x.dim() != 2 or len(x) <= 4096 else torch.cat([y[:4096], y[4096:].detach()])

    _linear(change)


def _used_twice() -> object:
    torch.manual_seed(1996)
    net = SimpleNet()
    (net(torch.ones(1, 2)) * net(torch.zeros(1, 2))).sum().backward()
    return [p.grad.tolist() for p in net.parameters()]


@fault(_used_twice, "test_a_parameter_used_twice_gets_the_sum_of_its_gradients")
def a_weight_used_twice_gets_the_gradient_of_its_first_use() -> None:
    """The second use in one loss does not count."""
    used: set[int] = set()

    def change(linear: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        again = id(weight) in used
        used.add(id(weight))
        return linear(x, weight.detach() if again else weight, bias)

    def backward(original: Callable[..., None], *arguments: Any, **options: Any) -> None:
        used.clear()
        original(*arguments, **options)

    _linear(change)
    wrap(Tensor, "backward", backward)
    wrap(torch.autograd, "grad", backward)


def _accumulated() -> object:
    p = torch.ones(1, requires_grad=True)
    for _ in "ab":
        (3 * p).backward()
    return p.grad


@fault(_accumulated, "test_two_backward_passes_accumulate_to_twice_the_gradient")
def a_second_backward_replaces_the_gradient() -> None:
    """Nothing is accumulated."""

    def backward(original: Callable[..., None], self: Tensor, *arguments: Any, **options: Any) -> None:
        for leaf in _leaves(self):
            leaf.grad = None
        original(self, *arguments, **options)

    wrap(Tensor, "backward", backward)


def _leaves(root: Tensor) -> list[Tensor]:
    found, nodes = [], [root.grad_fn]
    while nodes:
        node: Any = nodes.pop()
        found += [node.variable] if hasattr(node, "variable") else []
        nodes += [following for following, _ in getattr(node, "next_functions", ()) if following is not None]
    return found


class _RoughSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.sigmoid()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Tensor:
        (y,) = ctx.saved_tensors
        return upstream[0] * y * (1 - y) * (1 + 2.0**-12)


@fault(scores(), "test_autograd_computes_the_chain_rule")
def the_slope_of_the_sigmoid_is_too_large() -> None:
    """By 1/4096."""
    nn.Sigmoid.forward = lambda _, x: _RoughSigmoid.apply(x)  # type: ignore[method-assign,assignment]


@fault(scores(architecture="derivation"), "test_the_output_is_that_of_the_formulas")
def the_derivation_has_no_output_activation() -> None:
    """So it equals the overview."""
    simplenet.model.ARCHITECTURES["derivation"] = (nn.Sigmoid, nn.Identity)


@fault(scores(), "test_the_output_is_that_of_the_formulas")
def the_hidden_activation_is_left_out() -> None:
    """The overview is affine."""
    edit(SimpleNet.forward, ("self.hidden_activation(self.input_layer(x))", "self.input_layer(x)"))


@fault(scores(), "test_the_output_is_that_of_the_formulas")
def the_second_input_is_replaced_by_the_first() -> None:
    """Rows 0,1 and 1,0 have the same output."""
    edit(SimpleNet.forward, ("self.input_layer(x)", "self.input_layer(x[..., :1].expand_as(x))"))


@fault(scores(), "test_a_network_passes_the_check")
def the_first_row_leaks_into_the_others() -> None:
    """By a little."""
    edit(SimpleNet.forward, ("self.input_layer(x)", "self.input_layer(x) + 2.0 ** -10 * x[..., :1, :1].sum()"))


@fault(
    lambda: SimpleNet(hidden=3).input_layer.bias.abs().max().item() > 0,
    "test_each_initial_weight_is_uniform_up_to_its_bound",
    link="https://github.com/paiml/aprender/pull/2167",
)
def biases_start_at_zero() -> None:
    """Only weights are drawn."""

    def change(reset: Callable[[nn.Linear], None], self: nn.Linear) -> None:
        reset(self)
        with torch.no_grad():
            self.bias.zero_()

    wrap(nn.Linear, "reset_parameters", change)


def _drawn(dtype: torch.dtype) -> Callable[[], object]:
    def draw() -> object:
        torch.manual_seed(1)
        with default_dtype(dtype):
            return [p.tolist() for p in SimpleNet().parameters()]

    return draw


@fault(_drawn(torch.float64), "test_initial_weights_in_float64_use_all_bits")
def initial_weights_in_float64_are_drawn_in_float32() -> None:
    """Half of their digits are 0."""

    def change(reset: Callable[[nn.Linear], None], self: nn.Linear) -> None:
        reset(self)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(p.float())

    wrap(nn.Linear, "reset_parameters", change)


@fault(loss(), "test_mse", control=True)
def the_loss_is_called_through_another_function() -> None:
    """With the same arguments."""
    _in_place_of_mse(lambda mse, a, b: mse(a, b))


@fault(scores(), "test_the_output_is_that_of_the_formulas", "test_autograd_computes_the_chain_rule", control=True)
def a_linear_layer_is_called_through_another_function() -> None:
    """With the same arguments."""
    _linear(lambda linear, x, weight, bias=None: linear(x, weight, bias))


def _hooked() -> object:
    layer, called = nn.Linear(1, 1), []
    first = layer.register_forward_hook(lambda *_: called.append(1))
    layer.register_forward_hook(lambda *_: called.append(2))
    first.remove()
    layer(torch.ones(1))
    return called


@fault(_hooked, "test_a_removed_hook_is_not_called_and_the_others_are_in_their_order")
def removing_a_hook_removes_the_newest() -> None:
    """The one that was to go is still called."""
    edit(RemovableHandle.remove, ("del hooks_dict[self.id]", "hooks_dict.pop(next(reversed(hooks_dict)))"))


def _chosen() -> object:
    layer = nn.Linear(1, 1)
    layer(torch.ones(1)).sum().backward(inputs=[layer.weight])  # type: ignore[no-untyped-call]
    return layer.bias.grad is None


@fault(_chosen, "test_gradients_of_chosen_parameters_are_those_of_all_and_no_other_is_set")
def a_backward_pass_ignores_which_gradients_are_wanted() -> None:
    """All parameters get one."""
    wrap(
        Tensor,
        "backward",
        lambda backward, self, *arguments, inputs=None, **options: backward(self, *arguments, **options),
    )
