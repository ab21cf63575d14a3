"""The command line: ``simplenet train``, ``predict``, ``certify``, ``check`` and ``info``.

torch and Lightning are imported when a command runs, so that ``--help`` answers at once.
"""

import json
import logging
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from simplenet.files import check_writable, write_file
from simplenet.reference import ARCHITECTURES
from simplenet.signals import EndingSignal, ending_by_exception, kill_children, status
from simplenet.testing.command import check
from simplenet.validation import check_float, check_int

if TYPE_CHECKING:
    from simplenet.certificate import Certificate
    from simplenet.checkpoint import Checkpoint
    from simplenet.data import XORDataModule
    from simplenet.model import Architecture, SimpleNet
    from simplenet.training import TrainingRun

_DEFECT = 3  # the exit status where an error is one of SimpleNet's own
_NAMED, _EXPLAINED = 12, 3  # failed seeds that a certificate lists, and looks into


class _BadInput(click.ClickException):
    exit_code = click.UsageError.exit_code


class _Group(click.Group):
    """Commands that end in one line and status 2 on bad input, and in 128 plus the number of a signal.

    Status 0 and 1 are verdicts: an error of SimpleNet's own ends in status 3, which is Python's 1 otherwise.
    """

    def invoke(self, ctx: click.Context) -> Any:
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings(), ending_by_exception():
                warnings.filterwarnings("ignore", module=r"(lightning|torch)\.")
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            sys.exit(status(signal.SIGINT))
        except EndingSignal as ending:
            sys.exit(ending.status)
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(status(signal.SIGPIPE))
        except (OSError, ValueError) as error:
            raise _BadInput(str(error)) from error
        except Exception:  # noqa: BLE001 - whatever it is, it is no verdict
            traceback.print_exc()
            sys.exit(_DEFECT)
        finally:
            logging.disable(before)


class _Row(click.ParamType):  # type: ignore[type-arg] # generic only in the newest click
    """Two finite numbers with a comma between them."""

    name = "row"

    def convert(self, value: str, _param: click.Parameter | None, _ctx: click.Context | None) -> tuple[float, ...]:
        try:
            row = tuple(float(number) for number in value.split(","))
        except ValueError:
            row = ()
        if len(row) != 2 or not all(map(math.isfinite, row)):  # noqa: PLR2004 - exclusive-or has two inputs
            self.fail(f"{value!r} is not two finite numbers with a comma between them, such as 0,1.")
        return row


_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="simplenet")
def main() -> None:
    """Train the smallest network worth the name, 2-4-1, on exclusive-or."""


main.add_command(check)


@main.command(context_settings={"show_default": True})
@click.option("--architecture", type=click.Choice(list(ARCHITECTURES)), default="overview", help="Which network.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1996, help="Seed of every random generator.")
@click.option("--hidden", type=click.IntRange(1), default=4, help="Width of the hidden layer.")
@click.option("--max-epochs", type=click.IntRange(1), default=3000, help="Passes over the four rows, at most.")
@click.option("--batch-size", type=click.IntRange(1), default=1, help="Rows in a batch.")
@click.option("--lr", type=float, default=0.01, help="Learning rate of Adam.")
@_device
@click.option("--checkpoint-dir", type=click.Path(path_type=Path), default="checkpoints", help="Where checkpoints go.")
@click.option(
    "--resume",
    type=click.Path(exists=True, path_type=Path),
    help="Go on from this checkpoint, or from the newest intact one in this directory.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw loss and decision surface into this picture.")
@click.pass_context
def train(context: click.Context, /, device: str, resume: Path | None, plot: Path | None, **options: Any) -> None:
    """Train on XOR until it is solved, and print the truth table that was learned.

    The first Ctrl-C, SIGTERM or SIGHUP ends the run after the epoch under way, with its state saved; the second
    ends it at once. Each run keeps its newest checkpoint, and removes no file but its own.

    Exit status: 0 when all four rows are right, 1 when not, 2 on bad usage or when a file cannot be written,
    130 on Ctrl-C, 143 on SIGTERM, 129 on SIGHUP.
    """
    _check_plot(plot)

    from simplenet.environment import describe, resolve_device
    from simplenet.training import train as run_training

    environment = describe(resolve_device(device))
    net, data, checkpoint, origin = _start(context, resume, options)
    for name in ("python", "torch", "lightning", "device"):
        click.echo(f"{name:<10} {environment[name]}")
    click.echo(f"network    {net.hparams['architecture']}, {origin}, batch {data.hparams['batch_size']}")
    run = run_training(
        net,
        data,
        max_epochs=options["max_epochs"],
        device=device,
        checkpoint_dir=options["checkpoint_dir"],
        resume=checkpoint,
    )
    click.echo(_report(run))

    def draw(path: Path) -> None:
        from simplenet.plot import plot_run

        plot_run(run, path)

    _write({"plot": (plot, draw)})
    stopped_by = getattr(signal, run.stopped_by, None)
    sys.exit(int(not run.solved) if stopped_by is None else status(stopped_by))


def _check_plot(plot: Path | None) -> None:
    """Refuse a picture that could not be drawn, before the work that it would show."""
    if plot is None:
        return
    if find_spec("matplotlib") is None:
        raise click.UsageError('--plot needs matplotlib, which is not installed: pip install "simplenet[plot]"')
    from simplenet.plot import check_picture

    check_picture(plot)
    _check_writable("plot", plot)


def _check_writable(option: str, path: Path) -> None:
    """Refuse a file that could not be written, before the work that it would keep."""
    try:
        check_writable(path)
    except OSError as error:
        raise click.UsageError(_unwritable(option, path, error)) from None


def _unwritable(option: str, path: Path, error: OSError) -> str:
    return f"--{option} is '{path}', which cannot be written: {error.strerror}"


def _write(files: dict[str, tuple[Path | None, Callable[[Path], None]]]) -> None:
    """Write each file that was asked for, whatever becomes of the others; end in status 2 if one cannot be written."""
    failed = False
    for name, (path, write) in files.items():
        if path is not None:
            try:
                write(path)
                click.echo(f"{name:<10} {path}")
            except OSError as error:
                click.echo(f"Error: {_unwritable(name, path, error)}", err=True)
                failed = True
    if failed:
        sys.exit(_BadInput.exit_code)


def _start(
    context: click.Context, resume: Path | None, options: dict[str, Any]
) -> "tuple[SimpleNet, XORDataModule, Checkpoint | None, str]":
    """Make a network and its data afresh from the options, or as the checkpoint has them."""
    from simplenet.checkpoint import newest_checkpoint, read_checkpoint
    from simplenet.data import XORDataModule
    from simplenet.model import SimpleNet, from_checkpoint
    from simplenet.seeding import set_seed

    if resume is None:
        set_seed(options["seed"])
        net = SimpleNet(options["architecture"], options["hidden"], options["lr"])
        return net, XORDataModule(options["batch_size"]), None, f"seed {options['seed']}"
    for name in ("architecture", "seed", "hidden", "batch_size", "lr"):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            flag = name.replace("_", "-")
            raise click.UsageError(f"--{flag} cannot be combined with --resume: the checkpoint decides it")
    refused: list[str] = []
    if resume.is_dir():
        checkpoint, refused = newest_checkpoint(resume)
    else:
        checkpoint = read_checkpoint(resume, training=True)
    for reason in refused:
        click.echo(f"skipped    {reason}", err=True)
    state = checkpoint.training
    assert state is not None  # noqa: S101 - for mypy: it was asked for
    if options["max_epochs"] <= state.epochs:
        done = f"{state.epochs} done in {checkpoint.path}"
        raise click.UsageError(f"--max-epochs is {options['max_epochs']}, but should be more than the {done}")
    return from_checkpoint(checkpoint), XORDataModule(state.batch_size), checkpoint, f"resumed from {checkpoint.path}"


def _report(run: "TrainingRun") -> str:
    """Lay out the truth table, the verdict and what to do next."""
    from simplenet.data import xor

    inputs, targets = xor()
    rows = zip(inputs.tolist(), targets.flatten().tolist(), run.predictions.flatten().tolist(), run.right, strict=True)
    lines = ["", " a  b  target  prediction"]
    for (a, b), target, prediction, right in rows:
        lines.append(f" {a:g}  {b:g}  {target:6g}  {prediction:10.4f}  {'right' if right else 'wrong'}")
    solved = "solved" if run.solved else "not solved"
    lines += ["", f"{solved} after {run.steps:,} steps in {run.seconds:.1f} s, MSE {run.mse:.6f}"]
    lines += [f"checkpoint {run.checkpoint or 'none'}"]
    listing = run.net.hparams["architecture"] == "listing"
    if listing:
        lines += [
            "The listing can never solve XOR: with no hidden activation it is an affine map under a sigmoid,",
            "one straight line cannot part XOR's rows, and its MSE is never below 1/4.",
        ]
    if run.divergence is not None:
        kept = "no state was saved before" if run.checkpoint is None else "the checkpoint is the last state before"
        lines += [f"Stopped: {run.divergence}; {kept}. Try a smaller --lr."]
    elif run.stopped_by == "budget" and not listing:
        more = "go on with more --max-epochs"
        lines += [f"The epochs are used up; {more}: simplenet train --resume '{run.checkpoint}'"]
    elif run.stopped_by.startswith("SIG"):
        lines += [f"Stopped by {run.stopped_by}; go on with: simplenet train --resume '{run.checkpoint}'"]
    return "\n".join(lines)


@main.command(context_settings={"ignore_unknown_options": True})  # so that -1,0 reads as a row
@click.argument("checkpoint", type=_file)
@click.argument("rows", type=_Row(), nargs=-1, required=True)
def predict(checkpoint: Path, rows: tuple[tuple[float, float], ...]) -> None:
    """Score ROWS such as 0,1 with the network in CHECKPOINT; above 1/2 reads as true."""
    import torch

    from simplenet.model import load_checkpoint

    net = load_checkpoint(checkpoint)
    with torch.no_grad():
        predictions = net(torch.tensor(rows, dtype=net.input_layer.weight.dtype)).flatten().tolist()
    for (a, b), prediction in zip(rows, predictions, strict=True):
        click.echo(f"{a:g},{b:g}  {prediction:.4f}  {str(prediction > 1 / 2).lower()}")


@main.command(context_settings={"show_default": True})
@click.option(
    "--architecture",
    "architectures",
    type=click.Choice(list(ARCHITECTURES)),
    default=["overview"],
    multiple=True,
    help="Which network; may be given again, for a certificate each.",
)
@click.option("--hidden", type=click.IntRange(1), default=4, help="Width of the hidden layer.")
@click.option("--batch-size", type=click.IntRange(1), default=4, help="Rows in a batch.")
@click.option("--steps", type=click.IntRange(1), default=2000, help="Optimizer steps of each network.")
@click.option("--seeds", type=click.IntRange(1, 2**32), default=10_000, help="Train seeds 0, 1, 2, ..., this many.")
@click.option("--target", type=click.FloatRange(0, 1), default=0.99, help="Rate that the bound should clear.")
@click.option(
    "--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.999, help="Of the bound."
)
@_device
@click.option("--devices", type=click.IntRange(1), default=1, help="Devices on each machine; seeds are shared out.")
@click.option("--num-nodes", type=click.IntRange(1), default=1, help="Machines.")
@click.option(
    "--strategy", type=click.Choice(["auto", "ddp"]), default="auto", help="How Lightning Fabric drives the devices."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the fraction solved against the step.")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the figures into this file.")
@click.pass_context
def certify(  # noqa: PLR0913 - an argument for each option
    context: click.Context,
    /,
    *,
    architectures: tuple["Architecture", ...],
    target: float,
    device: str,
    devices: int,
    num_nodes: int,
    strategy: str,
    plot: Path | None,
    record: Path | None,
    **options: Any,
) -> None:
    """Train thousands of seeds and bound the rate at which they solve XOR.

    Exit status: 0 when the bound clears the target for every architecture, 1 when not, 2 on bad usage or
    when a file cannot be written, 130 on Ctrl-C, 143 on SIGTERM, 129 on SIGHUP: there is no certificate
    for a part of the seeds.
    """
    _check_plot(plot)
    if record is not None:
        _check_writable("json", record)

    check_float("target", target, 0.0, 1.0)  # click lets NaN through

    import torch
    from lightning.fabric import Fabric

    from simplenet.certificate import certify as certify_one
    from simplenet.environment import describe, resolve_device

    place = resolve_device(device)
    # Each is a process of its own, started at once.
    here = {"cpu": os.cpu_count() or 1, "cuda": torch.cuda.device_count()}
    check_int("devices", devices, 1, here.get(place.type, 1))
    one = [place.index or 0] if place.type == "cuda" else 1
    fabric = Fabric(
        accelerator=place.type, strategy=strategy, devices=one if devices == 1 else devices, num_nodes=num_nodes
    )
    fabric.launch()
    if fabric.world_size > 1:
        # A process that ends inside its group is aborted by torch, now and then.
        context.call_on_close(torch.distributed.destroy_process_group)
    try:
        certificates = [certify_one(fabric, architecture, **options) for architecture in architectures]
    except (KeyboardInterrupt, EndingSignal):
        kill_children()  # compilers
        click.echo("Interrupted: there is no certificate for a part of the seeds.", err=True)
        raise
    if not fabric.is_global_zero:
        return  # one process speaks for all, and Lightning takes a status of 1 in another for a crash
    for certificate in certificates:
        click.echo(_verdict(certificate))
    document = {**describe(place), "devices": fabric.world_size, "target": target}
    document["certificates"] = [certificate.as_dict() for certificate in certificates]

    def draw(path: Path) -> None:
        from simplenet.plot import plot_certificates

        plot_certificates(certificates, path)

    _write(
        {
            "json": (record, lambda path: write_file(path, (json.dumps(document, indent=2) + "\n").encode())),
            "plot": (plot, draw),
        }
    )
    sys.exit(int(any(certificate.bounds[0] < target for certificate in certificates)))


def _verdict(certificate: "Certificate") -> str:
    """Lay out the certificate, the steps that it took, and a few of the seeds that failed."""
    from simplenet.certificate import QUANTILES, critical_point

    lines = [str(certificate)]
    soon = ((f"{100 * quantile:g} %", certificate.steps_to_solve(quantile)) for quantile in QUANTILES)
    reached = [f"{share} of the seeds by step {step:,}" for share, step in soon if step is not None]
    if reached:
        lines += [f"solved     {', '.join(reached)}"]
    failed = certificate.failed
    if failed:
        lines += [f"failed     {', '.join(map(str, failed[:_NAMED]))}{', ...' if len(failed) > _NAMED else ''}"]
    for seed in failed[:_EXPLAINED]:
        lines += [f"seed {seed:<5} {critical_point(certificate.ensemble.weights[seed], certificate.architecture)}"]
    if certificate.ensemble.fallback is not None:
        lines += [f"eager      not compiled: {certificate.ensemble.fallback}"]
    return "\n".join(lines)


@main.command()
@_device
def info(device: str) -> None:
    """Print versions, device, threads and numerical flags."""
    from simplenet.environment import describe, resolve_device

    for name, value in describe(resolve_device(device)).items():
        click.echo(f"{name:<10} {value}")
