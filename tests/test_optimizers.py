"""Properties of all of torch's fused optimizers: memory layouts, skipped steps, and loading."""

import pytest
import torch

from simplenet import deterministic
from simplenet.environment import TORCH
from simplenet.testing.assertions import assert_identical
from simplenet.testing.implementations import apply_step
from simplenet.testing.layouts import LAYOUTS, place

SHAPE = (3, 5)

# The optimizers with a fused kernel, the options with which they keep state, and the first torch with it, by device.
FUSED = {
    "Adam": (torch.optim.Adam, {}, {"cpu": (2, 4), "cuda": (2, 0)}),
    "AdamW": (torch.optim.AdamW, {}, {"cpu": (2, 4), "cuda": (2, 0)}),
    "SGD": (torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9}, {"cpu": (2, 4), "cuda": (2, 3)}),
    "Adagrad": (torch.optim.Adagrad, {}, {"cpu": (2, 4)}),
}


@pytest.fixture(params=FUSED)
def fused(request):
    """Return a function that builds a fused optimizer, or the same one as a for-loop."""
    cls, options, since = FUSED[request.param]
    kind = request.getfixturevalue("device").type if "device" in request.fixturenames else "cpu"
    if kind not in since or since[kind] > TORCH:
        pytest.skip(f"torch {torch.__version__} has no fused {request.param} on {kind}, as far as known here")
    return lambda parameters, fused=True: cls(
        parameters, **options, **({"fused": True} if fused else {"foreach": False})
    )


def gradients(count):
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(1996))


@pytest.mark.parametrize("gradient_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fused_step_is_the_same_in_every_memory_layout(fused, layout, gradient_layout):
    """Bit for bit, and nothing outside the parameter is written to."""
    start, *steps = gradients(4)
    placed, plain = place(start, layout), start.clone()
    views, contiguous = [placed.tensor.requires_grad_()], [plain.requires_grad_()]
    optimizer, twin = fused(views), fused(contiguous)

    for g in steps:
        apply_step(optimizer, views, [place(g, gradient_layout).tensor])
        apply_step(twin, contiguous, [g])

    placed.base.detach_()
    assert placed.guard_is_intact(), f"memory around the {layout} parameter was written to"
    assert_identical(placed.tensor, plain, claim=f"{layout} parameter, {gradient_layout} gradient")


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_skipped_step_changes_neither_the_parameters_nor_later_steps(fused, device, skipped):
    """The gradient scaler skips it by ``found_inf``: parameter, state and later steps are those without it."""
    start, *steps = gradients(4).to(device)
    p, untouched = start.clone().requires_grad_(), start.clone().requires_grad_()
    optimizer, twin = fused([p]), fused([untouched])

    for i, g in enumerate(steps):
        if i == skipped:
            optimizer.found_inf = torch.tensor(1.0, device=device)
            optimizer.grad_scale = torch.tensor(1.0, device=device)
            with deterministic():  # uninitialized memory is then NaN, and not 0 by chance
                apply_step(optimizer, [p], [torch.full(SHAPE, torch.inf, device=device)])
            del optimizer.found_inf, optimizer.grad_scale
        apply_step(optimizer, [p], [g])
        apply_step(twin, [untouched], [g])

    assert_identical(p, untouched, claim="parameter")
    for name, value in twin.state[untouched].items():
        assert_identical(torch.as_tensor(optimizer.state[p][name]), torch.as_tensor(value), claim=name)


@pytest.mark.parametrize("flags", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_a_gradient_may_be_overwritten_after_its_step(name, flags):
    """As by clearing it to zero: no state shares its memory."""
    cls, options, since = FUSED[name]
    if flags.get("fused") and since["cpu"] > TORCH:
        pytest.skip(f"torch {torch.__version__} has no fused {name} on the CPU, as far as known here")
    start, *steps = gradients(4)
    p, untouched = start.clone().requires_grad_(), start.clone().requires_grad_()
    optimizer, twin = (cls([one], **options, **flags) for one in (p, untouched))

    for g in steps:
        given = g.clone()
        apply_step(optimizer, [p], [given])
        given.fill_(torch.nan)
        apply_step(twin, [untouched], [g])

    assert_identical(p, untouched, claim="parameter")


@pytest.mark.parametrize("option", ["lr", "foreach", "fused"])
def test_an_option_given_to_the_constructor_survives_loading(option):
    """It is not replaced by the saved one."""
    values = {"lr": (1e-3, 1e-4), "foreach": (False, True), "fused": (False, True)}[option]
    if option == "fused" and TORCH < (2, 4):
        pytest.skip("fused on the CPU from torch 2.4 on")
    saved, loaded = (torch.optim.Adam([torch.zeros(1, requires_grad=True)], **{option: value}) for value in values)

    loaded.load_state_dict(saved.state_dict())

    assert loaded.param_groups[0][option] == values[1]
