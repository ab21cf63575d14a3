"""Training with this torch compared with runs recorded with another."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from simplenet import ARCHITECTURES
from simplenet.environment import describe
from simplenet.testing.assertions import assert_identical, assert_in_balls, assert_within, refuted
from simplenet.testing.bounds import gamma
from simplenet.testing.one_step import TrainingState, assert_training_step
from simplenet.testing.strategies import floats, seeds
from tests.environments.drift import line, table
from tests.environments.golden import (
    COMMITTED,
    CPU,
    MARKS,
    TRAINING,
    TRAJECTORIES,
    Drift,
    Golden,
    Trajectory,
    drift,
    dumps,
    loads,
    read,
    record,
    same_kernels,
    same_release,
    ulps,
)
from tests.training import Training, possible_results, step_from, train

# --- what torch guarantees ---


def roundings_of_a_draw(fan_in):
    """Bound the difference of two evaluations of the same draw from ±1/√fan_in.

    torch draws an integer k below 2^24 and computes k 2^-24 (b - a) + a, for b = -a = 1/√fan_in in float32. The
    product, at most 2b, is rounded or, in a fused kernel, is not; the sum, at most b, is rounded in both.
    """
    b = torch.tensor(fan_in**-0.5).item()
    return (2 * b + b + b) * gamma(1, torch.float32)


def check_initial_weights(trajectory, actual, recorded, *, bitwise):
    """Compare initial weights with the recorded ones: first those of fan-in two, then those of fan-in four."""
    __tracebackhide__ = True
    claim = f"initial weights of {trajectory}"
    if bitwise:
        assert_identical(actual, recorded, claim=claim)
        return
    for fan_in, own, expected in zip((2, 4), actual.split([12, 5]), recorded.split([12, 5]), strict=True):
        assert_within(own, expected, atol=roundings_of_a_draw(fan_in), claim=f"{claim}, fan-in {fan_in}")


def state_before(t, mark):
    return TrainingState(mark.p, mark.m, mark.v, None, t - 1)


def check_step(trajectory, before, *steps):
    """Assert that results of a step, each a loss and a state, are in the balls computed from the state before."""
    __tracebackhide__ = True
    loss, expected = possible_results(trajectory.architecture, before)
    claim = f"after step {int(before.t) + 1:,} of {trajectory}"
    for actual, after in steps:
        assert_in_balls(actual, loss, claim=f"loss {claim}".replace("after", "of"))
        assert_training_step(after, expected, claim=claim)


def test_training_starts_from_the_recorded_weights(trajectory, golden):
    """Bit for bit with the same kernels; with other kernels of the same release, to within the roundings of a draw."""
    here = describe(CPU)
    if not same_release(golden.environment, here):
        pytest.skip(f"torch {here['torch']} may draw differently from {golden.environment['torch']}: only measured")

    check_initial_weights(
        trajectory,
        Training(trajectory).weights(),
        golden.runs[trajectory].marks[1].p,
        bitwise=same_kernels(golden.environment, here),
    )


def test_a_step_from_a_recorded_state_is_exact_to_its_roundings(trajectory, golden):
    """Forward, backward and Adam; the recorded result of that step is in the same balls."""
    for t, mark in golden.runs[trajectory].marks.items():
        before = state_before(t, mark)
        check_step(trajectory, before, step_from(trajectory, before), (mark.loss, (mark.after,)))


def test_every_recorded_step_of_a_run_is_exact_to_its_roundings(free_run, golden, request):
    """From the run's own states; its drift from the recorded run is only measured and reported."""
    run = train(free_run)

    request.node.user_properties.append(("drift", drift(free_run, golden.runs[free_run], run)._asdict()))
    for t, mark in run.marks.items():
        check_step(free_run, state_before(t, mark), (mark.loss, (mark.after,)))


# --- what these tests detect ---

trajectories = st.sampled_from([one for one in TRAJECTORIES if one.implementation == "for-loop"])
committed = read(COMMITTED)


def with_mark(trajectory, t, **changes):
    """Return the content of the committed file with a changed mark in one run."""
    run = committed.runs[trajectory]
    marks = {**run.marks, t: run.marks[t]._replace(**changes)}
    return loads(dumps(Golden(committed.environment, {trajectory: run._replace(marks=marks)})))


@given(trajectory=trajectories, entry=st.integers(0, 16), bit=st.integers(0, 31))
def test_one_flipped_bit_in_the_initial_weights_fails_the_comparison(trajectory, entry, bit):
    weights = committed.runs[trajectory].marks[1].p
    flipped = weights.clone()
    flipped.numpy().view(np.uint32)[entry] ^= np.uint32(1 << bit)
    recorded = with_mark(trajectory, 1, p=flipped).runs[trajectory].marks[1].p

    with pytest.raises(
        AssertionError, match=rf"initial weights of {trajectory}: 1 of 17 entries differ, .*\({entry},\)"
    ):
        check_initial_weights(trajectory, weights, recorded, bitwise=True)


@given(trajectory=trajectories, entry=st.integers(0, 16), sign=st.sampled_from([-1, 1]))
def test_an_initial_weight_drawn_three_numbers_later_fails_the_comparison(trajectory, entry, sign):
    """Consecutive numbers differ by 2^-23 times 1/√fan_in; the bound is two such differences."""
    weights = committed.runs[trajectory].marks[1].p
    fan_in = 2 if entry < 12 else 4
    other = weights.clone()
    other[entry] += sign * 3 * 2.0**-23 * fan_in**-0.5

    check_initial_weights(trajectory, weights, weights, bitwise=False)
    with pytest.raises(AssertionError, match=rf"initial weights of {trajectory}, fan-in {fan_in}: error is"):
        check_initial_weights(trajectory, other, weights, bitwise=False)


fan_ins = st.sampled_from([2, 4])


def drawn(k, fan_in, *, fused):
    """Compute a draw as kernels do: round the product and the sum, or only the sum."""
    b = torch.tensor(fan_in**-0.5)
    if fused:
        return (k * 2.0**-24 * (2 * b).double() - b.double()).float()
    return (k * 2.0**-24).float() * (2 * b) - b


@st.composite
def draws(draw):
    """Draw a thousand integers below 2^24 from a seed; most of Hypothesis' own have few digits, so nothing rounds."""
    generator = torch.Generator().manual_seed(draw(seeds))
    return torch.randint(2**24, (1000,), generator=generator).double()


@given(k=draws(), fan_in=fan_ins)
def test_a_fused_draw_differs_by_no_more_than_the_roundings(k, fan_in):
    """The bound allows 4 roundings; of a thousand draws, some differ by 1.4."""
    fused, in_two_steps = drawn(k, fan_in, fused=True), drawn(k, fan_in, fused=False)

    assert_within(in_two_steps, fused.double(), atol=roundings_of_a_draw(fan_in), claim="draw")


@refuted
@given(k=draws(), fan_in=fan_ins)
def test_a_fused_draw_has_the_same_bits(k, fan_in):
    """So equal bits are only guaranteed for the same kernel."""
    assert_identical(drawn(k, fan_in, fused=False), drawn(k, fan_in, fused=True), claim="draw")


@pytest.mark.parametrize("t", MARKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_error_of_a_hundredth_of_the_learning_rate_in_a_weight_fails_the_comparison(architecture, t):
    """In any single weight."""
    mark = committed.runs[Trajectory("for-loop", architecture, 1996)].marks[t]
    _, expected = possible_results(architecture, state_before(t, mark))

    for weight, ball in zip(mark.after.split(1), expected.p, strict=True):
        with pytest.raises(AssertionError, match="times its bound"):
            assert_in_balls(weight + TRAINING["lr"] / 100, ball.reshape(1), claim="weight")


@pytest.mark.parametrize("part", "pmv")
@pytest.mark.parametrize("t", [10, 100])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_recorded_state_that_is_off_by_a_hundredth_fails_the_comparison(architecture, t, part):
    """The recorded step started from another state. Later in a run, the gradients of two of three runs are near 0."""
    trajectory = Trajectory("for-loop", architecture, 1996)
    values = getattr(committed.runs[trajectory].marks[t], part)
    file = with_mark(trajectory, t, **{part: 1.01 * values})
    mark = file.runs[trajectory].marks[t]

    with pytest.raises(AssertionError, match=rf"step {t} of {trajectory}: error is .* times its bound"):
        check_step(trajectory, state_before(t, mark), (mark.loss, (mark.after,)))


@given(trajectory=trajectories, changed=st.integers(0, 9), entry=st.integers(0, 16))
@example(trajectory=TRAJECTORIES[0], changed=0, entry=0)
def test_a_run_that_is_changed_by_an_ulp_is_reported_from_that_step(trajectory, changed, entry):
    """After the step's own update, or for 0 in the initial weights; at the mark it is reported as one ulp."""

    class Changed(Training):
        def weights(self):
            weights = super().weights()
            if self.t >= changed:
                weights[entry] = torch.nextafter(weights[entry], torch.tensor(torch.inf))
            return weights

    recorded = train(trajectory, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.training.Training", Changed)
        here = train(trajectory, 10)

    found = drift(trajectory, recorded, here)
    assert found.first == changed
    assert found.weights == [int(changed <= 1), 1]


# --- the report ---


@given(start=floats(torch.float32, min_exponent=-126, max_exponent=126), n=st.integers(0, 99))
def test_the_distance_in_ulps_counts_the_numbers_in_between(start, n):
    end = torch.tensor(start)
    for _ in range(n):
        end = torch.nextafter(end, torch.tensor(torch.inf))

    assert ulps(torch.tensor(start), end) == ulps(end, torch.tensor(start)) == n


def test_zero_is_between_the_smallest_numbers_of_both_signs():
    smallest = torch.tensor(2.0**-149)

    assert ulps(-smallest, smallest) == 2
    assert ulps(torch.tensor(-0.0), torch.tensor(0.0)) == 0


def drifts(**firsts):
    """Make drifts of up to three runs from their first differing steps."""
    names = {"for_loop": "for-loop", "foreach": "foreach", "fused": "fused"}
    return [
        Drift(names[name], "overview", 1996, first, [0, 0, 0, 3, 5 if first else 0], [0, 0, 0, 0, 0])
        for name, first in firsts.items()
    ]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (drifts(for_loop=None, foreach=None), "none, 2 runs of 2,000 steps are the same in every bit"),
        (
            drifts(for_loop=2, foreach=2, fused=None),
            "initial weights identical; first differing step 2 (for-loop, foreach), none in 2,000 (fused); up to 5",
        ),
        (
            drifts(for_loop=0, fused=None),
            "initial weights differ in 1 of 2; first differing step 0 (for-loop), none in 2,000 (fused); up to 3 ulps",
        ),
    ],
    ids=["same", "drifted", "other start"],
)
def test_the_line_names_the_first_differing_step_of_each_implementation(found, text):
    assert f"): {text}" in line(committed, found)


def test_the_table_has_the_first_step_and_the_largest_difference_over_all_seeds():
    found = [
        Drift("foreach", "listing", 0, None, [0] * 5, [0] * 5),
        Drift("foreach", "listing", 7, 57, [0, 0, 4, 9, 1], [0] * 5),
        Drift("foreach", "listing", 8, 60, [0, 0, 2, 1234, 0], [0] * 5),
    ]

    (row,) = [text for text in table(committed, found) if text.startswith("foreach")]

    assert row.split() == ["foreach", "listing", "57", "0", "0", "4", "1,234", "1"]


@pytest.mark.parametrize(
    ("change", "kernels", "release"),
    [
        ({}, True, True),
        ({"python": "3.13.1 on Linux", "lightning": "2.0.9", "threads": "64"}, True, True),
        ({"device": "cpu (x86_64 DEFAULT)"}, False, True),
        ({"device": "cpu (aarch64 SVE256)"}, False, True),
        ({"python": "3.11.7 on Windows"}, False, True),
        ({"torch": "2.13.0"}, False, True),
        ({"torch": "2.13.1+cpu"}, False, False),
        ({"torch": "2.14.0+cpu"}, False, False),
    ],
    ids=str,
)
def test_kernels_are_the_same_for_one_build_system_and_cpu_capability(change, kernels, release):
    there = {
        **committed.environment,
        "python": "3.11.7 on Linux",
        "torch": "2.13.0+cpu",
        "device": "cpu (x86_64 AVX512)",
    }

    assert same_kernels(there, {**there, **change}) == kernels
    assert same_release(there, {**there, **change}) == release


# --- the file ---


def test_the_committed_file_holds_every_run():
    assert list(committed.runs) == TRAJECTORIES


def test_a_golden_file_round_trips_bit_for_bit():
    assert dumps(committed) == COMMITTED.read_text("utf-8")


def test_record_writes_the_trained_runs(monkeypatch, tmp_path):
    trajectory = TRAJECTORIES[0]
    monkeypatch.setattr("tests.environments.golden.TRAJECTORIES", [trajectory])
    monkeypatch.setattr("tests.training.train", committed.runs.__getitem__)

    record(tmp_path / "golden.json")

    assert drift(trajectory, read(tmp_path / "golden.json").runs[trajectory], committed.runs[trajectory]).first is None


ONE = committed.runs[TRAJECTORIES[0]]
TEXT = dumps(Golden(committed.environment, {TRAJECTORIES[0]: ONE}))
NARROW = ONE.marks[10]._replace(after=ONE.marks[10].after[:3])
SECOND = {TRAJECTORIES[0]: ONE, TRAJECTORIES[1]: ONE._replace(marks={**ONE.marks, 10: NARROW})}
SHORTER = dumps(Golden(committed.environment, {TRAJECTORIES[0]: ONE._replace(checksums=ONE.checksums[:-1])}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "should be a file that can be read: No such file or directory"),
        ("", "should be written by pytest --golden-write, but its format is None"),
        (b"\xff\xfe\x00", "should be written by pytest --golden-write, but its format is None"),
        ("[1, 2]", "should be written by pytest --golden-write, but its format is None"),
        (TEXT[:-400], "should be written by pytest --golden-write, but its format is None"),
        (TEXT.replace("golden 1", "golden 2"), "its format is 'simplenet golden 2' and not 'simplenet golden 1'"),
        (TEXT.replace('"lr": 0.01', '"lr": 0.02'), "should hold training with {'lr': 0.01, .* but holds {'lr': 0.02"),
        (TEXT.replace('"seed": 1996', '"seed": 3'), "should hold known runs, but holds for-loop-overview-3:"),
        (TEXT.replace('"2000": {', '"2001": {'), "should hold 2,000 steps of for-loop-overview-1996, but holds a part"),
        (SHORTER, "should hold 2,000 steps of for-loop-overview-1996, but holds a part"),
        (
            dumps(Golden(committed.environment, SECOND)),
            "should hold 2,000 steps of foreach-overview-1996, but holds a part",
        ),
        (TEXT.replace('"loss"', '"lost"'), "should be as it was written, but is damaged: TypeError: .*'lost'"),
        (TEXT.replace('"torch": ', '"touch": '), "should be as it was written, but is damaged: KeyError: 'torch'"),
        (TEXT.replace('"torch": "', '"torch": "two'), "is damaged: InvalidVersion: Invalid version: 'two2"),
        (TEXT.replace('"crc32": "', '"crc32": "?'), "is damaged: Error: "),
    ],
    ids=[
        "missing",
        "empty",
        "binary",
        "other JSON",
        "cut",
        "other format",
        "other rate",
        "other seed",
        "other mark",
        "shorter",
        "narrower",
        "key",
        "no torch",
        "no version",
        "base64",
    ],
)
def test_an_incomparable_golden_file_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "golden.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ValueError, match=rf"^golden is '.*golden\.json', (but|which) .*{message}") as refused:
        read(path)

    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_trained(monkeypatch, tmp_path):
    """And one that can be written keeps its content until everything is trained."""
    monkeypatch.delattr("tests.training.train")
    path = tmp_path / "golden.json"
    path.write_text(TEXT, "utf-8")

    with pytest.raises(ValueError, match=r"golden-write is '.*', but should be a file to write to: Is a directory"):
        record(tmp_path)
    with pytest.raises(ImportError, match="train"):
        record(path)

    assert path.read_text("utf-8") == TEXT
