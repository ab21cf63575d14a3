"""Planted faults, and three functions to plant them; a fault stays planted until the process ends."""

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from simplenet.environment import TORCH
from simplenet.testing.report import Report


class StaleFault(Exception):  # noqa: N818 - the fault is at fault
    """The code that a fault breaks no longer exists."""


@dataclass(frozen=True)
class Fault:
    """One thing that is broken, and the tests that must detect it.

    Attributes:
        name: The name by which it is selected.
        subject: The part of the project that it breaks.
        text: The fault, in a sentence.
        plant: Plants the fault in this process.
        witness: Returns a value that must change when the fault is planted.
        killed_by: The tests that should fail, in order, by function, by case or by the stem of their file; the first
            failure ends the run.
        link: A report of a similar fault.
        control: Whether nothing is broken: the witness keeps its value, and the tests pass.
        since: The first release of torch with the code that is broken.
        judge: For a fault that is an optimizer or a network: checks it.
    """

    name: str
    subject: str
    text: str
    plant: Callable[[], None]
    witness: Callable[[], object] | None
    killed_by: tuple[str, ...] = ()
    link: str = ""
    control: bool = False
    since: tuple[int, int] = (2, 0)
    judge: Callable[[], Report] | None = None

    @property
    def is_here(self) -> bool:
        """Whether this torch has the code that it breaks."""
        return self.since <= TORCH


def catalogue(subject: str) -> tuple[list[Fault], Callable[..., Any]]:
    """Return an empty list of faults, and a decorator that adds to it."""
    faults: list[Fault] = []

    def fault(witness: Callable[[], object], *killed_by: str, **options: Any) -> Callable[..., Any]:
        def add(plant: Callable[[], None]) -> Callable[[], None]:
            name, text = plant.__name__.replace("_", "-"), inspect.cleandoc(plant.__doc__ or "")
            faults.append(Fault(name, subject, text, plant, witness, killed_by, **options))
            return plant

        return add

    return faults, fault


def replace(old: object, new: object) -> None:
    """Replace an object by another in every module that refers to it.

    Raises:
        StaleFault: If no module does.
    """
    names = [
        (module, name)
        for module in list(sys.modules.values())
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is old and module.__name__ != __name__
    ]
    if not names:
        raise StaleFault(f"no module holds {old!r}")
    for module, name in names:
        setattr(module, name, new)


_edited: dict[Callable[..., Any], str] = {}  # the current source, by function


def _source(function: Callable[..., Any]) -> str:
    """Return the code of a function without its decorators, comments and line breaks."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    tree.decorator_list = []
    return ast.unparse(tree)


def edit(function: Any, *changes: tuple[str, str]) -> None:
    """Change the code of a function for all references to it.

    Args:
        function: A function, a property or a wrapper of a function.
        changes: Pairs of an old text, which must occur once in the output of ``ast.unparse``, and a new text.

    Raises:
        StaleFault: If an old text occurs never or more than once.
    """
    function = function.fget if isinstance(function, property) else getattr(function, "callback", function)
    function = inspect.unwrap(function)
    source = _edited.get(function) or _source(function)
    for old, new in changes:
        if source.count(old) != 1:
            raise StaleFault(f"{function.__qualname__} has {old!r} {source.count(old)} times, but should have it once")
        source = source.replace(old, new)
    _edited[function] = source
    free = function.__code__.co_freevars
    lines = [f"def outer({', '.join(free)}):", textwrap.indent(source, "    "), f"    return {function.__name__}"]
    outer = compile("\n".join(lines), f"<{function.__qualname__} with a fault>", "exec")
    function.__code__ = next(
        code for code in _nested(outer) if code.co_name == function.__name__ and code.co_freevars == free
    )


def _nested(code: Any) -> Iterator[Any]:
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield constant
            yield from _nested(constant)


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace an attribute by ``around(original, *arguments, **options)``.

    Raises:
        StaleFault: If there is no such attribute.
    """
    original = getattr(owner, name, None)
    if original is None:
        raise StaleFault(f"{owner!r} has no {name}")

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        return around(original, *arguments, **options)

    setattr(owner, name, wrapped)
