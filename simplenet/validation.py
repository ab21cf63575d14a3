"""Arguments are checked before any work, so that a wrong one is named at once.

Every message says which argument, its value and what it should be, and is a ``TypeError`` or a
``ValueError``. The types are Python's: an ``int`` is not a ``bool``, and NumPy's integers are not
``int``; a float may be given as an ``int``, and NumPy's float64 is a ``float``. What a check returns is
of Python's own type, for a checkpoint that holds NumPy's does not load without running code.
"""

import reprlib
from collections.abc import Iterable
from typing import TypeVar

# A layer of 2**20 units is 16 MiB of float32.
MAX_HIDDEN = 2**20

# Adam's first step size is ten times the learning rate, which float32 has to hold: it ends at 3.4e38.
MAX_LR = 1e37

_T = TypeVar("_T")
_Str = TypeVar("_Str", bound=str)

# Longer integers may not be written out: Python limits its own conversion.
_MOST_BITS = 2048


class _Repr(reprlib.Repr):
    """What a message shows of a value, however large it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlong = self.maxstring = self.maxother = 80

    repr_bytes = reprlib.Repr.repr_str

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < _MOST_BITS else f"an integer of {x.bit_length()} bits"


shown = _Repr().repr


def refuse_type(name: str, value: object, wanted: str) -> TypeError:
    """Make the error of a value of the wrong type, to be raised.

    Args:
        name: Of the argument.
        value: Of the argument.
        wanted: What it should be, with its article.
    """
    return TypeError(f"{name} is {shown(value)} of type {type(value).__name__}, but should be {wanted}")


def check_type(name: str, value: object, kind: type[_T]) -> _T:
    """Return a value of that type.

    Raises:
        TypeError: If it is of another.
    """
    if not isinstance(value, kind):
        raise refuse_type(name, value, f"a {kind.__name__}")
    return value


def check_int(name: str, value: object, low: int, high: int) -> int:
    """Return an integer from ``low`` to ``high``.

    Raises:
        TypeError: If it is not an ``int``; ``bool`` is not one here, nor are NumPy's integers.
        ValueError: If it is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse_type(name, value, "an int")
    if not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, but should be from {low} to {high}")
    return int(value)


def check_float(name: str, value: object, low: float, high: float, *, ends: bool = True) -> float:
    """Return a number from ``low`` to ``high``, which are finite; so it is neither NaN nor infinite.

    Args:
        name: Of the argument.
        value: Of the argument.
        low: The least.
        high: The greatest.
        ends: Whether it may be ``low`` or ``high`` itself.

    Raises:
        TypeError: If it is neither a ``float`` nor an ``int``; ``bool`` is not one here.
        ValueError: If it is out of range.
    """
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise refuse_type(name, value, "a float")
    if not (low <= value <= high if ends else low < value < high):
        wanted = f"from {low:g} to {high:g}" if ends else f"above {low:g} and below {high:g}"
        raise ValueError(f"{name} is {shown(value)}, but should be {wanted}")
    return float(value)


def check_choice(name: str, value: object, choices: Iterable[_Str]) -> _Str:
    """Return the one of the choices that a value is.

    Raises:
        TypeError: If it is not a ``str``.
        ValueError: If it is none of them.
    """
    check_type(name, value, str)
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} is {shown(value)}, but should be one of {', '.join(choices)}")
    return choices[choices.index(value)]
