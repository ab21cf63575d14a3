"""Convergence as a statistic: how often XOR is solved, after how many steps, and which network never solves it.

The rates are those of 100,000 seeds, 0 to 99,999, counted by ``train_ensemble`` under torch 2.13.
The tests use other seeds. An assertion is true for new seeds with the stated probability, and the
seeds are fixed, so that a run that passes once always passes.
"""

import itertools
import json
import math
import os
import re
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache

import pytest
import torch
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from lightning.fabric import Fabric
from scipy.optimize import minimize
from scipy.stats import binom
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from simplenet import ARCHITECTURES, Certificate, SimpleNet, clopper_pearson, ensemble, mse_loss, train_ensemble, xor
from simplenet.certificate import CriticalPoint, critical_point
from simplenet.certificate import certify as certify_one
from simplenet.cli import main
from simplenet.signals import ENDING
from simplenet.testing.assertions import assert_identical, assert_within, refuted
from simplenet.testing.bounds import gamma
from simplenet.testing.strategies import floats, tensors
from tests.certificates import certificate as made

# The probability that a correct SimpleNet, on new seeds, fails any band of this module.
FALSE_ALARM = 1e-6

COUNTED = 100_000
FRESH = range(10**6, 10**6 + 2048)

# How many of the counted seeds are solved, by architecture, batch size and number of steps.
SOLVED = {
    ("overview", 4, 500): 80_379,
    ("overview", 4, 1000): 99_216,
    ("overview", 1, 2000): 71_603,
    ("derivation", 4, 500): 96_605,
    ("derivation", 1, 2000): 36_656,
    ("tanh", 4, 500): 99_745,
    ("relu", 4, 500): 65_183,
}
# How many of them, at batch 4 and 1,000 steps, are solved from this step to the last; the steps are near the quartiles.
SOLVED_BY = {200: 24_725, 313: 49_542, 400: 66_209, 613: 90_037}

BANDS = len(SOLVED) + len(SOLVED_BY)

# Two architectures besides the notebook's three: the overview with another hidden activation.
CONTROLS = {"relu": (nn.ReLU, nn.Identity), "tanh": (nn.Tanh, nn.Identity)}


def band(counted, fresh):
    """Bound a count among new seeds, given that among the counted ones.

    Four errors are possible, each with the same probability: the rate is below or above the bounds
    from the counted seeds, or the new count is below or above the bounds from the rate.
    """
    doubt = FALSE_ALARM / BANDS / 4
    lowest, highest = clopper_pearson(counted, COUNTED, 1 - doubt)
    return binom.ppf(doubt, fresh, lowest), binom.isf(doubt, fresh, highest)


def assert_in_band(solved, fresh, counted, claim):
    low, high = band(counted, fresh)
    assert low <= solved <= high, f"P({claim}) is {solved}/{fresh}, but should be from {low:g} to {high:g} of {fresh}"


@pytest.fixture
def controls(monkeypatch):
    for name, activations in CONTROLS.items():
        monkeypatch.setitem(ARCHITECTURES, name, activations)


@cache
def trained(architecture, batch_size, steps):
    return train_ensemble(FRESH, architecture, batch_size=batch_size, steps=steps, compiled=False)


@pytest.mark.claim("4/learns")
@pytest.mark.usefixtures("controls")
@pytest.mark.parametrize(("architecture", "batch_size", "steps"), SOLVED)
def test_the_rate_of_success_is_unchanged(architecture, batch_size, steps):
    """The positive control, tanh, succeeds more often than the sigmoid; the negative one, ReLU, fails for a third."""
    result = trained(architecture, batch_size, steps)

    claim = f"{architecture} solves XOR in {steps} steps of {batch_size} rows"
    assert_in_band(int(result.solved.sum()), len(FRESH), SOLVED[architecture, batch_size, steps], claim)


def test_the_bands_distinguish_the_activations():
    """With an identity output, the bands of two hidden activations do not overlap; so each band can fail."""
    relu, sigmoid, tanh = (band(SOLVED[name, 4, 500], len(FRESH)) for name in ("relu", "overview", "tanh"))

    assert relu[1] < sigmoid[0]
    assert sigmoid[1] < tanh[0]


@pytest.mark.parametrize("step", SOLVED_BY)
def test_the_quantiles_of_the_steps_to_solve_are_unchanged(step):
    """A quantile is at most this step if and only if that fraction is solved by then."""
    overview = trained("overview", 4, 1000)
    solved = int((overview.solved & (overview.solved_at <= step)).sum())

    assert_in_band(solved, len(FRESH), SOLVED_BY[step], f"overview solves XOR for good by step {step}")


@pytest.mark.claim("5/listing-learns")
def test_the_listing_is_never_solved():
    """Ten thousand seeds, 250 steps; docs/claims.md has the proof."""
    result = train_ensemble(range(10_000), "listing", steps=250, compiled=False)

    assert not result.solved.any()


def test_a_sigmoid_in_the_hidden_layer_makes_the_listing_learn():
    """The listing and the derivation differ only in the hidden activation."""
    (hidden, output), (swapped, same) = ARCHITECTURES["listing"], ARCHITECTURES["derivation"]
    assert (hidden, swapped, output) == (nn.Identity, nn.Sigmoid, same)

    assert trained("derivation", 4, 500).solved.sum() > len(FRESH) / 2


# --- the statistics ---


@given(trials=st.integers(1, 2**53), confidence=st.sampled_from([0.5, 0.9, 0.999]))
@example(trials=2**53, confidence=0.999)
def test_the_bound_without_a_success_has_all_its_digits(trials, confidence):
    """(1 - upper)^n is 1 - confidence; SciPy's inverse has a relative error of 1e-9."""
    _, upper = clopper_pearson(0, trials, confidence)

    with localcontext(prec=60):
        exact = 1 - (1 - Decimal(confidence)) ** (1 / Decimal(trials))
        assert abs(Decimal(upper) - exact) <= Decimal("1e-9") * exact


@given(trials=st.integers(1, 400), share=st.floats(0, 1), confidence=st.sampled_from([0.5, 0.9, 0.999]))
@example(trials=9, share=0 / 9, confidence=0.9)
@example(trials=9, share=1 / 9, confidence=0.9)
@example(trials=9, share=8 / 9, confidence=0.9)
@example(trials=9, share=9 / 9, confidence=0.9)
def test_at_each_bound_the_count_has_the_stated_probability(trials, share, confidence):
    """The definition: at the lower (upper) bound, at least (most) this count has the probability 1 - confidence."""
    successes = round(share * trials)

    lower, upper = clopper_pearson(successes, trials, confidence)

    with localcontext(prec=30):
        doubt = 1 - Decimal(confidence)
        weights = [math.comb(trials, k) for k in range(trials + 1)]

        def chance(p, ks):
            p = Decimal(p)
            return sum(weights[k] * p**k * (1 - p) ** (trials - k) for k in ks)

        # SciPy's inverse has a relative error of 1e-9, which changes a probability by at most n times as much.
        slack = Decimal("1e-9") * trials
        if successes:
            assert abs(chance(lower, range(successes, trials + 1)) - doubt) <= slack
        else:
            assert lower == 0
        if successes < trials:
            assert abs(chance(upper, range(successes + 1)) - doubt) <= slack
        else:
            assert upper == 1


# --- the command ---


@pytest.fixture
def certify(tmp_path, monkeypatch):
    """Return a function that runs ``simplenet certify`` in an empty directory, without compiling."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simplenet.cli.kill_children", lambda: None)  # it would kill the child processes of other tests
    monkeypatch.setattr(
        ensemble,
        "_compiled",
        lambda name, hidden, device, _: ensemble._loop(ensemble.Step(name, hidden, device)),  # noqa: SLF001
    )

    def run(*arguments):
        return CliRunner().invoke(main, ["certify", *(str(argument) for argument in arguments)])

    return run


def test_the_certificate_has_its_settings_the_count_and_the_bounds(certify, tmp_path):
    result = certify("--seeds", 1000, "--steps", 500, "--target", 0.7, "--plot", "c.png", "--json", "c.json")

    assert result.exit_code == 0, result.output
    (line,) = re.findall(r"^overview, batch 4, 500 steps: .*$", result.output, re.MULTILINE)
    solved, percent = re.fullmatch(
        r"overview, batch 4, 500 steps: (\d+) of 1,000 seeds solve XOR; "
        r"at least (\d+\.\d) % with 99\.9 % confidence \(Clopper-Pearson\)",
        line,
    ).groups()
    expected = train_ensemble(range(1000), steps=500, compiled=False)
    assert int(solved) == expected.solved.sum()
    lower, _ = clopper_pearson(int(solved), 1000, 0.999)
    assert float(percent) <= 100 * lower < float(percent) + 0.1
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    (written,) = json.loads((tmp_path / "c.json").read_text())["certificates"]
    assert written["solved"] == int(solved)
    assert written["at_least"] == lower
    assert written["failed"] == expected.seeds[~expected.solved].tolist()
    assert written["steps_to_solve"] == {
        "0.5": expected.solved_at[expected.solved].sort().values[499],
        "0.9": None,
        "0.99": None,
    }
    assert "%|" not in result.output, "a progress bar where there is no terminal"


@given(hidden=st.integers(1, 5), seeds=st.integers(1, 9))
def test_a_certificate_has_networks_of_the_requested_width(hidden, seeds):
    """Its summary names a width that is not the notebook's."""
    fabric = Fabric(accelerator="cpu", devices=1)

    certificate = certify_one(
        fabric, "listing", hidden=hidden, batch_size=4, steps=2, seeds=seeds, confidence=0.9, compiled=False
    )

    expected = train_ensemble(range(seeds), "listing", hidden=hidden, steps=2, compiled=False)
    assert_identical(certificate.ensemble.weights, expected.weights, claim=f"weights of {hidden} hidden units")
    assert certificate.hidden == certificate.as_dict()["hidden"] == hidden
    name = "listing" if hidden == 4 else f"listing 2-{hidden}-1"
    assert str(certificate).startswith(f"{name}, batch 4, 2 steps: ")


class OneOfSeveral(Fabric):
    """A Fabric on one of several simulated devices."""

    def __init__(self, rank, count, gather):
        super().__init__(accelerator="cpu", devices=1)
        self._rank, self._count, self._gather = rank, count, gather

    world_size = property(lambda self: self._count)
    global_rank = property(lambda self: self._rank)
    is_global_zero = property(lambda self: self._rank == 0)

    def all_gather(self, mine):
        return self._gather(mine)


@pytest.mark.parametrize(("count", "seeds"), [(1, 4), (2, 1), (2, 5), (2, 6), (3, 7), (4, 9)])
@pytest.mark.parametrize("chosen", [{}, {"hidden": 3, "compiled": False}], ids=["by default", "chosen"])
def test_each_device_trains_its_share_and_holds_the_certificate_of_all(monkeypatch, count, seeds, chosen):
    """The same certificate as on one device; the first shows a progress bar, and all train the same number of seeds."""
    asked, parts = [], [[] for _ in range(count)]

    def train(share, architecture, **options):
        asked.append((list(share), architecture, options))
        result = train_ensemble(share, architecture, **options | {"compiled": False, "progress": False})
        return replace(result, fallback="no compiler")

    def certify_on(rank, gather):
        fabric = OneOfSeveral(rank, count, gather)
        return certify_one(fabric, "derivation", batch_size=3, steps=5, seeds=seeds, confidence=0.9, **chosen)

    monkeypatch.setattr("simplenet.certificate.train_ensemble", train)
    for rank in range(count):  # first record what each device gathers, then pass all of it to each device
        certify_on(rank, lambda mine, rank=rank: (parts[rank].append(mine), torch.stack([mine] * count))[1])
    gathered = [torch.stack(tensors) for tensors in zip(*parts, strict=True)]
    certificates = []
    for rank in range(count):
        remaining = iter(gathered)
        certificates.append(certify_on(rank, lambda _, remaining=remaining: next(remaining)))

    hidden = chosen.get("hidden", 4)
    options = {"hidden": hidden, "batch_size": 3, "steps": 5, "device": "cpu", "compiled": not chosen}
    shares = [share for share, *_ in asked[:count]]
    assert asked == [
        (shares[rank], "derivation", {**options, "progress": rank == 0}) for _ in range(2) for rank in range(count)
    ]
    assert {len(share) for share in shares} == {math.ceil(seeds / count)}
    assert {seed for share in shares for seed in share} == set(range(seeds))
    expected = train_ensemble(range(seeds), "derivation", hidden=hidden, batch_size=3, steps=5, compiled=False)
    for certificate in certificates:
        assert certificate == Certificate("derivation", 3, 5, 0.9, certificate.ensemble)
        assert certificate.ensemble.seeds.tolist() == list(range(seeds))
        for name in ("solved_at", "loss", "weights"):
            assert_identical(getattr(certificate.ensemble, name), getattr(expected, name), claim=name)
        assert certificate.ensemble.fallback == "no compiler"
        assert not certificate.as_dict()["compiled"]


@pytest.fixture
def handlers_in_python():
    """Handle the ending signals in Python; return them."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDING}
    yield ENDING
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_ends_a_process_that_waits_for_the_results_of_another(handlers_in_python):
    """In native code, as while it connects."""

    def gather(mine):
        seen.append([signal.getsignal(number) for number in handlers_in_python])
        return torch.stack([mine] * 2)

    seen = []
    certify_one(OneOfSeveral(0, 2, gather), "overview", batch_size=4, steps=1, seeds=2, confidence=0.9, compiled=False)

    assert seen == [[signal.SIG_DFL] * len(handlers_in_python)] * 4


def test_a_quantile_of_0_needs_no_seed_and_one_of_1_needs_all():
    result = train_ensemble(range(40), steps=300, compiled=False)
    certificate = Certificate("overview", 4, 300, 0.9, result)

    assert certificate.steps_to_solve(0) == 0
    assert certificate.steps_to_solve(1) is None
    assert certificate.steps_to_solve(certificate.solved / 40) == result.solved_at.max()


def test_a_bound_below_the_target_has_status_1_and_describes_the_failed_seeds(certify):
    result = certify("--seeds", 20, "--steps", 5, "--architecture", "overview", "--architecture", "listing")

    assert result.exit_code == 1
    for architecture in ("overview", "listing"):
        line = f"{architecture}, batch 4, 5 steps: 0 of 20 seeds solve XOR; at most 29.3 % with 99.9 % confidence"
        assert line in result.output
    assert len(re.findall(r"^failed     0, 1, 2, .*, \.\.\.$", result.output, re.MULTILINE)) == 2
    assert len(re.findall(r"^seed [012] +predicts .*, MSE 0\.\d{4}, gradient ", result.output, re.MULTILINE)) == 6


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_certificate_with_its_status_and_one_line(certify, monkeypatch, name, status):
    number = getattr(signal, name)
    finish = threading.Event()

    def interrupted(*_):
        os.kill(os.getpid(), number)  # to the main thread, which waits for this one
        finish.wait(60)

    monkeypatch.setattr(ensemble._Training, "__call__", interrupted)  # noqa: SLF001
    handler = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL  # a background job may ignore it
    before = signal.signal(number, handler)
    try:
        result = certify("--seeds", 5000)
    finally:
        signal.signal(number, before)
        finish.set()

    assert result.exit_code == status
    assert result.output.splitlines() == ["Interrupted: no certificate without all seeds."]


def test_an_uncompiled_certificate_says_so_and_names_the_cache(certify, monkeypatch):
    def broken(*_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(ensemble, "_compiled", broken)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "cache")
    result = certify("--seeds", 3, "--steps", 1)

    hint = "(remove cache if another type of CPU has filled it)"
    assert f"eager      not compiled: RuntimeError: no C++ compiler {hint}" in result.output


def test_a_signal_ends_a_certificate_while_its_step_is_being_compiled(certify, monkeypatch):
    """Without waiting for the compiler, which may take longer than a cluster's grace period before SIGKILL."""
    finish = threading.Event()

    def compile_for_long(*_):
        os.kill(os.getpid(), signal.SIGTERM)  # to the main thread, which waits for this one
        finish.wait(60)

    monkeypatch.setattr(ensemble._Training, "warm", compile_for_long)  # noqa: SLF001
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    start = time.monotonic()
    try:
        result = certify("--seeds", 3)
    finally:
        signal.signal(signal.SIGTERM, before)
        finish.set()

    assert result.exit_code == 143
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "0 is not in the range"),
        (["--steps", "0"], "0 is not in the range"),
        (["--batch-size", "0"], "0 is not in the range"),
        (["--confidence", "1"], "1.0 is not in the range"),
        (["--target", "99"], "99.0 is not in the range"),
        (["--steps", "16777217"], "steps is 16777217, but should be from 1 to 16777216"),
        (["--seeds", "4294967296"], "seeds is 4294967296, but should be from 1 to 15790320"),
        (["--batch-size", "1048577"], "batch_size is 1048577, but should be from 1 to 1048576"),
        (["--confidence", "nan"], "confidence is nan, but should be above 0 and below 1"),
        (["--target", "nan"], "target is nan, but should be from 0 to 1"),
        (["--architecture", "other"], "'other' is not one of"),
        (["--device", "abacus"], "device is 'abacus', but should be"),
        (["--devices", "0"], "0 is not in the range"),
        (["--devices", "1000000"], "devices is 1000000, but should be from 1 to"),
        (["--strategy", "other"], "'other' is not one of"),
        (["--plot", "c.docx"], "plot is 'c.docx', but should end in one of"),
        (["--json", "none/c.json"], "--json is 'none/c.json', which cannot be written: No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_to_certify_ends_with_one_clear_line_and_status_2(certify, arguments, message):
    result = certify("--steps", 1, "--seeds", 1, *arguments)

    assert result.exit_code == 2, result.output
    assert message in result.output.splitlines()[-1]


@given(n=st.integers(1, 60), data=st.data(), confidence=st.sampled_from([0.5, 0.9, 0.999]))
def test_every_printed_bound_is_rounded_in_the_direction_in_which_it_is_true(n, data, confidence):
    """A lower bound down and an upper bound up, by less than a tenth of a percent."""
    solved = data.draw(st.integers(0, n), label="solved")
    certificate = made([1] * solved + [ensemble.NEVER] * (n - solved), confidence=confidence)

    side, printed = re.search(r"; (at least|at most) (\d+\.\d) % with", str(certificate)).groups()

    bound = Fraction(certificate.bounds[0] if solved else certificate.bounds[1]) * 100
    assert side == ("at least" if solved else "at most")
    beyond = bound - Fraction(printed) if solved else Fraction(printed) - bound
    assert 0 <= beyond < Fraction(1, 10), f"{side} {printed} % for {float(bound)} %"


@given(trillionths=st.integers(1, 10**12 - 1))
@example(trillionths=10**12 - 1)
def test_the_printed_confidence_has_all_its_digits(trillionths):
    """Confidence below 1 is not printed as 100 %."""
    confident = made([1], confidence=trillionths / 10**12)

    printed = re.search(r" % with (\S+) % confidence", str(confident))[1]

    assert Fraction(printed) == Fraction(trillionths, 10**10)


@given(steps=st.lists(st.one_of(st.none(), st.integers(0, 99)), min_size=1, max_size=12), share=st.integers(0, 12))
@example(steps=[9, 3, 5, None], share=1)
@example(steps=list(range(25)), share=7)  # 7 / 25 * 25 is above 7 in float64
def test_the_steps_to_solve_are_the_requested_quantile(steps, share):
    """The definition: the first step by which that fraction of all seeds is solved and stays so, or None."""
    n = len(steps)
    share = min(share, n)
    certificate = made([ensemble.NEVER if step is None else step for step in steps])

    found = certificate.steps_to_solve(share / n)

    within = [t for t in range(100) if sum(step is not None and step <= t for step in steps) >= share]
    assert found == (min(within) if within else None)
    assert certificate.failed == [i for i, step in enumerate(steps) if step is None]
    assert certificate.solved == n - len(certificate.failed)


def test_a_record_holds_the_whole_certificate():
    """By the keys of the JSON file."""
    certificate = made([3, 1, ensemble.NEVER, 7])
    lower, upper = clopper_pearson(3, 4, 0.999)

    assert certificate.as_dict() == {
        "architecture": "overview",
        "hidden": 4,
        "batch_size": 4,
        "steps": 100,
        "seeds": 4,
        "solved": 3,
        "confidence": 0.999,
        "at_least": lower,
        "at_most": upper,
        "steps_to_solve": {"0.5": 3, "0.9": None, "0.99": None},
        "failed": [2],
        "compiled": True,
    }


@pytest.fixture
def certified(certify, monkeypatch):
    """Return a function that runs ``simplenet certify`` with a given count."""

    def run(solved, seeds, *arguments):
        certificate = made([1] * solved + [ensemble.NEVER] * (seeds - solved))
        monkeypatch.setattr("simplenet.certificate.certify", lambda *_, **__: certificate)
        return certify(*arguments), certificate

    return run


@pytest.mark.parametrize("solved", [0, 15, 20])
def test_a_target_between_the_two_bounds_is_not_reached(certified, solved):
    """The lower bound decides, and suffices if it equals the target."""
    lower, upper = certified(solved, 20)[1].bounds

    for target, status in [(0.0, 0), (lower, 0), (math.nextafter(lower, 1), 1), ((lower + upper) / 2, 1), (upper, 1)]:
        result, _ = certified(solved, 20, "--target", repr(target))
        assert result.exit_code == status, f"target {target} of bounds {lower} and {upper}"


@pytest.mark.parametrize("architectures", [["overview", "listing"], ["listing", "overview"]])
def test_one_missed_target_of_several_has_status_1(certify, monkeypatch, architectures):
    """At either position."""
    monkeypatch.setattr(
        "simplenet.certificate.certify",
        lambda _, architecture, **__: made([1 if architecture == "overview" else ensemble.NEVER] * 20),
    )

    result = certify("--target", 0.5, *(word for name in architectures for word in ("--architecture", name)))

    assert result.exit_code == 1


@pytest.mark.parametrize("failed", [0, 1, 11, 12, 13])
def test_a_list_at_its_length_limit_has_no_ellipsis(certified, failed):
    """Twelve failed seeds are named, a thirteenth is not; three are described."""
    result, _ = certified(20 - failed, 20)

    lines = re.findall(r"^failed     (.*)$", result.stdout, re.MULTILINE)
    named = ", ".join(map(str, range(20 - failed, 20)[:12])) + (", ..." if failed > 12 else "")
    assert lines == ([named] if failed else [])
    assert len(re.findall(r"^seed \d+ +predicts", result.stdout, re.MULTILINE)) == min(failed, 3)


SURELY = "with 99.9 % confidence (Clopper-Pearson)"
SADDLE = "curves up in 5, down in 4, neither in 8: shaped like a saddle"


@pytest.mark.parametrize(
    ("solved_at", "fallback", "verdict"),
    [
        (
            [1234] * 20,
            "no compiler",
            [
                f"overview, batch 4, 100 steps: 20 of 20 seeds solve XOR; at least 70.7 % {SURELY}",
                f"solved     {', '.join(f'{share} % of the seeds by step 1,234' for share in (50, 90, 99))}",
                "eager      not compiled: no compiler",
            ],
        ),
        (
            [7, 5, ensemble.NEVER, 6],
            None,
            [
                f"overview, batch 4, 100 steps: 3 of 4 seeds solve XOR; at least 6.4 % {SURELY}",
                "solved     50 % of the seeds by step 6",
                "failed     2",
                f"seed 2     predicts {'0.000 ' * 3}0.000, MSE 0.5000, gradient 1e+00; {SADDLE}",
            ],
        ),
    ],
    ids=["all", "not all"],
)
def test_the_certify_output_has_the_bound_the_steps_and_the_failed_seeds(
    certify, monkeypatch, solved_at, fallback, verdict
):
    """Weights of 0 predict 0, and the loss has a saddle in each output weight and its unit's input weight."""
    certificate = made(solved_at)
    certificate = replace(certificate, ensemble=replace(certificate.ensemble, fallback=fallback))
    monkeypatch.setattr("simplenet.certificate.certify", lambda *_, **__: certificate)

    assert certify().stdout.splitlines() == verdict


def test_a_signal_ends_a_command_that_waits_for_another_machine(certify, monkeypatch, handlers_in_python):
    """Torch waits for it in native code, where Python's handlers do not run."""

    def launch(_):
        seen.extend(map(signal.getsignal, handlers_in_python))
        raise ValueError("that is enough")

    seen = []
    monkeypatch.setattr("lightning.fabric.Fabric.launch", launch)
    certify("--num-nodes", 2)

    assert seen == [signal.SIG_DFL] * len(handlers_in_python)


def test_everything_but_results_goes_to_stderr(certify, monkeypatch):
    """So that a pipe gets only results."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("simplenet.certificate.certify", interrupt)
    result = certify("--seeds", 3)

    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == "Interrupted: no certificate without all seeds.\n"


@pytest.mark.parametrize(("devices", "strategy"), [(2, "ddp"), (1, "auto")])
def test_devices_and_strategy_reach_fabric(certify, monkeypatch, devices, strategy):
    seen = []

    def make(**options):
        seen.append(options)
        raise ValueError("that is enough")

    monkeypatch.setattr("lightning.fabric.Fabric", make)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    certify("--device", "cpu", "--devices", devices, "--strategy", strategy, "--num-nodes", 3)

    assert seen == [{"accelerator": "cpu", "strategy": strategy, "devices": devices, "num_nodes": 3}]


@pytest.mark.parametrize(
    ("curvatures", "words"),
    [
        ([1.0, 2.0, 3.0], "curves up in 3, down in 0, neither in 0: shaped like a minimum"),
        ([-1.0, 2.0, 3.0], "curves up in 2, down in 1, neither in 0: shaped like a saddle"),
        ([-3.0, -2.0, 0.0], "curves up in 0, down in 2, neither in 1: shaped like a saddle"),
        ([-(2.0**-52), 2.0**-52, 1.0], "curves up in 1, down in 0, neither in 2: shaped like a minimum"),
        ([-(2.0**-50), 2.0**-50, 1.0], "curves up in 2, down in 1, neither in 0: shaped like a saddle"),
        ([0.0, 0.0, 0.0], "curves up in 0, down in 0, neither in 3: shaped like a minimum"),
    ],
)
def test_the_curvatures_of_a_critical_point_are_counted_by_their_signs(curvatures, words):
    """Within the rounding error of an eigenvalue, here three units of float64 times the largest, it counts as 0."""
    point = CriticalPoint([0.0] * 4, 0.0, 0.0, torch.tensor(curvatures, dtype=torch.float64))

    assert str(point) == f"predicts 0.000 0.000 0.000 0.000, MSE 0.0000, gradient 0e+00; {words}"


def test_a_critical_point_is_summarized_in_one_line():
    point = CriticalPoint([0.0, 0.25, -0.5, 1.0004], 0.12345, 2.5e-7, torch.tensor([1.0, -1.0]).double())

    assert str(point) == (
        "predicts 0.000 0.250 -0.500 1.000, MSE 0.1235, gradient 2e-07; "
        "curves up in 1, down in 1, neither in 0: shaped like a saddle"
    )


@pytest.mark.parametrize("shape", [(), (0,), (1,), (16,), (18,), (17, 1)])
def test_weights_of_an_impossible_shape_are_refused_with_that_shape(shape):
    message = f"weights have shape {shape}, but should have shape (4 h + 1,), for h units"

    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        critical_point(torch.zeros(shape), "overview")

    assert str(refused.value) == message


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_curvatures_are_those_of_the_loss(architecture, context):
    """The expected Hessian is the difference quotient of the network's gradients in float64.

    As in the check of derivatives, an entry's truncation and rounding errors are together below h, and by Weyl's
    theorem the error of an eigenvalue of 17 rows is at most 17 times that.
    """
    torch.manual_seed(1996)
    net = SimpleNet(architecture).double()
    weights = parameters_to_vector(net.parameters()).detach()
    h = 2.0**-17

    def gradient(point):
        vector_to_parameters(point.clone(), net.parameters())
        net.zero_grad()
        computed_mse(net).backward()
        return parameters_to_vector([p.grad for p in net.parameters()]).detach()

    rows = [(gradient(weights + h * axis) - gradient(weights - h * axis)) / (2 * h) for axis in torch.eye(17).double()]
    expected = torch.linalg.eigvalsh((torch.stack(rows) + torch.stack(rows).T) / 2)
    with context():
        found = critical_point(weights + 0, architecture)  # a tensor made in this context

    assert_within(found.curvatures, expected, atol=17 * h, claim="curvatures")
    assert_within(torch.tensor(found.gradient), float(gradient(weights).norm()), atol=17 * h, claim="gradient")


eighths = st.integers(-24, 24).map(lambda n: n / 8)  # exact, as are their sums and products


@given(a=eighths, b=eighths)
def test_predicting_one_half_for_every_row_has_an_mse_of_a_quarter_and_no_gradient(a, b):
    """If the output weights are 0; for the listing, that is the smallest MSE."""
    weights = torch.tensor([a, b, a - b, a, b, 1.0, a, b] + [a] * 4 + [0.0] * 5)

    point = critical_point(weights, "listing")

    assert point.loss == 1 / 4
    assert point.gradient == 0
    assert point.predictions == [1 / 2] * 4


# --- the impossible ---


def exact_listing_mse(parameters, hidden):
    """Evaluate the listing's MSE on XOR exactly up to the sigmoid, and with 60 digits from there."""
    exact = [Fraction(p) for p in parameters]
    w_in, b_in = exact[: 2 * hidden], exact[2 * hidden : 3 * hidden]
    w_out, b_out = exact[3 * hidden : 4 * hidden], exact[-1]
    with localcontext(prec=60):
        loss = Decimal(0)
        for (a, b), y in [((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((1, 1), 0)]:
            z = b_out + sum(w_out[i] * (w_in[2 * i] * a + w_in[2 * i + 1] * b + b_in[i]) for i in range(hidden))
            z = Decimal(z.numerator) / z.denominator
            e = (-abs(z)).exp()
            loss += ((e if z < 0 else 1) / (1 + e) - y) ** 2 / 4
        return loss


@pytest.mark.claim("5/listing-learns")
@given(data=st.data(), hidden=st.integers(1, 4))
def test_the_listings_mse_is_at_least_a_quarter_for_any_weights(data, hidden):
    """For all finite float64 numbers, from subnormal to the largest; docs/claims.md has the proof."""
    size = 4 * hidden + 1
    parameters = data.draw(st.lists(floats(torch.float64), min_size=size, max_size=size))

    loss = exact_listing_mse(parameters, hidden)

    # 60 digits give an error of about 1e-60.
    assert loss >= Decimal(1) / 4 - Decimal(10) ** -50


positive = st.fractions(min_value=0, max_value=10**6).filter(bool)


@given(x=positive, y=positive)
def test_the_identity_in_the_proof_is_true(x, y):
    """In exact arithmetic; the right side is a sum of squares over a positive number."""
    left = 1 / (1 + x) ** 2 + 1 / (1 + y) ** 2 - 1 / (1 + x * y)

    right = (x * y * (x - y) ** 2 + (x * y - 1) ** 2) / ((1 + x) ** 2 * (1 + y) ** 2 * (1 + x * y))
    assert left == right


def slack(net):
    """Bound the rounding error of the computed MSE of a listing, whose exact MSE is at least 1/4.

    The error grows with the terms of the affine map. A pre-activation has 3 roundings in the hidden layer
    and hidden + 1 products and sums in the output layer; the sigmoid multiplies their error by at most 1/4
    and adds 6 roundings; the square of an error below 1 and the mean add 1 + 1 + 4 roundings.
    """
    w_in, b_in, w_out, b_out = (p.detach().abs() for p in net.parameters())
    terms = float((w_out @ (w_in.sum(1) + b_in) + b_out).sum())
    z = gamma(3 + len(b_in) + 1, torch.float64) * terms
    prediction = z / 4 + gamma(6, torch.float64)
    return 2 * prediction + prediction**2 + gamma(6, torch.float64)


def listing(weights):
    net = SimpleNet("listing", (len(weights) - 1) // 4).double()
    vector_to_parameters(weights.clone(), net.parameters())
    return net


def computed_mse(net):
    inputs, targets = (rows.double() for rows in xor())
    return mse_loss(net(inputs), targets)


@given(data=st.data(), hidden=st.integers(1, 4))
def test_the_listings_computed_mse_is_at_least_a_quarter_to_its_roundings(data, hidden):
    """Computed by SimpleNet in float64."""
    elements = floats(torch.float64, min_exponent=-30, max_exponent=10)
    net = listing(data.draw(tensors((4 * hidden + 1,), torch.float64, elements)))

    assert computed_mse(net).item() >= 1 / 4 - slack(net)


@refuted
@given(data=st.data(), hidden=st.integers(1, 4))
def test_the_derivations_mse_can_be_below_a_quarter(data, hidden):
    """The same bound for the network with another hidden activation."""
    net = SimpleNet("derivation", hidden).double()
    weights = data.draw(
        tensors((4 * hidden + 1,), torch.float64, floats(torch.float64, min_exponent=-3, max_exponent=5))
    )
    vector_to_parameters(weights, net.parameters())

    assert computed_mse(net).item() >= 1 / 4 - slack(net)


@pytest.mark.parametrize("seed", range(10))
def test_an_optimizer_cannot_bring_the_mse_of_the_listing_below_a_quarter(seed):
    """By BFGS in float64, from initial weights up to 10 times as large as usual."""
    torch.manual_seed(seed)
    start = parameters_to_vector(SimpleNet("listing").double().parameters()).detach() * (1 + seed)
    losses = []

    def loss_and_gradient(weights):
        net = listing(torch.from_numpy(weights))
        loss = computed_mse(net)
        loss.backward()
        losses.append((loss.item(), slack(net)))
        return loss.item(), parameters_to_vector([p.grad for p in net.parameters()]).numpy()

    minimize(loss_and_gradient, start.numpy(), jac=True, method="BFGS", options={"gtol": 0, "maxiter": 100})

    assert all(loss >= 1 / 4 - permitted for loss, permitted in losses)
    assert min(losses)[0] < losses[0][0], "the optimizer did not lower the loss"


ROWS = list(itertools.product((0, 1), repeat=2))


def inseparable(targets):
    """Whether the sum of the inequalities of a separating line is the contradiction 0 > 0; exact, in integers."""
    signed = [[x if y else -x for x in (a, b, 1)] for (a, b), y in zip(ROWS, targets, strict=True)]
    return [sum(column) for column in zip(*signed, strict=True)] == [0, 0, 0]


def separated(targets):
    """Whether one of a few lines has w . x + b > 0 exactly for the rows with target 1; exact, in integers."""
    return any(
        all((2 * (u * a + v * b) + c > 0) == y for (a, b), y in zip(ROWS, targets, strict=True))
        for u, v, c in itertools.product((-1, 0, 1), (-1, 0, 1), (-3, -1, 1, 3))
    )


@pytest.mark.claim("3.1/not-separable")
@pytest.mark.parametrize("targets", list(itertools.product((0, 1), repeat=4)), ids=str)
def test_every_truth_table_except_exclusive_or_and_its_complement_is_linearly_separable(targets):
    """Fourteen have a separating line; for the other two the sum of the inequalities is a contradiction."""
    assert separated(targets) != inseparable(targets)
    assert inseparable(targets) == (targets in {(0, 1, 1, 0), (1, 0, 0, 1)})


@pytest.mark.claim("3.1/not-separable")
def test_the_proof_uses_the_targets_of_xor():
    assert inseparable([int(y) for y in xor()[1]])
