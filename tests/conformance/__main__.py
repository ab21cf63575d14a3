"""Write docs/conformance.md and its picture from docs/conformance, which the commands write first."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import torch

from simplenet.environment import describe, processor
from tests.conformance import (
    FORMAT,
    RECORDS,
    ROOT,
    Row,
    adams,
    deviations,
    disagreements,
    environments,
    page,
    reproduction,
)
from tests.conformance.faults import faults, planted, said, survivors, unsaid
from tests.environments.page import dumps


def packages(directory: Path = Path(sys.prefix)) -> Path:
    """Return where an environment has its packages; by default, this one."""
    return Path(sysconfig.get_path("purelib", vars={"base": str(directory)}))


def install(environment: Row, directory: Path) -> Path:
    """Install its packages into a new environment, on top of this one; return the new Python."""
    venv.create(directory)
    python = directory / "bin" / "python"
    # What is installed here is found there, after its own packages: torch, above all, is not installed again.
    (packages(directory) / "running.pth").write_text(f"import site; site.addsitedir({str(packages())!r})\n", "utf-8")
    pip: list[Any] = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    for options in (["--no-deps", *environment.get("install", [])], environment.get("also", [])):
        if options not in (["--no-deps"], []):
            subprocess.run([*pip, *options], check=True)
    return python


def probed(environment: Row, what: str) -> Iterator[tuple[Row, Row]]:
    """Check its implementations, time them or try their reproductions; yield versions, and what was found by name.

    Raises:
        subprocess.CalledProcessError: If something cannot be installed, or tried at all.
    """
    with tempfile.TemporaryDirectory() as directory:
        python = install(environment, Path(directory))
        for _, group in groupby(
            environment["adam"], lambda one: one["name"] if what == "checks" else one.get("variables")
        ):
            begun, adams = time.monotonic(), list(group)
            answer = asked(python, what, adams)
            click.echo(f"{', '.join(answer['found'])}: {what} in {time.monotonic() - begun:.0f} s")
            yield answer["packages"], answer["found"]


def asked(python: Path, what: str, adams: Sequence[Row]) -> Row:
    """Probe implementations by a Python that has them.

    Raises:
        subprocess.CalledProcessError: If they cannot be probed at all.
    """
    directory = python.parent.parent
    # One thread, so that times mean the same on every machine, as far as a framework can be told.
    variables = {
        "PYTHONPATH": str(ROOT),
        "TORCHINDUCTOR_CACHE_DIR": f"{directory}/inductor",
        "OMP_NUM_THREADS": "1",
    }
    command = [python, "-m", "tests.conformance.probe", what, *(adam["name"] for adam in adams)]
    if what == "reproductions":
        command = [python, "-c", TRY]
    done = subprocess.run(
        command,
        env={**os.environ, **variables, **adams[0].get("variables", {})},
        cwd=directory,
        input=json.dumps({adam["name"]: reproductions(adam) for adam in adams}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def with_faults(environment: Row) -> Iterator[tuple[Row, Row]]:
    """Check implementations without and with a fault; yield versions, and what the reports say by name.

    Raises:
        subprocess.CalledProcessError: If something cannot be installed, or checked at all.
        ValueError: If what a fault replaces is not there once.
    """
    with tempfile.TemporaryDirectory() as directory:
        python, known = install(environment, Path(directory)), faults()
        for adam in (one for one in environment["adam"] if one["name"] in known):
            fault, begun = known[name := adam["name"]], time.monotonic()
            versions, without = asked(python, "control", [adam]).values()
            version = ", ".join(" ".join(one) for one in versions.items())
            site, top = packages(Path(directory)), Path(fault["file"]).parts[0]
            if not (site / top).exists():  # what is installed here was not installed there, and is not to be edited
                shutil.copytree(packages() / top, site / top)
            with planted(fault, version, site):
                found = asked(python, "checks", [adam])["found"][name]
            wrong, says = list(unsaid(fault, without[name], found)), said(fault, found)
            seconds = time.monotonic() - begun
            click.echo(f"{version}, {name}: {fault['name']}: {'; '.join(wrong) or says[0]} ({seconds:.0f} s)")
            yield versions, {name: {"fault": fault["name"], "says": says, "unsaid": wrong}}


# Runs the lines of each deviation of each implementation, with nothing but the package; says where they do not show it.
TRY = """
import json, sys, warnings

warnings.simplefilter("ignore")
found = {}
for name, rows in json.load(sys.stdin).items():
    found[name] = {}
    for id_, (lines, error) in rows.items():
        found[name][id_] = "nothing is raised"
        try:
            exec(compile(lines, id_, "exec"), {"__name__": "reproduction"})
        except Exception as raised:
            found[name][id_] = type(raised).__name__ == error or repr(raised)
print("\\n" + json.dumps({"packages": {}, "found": found}))
"""


def reproductions(adam: Row) -> dict[str, tuple[str, str]]:
    """Return the lines that show each deviation of an implementation, and the error that they raise."""
    rows = [row for row in deviations() if adam["name"] in row["adams"]]
    return {row["id"]: (reproduction(row, adam), row.get("error", "AssertionError")) for row in rows}


def written(_context: click.Context, _result: object, /, **_options: object) -> None:
    """Write page and picture; leave with what is wrong, if something is."""
    records = page.gather()
    page.PAGE.write_text(page.page(records), "utf-8")
    page.plot(records, page.PICTURE)
    if wrong := [*disagreements(records), *survivors(records)]:
        raise click.ClickException("\n".join(wrong))


@click.group(invoke_without_command=True)
def main() -> None:
    """Write docs/conformance.md and docs/conformance.png from what docs/conformance holds."""


def _probe(names: Sequence[str], what: str) -> None:
    known, now = environments(), datetime.now(UTC).isoformat(timespec="seconds")
    if unknown := set(names) - known.keys():
        raise click.UsageError(f"no environment is called {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    here = describe(torch.device("cpu"))
    machine = {**{name: here[name] for name in ("python", "torch")}, "processor": processor(torch.device("cpu"))}
    for name in names or known:
        path = RECORDS / f"{name}.json"
        for versions, found in with_faults(known[name]) if what == "faults" else probed(known[name], what):
            record: Row = json.loads(path.read_text("utf-8")) if path.exists() else {"format": FORMAT, "packages": {}}
            record["packages"] |= versions
            record[what] = record.get(what, {}) | found
            load = f"{os.getloadavg()[0]:.0f} on {os.cpu_count()} processors"
            record[f"{what} made"] = {"at": now, **machine, "load": load}
            path.write_text(dumps(record, depth=4), "utf-8")


_names = click.argument("names", nargs=-1, metavar="[ENVIRONMENT]...")


@main.command()
@_names
def check(names: Sequence[str]) -> None:
    """Check what each environment has, or those named."""
    _probe(names, "checks")


@main.command()
@_names
def reproduce(names: Sequence[str]) -> None:
    """Try the reproductions of what is known to deviate."""
    _probe(names, "reproductions")


@main.command(name="faults")
@_names
def faults_(names: Sequence[str]) -> None:
    """Plant a fault in a copy of each package that faults.toml has one for: the report has to name it."""
    try:
        _probe(names or list({adams()[name]["environment"]["name"]: None for name in faults()}), "faults")
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@main.command(name="time")
@_names
def time_(names: Sequence[str]) -> None:
    """Time steps: all in one run, so that times compare."""
    _probe(names, "times")


main.result_callback()(click.pass_context(written))

if __name__ == "__main__":
    main()
