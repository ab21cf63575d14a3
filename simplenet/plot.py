"""Plots: the loss curve and the decision surface of a run, and the fraction of seeds solved by step."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simplenet.certificate import Certificate, clopper_pearson
from simplenet.data import xor
from simplenet.files import write_file
from simplenet.training import TrainingRun
from simplenet.validation import check_type, refuse_type

_ROWS = 4

# The style of the plots; the functions hold their content. Figure sizes are in inches, all others in points.
_RUN: dict[str, Any] = {"figsize": (10, 4.2), "layout": "constrained"}
_RUN_AXES: dict[str, Any] = {"width_ratios": (1.3, 1)}
_CERTIFICATES: dict[str, Any] = {"figsize": (8, 4.5), "layout": "constrained"}
_FILE: dict[str, Any] = {"dpi": 120}
_GRID: dict[str, Any] = {"visible": True, "alpha": 0.3}
_BATCH: dict[str, Any] = {"color": "tab:blue", "alpha": 0.3, "linewidth": 0.6}
_MEAN: dict[str, Any] = {"color": "tab:blue"}
_SCORES: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -0.25, "vmax": 1.25}
_BOUNDARY: dict[str, Any] = {"colors": "black", "linewidths": 1.2}
_POINTS: dict[str, Any] = {"edgecolors": "black", "s": 90, "zorder": 2}
_BAND: dict[str, Any] = {"alpha": 0.25, "linewidth": 0}
_LEGEND: dict[str, Any] = {"loc": "center right"}

# The square over which the surface is drawn, and the points along a side.
_LOW, _HIGH, _POINTS_A_SIDE = -0.25, 1.25, 151


def check_picture(path: Path) -> None:
    """Refuse a plot that could not be written, before any work is done.

    Raises:
        TypeError: If it is not a ``Path``.
        ValueError: If its directory is missing, or matplotlib does not know its format.
    """
    check_type("plot", path, Path)
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(f"plot is '{path}', but should end in one of {', '.join(sorted(formats))}")
    if not path.parent.is_dir():
        raise ValueError(f"plot is '{path}', but should be in a directory that exists")


def plot_run(run: TrainingRun, path: Path) -> None:
    """Draw the loss curve and the decision surface side by side.

    Args:
        run: A finished run.
        path: The image file to write; its suffix is a format of matplotlib.

    Raises:
        TypeError: If an argument is of the wrong type.
        OSError: If the file cannot be written.
    """
    check_type("run", run, TrainingRun)
    check_type("path", path, Path)
    figure = Figure(**_RUN)
    figure.suptitle(
        f"SimpleNet ({run.net.hparams['architecture']}) on XOR: MSE {run.mse:.2g} after {run.steps:,} steps"
    )
    loss_axes, surface_axes = figure.subplots(1, 2, **_RUN_AXES)

    losses = np.array(run.losses)
    steps = np.arange(run.steps - len(losses) + 1, run.steps + 1)
    loss_axes.semilogy(steps, losses, label="batch", **_BATCH)
    if len(losses) >= _ROWS:
        mean = np.convolve(losses, np.full(_ROWS, 1 / _ROWS), mode="valid")
        loss_axes.semilogy(steps[_ROWS - 1 :], mean, label=f"mean of {_ROWS} steps", **_MEAN)
    loss_axes.set(xlabel="training step", ylabel="MSE", title="loss")
    loss_axes.grid(**_GRID)
    loss_axes.legend()

    ticks = np.linspace(_LOW, _HIGH, _POINTS_A_SIDE)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    with torch.no_grad():
        # matplotlib multiplies the numbers of a diverged run, and NumPy has no bfloat16.
        surface = run.net(torch.from_numpy(grid).to(run.predictions)).squeeze(-1).double().numpy()
    image = surface_axes.imshow(surface, origin="lower", extent=(_LOW, _HIGH, _LOW, _HIGH), **_SCORES)
    surface_axes.contour(ticks, ticks, surface, levels=[0.5], **_BOUNDARY)
    inputs, targets = (rows.double().numpy() for rows in xor())
    surface_axes.scatter(*inputs.T, c=targets.flatten(), **_POINTS, **_SCORES)
    surface_axes.set(xlabel="first input", ylabel="second input", xticks=(0, 1), yticks=(0, 1))
    surface_axes.set(title="prediction (line: 1/2; points: targets)")
    figure.colorbar(image)
    _save(figure, path)


def plot_certificates(certificates: Sequence[Certificate], path: Path) -> None:
    """Draw the fraction of seeds that solve XOR against the step, with a confidence band.

    Args:
        certificates: One for each curve, of the same batch size and number of steps.
        path: The image file to write, as for ``plot_run``.

    Raises:
        TypeError: If an argument is of the wrong type.
        OSError: If the file cannot be written.
        ValueError: If there is no certificate.
    """
    if not isinstance(certificates, Sequence):
        raise refuse_type("certificates", certificates, "a sequence of certificates")
    for i, certificate in enumerate(certificates):
        check_type(f"certificates[{i}]", certificate, Certificate)
    if not certificates:
        raise ValueError("certificates has length 0, but should have a length of at least 1")
    check_type("path", path, Path)
    figure = Figure(**_CERTIFICATES)
    axes = figure.subplots()
    for certificate in certificates:
        solved_at = certificate.ensemble.solved_at[certificate.ensemble.solved]
        steps = np.unique(np.append(solved_at.numpy(), [0, certificate.steps]))
        counts = np.searchsorted(np.sort(solved_at.numpy()), steps, side="right")
        # At each step the band has the certificate's confidence, with equal error probabilities on both sides.
        confidence = (1 + certificate.confidence) / 2
        band = np.array([clopper_pearson(int(count), certificate.seeds, confidence) for count in counts])
        label = f"{certificate.network}: {certificate.solved:,} of {certificate.seeds:,}"
        axes.step(steps, counts / certificate.seeds, where="post", label=label)
        axes.fill_between(steps, band[:, 0], band[:, 1], step="post", **_BAND)
    first = certificates[0]
    axes.set(xlim=(0, first.steps), ylim=(-0.02, 1.02), xlabel="training step", ylabel="fraction of seeds")
    axes.set(title=f"Seeds that have solved XOR for good, batch {first.batch_size} (band: {first.percent})")
    axes.grid(**_GRID)
    axes.legend(**_LEGEND)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix("."), **_FILE)
    write_file(path, picture.getvalue())
