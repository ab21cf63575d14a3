"""The configuration of every run of the suite: Hypothesis profiles, the header, and a check of global state.

Hypothesis has three profiles: ``default`` is fast and always draws the same examples;
``--hypothesis-profile=explore`` draws new examples, and many more; ``unshrunk``, for planted faults
and mutants, stops at the first failing example.
"""

import os
import random
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

# Tests use code that this torch compiles now, and not code from torch's cache, which may be for another CPU (a known
# defect with its own test). Set before torch is imported, which reads it, and inherited by child processes.
os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")

# OpenMP's threads sleep while they wait, except where they are timed: awake, they take much of the suite's CPU time.
if "--benchmark-only" not in sys.argv:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
from hypothesis import Phase, register_random, settings

from simplenet.environment import TORCH, describe
from simplenet.testing.implementations import adams, networks
from simplenet.testing.plugin import selected_devices

pytest_plugins = ["simplenet.testing.plugin", "tests.ledger.plugin", "tests.environments.plugin"]

settings.register_profile("default", max_examples=12, derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("explore", settings.get_profile("default"), max_examples=300, derandomize=False)
settings.register_profile(
    "unshrunk", settings.get_profile("default"), phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
)
settings.load_profile("default")


class _TorchRandom:
    """torch's CPU generator in Hypothesis' interface, so that a failing example fails again.

    Only this generator is seeded: ``torch.manual_seed`` also records a call stack for GPUs that are not initialized,
    which takes a twelfth of the suite's time.
    """

    seed = staticmethod(torch.default_generator.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_random = _TorchRandom()
register_random(_torch_random)


def pytest_configure() -> None:
    """Configure cuBLAS, and share the cores among xdist's workers."""
    if torch.cuda.is_available():
        configure_cublas(os.environ, TORCH)
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))


def configure_cublas(environment: MutableMapping[str, str], version: tuple[int, ...]) -> None:
    """Make matrix products on CUDA deterministic; up to 2.9, torch reads the variable only before the first one."""
    if version < (2, 10):
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_report_header(config: pytest.Config) -> list[str]:
    devices = selected_devices(config)
    header = {name: value for device in devices for name, value in describe(device).items()}
    header["device"] = ", ".join(describe(device)["device"] for device in devices)
    header["adam"] = config.getoption("--adam") or ", ".join(map(str, adams(devices)))
    header["net"] = config.getoption("--net") or ", ".join(map(str, networks(devices)))
    return [f"{name}: {value}" for name, value in header.items()]


# The variables that set_seed changes by design; the fixture below restores them.
_SEEDED = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "PYTHONHASHSEED")

# The variables that torch up to 2.8 and Lightning set when they first use CUDA.
_OF_CUDA = ("CUDA_MODULE_LOADING", "CUDA_DEVICE_ORDER")


def _autocast() -> tuple[bool, ...]:
    if TORCH < (2, 4):  # a function for each type of device
        return torch.is_autocast_cpu_enabled(), torch.is_autocast_enabled()
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _global_state() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "autocast on the CPU and on CUDA": _autocast(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cuDNN flags": (cudnn.enabled, cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32),
        "grad mode": torch.is_grad_enabled(),
        "environment": {
            k: v for k, v in os.environ.items() if not k.startswith("PYTEST_") and k not in {*_SEEDED, *_OF_CUDA}
        },
    }


@pytest.fixture(autouse=True)
def _global_state_is_restored(request: pytest.FixtureRequest) -> Iterator[None]:
    """Assert that a test changes no flag; restore the generators, which any test may use.

    The objects that ``--adam`` and ``--net`` name may change any flag.
    """
    if not {"adam_check", "network_check"}.isdisjoint(request.fixturenames):
        yield
        return
    torch.set_flush_denormal(False)  # code that torch compiles may turn it on: a known defect with its own test
    before = _global_state()
    seeded = {name: os.environ.get(name) for name in _SEEDED}
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cudnn = torch.backends.cudnn
    cudnn_flags = cudnn.deterministic, cudnn.benchmark
    yield
    random.setstate(generators[0])
    np.random.set_state(generators[1])  # noqa: NPY002
    torch.set_rng_state(generators[2])
    for name, value in seeded.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if torch.cuda.is_available():  # set_seed changes these flags by design
        cudnn.deterministic, cudnn.benchmark = cudnn_flags
    after = _global_state()
    changed = {name: (value, after[name]) for name, value in before.items() if value != after[name]}
    assert not changed, changed
