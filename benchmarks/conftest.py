"""The clock, which times a function and records the conditions with the time; and fixtures for devices and sizes.

``pytest --benchmark-only`` times.  Without it each benchmark runs once, untimed, at the smallest scale, to show that it
works.
"""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from benchmarks.peers import NEEDS
from benchmarks.steps import STRATEGIES
from simplenet.environment import processor, resolve_device
from simplenet.testing.settings import matmul_precision

# Rows and hidden units: from the notebook's, which is all overhead, to sizes that use all cores of a CPU, or of a GPU.
SCALES = {"smoke": [(4, 4)], "default": [(4, 4), (256, 16), (4096, 64), (16384, 256)]}
SCALES["full"] = [*SCALES["default"], (65536, 256), (262144, 1024)]

_EVENTS = 20  # measurements of the device's own time
_QUEUED = 16  # steps in each; an eager step is about 50 launches, and CUDA queues 1,024
_SPINS = 2**20, 2**31  # cycles that a kernel spins, at first (under a millisecond) and at most (a second)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark-scale",
        choices=("default", "full"),
        default="default",
        help="sizes of batches and networks: default takes minutes, full takes longer",
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("benchmark_only") and not config.getoption("benchmark_enable"):
        config.option.benchmark_disable = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests when timing: their background processes would share the cores."""
    if config.getoption("benchmark_only"):
        others = [item for item in items if "benchmark" not in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if "benchmark" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Remove the time of each round, to keep the records in the repository small."""
    for record in output_json["benchmarks"]:
        record["stats"].pop("data", None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "timed_device" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--device")
        devices = [torch.device("cpu"), torch.device("cuda")] if chosen == "all" else [resolve_device(chosen)]
        # The name of a record has the type alone, so that cuda:1 is compared with cuda.
        metafunc.parametrize("timed_device", devices, ids=[device.type for device in devices], indirect=True)
    if "rows" in metafunc.fixturenames and "hidden" in metafunc.fixturenames:
        config = metafunc.config
        scale = config.getoption("benchmark_scale") if config.getoption("benchmark_only") else "smoke"
        ids = [f"rows={rows}-hidden={hidden}" for rows, hidden in SCALES[scale]]
        metafunc.parametrize(("rows", "hidden"), SCALES[scale], ids=ids)


@pytest.fixture
def timed_device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device to time on: without ``--device``, CPU and CUDA each; CUDA is skipped if there is none."""
    device: torch.device = request.param
    if device.type not in {"cpu", "cuda"}:
        pytest.skip(f"the clock does not wait for {device}, so it would time launches")
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return device


@pytest.fixture(scope="session")
def peer(request: pytest.FixtureRequest) -> str:
    """Import what a peer needs, or skip; once a session, before a test records the environment variables."""
    # Otherwise JAX reserves most of a GPU's memory, which torch needs too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    for module in NEEDS[request.param]:
        pytest.importorskip(module)
    return request.param


@pytest.fixture
def timed(request: pytest.FixtureRequest) -> bool:
    """Return whether this run times (``--benchmark-only``)."""
    return bool(request.config.getoption("benchmark_only"))


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    """Compute matrix products in float32, not in TF32, which rounds more."""
    with matmul_precision("highest"):
        yield


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work launched on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_per_step(rows: int, hidden: int) -> int:
    """Count the floating-point operations of a step; an exponential, a root and a quotient count as one each.

    Forward: 4 for each pre-activation of the hidden layer, 4 for its sigmoid, 2 for its part in the output.  Backward:
    2 to the output's weights, 1 to the hidden layer, 3 through its sigmoid, 4 and 1 to its weights and bias.  A row's
    loss takes 4.  Adam: 3 and 4 for the moments, 6 for the update.
    """
    return 21 * rows * hidden + 4 * rows + 13 * (4 * hidden + 1)


def bytes_per_step(rows: int, hidden: int) -> int:
    """Count the bytes that a step has to move: the batch is read, weights and moments are read and written."""
    return 4 * (3 * rows + 6 * (4 * hidden + 1))


def _median_seconds(function: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        function()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@cache
def matmul_flops_per_second(device: torch.device) -> float:
    """Measure the device's peak rate of arithmetic, by a product of square matrices."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.full((n, n), 1.0, device=device)
    return 2 * n**3 / _median_seconds(lambda: a @ a, device)


@cache
def copy_bytes_per_second(device: torch.device) -> float:
    """Measure the device's peak memory bandwidth, by a copy."""
    n = 2**28 if device.type == "cuda" else 2**24  # larger than the cache
    a, b = (torch.full((n,), 1.0, device=device) for _ in range(2))
    return 2 * 4 * n / _median_seconds(lambda: b.copy_(a), device)


@cache
def commit() -> str | None:
    """Return the commit's id, with the suffix ``-dirty`` if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


class Clock:
    """Times one function and records the device with the time."""

    def __init__(self, benchmark: Any) -> None:
        self.benchmark = benchmark

    def __call__(
        self,
        function: Callable[[], object],
        device: torch.device,
        *,
        strategy: str,
        steps: int,
        rows: int,
        hidden: int,
        training: bool = False,
        rounds: int | None = None,
        launch: Callable[[int], object] | None = None,
    ) -> None:
        """Time ``function`` with a barrier at its end, and record the conditions.

        Args:
            function: The function to time. The caller has run it once, as a warm-up, and has checked its result.
            device: Device that it runs on.
            strategy: Strategy or peer; the report compares by it.
            steps: Number of steps in one call.
            rows: Rows in the batch.
            hidden: Width of the network.
            training: Whether a step is a training step; only its operations and bytes are counted.
            rounds: Number of calls to time, for a slow function; by default pytest-benchmark chooses.
            launch: Launches that many steps on the device without waiting; needed for the device's own time.
        """

        def run() -> None:
            function()
            synchronize(device)

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if rounds is None:
            self.benchmark(run)
        else:
            self.benchmark.pedantic(run, rounds=rounds)
        device_seconds = device_seconds_per_step(launch, device) if device.type == "cuda" and launch else None
        flops, moved = (count(rows, hidden) if training else None for count in (flops_per_step, bytes_per_step))
        in_torch = device.type == "cuda" and strategy in STRATEGIES  # torch does not count a peer's memory
        info: dict[str, Any] = {
            "device": device.type,
            "processor": processor(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "lightning": version("lightning"),
            "python": platform.python_version(),
            "strategy": strategy,
            "rows": rows,
            "hidden": hidden,
            "parameters": 4 * hidden + 1,
            "steps": steps,
            "flops_per_step": flops,
            "bytes_per_step": moved,
            "samples_per_second": None,
            "flops_per_second": None,
            "fraction_of_matmul": None,
            "bytes_per_second": None,
            "fraction_of_copy": None,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if in_torch else None,
            "commit": commit(),
            "device_seconds_per_step": device_seconds,
        }
        if self.benchmark.stats is not None:
            seconds = self.benchmark.stats.stats.median / steps
            info["samples_per_second"] = rows / seconds
            if flops is not None:
                info["flops_per_second"] = flops / seconds
                info["fraction_of_matmul"] = flops / seconds / matmul_flops_per_second(device)
            if moved is not None:  # per second of the device's own time if known
                info["bytes_per_second"] = moved / (device_seconds or seconds)
                info["fraction_of_copy"] = info["bytes_per_second"] / copy_bytes_per_second(device)
        self.benchmark.extra_info.update(info)


def device_seconds_per_step(launch: Callable[[int], object], device: torch.device) -> float | None:
    """Return the median time that the device itself spends on a step, in seconds; ``None`` if it cannot be measured.

    A kernel that only spins keeps the device busy until all steps are queued, so the time between the events does not
    include Python's. This fails for steps that wait for the device, and for steps that fill its queue.
    """
    seconds: list[float] = []
    cycles, most = _SPINS
    with torch.cuda.device(device):
        while len(seconds) < _EVENTS:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(cycles)  # noqa: SLF001
            start.record()
            launch(_QUEUED)
            end.record()
            queued_in_time = not start.query()
            end.synchronize()
            if queued_in_time:
                seconds.append(start.elapsed_time(end) / 1000 / _QUEUED)
            elif cycles < most:
                cycles *= 2
            else:
                return None
    return statistics.median(seconds)


@pytest.fixture
def clock(benchmark: Any) -> Clock:
    """Return a clock, which times a function and records the conditions."""
    return Clock(benchmark)


@pytest.fixture(autouse=True)
def _environment_is_restored() -> Iterator[None]:
    """Restore the environment variables, which torch's compiler changes."""
    with patch.dict(os.environ):
        yield
