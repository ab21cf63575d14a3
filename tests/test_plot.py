"""Pictures of a run, where no other test draws them."""

from pathlib import Path

import pytest
import torch

from simplenet import Certificate, SimpleNet, TrainingRun, clopper_pearson, ensemble, plot, xor
from simplenet.plot import plot_certificates, plot_run


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Draw a picture and return its figure, in place of writing it."""

    def draw(function, *arguments):
        figures = []
        monkeypatch.setattr(plot, "_save", lambda one, _: figures.append(one))
        function(*arguments, tmp_path / "picture.png")
        return figures[0]

    return draw


def test_the_picture_of_a_certificate_shows_the_fraction_its_band_and_all_steps(figure):
    """At each step the seeds solved by then, and what Clopper and Pearson have for half of the doubt on either side."""
    solved_at = [3, 3, 50, 90, ensemble.NEVER]
    n = len(solved_at)
    result = ensemble.Ensemble(torch.arange(n), torch.tensor(solved_at), torch.zeros(n), torch.zeros(n, 17), None)
    certificate = Certificate("overview", 4, 120, 0.9, result)

    (axes,) = figure(plot_certificates, [certificate]).axes

    (line,), (band,) = axes.get_lines(), axes.collections
    counts = {0: 0, 3: 2, 50: 3, 90: 4, 120: 4}
    assert dict(zip(*(values.tolist() for values in line.get_data()), strict=True)) == {
        step: count / n for step, count in counts.items()
    }
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    for step, count in counts.items():
        assert {(step, bound) for bound in clopper_pearson(count, n, 0.95)} <= corners
    assert axes.get_xlim() == (0, 120)
    bottom, top = axes.get_ylim()
    assert bottom < 0
    assert top > 1
    assert line.get_label() == "overview: 4 of 5"
    assert "batch 4 (band: 90 %)" in axes.get_title()


@pytest.mark.parametrize("losses", [6, 4, 3])
def test_the_picture_of_a_run_shows_its_losses_their_mean_and_the_surface(figure, losses):
    """The losses at the steps that they are of, after a resume too; the score over both inputs, and where it is 1/2."""
    values = [2.0**-i for i in range(losses)]
    torch.manual_seed(1996)
    net = SimpleNet()
    run = TrainingRun(net, xor()[1], values, 10, 1.0, Path("checkpoint"), "budget", None)

    loss_axes, surface_axes, _ = figure(plot_run, run).axes

    batch, *means = loss_axes.get_lines()
    assert list(zip(*batch.get_data(), strict=True)) == [(10 - losses + 1 + i, value) for i, value in enumerate(values)]
    expected = [(10 - losses + i + 1, sum(values[i - 3 : i + 1]) / 4) for i in range(3, losses)]
    assert [list(zip(*mean.get_data(), strict=True)) for mean in means] == ([expected] if expected else [])
    (image,) = surface_axes.images
    surface, (left, right, bottom, top) = image.get_array(), image.get_extent()
    assert (left, right, bottom, top) == (-0.25, 1.25, -0.25, 1.25)
    assert image.origin == "lower"
    for a, b in [(0, 0), (0, 1), (1, 0), (1, 1), (1.25, -0.25)]:
        row, column = (round((value + 0.25) / 1.5 * 150) for value in (b, a))
        with torch.no_grad():
            score = net(torch.tensor([float(a), float(b)])).item()
        # A tick is off by a rounding, the slope is below 4, and either score takes fewer than 32 roundings.
        assert abs(surface[row, column] - score) < 2.0**-18, f"score of {a}, {b}"
    lines = [collection for collection in surface_axes.collections if hasattr(collection, "levels")]
    assert [line.levels.tolist() for line in lines] == [[0.5]]
    points = [
        c.get_offsets().tolist()
        for c in surface_axes.collections
        if not hasattr(c, "levels") and len(c.get_offsets()) == 4
    ]
    assert points == [xor()[0].tolist()]


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
