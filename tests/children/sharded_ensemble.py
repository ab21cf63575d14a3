"""A certificate of two processes that share the seeds out: ``python -m tests.children.sharded_ensemble``, twice.

Each saves what it has as its rank and ``.pt`` in the working directory.
"""

import os

import torch
from lightning.fabric import Fabric

from simplenet import certify


def main() -> None:
    """Meet the other process, certify and save."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    certificate = certify(fabric, "overview", batch_size=3, steps=60, seeds=1101, confidence=0.9, compiled=False)
    ensemble = certificate.ensemble
    results = [fabric.world_size, ensemble.seeds, ensemble.solved_at, ensemble.loss, ensemble.weights]
    torch.save(results, f"{fabric.global_rank}.pt")
    # To end inside its group aborts a process now and then, and to leave it first may take for ever under torch 2.5.
    os._exit(0)


if __name__ == "__main__":
    main()
