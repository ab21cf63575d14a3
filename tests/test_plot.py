"""The plots of runs and of certificates."""

import math
from pathlib import Path

import pytest
import torch
from matplotlib import colors

from simplenet import SimpleNet, TrainingRun, clopper_pearson, ensemble, mse_loss, plot, xor
from simplenet.plot import check_picture, plot_certificates, plot_run
from simplenet.testing.settings import default_dtype
from simplenet.testing.strategies import skip_where_missing
from tests.certificates import certificate


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Return a function that plots and returns the figure instead of writing it."""

    def draw(function, *arguments):
        figures = []
        monkeypatch.setattr(plot, "_save", lambda one, _: figures.append(one))
        function(*arguments, tmp_path / "picture.png")
        return figures[0]

    return draw


def texts(axes):
    """Return the texts of axes."""
    legend = axes.get_legend()
    return {
        "title": axes.get_title(),
        "x": axes.get_xlabel(),
        "y": axes.get_ylabel(),
        "legend": [text.get_text() for text in legend.get_texts()] if legend else [],
    }


def test_the_plot_of_a_certificate_shows_the_fraction_its_band_and_all_steps(figure):
    """At each step: the fraction solved by then, and its Clopper-Pearson bounds (half the error probability each)."""
    solved_at = [3, 3, 50, 90, ensemble.NEVER]
    n = len(solved_at)

    (axes,) = figure(plot_certificates, [certificate(solved_at, steps=120, confidence=0.9)]).axes

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
    assert texts(axes) == {
        "title": "Seeds that have solved XOR for good, batch 4 (band: 90 %)",
        "x": "training step",
        "y": "fraction of seeds",
        "legend": ["overview: 4 of 5"],
    }


def test_the_plot_of_certificates_has_a_curve_and_a_band_for_each(figure):
    """The title and the limits are those of the first certificate."""
    made = [certificate([3, ensemble.NEVER], steps=120, confidence=0.9), certificate([40] * 1200, steps=50, hidden=2)]

    (axes,) = figure(plot_certificates, made).axes

    lines, bands = axes.get_lines(), axes.collections
    colours = [colors.to_rgb(line.get_color()) for line in lines]
    assert colours[0] != colours[1]
    assert [tuple(band.get_facecolor()[0, :3]) for band in bands] == colours
    assert all(band.get_alpha() < 1 for band in bands), "a band is opaque"
    # A count is valid from its step on: the first corner after a step is at its height, not at the next one's.
    assert [line.get_drawstyle() for line in lines] == ["steps-post"] * 2
    corners = bands[0].get_paths()[0].vertices.tolist()
    assert [3, clopper_pearson(0, 2, 0.95)[0]] in corners
    assert axes.get_xlim() == (0, 120)
    assert texts(axes)["legend"] == ["overview: 1 of 2", "overview 2-2-1: 1,200 of 1,200"]
    assert texts(axes)["title"].endswith("(band: 90 %)")


@pytest.mark.parametrize("solved_at", [3, ensemble.NEVER])
def test_fractions_are_plotted_on_the_scale_from_0_to_1(figure, solved_at):
    """Which takes nearly all of the height."""
    (axes,) = figure(plot_certificates, [certificate([solved_at] * 1000, steps=9, confidence=0.9)]).axes

    bottom, top = axes.get_ylim()
    assert bottom < 0
    assert 1 < top < bottom + 1 / 0.95


@pytest.mark.parametrize("losses", [6, 4, 3])
def test_the_plot_of_a_run_shows_its_losses_their_mean_and_the_surface(figure, losses):
    """Each loss at its step, also after a resume; the predictions over both inputs, and the line where they are 1/2."""
    values = [2.0**-i for i in range(losses)]
    torch.manual_seed(1996)
    net = SimpleNet()
    run = TrainingRun(net, xor()[1], values, 1010, 1.0, Path("checkpoint"), "budget", None)

    drawn = figure(plot_run, run)

    loss_axes, surface_axes, scale = drawn.axes
    assert drawn.get_suptitle() == f"SimpleNet (overview) on XOR: MSE {run.mse:.2g} after 1,010 steps"
    mean_label = ["mean of 4 steps"] if losses >= 4 else []
    assert texts(loss_axes) == {"title": "loss", "x": "training step", "y": "MSE", "legend": ["batch", *mean_label]}
    assert loss_axes.get_yscale() == "log"
    assert texts(surface_axes) == {
        "title": "prediction (line: 1/2; points: targets)",
        "x": "first input",
        "y": "second input",
        "legend": [],
    }
    assert surface_axes.get_xticks().tolist() == surface_axes.get_yticks().tolist() == [0, 1]
    assert scale.get_ylim() == (-0.25, 1.25)

    batch, *means = loss_axes.get_lines()
    assert all(batch.get_alpha() < (mean.get_alpha() or 1) for mean in means), "the mean is hard to see"
    assert {colors.to_rgb(line.get_color()) for line in means} <= {colors.to_rgb(batch.get_color())}
    assert list(zip(*batch.get_data(), strict=True)) == [
        (1010 - losses + 1 + i, value) for i, value in enumerate(values)
    ]
    expected = [(1010 - losses + i + 1, sum(values[i - 3 : i + 1]) / 4) for i in range(3, losses)]
    assert [list(zip(*mean.get_data(), strict=True)) for mean in means] == ([expected] if expected else [])
    (image,) = surface_axes.images
    surface, (left, right, bottom, top) = image.get_array(), image.get_extent()
    assert (left, right, bottom, top) == (-0.25, 1.25, -0.25, 1.25)
    assert image.origin == "lower"
    for a, b in [(0, 0), (0, 1), (1, 0), (1, 1), (1.25, -0.25)]:
        row, column = (round((value + 0.25) / 1.5 * 150) for value in (b, a))
        with torch.no_grad():
            score = net(torch.tensor([float(a), float(b)])).item()
        # A tick has one rounding, the slope is below 4, and a prediction has fewer than 32 roundings.
        assert abs(surface[row, column] - score) < 2.0**-18, f"score of {a}, {b}"
    lines = [collection for collection in surface_axes.collections if hasattr(collection, "levels")]
    assert [line.levels.tolist() for line in lines] == [[0.5]]
    (points,) = [
        collection
        for collection in surface_axes.collections
        if not hasattr(collection, "levels") and len(collection.get_offsets()) == 4
    ]
    assert points.get_offsets().tolist() == xor()[0].tolist()
    assert points.get_array().tolist() == xor()[1].flatten().tolist()
    assert (points.norm.vmin, points.norm.vmax) == (-0.25, 1.25)
    # Black, to be visible on every colour of the surface.
    assert colors.to_rgb(lines[0].get_edgecolor()[0]) == colors.to_rgb(points.get_edgecolor()[0]) == (0, 0, 0)
    boundary = lines[0].get_paths()[0].vertices
    with torch.no_grad():
        scores = net(torch.tensor(boundary, dtype=torch.float32)).flatten()
    # Between two ticks, 1/100 apart, the line is straight, and the slope is below 4: the error is less than 1/25.
    assert len(boundary) > 0
    assert (scores - 0.5).abs().max() < 1 / 25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_run_is_plotted_in_the_dtype_of_its_training(tmp_path, dtype):
    """Also if it diverged: the largest weights give predictions that are almost too large for the dtype, or NaN."""
    skip_where_missing(lambda one: mse_loss(one, one), dtype, torch.device("cpu"))
    with default_dtype(dtype):
        for factor in (1.0, 1e38, math.inf):
            torch.manual_seed(1996)
            net = SimpleNet()
            net.output_layer.weight.data *= factor
            run = TrainingRun(net, xor()[1], [1.0, 0.5], 2, 1.0, Path("checkpoint"), "budget", None)

            plot_run(run, tmp_path / f"{factor}.png")

            assert (tmp_path / f"{factor}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "beginning"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("A.B.SVG", b"<?xml")])
def test_the_suffix_of_a_plot_selects_its_format(tmp_path, name, beginning):
    """Also in capitals."""
    path = tmp_path / name
    check_picture(path)

    plot_certificates([certificate([3], steps=9)], path)

    assert path.read_bytes().startswith(beginning)


@pytest.mark.parametrize("name", ["a", "a.docx", "png", "a.png.docx"])
def test_a_plot_of_an_unknown_format_is_refused_by_name(tmp_path, name):
    path = tmp_path / name

    with pytest.raises(ValueError, match=r"^plot is ") as refused:
        check_picture(path)

    message, _, formats = str(refused.value).partition(" one of ")
    assert message == f"plot is '{path}', but should end in"
    assert {"pdf", "png", "svg"} <= set(formats.split(", "))
    assert formats.split(", ") == sorted(formats.split(", "))


def test_a_plot_in_a_missing_directory_is_refused_by_name(tmp_path):
    path = tmp_path / "none" / "a.png"

    with pytest.raises(ValueError, match=r"^plot is ") as refused:
        check_picture(path)

    assert str(refused.value) == f"plot is '{path}', but should be in a directory that exists"


@pytest.mark.parametrize(
    ("certificates", "message"),
    [
        (3, "certificates is 3 of type int, but should be a sequence of certificates"),
        ([], "certificates has length 0, but should have a length of at least 1"),
        ([certificate([3], steps=9), 3], "certificates[1] is 3 of type int, but should be a Certificate"),
    ],
    ids=["no sequence", "none", "another"],
)
def test_an_argument_that_is_not_a_certificate_is_refused_by_name(tmp_path, certificates, message):
    with pytest.raises((TypeError, ValueError), match=r"^certificates") as refused:
        plot_certificates(certificates, tmp_path / "a.png")

    assert str(refused.value) == message
