"""Run programs in forks of one process that has imported torch and Lightning, which saves seconds for each program.

That process is Python's fork server; it imports modules, and computes nothing. Its hash seed differs from that of the
tests, so a program must not depend on the hash seed.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

import torch._inductor.config

# pytest: a fork imports the main module, which is pytest's script.
PRELOADED = ["lightning.pytorch", "pytest", "torch._inductor.compile_fx"]
ROOT = Path(__file__).parents[2]

# Whether torch caches compiled graphs. torch reads it on import, which is too early in a fork.
FX_GRAPH_CACHE = "TORCHINDUCTOR_FX_GRAPH_CACHE"


def has_avx2() -> bool:
    """Return whether Linux reports an x86 processor with AVX2."""
    about = Path("/proc/cpuinfo")
    return about.exists() and " avx2 " in about.read_text("utf-8")


class Forked:
    """A program in a fork, with those parts of ``subprocess.Popen``'s interface that ``Background`` uses.

    Args:
        arguments: The arguments of ``python``: ``-m`` and a module, or ``-c`` and code, and the program's arguments.
        directory: The working directory.
        output: The file for its standard output.
    """

    def __init__(self, arguments: list[str], directory: Path, output: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with patch.dict(os.environ):
            os.environ.pop(FX_GRAPH_CACHE, None)  # if it is set on import, the option cannot be set later
            forkserver.ensure_running()
        self.args = arguments
        self.returncode: int | None = None
        self.errors = output.with_name(f"{output.name}.errors")
        self.process = context.Process(
            target=_run, args=(arguments, directory, dict(os.environ), [(1, output), (2, self.errors)])
        )
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def communicate(self, timeout: float | None = None) -> tuple[None, bytes]:
        """Wait until the program ends; return its standard error."""
        self.process.join(timeout)
        self.returncode = self.process.exitcode
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return None, self.errors.read_bytes()


def _run(arguments: list[str], directory: Path, environment: dict[str, str], streams: list[tuple[int, Path]]) -> None:
    for stream, path in streams:
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # the default, as in a new process
    if hasattr(torch._inductor.config, "fx_graph_cache"):  # noqa: SLF001  # torch 2.0 has no cache
        torch._inductor.config.fx_graph_cache = environment.get(FX_GRAPH_CACHE, "1") == "1"  # noqa: SLF001
    warnings.simplefilter("ignore")
    kind, program, *rest = arguments
    sys.argv = [program if kind == "-m" else kind, *rest]
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(program, {"__name__": "__main__"})


def launch(
    *arguments: str, directory: Path, environment: Mapping[str, str] | None = None, output: str = "stdout"
) -> "Forked | subprocess.Popen[bytes]":
    """Start a program in a fork or, on other systems than Linux, in a new process.

    Args:
        arguments: As for ``Forked``.
        directory: The working directory.
        environment: Environment variables to set; in a fork, imported modules have read theirs before.
        output: The name of the file for its standard output, in ``directory``.
    """
    path = os.pathsep.join([str(ROOT), *sys.path])
    own = {"PYTHONHASHSEED": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    if has_avx2():  # every compiler supports it, and torch's test of that takes seconds in each cache directory
        own["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
    with patch.dict(os.environ, {**own, **(environment or {})}):
        if sys.platform == "linux":  # on macOS, threads that libraries start on import make forks unsafe
            return Forked(list(arguments), directory, directory / output)
        with (directory / output).open("wb") as file:
            return subprocess.Popen([sys.executable, *arguments], cwd=directory, stdout=file, stderr=subprocess.PIPE)
