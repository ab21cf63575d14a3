"""Write docs/conformance.md and its picture from docs/conformance, which the commands write first."""

import json
import os
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
from tests.conformance import FORMAT, RECORDS, ROOT, Row, deviations, disagreements, environments, page, reproduction
from tests.environments.page import dumps


def install(environment: Row, directory: Path) -> Path:
    """Install its packages into a new environment, on top of this one; return the new Python."""
    venv.create(directory)
    python = directory / "bin" / "python"
    own, running = sysconfig.get_path("purelib", vars={"base": str(directory)}), sysconfig.get_path("purelib")
    # What is installed here is found there, after its own packages: torch, above all, is not installed again.
    Path(own, "running.pth").write_text(f"import site; site.addsitedir({running!r})\n", "utf-8")
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
        # One thread, so that times mean the same on every machine, as far as a framework can be told.
        variables = {
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_CACHE_DIR": f"{directory}/inductor",
            "OMP_NUM_THREADS": "1",
        }
        for _, group in groupby(
            environment["adam"], lambda one: one["name"] if what == "checks" else one.get("variables")
        ):
            begun, adams = time.monotonic(), list(group)
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
            answer = json.loads(done.stdout.splitlines()[-1])
            click.echo(f"{', '.join(answer['found'])}: {what} in {time.monotonic() - begun:.0f} s")
            yield answer["packages"], answer["found"]


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
    if wrong := list(disagreements(records)):
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
        for packages, found in probed(known[name], what):
            record: Row = json.loads(path.read_text("utf-8")) if path.exists() else {"format": FORMAT, "packages": {}}
            record["packages"] |= packages
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


@main.command(name="time")
@_names
def time_(names: Sequence[str]) -> None:
    """Time steps: all in one run, so that times compare."""
    _probe(names, "times")


main.result_callback()(click.pass_context(written))

if __name__ == "__main__":
    main()
