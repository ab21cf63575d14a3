"""The environment of a run: the versions, the device and the flags that a result may depend on.

References:
    The notebook, §2.2 and §2.3.
"""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

from simplenet.validation import check_type, shown

# torch's major and minor version.
TORCH = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])


def resolve_device(name: str = "auto") -> torch.device:
    """Find a device by name.

    Args:
        name: ``auto`` (CUDA if it is available, else the CPU), or torch's name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        TypeError: If ``name`` is not a ``str``.
        ValueError: If there is no such device.
    """
    check_type("device", name, str)
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in available and f"{name}:0" not in available:
        raise ValueError(f"device is {shown(name)}, but should be auto or an available device: {', '.join(available)}")
    return torch.device(name)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is enabled for this type of device."""
    if TORCH < (2, 4):  # a function for each type of device
        return torch.is_autocast_cpu_enabled() if device.type == "cpu" else torch.is_autocast_enabled()
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def processor(device: torch.device) -> str:
    """Return the model name of the CPU or the GPU, if the system reports it."""
    check_type("device", device, torch.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text("utf-8"), re.MULTILINE) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def describe(device: torch.device) -> dict[str, str]:
    """Describe the software, the device and the numerical flags, one entry for each."""
    check_type("device", device, torch.device)
    # The CPU instructions that torch's kernels use decide how they round.
    capability = re.search(r"CPU capability usage: (.*)", torch.__config__.show())
    name = f"{platform.machine()} {capability[1] if capability else 'CPU'}"
    if device.type == "cuda":
        name = processor(device)
    return {
        "python": f"{platform.python_version()} on {platform.system()}",
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "numpy": version("numpy"),
        "device": f"{device} ({name})",
        "threads": str(torch.get_num_threads()),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "matmul": f"float32 at {torch.get_float32_matmul_precision()} precision",
        "cudnn": f"deterministic {torch.backends.cudnn.deterministic}, benchmark {torch.backends.cudnn.benchmark}",
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG", "CUBLAS_WORKSPACE_CONFIG unset"),
        "algorithms": "deterministic only" if torch.are_deterministic_algorithms_enabled() else "any",
    }
