"""What a run looks like: the loss as it fell, the surface that was learned, the seeds that learned it."""

import io
from collections.abc import Sequence
from pathlib import Path

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


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be written, before the work that it would show.

    Raises:
        TypeError: If it is not a ``Path``.
        ValueError: If its directory is missing, or matplotlib does not know its format.
    """
    check_type("plot", path, Path)
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(f"plot is '{path}', but should end in one of {', '.join(sorted(formats))}")
    if not path.parent.is_dir():
        raise ValueError(f"plot is '{path}', but should lie in a directory that exists")


def plot_run(run: TrainingRun, path: Path) -> None:
    """Draw the loss curve and the decision surface side by side.

    Args:
        run: A finished run.
        path: The picture to write; its suffix names the format, as matplotlib knows them.

    Raises:
        TypeError: If an argument is of the wrong type.
        OSError: If the file cannot be written.
    """
    check_type("run", run, TrainingRun)
    check_type("path", path, Path)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"SimpleNet ({run.net.hparams['architecture']}) on XOR: MSE {run.mse:.2g} after {run.steps:,} steps"
    )
    loss_axes, surface_axes = figure.subplots(1, 2, width_ratios=(1.3, 1))

    losses = np.array(run.losses)
    steps = np.arange(run.steps - len(losses) + 1, run.steps + 1)
    loss_axes.semilogy(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.6, label="batch")
    if len(losses) >= _ROWS:
        mean = np.convolve(losses, np.full(_ROWS, 1 / _ROWS), mode="valid")
        loss_axes.semilogy(steps[_ROWS - 1 :], mean, color="tab:blue", label=f"mean of {_ROWS} steps")
    loss_axes.set(xlabel="training step", ylabel="MSE", title="loss")
    loss_axes.grid(visible=True, alpha=0.3)
    loss_axes.legend()

    low, high = -0.25, 1.25
    colours = {"cmap": "RdBu_r", "vmin": low, "vmax": high}
    ticks = np.linspace(low, high, 151, dtype=np.float32)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    with torch.no_grad():
        surface = run.net(torch.from_numpy(grid).to(run.predictions)).squeeze(-1).numpy()
    image = surface_axes.imshow(surface, origin="lower", extent=(low, high, low, high), **colours)
    surface_axes.contour(ticks, ticks, surface, levels=[0.5], colors="black", linewidths=1.2)
    inputs, targets = (rows.numpy() for rows in xor())
    surface_axes.scatter(*inputs.T, c=targets.flatten(), edgecolors="black", s=90, zorder=2, **colours)
    surface_axes.set(xlabel="first input", ylabel="second input", xticks=(0, 1), yticks=(0, 1))
    surface_axes.set(title="prediction (line: 1/2; points: targets)")
    figure.colorbar(image, ax=surface_axes)
    _save(figure, path)


def plot_certificates(certificates: Sequence[Certificate], path: Path) -> None:
    """Draw the fraction of seeds that XOR is solved by against the step, with its band.

    Args:
        certificates: One for each curve, of the same batch size and number of steps.
        path: The picture to write, as for ``plot_run``.

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
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for certificate in certificates:
        solved_at = certificate.ensemble.solved_at[certificate.ensemble.solved]
        steps = np.unique(np.append(solved_at.numpy(), [0, certificate.steps]))
        counts = np.searchsorted(np.sort(solved_at.numpy()), steps, side="right")
        # The band holds at each step with the certificate's confidence, half of the doubt on either side.
        confidence = (1 + certificate.confidence) / 2
        band = np.array([clopper_pearson(int(count), certificate.seeds, confidence) for count in counts])
        label = f"{certificate.network}: {certificate.solved:,} of {certificate.seeds:,}"
        (line,) = axes.step(steps, counts / certificate.seeds, where="post", label=label)
        axes.fill_between(steps, band[:, 0], band[:, 1], step="post", color=line.get_color(), alpha=0.25, linewidth=0)
    first = certificates[0]
    axes.set(xlim=(0, first.steps), ylim=(-0.02, 1.02), xlabel="training step", ylabel="fraction of seeds")
    axes.set(
        title=f"Seeds that have solved XOR for good, batch {first.batch_size} (band: {100 * first.confidence:g} %)"
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="center right")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix("."), dpi=120)
    write_file(path, picture.getvalue())
