"""Compute a certificate in two processes that split the seeds: ``python -m tests.children.sharded_ensemble``, twice.

Each process saves its result as ``RANK.pt`` in the working directory.
"""

import os

import torch
from lightning.fabric import Fabric

from simplenet import certify


def main() -> None:
    """Connect to the other process, certify and save."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    certificate = certify(fabric, "overview", batch_size=3, steps=60, seeds=1101, confidence=0.9, compiled=False)
    ensemble = certificate.ensemble
    results = [fabric.world_size, ensemble.seeds, ensemble.solved_at, ensemble.loss, ensemble.weights]
    torch.save(results, f"{fabric.global_rank}.pt")
    # torch sometimes aborts a process that exits inside its group, and under torch 2.5 leaving the group may hang.
    os._exit(0)


if __name__ == "__main__":
    main()
