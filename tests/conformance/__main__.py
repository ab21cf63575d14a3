"""Check, time and reproduce in separate environments, then write docs/conformance.md and its plot."""

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
from tests.conformance.faults import check_report, faults, planted, reported, survivors
from tests.environments.page import dumps


def packages(directory: Path = Path(sys.prefix)) -> Path:
    """Return the site-packages directory of an environment, by default the current one."""
    return Path(sysconfig.get_path("purelib", vars={"base": str(directory)}))


def install(environment: Row, directory: Path) -> Path:
    """Install the packages into a new environment that extends the current one; return its Python."""
    venv.create(directory)
    python = directory / "bin" / "python"
    # The current environment's packages come after its own, so that torch is not installed again.
    (packages(directory) / "running.pth").write_text(f"import site; site.addsitedir({str(packages())!r})\n", "utf-8")
    pip: list[Any] = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    for options in (["--no-deps", *environment.get("install", [])], environment.get("also", [])):
        if options not in (["--no-deps"], []):
            subprocess.run([*pip, *options], check=True)
    return python


def probed(environment: Row, what: str) -> Iterator[tuple[Row, Row]]:
    """Check or time the implementations, or run their reproductions; yield versions, and the results by name.

    Raises:
        subprocess.CalledProcessError: If a package cannot be installed, or the probe fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        python = install(environment, Path(directory))
        for _, group in groupby(
            environment["adam"], lambda one: one["name"] if what == "checks" else one.get("variables")
        ):
            begun, adams = time.monotonic(), list(group)
            answer = run_probe(python, what, adams)
            click.echo(f"{', '.join(answer['found'])}: {what} in {time.monotonic() - begun:.0f} s")
            yield answer["packages"], answer["found"]


def run_probe(python: Path, what: str, adams: Sequence[Row]) -> Row:
    """Run the probe on implementations, with a Python that has them installed.

    Raises:
        subprocess.CalledProcessError: If the probe fails.
    """
    directory = python.parent.parent
    # One thread, for times that do not depend on the number of cores; some frameworks ignore this.
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
    """Check implementations without and with a fault; yield versions, and the reports by name.

    Raises:
        subprocess.CalledProcessError: If a package cannot be installed, or the probe fails.
        ValueError: If a file does not contain the text to replace exactly once.
    """
    known = faults()
    chosen = [adam for adam in environment["adam"] if adam["name"] in known]
    if not chosen:
        return
    with tempfile.TemporaryDirectory() as directory:
        python = install(environment, Path(directory))
        for adam in chosen:
            fault, begun = known[name := adam["name"]], time.monotonic()
            versions, without = run_probe(python, "baseline", [adam]).values()
            version = ", ".join(" ".join(one) for one in versions.items())
            site, top = packages(Path(directory)), Path(fault["file"]).parts[0]
            if not (site / top).exists():  # it is the current environment's package, which must not be changed
                shutil.copytree(packages() / top, site / top)
            with planted(fault, version, site):
                found = run_probe(python, "checks", [adam])["found"][name]
            missing, report = list(check_report(fault, without[name], found)), reported(fault, found)
            seconds = time.monotonic() - begun
            click.echo(f"{version}, {name}: {fault['name']}: {'; '.join(missing) or report[0]} ({seconds:.0f} s)")
            yield versions, {name: {"fault": fault["name"], "report": report, "missing": missing}}


# Runs the reproduction of each deviation of each implementation, with only the package installed.
TRY = """
import json, sys, types, warnings

warnings.simplefilter("ignore")
found = {}
for name, rows in json.load(sys.stdin).items():
    found[name] = {}
    for id_, (lines, error) in rows.items():
        found[name][id_] = "nothing is raised"
        try:
            module = sys.modules["reproduction"] = types.ModuleType("reproduction")  # torch's compiler imports it
            exec(compile(lines, id_, "exec"), vars(module))
        except Exception as raised:
            found[name][id_] = type(raised).__name__ == error or repr(raised)
print("\\n" + json.dumps({"packages": {}, "found": found}))
"""


def reproductions(adam: Row) -> dict[str, tuple[str, str]]:
    """Return the reproduction of each deviation of an implementation, and the error that it raises."""
    rows = [row for row in deviations() if adam["name"] in row["adams"]]
    return {row["id"]: (reproduction(row, adam), row.get("error", "AssertionError")) for row in rows}


@click.group(invoke_without_command=True)
def main() -> None:
    """Write docs/conformance.md and docs/conformance.png from the records in docs/conformance."""


@main.result_callback()
def write(_result: object) -> None:
    """Write them, also after each command; fail if the records differ from deviations.toml or faults.toml."""
    records = page.gather()
    page.PAGE.write_text(page.page(records), "utf-8")
    page.plot(records, page.PICTURE)
    if wrong := [*disagreements(records), *survivors(records)]:
        raise click.ClickException("\n".join(wrong))


def _probe(names: Sequence[str], what: str) -> None:
    known, now = environments(), datetime.now(UTC).isoformat(timespec="seconds")
    if unknown := set(names) - known.keys():
        raise click.UsageError(
            f"unknown environment {', '.join(sorted(unknown))}, but should be one of {', '.join(known)}"
        )
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
    """Check the implementations of all environments, or of those named."""
    _probe(names, "checks")


@main.command()
@_names
def reproduce(names: Sequence[str]) -> None:
    """Run the reproductions of the known deviations."""
    _probe(names, "reproductions")


@main.command(name="faults")
@_names
def faults_(names: Sequence[str]) -> None:
    """Plant each fault of faults.toml in a copy of its package; the report must name it."""
    try:
        _probe(names or list({adams()[name]["environment"]["name"]: None for name in faults()}), "faults")
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@main.command(name="time")
@_names
def time_(names: Sequence[str]) -> None:
    """Time a step of each implementation; time all in one run, to compare them."""
    _probe(names, "times")


if __name__ == "__main__":
    main()
