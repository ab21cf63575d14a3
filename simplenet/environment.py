"""Where a run happens: the versions, the device and the flags that a result may depend on.

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

# Its major and minor version, for what a torch does not have yet.
TORCH = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])


def resolve_device(name: str = "auto") -> torch.device:
    """Find a device by name.

    Args:
        name: ``auto`` (CUDA where there is one, else the CPU), or what torch calls it:
            ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        TypeError: If ``name`` is not a ``str``.
        ValueError: If there is no such device here.
    """
    check_type("device", name, str)
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        here.append("mps")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in here and f"{name}:0" not in here:
        raise ValueError(f"device is {shown(name)}, but should be auto or one of those here: {', '.join(here)}")
    return torch.device(name)


def autocasts(device: torch.device) -> bool:
    """Whether an autocast region of this type of device is entered."""
    if TORCH < (2, 4):  # it has a function for each type
        return torch.is_autocast_cpu_enabled() if device.type == "cpu" else torch.is_autocast_enabled()
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def processor(device: torch.device) -> str:
    """Name the CPU or the GPU as its maker does, where the system says."""
    check_type("device", device, torch.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", about.read_text("utf-8"), re.MULTILINE) if about.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def describe(device: torch.device) -> dict[str, str]:
    """Describe the software, the device and the numerical flags, an entry each."""
    check_type("device", device, torch.device)
    # What torch's kernels use of the CPU decides their roundings.
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
