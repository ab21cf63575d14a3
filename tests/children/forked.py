"""Programs in forks of one process that has imported Lightning: each is a process of its own, seconds sooner.

That process is Python's fork server: it has imported, and computed nothing. Its hash seed is not that of the tests, so
nothing may depend on it.
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

# Where pytest's own script was started, each fork imports pytest.
PRELOADED = ["lightning.pytorch", "pytest", "torch._inductor.compile_fx"]
ROOT = Path(__file__).parents[2]

# Whether torch keeps what it compiles. It reads this on import, so that a fork has to be told as well.
FX_GRAPH_CACHE = "TORCHINDUCTOR_FX_GRAPH_CACHE"


def has_avx2() -> bool:
    """Whether this is x86 with AVX2, as far as Linux says."""
    about = Path("/proc/cpuinfo")
    return about.exists() and " avx2 " in about.read_text("utf-8")


class Forked:
    """A program in a fork, with what ``Background`` needs of the interface of ``subprocess.Popen``.

    Args:
        arguments: What follows ``python``: ``-m`` and a module, or ``-c`` and a program, and their arguments.
        directory: Where it runs.
        output: The file that it prints into.
    """

    def __init__(self, arguments: list[str], directory: Path, output: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with patch.dict(os.environ):
            os.environ.pop(FX_GRAPH_CACHE, None)  # where it is set on import, nothing else sets it later
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
        """Wait for its end; return what it wrote to its standard error."""
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
    multiprocessing.set_start_method(None, force=True)  # the system's, as in a process that was not forked
    if hasattr(torch._inductor.config, "fx_graph_cache"):  # noqa: SLF001  # torch 2.0 keeps nothing
        torch._inductor.config.fx_graph_cache = environment.get(FX_GRAPH_CACHE, "1") == "1"  # noqa: SLF001
    warnings.simplefilter("ignore")
    kind, program, *rest = arguments
    sys.argv = [program if kind == "-m" else kind, *rest]
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


def launch(
    *arguments: str, directory: Path, environment: Mapping[str, str] | None = None, output: str = "stdout"
) -> "Forked | subprocess.Popen[bytes]":
    """Start a program in a fork or, on other systems than Linux, in a new process.

    Args:
        arguments: What follows ``python``: ``-m`` and a module, or ``-c`` and a program, and their arguments.
        directory: Where to run it.
        environment: What to change in the environment; in a fork, too late for what is read on import.
        output: The name of the file there that it prints into.
    """
    path = os.pathsep.join([str(ROOT), *sys.path])
    own = {"PYTHONHASHSEED": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    if has_avx2():  # any compiler knows it: torch need not try, for seconds, in each new cache directory
        own["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
    with patch.dict(os.environ, {**own, **(environment or {})}):
        if sys.platform == "linux":  # on macOS, what libraries start on import may not survive a fork
            return Forked(list(arguments), directory, directory / output)
        with (directory / output).open("wb") as file:
            return subprocess.Popen([sys.executable, *arguments], cwd=directory, stdout=file, stderr=subprocess.PIPE)
