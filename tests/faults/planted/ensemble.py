"""Faults in the ensemble, its training step, and the certificate."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import simplenet.ensemble as subject
from simplenet import certificate, mt19937, train_ensemble
from simplenet.certificate import Certificate, clopper_pearson
from simplenet.ensemble import Formulas, Step
from tests.certificates import certificate as made
from tests.faults.planting import catalogue, edit, replace

FAULTS, fault = catalogue("ensemble")

_STEPS = sys.modules[Formulas.__module__]


def trained(architecture: Any = "overview", batch_size: int = 3, seeds: int = 3) -> Callable[[], object]:
    """Witness the results of training a few networks."""

    def run() -> object:
        result = train_ensemble(range(seeds), architecture, steps=7, batch_size=batch_size, compiled=False)
        return result.weights.tolist(), result.solved_at.tolist(), result.loss.tolist()

    return run


@fault(trained("derivation"), "test_a_step_of_a_replica_is_exact_to_its_roundings")
def the_slope_of_the_sigmoid_is_that_of_tanh() -> None:
    """1 - a a instead of a (1 - a)."""
    activation = _STEPS._ACTIVATIONS[nn.Sigmoid]
    _STEPS._ACTIVATIONS[nn.Sigmoid] = activation._replace(slope=lambda a: 1 - a * a)


def _slope(activation: type[nn.Module], a: float) -> Callable[[], object]:
    return lambda: _STEPS._ACTIVATIONS[activation].slope(torch.tensor(a)).item()


@fault(_slope(nn.Tanh, 0.5), "test_the_derivative_of_an_activation_is_that_of_autograd")
def the_slope_of_tanh_is_not_squared() -> None:
    """1 - a instead of 1 - a a; none of the notebook's networks has this activation."""
    activation = _STEPS._ACTIVATIONS[nn.Tanh]
    _STEPS._ACTIVATIONS[nn.Tanh] = activation._replace(slope=lambda a: 1 - a)


@fault(_slope(nn.ReLU, 0.0), "test_the_derivative_of_an_activation_is_that_of_autograd")
def relu_has_slope_1_at_zero() -> None:
    """Torch has 0."""
    activation = _STEPS._ACTIVATIONS[nn.ReLU]
    _STEPS._ACTIVATIONS[nn.ReLU] = activation._replace(slope=lambda a: (a >= 0).to(a.dtype))


@fault(trained(), "test_a_step_of_a_replica_is_exact_to_its_roundings")
def the_gradient_lacks_the_output_weights() -> None:
    """As in the notebook's §4.3."""
    edit(
        Formulas.gradient,
        (
            "d_out[:, None] * w_out * self.hidden.slope(h)",
            "d_out[:, None] * torch.ones_like(w_out) * self.hidden.slope(h)",
        ),
    )


@fault(trained(), "test_a_step_of_a_replica_is_exact_to_its_roundings")
def epsilon_is_inside_the_root() -> None:
    """In the ensemble's Adam."""
    edit(Formulas.adam, ("v.sqrt() / correction + EPSILON", "(v + EPSILON).sqrt() / correction"))


@fault(trained(), "test_the_schedule_has_the_batches_of_the_loader")
def a_short_batch_weighs_as_much_as_a_full_one() -> None:
    """Its one row counts as a third."""
    edit(subject.schedule, ("2 / len(batch) if row in batch", "2 / batch_size if row in batch"))


@fault(trained(), "test_the_schedule_holds_the_corrections_of_each_step")
def the_corrections_stop_early() -> None:
    """They are constant from the fifth step on."""
    subject.CORRECTED = 5


def _since(error: float) -> Callable[[], object]:
    def run() -> object:
        step = Step("overview", 4, torch.device("cpu"))
        return step.solved_since(torch.tensor(3), torch.full((1,), -1), step.y + error).tolist()

    return run


@fault(_since(0.5), "test_solved_at_is_the_step_from_which_all_rows_stay_right_to_the_end")
def one_half_is_right_in_the_ensemble() -> None:
    """Of both targets."""
    edit(Step.solved_since, ("< 1 / 2", "<= 1 / 2"))


@fault(
    lambda: (
        Step("overview", 4, torch.device("cpu"))
        .solved_since(torch.tensor(3), torch.tensor([1]), torch.full((4, 1), 0.9))
        .tolist()
    ),
    "test_solved_at_is_the_step_from_which_all_rows_stay_right_to_the_end",
)
def a_solved_network_stays_solved() -> None:
    """Even if a prediction becomes wrong again."""
    edit(
        Step.solved_since,
        ("torch.where(since == NEVER, t, since), NEVER)", "torch.where(since == NEVER, t, since), since)"),
    )


def drawn(numbers: int = 17) -> Callable[[], object]:
    """Witness the numbers drawn from two seeds at once."""
    return lambda: mt19937.draw([5, 7], [mt19937.Uniform(numbers, -1.0, 1.0)], torch.float64).tolist()


@fault(drawn(), "test_each_seed_draws_the_numbers_of_torch")
def each_network_starts_from_its_index_instead_of_its_seed() -> None:
    """From 0, 1, 2 and so on, for any seeds."""
    edit(mt19937.draw, ("seeds[start:start + block]", "range(len(seeds))[start:start + block]"))


@fault(drawn(400), "test_the_words_equal_torchs_state", "test_each_seed_draws_the_numbers_of_torch")
def a_twist_does_not_reach_beyond_the_state() -> None:
    """From the 682nd output on, a word lacks the term from the word 397 positions later."""
    edit(
        mt19937.state_words,
        ("words[_M + start:_M + stop] ^ joined >> 1", "words[_M + start:_M + stop] * (start < _N) ^ joined >> 1"),
    )


@fault(drawn(), "test_each_seed_draws_the_numbers_of_torch")
def float64_has_its_words_exchanged() -> None:
    """Low before high."""
    edit(mt19937.draw, (".swapaxes(1, 2)", "[:, ::-1].swapaxes(1, 2)"))


def _drawn_after() -> object:
    torch.manual_seed(7)
    subject.initial_weights([1, 2])
    return torch.rand(1).item()


@fault(_drawn_after, "test_the_generator_is_restored")
def the_ensemble_does_not_restore_the_generator() -> None:
    """Later draws continue from its last seed."""
    edit(subject.initial_weights, ("torch.random.fork_rng(devices=[])", "torch.enable_grad()"))


@fault(trained(seeds=subject._WIDTH["eager"] + 2), "test_the_bits_of_a_seed_do_not_depend_on_the_other_seeds")
def the_second_chunk_is_the_first() -> None:
    """Its seeds are trained from the first ones' weights."""
    edit(
        subject._train_chunks,
        (
            "torch.split(weights, train.width, dim=1)",
            "[weights[:, :len(part.T)] for part in torch.split(weights, train.width, dim=1)]",
        ),
    )


def bounds() -> object:
    """Witness the bounds on a probability."""
    return [clopper_pearson(k, 20, 0.9) for k in (0, 10, 20)]


@fault(bounds, "test_at_each_bound_the_count_has_the_stated_probability")
def each_bound_has_half_the_error_probability() -> None:
    """As for a two-sided interval."""
    edit(clopper_pearson, ("1 - confidence", "(1 - confidence) / 2"))


@fault(bounds, "test_at_each_bound_the_count_has_the_stated_probability")
def the_upper_bound_is_the_lower_one_mirrored_wrongly() -> None:
    """It is one count too low."""
    edit(clopper_pearson, ("betaincinv(k + 1, n - k, confidence)", "betaincinv(max(k, 1), n - k + 1, confidence)"))


@fault(
    lambda: [str(made([3] * k + [-1] * (20 - k))) for k in range(21)],
    "test_every_printed_bound_is_rounded_in_the_direction_in_which_it_is_true",
)
def a_lower_bound_is_rounded_up() -> None:
    """To the next tenth of a percent."""
    edit(Certificate.__str__, ("math.floor(1000 * lower) / 10", "math.ceil(1000 * lower) / 10"))


@fault(lambda: str(made([-1] * 20)), "test_every_printed_bound_is_rounded_in_the_direction_in_which_it_is_true")
def an_upper_bound_is_rounded_down() -> None:
    """Below the bound."""
    edit(Certificate.__str__, ("math.ceil(1000 * upper) / 10", "math.floor(1000 * upper) / 10"))


@fault(
    lambda: [made([9, 3, 5, -1]).steps_to_solve(q) for q in (0.25, 0.5, 0.75, 1.0)],
    "test_the_steps_to_solve_are_the_requested_quantile",
)
def a_quantile_is_rounded_down() -> None:
    """Half of three seeds is one seed."""
    edit(Certificate.steps_to_solve, ("rank - 1", "max(rank - 2, 0)"))


@fault(lambda: made([9, 3, 5, -1]).steps_to_solve(0.25), "test_the_steps_to_solve_are_the_requested_quantile")
def the_steps_to_solve_are_in_the_order_of_the_seeds() -> None:
    """They are not sorted."""
    edit(Certificate.steps_to_solve, (".sort().values", ""))


@fault(lambda: made([9, -1, 5, -1]).failed, "test_the_steps_to_solve_are_the_requested_quantile")
def the_solved_are_listed_as_failed() -> None:
    """And the failed are not."""
    edit(Certificate.failed, ("~self.ensemble.solved", "self.ensemble.solved"))


@fault(lambda: made([9, 3, 5, -1]).as_dict(), "test_a_record_holds_the_whole_certificate")
def the_record_has_its_bounds_exchanged() -> None:
    """``at_least`` is the upper bound."""
    edit(Certificate.as_dict, ("'at_least': lower, 'at_most': upper", "'at_least': upper, 'at_most': lower"))


def described() -> object:
    """Witness the text of a critical point that is flat, to rounding errors, in two of five directions."""
    curvatures = torch.tensor([-1.0, -(2.0**-52), 2.0**-52, 1.0, 2.0], dtype=torch.float64)
    return str(certificate.CriticalPoint([0.0] * 4, 0.0, 0.0, curvatures))


@fault(described, "test_the_curvatures_of_a_critical_point_are_counted_by_their_signs")
def curvatures_up_and_down_are_exchanged() -> None:
    """Positive curvatures are counted as negative ones."""
    edit(certificate.CriticalPoint.__str__, ("curves up in {up}, down in {down}", "curves up in {down}, down in {up}"))


@fault(described, "test_the_curvatures_of_a_critical_point_are_counted_by_their_signs")
def rounding_errors_count_as_curvatures() -> None:
    """No direction is flat."""
    edit(
        certificate.CriticalPoint.__str__,
        (
            "zero = len(self.curvatures) * torch.finfo(self.curvatures.dtype).eps * float(self.curvatures.abs().max())",
            "zero = 0.0",
        ),
    )


@fault(described, "test_the_curvatures_of_a_critical_point_are_counted_by_their_signs")
def every_critical_point_is_a_minimum() -> None:
    """Also where the loss curves down."""
    edit(certificate.CriticalPoint.__str__, ("'saddle' if down else 'minimum'", "'minimum'"))


@fault(
    trained(),
    "test_a_step_of_a_replica_is_exact_to_its_roundings",
    "test_the_schedule_holds_the_corrections_of_each_step",
    control=True,
)
def the_corrections_are_computed_by_another_name() -> None:
    """With the same result."""
    corrections = _STEPS.corrections

    def same(t: int, lr: float) -> tuple[float, float]:
        result: tuple[float, float] = corrections(t, lr)
        return result

    replace(corrections, same)
