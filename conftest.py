"""What every run of the suite shares: its examples, its header, and a check of global state.

Hypothesis runs under one of three profiles: ``default`` is quick and always draws the same
examples; ``--hypothesis-profile=explore`` draws new ones, many more of them; under ``unshrunk``,
which is for planted faults and mutants, the first example that fails will do.
"""

import os
import random
from collections.abc import Iterator, MutableMapping
from typing import Any

# What is tested is what this torch compiles now, not what one compiled before, perhaps for another CPU: a defect with a
# test of its own. Said before torch is imported, which reads it, and to the processes that tests start.
os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")

import numpy as np
import pytest
import torch
from hypothesis import Phase, register_random, settings

from simplenet.environment import TORCH, describe
from simplenet.testing.implementations import adams, networks
from simplenet.testing.plugin import selected_devices

pytest_plugins = ["simplenet.testing.plugin", "tests.ledger.plugin", "tests.environments.plugin"]

settings.register_profile(
    "default",
    max_examples=12,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
)
settings.register_profile("explore", settings.get_profile("default"), max_examples=300, derandomize=False)
settings.register_profile(
    "unshrunk", settings.get_profile("default"), phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
)
settings.load_profile("default")


class _TorchRandom:
    """torch's generator as Hypothesis wants it, so that a failing example fails again.

    It is seeded by itself: ``torch.manual_seed`` also leaves word, with the whole call stack
    written out, for the GPUs that are not there, a twelfth of the suite's time.
    """

    seed = staticmethod(torch.default_generator.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_random = _TorchRandom()
register_random(_torch_random)


def pytest_configure() -> None:
    """Settle what a process settles once; share the cores among xdist's workers."""
    if torch.cuda.is_available():
        settle_cublas(os.environ, TORCH)
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))


def settle_cublas(environment: MutableMapping[str, str], version: tuple[int, ...]) -> None:
    """Make products on CUDA deterministic from the first one on, where torch looks only then: up to 2.9."""
    if version < (2, 10):
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_report_header(config: pytest.Config) -> list[str]:
    here = selected_devices(config)
    header = {name: value for device in here for name, value in describe(device).items()}
    header["device"] = ", ".join(describe(device)["device"] for device in here)
    header["adam"] = config.getoption("--adam") or ", ".join(map(str, adams(here)))
    header["net"] = config.getoption("--net") or ", ".join(map(str, networks(here)))
    return [f"{name}: {value}" for name, value in header.items()]


# What set_seed changes by design; the fixture below puts these back for it.
_SEEDED = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "PYTHONHASHSEED")

# What torch up to 2.8 and Lightning write as they first use CUDA, for the rest of the process.
_OF_CUDA = ("CUDA_MODULE_LOADING", "CUDA_DEVICE_ORDER")


def _autocast() -> tuple[bool, ...]:
    if TORCH < (2, 4):  # it has a function for each type
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
def _global_state_is_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Assert that a test leaves no flag changed; put back the generators, which any test may draw from.

    What ``--adam`` and ``--net`` name may change what it likes.
    """
    if not {"adam_check", "network_check"}.isdisjoint(request.fixturenames):
        yield
        return
    torch.set_flush_denormal(False)  # what torch compiles may have turned it on: a defect with a test of its own
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
    if torch.cuda.is_available():  # where set_seed changes them, again by design
        cudnn.deterministic, cudnn.benchmark = cudnn_flags
    after = _global_state()
    kept = {name for name in before if before[name] != after[name]}
    assert not kept, {name: (before[name], after[name]) for name in kept}
