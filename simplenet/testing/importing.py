"""Import an object by its path, ``pkg.mod:name`` or ``folder/file.py:name``."""

import importlib
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def import_object(path: str, *, callable_: bool = True) -> Any:
    """Import an object by its path; the current directory is searched first, or that of the file.

    What the module prints goes to stderr, because stdout is for results.

    Args:
        path: The module, or a file whose name ends in ``.py``, and the name in it, separated by a colon.
        callable_: Whether it must be a class or a function.

    Raises:
        ValueError: If it cannot be imported.
    """
    module, _, name = path.partition(":")
    wanted = f"{path!r} should be the pkg.mod:name or file.py:name of an object to check"
    if not module or not name:
        raise ValueError(wanted)
    directory = Path.cwd()
    if module.endswith(".py"):
        if not Path(module).is_file():
            raise ValueError(f"{wanted}: there is no file {module!r}")
        directory, module = Path(module).resolve().parent, Path(module).stem
    sys.path.insert(0, str(directory))
    try:
        with redirect_stdout(sys.stderr):
            found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the import runs the user's code
        kind = "" if isinstance(error, ImportError | AttributeError | ValueError) else f"{type(error).__name__}: "
        where = _line_of(error)
        raise ValueError(f"{wanted}: {kind}{error}{where}") from None
    finally:
        sys.path.remove(str(directory))
    if callable_ and not callable(found):
        raise ValueError(f"{path!r} is of type {type(found).__name__}, but should be a class or a function")
    return found


def _line_of(error: BaseException) -> str:
    """Name the line that raised an exception of an import, if a module's code did."""
    ours = (__file__, importlib.__file__)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours]
    lines = [frame for frame in lines if not frame.filename.startswith("<frozen ")]
    return f" [{lines[-1].filename}, line {lines[-1].lineno}]" if lines else ""
