"""Faults in torch's optimizers: Adam in each implementation, AdamW, SGD, and what all of them share."""

import copy
import importlib
import math
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from tests.faults.planting import catalogue, edit, wrap

FAULTS, fault = catalogue("optimizers")

# torch.optim has classes by the names of its modules.
ADAM, ADAMW, SGD, OPTIMIZER = (
    importlib.import_module(f"torch.optim.{name}") for name in ("adam", "adamw", "sgd", "optimizer")
)


def path(
    cls: type[Optimizer] = Adam,
    *,
    numbers: int = 3,
    tensors: int = 1,
    dtype: torch.dtype = torch.float32,
    gradients: tuple[float, ...] = (1.0, -0.5, 0.25),
    **options: Any,
) -> Callable[[], object]:
    """Witness the parameters after a few steps."""

    def walk() -> object:
        parameters = [torch.ones(numbers, dtype=dtype, requires_grad=True) for _ in range(tensors)]
        optimizer = cls(parameters, **options)
        for g in gradients:
            for p in parameters:
                p.grad = torch.full_like(p, g)
            optimizer.step()
        return [(p.detach()[:3].tolist(), p.detach()[-1].item()) for p in parameters]

    return walk


FOR_LOOP, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}
# The name of each implementation in torch, its flags, and the first torch that has it on the CPU.
IMPLEMENTATIONS = ("single_tensor", FOR_LOOP, (2, 0)), ("multi_tensor", FOREACH, (2, 0)), ("fused", FUSED, (2, 4))


def around(kind: str, change: Callable[..., Any]) -> None:
    """Wrap the step function of an implementation of Adam and AdamW: ``single_tensor``, ``multi_tensor``, ``fused``.

    ``change`` is called with the function and its lists: parameters, gradients, first and second moments, largest
    second moments and counts, as tuples; and its options.
    """
    for module in (ADAM, ADAMW):
        for name in (f"_{kind}_adam", f"_{kind}_adamw"):
            if hasattr(module, name):
                wrap(module, name, lambda step, *lists, **options: change(step, list(lists), options))


def check(name: str, adam: str = "foreach") -> str:
    """Name the case of a check of ``simplenet.testing``."""
    return f"test_an_implementation_passes_the_check[{adam}-cpu-{name}]"


@fault(
    path(tensors=40, **FOREACH),
    check("each parameter moves independently"),
    link="https://github.com/NVIDIA/TransformerEngine/issues/3207",
)
def foreach_skips_the_last_of_many_parameters() -> None:
    """Past 30 parameters, the last one is not launched."""
    around(
        "multi_tensor",
        lambda step, lists, options: step(*(part[:-1] if len(lists[0]) > 30 else part for part in lists), **options),
    )


@fault(
    path(tensors=150, **FOREACH),
    "test_a_first_step_is_exact_at_every_size",
    link="https://github.com/NVIDIA/TransformerEngine/issues/3207",
)
def foreach_skips_the_last_of_110_parameters() -> None:
    """Past 110 parameters, as many as one launch of CUDA's kernels takes, the last one is not launched."""
    around(
        "multi_tensor",
        lambda step, lists, options: step(*(part[:-1] if len(lists[0]) > 110 else part for part in lists), **options),
    )


def _tail_dropped(step: Callable[..., Any], lists: list[Any], options: dict[str, Any]) -> None:
    kept = [(p, p.detach()[2**16 :].clone()) for p in lists[0] if p.dim() and len(p) > 2**16]
    step(*lists, **options)
    with torch.no_grad():
        for p, tail in kept:
            p[2**16 :] = tail


for _kind, _flags, _since in IMPLEMENTATIONS:

    def _plant(kind: str = _kind) -> None:
        """Past 65,536 entries, a kernel's chunk, a parameter stays as it is."""
        around(kind, _tail_dropped)

    _plant.__name__ = f"{_kind}_stops_after_a_chunk"
    fault(path(numbers=2**16 + 5, **_flags), "test_a_first_step_is_exact_at_every_size", since=_since)(_plant)


def _shared_count(step: Callable[..., Any], lists: list[Any], options: dict[str, Any]) -> None:
    counts = lists[5]
    own = [count.clone() for count in counts]
    for count in counts:
        count.copy_(counts[0])
    step(*lists, **options)
    for count, before in zip(counts, own, strict=True):
        count.copy_(before + 1)


def _late_gradient() -> object:
    first, second = (torch.ones(3, requires_grad=True) for _ in "ab")
    optimizer = Adam([first, second], foreach=True)
    for late in (None, torch.ones(3)):
        first.grad, second.grad = torch.ones(3), late
        optimizer.step()
    return second.tolist()


@fault(
    _late_gradient,
    check("a parameter without a gradient does not move"),
    link="https://github.com/InfiniTensor/InfiniTrain/issues/235",
)
def foreach_corrects_all_by_the_first_count() -> None:
    """A parameter that gets its first gradient late is corrected for bias by another's count."""
    around("multi_tensor", _shared_count)


def _maximum_forgotten(step: Callable[..., Any], lists: list[Any], options: dict[str, Any]) -> None:
    before = [m.clone() for m in lists[4]]
    step(*lists, **options)
    for m, old in zip(lists[4], before, strict=True):
        m.copy_(old)


@fault(
    path(amsgrad=True, betas=(0.5, 0.5), gradients=(4.0, 0.5, 0.25), **FOREACH),
    "test_one_step_from_any_state_is_that_of_algorithm_1",
    link="https://github.com/pytorch/pytorch/issues/78807",
)
def foreach_does_not_keep_the_largest_second_moment() -> None:
    """AMSGrad's maximum is used and not written back."""
    around("multi_tensor", _maximum_forgotten)


@fault(path(maximize=True, **FUSED), check("maximizing is minimizing the negated gradients", "fused"), since=(2, 4))
def fused_ignores_maximize() -> None:
    """It goes downhill all the same."""
    around("fused", lambda step, lists, options: step(*lists, **options | {"maximize": False}))


def _skipped(cls: type[Optimizer], **options: Any) -> Callable[[], object]:
    def walk() -> object:
        p = torch.ones(3, requires_grad=True)
        optimizer: Any = cls([p], fused=True, **options)
        for overflow in (0.0, 1.0, 0.0):
            optimizer.found_inf, optimizer.grad_scale = torch.tensor(overflow), torch.tensor(1.0)
            p.grad = torch.ones(3)
            optimizer.step()
        return [p.tolist(), *(value.tolist() for value in optimizer.state[p].values())]

    return walk


@fault(
    _skipped(Adam),
    "test_a_step_skipped_for_an_overflow_changes_neither_the_parameters_nor_later_steps",
    since=(2, 4),
    link="https://github.com/huggingface/accelerate/issues/4242",
)
def fused_counts_a_skipped_step() -> None:
    """A step that is skipped for an overflow increments the step count."""

    def change(step: Callable[..., Any], lists: list[Any], options: dict[str, Any]) -> None:
        step(*lists, **options)
        if options.get("found_inf") is not None and options["found_inf"].item():
            for count in lists[5]:
                count.add_(1)

    around("fused", change)


@fault(_skipped(Adam), "test_a_skipped_step_changes_neither_the_parameters_nor_later_steps", since=(2, 4))
def fused_takes_a_step_that_it_should_skip() -> None:
    """The flag of the gradient scaler is ignored."""
    around("fused", lambda step, lists, options: step(*lists, **options | {"found_inf": None}))


@fault(
    _skipped(torch.optim.SGD, lr=0.1, momentum=0.9),
    "test_a_skipped_step_changes_neither_the_parameters_nor_later_steps",
    since=(2, 4),
    link="https://github.com/LibreYOLO/libreyolo/pull/771",
)
def sgd_moves_its_momentum_in_a_skipped_step() -> None:
    """A step that is skipped for an overflow changes the momentum, but not the parameter."""

    def change(step: Callable[..., Any], params: Any, grads: Any, buffers: Any, *rest: Any, **options: Any) -> None:
        step(params, grads, buffers, *rest, **options)
        if options.get("found_inf") is not None and options["found_inf"].item():
            for buffer in buffers:
                if buffer is not None:
                    buffer.mul_(0.5)

    wrap(SGD, "_fused_sgd", change)


@fault(
    path(AdamW, weight_decay=0.5, **FOR_LOOP),
    "test_one_step_from_any_state_is_that_of_algorithm_1",
    since=(2, 7),
    link="https://github.com/apple/axlearn/pull/218",
)
def adamw_decays_through_the_gradient() -> None:
    """AdamW's decay enters the moments, as L2 does."""
    around("single_tensor", lambda step, lists, options: step(*lists, **options | {"decoupled_weight_decay": False}))


def _default(cls: type[Optimizer], name: str, value: Any) -> None:
    def make(original: Callable[..., None], self: Optimizer, params: Any, *arguments: Any, **options: Any) -> None:
        original(self, params, *arguments, **({name: value} | options))

    wrap(cls, "__init__", make)


@fault(
    lambda: AdamW([torch.zeros(1, requires_grad=True)]).defaults["weight_decay"],
    "test_the_defaults_are_those_of_the_documentation",
    link="https://github.com/nntile/nntile/pull/427",
)
def the_default_decay_of_adamw_is_zero() -> None:
    """Its weight decay is 0 by default."""
    _default(AdamW, "weight_decay", 0.0)


@fault(
    lambda: Adam([torch.zeros(1, requires_grad=True)]).defaults["eps"],
    "test_the_defaults_are_those_of_the_documentation[Adam]",
)
def the_default_epsilon_of_adam_is_tensorflows() -> None:
    """It is 1e-7 by default."""
    _default(Adam, "eps", 1e-7)


def _loaded(dtype: torch.dtype) -> Callable[[], object]:
    def walk() -> object:
        p = torch.ones(3, dtype=dtype, requires_grad=True)
        optimizer = Adam([p], lr=0.125)
        p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.state[p]["step"].fill_(301)
        other = Adam([p], lr=0.5)
        other.load_state_dict(optimizer.state_dict())
        return [other.param_groups[0]["lr"], *(value.tolist() for value in other.state[p].values())]

    return walk


@fault(
    _loaded(torch.bfloat16),
    "test_a_state_loaded_from_a_file_takes_the_same_steps_bit_for_bit",
    link="https://github.com/pytorch/pytorch/issues/75224",
)
def loading_casts_the_count_to_the_parameters_type() -> None:
    """Bfloat16 cannot represent 301."""

    def change(load: Callable[..., None], self: Optimizer, state_dict: dict[str, Any]) -> None:
        load(self, state_dict)
        for p, own in self.state.items():
            if isinstance(own.get("step"), Tensor):
                own["step"] = own["step"].to(p.dtype)

    wrap(Optimizer, "load_state_dict", change)


@fault(_loaded(torch.float32), "test_a_state_loaded_from_a_file_takes_the_same_steps_bit_for_bit")
def loading_keeps_the_rate_of_the_constructor() -> None:
    """The learning rate in the state is not loaded."""

    def change(load: Callable[..., None], self: Optimizer, state_dict: dict[str, Any]) -> None:
        rates = [group["lr"] for group in self.param_groups]
        load(self, state_dict)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate

    wrap(Optimizer, "load_state_dict", change)


def _copied(how: Callable[[Any], Any]) -> Callable[[], object]:
    def walk() -> object:
        p = torch.ones(3, requires_grad=True)
        optimizer = Adam([p], betas=(0.5, 0.5), amsgrad=True)
        p.grad = torch.full((3,), 4.0)
        optimizer.step()
        twin, q = how((optimizer, p))
        q.grad = torch.full((3,), 0.5)
        twin.step()
        return q.tolist()

    return walk


@fault(_copied(copy.deepcopy), check("a deep copy continues identically"))
def a_deep_copy_starts_afresh() -> None:
    """The moments are not copied."""

    def change(self: Optimizer, memo: dict[int, Any]) -> Optimizer:
        twin: Optimizer = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin.state.clear()
        return twin

    Optimizer.__deepcopy__ = change  # type: ignore[attr-defined]


@fault(_copied(lambda both: pickle.loads(pickle.dumps(both))), check("a pickled copy continues identically"))
def a_pickled_copy_forgets_the_largest_second_moment() -> None:
    """AMSGrad's maximum starts at 0 again."""

    def change(get: Callable[..., dict[str, Any]], self: Optimizer) -> dict[str, Any]:
        state = get(self)
        kept = copy.copy(state["state"])
        for p, own in kept.items():
            kept[p] = {k: torch.zeros_like(v) if k == "max_exp_avg_sq" else v for k, v in own.items()}
        return {**state, "state": kept}

    wrap(Optimizer, "__getstate__", change)


for _kind, _flags, _since in IMPLEMENTATIONS:

    def _plant(kind: str = _kind) -> None:
        """A gradient of NaN is taken for 0."""

        def change(step: Callable[..., Any], lists: list[Any], options: dict[str, Any]) -> None:
            finite = [g.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf) for g in lists[1]]
            step(lists[0], finite, *lists[2:], **options)

        around(kind, change)

    _plant.__name__ = f"{_kind}_hides_nan"
    fault(
        path(gradients=(math.nan,), **_flags),
        "test_a_nonfinite_gradient_stays_in_its_entry_of_the_moments",
        since=_since,
    )(_plant)


@fault(path(gradients=(math.inf,), **FOREACH), check("a gradient that is not finite is seen in its entry"))
def foreach_cuts_infinity_to_the_largest_number() -> None:
    """So an overflow is not detected."""

    def change(step: Callable[..., Any], lists: list[Any], options: dict[str, Any]) -> None:
        step(lists[0], [g.nan_to_num(nan=torch.nan) for g in lists[1]], *lists[2:], **options)

    around("multi_tensor", change)


def _cleared(set_to_none: bool) -> Callable[[], object]:
    def walk() -> object:
        p, q = (torch.ones(2, requires_grad=True) for _ in "ab")
        optimizer = Adam([{"params": [p]}, {"params": [q]}])
        p.grad = q.grad = torch.tensor([1.0, torch.nan])
        optimizer.zero_grad(set_to_none=set_to_none)
        return p.grad, q.grad

    return walk


@fault(_cleared(set_to_none=False), check("clearing gradients clears them"))
def zero_grad_multiplies_by_zero() -> None:
    """0 times NaN is NaN."""

    def change(clear: Callable[..., None], self: Optimizer, set_to_none: bool = True) -> None:
        if set_to_none:
            clear(self, set_to_none=True)
            return
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad = p.grad * 0

    wrap(Optimizer, "zero_grad", change)


@fault(_cleared(set_to_none=True), check("clearing gradients clears them"))
def zero_grad_skips_the_second_group() -> None:
    """Only the first group's gradients are cleared."""

    def change(clear: Callable[..., None], self: Optimizer, set_to_none: bool = True) -> None:
        groups = self.param_groups
        self.param_groups = groups[:1]
        clear(self, set_to_none=set_to_none)
        self.param_groups = groups

    wrap(Optimizer, "zero_grad", change)


def _with_closure() -> object:
    p = torch.zeros(1, requires_grad=True)
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        p.grad = torch.ones(1)
        return 3.0

    return Adam([p], lr=1.0).step(closure), calls, p.tolist()


@fault(
    _with_closure,
    check("a closure is called once and its loss returned"),
    link="https://github.com/HomebrewML/HeavyBall/issues/10",
)
def a_closure_is_called_with_gradients_off() -> None:
    """Its loss cannot be differentiated."""

    def change(step: Callable[..., Any], self: Adam, closure: Callable[[], Any] | None = None) -> Any:
        return step(self, closure and torch.no_grad()(closure))

    wrap(Adam, "step", change)


@fault(
    _with_closure,
    check("a closure is called once and its loss returned"),
    link="https://github.com/davda54/sam/pull/91",
)
def a_closure_is_ignored() -> None:
    """The step uses the old gradient."""
    wrap(Adam, "step", lambda step, self, closure=None: step(self))


def _with_two_groups() -> object:
    calls: list[None] = []
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
    Adam(groups).step(lambda: calls.append(None))  # type: ignore[arg-type, return-value]
    return len(calls)


@fault(
    _with_two_groups,
    check("a closure is called once and its loss returned"),
    "test_a_step_calls_a_hook_its_closure_and_a_hook_in_this_order",
)
def a_closure_is_called_for_each_group() -> None:
    """With two groups, the gradients of two calls add up."""
    edit(Adam.step, ("loss = closure()", "loss = [closure() for _ in self.param_groups][0]"))


def _cleared() -> object:
    p, buffer = torch.ones(3, requires_grad=True), torch.ones(5)
    p.grad = buffer[1:4]
    Adam([p]).zero_grad(set_to_none=False)
    return buffer.tolist()


@fault(_cleared, "test_clearing_to_zero_keeps_the_gradients_memory")
def gradients_are_replaced_by_zeros() -> None:
    """A buffer that holds all gradients keeps the old ones."""
    edit(Optimizer.zero_grad, ("p.grad.zero_()", "p.grad = torch.zeros_like(p.grad)"))


def _loaded_rate() -> object:
    saving, loading = (Adam([torch.zeros(1)], lr=torch.tensor(lr), foreach=False) for lr in (0.5, 0.25))
    loading.load_state_dict(saving.state_dict())
    loading.param_groups[0]["lr"].fill_(0.125)
    return saving.param_groups[0]["lr"].item()


@fault(_loaded_rate, "test_a_learning_rate_that_is_a_tensor_is_copied_when_it_is_loaded", since=(2, 1))
def a_loaded_learning_rate_is_shared() -> None:
    """Two optimizers that load one state follow one schedule."""
    shallow = "[dict(group) for group in state_dict['param_groups']]"
    edit(Optimizer.load_state_dict, ("deepcopy(state_dict['param_groups'])", shallow))


def _decay_after_loading() -> object:
    p = torch.ones(1, requires_grad=True)
    optimizer = AdamW([p], weight_decay=0.5)
    optimizer.load_state_dict(Adam([p], weight_decay=0.5).state_dict())
    p.grad = torch.zeros(1)
    optimizer.step()
    return p.item()


@fault(_decay_after_loading, "test_adamw_decouples_its_decay_though_it_loads_a_state_of_adam", since=(2, 7))
def adamw_takes_its_kind_of_decay_from_a_loaded_state() -> None:
    """It decays as Adam does from then on."""
    old, new = "group['decoupled_weight_decay'] = True", "group.setdefault('decoupled_weight_decay', True)"
    edit(AdamW.__setstate__, (old, new))


@fault(
    path(dtype=torch.complex64, gradients=(1 + 1j, -0.5 + 2j), **FOR_LOOP),  # type: ignore[arg-type]
    "test_a_complex_parameter_moves_as_its_real_and_imaginary_parts",
)
def the_loop_conjugates_complex_gradients() -> None:
    """As in frameworks that define them so."""
    edit(
        ADAM._single_tensor_adam,
        ("grad = torch.view_as_real(grad)", "grad = torch.view_as_real(grad.conj().resolve_conj())"),
    )


def _overwritten() -> object:
    p = torch.zeros(1, requires_grad=True)
    optimizer = SGD.SGD([p], lr=1.0, momentum=0.5, foreach=True)
    p.grad = torch.ones(1)
    for _ in range(2):
        optimizer.step()
        p.grad.zero_()
    return p.item()


@fault(_overwritten, "test_a_gradient_may_be_overwritten_after_its_step")
def momentum_begins_with_the_gradient_itself() -> None:
    """Clearing the gradient clears the momentum."""
    edit(SGD._multi_tensor_sgd, ("device_grads[i].detach().clone()", "device_grads[i].detach()"))


def _hooked() -> object:
    p = torch.zeros(1, requires_grad=True)
    optimizer, seen = Adam([p], lr=1.0), []
    optimizer.register_step_pre_hook(lambda *_: seen.append(p.item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(p.item()))
    optimizer.load_state_dict(optimizer.state_dict())
    p.grad = torch.ones(1)
    optimizer.step()
    return seen


@fault(_hooked, "test_a_step_calls_a_hook_its_closure_and_a_hook_in_this_order")
def loading_a_state_removes_the_hooks_after_a_step() -> None:
    """They are never called again."""
    edit(Optimizer.__setstate__, ("if '_optimizer_step_post_hooks' not in self.__dict__:", "if True:"))


@fault(_hooked, "test_a_step_calls_a_hook_its_closure_and_a_hook_in_this_order")
def hooks_after_a_step_run_before_it() -> None:
    """They see the parameters before the step."""

    def change(register: Callable[..., Any], self: Optimizer, hook: Callable[..., None]) -> Any:
        return self.register_step_pre_hook(lambda *given: hook(*given) and None)

    wrap(Optimizer, "register_step_post_hook", change)


def _two_rates() -> object:
    p, q = (torch.zeros(1, requires_grad=True) for _ in "ab")
    optimizer = Adam([{"params": [p], "lr": 1.0}, {"params": [q], "lr": 0.5}])
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    return p.tolist(), q.tolist()


@fault(
    _two_rates,
    "test_parameter_groups_are_independent_in_any_order",
    link="https://github.com/LiyuanLucasLiu/RAdam/issues/24",
)
def the_rate_of_the_first_group_is_all_groups() -> None:
    """Another group's own is ignored."""

    def change(step: Callable[..., Any], self: Adam, closure: Callable[[], Any] | None = None) -> Any:
        own = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = own[0]
        result = step(self, closure)
        for group, rate in zip(self.param_groups, own, strict=True):
            group["lr"] = rate
        return result

    wrap(Adam, "step", change)


def _added_later() -> object:
    p, q = (torch.zeros(1, requires_grad=True) for _ in "ab")
    optimizer = Adam([p], lr=1.0)
    p.grad = torch.ones(1)
    optimizer.step()
    optimizer.add_param_group({"params": [q], "lr": 0.5, "betas": (0.5, 0.5)})
    return [(group["lr"], group["betas"]) for group in optimizer.param_groups]


@fault(_added_later, "test_parameter_groups_are_independent_in_any_order")
def a_group_that_is_added_later_loses_its_rate() -> None:
    """It gets the first group's rate."""

    def change(add: Callable[..., None], self: Optimizer, group: dict[str, Any]) -> None:
        add(self, group)
        if len(self.param_groups) > 1 and self.state:
            self.param_groups[-1]["lr"] = self.param_groups[0]["lr"]

    wrap(Optimizer, "add_param_group", change)


def _second_optimizer() -> object:
    p = torch.zeros(1, requires_grad=True)
    for _ in "ab":
        optimizer = Adam([p], lr=1.0, betas=(0.5, 0.5))
        for g in (1.0, 4.0):
            p.grad = torch.full((1,), g)
            optimizer.step()
    return p.item()


@fault(_second_optimizer, check("a new optimizer starts without state"))
def the_state_is_kept_by_parameter_and_not_by_optimizer() -> None:
    """A second optimizer of the same parameters continues with the moments of the first."""
    everywhere: dict[int, Any] = {}

    def change(step: Callable[..., Any], self: Adam, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                kept = everywhere.get(id(p))
                if not self.state[p] and kept is not None and kept[0] is p:
                    self.state[p] = kept[1]
        result = step(self, closure)
        for p, own in self.state.items():
            everywhere[id(p)] = p, own
        return result

    wrap(Adam, "step", change)


@fault(
    path(dtype=torch.float64, gradients=(1.0, 1 / 3, 0.1), **FOREACH),
    "test_one_step_from_any_state_is_that_of_algorithm_1",
)
def foreach_computes_float64_in_float32() -> None:
    """Seven digits of fifteen are right."""

    def change(step: Callable[..., Any], lists: list[Any], options: dict[str, Any]) -> None:
        step(lists[0], [g.float().to(g.dtype) for g in lists[1]], *lists[2:], **options)

    around("multi_tensor", change)


@fault(path(lr=0.0, gradients=(1.0,), **FUSED), "test_a_learning_rate_of_zero_moves_nothing", since=(2, 4))
def fused_takes_a_rate_of_zero_for_the_default() -> None:
    """A warm-up starts with a step of 1e-3."""
    around("fused", lambda step, lists, options: step(*lists, **options | {"lr": options["lr"] or 1e-3}))


@fault(path(weight_decay=0.5, **FOR_LOOP), check("gradients are not written to", "for-loop"))
def the_loop_decays_the_callers_gradient() -> None:
    """L2 decay is added to it in place."""

    def change(step: Callable[..., Any], lists: list[Any], options: dict[str, Any]) -> None:
        if options["weight_decay"]:
            for p, g in zip(lists[0], lists[1], strict=True):
                g.add_(p, alpha=1e-3)
        step(*lists, **options)

    around("single_tensor", change)


@fault(
    path(),
    "test_one_step_from_any_state_is_that_of_algorithm_1",
    "test_parameter_groups_are_independent_in_any_order",
    control=True,
)
def every_implementation_is_called_through_another_function() -> None:
    """With the same arguments."""
    for kind in ("single_tensor", "multi_tensor", "fused"):
        around(kind, lambda step, lists, options: step(*lists, **options))


@fault(_loaded(torch.float32), check("a saved run continues as if never interrupted"), control=True)
def a_state_is_copied_before_it_is_loaded() -> None:
    """As by saving and loading a file."""
    wrap(Optimizer, "load_state_dict", lambda load, self, state: load(self, copy.deepcopy(state)))
