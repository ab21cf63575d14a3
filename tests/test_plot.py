"""Pictures of a run, where no other test draws them."""

from pathlib import Path

import pytest
import torch

from simplenet import SimpleNet, TrainingRun, xor
from simplenet.plot import plot_run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_run_is_drawn_in_the_type_that_it_was_trained_in(tmp_path, dtype):
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        run = TrainingRun(SimpleNet(), xor()[1], [1.0, 0.5], 2, 1.0, Path("checkpoint"), "budget", None)

        plot_run(run, tmp_path / "run.png")
    finally:
        torch.set_default_dtype(default)

    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
