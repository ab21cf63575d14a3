"""The benchmarks' own harness: what they are checked by can fail, and what takes longer reads as longer."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.check import check_step
from benchmarks.peers import NumPy
from simplenet import SimpleNet, set_seed, xor
from simplenet.steps import stepper

pytest_plugins = "pytester"


def one_step(make):
    set_seed(1996)
    net, (x, y) = SimpleNet(), xor()
    take = make(net, x, y)
    before = take.read()
    take()
    return x, y, before, take.read()


@pytest.mark.parametrize("make", [lambda *rest: stepper("eager", *rest), NumPy], ids=["eager", "numpy"])
def test_a_step_of_the_page_passes_the_benchmarks_check(make):
    check_step(*one_step(make))


@pytest.mark.parametrize("part", ["weights", "m", "v"])
def test_a_part_that_is_a_thousandth_off_fails_it(part):
    """Of the entry's own value; the bound is some thousand times less."""
    x, y, before, after = one_step(NumPy)

    with pytest.raises(AssertionError, match=f"{part} after step 1: error is"):
        check_step(x, y, before, after._replace(**{part: getattr(after, part) * 1.001}))


def test_a_step_too_many_fails_it():
    x, y, before, after = one_step(NumPy)

    with pytest.raises(AssertionError, match="step count is 2, but should be 1"):
        check_step(x, y, before, after._replace(t=2))


def test_a_missing_factor_of_the_loss_fails_it():
    """Although the length of a first step hardly depends on the gradient's scale."""
    x, y, before, after = one_step(NumPy)

    with pytest.raises(AssertionError, match="after step 1"):
        check_step(x, y, before, after, share=1 / 2)


def test_nan_fails_it():
    x, y, before, after = one_step(NumPy)

    with pytest.raises(AssertionError, match="weights after step 1: error is nan"):
        check_step(x, y, before, after._replace(weights=torch.full_like(after.weights, torch.nan)))


DELAY, STEPS = 0.002, 5

SLOWED = f"""
import time

import pytest
import torch

from simplenet import SimpleNet, xor
from simplenet.steps import stepper


@pytest.mark.benchmark(group="training step", max_time=0.05)
@pytest.mark.parametrize("delay", [0, {DELAY}])
def test_step(clock, delay):
    take = stepper("eager", SimpleNet(), *xor())

    def steps():
        for _ in range({STEPS}):
            take()
            time.sleep(delay)

    clock(steps, torch.device("cpu"), strategy="eager", steps={STEPS}, rows=4, hidden=4, training=True)
"""


def test_a_slowed_step_is_recorded_as_slower(pytester, monkeypatch):
    """By at least what it was slowed: a sleep never ends early."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # where pytest-benchmark refuses to time
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    pytester.makeconftest("from benchmarks.conftest import *")
    pytester.makepyfile(SLOWED)

    result = pytester.runpytest_inprocess(
        "--benchmark-only", "--benchmark-json=run.json", "-p", "no:randomly", "-p", "no:xdist"
    )

    assert result.ret == 0
    plain, slowed = json.loads(Path("run.json").read_text("utf-8"))["benchmarks"]
    assert slowed["stats"]["min"] >= DELAY * STEPS
    assert slowed["stats"]["min"] > plain["stats"]["min"]
    rates = [run["extra_info"]["flops_per_second"] for run in (plain, slowed)]
    assert rates[0] > rates[1]
    for run in (plain, slowed):
        assert run["extra_info"]["flops_per_second"] == 573 / (run["stats"]["median"] / STEPS)
        assert run["extra_info"]["samples_per_second"] == 4 / (run["stats"]["median"] / STEPS)
