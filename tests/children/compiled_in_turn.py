"""Compile and compute under several CPU capabilities: ``python -m tests.children.compiled_in_turn avx2 default``.

Each capability has a process of its own, which writes its results, or its error, as JSON into a file of that name. They
run one after the other, like machines that share a cache directory; torch reads the capability at its first operator.
"""

import json
import os
import sys
import traceback
from multiprocessing import Process
from pathlib import Path
from typing import Any

import torch


def second_moment(beta2: float) -> list[float]:
    """Compute a second moment, in which one operator takes a number as a tensor and another as it is."""
    step = torch.compile(lambda v, g: (v * beta2).addcmul(g, g, value=1 - beta2))
    return step(torch.ones(2), torch.full((2,), 2.0)).tolist()


def compute(capability: str) -> None:
    """Compile and compute under this capability."""
    os.environ["ATEN_CPU_CAPABILITY"] = capability
    answer: dict[str, Any] = {}
    try:
        answer["exponentials"] = torch.compile(torch.exp)(torch.linspace(-1, 1, 64)).tolist()
        answer["second moments"] = [second_moment(beta2) for beta2 in (0.5, 0.75, 0.875)]
    except Exception:  # noqa: BLE001
        answer["error"] = traceback.format_exc()
    Path(capability).write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    for capability in sys.argv[1:]:
        process = Process(target=compute, args=(capability,))
        process.start()
        process.join()
