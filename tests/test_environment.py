"""Devices, processors and flags, on simulated machines."""

import platform
from importlib.metadata import version

import pytest
import torch

from simplenet import environment
from simplenet.environment import autocasts, describe, processor, resolve_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that simulates a number of CUDA devices, with or without MPS."""

    def pretend(count, *, mps=False):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cuda, "get_device_name", "the {} of a maker".format)

    return pretend


@pytest.mark.parametrize("mps", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_device_is_found_by_each_of_its_names_and_no_other(gpus, count, mps):
    """``auto`` prefers CUDA to the CPU."""
    gpus(count, mps=mps)
    here = ["cpu", "cuda:0", "cuda:1"][: 1 + count] + ["mps"] * mps
    short = ["cuda"] * (count > 0)

    assert [resolve_device(name) for name in here + short] == [torch.device(name) for name in here + short]
    assert resolve_device() == resolve_device("auto") == torch.device("cuda" if count else "cpu")
    for name in {"", "abacus", "AUTO", "CPU", "cuda", "cuda:0", "cuda:1", "cuda:2", "mps"} - {*here, *short}:
        with pytest.raises(ValueError, match=r"^device is ") as refused:
            resolve_device(name)
        there = ", ".join(here)
        assert str(refused.value) == f"device is {name!r}, but should be auto or an available device: {there}"


@pytest.mark.parametrize("torch_version", [(2, 3), (2, 4)], ids=str)
@pytest.mark.filterwarnings("ignore:torch.is_autocast_cpu_enabled:DeprecationWarning")
def test_an_autocast_region_applies_only_to_its_device(monkeypatch, torch_version):
    """Before torch 2.4, which has a function for each type of device, all but the CPU count as CUDA."""
    monkeypatch.setattr(environment, "TORCH", min(torch_version, environment.TORCH))

    assert not autocasts(CPU)
    with torch.autocast("cpu"):
        assert autocasts(CPU)
        assert not autocasts(CUDA)
    cuda = ["cuda"] if hasattr(torch.amp, "is_autocast_available") else []  # before torch 2.4 there is no other
    torch.set_autocast_enabled(*cuda, True)  # noqa: FBT003 - as an autocast region on CUDA does
    try:
        assert autocasts(CUDA)
        assert not autocasts(CPU)
        assert autocasts(torch.device("meta")) == (environment.TORCH < (2, 4))
    finally:
        torch.set_autocast_enabled(*cuda, False)  # noqa: FBT003
    assert not autocasts(CUDA)


def test_a_gpu_is_named_as_cuda_does(gpus):
    gpus(2)

    assert processor(CUDA) == "the cuda:1 of a maker"
    assert describe(CUDA)["device"] == "cuda:1 (the cuda:1 of a maker)"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (
            "processor\t: 0\nmodel name\t: Héron 4 (TM) @ 2 GHz\nmodel\t\t: 7\nmodel name\t: Other\n",
            "Héron 4 (TM) @ 2 GHz",
        ),
        ("processor\t: 0\nold model name: Héron\n", "of a maker"),
        (None, "of a maker"),
    ],
    ids=["its name", "no name", "no file"],
)
def test_a_cpu_is_named_as_linux_does(monkeypatch, tmp_path, cpuinfo, name):
    """From /proc/cpuinfo; else by the platform's name, or by the architecture."""
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo, "utf-8")
    files = {"/proc/cpuinfo": tmp_path / "cpuinfo"}
    monkeypatch.setattr(environment, "Path", files.__getitem__)
    monkeypatch.setattr(platform, "processor", lambda: "of a maker")
    monkeypatch.setattr(platform, "machine", lambda: "abacus")

    assert processor(CPU) == name

    monkeypatch.setattr(platform, "processor", str)
    assert processor(CPU) == ("abacus" if name == "of a maker" else name)


@pytest.mark.parametrize(("built", "name"), [("CPU capability usage: AVX9\nand more", "AVX9"), ("nothing", "CPU")])
def test_describe_returns_every_entry_in_full(monkeypatch, built, name):
    """By name, with its value."""
    monkeypatch.setattr(torch.__config__, "show", lambda: f"PyTorch built with:\n  - {built}")
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    monkeypatch.setattr(platform, "system", lambda: "Plan 9")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    assert describe(CPU) == {
        "python": f"{platform.python_version()} on Plan 9",
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "numpy": version("numpy"),
        "device": f"cpu (abacus {name})",
        "threads": str(torch.get_num_threads()),
        "dtype": "float32",
        "matmul": "float32 at highest precision",
        "cudnn": "deterministic False, benchmark False",
        "cublas": "CUBLAS_WORKSPACE_CONFIG unset",
        "algorithms": "any",
    }
