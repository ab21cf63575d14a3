"""The gradient is that of the chain rule.

Four computations are compared: the formulas (``simplenet.reference``), the difference quotient, and
autograd in backward and forward mode.  The formulas are the reference, and the difference quotient
verifies them.

References:
    The notebook, §4.3.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, vmap

from simplenet import ARCHITECTURES, SimpleNet, mse_loss, reference
from simplenet.testing.assertions import assert_identical, assert_in_balls, refuted
from simplenet.testing.balls import in_balls
from simplenet.testing.layouts import LAYOUTS, place
from simplenet.testing.strategies import DTYPES, architectures, batches, few, networks, skip_where_missing

# Forward mode compiles rules by torch.jit on its first use, which torch deprecates, from 2.15 on with another warning.
# torch 2.4 checks batched gradients by a function that it deprecates too.
forward_mode = pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:Please use `torch.vmap`:FutureWarning")

dtypes = st.sampled_from([torch.float32, torch.float64])
two_sigmoids = st.just("derivation")


def backward(net, x, y):
    """Return the gradients of the MSE by autograd, in the order of the parameters."""
    net.zero_grad()
    mse_loss(net(x), y).backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


def by_hand(net, x, y):
    """Return the same gradients by the chain rule, as balls.

    The balls contain the results of every implementation that multiplies the same factors and sums over
    the same units and rows, in any order.
    """
    return reference.gradients(*in_balls(net, x, y), net.hparams["architecture"])


def assert_gradients(actual, expected, claim):
    for name, one, other in zip(reference.Parameters._fields, actual, expected, strict=True):
        assert_in_balls(one, other, claim=f"{claim} by {name}")


@pytest.mark.claim("4.3/chain-rule")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(data=st.data(), dtype=dtypes)
def test_autograd_computes_the_chain_rule(device, architecture, data, dtype):
    net = data.draw(networks(st.just(architecture), few, dtype, device), label="net")
    x, y = data.draw(batches(few, dtype, device), label="batch")

    actual = backward(net, x, y)

    assert_gradients(actual, by_hand(net, x, y), "backward")


@refuted
@given(net=networks(hidden=few), batch=batches(few))
def test_the_gradient_is_a_ten_thousandth_larger(net, batch):
    actual = [gradient * (1 + 2**-13) for gradient in backward(net, *batch)]

    assert_gradients(actual, by_hand(net, *batch), "backward")


# The error of the quotient is h^2 |L'''| / 6.  That is below h for third derivatives up to 6 / h = 6e9; the largest
# here, products of weights and inputs up to 8, are near 8^9 = 1e8.  The balls of losses up to 8^6 err by 2^-98.
QUOTIENT_STEP = 2.0**-30


def exact(ball):
    """Return the centre of a single ball."""
    return Fraction(ball.centre.high.item()) + Fraction(ball.centre.low.item())


@pytest.mark.claim("4.3/chain-rule")
@settings(max_examples=10)  # a quotient takes two losses for each parameter
@given(net=networks(hidden=st.integers(1, 2)), batch=batches(st.integers(1, 2)), data=st.data())
def test_the_chain_rule_is_the_limit_of_the_difference_quotient(net, batch, data):
    """To 30 digits, the precision of the balls' centres."""
    p, x, y = in_balls(net, *batch)
    architecture = net.hparams["architecture"]
    field = data.draw(st.sampled_from(p._fields), label="parameter")
    values = getattr(p, field)

    def loss(where, step):
        shift = np.zeros(values.shape)
        shift[where] = step
        errors = reference.forward(p._replace(**{field: values + shift}), x, architecture)[1] - y
        return exact((errors * errors).sum()) / errors.size

    gradient = getattr(reference.gradients(p, x, y, architecture), field)
    for where in np.ndindex(gradient.shape):
        quotient = (loss(where, QUOTIENT_STEP) - loss(where, -QUOTIENT_STEP)) / Fraction(2 * QUOTIENT_STEP)
        assert abs(quotient - exact(gradient[where])) <= QUOTIENT_STEP, f"{field}{where}"


# The step that balances truncation, h^2 |L'''| / 6, against rounding, u |L| / h, in float64: u^(1/3).
# Their sum is below h for third derivatives up to 6 / h, 8e5; the weights below are at most 1.
CHECK_STEP = 2**-17


def smooth_problem(architecture, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 2), (3,), (1, 3), (1,), (4, 2), (4, 1)]
    arguments = [2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1 for shape in shapes]
    net = SimpleNet(architecture, hidden=3).double()
    names = [name for name, _ in net.named_parameters()]

    def loss(*values):
        *weights, x, y = values
        return mse_loss(functional_call(net, dict(zip(names, weights, strict=True)), (x,)), y)

    return loss, [argument.requires_grad_() for argument in arguments]


@forward_mode
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_first_and_second_derivatives_pass_gradcheck(architecture):
    """By weights, inputs and targets, in backward, forward and batched mode, and with the same bits each time."""
    loss, arguments = smooth_problem(architecture, seed=1996)
    options = {"eps": CHECK_STEP, "atol": CHECK_STEP, "rtol": 0.0, "nondet_tol": 0.0}

    assert gradcheck(loss, arguments, check_forward_ad=True, check_batched_grad=True, **options)
    assert gradgradcheck(loss, arguments, **options)


@forward_mode
@given(net=networks(hidden=few), batch=batches(few))
def test_forward_mode_computes_the_same_gradient(device, net, batch):
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)
    weights = dict(net.named_parameters())

    jacobian = jacfwd(lambda weights: mse_loss(functional_call(net, weights, (x,)), y))(weights)

    assert_gradients([jacobian[name].detach() for name in weights], by_hand(net, x, y), "forward mode")


@given(net=networks(hidden=few), batch=batches(few))
def test_the_mean_of_the_rows_gradients_is_the_batchs_gradient(device, net, batch):
    """Row by row under vmap."""
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)
    weights = dict(net.named_parameters())

    rows = vmap(grad(lambda weights, x, y: mse_loss(functional_call(net, weights, (x,)), y)), (None, 0, 0))(
        weights, x, y
    )

    averages = [rows[name].detach().mean(dim=0) for name in weights]
    assert_gradients(averages, by_hand(net, x, y), "mean over rows")


@given(net=networks(), batch=batches())
def test_two_backward_passes_accumulate_to_twice_the_gradient(device, net, batch):
    """Bit for bit: g + g is 2 g."""
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)
    once = backward(net, x, y)

    mse_loss(net(x), y).backward()

    for parameter, expected in zip(net.parameters(), once, strict=True):
        assert_identical(parameter.grad, 2 * expected, claim="two passes")


@given(net=networks(dtype=torch.float64), batch=batches(dtype=torch.float64), k=st.integers(-8, 8))
def test_the_gradient_is_linear_in_the_upstream_gradient(device, net, batch, k):
    """Bit for bit for powers of two of either sign; in float64, where nothing here underflows."""
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)
    once = backward(net, x, y)

    for factor in (2.0**k, -(2.0**k)):
        net.zero_grad()
        mse_loss(net(x), y).backward(torch.tensor(factor, dtype=torch.float64, device=device))

        for parameter, expected in zip(net.parameters(), once, strict=True):
            assert torch.equal(parameter.grad, factor * expected)


@given(net=networks(hidden=few), batch=batches(few))
def test_any_upstream_gradient_is_propagated_by_the_chain_rule(device, net, batch):
    """With a different number for each row, so it is also additive, not only linear under powers of two."""
    net, (x, upstream) = net.to(device), (rows.to(device) for rows in batch)

    actual = torch.autograd.grad(net(x), list(net.parameters()), upstream)

    expected = reference.backpropagate(*in_balls(net, x, upstream), net.hparams["architecture"])
    assert_gradients(actual, expected, "propagated upstream gradient")


@refuted
@given(net=networks(hidden=few), batch=batches(few))
def test_the_upstream_gradients_mean_gives_the_gradient(net, batch):
    x, upstream = batch

    actual = torch.autograd.grad(net(x), list(net.parameters()), upstream.mean().expand_as(upstream))

    expected = reference.backpropagate(*in_balls(net, x, upstream), net.hparams["architecture"])
    assert_gradients(actual, expected, "propagated upstream gradient")


@given(net=networks(), one=batches(), other=batches())
def test_a_parameter_used_twice_gets_the_sum_of_its_gradients(device, net, one, other):
    """Two batches in one loss, bit for bit: adding two numbers rounds the same in either order."""
    net, one, other = net.to(device), *([rows.to(device) for rows in batch] for batch in (one, other))
    apart = backward(net, *one), backward(net, *other)
    net.zero_grad()

    (mse_loss(net(one[0]), one[1]) + mse_loss(net(other[0]), other[1])).backward()

    for parameter, first, second in zip(net.parameters(), *apart, strict=True):
        assert_identical(parameter.grad, first + second, claim="a loss of two uses")


def exact_problem(architecture, rows, dtype, device):
    """Make a network and rows for which every operation is exact: every sigmoid is at 0, with value 1/2 and slope 1/4.

    A hidden unit is k (a - b) - k with k of 1 or 2, and every row has a - b = 1. The output's bias cancels the sum of
    the hidden layer. All numbers are multiples of small powers of two, and a sum of 2^17 of them is exact in float32.

    Returns:
        The network, its inputs, which require gradients, and an upstream gradient, one number for each row.
    """
    net = SimpleNet(architecture).to(device, dtype)
    k = torch.tensor([1.0, -1.0, 2.0, -2.0])
    b = torch.arange(rows) % 2
    hidden = 0.5 if architecture != "listing" else 0.0
    w_out = torch.tensor([1.0, 2.0, -1.0, 0.5])
    values = [torch.stack([k, -k], dim=1), -k, w_out[None], -(w_out * hidden).sum()[None]]
    for parameter, value in zip(net.parameters(), values, strict=True):
        parameter.data.copy_(value)
    x = torch.stack([b + 1, b], dim=1).to(device, dtype).requires_grad_()
    return net, x, (1 - 2 * (torch.arange(rows) % 3 == 0).to(device, dtype))[:, None]


def assert_exact(net, x, upstream):
    """Assert that output and gradients are those of the formulas, which are exact in float64 here."""
    net.zero_grad()
    output = net(x)
    output.backward(upstream)

    numbers = [values.detach().cpu().double().numpy() for values in (*net.parameters(), x, upstream)]
    parameters, rows = reference.Parameters(*numbers[:4]), numbers[4:]
    architecture = net.hparams["architecture"]
    hidden, expected = reference.forward(parameters, rows[0], architecture)
    assert_identical(output, torch.from_numpy(expected).to(output), claim="output")
    by_hand = reference.backpropagate(parameters, *rows, architecture)
    for (name, parameter), gradient in zip(net.named_parameters(), by_hand, strict=True):
        assert_identical(parameter.grad, torch.from_numpy(gradient).to(parameter), claim=f"gradient by {name}")
    # The reference does not continue to the gradient by the inputs.
    f, g = reference.ARCHITECTURES[architecture]
    by_inputs = rows[1] * g.slope(expected) @ parameters.w_out * f.slope(hidden) @ parameters.w_in
    assert_identical(x.grad, torch.from_numpy(by_inputs).to(x), claim="gradient by the inputs")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_network_is_exact_over_many_rows(device, architecture, dtype):
    """More rows than a block of any kernel; output and all gradients, for numbers without rounding."""
    assert_exact(*exact_problem(architecture, 2**16 + 11, dtype, device))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_in_any_memory_layout_give_the_same_output_and_gradients(device, architecture, dtype, layout):
    """In every dtype, for numbers without rounding; and nothing around them is written to."""
    skip_where_missing(lambda one: torch.nn.functional.linear(one, one, one[0]).sigmoid(), dtype, device)
    net, x, upstream = exact_problem(architecture, 5, dtype, device)
    placed = []
    for layer in (net.input_layer, net.output_layer):
        placed.append(place(layer.weight.detach(), layout))
        layer.weight = torch.nn.Parameter(placed[-1].tensor)

    assert_exact(net, x, upstream)

    assert all(one.guard_is_intact() for one in placed)


@given(architecture=architectures, data=st.data())
def test_every_parameter_gets_a_gradient(device, architecture, data):
    """Of its own shape, and not zero if weights and inputs are positive and every error is negative."""
    net = SimpleNet(architecture).to(device)
    for parameter in net.parameters():
        parameter.data.fill_(data.draw(st.sampled_from([0.25, 0.5, 1.0])))

    gradients = backward(net, torch.ones(4, 2, device=device), torch.full((4, 1), 9.0, device=device))

    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert gradient.shape == parameter.shape
        assert (gradient != 0).all()


@given(net=networks(), batch=batches(), data=st.data())
def test_frozen_parameters_do_not_change_and_the_others_get_the_same_gradient(device, net, batch, data):
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)
    free = backward(net, x, y)
    frozen = data.draw(st.lists(st.booleans(), min_size=4, max_size=4).filter(lambda f: not all(f)), label="frozen")
    before = [parameter.detach().clone() for parameter in net.parameters()]
    net.zero_grad()
    for parameter, keep in zip(net.parameters(), frozen, strict=True):
        parameter.requires_grad_(not keep)

    mse_loss(net(x), y).backward()
    net.configure_optimizers().step()

    for parameter, keep, gradient, old in zip(net.parameters(), frozen, free, before, strict=True):
        if keep:
            assert parameter.grad is None
            assert_identical(parameter, old, claim="frozen")
        else:
            assert_identical(parameter.grad, gradient, claim="gradient with other parameters frozen")


@given(net=networks(), batch=batches(), chosen=st.lists(st.booleans(), min_size=4, max_size=4).filter(any))
def test_gradients_of_chosen_parameters_are_those_of_all_and_no_other_is_set(device, net, batch, chosen):
    """By ``backward(inputs=...)``, and by ``autograd.grad``, which sets none."""
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)
    every = backward(net, x, y)
    net.zero_grad()
    inputs = [parameter for parameter, wanted in zip(net.parameters(), chosen, strict=True) if wanted]

    returned = torch.autograd.grad(mse_loss(net(x), y), inputs)
    assert all(parameter.grad is None for parameter in net.parameters())
    mse_loss(net(x), y).backward(inputs=inputs)

    for parameter, wanted, gradient in zip(net.parameters(), chosen, every, strict=True):
        assert (parameter.grad is not None) == wanted
        if wanted:
            assert_identical(parameter.grad, gradient, claim="gradient of a chosen parameter")
    for parameter, gradient in zip(inputs, returned, strict=True):
        assert_identical(gradient, parameter.grad, claim="returned gradient")


@pytest.mark.parametrize("removed", range(3))
@pytest.mark.parametrize(
    "register",
    [
        lambda net: net.register_forward_pre_hook,
        lambda net: net.register_forward_hook,
        lambda net: net.register_full_backward_pre_hook,
        lambda net: net.register_full_backward_hook,
        lambda net: net.output_layer.bias.register_hook,
    ],
    ids=["forward pre", "forward", "backward pre", "backward", "tensor"],
)
def test_a_removed_hook_is_not_called_and_the_others_are_in_their_order(register, removed):
    net, called = SimpleNet(), []
    handles = [register(net)(lambda *_, i=i: called.append(i)) for i in range(3)]
    handles[removed].remove()

    mse_loss(net(torch.ones(1, 2, requires_grad=True)), torch.ones(1, 1)).backward()

    assert called == [i for i in range(3) if i != removed]


def half_square(net, x, y):
    """Return the loss of one example in §4.3."""
    return ((y - net(x)) ** 2).sum() / 2


@pytest.mark.claim("4.3/half")
@refuted
@given(net=networks(hidden=few), batch=batches(st.just(1)))
def test_half_the_squared_error_has_the_gradient_of_the_mse(net, batch):
    half_square(net, *batch).backward()

    assert_gradients([parameter.grad for parameter in net.parameters()], by_hand(net, *batch), "half the loss")


@pytest.mark.claim("4.3/half")
@given(net=networks(), batch=batches(st.just(1)))
def test_the_mse_of_one_example_has_twice_the_gradient_of_half_its_square(device, net, batch):
    """Bit for bit, because doubling is exact if nothing is subnormal.

    An entry of 2^24 times the smallest normal number has no subnormal factor: the product of the others is below 2^17.
    """
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)
    whole = backward(net, x, y)
    least = 2**24 * torch.finfo(torch.float32).tiny
    assume(all(((gradient == 0) | (gradient.abs() >= least)).all() for gradient in whole))
    net.zero_grad()

    half_square(net, x, y).backward()

    for parameter, expected in zip(net.parameters(), whole, strict=True):
        assert torch.equal(2 * parameter.grad, expected)


def notebooks_symbols(net, x, y):
    """Return p, x, h, y-hat and the error, as balls, for one example."""
    p, x, y = in_balls(net, x, y)
    h, y_hat = reference.forward(p, x, "derivation")
    return p, x, h, y_hat, y - y_hat


@pytest.mark.claim("4.3/output-gradient")
@given(net=networks(two_sigmoids, few), batch=batches(st.just(1)))
def test_the_output_weights_gradient_is_the_notebooks(device, net, batch):
    """For half the squared error of one example."""
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)

    half_square(net, x, y).backward()

    _, _, h, y_hat, error = notebooks_symbols(net, x, y)
    assert_in_balls(net.output_layer.weight.grad, -error * y_hat * (1 - y_hat) * h, claim="dE/dw_out")


@pytest.mark.claim("4.3/hidden-slope")
@given(net=networks(two_sigmoids, few), batch=batches(st.just(1)))
def test_a_hidden_units_derivative_is_the_notebooks(device, net, batch):
    """The derivative of each unit's output by its own two weights."""
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)

    net.hidden_activation(net.input_layer(x)).sum().backward()

    _, rows, h, _, _ = notebooks_symbols(net, x, y)
    assert_in_balls(net.input_layer.weight.grad, (h * (1 - h)).T * rows, claim="dh/dw_in")


@pytest.mark.claim("4.3/hidden-gradient")
@refuted
@given(net=networks(two_sigmoids, few), batch=batches(st.just(1)))
def test_the_hidden_weights_gradient_is_the_notebooks(net, batch):
    """It lacks the factor of the output weight."""
    half_square(net, *batch).backward()

    _, rows, h, y_hat, error = notebooks_symbols(net, *batch)
    expected = (-error * y_hat * (1 - y_hat) * h * (1 - h)).T * rows
    assert_in_balls(net.input_layer.weight.grad, expected, claim="dE/dw_in without w_out")


@pytest.mark.claim("4.3/hidden-gradient")
@given(net=networks(two_sigmoids, few), batch=batches(st.just(1)))
def test_the_hidden_weights_gradient_has_the_output_weight_as_a_factor(device, net, batch):
    """The corrected gradient; for the MSE, so it is also doubled."""
    net, (x, y) = net.to(device), (rows.to(device) for rows in batch)

    actual = backward(net, x, y)[0]

    p, rows, h, y_hat, error = notebooks_symbols(net, x, y)
    expected = (-2 * error * y_hat * (1 - y_hat) * p.w_out * h * (1 - h)).T * rows
    assert_in_balls(actual, expected, claim="dE/dw_in")
