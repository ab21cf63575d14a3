"""The loss is the mean of the squared differences: exactly if nothing rounds, else within a counted bound.

The subject is ``simplenet.mse_loss``, which checks its arguments and calls torch's loss.

References:
    The notebook, §4.1.
"""

import math
from fractions import Fraction
from itertools import permutations, product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional

from simplenet import mse_loss
from simplenet.testing.assertions import assert_identical, assert_within, refuted
from simplenet.testing.bounds import gamma
from simplenet.testing.strategies import DTYPES, batch_sizes, batches, few, floats, seeds, skip_where_missing, tensors

wide_dtypes = st.sampled_from([torch.float32, torch.float64])

# Eighths up to 8: in every type their differences have at most 8 binary digits, their squares 16 and a sum
# of 32 squares 21, which float32 holds.  Dividing by a power of two rounds nothing.
eighths = st.integers(-64, 64).map(lambda n: n / 8)
powers_of_two = st.sampled_from([1, 2, 4, 8, 16, 32])


def mse_roundings(n):
    """Count the longest path: the difference, twice in its square, the square, n - 1 sums, the quotient.

    CUDA multiplies by 1/n instead of dividing by n: one more rounding.
    """
    return 2 + 1 + (n - 1) + 2


def exact_mean_of_squares(predictions, targets):
    """Compute the mean of squared differences in rational numbers."""
    pairs = zip(predictions.flatten().tolist(), targets.flatten().tolist(), strict=True)
    return sum((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs) / predictions.numel()


@st.composite
def pairs(draw, rows, dtype=torch.float32, *, dyadic=False):
    """Draw predictions and targets, from one seed for speed: eighths up to 8 if ``dyadic``, else over all exponents."""
    if not dyadic:
        n = st.just(draw(rows))
        return tuple(draw(batches(n, dtype))[1] for _ in range(2))
    n, generator = draw(rows), torch.Generator().manual_seed(draw(seeds))
    return tuple((torch.randint(-64, 65, (n, 1), generator=generator) / 8).to(dtype) for _ in range(2))


@pytest.mark.claim("4.1/mean-of-squares")
@given(pair=pairs(powers_of_two, dyadic=True), dtype=wide_dtypes)
def test_mse_is_the_exact_mean_if_no_operation_rounds(device, pair, dtype):
    """For dyadic numbers; the result has the dtype and the device of the arguments, and no dimensions."""
    predictions, targets = (values.to(device, dtype) for values in pair)

    loss = mse_loss(predictions, targets)

    expected = torch.tensor(float(exact_mean_of_squares(predictions, targets)), dtype=dtype)
    assert_identical(loss, expected, claim=f"mse of {len(predictions)} rows")
    assert loss.device.type == device.type


@pytest.mark.claim("4.1/mean-of-squares")
@given(data=st.data(), dtype=wide_dtypes)
def test_mse_is_the_mean_of_squared_differences(device, data, dtype):
    """The loss equals the textbook mean, to within its own rounding error."""
    predictions, targets = (v.to(device) for v in data.draw(pairs(batch_sizes, dtype), label="pair"))

    loss = mse_loss(predictions, targets)

    expected = float(exact_mean_of_squares(predictions, targets))
    # One more rounding: the expected value is rounded to float64.
    rtol = gamma(mse_roundings(len(predictions)), dtype) + gamma(1, torch.float64)
    assert_within(loss, expected, rtol=rtol, claim=f"mse of {len(predictions)} rows")


@refuted
@given(pair=pairs(batch_sizes))
def test_the_mse_has_the_error_of_a_single_rounding(pair):
    expected = float(exact_mean_of_squares(*pair))

    assert_within(mse_loss(*pair), expected, rtol=gamma(1, torch.float32), claim="mse")


@refuted
@given(pair=pairs(batch_sizes))
def test_the_mse_is_half_the_mean_of_squared_differences(pair):
    """Bishop's loss has a factor 1/2; this one does not."""
    expected = float(exact_mean_of_squares(*pair)) / 2

    assert_within(mse_loss(*pair), expected, rtol=gamma(mse_roundings(len(pair[0])), torch.float32), claim="mse")


@pytest.mark.filterwarnings("ignore:Applying the CPU mse kernel on half-type tensors")  # torch 2.0, on speed
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@given(data=st.data())
def test_the_mse_in_sixteen_bits_keeps_its_dtype_and_its_bound(device, dtype, data):
    """For eighths up to 8, whose squares neither overflow nor underflow; their sums round."""
    skip_where_missing(lambda one: mse_loss(one, one), dtype, device)
    predictions, targets = (v.to(device) for v in data.draw(pairs(batch_sizes, dtype, dyadic=True), label="pair"))

    loss = mse_loss(predictions, targets)

    assert loss.dtype == dtype
    rtol = gamma(mse_roundings(len(predictions)), dtype)
    expected = float(exact_mean_of_squares(predictions, targets))
    assert_within(loss.double(), expected, rtol=rtol + gamma(1, torch.float64), claim="mse")


@pytest.mark.filterwarnings("ignore:Applying the CPU mse kernel on half-type tensors")  # torch 2.0, on speed
@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, math.inf), (torch.bfloat16, 65536.0)], ids=str)
def test_float16_overflows_where_bfloat16_does_not(device, dtype, expected):
    """The square of 256 is 65,536, and float16's largest number is 65,504."""
    skip_where_missing(lambda one: mse_loss(one, one), dtype, device)
    predictions = torch.tensor([256.0], dtype=dtype, device=device)

    assert mse_loss(predictions, torch.zeros_like(predictions)).item() == expected


@given(pair=pairs(batch_sizes))
def test_mse_is_symmetric(device, pair):
    a, b = (values.to(device) for values in pair)

    assert_identical(mse_loss(a, b), mse_loss(b, a), claim="mse(a, b) and mse(b, a)")


@given(pair=pairs(batch_sizes), k=st.integers(-8, 8))
def test_scaling_by_a_power_of_two_scales_the_mse_by_its_square(device, pair, k):
    """Bit for bit: numbers from 2^-10 to 2^3, scaled by up to 2^8, have normal squares."""
    a, b = (values.to(device) for values in pair)
    assume((a - b)[a != b].abs().ge(2**-40).all())  # a smaller difference may square to a subnormal number

    assert_identical(mse_loss(a * 2.0**k, b * 2.0**k), mse_loss(a, b) * 4.0**k, claim=f"scaled by 2^{k}")


@given(pair=pairs(powers_of_two, dyadic=True), offset=st.integers(-(2**17), 2**17))
def test_an_exactly_representable_offset_does_not_change_the_mse(device, pair, offset):
    """Up to 2^17, adding an eighth is exact; the mean of a^2 - 2ab + b^2 would not be."""
    a, b = (values.to(device) for values in pair)

    assert_identical(mse_loss(a + offset, b + offset), mse_loss(a, b), claim=f"offset by {offset}")


@given(pair=pairs(powers_of_two, dyadic=True))
def test_every_reduction_uses_the_same_squares(device, pair):
    """The reductions of torch's own loss."""
    a, b = (values.to(device) for values in pair)
    squares = functional.mse_loss(a, b, reduction="none")

    assert_identical(squares, (a - b) ** 2, claim="none")
    assert_identical(functional.mse_loss(a, b, reduction="sum"), squares.sum(), claim="sum")
    assert_identical(mse_loss(a, b), squares.sum() / len(a), claim="mean")
    with pytest.raises(ValueError, match="average"):
        functional.mse_loss(a, b, reduction="average")


@given(pair=pairs(powers_of_two, dyadic=True), data=st.data())
def test_the_mean_of_equal_batches_means_is_the_mean(pair, data):
    size = data.draw(st.sampled_from([d for d in (1, 2, 4, 8, 16, 32) if d <= len(pair[0])]), label="batch size")

    means = torch.stack([mse_loss(a, b) for a, b in zip(*(values.split(size) for values in pair), strict=True)])

    assert_identical(means.mean(), mse_loss(*pair), claim=f"batches of {size}")


@refuted
@given(pair=pairs(powers_of_two, dyadic=True))
def test_the_mean_of_unequal_batches_means_is_the_mean(pair):
    """As with batch size 3 over four rows: the last row counts three times."""
    means = torch.stack([mse_loss(a, b) for a, b in zip(*(values.split(3) for values in pair), strict=True)])

    assert_identical(means.mean(), mse_loss(*pair), claim="batches of 3")


def gradients(loss, pair, **options):
    a, b = (values.clone().requires_grad_() for values in pair)
    loss(a, b).backward(**options)
    return a.grad, b.grad


@given(pair=pairs(batch_sizes), dtype=wide_dtypes)
def test_the_gradient_is_twice_the_difference_over_the_count(device, pair, dtype):
    """Bit for bit: 2/n is rounded, then the product; the target's gradient has the opposite sign."""
    pair = [values.to(device, dtype) for values in pair]
    a, b = pair
    n = len(a)

    grad_a, grad_b = gradients(mse_loss, pair)

    scale = torch.tensor(2 / n, dtype=dtype, device=device)
    assert_identical(grad_a, scale * (a - b), claim=f"gradient over {n} rows")
    assert_identical(grad_b, scale * (b - a), claim="the target's gradient")


@pytest.mark.claim("4.1/mean-of-squares")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_loss_and_gradient_are_exact_at_every_number_of_rows(device, dtype):
    """For each size from 1 to 128 rows; tests with drawn sizes omit some.

    The differences are 1/8, 3/8, 5/8 and so on, so that the sum of n squares is exactly n (4n² - 1)/192. Only the
    quotient by n rounds, or 1/n and the product.
    """
    for n in range(1, 129):
        difference = torch.arange(1, 2 * n, 2, device=device, dtype=dtype)[:, None] / 8
        targets = torch.arange(n, device=device, dtype=dtype)[:, None] % 5 / 8
        pair = targets + difference, targets

        loss, (grad_a, grad_b) = mse_loss(*pair), gradients(mse_loss, pair)

        rtol = gamma(2, dtype) + gamma(1, torch.float64)  # the second term is for the expected value itself
        assert_within(loss, (4 * n * n - 1) / 192, rtol=rtol, claim=f"mse of {n} rows")
        scale = torch.tensor(2 / n, dtype=dtype, device=device)
        assert_identical(grad_a, scale * difference, claim=f"gradient over {n} rows")
        assert_identical(grad_b, -scale * difference, claim=f"the target's gradient over {n} rows")


@pytest.mark.filterwarnings("ignore:Applying the CPU mse kernel on half-type tensors")  # torch 2.0, on speed
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@given(data=st.data())
def test_the_gradient_is_twice_the_difference_over_the_count_in_sixteen_bits(device, dtype, data):
    """For eighths, whose differences are exact: only 2/n and its products with them and with the upstream 1 round."""
    skip_where_missing(lambda one: gradients(mse_loss, (one, one)), dtype, device)
    a, b = (v.to(device) for v in data.draw(pairs(batch_sizes, dtype, dyadic=True), label="pair"))

    grad_a, grad_b = gradients(mse_loss, (a, b))

    expected = (a.double() - b.double()) * 2 / len(a)
    assert_within(grad_a, expected, rtol=gamma(3, dtype), claim=f"gradient over {len(a)} rows")
    # If prediction and target are equal, the target's gradient is -0 on the CPU and 0 on CUDA: plus 0, both are 0.
    assert_identical(grad_b + 0.0, 0.0 - grad_a, claim="the target's gradient")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2**17, 1), (2**11, 2**6), (2**3, 2, 2**2), (1, 2**16)], ids=str)
def test_the_mse_of_exact_numbers_is_exact_at_every_size(device, dtype, shape):
    """For 2^k differences of 1/2 and 1, alternating: squares, their sum and their mean are exact."""
    index = torch.arange(math.prod(shape), device=device).reshape(shape)
    difference = (1 + index % 2).to(dtype) / 2
    targets = (index % 5).to(dtype)
    pair = targets + difference, targets

    loss, (grad_a, grad_b) = mse_loss(*pair), gradients(mse_loss, pair)

    assert_identical(loss, torch.tensor(0.625, dtype=dtype), claim=f"mse of {shape}")
    assert_identical(grad_a, difference * (2 / difference.numel()), claim=f"gradient over {shape}")
    assert_identical(grad_b, -grad_a, claim=f"the target's gradient over {shape}")


@refuted
@given(pair=pairs(batch_sizes))
def test_the_gradient_is_the_difference_over_the_count(pair):
    grad_a, _ = gradients(mse_loss, pair)

    assert_identical(grad_a, (pair[0] - pair[1]) / len(pair[0]), claim="gradient of half the loss")


@given(pair=pairs(powers_of_two, dyadic=True), upstream=eighths)
def test_an_upstream_gradient_multiplies_the_gradient(device, pair, upstream):
    """For every reduction; exact for eighths."""
    a, b = pair = [values.to(device) for values in pair]
    unit = 2 * (a - b)
    rows = torch.linspace(-2, 2, 2 * len(a) + 1, device=device)[1::2, None] * upstream

    for claim, loss, gradient, expected in (
        ("mean", mse_loss, upstream, unit / len(a) * upstream),
        ("sum", lambda a, b: functional.mse_loss(a, b, reduction="sum"), upstream, unit * upstream),
        ("none", lambda a, b: functional.mse_loss(a, b, reduction="none"), rows, unit * rows),
    ):
        shape = (len(a), 1) if claim == "none" else ()
        grad_a, grad_b = gradients(loss, pair, gradient=torch.as_tensor(gradient, device=device).expand(shape))

        assert (grad_a == expected).all(), claim
        assert (grad_b == -expected).all(), claim


@given(a=eighths, b=eighths)
def test_the_loss_of_tensors_without_dimensions_has_a_gradient(device, a, b):
    pair = [torch.tensor(value, device=device) for value in (a, b)]

    assert mse_loss(*pair).item() == (a - b) ** 2
    assert gradients(mse_loss, pair)[0].item() == 2 * (a - b)


@given(pair=pairs(batch_sizes))
def test_requiring_the_targets_gradient_does_not_change_the_loss(device, pair):
    """Torch has had two code paths here."""
    a, b = (values.to(device) for values in pair)

    assert_identical(mse_loss(a, b.clone().requires_grad_()), mse_loss(a, b), claim="target requires grad")
    assert_identical(mse_loss(a.clone().requires_grad_(), b), mse_loss(a, b), claim="prediction requires grad")


@pytest.mark.claim("4.1/smaller-is-nearer")
@given(data=st.data(), n=batch_sizes, k=st.integers(1, 8))
def test_nearer_predictions_never_have_a_larger_mse(device, data, n, k):
    """Each rounding is monotone, so scaling each error by 2^-k cannot increase the MSE; for targets of 0."""
    errors = data.draw(tensors((n, 1)), label="errors").to(device)
    shrink = torch.tensor(data.draw(st.lists(st.integers(0, k), min_size=n, max_size=n)), device=device)
    nearer = errors * 2.0 ** -shrink[:, None]

    assert mse_loss(nearer, torch.zeros_like(nearer)) <= mse_loss(errors, torch.zeros_like(errors))


@pytest.mark.claim("4.1/smaller-is-nearer")
@given(data=st.data(), n=powers_of_two)
def test_the_mse_orders_predictions_as_their_distance_does(device, data, n):
    """Both ways, by the exact Euclidean distance to the targets; for eighths."""
    p, q, y = (data.draw(tensors((n, 1), elements=eighths)).to(device) for _ in range(3))

    nearer = exact_mean_of_squares(p, y) < exact_mean_of_squares(q, y)

    assert (mse_loss(p, y) < mse_loss(q, y)).item() == nearer


@pytest.mark.claim("4.1/zero-only-at-equality")
@refuted
@given(difference=floats(torch.float32, min_exponent=-126, max_exponent=0))
def test_an_mse_of_zero_means_equality(difference):
    """False in floating point: the square of 1e-23 underflows to 0."""
    assume(difference)

    assert mse_loss(torch.tensor([difference]), torch.zeros(1)) > 0


@pytest.mark.claim("4.1/zero-only-at-equality")
@given(data=st.data(), n=few)
def test_an_mse_of_zero_means_equality_unless_a_square_underflows(device, data, n):
    """Different numbers from 2^-40 on differ by at least 2^-63, whose square is 2^-126, the smallest normal number."""
    elements = floats(torch.float32, min_exponent=-40, max_exponent=40)
    a, b = (data.draw(tensors((n, 1), elements=elements)).to(device) for _ in range(2))

    assert (mse_loss(a, b) == 0).item() == torch.equal(a, b)


@given(pair=pairs(batch_sizes), data=st.data(), value=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_nonfinite_values_make_the_loss_nonfinite(device, pair, data, value):
    """In either argument and any row; infinity minus itself is NaN."""
    a, b = pair = [values.to(device) for values in pair]
    row = data.draw(st.integers(0, len(a) - 1), label="row")
    data.draw(st.sampled_from(pair), label="side")[row] = value

    loss = mse_loss(a, b)

    assert loss.isnan() if math.isnan(value) else loss == math.inf
    a[row] = b[row] = value
    assert mse_loss(a, b).isnan()


def test_targets_without_a_column_are_refused_although_torch_only_warns(device):
    """Torch compares each of n predictions with each of n targets, n^2 pairs: a different loss."""
    predictions = torch.tensor([[0.0], [1.0], [1.0], [0.0]], device=device)
    targets = predictions.flatten()

    with pytest.raises(ValueError, match=r"targets have shape \(4,\), .* of the predictions, \(4, 1\)"):
        mse_loss(predictions, targets)
    with pytest.warns(UserWarning, match="target size"):
        torchs = functional.mse_loss(predictions, targets)

    assert mse_loss(predictions, targets[:, None]) == 0
    assert torchs == 1 / 2  # of the 16 pairs, 8 differ by 1


@given(pair=pairs(st.integers(2, 8), dyadic=True))
def test_torchs_loss_of_targets_without_a_column_is_the_mean_over_all_pairs(pair):
    a, b = pair
    every_a, every_b = a.expand(len(a), len(a)), b.T.expand(len(a), len(a))

    with pytest.warns(UserWarning, match="target size"):
        torchs = functional.mse_loss(a, b.flatten())

    expected = float(exact_mean_of_squares(every_a, every_b))
    assert_within(torchs, expected, rtol=gamma(mse_roundings(a.numel() ** 2), torch.float32), claim="all pairs")


@given(shapes=st.lists(st.sampled_from([(), (1,), (4,), (1, 1), (4, 1), (1, 4), (2, 2)]), min_size=2, unique=True))
def test_different_shapes_are_refused_even_if_they_broadcast(shapes):
    with pytest.raises(ValueError, match=r"targets have shape .* but should have that of the predictions"):
        mse_loss(torch.ones(shapes[0]), torch.ones(shapes[1]))


@pytest.mark.parametrize("shape", [(0,), (0, 1), (3, 0)], ids=str)
def test_an_empty_batch_is_refused(shape):
    """Its mean is 0/0, and torch returns NaN."""
    with pytest.raises(ValueError, match="should hold at least one element"):
        mse_loss(torch.ones(shape), torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.complex64], ids=str)
def test_tensors_that_are_not_floating_point_are_refused_by_name(dtype):
    whole, real = torch.ones(4, 1, dtype=dtype), torch.ones(4, 1)

    with pytest.raises(TypeError, match=f"predictions have dtype {dtype}, but should be floating-point"):
        mse_loss(whole, real)
    with pytest.raises(TypeError, match=f"targets have dtype {dtype}, but should be floating-point"):
        mse_loss(real, whole)


@pytest.mark.parametrize(("predictions", "targets"), list(permutations(DTYPES, 2)), ids=str)
def test_targets_of_another_dtype_are_refused_by_name(device, predictions, targets):
    """Torch would compute in the wider one, and not every release can differentiate that."""
    message = f"^targets have dtype {targets}, but should have that of the predictions, {predictions}$"
    with pytest.raises(TypeError, match=message):
        mse_loss(torch.ones(4, 1, dtype=predictions, device=device), torch.ones(4, 1, dtype=targets, device=device))


NARROW = [dtype for dtype in DTYPES if dtype != torch.float64]  # the types that an autocast region casts


@pytest.mark.parametrize(("predictions", "targets"), list(product(NARROW, repeat=2)), ids=str)
@given(pair=pairs(few, dyadic=True))
def test_an_autocast_region_computes_the_loss_of_any_two_dtypes_in_float32(device, predictions, targets, pair):
    """The same bits as if both are cast explicitly; the gradient has the dtype of the predictions."""
    a, b = pair[0].to(device, predictions).requires_grad_(), pair[1].to(device, targets)
    by_hand = a.detach().float().requires_grad_()

    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = mse_loss(a, b)
    loss.backward()

    expected = mse_loss(by_hand, b.float())
    expected.backward()
    assert_identical(loss, expected, claim="loss under autocast")
    assert_identical(a.grad, by_hand.grad.to(predictions), claim="gradient under autocast")


@pytest.mark.parametrize("narrow", NARROW, ids=str)
@pytest.mark.parametrize("wide_first", [True, False])
def test_float64_with_another_type_is_refused_in_an_autocast_region_too(device, narrow, wide_first):
    """Autocast does not cast float64."""
    pair = torch.ones(4, 1, dtype=torch.float64, device=device), torch.ones(4, 1, dtype=narrow, device=device)

    with (
        torch.autocast(device.type, dtype=torch.bfloat16),
        pytest.raises(TypeError, match=r"^targets have dtype .*, but should have that of the predictions"),
    ):
        mse_loss(*pair if wide_first else reversed(pair))


def test_autocast_allows_mixed_dtypes_only_if_it_is_enabled_for_their_device(device):
    """Not if it is disabled inside a region, nor in a region of another type of device."""
    pair = torch.ones(4, 1, dtype=torch.bfloat16, device=device), torch.ones(4, 1, device=device)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.autocast(device.type, enabled=False), pytest.raises(TypeError, match=r"^targets have dtype"):
            mse_loss(*pair)
        with pytest.raises(TypeError, match=r"^targets have dtype"):
            mse_loss(*(part.to("meta") for part in pair))  # which has no autocast


def test_targets_on_another_device_are_refused_by_name(device):
    message = f"^targets are on meta, but should be on the device of the predictions, {device}"
    with pytest.raises(ValueError, match=message):
        mse_loss(torch.ones(4, 1, device=device), torch.ones(4, 1, device="meta"))
