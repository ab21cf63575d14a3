"""The network as a function: its shapes, dtypes, memory layouts, and the value it computes.

Each value is compared with the exact one.  Layout, mode and the other rows must not matter: bit for
bit if the same kernel runs. A kernel is chosen by shape, so a single row may differ from the same
row in a batch by rounding errors.

References:
    The notebook, §4 and §5.
"""

import os
from unittest import mock

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch.nn.utils import parameters_to_vector

from simplenet import ARCHITECTURES, SimpleNet, XORDataModule, mse_loss, reference, xor
from simplenet.environment import TORCH
from simplenet.testing.assertions import assert_identical, assert_in_balls, refuted
from simplenet.testing.balls import in_balls
from simplenet.testing.layouts import LAYOUTS, place
from simplenet.testing.settings import default_dtype
from simplenet.testing.strategies import (
    DTYPES,
    architectures,
    batch_shapes,
    batch_sizes,
    batches,
    few,
    hidden_widths,
    networks,
    skip_where_missing,
    tensors,
)

this_net = networks(hidden=st.just(4))

# Sums of products of these are exact in float32.
integers = st.integers(-64, 64).map(float)


def affine(one):
    return torch.nn.functional.linear(one, one, one[0])


def output_by_hand(net, x):
    """Return the output of the formulas in §4, as balls."""
    p, rows = in_balls(net, x)
    return reference.forward(p, rows, net.hparams["architecture"])[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(shape=batch_shapes)
@example(shape=())
@example(shape=(0,))
@example(shape=(2, 0, 3))
def test_the_output_has_the_batchs_shape_and_one_column(device, architecture, shape):
    net = SimpleNet(architecture).to(device)

    output = net(torch.ones(*shape, 2, device=device))

    assert output.shape == (*shape, 1)
    assert output.device.type == device.type


@pytest.mark.claim("4/layers", "5/parameters")
@given(architecture=architectures, hidden=hidden_widths)
@example(architecture="overview", hidden=4)
def test_the_parameters_are_two_weights_and_two_biases(architecture, hidden):
    """By name and shape; 4 h + 1 numbers of the default dtype for h hidden units, all trainable, and no buffers."""
    net = SimpleNet(architecture, hidden=hidden)

    assert {name: tuple(parameter.shape) for name, parameter in net.named_parameters()} == {
        "input_layer.weight": (hidden, 2),
        "input_layer.bias": (hidden,),
        "output_layer.weight": (1, hidden),
        "output_layer.bias": (1,),
    }
    assert sum(parameter.numel() for parameter in net.parameters()) == 4 * hidden + 1
    assert all(p.requires_grad and p.is_leaf and p.dtype == torch.get_default_dtype() for p in net.parameters())
    assert not list(net.buffers())


@pytest.mark.claim("4/layers", "5/parameters")
def test_the_notebooks_network_has_17_parameters():
    assert sum(parameter.numel() for parameter in SimpleNet().parameters()) == 17


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_the_output_is_that_of_the_formulas(device, dtype, data):
    """§4 in exact arithmetic, to within the rounding errors of ``dtype``."""
    skip_where_missing(affine, dtype, device)
    net = data.draw(networks(hidden=few, dtype=dtype, device=device), label="net")
    x, _ = data.draw(batches(few, dtype, device), label="batch")

    assert_in_balls(net(x), output_by_hand(net, x), claim="output")


@refuted
@given(data=st.data(), net=networks(hidden=few), batch=batches(few))
def test_the_output_ignores_a_change_of_a_weight_by_a_ten_thousandth(data, net, batch):
    before = output_by_hand(net, batch[0])
    weight = data.draw(st.sampled_from([net.input_layer.weight, net.output_layer.weight]))
    weight.data *= 1 + 2**-13

    assert_in_balls(net(batch[0]), before, claim="output")


@refuted
@given(net=networks(hidden=few), batch=batches(few))
def test_the_output_does_not_depend_on_the_bias(net, batch):
    before = output_by_hand(net, batch[0])
    net.input_layer.bias.data.zero_()

    assert_in_balls(net(batch[0]), before, claim="output")


@given(net=networks(), batch=batches())
def test_training_mode_does_not_change_the_output(device, net, batch):
    net, x = net.to(device), batch[0].to(device)

    assert_identical(net.eval()(x), net.train()(x), claim="eval mode")


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
def test_the_memory_layout_of_the_input_changes_only_roundings(device, layout, data):
    """And nothing around the input is written to."""
    net = data.draw(networks(hidden=few, device=device), label="net")
    x, _ = data.draw(batches(few, device=device), label="batch")
    placed = place(x, layout)

    output = net(placed.tensor)

    assert placed.guard_is_intact()
    assert_identical(placed.tensor, x, claim="input")
    assert_in_balls(output, output_by_hand(net, x), claim=layout)


@given(net=this_net, batch=batches(), layout=st.sampled_from(list(LAYOUTS)))
def test_the_memory_layout_of_the_input_changes_no_bit(net, batch, layout):
    """For four hidden units on the CPU; with one, BLAS has another kernel for a transposed batch."""
    x, _ = batch

    output = net(place(x, layout).tensor)

    assert_identical(output, net(x), claim=layout)


@given(data=st.data(), net=networks(), n=batch_sizes)
def test_an_expanded_input_has_the_output_of_a_contiguous_one(data, net, n):
    """Rows or columns repeated with a stride of 0."""
    x = data.draw(tensors((n, 2)), label="inputs")
    for view in (x[:1].expand(n, 2), x[:, :1].expand(n, 2)):
        assert_identical(net(view), net(view.contiguous()), claim=f"strides {view.stride()}")


@given(net=networks(hidden=few), batch=batches(few))
def test_a_single_row_has_the_output_of_its_batch_to_within_rounding_errors(device, net, batch):
    """Both are in the ball of the exact value: the sigmoid of 16 numbers is vectorized, that of 4 is not."""
    net, x = net.to(device), batch[0].to(device)
    expected = output_by_hand(net, x)

    assert_in_balls(net(x), expected, claim="batch")
    assert_in_balls(torch.stack([net(row) for row in x]), expected, claim="rows alone")


@given(net=networks(st.just("listing"), hidden=st.just(4)), data=st.data())
def test_a_single_row_has_the_output_of_its_batch_if_no_sigmoid_is_vectorized(net, data):
    """Bit for bit, for up to four rows of the listing on the CPU; with more, the sigmoids are vectorized."""
    x = data.draw(tensors((data.draw(st.integers(1, 4), label="rows"), 2)), label="inputs")

    output = net(x)

    assert_identical(torch.stack([net(row) for row in x]), output, claim="rows alone")


@given(net=this_net, order=st.permutations(range(4)))
def test_permuting_the_rows_of_the_truth_table_permutes_the_outputs(net, order):
    """Bit for bit, on the CPU: the 16 hidden numbers fill whole vectors, so no row is in a kernel's tail."""
    x, _ = xor()

    assert_identical(net(x[order]), net(x)[order], claim=f"order {order}")


@given(net=networks(), batch=batches())
def test_reshaping_the_batch_dimensions_reshapes_the_output(device, net, batch):
    net, x = net.to(device), batch[0].to(device)

    assert_identical(net(x[None, :, None]), net(x)[None, :, None], claim="dimensions of size 1")
    assert_identical(net(x[0]), net(x[:1])[0], claim="no batch dimension")
    if len(x) % 2 == 0:
        assert_identical(net(x.reshape(2, -1, 2)).reshape(-1, 1), net(x), claim="two halves")


@pytest.mark.parametrize("parameters", DTYPES, ids=lambda dtype: f"parameters={dtype}")
@pytest.mark.parametrize("inputs", DTYPES, ids=lambda dtype: f"inputs={dtype}")
def test_the_outputs_dtype_is_the_parameters_and_mixed_ones_are_refused(device, parameters, inputs):
    skip_where_missing(affine, parameters, device)
    net = SimpleNet().to(device, parameters)
    x = torch.ones(3, 2, dtype=inputs, device=device)

    if inputs == parameters:
        assert net(x).dtype == parameters
    else:
        with pytest.raises(
            TypeError, match=f"^inputs have dtype {inputs}, but should have that of the parameters, {parameters}$"
        ):
            net(x)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_autocast_gives_the_output_of_a_cast_network(device, architecture):
    """The output is that of a bfloat16 network, bit for bit; parameters and their gradients stay in float32."""
    net = SimpleNet(architecture).to(device)
    x, y = (rows.to(device) for rows in xor())

    with torch.autocast(device.type, dtype=torch.bfloat16):
        output = net(x)
    mse_loss(output.float(), y).backward()

    cast = SimpleNet(architecture).to(device)
    cast.load_state_dict(net.state_dict())
    assert_identical(output, cast.to(torch.bfloat16)(x.to(torch.bfloat16)), claim="autocast")
    assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("parameters", DTYPES, ids=lambda dtype: f"parameters={dtype}")
@pytest.mark.parametrize("inputs", DTYPES, ids=lambda dtype: f"inputs={dtype}")
def test_an_autocast_region_takes_inputs_of_another_dtype_except_float64(device, parameters, inputs):
    """It casts inputs and weights to one dtype, except float64."""
    net = SimpleNet().to(device, parameters)
    x = xor()[0].to(device, inputs)

    with torch.autocast(device.type, dtype=torch.bfloat16):
        if inputs == parameters or torch.float64 not in {inputs, parameters}:
            assert net(x).dtype == (torch.float64 if inputs == torch.float64 else torch.bfloat16)
        else:
            with pytest.raises(TypeError, match=f"^inputs have dtype {inputs}, but should have that of the parameters"):
                net(x)


@pytest.mark.filterwarnings("ignore:torch.set_default_tensor_type:UserWarning")  # Lightning 2.0 calls it for 64-true
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_network_trains_at_every_precision_of_lightning(architecture, precision):
    """From float32 rows, on the CPU; bf16-mixed predicts in bfloat16 for targets in float32, 64-true casts both."""
    net = SimpleNet(architecture)
    before = parameters_to_vector(net.parameters()).detach().clone()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", precision=precision, max_epochs=2, enable_checkpointing=False, **quiet)

    trainer.fit(net, datamodule=XORDataModule(4))

    after = parameters_to_vector(net.parameters()).detach()
    assert after.isfinite().all()
    assert not torch.equal(after.to(before), before)
    assert after.dtype == (torch.float64 if precision == "64-true" else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_default_dtype_decides_that_of_weights_and_data(dtype):
    with default_dtype(dtype):
        net, rows = SimpleNet(), xor()

    assert {values.dtype for values in (*net.parameters(), *rows)} == {dtype}
    assert net(rows[0]).dtype == dtype


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_meta_device_gives_the_output_shape(architecture):
    """The meta device stores and computes no numbers."""
    with torch.device("meta"):
        net, x = SimpleNet(architecture), torch.empty(5, 3, 2)

    output = net(x)

    assert output.is_meta
    assert output.shape == (5, 3, 1)


@pytest.mark.skipif(TORCH < (2, 1), reason="torch.export exists from 2.1")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_exported_network_computes_the_same_bits(architecture):
    net = SimpleNet(architecture)
    x, _ = xor()

    exported = torch.export.export(net, (x,)).module()

    assert_identical(exported(x), net(x), claim="exported")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's imports call deprecated functions
@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler advises on TF32 and on the number of cores
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_network_computes_the_formulas(device, backend):
    """Fused kernels may round differently, within the same bound."""
    if backend == "inductor" and settings.default.max_examples < settings.get_profile("explore").max_examples:
        pytest.skip("the compiler takes seconds: only under --hypothesis-profile=explore")
    net = SimpleNet().to(device)
    x, _ = (rows.to(device) for rows in xor())
    with mock.patch.dict(os.environ):  # the compiler sets variables for its worker processes
        try:
            compiled = torch.compile(net, backend=backend)
        except RuntimeError as error:
            pytest.skip(f"torch {torch.__version__}: {error}")

        output = compiled(x)

    assert_in_balls(output, output_by_hand(net, x), claim="compiled")


@given(shape=batch_shapes, width=st.integers(0, 5))
def test_a_wrong_width_is_refused_with_both_widths(shape, width):
    assume(width != 2)
    x = torch.ones(*shape, width)

    with pytest.raises(ValueError, match=rf"inputs have shape .*\b{width},?\), but the last dimension should be 2"):
        SimpleNet()(x)


def test_inputs_on_another_device_are_refused_by_name(device):
    message = f"^inputs are on meta, but should be on the device of the parameters, {device}"
    with pytest.raises(ValueError, match=message):
        SimpleNet().to(device)(torch.ones(4, 2, device="meta"))


class Quantized(torch.nn.Module):
    """A layer whose weight is a method, as in torch's quantized layers."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.in_features = layer, layer.in_features

    def weight(self):
        return self.layer.weight

    def forward(self, x):
        return self.layer(x)


def test_a_network_with_quantized_layers_still_predicts():
    """The inputs' dtype is not checked, because the weights have none."""
    net = SimpleNet()
    expected = net(xor()[0])

    net.input_layer = Quantized(net.input_layer)

    assert_identical(net(xor()[0]), expected, claim="output")


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.complex64], ids=str)
def test_inputs_that_are_not_floating_point_are_refused(dtype):
    with pytest.raises(TypeError, match=f"inputs have dtype {dtype}, but should be floating-point"):
        SimpleNet()(torch.ones(4, 2, dtype=dtype))


def curvature(net):
    """Return f(00) + f(11) - f(01) - f(10), which is 0 for every affine f."""
    f00, f01, f10, f11 = net(xor()[0])
    return f00 + f11 - f01 - f10


@pytest.mark.claim("4/nonlinear")
@given(data=st.data(), net=this_net)
def test_without_the_hidden_sigmoid_the_network_is_affine(data, net):
    """Exactly, for integers; in the listing, this is the part before the last sigmoid."""
    for parameter in net.parameters():
        parameter.data = data.draw(tensors(tuple(parameter.shape), elements=integers))
    net.hidden_activation = net.output_activation = torch.nn.Identity()

    assert_identical(curvature(net), torch.zeros(1), claim="curvature")


@pytest.mark.claim("4/nonlinear")
@pytest.mark.parametrize("architecture", ["overview", "derivation"])
def test_the_hidden_sigmoid_makes_the_network_nonlinear(architecture):
    """One unit with weight 4: the curvature is 4 (1/2 + 1 - 2 sigmoid(4)) = 4 times -0.46."""
    net = SimpleNet(architecture, hidden=1)
    for parameter, value in zip(net.parameters(), (4.0, 0.0, 4.0, 0.0), strict=True):
        parameter.data.fill_(value)

    assert curvature(net) < 0


@pytest.mark.claim("4/forward-is-the-listing")
@refuted
@given(data=st.data(), net=networks(st.just("overview")))
def test_the_listing_computes_what_the_overview_describes(data, net):
    """§5 applies the sigmoid after both layers, §4 between them."""
    listing = SimpleNet("listing", hidden=net.hparams["hidden"])
    listing.load_state_dict(net.state_dict())
    x = data.draw(tensors((4, 2)))

    assert_identical(listing(x), net(x), claim="output")


@pytest.mark.claim("4/forward-is-the-listing")
@given(data=st.data(), net=networks(st.just("listing")))
def test_the_listings_two_layers_equal_one_layer(data, net):
    """sigmoid((W2 W1) x + (W2 b1 + b2)): bit for bit, for integers."""
    for parameter in net.parameters():
        parameter.data = data.draw(tensors(tuple(parameter.shape), elements=integers))
    x = data.draw(tensors((4, 2), elements=integers))
    w_in, b_in, w_out, b_out = net.parameters()

    output = net(x)

    assert_identical(output, torch.sigmoid(x @ (w_out @ w_in).T + (w_out @ b_in + b_out)), claim="one layer")


@pytest.mark.claim("4/adam")
@given(architecture=architectures, hidden=hidden_widths, lr=st.none() | st.floats(0, 1))
@example(architecture="overview", hidden=4, lr=None)
def test_the_optimizer_is_adam_at_a_hundredth_over_all_parameters(architecture, hidden, lr):
    """Or at the rate that is given. The other settings are those of §4.2."""
    net = SimpleNet(architecture, hidden=hidden, **({} if lr is None else {"lr": lr}))

    optimizer = net.configure_optimizers()

    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in net.parameters()]
    settings = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
    settings["lr"] = 0.01 if lr is None else lr
    assert {name: group[name] for name in settings} == settings


def test_a_learning_rate_that_is_set_later_is_used():
    """As Lightning's learning-rate finder sets it."""
    net = SimpleNet()
    net.hparams.lr = 0.5

    assert net.configure_optimizers().param_groups[0]["lr"] == 0.5


@pytest.mark.claim("4/training-step")
@given(net=networks(hidden=few), batch=batches(few))
def test_the_loss_of_a_training_step_is_the_mse_of_outputs_and_targets(device, net, batch):
    """And it is logged."""
    net = net.to(device)
    x, y = (rows.to(device) for rows in batch)
    logged = {}
    net.log = lambda name, value, **options: logged.update({name: (value, options)})

    loss = net.training_step((x, y), 0)

    errors = output_by_hand(net, x) - in_balls(net, y)[1]
    assert_in_balls(loss, (errors * errors).sum() / errors.size, claim="loss")
    assert logged == {"train_loss": (loss, {"batch_size": len(x)})}
