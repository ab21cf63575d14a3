"""``simplenet check``: check an importable Adam or network, and print the report."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simplenet.files import check_writable, unwritable, write_file
from simplenet.testing.importing import import_object

if TYPE_CHECKING:
    import torch

    from simplenet.testing.report import Report

_DTYPES = ("float16", "bfloat16", "float32", "float64")

_dtypes = click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(_DTYPES), help="Only these types; repeatable."
)
_device = click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")


def _writable(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that could not be written, before any work is done."""
    if path is not None:
        try:
            check_writable(path)
        except OSError as error:
            raise click.UsageError(unwritable("--json", path, error)) from None
    return path


_json = click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_writable,
    help="Write the report to this file.",
)
_only = click.option("--only", multiple=True, metavar="CHECK", help="Run only this check; repeatable.")
_expect = click.option(
    "--expect-failure", "expected", multiple=True, metavar="CHECK=REASON", help="This check must fail; repeatable."
)
_limit = click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds for each check.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def check() -> None:
    """Check an Adam or a network of your own."""


@check.command()
@click.argument("path", metavar="PKG.MOD:NAME")
@click.option("--variant", help="Which Adam it must be: algorithm 1, adam, adamw, remark of section 2.")
@_dtypes
@_device
@_only
@_expect
@_limit
@_json
def adam(path: str, dtypes: tuple[str, ...], device: str, json_path: Path | None, **options: Any) -> None:
    """Check an Adam: its variant, its accuracy, its properties.

    PKG.MOD:NAME is a class or function that makes optimizers, in a module that is installed or in this directory, or in
    a file, as FILE.PY:NAME.

    Exit status: 0 if nothing fails, 1 if a check does, 2 on bad usage or if a file cannot be written, 130 on Ctrl-C,
    143 on SIGTERM, 129 on SIGHUP.
    """
    from simplenet.testing.checks import check_adam

    make = import_object(path)
    report = _checked(check_adam, make, dtypes=_resolved(dtypes), device=device, **options)
    _print(report, json_path)


@check.command()
@click.argument("path", metavar="PKG.MOD:NAME")
@click.option("--inputs", metavar="PKG.MOD:NAME", help="An example batch, or a function that returns one.")
@click.option("--batch", metavar="PKG.MOD:NAME", help="An example batch for training_step.")
@click.option("--loss", metavar="PKG.MOD:NAME", help="A function from the output to a loss.")
@click.option(
    "--independent-rows", type=click.Choice(["always", "eval", "no"]), default="always", show_default=True,
    help="When a row's output depends only on that row.",
)  # fmt: skip
@click.option("--roundings", type=click.IntRange(0), default=0, help="Roundings by which equal outputs may differ.")
@_device
@_only
@_expect
@_limit
@_json
def network(path: str, device: str, json_path: Path | None, independent_rows: str, **options: Any) -> None:
    """Check a network: that it repeats, trains and resumes.

    PKG.MOD:NAME is a class or function that makes networks, in a module that is installed or in this directory, or in
    a file, as FILE.PY:NAME. By default they get rows of two numbers.

    Exit status: 0 if nothing fails, 1 if a check does, 2 on bad usage or if a file cannot be written, 130 on Ctrl-C,
    143 on SIGTERM, 129 on SIGHUP.
    """
    from simplenet.testing.network import check_network

    for name in ("inputs", "batch"):
        if options[name] is not None:
            options[name] = _example(name, options[name])
    options["loss"] = None if options["loss"] is None else import_object(options["loss"])
    rows = {"always": True, "eval": "eval", "no": False}[independent_rows]
    report = _checked(check_network, import_object(path), device=device, independent_rows=rows, **options)
    _print(report, json_path)


def _example(option: str, path: str) -> Any:
    """Import an example batch; if it is a function, call it."""
    given = import_object(path, callable_=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return given() if callable(given) else given
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code
        raised = f"raises {type(error).__name__}: {error}"
        raise click.UsageError(f"--{option} is {path!r}, which should return a batch, but {raised}") from None


def _checked(
    run: Callable[..., "Report"],
    subject: object,
    *,
    device: str,
    expected: Sequence[str],
    only: Sequence[str],
    **options: Any,
) -> "Report":
    from simplenet.environment import resolve_device

    try:
        reasons = dict(one.split("=", 1) for one in expected)
    except ValueError:
        raise click.UsageError(f"--expect-failure is {expected}, but should be CHECK=REASON") from None
    try:
        return run(
            subject,
            device=resolve_device(device),
            expected_failures=reasons,
            only=list(only) or None,
            progress=_progress,
            **options,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _progress(checks: Sequence[Any]) -> Iterable[Any]:
    """Show a progress bar in a terminal."""
    from tqdm import tqdm

    # The bar keeps the current stderr, although that of the code under test is redirected.
    return tqdm(checks, unit="check", leave=False, disable=None)


def _resolved(dtypes: Sequence[str]) -> "list[torch.dtype] | None":
    import torch

    return [getattr(torch, name) for name in dtypes] or None


def _print(report: "Report", json_path: Path | None) -> None:
    click.echo(str(report))
    if json_path is not None:
        write_file(json_path, report.to_json().encode())
    sys.exit(report.exit_status)
