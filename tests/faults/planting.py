"""What a planted fault is, and the few ways to plant one: it stays in the process until that ends."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from simplenet.environment import TORCH
from simplenet.testing.report import Report


class StaleFault(Exception):  # noqa: N818 - the fault is at fault
    """The code that a fault breaks is no longer there."""


@dataclass(frozen=True)
class Fault:
    """One thing that is broken, and what has to notice it.

    Attributes:
        name: By which it is selected.
        subject: What it breaks.
        text: What is wrong, in a sentence.
        plant: Break it, in this process.
        witness: What shows that it is broken: its value is another one once the fault is planted.
        killed_by: The tests that should fail, in order, by function, by case or by the stem of their file; the first
            that fails ends the run.
        link: A report of a fault like it.
        control: Whether nothing is broken: the witness keeps its value, and the tests pass.
        since: The first torch that has what is broken.
        judge: Where the fault is an implementation of its own: check it.
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
        """Whether this torch has what it breaks."""
        return self.since <= TORCH


def catalogue(subject: str) -> tuple[list[Fault], Callable[..., Any]]:
    """Start a list of faults, and return it with the decorator that adds one to it."""
    faults: list[Fault] = []

    def fault(witness: Callable[[], object], *killed_by: str, **options: Any) -> Callable[..., Any]:
        def add(plant: Callable[[], None]) -> Callable[[], None]:
            name, text = plant.__name__.replace("_", "-"), inspect.cleandoc(plant.__doc__ or "")
            faults.append(Fault(name, subject, text, plant, witness, killed_by, **options))
            return plant

        return add

    return faults, fault


def replace(old: object, new: object) -> None:
    """Put one object in the place of another in every module that has it by a name.

    Raises:
        StaleFault: If none has.
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


_edited: dict[Callable[..., Any], str] = {}  # by function, what it is by now


def _source(function: Callable[..., Any]) -> str:
    """Return the code of a function without its decorators, comments and line breaks."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    tree.decorator_list = []
    return ast.unparse(tree)


def edit(function: Any, *changes: tuple[str, str]) -> None:
    """Change the code of a function, wherever it is held.

    Args:
        function: A function, property or what is wrapped around one.
        changes: What is there, once, in the code as ``ast.unparse`` writes it, and what to put there.

    Raises:
        StaleFault: If it is not there, or more than once.
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
    """Put ``around(original, *arguments, **options)`` in the place of an attribute.

    Raises:
        StaleFault: If it is not there.
    """
    original = getattr(owner, name, None)
    if original is None:
        raise StaleFault(f"{owner!r} has no {name}")

    def wrapped(*arguments: Any, **options: Any) -> Any:
        return around(original, *arguments, **options)

    wrapped.__name__ = name
    setattr(owner, name, wrapped)
