"""Properties of any network, for the notebook's three.

The weights follow from the seed, each output depends only on its row, the gradient is that of the loss, and
the state dict is complete.
"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from simplenet.testing.assertions import assert_identical
from simplenet.testing.implementations import NetworkUnderTest
from simplenet.testing.strategies import seeds
from tests.faults.networks import FAULTS, FaultyNetwork

# A single row has no neighbours; above 16, kernels use vectors.
row_counts = st.integers(2, 35)


def state_of(net, x):
    """Copy everything that forward may read but not change."""
    return [values.clone() for values in (x, *net.state_dict().values(), torch.get_rng_state())]


@given(seed=seeds, rows=row_counts)
def test_the_same_seed_builds_the_same_network(network, seed, rows):
    first, second = network(seed), network(seed)

    assert first.state_dict().keys() == second.state_dict().keys()
    for name, values in first.state_dict().items():
        assert_identical(second.state_dict()[name], values, claim=f"{name}, seed {seed}")
    x = network.inputs(rows, seed)
    assert_identical(network.score(second.eval(), x), network.score(first.eval(), x), claim=f"output, seed {seed}")


@given(seed=seeds, rows=row_counts)
def test_forward_changes_nothing_draws_nothing_and_repeats_itself(network, seed, rows):
    net = network(seed).eval()
    x = network.inputs(rows, seed)
    before = state_of(net, x)

    first, second = net(x), net(x)

    assert_identical(second, first, claim="second call")
    for values, kept in zip(state_of(net, x), before, strict=True):
        assert_identical(values, kept, claim="input, state and generator")


@given(seed=seeds, rows=row_counts)
def test_recording_gradients_does_not_change_the_output(network, seed, rows):
    net = network(seed).eval()
    x = network.inputs(rows, seed)
    expected = network.score(net, x)

    for context in (torch.no_grad, torch.inference_mode):
        with context():
            output = network.score(net, x)
        assert_identical(output, expected, claim=context.__name__)
        assert not output.requires_grad


@pytest.mark.parametrize("mode", ["train", "eval"])
@given(seed=seeds, rows=row_counts)
def test_a_row_does_not_see_the_others(network, mode, seed, rows):
    """Its output keeps every bit whatever the other rows are, also NaN."""
    net = network(seed).train(mode == "train")
    x, others = network.inputs(rows, seed), network.inputs(rows, seed ^ 1)
    expected = network.score(net, x, seed)
    row = seed % rows
    fillings = [others, torch.full_like(x, float("nan"))] if x.is_floating_point() else [others]

    for filling in fillings:
        filling[row] = x[row]
        output = network.score(net, filling, seed)
        assert_identical(output[row], expected[row], claim=f"row {row} of {rows}, {mode}")


@given(seed=seeds, rows=row_counts)
def test_every_parameter_gets_a_gradient_and_a_step_against_it_lowers_the_loss(network, seed, rows):
    """In float64, where the rounding errors of the loss are far below its slope."""
    net = network(seed).double()
    x = network.inputs(rows, seed)
    x = x.double() if x.is_floating_point() else x
    targets = torch.rand_like(network.score(net, x, seed))

    def loss(net):
        return functional.mse_loss(network.score(net, x, seed), targets)

    before = loss(net)
    before.backward()

    for name, parameter in net.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, f"{name} gets no gradient"
    slope = sum(p.grad.square().sum().item() for p in net.parameters() if p.grad is not None)
    assert slope < float("inf")
    flat = slope <= before.item() * 2**-20  # a minimum, or only dead units

    def loss_after(step):
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for p, start in zip(moved.parameters(), net.parameters(), strict=True):
                if start.grad is not None:
                    p.sub_(start.grad, alpha=step)
        return loss(moved)

    assert flat or any(loss_after(2.0**-k) < before for k in range(40)), (
        f"no step along the negative gradient lowers the loss, {before.item()}"
    )


@given(seed=seeds, rows=row_counts)
def test_training_repeats_bit_for_bit(network, seed, rows):
    def trained():
        net = network(seed)
        x = network.inputs(rows, seed)
        targets = torch.rand_like(network.score(net, x, seed))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        torch.manual_seed(seed)
        for _ in range(3):
            optimizer.zero_grad()
            functional.mse_loss(net(x), targets).backward()
            optimizer.step()
        return net.state_dict()

    first, second = trained(), trained()

    for name, values in first.items():
        assert_identical(second[name], values, claim=f"{name} after three steps, seed {seed}")


@given(seed=seeds, rows=row_counts)
def test_another_network_with_its_state_loaded_is_the_same_network(network, seed, rows):
    net, other = network(seed).eval(), network(seed ^ 1).eval()
    x = network.inputs(rows, seed)

    other.load_state_dict(net.state_dict())

    assert_identical(network.score(other, x), network.score(net, x), claim="output")


KILLED_BY = {
    "weights from a generator of their own": test_the_same_seed_builds_the_same_network,
    "noise in the output": test_forward_changes_nothing_draws_nothing_and_repeats_itself,
    "input written to": test_forward_changes_nothing_draws_nothing_and_repeats_itself,
    "calls counted while scoring": test_forward_changes_nothing_draws_nothing_and_repeats_itself,
    "mean of the batch taken off": test_a_row_does_not_see_the_others,
    "weight that is no parameter": test_another_network_with_its_state_loaded_is_the_same_network,
    "parameter left out": test_every_parameter_gets_a_gradient_and_a_step_against_it_lowers_the_loss,
    "gradient negated": test_every_parameter_gets_a_gradient_and_a_step_against_it_lowers_the_loss,
    "dropout from a generator of its own": test_training_repeats_bit_for_bit,
}


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_the_properties_detect_every_planted_fault(fault):
    """A correct network has all properties; with a fault, the property that names it fails."""
    network = NetworkUnderTest(f"fault {fault}", lambda: FaultyNetwork(fault), torch.device("cpu"))
    sample = {"network": network, "seed": 1996, "rows": 5}
    for test in set(KILLED_BY.values()):
        mode = {"mode": "train"} if test is test_a_row_does_not_see_the_others else {}
        if test is KILLED_BY.get(fault):
            with pytest.raises(AssertionError):
                test.hypothesis.inner_test(**sample, **mode)
        elif fault is None:
            test.hypothesis.inner_test(**sample, **mode)
