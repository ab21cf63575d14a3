"""Find what a user names on a command line: ``pkg.mod:name``."""

import importlib
import sys
from pathlib import Path
from typing import Any


def import_object(path: str, *, callable_: bool = True) -> Any:
    """Import an object by its path; modules of the current directory are found first.

    Args:
        path: The module and the name in it, with a colon between them.
        callable_: Whether it has to be a class or a function.

    Raises:
        ValueError: If there is none.
    """
    module, _, name = path.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever importing it raises
        kind = "" if isinstance(error, ImportError | AttributeError | ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path!r} should be pkg.mod:name of what is to be checked: {kind}{error}") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if callable_ and not callable(found):
        raise ValueError(f"{path!r} is a {type(found).__name__}, but should be a class or a function")
    return found
