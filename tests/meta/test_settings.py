"""Under this project's settings, warnings of the code are errors, and advice of pytest's plugins is not.

Each test runs pytest in another process, on one small file in a directory with this project's settings.
"""

import json
import shutil
from pathlib import Path

import pytest

pytest_plugins = "pytester"

PROJECT = Path(__file__).parents[2]

TESTS = """
import warnings

def test_timed(benchmark):
    benchmark(int)

def test_untimed(benchmark):
    pass

def test_warns():
    warnings.warn("of the code under test")
"""


@pytest.fixture
def pytest_with_our_settings(pytester, monkeypatch):
    """Return a function that runs pytest in another process, with this project's settings and the tests above."""
    for variable in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):  # pytest-benchmark does not time in a worker
        monkeypatch.delenv(variable, raising=False)
    shutil.copy(PROJECT / "pyproject.toml", pytester.path)
    path = pytester.makepyfile(TESTS)
    return lambda *arguments: pytester.runpytest_subprocess("-p", "no:xdist", path, *arguments)


SHORT = ("--benchmark-only", "--benchmark-max-time=0.001", "--benchmark-min-rounds=1", "-k", "test_timed")


def test_a_record_of_another_clock_frequency_is_compared_with_a_warning(pytest_with_our_settings, pytester):
    """The clock frequency is measured in each run, and almost always differs."""
    assert pytest_with_our_settings(*SHORT, "--benchmark-save=before").ret == 0
    (path,) = pytester.path.glob(".benchmarks/*/0001_before.json")
    record = json.loads(path.read_text("utf-8"))
    cpu = record["machine_info"]["cpu"]
    cpu["hz_actual"] = [cpu.get("hz_actual", [0])[0] + 2_000_000, 0]
    path.write_text(json.dumps(record), "utf-8")

    result = pytest_with_our_settings(*SHORT, "--benchmark-compare=0001")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["test_timed (0001_before)*"])
    assert "PytestBenchmarkWarning: Benchmark machine_info is different" in str(result.stdout) + str(result.stderr)


def test_other_warnings_of_pytest_benchmark_are_not_errors(pytest_with_our_settings):
    """Such as that there is no record to compare with, and nothing to save."""
    result = pytest_with_our_settings(*SHORT, "-k", "no_such", "--benchmark-compare=0009", "--benchmark-save=none")

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    for advice in ("Can't compare", "Not saving anything"):
        assert f"PytestBenchmarkWarning: {advice}" in str(result.stdout) + str(result.stderr)


def test_a_warning_of_the_code_and_a_benchmark_that_times_nothing_are_errors(pytest_with_our_settings):
    result = pytest_with_our_settings("-k", "test_untimed or test_warns")

    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["E *Benchmark fixture was not used at all*", "E *UserWarning: of the code under test"])


def test_a_read_only_checkout_is_tested_with_a_warning(pytest_with_our_settings):
    """Pytest cannot create its cache there. Tested with a path below a file, where the superuser cannot either."""
    result = pytest_with_our_settings("-k", "test_timed", "-o", "cache_dir=pyproject.toml/cache")

    assert result.ret == 0
    assert "PytestCacheWarning: could not create cache path" in str(result.stdout) + str(result.stderr)
