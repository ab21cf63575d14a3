"""What it costs to be handed a batch: by a DataLoader, or from a list made beforehand.  A step is a batch."""

import pytest
import torch

from simplenet import xor_dataloader

pytestmark = pytest.mark.benchmark(group="loader", max_time=0.5)


@pytest.mark.parametrize("batch_size", [1, 4], ids="batch={}".format)
@pytest.mark.parametrize("strategy", ["dataloader", "pre-batched"])
def test_an_epoch_of_batches(clock, strategy, batch_size):
    loader = xor_dataloader(batch_size)
    batches = loader if strategy == "dataloader" else [tuple(batch) for batch in loader]
    for served, expected in zip(batches, xor_dataloader(batch_size), strict=True):
        assert all(map(torch.equal, served, expected))

    def epoch():
        for _ in batches:
            pass

    clock(epoch, torch.device("cpu"), strategy=strategy, steps=len(loader), rows=batch_size)
