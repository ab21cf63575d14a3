"""The shapes in the signatures are correct.

The jaxtyping annotations are checked on a second copy of the package, imported under jaxtyping's
hook. The other tests run the code without the hook, as users do.
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
    """Import a second copy of ``simplenet`` in which every annotated call is checked."""
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
def test_the_network_returns_the_shapes_in_its_signatures(checked, architecture, shape):
    net = checked.model.SimpleNet(architecture)

    assert net(torch.ones(shape)).shape == (*shape[:-1], 1)


def test_the_loss_returns_the_shapes_in_its_signatures(checked):
    net = checked.model.SimpleNet()
    inputs, targets = checked.data.xor()

    assert checked.model.mse_loss(net(inputs), targets).shape == ()


@pytest.mark.parametrize("architecture", ["overview", "derivation", "listing"])
@pytest.mark.parametrize("hidden", [1, 4])
def test_the_reference_returns_the_shapes_in_its_signatures(checked, architecture, hidden):
    reference = checked.reference
    p = parameters(reference, hidden)
    x, y = np.ones((3, 2)), np.ones((3, 1))

    gradients = reference.gradients(p, x, y, architecture)

    assert [g.shape for g in gradients] == [tensor.shape for tensor in p]
    theta, _ = reference.adam(p.w_in, gradients.w_in, reference.adam_start(p.w_in))
    assert theta.shape == p.w_in.shape


def test_a_wrong_shape_raises_an_error(checked):
    """So the tests above can fail."""
    with pytest.raises(TypeCheckError):
        checked.model.SimpleNet()(torch.ones(4, 3))
    with pytest.raises(TypeCheckError):
        checked.model.mse_loss(torch.ones(4, 1), torch.ones(4))
    with pytest.raises(TypeCheckError):
        checked.reference.mse(np.ones((3, 2)), np.ones((3, 1)))
