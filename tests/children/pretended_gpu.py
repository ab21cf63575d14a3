"""Simulate a GPU, collect the suite, and train on the CPU.

tests/test_devices.py runs it in a new process, because Lightning and torch cache the available devices.
"""

import sys
import tempfile
import warnings
from types import SimpleNamespace

import pytest
import torch

torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.is_current_stream_capturing = lambda: False
if hasattr(torch, "accelerator"):  # whose stream an optimizer asks from torch 2.14 on
    torch.accelerator.current_stream = lambda: SimpleNamespace(is_capturing=lambda: False)  # type: ignore[assignment, misc]
torch.cuda.get_device_name = lambda device=None: "a simulated GPU"  # noqa: ARG005
torch.cuda.get_device_capability = lambda device=None: (9, 0)  # noqa: ARG005


def collect(*options: str) -> None:
    """Collect the suite, as ``pytest`` does with these options; print its exit status."""
    status = pytest.main(["--collect-only", "-qq", "-p", "no:randomly", *options])
    sys.stdout.write(f"collected with {options}: {status!r}\n")


def train_on_the_cpu() -> None:
    """Train for two epochs on the CPU; print the warnings about GPUs."""
    from simplenet import SimpleNet, XORDataModule, train

    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(SimpleNet(), XORDataModule(), max_epochs=2, device="cpu", checkpoint_dir=directory)
    messages = [str(warning.message) for warning in caught]
    sys.stdout.write(f"warnings: {[message for message in messages if 'GPU' in message]}\n")


if __name__ == "__main__":
    train_on_the_cpu()
    for chosen in sys.argv[1:]:
        collect(*chosen.split())
