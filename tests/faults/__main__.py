"""Plant every fault of the catalogue and print which check kills it: ``python -m tests.faults``."""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

import click

from simplenet.testing.checks import adam_checks
from simplenet.testing.network import CHECKS
from tests.faults.planted import FAULTS
from tests.faults.planted.implementations import DTYPES
from tests.faults.planting import Fault
from tests.faults.runner import ABSENT, Outcome, run


def _selected(names: Sequence[str]) -> list[Fault]:
    known = {fault.name for fault in FAULTS} | {fault.subject for fault in FAULTS}
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"there is no fault or subject {', '.join(unknown)}; --list shows all of them")
    return [fault for fault in FAULTS if not names or fault.name in names or fault.subject in names]


def _row(outcome: Outcome, width: int) -> str:
    killed = f"{outcome.check}: {outcome.message}" if outcome.check else outcome.message
    return f"{outcome.fault:<{width}} {outcome.status:<8} {outcome.seconds:5.1f} s  {killed[:160]}".rstrip()


def idle(outcomes: Sequence[Outcome], faults: Sequence[Fault]) -> list[str]:
    """List the checks that kill no fault: of the tests that faults name, and of the checks of ``simplenet.testing``."""
    killers = {check for outcome in outcomes for check in outcome.checks}
    planted = [fault for fault in faults if fault.is_here and not fault.control]
    named = {name.partition("[")[0] for fault in planted for name in fault.killed_by}
    library = {check.name for check in adam_checks(DTYPES)} | {check.name for check in CHECKS}
    return sorted((named | library) - killers)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="List the faults, and plant none.")
@click.option(
    "--processes", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help="How many at a time."
)
@click.option("--json", "record", type=click.File("w", lazy=False), help="Write the outcomes to this file.")
def main(names: Sequence[str], processes: int, record: TextIO | None, *, listed: bool) -> None:
    """Plant faults, each in a process forked after import, and print which test detects each.

    NAME is a fault or a subject of faults; by default, all faults are planted.

    Exit status: 0 if every fault is killed by an assertion or a check and every control passes, 1 if not, 2 on bad
    usage, 130 on Ctrl-C.
    """
    faults = _selected(names)
    width = max(len(fault.name) for fault in faults)
    if listed:
        for fault in faults:
            click.echo(f"{fault.name:<{width}} {fault.subject}: {fault.text} {fault.link}".rstrip())
        return
    if not hasattr(os, "fork"):
        raise click.UsageError("it needs os.fork, which this platform does not have")

    started, stdout = time.monotonic(), sys.stdout  # pytest's output is redirected
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        click.echo(_row(outcome, width), file=stdout)
        if sys.stderr.isatty():
            click.echo(f"{len(outcomes)} of {len(faults)}\r", err=True, nl=False)

    try:
        run(faults, processes=processes, done=done)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    if record is not None:
        print(json.dumps([vars(outcome) for outcome in outcomes], indent=2), file=record)
    bad = [outcome for outcome in outcomes if not outcome.good]
    if not names and (checks := idle(outcomes, faults)):
        click.echo(f"checks that kill no fault: {'; '.join(checks)}")
    for outcome in bad:
        click.echo(_row(outcome, width), err=True)
    controls = sum(fault.control for fault in faults)
    absent = sum(outcome.status == ABSENT for outcome in outcomes)
    click.echo(
        f"{len(faults) - controls} faults and {controls} controls, {absent} of them not in this torch: {len(bad)} with "
        f"a wrong outcome; {time.monotonic() - started:.0f} s"
    )
    sys.exit(int(bool(bad) or len(outcomes) < len(faults)))


if __name__ == "__main__":
    main(prog_name="python -m tests.faults")
