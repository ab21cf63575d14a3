"""Soak tests, the long forms of tests: a plain run deselects them, and has to reach the floor without them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ledger.plugin import Tally

ROOT = Path(__file__).parents[2]

TWO = """
import pytest

def test_quick(): ...

@pytest.mark.soak
def test_long(): ...
"""


@pytest.mark.parametrize(
    ("options", "ran"),
    [([], ["test_quick"]), (["-m", "soak"], ["test_long"]), (["-m", ""], ["test_quick", "test_long"])],
)
def test_a_soak_test_runs_only_on_request(tmp_path, options, ran):
    """In another process, with the settings of pyproject.toml."""
    (tmp_path / "test_two.py").write_text(TWO)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--noconftest", "-p", "no:cacheprovider"]

    result = subprocess.run([*command, "-v", *options, tmp_path], capture_output=True, text=True, check=True)

    assert [name for name in ("test_quick", "test_long") if f"{name} PASSED" in result.stdout] == ran


class Config:
    """A stand-in for pytest's configuration, of a run without any check."""

    args = ("tests", "benchmarks")

    def __init__(self, markexpr, **options):
        self.options = {"markexpr": markexpr, "device": "all", **options}

    def getoption(self, name, default=None):
        return self.options.get(name.removeprefix("--"), default)

    def getini(self, name):
        return {"testpaths": self.args}[name]


@pytest.mark.parametrize(
    ("expression", "whole"), [("not soak", True), ("", True), ("soak", False), ("not soak and claim", False)]
)
def test_a_run_without_soak_tests_must_reach_the_floor(expression, whole):
    """So must a run with soak tests; a run of soak tests alone need not."""
    assert bool(Tally(Config(expression)).missing()) == whole


@pytest.mark.parametrize(
    "option",
    ["keyword", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "benchmark_only", "collectonly", "adam"],
)
def test_a_run_that_leaves_tests_out_need_not_reach_the_floor(option):
    assert not Tally(Config("", **{option: "chosen"})).missing()


@pytest.mark.parametrize(
    ("chosen", "gpus", "checked", "missing"),
    [
        ("all", 1, [], "cuda fused-cuda"),
        ("cuda", 1, ["cuda", "cuda"], "fused-cuda"),
        ("cuda", 1, ["cuda", "fused-cuda"], "cuda"),
        ("cuda", 1, ["cuda", "cuda", "fused-cuda"], ""),
        ("cuda:1", 2, ["cuda", "cuda", "fused-cuda"], "cuda:1 fused-cuda:1"),  # those are of another GPU
        ("all", 0, [], ""),
        ("cpu", 1, [], ""),
    ],
)
def test_a_run_with_too_few_checks_on_a_gpu_fails(monkeypatch, chosen, gpus, checked, missing):
    """For each device and implementation: the number in a floor of CUDA, or one."""
    rows = [{"cpu": 0, "fused-cpu": 0}, {"cuda": 2}]
    floors = [{"versions": {"torch": ">=2"}, "checks": row} for row in rows]
    monkeypatch.setattr("tests.ledger.floors", lambda: floors)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    tally = Tally(Config("", device=chosen))
    tally.checks.update(checked)

    found = [axis for axis in tally.missing() if axis.startswith(("cuda", "fused-cuda"))]

    assert " ".join(found) == missing
