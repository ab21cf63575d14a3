"""The command line: ``simplenet train``, ``predict``, ``certify``, ``check`` and ``info``.

torch and Lightning are imported only when a command runs, so that ``--help`` prints at once.
"""

import json
import logging
import math
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from simplenet.files import check_writable, unwritable, write_file
from simplenet.reference import ARCHITECTURES
from simplenet.signals import EndingSignal, ending_at_once, ending_by_exception, kill_children, status
from simplenet.testing.command import check
from simplenet.validation import MAX_EPOCHS, check_float, check_int

if TYPE_CHECKING:
    from simplenet.certificate import Certificate
    from simplenet.checkpoint import Checkpoint
    from simplenet.data import XORDataModule
    from simplenet.model import Architecture, SimpleNet
    from simplenet.training import TrainingRun

_DEFECT = 3  # the exit status of an unexpected error, a defect of SimpleNet
_NAMED, _EXPLAINED = 12, 3  # how many failed seeds are listed, and how many are described


class _BadInput(click.ClickException):
    exit_code = click.UsageError.exit_code


@contextmanager
def _exiting() -> Iterator[None]:
    """Turn exceptions into exit statuses, and bad input into one line.

    Status 0 and 1 report a result, so an unexpected error, for which Python's status is 1, exits with status 3.
    """
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        code = status(signal.SIGINT)
    except EndingSignal as ending:
        code = ending.status
    except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
        code = status(signal.SIGPIPE)
    except (click.ClickException, OSError, ValueError) as error:
        shown = error if isinstance(error, click.ClickException) else _BadInput(str(error))
        if isinstance(error, OSError) and _discard_unwritten(sys.stdout):
            shown = _BadInput(f"standard output cannot be written: {error.strerror}")
        with suppress(OSError):
            shown.show()
        code = shown.exit_code
    except Exception:  # noqa: BLE001 - no exception may exit with status 1, which reports a result
        with suppress(OSError):
            traceback.print_exc()
        code = _DEFECT
    else:
        return
    _discard_unwritten(sys.stdout)
    _discard_unwritten(sys.stderr)
    sys.exit(code)


def _discard_unwritten(stream: TextIO) -> bool:
    """Discard output that cannot be written, or Python would try again at exit and exit with status 120."""
    try:
        if stream is not None:  # as it is if the program is started with it closed
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


class _Group(click.Group):
    """Commands that exit with one line and status 2 on bad input, and with 128 plus the number of a signal."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        with _exiting():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with (
                _exiting(),
                warnings.catch_warnings(),
                ending_by_exception(),
                Path(os.devnull).open("w", encoding="utf-8") as null,
                redirect_stderr(sys.stderr or null),  # None if it is closed, which tqdm does not expect
            ):
                warnings.filterwarnings("ignore", module=r"(lightning|torch)\.")
                return super().invoke(ctx)
        finally:
            logging.disable(before)


class _Row(click.ParamType):  # type: ignore[type-arg] # generic only in the newest click
    """Two finite numbers, separated by a comma."""

    name = "row"

    def convert(self, value: str, _param: click.Parameter | None, _ctx: click.Context | None) -> tuple[float, ...]:
        try:
            row = tuple(float(number) for number in value.split(","))
        except ValueError:
            row = ()
        if len(row) != 2 or not all(map(math.isfinite, row)):  # noqa: PLR2004 - exclusive-or has two inputs
            self.fail(f"{value!r} should be two finite numbers separated by a comma, such as 0,1.")
        return row


_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="simplenet")
def main() -> None:
    """Train a 2-4-1 network on exclusive-or, and check the libraries that it is built on."""


main.add_command(check)


@main.command(context_settings={"show_default": True})
@click.option("--architecture", type=click.Choice(list(ARCHITECTURES)), default="overview", help="Which network.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1996, help="Seed of every random generator.")
@click.option("--hidden", type=click.IntRange(1), default=4, help="Width of the hidden layer.")
@click.option("--max-epochs", type=click.IntRange(1, MAX_EPOCHS), default=3000, help="Most passes over the four rows.")
@click.option("--batch-size", type=click.IntRange(1), default=1, help="Rows in a batch.")
@click.option("--lr", type=float, default=0.01, help="Learning rate of Adam.")
@_device
@click.option("--checkpoint-dir", type=click.Path(path_type=Path), default="checkpoints", help="Where checkpoints go.")
@click.option(
    "--resume",
    type=click.Path(exists=True, path_type=Path),
    help="Resume from this checkpoint, or from the newest intact one in this directory.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Plot the loss and the decision surface to this file.")
@click.pass_context
def train(context: click.Context, /, device: str, resume: Path | None, plot: Path | None, **options: Any) -> None:
    """Train until XOR is solved, and print the predictions.

    The first Ctrl-C, SIGTERM or SIGHUP ends the run after the current epoch and saves its state; the second ends
    it at once. Each run keeps its newest checkpoint and removes only its own files.

    Exit status: 0 if all four predictions are right, 1 if not, 2 on bad usage or if a file cannot be written,
    130 on Ctrl-C, 143 on SIGTERM, 129 on SIGHUP.
    """
    _check_plot(plot)

    from simplenet.environment import describe, resolve_device
    from simplenet.training import train as run_training

    environment = describe(resolve_device(device))
    net, data, checkpoint, origin = _start(context, resume, options)
    _check_directory(options["checkpoint_dir"])
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
    click.echo(_report(run, _resume_command(context, run, len(data.train_dataloader()))))

    def draw(path: Path) -> None:
        from simplenet.plot import plot_run

        plot_run(run, path)

    _write({"plot": (plot, draw)})
    stopped_by = getattr(signal, run.stopped_by, None)
    sys.exit(int(not run.solved) if stopped_by is None else status(stopped_by))


def _check_plot(plot: Path | None) -> None:
    """Refuse a plot that could not be written, before any work is done."""
    if plot is None:
        return
    if find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib, which is not installed: pip install matplotlib")
    from simplenet.plot import check_picture

    check_picture(plot)
    _check_writable("plot", plot)


def _check_writable(option: str, path: Path) -> None:
    """Refuse a file that could not be written, before any work is done."""
    try:
        check_writable(path)
    except OSError as error:
        raise click.UsageError(unwritable(f"--{option}", path, error)) from None


def _check_directory(path: Path) -> None:
    """Make the directory for checkpoints; refuse one in which no file can be written, before any work is done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path / "checkpoint")
    except OSError as error:
        raise click.UsageError(unwritable("--checkpoint-dir", path, error)) from None


def _write(files: dict[str, tuple[Path | None, Callable[[Path], None]]]) -> None:
    """Write each requested file, even if another cannot be written; then exit with status 2."""
    failed = False
    for name, (path, write) in files.items():
        if path is not None:
            try:
                write(path)
                click.echo(f"{name:<10} {path}")
            except OSError as error:
                click.echo(f"Error: {unwritable(f'--{name}', path, error)}", err=True)
                failed = True
    if failed:
        sys.exit(_BadInput.exit_code)


def _start(
    context: click.Context, resume: Path | None, options: dict[str, Any]
) -> "tuple[SimpleNet, XORDataModule, Checkpoint | None, str]":
    """Build a network and its data from the options, or from the checkpoint to resume."""
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
    assert state is not None  # noqa: S101 - for mypy: read_checkpoint(training=True) sets it
    if options["max_epochs"] <= state.epochs:
        done = f"the {state.epochs} done in {checkpoint.path}"
        raise click.UsageError(f"--max-epochs is {options['max_epochs']}, but should be more than {done}")
    return from_checkpoint(checkpoint), XORDataModule(state.batch_size), checkpoint, f"resumed from {checkpoint.path}"


def _resume_command(context: click.Context, run: "TrainingRun", batches_per_epoch: int) -> str:
    """Return a command that resumes the run, with those of its options that the checkpoint does not decide."""
    words = ["simplenet", "train", "--resume", str(run.checkpoint)]
    for name in ("max_epochs", "device", "checkpoint_dir", "plot"):
        value = context.params[name]
        if name == "max_epochs" and run.steps == value * batches_per_epoch:  # a signal may come in the last epoch
            value = min(2 * value, MAX_EPOCHS)
        elif context.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _report(run: "TrainingRun", resume_command: str) -> str:
    """Format the truth table, the result and a hint for the next step."""
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
            "The listing can never solve XOR: without a hidden activation it is an affine map under a sigmoid,",
            "no straight line separates XOR's classes, and its MSE is never below 1/4.",
        ]
    if run.divergence is not None:
        kept = "no state was saved before" if run.checkpoint is None else "the checkpoint was saved before"
        lines += [f"Stopped: {run.divergence}; {kept}. Try a smaller --lr."]
    elif run.stopped_by == "budget" and not listing:
        lines += [f"Stopped at --max-epochs; resume with: {resume_command}"]
    elif run.stopped_by.startswith("SIG"):
        lines += [f"Stopped by {run.stopped_by}; resume with: {resume_command}"]
    return "\n".join(lines)


@main.command(context_settings={"ignore_unknown_options": True})  # so that -1,0 reads as a row
@click.argument("checkpoint", type=_file)
@click.argument("rows", type=_Row(), nargs=-1, required=True)
def predict(checkpoint: Path, rows: tuple[tuple[float, float], ...]) -> None:
    """Predict ROWS such as 0,1 with the network in CHECKPOINT.

    A prediction above 1/2 is true.
    """
    import torch

    from simplenet.model import load_checkpoint

    net = load_checkpoint(checkpoint)
    inputs = torch.tensor(rows, dtype=net.input_layer.weight.dtype)
    for (a, b), finite in zip(rows, inputs.isfinite().all(1).tolist(), strict=True):
        if not finite:
            largest = torch.finfo(inputs.dtype).max
            raise ValueError(f"row {a:g},{b:g} is too large for {inputs.dtype}, whose largest number is {largest:g}")
    with torch.no_grad():
        predictions = net(inputs).flatten().tolist()
    for (a, b), prediction in zip(rows, predictions, strict=True):
        click.echo(f"{a:g},{b:g}  {prediction:.4f}  {str(prediction > 1 / 2).lower()}")


@main.command(context_settings={"show_default": True})
@click.option(
    "--architecture",
    "architectures",
    type=click.Choice(list(ARCHITECTURES)),
    default=["overview"],
    multiple=True,
    help="Which network; repeat it for several certificates.",
)
@click.option("--hidden", type=click.IntRange(1), default=4, help="Width of the hidden layer.")
@click.option("--batch-size", type=click.IntRange(1), default=4, help="Rows in a batch.")
@click.option("--steps", type=click.IntRange(1), default=2000, help="Optimizer steps of each network.")
@click.option("--seeds", type=click.IntRange(1, 2**32), default=10_000, help="Train seeds 0, 1, 2, ..., this many.")
@click.option("--target", type=click.FloatRange(0, 1), default=0.99, help="Rate that the lower bound should reach.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.999,
    help="Confidence of the bound.",
)
@_device
@click.option(
    "--devices", type=click.IntRange(1), default=1, help="Devices on each machine; seeds are split among them."
)
@click.option("--num-nodes", type=click.IntRange(1), default=1, help="Machines.")
@click.option("--strategy", type=click.Choice(["auto", "ddp"]), default="auto", help="Strategy of Lightning Fabric.")
@click.option("--plot", type=click.Path(path_type=Path), help="Plot the fraction solved by step to this file.")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the figures to this file.")
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
    """Bound the rate at which thousands of seeds solve XOR.

    Exit status: 0 if the lower bound reaches the target for every architecture, 1 if not, 2 on bad usage or if a
    file cannot be written, 130 on Ctrl-C, 143 on SIGTERM, 129 on SIGHUP. An interrupted run gives no certificate.
    """
    _check_plot(plot)
    if record is not None:
        _check_writable("json", record)

    check_float("target", target, 0.0, 1.0)  # click accepts NaN

    import torch
    from lightning.fabric import Fabric

    from simplenet.certificate import certify as certify_one
    from simplenet.environment import describe, resolve_device

    torch_device = resolve_device(device)
    # Fabric starts a process for each device.
    available = {"cpu": os.cpu_count() or 1, "cuda": torch.cuda.device_count()}
    check_int("devices", devices, 1, available.get(torch_device.type, 1))
    one = [torch_device.index or 0] if torch_device.type == "cuda" else 1
    fabric = Fabric(
        accelerator=torch_device.type, strategy=strategy, devices=one if devices == 1 else devices, num_nodes=num_nodes
    )
    with ending_at_once():  # torch waits for other machines in native code
        fabric.launch()
    if fabric.world_size > 1:
        # torch sometimes aborts a process that exits without leaving its process group.
        context.call_on_close(torch.distributed.destroy_process_group)
    try:
        certificates = [certify_one(fabric, architecture, **options) for architecture in architectures]
    except (KeyboardInterrupt, EndingSignal):
        kill_children()  # compilers
        click.echo("Interrupted: no certificate without all seeds.", err=True)
        raise
    if not fabric.is_global_zero:
        return  # only the first process reports; Lightning treats a status of 1 in another as a crash
    for certificate in certificates:
        click.echo(_verdict(certificate))
    document = {**describe(torch_device), "devices": fabric.world_size, "target": target}
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
    """Format the certificate, the steps to solve, and a few of the failed seeds."""
    from simplenet.certificate import QUANTILES, critical_point

    lines = [str(certificate)]
    quantiles = ((f"{100 * quantile:g} %", certificate.steps_to_solve(quantile)) for quantile in QUANTILES)
    reached = [f"{share} of the seeds by step {step:,}" for share, step in quantiles if step is not None]
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
