"""The initial weights are uniform on ±1/√fan_in, independent, and determined by the seed.

A statistical test here fails by chance with a probability below ``FALSE_ALARM``. The seeds are fixed, so a failure by
chance is only possible with another random stream: a new release of torch, or a new device.

References:
    K. He et al., Delving Deep into Rectifiers, ICCV 2015, with torch's a = √5: the bound √(6 / ((1 + a²) fan_in)).
    W. Hoeffding, Probability Inequalities for Sums of Bounded Random Variables, JASA 58, 1963, Theorem 2.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.nn.utils import parameters_to_vector

from simplenet import ARCHITECTURES, SimpleNet, set_seed
from simplenet.testing.assertions import assert_identical, assert_within, refuted
from simplenet.testing.settings import default_dtype
from simplenet.testing.strategies import architectures, hidden_widths, seeds
from tests.generators import disturb

# The probability for one comparison; for the 255 in this file on two devices, it is below 1e-6 in total.
FALSE_ALARM = 1e-9

# Consecutive seeds, which differ in low bits, and multiples of 2^20, which differ in high bits.
SEEDS = sorted({*range(6000), *range(0, 2**32, 2**20)})

# The fan-in of each of the 17 weights and biases of the 2-4-1 network, in the order of its parameters.
FAN_IN = [2] * 8 + [2] * 4 + [4] * 4 + [4]

_drawn = {}


def new_weights(device, seed, *arguments):
    """Return all parameters of a new network on a device as one vector."""
    set_seed(seed)
    with device:
        return parameters_to_vector(SimpleNet(*arguments).parameters()).detach()


def initial_weights(device):
    """Return the 17 parameters for each of ``SEEDS``, one row for each, in units of their bounds."""
    if device not in _drawn:
        # torch.manual_seed spends most of its time on devices that do not exist.
        generator = (
            torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
        )
        with device:
            net = SimpleNet()
        rows = []
        for seed in SEEDS:
            generator.manual_seed(seed)
            net.input_layer.reset_parameters()
            net.output_layer.reset_parameters()
            rows.append(parameters_to_vector(net.parameters()).detach())
        _drawn[device] = torch.stack(rows).cpu().double() * torch.tensor(FAN_IN).double().sqrt()
    return _drawn[device]


def assert_mean(values, expected, width, *, claim):
    """Assert the mean of independent numbers from an interval of this width, up to ``FALSE_ALARM``."""
    n = len(values)
    # Hoeffding: P(|mean - expected| >= t) <= 2 exp(-2 n t^2 / width^2).
    assert_within(values.mean(), expected, atol=width * math.sqrt(math.log(2 / FALSE_ALARM) / (2 * n)), claim=claim)


@given(seed=seeds, architecture=architectures, hidden=hidden_widths, disturbance=st.integers(0, 3))
def test_the_same_seed_gives_the_same_initial_weights(device, seed, architecture, hidden, disturbance):
    """Bit for bit, whatever was drawn before."""
    first = new_weights(device, seed, architecture, hidden)
    disturb(disturbance)

    second = new_weights(device, seed, architecture, hidden)

    assert_identical(second, first, claim=f"{architecture} of {hidden} hidden units, seed {seed}")


@given(seed=seeds, hidden=hidden_widths)
def test_the_architecture_does_not_change_the_initial_weights(device, seed, hidden):
    """Activations have no parameters, so the three networks have the same initial weights."""
    overview, *others = (new_weights(device, seed, architecture, hidden) for architecture in ARCHITECTURES)

    for weights in others:
        assert_identical(weights, overview, claim=f"initial weights, seed {seed}")


@given(seed=seeds)
def test_a_seed_with_one_bit_flipped_gives_other_initial_weights(device, seed):
    """Any bit; a single weight is the same by chance once in 2^24."""
    first = new_weights(device, seed)
    for bit in range(32):
        assert not torch.equal(first, new_weights(device, seed ^ (1 << bit))), f"seed {seed}, bit {bit}"


def test_distinct_seeds_give_distinct_initial_weights(device):
    rows = {tuple(row) for row in initial_weights(device).tolist()}

    assert len(rows) == len(SEEDS) >= 10_000


def test_reset_parameters_draws_the_weights_of_a_new_network(device):
    """So the weights that the other tests draw are those that a user gets."""
    weights = initial_weights(device)

    for index in (0, 1, 5999, len(SEEDS) - 1):
        fresh = new_weights(device, SEEDS[index]).cpu().double() * torch.tensor(FAN_IN).double().sqrt()
        assert_identical(weights[index], fresh, claim=f"seed {SEEDS[index]}")


@given(seed=seeds, hidden=hidden_widths)
def test_no_initial_weight_exceeds_one_over_the_square_root_of_its_fan_in(device, seed, hidden):
    """Not even by a rounding error: the limit is the bound rounded to float32."""
    set_seed(seed)
    with device:
        net = SimpleNet(hidden=hidden)

    for layer in (net.input_layer, net.output_layer):
        bound = torch.tensor(1 / math.sqrt(layer.in_features))
        for name, values in layer.named_parameters():
            assert values.abs().max() <= bound, f"{name} of fan-in {layer.in_features}, seed {seed}"


@given(seed=seeds)
def test_initial_weights_in_float64_use_all_bits(device, seed):
    """All 53 bits are drawn: a number has 29 trailing zeros by chance with probability 2^-29."""
    with default_dtype(torch.float64):
        weights = new_weights(device, seed)

    assert weights.dtype == torch.float64
    assert (weights.float().double() != weights).all()


@pytest.mark.parametrize("parameter", range(17))
def test_each_initial_weight_is_uniform_up_to_its_bound(device, parameter):
    """By the Kolmogorov-Smirnov test over all seeds; and some values are close to each bound."""
    values = initial_weights(device)[:, parameter]
    # P(no value within this share of the interval at one end) = (1 - share)^n < exp(-share n).
    share = math.log(1 / FALSE_ALARM) / len(values)

    p = stats.kstest(values.numpy(), stats.uniform(-1, 2).cdf).pvalue

    assert p > FALSE_ALARM, f"parameter {parameter}: p is {p:.3g}, but should be more than {FALSE_ALARM}"
    assert values.min() < -1 + 2 * share
    assert values.max() > 1 - 2 * share


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_the_moments_of_the_initial_weights_are_those_of_the_uniform_distribution(device, power):
    """In units of the bound: 0, 1/3, 0, 1/5."""
    for parameter, values in enumerate(initial_weights(device).T):
        assert_mean(
            values**power,
            (power % 2 == 0) / (power + 1),
            1 if power % 2 == 0 else 2,
            claim=f"moment {power} of parameter {parameter}",
        )


def test_no_two_initial_weights_are_correlated(device):
    """Over the seeds; so hidden units start with different weights and can learn different features."""
    weights = initial_weights(device)

    for a in range(17):
        for b in range(a):
            assert_mean(weights[:, a] * weights[:, b], 0, 2, claim=f"product of parameters {a} and {b}")


@refuted
@given(factor=st.sampled_from([0.99, 1.01]))
def test_the_bound_of_the_initial_weights_is_a_hundredth_off(device, factor):
    values = initial_weights(device)[:, 0] * factor
    share = math.log(1 / FALSE_ALARM) / len(values)

    assert 1 - 2 * share < values.max() <= 1


@refuted
@given(seed=seeds)
def test_normal_weights_of_the_same_variance_pass_the_uniformity_test(seed):
    values = torch.randn(len(SEEDS), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / math.sqrt(3)

    assert stats.kstest(values.numpy(), stats.uniform(-1, 2).cdf).pvalue > FALSE_ALARM


@refuted
@given(parameter=st.integers(0, 15))
def test_weights_that_share_a_quarter_of_their_value_look_uncorrelated(device, parameter):
    one, other = initial_weights(device)[:, parameter : parameter + 2].T

    assert_mean(one * (0.75 * other + 0.25 * one), 0, 2, claim="product")
