"""The checks of an optimizer's interface: groups, schedules, closures, state, memory layout, and unwanted writes.

Most of them compare the bits of two runs of the same optimizer, so they apply to any optimizer.
"""

import copy
import inspect
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from simplenet.testing.assertions import shown
from simplenet.testing.layouts import LAYOUTS, place
from simplenet.testing.optimizers import SPELLINGS, Driven, SubjectError, attempt, spelled
from simplenet.testing.oracle import Run, judge
from simplenet.testing.runner import Check, NotApplicable
from simplenet.testing.study import Study, short, units

_SHAPE = (2, 5)
_STEPS = 3


def _start(shape: tuple[int, ...] = _SHAPE) -> Tensor:
    """Return initial parameters that are not 0."""
    return units(1, shape, 11)[0]


def _gradients(study: Study, steps: int = _STEPS, shape: tuple[int, ...] = _SHAPE) -> list[Tensor]:
    return [study.gradient(g) for g in units(steps, shape, 12)]


def _falling(study: Study, steps: int = _STEPS) -> list[Tensor]:
    """Return gradients that shrink, so that AMSGrad's maximum matters."""
    return [g * 4.0**-i for i, g in enumerate(_gradients(study, steps))]


def _stepped(driven: Driven, gradients: Sequence[Tensor]) -> Driven:
    """Take a step of an optimizer of one parameter for each gradient."""
    for g in gradients:
        driven.step(g.clone())
    return driven


def _default_result(study: Study, **wanted: Any) -> Tensor:
    """Return the parameter after the default steps with these hyper-parameters."""
    return _stepped(study.driven(_start(), **wanted), _gradients(study)).values()[0]


def _same(actual: Tensor, expected: Tensor) -> Tensor:
    """Whether each entry is the same; NaN equals NaN, and 0 equals -0."""
    return (actual == expected) | (actual.isnan() & expected.isnan())


def _demand_same(actual: Tensor, expected: Tensor, what: str) -> None:
    different = (~_same(actual, expected)).flatten()
    if different.any():
        i = int(different.int().argmax())
        a, e = (shown(tensor.flatten()[i].item(), tensor.dtype) for tensor in (actual, expected))
        raise AssertionError(f"{what}: entry {i} is {a}, but should be {e}")


def _needs(study: Study, *names: str) -> None:
    for name in names:
        if not hasattr(study.subject.sample, name):
            raise NotApplicable(f"it has no {name}")
        if name == "param_groups" and not all(isinstance(group, dict) for group in study.subject.sample.param_groups):
            raise NotApplicable("its param_groups are not dictionaries")


def _needs_groups(study: Study) -> None:
    if study.subject.foreign:
        raise NotApplicable("an adapter takes a list of parameters, without groups")
    if hasattr(study.subject.sample, "param_groups"):
        _needs(study, "param_groups")
        return
    try:
        study.subject.build([{"params": [study.parameter([0.0])]}])
    except SubjectError as error:
        raise NotApplicable(f"it takes no groups: {error}") from None


def _grouped(study: Study, tensors: list[Tensor]) -> list[Any]:
    """Put each parameter in a group of its own, if the optimizer takes groups."""
    try:
        _needs_groups(study)
    except NotApplicable:
        return [*tensors]
    return [{"params": [p]} for p in tensors]


# Options that change what a step keeps or computes.
_OPTIONS: dict[str, Any] = {"weight_decay": 0.1, "amsgrad": True, "maximize": True}


def _taken(study: Study, options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in study.subject.takes}


def _all_options(study: Study) -> dict[str, Any]:
    """Return a small beta2 and, unless its constructor refuses them together, all of these options that it takes."""
    short_average = {"beta2": 0.5}
    options = short_average | _taken(study, _OPTIONS)
    try:
        study.driven(_start(), **options)
    except SubjectError:
        return short_average
    return options


def the_same_run_repeats_itself(study: Study) -> None:
    """Twice in one process, bit for bit, in each type.

    In 16 bits it may round at random, by torch's generator. It seeds that in no type.
    """
    for dtype in study.taken:
        ends, generators = [], []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            driven = study.driven(_start(), dtype=dtype)
            ends.append(_stepped(driven, [study.gradient(g, dtype) for g in _gradients(study)]).values()[0])
            generators.append(torch.get_rng_state())
        again = ends[1 if dtype in (torch.bfloat16, torch.float16) else 2]
        _demand_same(again, ends[0], f"second run in {short(dtype)}")
        if torch.equal(generators[1], generators[2]):
            raise AssertionError(f"the steps in {short(dtype)} seed torch's generator, which is the caller's")


def no_option_is_without_effect(study: Study) -> None:
    """Each hyper-parameter that it takes changes the result."""
    gradients = _falling(study)
    changed: list[tuple[str, str, Any]] = [
        ("lr", "lr", 2.0**-4), ("betas", "beta1", 0.5), ("betas", "beta2", 0.75), ("eps", "eps", 0.25),
        ("weight_decay", "weight_decay", 0.5), ("amsgrad", "amsgrad", True), ("maximize", "maximize", True),
    ]  # fmt: skip
    default = _stepped(study.driven(_start(), beta2=0.5), gradients).values()[0]
    without = []
    for argument, name, value in changed:
        if argument in study.subject.takes:
            try:
                end = _stepped(study.driven(_start(), **{"beta2": 0.5, name: value}), gradients).values()[0]
            except SubjectError as error:
                if not str(error).endswith("when it is constructed"):
                    raise
                continue  # refusing the value is an effect
            if _same(end, default).all():
                without.append(f"{name} {value}")
    if without:
        raise AssertionError(f"{', '.join(without)} does not change the result")


def maximizing_is_minimizing_the_negated_gradients(study: Study) -> None:
    """Bit for bit."""
    if "maximize" not in study.subject.takes:
        raise NotApplicable("it takes no maximize")
    maximized = _default_result(study, maximize=True)
    negated = _stepped(study.driven(_start()), [-g for g in _gradients(study)]).values()[0]
    _demand_same(maximized, negated, f"parameter after {_STEPS} steps with maximize=True")


def a_parameter_without_a_gradient_does_not_move(study: Study) -> None:
    """Before its first gradient and later; its step is not counted, and the other parameters are not affected."""
    if study.subject.foreign:
        raise NotApplicable("an adapter gives every parameter a gradient")
    first, second, third = _gradients(study)
    driven = study.driven(_start(), _start(), _start())
    driven.step(None, first.clone(), first.clone())
    _demand_same(driven.values()[0], study.gradient(_start()).cpu(), "parameter that never had a gradient")
    before = driven.values()[1]
    driven.step(None, None, second.clone())
    _demand_same(driven.values()[1], before, "parameter that no longer has a gradient")
    driven.step(third.clone(), third.clone(), third.clone())
    for p, given, what in zip(
        driven.values(),
        ([third], [first, third], [first, second, third]),
        ("the third", "the first and the third", "each"),
        strict=True,
    ):
        _demand_same(
            p,
            _stepped(study.driven(_start()), given).values()[0],
            f"parameter with a gradient in {what} of three steps",
        )


def gradients_are_not_written_to(study: Study) -> None:
    """With each of the options and with all of them; a large gradient could be clipped in place.

    Nor are they kept: writing to one after its step changes nothing, as ``zero_grad(set_to_none=False)`` does.
    """
    for options in ({}, *({name: value} for name, value in _OPTIONS.items()), _OPTIONS):
        usable = _taken(study, options)
        try:
            driven, overwritten = (study.driven(_start(), **usable) for _ in range(2))
        except SubjectError:
            continue  # a constructor may refuse AMSGrad
        told = f"with {usable or 'no options'}"
        wanted = [*_gradients(study), 2.0**10 * _gradients(study)[0]]
        given: list[Tensor] = []
        for g in wanted:
            given.append(g.clone())
            driven.step(given[-1])
            for t, (actual, expected) in enumerate(zip(given, wanted, strict=False)):
                _demand_same(actual.cpu(), expected.cpu(), f"gradient {t + 1} after step {len(given)} {told}")
            once = g.clone()
            overwritten.step(once)
            once.fill_(float("nan"))
        _demand_same(
            overwritten.values()[0],
            driven.values()[0],
            f"parameter after gradients that became NaN after their step, {told}",
        )


def hyper_parameters_are_not_written_to(study: Study) -> None:
    """The steps do not change those in the groups, with all of the options, nor an lr that is a tensor."""
    _needs(study, "param_groups")
    driven = study.driven(_start(), **_all_options(study))

    names = {spelling for name in study.subject.takes for spelling in _held_by(study, name) or ()}

    def held() -> list[dict[str, Any]]:
        return [
            {k: copy.deepcopy(v) for k, v in group.items() if k in names} for group in driven.optimizer.param_groups
        ]

    before = held()
    _stepped(driven, _gradients(study))
    after = held()
    for old, new in zip(before, after, strict=True):
        for name, value in old.items():
            if not new[name] == value:
                raise AssertionError(f"{name} of a group is {new[name]} after {_STEPS} steps, but was given as {value}")
    lr = torch.tensor(2.0**-6, device=study.device)
    try:
        _stepped(study.driven(_start(), lr=lr), _gradients(study))
    except SubjectError:
        return  # it takes no tensor as lr
    if float(lr) != 2.0**-6:
        raise AssertionError(f"lr, a tensor, is {float(lr):g} after {_STEPS} steps, but was given as {2.0**-6:g}")


def the_callers_group_is_not_written_to(study: Study) -> None:
    """If one optimizer's defaults were added to the caller's group, the next optimizer would use them."""
    _needs_groups(study)
    group: dict[str, Any] = {"params": [study.parameter(_start())], "lr": 1e-3}
    before = dict(group)
    study.subject.build([group])
    if added := group.keys() - before.keys():
        shown = ", ".join(sorted(map(str, added))[:3])
        raise AssertionError(f"the caller's group has {len(added)} entries more than it was given: {shown}...")
    if group["lr"] != before["lr"] or group["params"] is not before["params"]:
        raise AssertionError("the caller's group has other values than it was given")


def memory_layout_changes_nothing(study: Study) -> str | None:
    """That of the parameter and that of the gradient; and the memory around the parameter is not written to."""
    if study.subject.foreign:
        raise NotApplicable("an adapter passes copies")
    start, gradients = study.gradient(_start()), _gradients(study)
    repeated = [g[:1].expand(_SHAPE) for g in gradients]  # one row, with a stride of 0
    of_others, of_repeated = (_stepped(study.driven(_start()), g).values()[0] for g in (gradients, repeated))
    pairs = [(layout, "contiguous") for layout in LAYOUTS] + [("contiguous", layout) for layout in LAYOUTS]
    pairs = list(dict.fromkeys([*pairs, *((a, b) for a in LAYOUTS for b in (*LAYOUTS, "expanded"))]))
    for done, (layout, of_gradient) in enumerate(pairs):
        if not study.in_time():
            return f"the time limit allowed only {done} of {len(pairs)} pairs of layouts"
        placed = place(start, layout)
        options = study.subject.options(study.hyper(**study.gentle()))
        driven = study.subject.build([placed.tensor.requires_grad_()], **options)
        expanded = of_gradient == "expanded"
        names = f"{layout} parameter, {of_gradient} gradient"
        try:
            for g in repeated if expanded else (place(g, of_gradient).tensor for g in gradients):
                driven.step(g)
        except SubjectError as error:
            raise SubjectError(error.error, f"at step {driven.steps} [{names}]") from error
        if not placed.guard_is_intact():
            raise AssertionError(f"memory around the parameter was written to [{names}]")
        _demand_same(driven.values()[0], of_repeated if expanded else of_others, f"parameter [{names}]")
    return None


def _demand_independent(study: Study, driven: Driven, starts: Sequence[Tensor], given: list[list[Tensor]]) -> int:
    """Assert that each parameter moves as it does alone: bit for bit, or else within the bounds of its steps.

    Returns:
        The number of parameters that there was time to compare.
    """
    visited = [driven.values()]
    for gradients in given:
        driven.step(*(g.clone() for g in gradients))
        visited.append(driven.values())
    for i, start in enumerate(starts):
        if not start.numel():
            continue
        if i and not study.in_time():
            return i
        alone = _stepped(study.driven(start), [gradients[i] for gradients in given]).values()[0]
        if _same(visited[-1][i], alone).all():
            continue
        # Kernels may round the tail of an array differently from its body.
        path = torch.stack([values[i].double().flatten() for values in visited]).numpy()
        along = torch.stack([gradients[i].double().cpu().flatten() for gradients in given]).numpy()
        run = Run(study.hyper(**study.gentle()), study.dtype, path[:-1], along, path[1:])
        if judge([run], study.variant)[0].worst > 1:
            _demand_same(visited[-1][i], alone, f"parameter {i + 1} of {len(starts)}, of shape {tuple(start.shape)}")
    return len(starts)


def each_parameter_moves_independently(study: Study) -> str | None:
    """Many parameters of many shapes, in any order, move as each does alone; so do the rows of a split parameter."""
    shapes = [(), (1,), (2, 5), (3,), (17,), (2, 1, 3)]
    counts, compared = (2, len(shapes), 120), 0  # more than the 110 that one launch of torch's CUDA kernels takes
    for count in counts:
        if not study.in_time():
            break
        some = [shapes[i % len(shapes)] for i in range(count)]
        starts = [units(1, shape, 20 + i)[0] for i, shape in enumerate(some)]
        given = [[study.gradient(units(1, s, 90 * t + i + 100)[0]) for i, s in enumerate(some)] for t in range(_STEPS)]
        compared += _demand_independent(study, study.driven(*starts), starts, given)
    rows = list(_start())
    given = [list(g) for g in _gradients(study)]
    driven = study.driven(*reversed(rows))
    for gradients in given:
        driven.step(*reversed(gradients))
    whole = _default_result(study)
    together = torch.stack(list(reversed(driven.values())))
    if not _same(together, whole).all():
        _demand_independent(study, study.driven(*rows), rows, given)
    total = sum(counts)
    return f"the time limit allowed only {compared} of {total} parameters" if compared < total else None


def parameters_of_several_types_move_independently(study: Study) -> None:
    """In one group, alternating: each moves as it does alone, bit for bit.

    For one step, whose bias corrections are exact in every type, so that the type of the learning rate does not matter.
    """
    if study.subject.foreign:
        raise NotApplicable("an adapter takes parameters of one type")
    types = study.taken
    if len(types) == 1:
        raise NotApplicable(f"it takes only {short(types[0])}")
    (given,) = units(1, _SHAPE, 12) * (1 + 2.0**-30)  # exact only in float64

    def moved(*dtypes: torch.dtype) -> list[Tensor]:
        wanted = study.gentle(torch.float16) | {"beta1": 0.5, "beta2": 0.75}
        options = study.subject.options(study.hyper(**wanted))
        driven = study.subject.build([study.parameter(_start(), dtype) for dtype in dtypes], **options)
        driven.step(*(study.gradient(given, dtype) for dtype in dtypes))
        return driven.values()

    for dtype, p in zip([*types, *types], moved(*types, *types), strict=True):
        others = ", ".join(map(short, types))
        _demand_same(p, moved(dtype)[0], f"parameter in {short(dtype)} beside others in {others}")


def an_empty_parameter_changes_nothing(study: Study) -> None:
    """At any position in the list."""
    rows = list(_start((3, 4)))
    for position in (0, 1, 3):
        starts = [*rows[:position], torch.zeros((0, 3)), *rows[position:]]
        given = [
            [study.gradient(units(1, tuple(s.shape), 50 + 10 * t + i)[0]) for i, s in enumerate(starts)]
            for t in range(_STEPS)
        ]
        _demand_independent(study, study.driven(*starts), starts, given)


def _held_by(study: Study, name: str) -> tuple[str, ...] | None:
    """Return the names of a hyper-parameter in the groups, which may differ from those that the constructor takes."""
    groups: Any = getattr(study.subject.sample, "param_groups", None)
    if not groups or not isinstance(groups[0], dict):
        return study.subject.takes.get(name)
    return next((spelling for spelling in SPELLINGS[name] if groups[0].keys() >= set(spelling)), None)


def _group_options(study: Study) -> list[dict[str, Any]]:
    """List hyper-parameters that may differ between two groups."""
    hypers = [{"lr": 2.0**-7}, {"eps": 0.25}, {"weight_decay": 0.25}, {"beta1": 0.5, "beta2": 0.75}]
    names = ["lr", "eps", "weight_decay", "betas"]
    takes = study.subject.takes
    return [w for name, w in zip(names, hypers, strict=True) if name in takes and _held_by(study, name)]


def _needed_group_options(study: Study) -> list[dict[str, Any]]:
    options = _group_options(study)
    if not options:
        raise NotApplicable("its groups hold none of lr, eps, weight_decay and betas")
    return options


def _spelled(study: Study, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return hyper-parameters by their names in a group of this optimizer, without those that it does not hold."""
    held = {name: names for name in study.subject.takes if (names := _held_by(study, name))}
    options = study.subject.options(study.hyper(**study.gentle() | wanted))
    return spelled({name: value for name, value in options.items() if name in held}, held)


def groups_keep_their_own_options(study: Study) -> None:
    """Two groups that differ in lr, eps, decay or betas, in either order: each moves as it does alone."""
    _needs_groups(study)
    given = _gradients(study)
    for wanted in _needed_group_options(study):
        for order in (1, -1):
            options = [{}, wanted][::order]
            tensors = [study.parameter(_start()) for _ in options]
            groups = [{"params": [p], **_spelled(study, o)} for p, o in zip(tensors, options, strict=True)]
            driven = study.subject.build(groups, **study.subject.options(study.hyper(**study.gentle())))
            for g in given:
                driven.step(g.clone(), g.clone())
            for i, (own, p) in enumerate(zip(options, driven.values(), strict=True)):
                _demand_same(
                    p, _default_result(study, **own), f"parameter of group {i + 1} of 2, the groups having {options}"
                )


def a_group_may_be_added_later(study: Study) -> None:
    """From then on its parameters move as they do alone, with its own options."""
    _needs_groups(study)
    _needs(study, "add_param_group")
    given = _gradients(study)
    for wanted in _group_options(study) or [{}]:
        driven = study.driven(_start())
        driven.step(given[0].clone())
        p = study.parameter(_start()).detach().requires_grad_(driven.parameters[0].requires_grad)
        group = {"params": [p], **_spelled(study, wanted)}
        attempt(partial(driven.optimizer.add_param_group, group), "in add_param_group")
        driven.parameters.append(p)
        for g in given:
            driven.step(g.clone(), g.clone())
        first, second = driven.values()
        _demand_same(
            second, _default_result(study, **wanted), "parameter of a group that was added after the first step"
        )
        _demand_same(
            first, _stepped(study.driven(_start()), [given[0], *given]).values()[0], "parameter of the first group"
        )


def a_schedule_is_followed(study: Study) -> None:
    """The learning rate is changed in the groups between steps, as torch's schedulers do."""
    _needs(study, "param_groups")
    if _held_by(study, "lr") != ("lr",) or "lr" not in study.subject.takes:
        raise NotApplicable("it has no lr that a schedule could change")
    rates = (2.0**-6, 2.0**-4, 0.0, 2.0**-7)
    hyper = replace(study.hyper(**study.gentle()), lr=rates[0])
    gradients = units(len(rates), (3,), 4)
    driven = study.subject.build([study.parameter(torch.zeros(3))], **study.subject.options(hyper))
    visited = driven.values()
    for rate, g in zip(rates, gradients, strict=True):
        for group in driven.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        driven.step(study.gradient(g))
        visited += driven.values()
    path = torch.stack(visited).double().numpy()
    given = gradients.to(study.dtype).double().numpy()
    run = Run(hyper, study.dtype, path[:-1], given, path[1:], f"rates {rates}, ", rates)
    if failure := judge([run], study.variant)[0].first_failure():
        raise AssertionError(failure)


def a_tensor_learning_rate_is_not_shared_between_groups(study: Study) -> None:
    """Two groups with one default: a schedule changes the rate of its own group only, and not the caller's tensor."""
    _needs_groups(study)
    _needs(study, "param_groups")
    lr = torch.tensor(1.0, device=study.device)
    tensors = [study.parameter([0.0]), study.parameter([0.0])]
    try:
        driven = study.subject.build([{"params": [p]} for p in tensors], lr=lr, **_no_decay(study))
    except SubjectError:
        raise NotApplicable("it takes no tensor as lr") from None
    groups = driven.optimizer.param_groups
    if not all(isinstance(group.get("lr"), Tensor) for group in groups):
        raise NotApplicable("it takes no tensor as lr")
    if isinstance(driven.optimizer, torch.optim.Optimizer):
        LambdaLR(driven.optimizer, [lambda _: 1.0, lambda _: 0.125])  # up to torch 2.3 it replaces the tensors
    else:
        groups[1]["lr"].fill_(0.125)
    if float(groups[0]["lr"]) != 1:
        raise AssertionError(f"lr of the first group is {float(groups[0]['lr']):g} after a schedule of the second's")
    if float(lr) != 1:
        raise AssertionError(f"the caller's tensor is {float(lr):g} after a schedule, but was given as 1")


def _no_decay(study: Study) -> dict[str, Any]:
    return {"weight_decay": 0.0} if "weight_decay" in study.subject.takes else {}


def a_closure_is_called_once_and_its_loss_returned(study: Study) -> None:
    """It is called with gradients enabled, and the step uses the gradients that it sets, in each group."""
    if study.subject.foreign:
        raise NotApplicable("an adapter takes no closure")
    step = study.subject.sample.step
    try:
        if not inspect.signature(step).parameters:
            raise NotApplicable("its step takes no closure")
    except (TypeError, ValueError):
        pass
    tensors = [study.parameter(torch.zeros(3)) for _ in range(2)]
    driven = study.subject.build(_grouped(study, tensors), **study.subject.options(study.hyper(**study.gentle())))
    (g, *_) = _gradients(study, 1, (3,))
    calls: list[bool] = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        for p in driven.parameters:
            p.grad = g.clone()
        return torch.tensor(3.0, device=study.device)

    loss = driven.step(None, None, closure=closure)
    if len(calls) != 1:
        raise AssertionError(f"the closure is called {len(calls)} times, but should be called once")
    if not calls[0]:
        raise AssertionError("the closure is called with gradients disabled")
    if loss is None or float(loss) != 3.0:  # noqa: PLR2004 - the closure's
        raise AssertionError(f"step returns {loss!r}, but should return the closure's loss, 3")
    expected = _stepped(study.driven(torch.zeros(3)), [g]).values()[0]
    for p in driven.values():
        _demand_same(p, expected, "parameter after a step with a closure")


def _through_file(state: Any) -> Any:
    file = io.BytesIO()
    attempt(lambda: torch.save(state, file), "when its state is saved")
    file.seek(0)
    old = torch.__version__.startswith(("2.0.", "2.1."))
    options: dict[str, Any] = {} if old else {"weights_only": False}
    return attempt(lambda: torch.load(file, **options), "when its state is read")


def a_saved_run_continues_as_if_never_interrupted(study: Study) -> None:
    """Its state is saved to a file and loaded into a new optimizer, after one step and after three; bit for bit.

    From 0, where a parameter of 16 bits shows the most of its state.
    """
    _needs(study, "state_dict", "load_state_dict")
    start = torch.zeros(_SHAPE)
    for dtype in study.taken:
        given = [study.gradient(g, dtype) for g in _gradients(study, 6)]
        torch.manual_seed(1)
        expected = _stepped(study.driven(start, dtype=dtype), given).values()[0]
        for stop in (1, 3):
            torch.manual_seed(1)
            first = _stepped(study.driven(start, dtype=dtype), given[:stop])
            state = _through_file(first.state_dict())
            second = study.driven(first.values()[0], dtype=dtype)
            second.load(state)
            second.steps = stop
            end = _stepped(second, given[stop:]).values()[0]
            what = f"parameter after 6 steps in {short(dtype)}, saved and loaded after step {stop}"
            _demand_same(end, expected, what)


def _copy_goes_on(study: Study, copied: Callable[[Driven], Driven], how: str) -> None:
    given, options = _falling(study, 4), _all_options(study)
    driven = _stepped(study.driven(_start(), **options), given[:2])
    twin = copied(driven)
    _stepped(driven, given[2:])
    end = _stepped(twin, given[2:]).values()[0]
    expected = _stepped(study.driven(_start(), **options), given).values()[0]
    _demand_same(driven.values()[0], expected, f"parameter of the original of a {how}")
    _demand_same(end, expected, f"parameter of a {how}")


def a_deep_copy_continues_identically(study: Study) -> None:
    """And independently of its original."""
    if study.subject.foreign:
        raise NotApplicable("an adapter need not be copied")
    _copy_goes_on(study, Driven.copied, "deep copy")


def a_pickled_copy_continues_identically(study: Study) -> None:
    """As when it is sent to another process."""

    def pickled(driven: Driven) -> Driven:
        both = attempt(lambda: pickle.dumps((driven.optimizer, driven.parameters)), "when it is pickled")
        optimizer, parameters = attempt(lambda: pickle.loads(both), "when it is unpickled")  # noqa: S301 - pickled above
        twin = Driven(optimizer, parameters)
        twin.steps = driven.steps
        return twin

    if study.subject.foreign:
        raise NotApplicable("an adapter need not be pickled")
    made = type(study.subject.sample)
    if getattr(sys.modules.get(made.__module__), made.__qualname__, None) is not made:
        raise NotApplicable(f"{made.__qualname__} cannot be imported by its name, which pickle needs")
    _copy_goes_on(study, pickled, "pickled copy")


def a_saved_state_survives_later_steps(study: Study) -> None:
    """A further step does not change what ``state_dict`` returned."""
    _needs(study, "state_dict", "load_state_dict")
    given = _gradients(study)
    driven = study.driven(_start())
    driven.step(given[0].clone())
    kept, at = driven.state_dict(), driven.values()[0]
    driven.step(given[1].clone())
    once = driven.values()[0]
    driven.load(kept)
    with torch.no_grad():
        driven.parameters[0].copy_(at)
    driven.step(given[1].clone())
    _demand_same(driven.values()[0], once, "second step, taken again from a state that was kept in memory")


def two_optimizers_that_load_one_state_share_nothing(study: Study) -> None:
    """A step of one does not change the other."""
    _needs(study, "state_dict", "load_state_dict")
    given = _gradients(study)
    source = study.driven(_start())
    source.step(given[0].clone())
    other = study.driven(source.values()[0])
    other.load(source.state_dict())
    other.step(given[2].clone())
    source.step(given[1].clone())
    expected = _stepped(study.driven(_start()), given[:2]).values()[0]
    _demand_same(source.values()[0], expected, "second step of one whose state another has loaded and stepped on")


def a_gradient_that_is_not_finite_stays_in_its_entry(study: Study) -> None:
    """The other entries move as they do without it."""
    given = _gradients(study)
    expected = _default_result(study)
    for value in (float("inf"), -float("inf"), float("nan")):
        spoilt = [g.clone() for g in given]
        spoilt[1][0, 2] = value
        end = _stepped(study.driven(_start()), spoilt).values()[0]
        clean = torch.ones(_SHAPE, dtype=torch.bool)
        clean[0, 2] = False
        _demand_same(
            end[clean], expected[clean], f"the entries beside one whose gradient is {value} in the second step"
        )


def a_gradient_that_is_not_finite_is_seen_in_its_entry(study: Study) -> None:
    """From that step on, so that the error is not hidden."""
    for value in (float("nan"), float("inf"), -float("inf")):
        spoilt = [g.clone() for g in _gradients(study)]
        spoilt[1][0, 2] = value
        end = _stepped(study.driven(_start()), spoilt).values()[0]
        if end[0, 2].isfinite():
            raise AssertionError(
                f"parameter is {end[0, 2].item():.9g} where the gradient of the second of {_STEPS} steps is {value}, "
                "but should not be finite"
            )


def clearing_gradients_clears_them(study: Study) -> None:
    """In every group, also NaN and infinity: to 0, or to None with ``set_to_none``."""
    if study.subject.foreign:
        raise NotApplicable("an adapter has no gradients")
    _needs_groups(study)
    _needs(study, "zero_grad")
    modes: list[dict[str, bool]] = [{}]
    if "set_to_none" in inspect.signature(study.subject.sample.zero_grad).parameters:
        modes += [{"set_to_none": False}, {"set_to_none": True}]
    for mode in modes:
        tensors = [study.parameter(torch.zeros(3)) for _ in range(2)]
        driven = study.subject.build([{"params": [p]} for p in tensors])
        for p in tensors:
            p.grad = study.gradient([1.0, float("nan"), float("inf")])
        attempt(partial(driven.optimizer.zero_grad, **mode), "in zero_grad")
        for i, p in enumerate(tensors):
            left = None if p.grad is None else p.grad.tolist()
            wanted = [None, [0.0] * 3] if not mode else [None] if mode["set_to_none"] else [[0.0] * 3]
            if left not in wanted:
                called = f"zero_grad({', '.join(f'{name}={value}' for name, value in mode.items())})"
                raise AssertionError(
                    f"gradient of group {i + 1} of 2 is {left} after {called}, but should be {wanted[-1]}"
                )


def a_new_optimizer_starts_without_state(study: Study) -> None:
    """Another optimizer of the same parameters has no effect on it."""
    given, wanted = _falling(study, 4), _all_options(study)
    first = _stepped(study.driven(_start(), **wanted), given[:2])
    start = first.values()[0]
    options = study.subject.options(study.hyper(**study.gentle() | wanted))
    second = _stepped(study.subject.build(first.parameters, **options), given[2:])
    expected = _stepped(study.driven(start, **wanted), given[2:]).values()[0]
    _demand_same(second.values()[0], expected, "parameter after 2 steps of its second optimizer")


def a_loaded_state_brings_its_options(study: Study) -> None:
    """An optimizer constructed with other options continues with those that were saved."""
    _needs(study, "state_dict", "load_state_dict")
    wanted: dict[str, Any] = {}
    for options in _needed_group_options(study):
        wanted |= options
    given = _gradients(study, 4)
    first = _stepped(study.driven(_start(), **wanted), given[:2])
    state = _through_file(first.state_dict())
    if not isinstance(state, dict) or "param_groups" not in state:
        raise NotApplicable("its state holds no options")
    second = study.driven(first.values()[0])
    second.load(state)
    _demand_same(
        _stepped(second, given[2:]).values()[0],
        _stepped(first, given[2:]).values()[0],
        f"parameter after a state with {wanted} is loaded and 2 more steps",
    )


def invalid_hyper_parameters_are_refused(study: Study) -> None:
    """The constructor raises any exception."""
    nan = float("nan")
    invalid: list[tuple[str, Any]] = [
        ("lr", -1.0), ("eps", -1e-8), ("betas", (-0.1, 0.9)), ("betas", (1.0, 0.9)), ("betas", (0.9, 1.0)),
        ("weight_decay", -1.0), ("lr", nan), ("eps", nan), ("betas", (0.9, nan)),
    ]  # fmt: skip
    applicable = [(name, value) for name, value in invalid if name in study.subject.takes]
    accepted = []
    for name, value in applicable:
        try:
            study.subject.build([study.parameter(torch.zeros(1))], **{name: value})
        except SubjectError:
            continue
        accepted.append(f"{name} {value}")
    if not applicable:
        raise NotApplicable("it takes no hyper-parameters")
    if accepted:
        raise AssertionError(f"it accepts {', '.join(accepted)}")


def the_step_count_continues_past_two_to_the_24(study: Study) -> None:
    """Where float32 stops counting by ones, and past 2^8 and 2^11, where bfloat16 and float16 do.

    The check writes the count, so the state must have torch's names.
    """
    for exponent, precision in ((8, "bfloat16"), (11, "half precision"), (24, "single precision")):
        for dtype in study.taken:
            driven = study.driven(torch.zeros(3), dtype=dtype)
            g = study.gradient([1.0, 1.0, 1.0], dtype)
            driven.step(g.clone())
            state: Any = getattr(driven.optimizer, "state", None)
            own = state.get(driven.parameters[0]) if hasattr(state, "get") else None
            if not isinstance(own, dict) or not isinstance(own.get("step"), int | float | Tensor):
                raise NotApplicable("its count of steps cannot be set: it is not where torch's Adam has it")
            if isinstance(own["step"], Tensor):
                own["step"].fill_(2.0**exponent)
            else:
                own["step"] = 2**exponent
            driven.step(g.clone())
            count = int(state[driven.parameters[0]]["step"])
            if count != 2**exponent + 1:
                wanted = f"{2**exponent}, but should be {2**exponent + 1} [{short(dtype)}]"
                raise AssertionError(f"step count, like one of {precision}, is {count} a step after {wanted}")


def _sentence(name: str) -> str:
    for word, written in {"_": " ", "callers": "caller's", "hyper parameters": "hyper-parameters"}.items():
        name = name.replace(word, written)
    return name


CHECKS: tuple[Check[Study], ...] = tuple(
    Check(_sentence(function.__name__), function)
    for function in (
        the_same_run_repeats_itself,
        no_option_is_without_effect,
        maximizing_is_minimizing_the_negated_gradients,
        a_parameter_without_a_gradient_does_not_move,
        gradients_are_not_written_to,
        hyper_parameters_are_not_written_to,
        the_callers_group_is_not_written_to,
        memory_layout_changes_nothing,
        each_parameter_moves_independently,
        parameters_of_several_types_move_independently,
        an_empty_parameter_changes_nothing,
        groups_keep_their_own_options,
        a_group_may_be_added_later,
        a_schedule_is_followed,
        a_tensor_learning_rate_is_not_shared_between_groups,
        a_closure_is_called_once_and_its_loss_returned,
        clearing_gradients_clears_them,
        a_new_optimizer_starts_without_state,
        a_saved_run_continues_as_if_never_interrupted,
        a_loaded_state_brings_its_options,
        a_deep_copy_continues_identically,
        a_pickled_copy_continues_identically,
        a_saved_state_survives_later_steps,
        two_optimizers_that_load_one_state_share_nothing,
        a_gradient_that_is_not_finite_stays_in_its_entry,
        a_gradient_that_is_not_finite_is_seen_in_its_entry,
        invalid_hyper_parameters_are_refused,
        the_step_count_continues_past_two_to_the_24,
    )
)  # fmt: skip
