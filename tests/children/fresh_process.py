"""Train networks and draw from DataLoader workers: ``python -m tests.children.fresh_process DEVICE`` prints JSON.

One process computes everything, because starting a process takes longest. A spawned worker imports this module again,
so modules that a worker does not need are imported later.
"""

import json
import multiprocessing
import random
import sys
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

# The runs to compare between processes: seed, architecture, batch size, steps.
TRAINED = [(1996, "overview", 1, 100), (0, "derivation", 4, 10), (2**32 - 1, "listing", 3, 7)]

# The seeds, epochs, workers, draws and generators of the worker tests; the first seed is repeated at the end.
SEEDS = (7, 8, 7)
EPOCHS = 2
WORKERS = 2
DRAWS = 4
GENERATORS = ("torch", "numpy", "random")

START_METHODS = [name for name in ("fork", "spawn") if name in multiprocessing.get_all_start_methods()]


def trained_weights(device: torch.device | str, seed: int, architecture: str, batch_size: int, steps: int) -> Tensor:
    """Seed, build and train; return all parameters as one vector."""
    from simplenet import SimpleNet, mse_loss, set_seed, xor_dataloader

    set_seed(seed)
    net = SimpleNet(architecture).to(device)  # type: ignore[arg-type] # one of them
    optimizer = net.configure_optimizers()
    while steps > 0:
        for inputs, targets in xor_dataloader(batch_size):
            if steps > 0:
                optimizer.zero_grad()
                mse_loss(net(inputs.to(device)), targets.to(device)).backward()
                optimizer.step()
                steps -= 1
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


class Drawn(Dataset[Tensor]):
    """Rows of random numbers that are drawn when they are fetched, one from each generator."""

    def __len__(self) -> int:
        return WORKERS * DRAWS

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([torch.rand(()).item(), np.random.random(), random.random()], dtype=torch.float64)  # noqa: NPY002


def loader(start_method: str) -> DataLoader[Tensor]:
    """Make a loader with workers."""
    return DataLoader(Drawn(), batch_size=1, num_workers=WORKERS, multiprocessing_context=start_method)


def streams(batches: Iterable[Tensor]) -> list[dict[str, list[float]]]:
    """Sort an epoch's batches by worker, which alternate, and by generator."""
    rows = torch.cat(list(batches))
    return [dict(zip(GENERATORS, rows[worker::WORKERS].T.tolist(), strict=True)) for worker in range(WORKERS)]


def streams_under_torch(seed: int, start_method: str, epochs: int) -> list[list[dict[str, list[float]]]]:
    """Draw in a loop over the loader; return an entry for each epoch and worker."""
    from simplenet import set_seed

    set_seed(seed)
    rows = loader(start_method)
    return [streams(rows) for _ in range(epochs)]


def streams_under_lightning(seed: int, start_method: str, epochs: int) -> list[list[dict[str, list[float]]]]:
    """Draw in ``Trainer.fit``, which seeds the workers differently."""
    from lightning.pytorch import Trainer

    from simplenet import SimpleNet, set_seed, xor

    class Listener(SimpleNet):
        def training_step(self, batch: Tensor, _: int) -> Tensor:  # type: ignore[override]
            drawn.append(batch)
            return super().training_step(xor())

    drawn: list[Tensor] = []
    set_seed(seed)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Listener(), loader(start_method))
    size = len(drawn) // epochs
    return [streams(drawn[epoch * size :][:size]) for epoch in range(epochs)]


def main(device: str) -> None:
    """Compute and print everything."""
    answers = {
        "trained": [trained_weights(device, *run).tolist() for run in TRAINED],
        "started": {name: streams_under_torch(SEEDS[0], name, epochs=1) for name in START_METHODS},
    }
    if "fork" in START_METHODS:
        answers["torch"] = [streams_under_torch(seed, "fork", EPOCHS) for seed in SEEDS]
        answers["lightning"] = [streams_under_lightning(seed, "fork", EPOCHS) for seed in SEEDS]
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
