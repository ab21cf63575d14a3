"""The oracle: its bounds against interval arithmetic on fractions, the variants that it refutes, and its messages.

A bound that counts a rounding too many would pass every correct optimizer, and some that are wrong. So a bound must
hold every result, and reach one.
"""

import re
from argparse import Namespace
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from math import isqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplenet import reference
from simplenet.testing.balls import AutocastBalls, Balls, TritonBalls, in_balls, joined
from simplenet.testing.bounds import smallest_subnormal, unit_roundoff
from simplenet.testing.one_step import TorchHyper, TrainingState, one_step, training_step
from simplenet.testing.oracle import (
    AMSGRAD,
    CORRECTION,
    DECAY,
    EPSILON,
    Hyper,
    Run,
    Variant,
    candidates,
    judge,
    refute,
    resolve_variant,
)
from simplenet.testing.strategies import batches, few, networks


def root(x):
    """Return a square root with a relative error below 2^-250."""
    scale = 600 - (x.numerator.bit_length() - x.denominator.bit_length()) // 2
    return Fraction(isqrt(x.numerator * 4**scale // x.denominator), 2**scale)


@dataclass(frozen=True)
class Interval:
    """All results that an expression may have if each of its operations has an error of some roundings.

    An operation on two types has the roundings of the coarser.
    """

    low: Fraction
    high: Fraction
    dtype: torch.dtype = torch.float64
    roundings: int = 0

    @property
    def key(self):
        return unit_roundoff(self.dtype), self.roundings

    def rounded(self, low, high):
        ku = self.roundings * Fraction(unit_roundoff(self.dtype))
        relative, absolute = ku / (1 - ku), self.roundings * Fraction(smallest_subnormal(self.dtype)) / 2
        return self.exactly(low - relative * abs(low) - absolute, high + relative * abs(high) + absolute)

    def exactly(self, low, high):
        return Interval(low, high, self.dtype, self.roundings)

    def combined(self, other, operation):
        other = other if isinstance(other, Interval) else Interval(Fraction(other), Fraction(other))
        ends = [operation(p, q) for p in (self.low, self.high) for q in (other.low, other.high)]
        return max(self, other, key=lambda one: one.key).rounded(min(ends), max(ends))

    def __add__(self, other):
        return self.combined(other, lambda p, q: p + q)

    def __sub__(self, other):
        return self.combined(other, lambda p, q: p - q)

    def __rsub__(self, other):
        return self.combined(other, lambda p, q: q - p)

    def __mul__(self, other):
        return self.combined(other, lambda p, q: p * q)

    def __truediv__(self, other):
        return self.combined(other, lambda p, q: p / q)

    def squared(self):
        """By the mean value theorem, as balls are: up to twice the error of numbers that may be 0."""
        centre, error = (self.low + self.high) / 2, (self.high - self.low) / 2
        error *= 2 * (abs(centre) + error)
        return self.rounded(centre**2 - error, centre**2 + error)

    def power(self, n):
        return self.rounded(self.low**n, self.high**n)

    def root(self):
        """Which is two roundings, for those of vector libraries are within a unit in the last place."""
        twice = Interval(self.low, self.high, self.dtype, 2 * self.roundings)
        rounded = twice.rounded(root(max(self.low, Fraction(0))), root(self.high))
        return self.exactly(max(rounded.low, Fraction(0)), rounded.high)

    def maximum(self, other):
        coarser = max(self, other, key=lambda one: one.key)
        return coarser.exactly(max(self.low, other.low), max(self.high, other.high))


def constant(value, scalars, roundings=2, *, rounded=None):
    """Return a hyper-parameter; in float32, or if it is ``rounded``, it is rounded to that type first."""
    rounded = scalars is torch.float32 if rounded is None else rounded
    error = abs(Fraction(value)) * (Fraction(unit_roundoff(scalars)) if rounded else 0)
    return Interval(Fraction(value) - error, Fraction(value) + error, scalars, roundings)


def moments(hyper, scalars, gradients, first, second, roundings=2, **options):
    """List both moments after each step, from those before the first."""
    beta1, beta2 = (constant(beta, scalars, roundings, **options) for beta in (hyper.beta1, hyper.beta2))
    firsts = accumulate(gradients, lambda m, g: beta1 * m + (1 - beta1) * g, initial=first)
    seconds = accumulate(gradients, lambda v, g: beta2 * v + (1 - beta2) * g.squared(), initial=second)
    return list(firsts)[1:], list(seconds)[1:]


def denominator_of(epsilon, second, correction2, eps):
    if epsilon == "before the correction":
        return (second.root() + eps) / correction2.root()
    if epsilon == "inside the root":
        return (second / correction2 + eps).root()
    if epsilon == "as a clamp":
        return (second / correction2).root().maximum(eps)
    return (second / correction2).root() + eps


def decayed(theta, decay, lr, weight_decay):
    return theta * (1 - (lr * weight_decay if ", times lr" in decay else weight_decay))


def parameter_after_each_step(run, variant):
    """Compute the steps of a variant for a parameter of one entry."""
    hyper, scalars = run.hyper, getattr(torch, variant.scalars)
    lr, eps, weight_decay = (constant(value, scalars) for value in (hyper.lr, hyper.eps, hyper.weight_decay))
    one = Interval(Fraction(1), Fraction(1))
    before, gradients = (
        [Interval(Fraction(x), Fraction(x), run.dtype, 2) for x in column[:, 0].tolist()]
        for column in (run.before, run.gradients)
    )
    if hyper.maximize:
        gradients = [g.exactly(-g.high, -g.low) for g in gradients]
    if variant.decay == "L2":
        gradients = [g + weight_decay * theta for g, theta in zip(gradients, before, strict=True)]
    zero = Interval(Fraction(0), Fraction(0), run.dtype, 2)
    firsts, seconds = moments(hyper, scalars, gradients, zero, zero)
    largest, results = zero, []
    for t, (theta, m, v) in enumerate(zip(before, firsts, seconds, strict=True), 1):
        correction1, correction2 = (1 - constant(beta, scalars).power(t) for beta in (hyper.beta1, hyper.beta2))
        correction1 = one if variant.correction == "none" else correction1
        correction2 = one if variant.correction != "both" else correction2
        second = v
        if variant.amsgrad != "none":
            largest = largest.maximum(v / correction2 if variant.amsgrad == "maximum of the corrected" else v)
            second = largest
        if variant.amsgrad in {"raw maximum", "maximum of the corrected"}:
            correction2 = one
        decoupled, after = variant.decay.startswith("decoupled"), variant.decay.endswith("after the step")
        start = decayed(theta, variant.decay, lr, weight_decay) if decoupled and not after else theta
        end = start - lr * (m / correction1) / denominator_of(variant.epsilon, second, correction2, eps)
        results.append(decayed(end, variant.decay, lr, weight_decay) if decoupled and after else end)
    return results


def assert_smallest(centre, radius, interval):
    """Assert that a ball holds an interval, and reaches one of its ends to second order in the roundings.

    The interval of a quotient or a root is not symmetric, as a ball is. That makes a bound at most ``d`` larger,
    relatively, where ``d`` is the error of the divisor or the radicand: below 2^-12, of 1 - 0.999^t after three
    roundings to float32. A step has three quotients and a root, so 2^-10.
    """
    centre, radius = Fraction(float(centre)), Fraction(float(radius))
    farthest = max(interval.high - centre, centre - interval.low)
    tiny = abs(centre) * Fraction(2) ** -53  # the centre's low part is not shown
    assert farthest <= radius + tiny, f"{float(radius / farthest)} of what it should be"
    assert radius <= farthest * (1 + Fraction(2) ** -10) + 2 * tiny, f"{float(radius / farthest)} of what it should be"


numbers = st.integers(-64, 64).filter(bool).map(lambda n: n / 16)
AXES = {"epsilon": EPSILON, "correction": CORRECTION, "decay": DECAY, "amsgrad": AMSGRAD}
TORCHS = Variant("outside", "both", "L2", "corrected maximum", "float64")


@pytest.mark.parametrize(("axis", "value"), [(axis, value) for axis, values in AXES.items() for value in values])
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_oracles_bounds_are_the_smallest_for_their_roundings(axis, value, data, dtype):
    """Of each step of each variant, from a fresh state."""
    variant = data.draw(st.sampled_from(candidates(**AXES | {axis: [value]}, scalars=["float64", "float32"])))
    steps = data.draw(st.integers(1, 4))
    before, gradients, after = (
        np.array(data.draw(st.lists(numbers, min_size=steps, max_size=steps)))[:, None] for _ in range(3)
    )
    alpha, beta1, beta2, eps = data.draw(st.sampled_from([(0.01, 0.9, 0.999, 1e-8), (0.5, 0.7, 0.6, 0.3)]))
    hyper = Hyper(alpha, beta1, beta2, eps, weight_decay=0.1, amsgrad=True, maximize=data.draw(st.booleans()))

    judged = judge([Run(hyper, dtype, before, gradients, after)], variant)[0]

    for t, interval in enumerate(parameter_after_each_step(judged.run, variant)):
        assert_smallest(judged.expected[t, 0], judged.radius[t, 0], interval)


def test_the_oracles_bounds_are_the_smallest_if_a_gradient_and_its_decay_cancel():
    """Then the rounding errors are as large as their sum."""
    hyper = Hyper(0.01, weight_decay=0.1, amsgrad=True)
    run = Run(hyper, torch.float32, np.array([[0.625]]), np.array([[-0.0625]]), np.zeros((1, 1)))

    judged = judge([run], TORCHS)[0]

    assert_smallest(judged.expected[0, 0], judged.radius[0, 0], parameter_after_each_step(run, TORCHS)[0])


@pytest.mark.parametrize("tensor_scalars", [False, True])
@pytest.mark.parametrize("decay", ["none", "L2", "decoupled, times lr"])
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]), roundings=st.sampled_from([2, 4]))
def test_the_bounds_of_one_step_are_the_smallest_for_their_roundings(decay, tensor_scalars, data, dtype, roundings):
    """From any state, along a gradient that is exact or has a bound."""
    theta, m, g = (data.draw(numbers) for _ in range(3))
    error = data.draw(st.sampled_from([0.0, 2.0**-30]))
    v, v_max = (abs(data.draw(numbers)) for _ in range(2))
    t = data.draw(st.integers(0, 20))
    amsgrad, maximize = (data.draw(st.booleans()) for _ in range(2))
    hyper = TorchHyper(
        *data.draw(st.sampled_from([(0.01, 0.9, 0.999, 1e-8), (0.5, 0.7, 0.6, 0.3)])),
        weight_decay=0.0 if decay == "none" else 0.1,
        amsgrad=amsgrad,
        maximize=maximize,
        decoupled=decay.startswith("decoupled"),
    )
    scalars = torch.float64 if dtype is torch.float64 or not tensor_scalars else torch.float32
    state = TrainingState(*(torch.tensor([x], dtype=dtype) for x in (theta, m, v, v_max)), t)

    along = Balls([g], error, dtype=dtype) if error else torch.tensor([g], dtype=dtype)

    step = one_step(state, along, hyper, tensor_scalars=tensor_scalars, roundings=roundings)

    lr, eps, weight_decay = (
        constant(value, scalars, roundings, rounded=tensor_scalars) for value in (hyper.lr, hyper.eps, 0.1)
    )
    p, first, second, largest = (Interval(Fraction(x), Fraction(x), dtype, roundings) for x in (theta, m, v, v_max))
    ends = (Fraction(-g if maximize else g) + sign * Fraction(error) for sign in (-1, 1))
    gradient = Interval(*ends, dtype, roundings)
    if decay == "L2":
        gradient = gradient + weight_decay * p
    first, second = (
        after[0] for after in moments(hyper, scalars, [gradient], first, second, roundings, rounded=tensor_scalars)
    )
    betas = (constant(beta, scalars, roundings, rounded=tensor_scalars) for beta in (hyper.beta1, hyper.beta2))
    correction1, correction2 = (1 - (beta.power(t + 1) if t else beta) for beta in betas)
    largest = largest.maximum(second)
    p = decayed(p, decay, lr, weight_decay) if hyper.decoupled else p
    denominator = denominator_of("outside", largest if amsgrad else second, correction2, eps)
    p = p - lr * (first / correction1) / denominator
    assert step.bounded
    assert (step.v_max is not None) == amsgrad
    for ball, interval in zip(step, (p, first, second, *[largest] * amsgrad), strict=False):
        assert_smallest(ball.centre.high[0], ball.radius[0], interval)


def test_a_step_of_amsgrad_needs_the_largest_second_moment():
    state = TrainingState(*(torch.ones(1) for _ in range(3)), None, 0)

    with pytest.raises(ValueError, match=r"^state\.v_max is None, but should be .* second moment for AMSGrad$"):
        one_step(state, torch.ones(1), TorchHyper(amsgrad=True), tensor_scalars=False)


@pytest.mark.parametrize("tensor_scalars", [{}, {"tensor_scalars": True}], ids=["", "tensor_scalars"])
@pytest.mark.parametrize(("kind", "roundings"), [(Balls, 2), (AutocastBalls, 2), (TritonBalls, 4)])
@given(data=st.data())
def test_a_training_step_is_a_step_along_the_gradient_of_its_loss(kind, roundings, tensor_scalars, data):
    """From the bounds of the gradient; compiled for CUDA, an operation of Adam has four roundings."""
    net, (x, y) = data.draw(networks(hidden=few)), data.draw(batches(few))
    net.hparams["lr"] = 0.125
    p = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    state = TrainingState(p, p / 8, p**2, None, 3)

    loss, step = training_step(net, state, x, y, kind=kind, **tensor_scalars)

    parameters, inputs, targets = in_balls(net, x, y, kind=kind)
    architecture, inputs = net.hparams["architecture"], inputs.converted()
    error = (reference.forward(parameters, inputs, architecture)[1] - targets) ** 2
    gradient = reference.gradients(parameters, inputs, targets, architecture)
    expected = one_step(
        state,
        joined(part.flatten() for part in gradient),
        TorchHyper(lr=0.125),
        **{"tensor_scalars": False} | tensor_scalars,
        roundings=roundings,
    )
    for actual, wanted in zip((loss, *step[:3]), (error.sum() / len(y), *expected[:3]), strict=True):
        np.testing.assert_array_equal(actual.radius, wanted.radius)
        np.testing.assert_array_equal(actual.centre, wanted.centre)


@pytest.mark.parametrize(
    ("hyper", "text"),
    [
        (Hyper(), "lr 0.001"),
        (Hyper(lr=0.25, beta2=0.75), "lr 0.25, betas (0.9, 0.75)"),
        (Hyper(beta1=0.0), "lr 0.001, betas (0, 0.999)"),
        (Hyper(eps=1e-3, weight_decay=0.125), "lr 0.001, eps 0.001, weight_decay 0.125"),
        (Hyper(amsgrad=True, maximize=True), "lr 0.001, amsgrad, maximize"),
    ],
)
def test_hyper_parameters_are_listed_if_they_differ_from_the_defaults(hyper, text):
    """And the learning rate always."""
    assert str(hyper) == text


def test_a_variant_is_described_by_the_axes_that_are_determined():
    assert str(Variant()) == "any"
    assert str(Variant(correction="first only", scalars="float32")) == (
        "bias correction of the first moment only; corrections in float32"
    )
    assert str(TORCHS) == (
        "epsilon outside; bias correction of both moments; weight decay L2; AMSGrad by corrected maximum; "
        "corrections in float64"
    )


@pytest.mark.parametrize(
    ("axis", "values"), [*((axis, [*values]) for axis, values in AXES.items()), ("scalars", ["float64", "float32"])]
)
def test_an_axis_of_a_variant_has_one_of_its_values(axis, values):
    for value in (None, *values):
        assert vars(Variant(**{axis: value}))[axis] == value
    with pytest.raises(ValueError, match="but should be one of") as refused:
        Variant(**{axis: "other"})
    assert str(refused.value) == f"{axis} is 'other', but should be one of {str(values)[1:-1]}"


def test_variants_depart_on_the_axes_that_are_determined_and_differ():
    other = replace(TORCHS, epsilon="as a clamp", decay=None)

    assert TORCHS.departures(TORCHS) == TORCHS.departures(Variant()) == Variant().departures(TORCHS) == []
    assert other.departures(TORCHS) == ["epsilon is 'as a clamp', but should be 'outside'"]


def test_a_variant_is_found_by_its_name():
    """In any case of letters."""
    assert resolve_variant(None) == Variant()
    assert resolve_variant(TORCHS) is TORCHS
    assert resolve_variant("AdamW") == Variant("outside", "both", "decoupled, times lr")
    assert resolve_variant("adam") == Variant("outside", "both", "L2")
    assert resolve_variant("Algorithm 1") == Variant("outside", "both")
    assert resolve_variant("remark of section 2") == Variant("before the correction", "both")
    names = "algorithm 1, remark of section 2, adam, adamw"
    with pytest.raises(ValueError, match=f"^variant is 'adamax', but should be one of {names}, or a Variant$"):
        resolve_variant("adamax")


GRADIENTS = np.array([[1.0, -2.0], [0.5, 0.25], [-1.0, 4.0]])
HYPER = Hyper(lr=0.5, beta1=0.5, beta2=0.5, eps=0.5)


def observed(variant, wrong=(), dtype=torch.float32, **options):
    """Return a run with the steps of a variant; some, given as (step, entry, difference), are wrong."""
    before = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    run = Run(HYPER, dtype, before, GRADIENTS, before, **options)
    after = judge([run], variant)[0].expected.copy()
    for step, entry, difference in wrong:
        after[step - 1, entry] += difference
    return replace(run, after=after)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 9), (torch.float64, 17)])
def test_the_first_step_that_leaves_its_bound_is_described(dtype, digits):
    run = observed(TORCHS, [(2, 1, 0.25), (3, 0, -0.5)], dtype, label="a run, ")

    (judged,) = judge([run], TORCHS)

    before, after, right = (f"{x:.{digits}g}" for x in (4.0, run.after[1, 1], judged.expected[1, 1]))
    radius, times = judged.radius[1, 1], judged.excess[1, 1]
    assert abs(judged.error[1, 1] - 0.25) < radius
    assert times == judged.error[1, 1] / radius
    assert judged.worst == judged.excess[2, 0] > times
    assert judged.first_failure() == (
        f"step 2 leads from {before} to {after}, but should lead to {right} ± {radius:.2g}: "
        f"{times:.3g} times the bound [a run, lr 0.5, betas (0.5, 0.5), eps 0.5, gradient 0.25, entry 1]"
    )
    assert judge([observed(TORCHS)], TORCHS)[0].first_failure() is None
    lost = judge([observed(TORCHS, [(1, 0, np.nan)])], TORCHS)[0].first_failure()
    assert re.match(
        r"step 1 leads from 1 to nan, but should lead to .*: not finite \[lr 0.5, .*, gradient 1, entry 0\]", lost
    )


def test_a_step_at_its_bound_is_no_failure():
    judged = judge([observed(TORCHS)], TORCHS)[0]

    for excess, step in ((1.0, None), (1 + 2.0**-52, 3)):
        first = replace(judged, excess=np.where(np.arange(6).reshape(3, 2) == 5, excess, 0.0)).first_failure()
        assert (first and int(first.split()[1])) == step


def test_an_axis_that_is_undetermined_means_torchs_value():
    """With AMSGrad, and of the two decays of torch that of AdamW."""
    run = replace(observed(TORCHS), hyper=replace(HYPER, weight_decay=0.5, amsgrad=True))

    undetermined, adamw = (judge([run], one)[0] for one in (Variant(), replace(TORCHS, decay="decoupled, times lr")))

    np.testing.assert_array_equal(undetermined.expected, adamw.expected)
    np.testing.assert_array_equal(undetermined.radius, adamw.radius)


def test_a_weight_decay_of_1_changes_each_step():
    run = replace(observed(TORCHS), hyper=replace(HYPER, weight_decay=1.0))
    without = judge([run], replace(TORCHS, decay="none"))[0].expected

    for decay in DECAY.keys() - {"none"}:
        assert (judge([run], replace(TORCHS, decay=decay))[0].expected != without).all(), decay


def test_each_step_has_its_own_learning_rate_if_it_changes():
    rates = (0.5, 0.25, 2.0)

    changing, constant = (judge([observed(TORCHS, **one)], TORCHS)[0] for one in ({"rates": rates}, {}))

    for step, rate in enumerate(rates):
        moves = (one.expected[step] - one.run.before[step] for one in (changing, constant))
        assert (abs(next(moves) - rate / HYPER.lr * next(moves)) < changing.radius[step]).all()


def test_runs_of_several_shapes_and_types_are_judged_in_their_order():
    runs = [observed(TORCHS), observed(TORCHS, dtype=torch.float64), observed(TORCHS, [(1, 1, 0.5)])]
    runs += [replace(run, before=run.before[:2], gradients=run.gradients[:2], after=run.after[:2]) for run in runs]

    judged = judge(runs, TORCHS)

    assert [one.run for one in judged] == runs
    assert [one.worst > 1 for one in judged] == [False, False, True] * 2
    assert [one.excess.shape for one in judged] == [(3, 2)] * 3 + [(2, 2)] * 3


def test_the_variants_that_no_run_refutes_survive():
    variants = candidates(epsilon=EPSILON, correction=CORRECTION)
    right = replace(Variant("as a clamp", "first only"), scalars="float64")

    found = refute([observed(right), observed(right, dtype=torch.float64)], variants)

    assert found.survivors == (right,)
    assert found.nearest == right
    assert found.excess <= 1


def test_corrections_in_float32_are_tried_where_those_in_float64_are_refuted():
    float32 = replace(TORCHS, scalars="float32")
    run = observed(TORCHS, dtype=torch.float64)
    judged = judge([run], float32)[0]
    run = replace(run, after=judged.expected + judged.radius / 2)

    assert refute([run], [replace(TORCHS, scalars=None)]).survivors == (float32,)
    assert refute([run], [TORCHS]).survivors == ()
    assert refute([observed(TORCHS)], [replace(TORCHS, scalars=None)]).survivors == (TORCHS,)


EPSILONS = [Variant(epsilon) for epsilon in ("outside", "as a clamp")]


def refuted_by(monkeypatch, *excesses):
    """Refute two variants of which the excesses are given, in both types of scalars."""
    by_variant = dict(zip(EPSILONS, excesses, strict=True))

    def judged(_, variant):
        return [Namespace(excess=np.array([x])) for x in by_variant[replace(variant, scalars=None)][variant.scalars]]

    monkeypatch.setattr("simplenet.testing.oracle._judge", judged)
    return refute([], EPSILONS)


def test_a_variant_whose_excess_is_at_most_1_survives(monkeypatch):
    """In the first type of scalars for which it is; if there is none, those in float64 are reported."""
    above = 1 + 2.0**-52
    at_1, in_float32 = {"float64": [0.5, 1.0]}, {"float64": [0.5, above], "float32": [1.0, 0.5]}
    wrong = {"float64": [1.5, above], "float32": [above, 2.0]}

    found = refuted_by(monkeypatch, at_1, in_float32)
    assert found.survivors == (replace(EPSILONS[0], scalars="float64"), replace(EPSILONS[1], scalars="float32"))
    assert found.excess == 1

    found = refuted_by(monkeypatch, wrong, in_float32)
    assert found.survivors == (found.nearest,) == (replace(EPSILONS[1], scalars="float32"),)

    found = refuted_by(monkeypatch, wrong, {"float64": [above, 4.0], "float32": [above, above]})
    assert (found.survivors, found.nearest, found.excess) == ((), replace(EPSILONS[0], scalars="float64"), 1.5)


def test_the_fewest_steps_beyond_their_bounds_decide_and_then_the_median(monkeypatch):
    one, two = ({"float64": x, "float32": x} for x in ([1.0, 1.0, 3.0], [1.5, 1.5, 0.1]))
    assert refuted_by(monkeypatch, two, one).nearest == replace(EPSILONS[1], scalars="float64")

    one, two = ({"float64": x, "float32": x} for x in ([0.2, 9.0, 9.0], [0.9, 2.0, 2.0]))
    assert refuted_by(monkeypatch, one, two).nearest == replace(EPSILONS[1], scalars="float64")


def test_the_nearest_variant_has_the_fewest_wrong_steps():
    """However wrong: one step of the right variant is far off, and all of the others' are."""
    variants = [replace(Variant(epsilon), scalars="float64") for epsilon in EPSILON]
    run = observed(variants[2], [(3, 1, 1e6)])

    found = refute([run], variants)

    assert found.survivors == ()
    assert found.nearest == variants[2]
    assert found.excess == judge([run], variants[2])[0].worst
    assert found.excess > 1e6


def test_epsilon_is_added_before_a_correction_only_if_there_is_one():
    found = candidates(epsilon=EPSILON, correction=CORRECTION, amsgrad=[None])

    assert len(found) == len({*found}) == 4 * 3 - 2
    assert [v.correction for v in found if v.epsilon == "before the correction"] == ["both"]
    assert Variant("before the correction") in candidates(epsilon=EPSILON)
    assert {v.decay for v in found} == {None}
