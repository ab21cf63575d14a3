"""The shapes in the signatures are true.

jaxtyping annotations are checked here on a second copy of the package, imported under its
hook. The rest of the suite runs the code as users run it, without.
"""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError, install_import_hook


@pytest.fixture(scope="module")
def checked():
    """Import ``simplenet`` anew with every annotated call checked."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "simplenet"}
    for name in ours:
        del sys.modules[name]
    with install_import_hook("simplenet", "beartype.beartype"):
        copy = {name: importlib.import_module(f"simplenet.{name}") for name in ("data", "model", "reference")}
    for name in [name for name in sys.modules if name.split(".")[0] == "simplenet"]:
        del sys.modules[name]
    sys.modules.update(ours)
    return SimpleNamespace(**copy)


def parameters(module, hidden):
    draw = np.random.default_rng(1996).standard_normal
    return module.Parameters(draw((hidden, 2)), draw(hidden), draw((1, hidden)), draw(1))


@pytest.mark.parametrize("architecture", ["overview", "derivation", "listing"])
@pytest.mark.parametrize("shape", [(2,), (4, 2), (0, 2), (2, 3, 2)], ids=str)
def test_the_network_keeps_the_shapes_it_declares(checked, architecture, shape):
    net = checked.model.SimpleNet(architecture)

    assert net(torch.ones(shape)).shape == (*shape[:-1], 1)


def test_the_loss_keeps_the_shapes_it_declares(checked):
    net = checked.model.SimpleNet()
    inputs, targets = checked.data.xor()

    assert checked.model.mse_loss(net(inputs), targets).shape == ()


@pytest.mark.parametrize("architecture", ["overview", "derivation", "listing"])
@pytest.mark.parametrize("hidden", [1, 4])
def test_the_reference_keeps_the_shapes_it_declares(checked, architecture, hidden):
    reference = checked.reference
    p = parameters(reference, hidden)
    x, y = np.ones((3, 2)), np.ones((3, 1))

    gradients = reference.gradients(p, x, y, architecture)

    assert [g.shape for g in gradients] == [tensor.shape for tensor in p]
    theta, _ = reference.adam(p.w_in, gradients.w_in, reference.adam_start(p.w_in))
    assert theta.shape == p.w_in.shape


def test_a_wrong_shape_raises_an_error(checked):
    """The check can fail, so the tests above say something."""
    with pytest.raises(TypeCheckError):
        checked.model.SimpleNet()(torch.ones(4, 3))
    with pytest.raises(TypeCheckError):
        checked.model.mse_loss(torch.ones(4, 1), torch.ones(4))
    with pytest.raises(TypeCheckError):
        checked.reference.mse(np.ones((3, 2)), np.ones((3, 1)))
