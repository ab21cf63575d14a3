"""Check arguments before any work is done.

Every error is a ``TypeError`` or a ``ValueError`` that names the argument, its value and what it should be.
The types are Python's: a ``bool`` is not accepted as an ``int``, nor are NumPy's integers; an ``int`` is
accepted as a float, and NumPy's float64 is a ``float``. The checks return values of Python's own types,
because a checkpoint with NumPy's types does not load without running code.
"""

import reprlib
from collections.abc import Iterable
from typing import TypeVar

# A layer of 2**20 units is 16 MiB of float32.
MAX_HIDDEN = 2**20

# Adam's first step size is ten times the learning rate, and float32 must represent it: its largest number is 3.4e38.
MAX_LR = 1e37

# Ten million epochs take hours, and the losses of their steps take a gigabyte.
MAX_EPOCHS = 10**7

_T = TypeVar("_T")
_Str = TypeVar("_Str", bound=str)

# Python limits the conversion of longer integers to strings.
_MOST_BITS = 2048


class _Repr(reprlib.Repr):
    """Abbreviate values of any size for messages."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlong = self.maxstring = self.maxother = 80

    repr_bytes = reprlib.Repr.repr_str

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < _MOST_BITS else f"an integer of {x.bit_length()} bits"


shown = _Repr().repr


def refuse_type(name: str, value: object, wanted: str) -> TypeError:
    """Return the error to raise for a value of the wrong type.

    Args:
        name: The argument's name.
        value: The argument's value.
        wanted: The expected type, with its article.
    """
    return TypeError(f"{name} is {shown(value)} of type {type(value).__name__}, but should be {wanted}")


def check_type(name: str, value: object, kind: type[_T]) -> _T:
    """Return the value if it is of this type.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, kind):
        raise refuse_type(name, value, f"a {kind.__name__}")
    return value


def check_int(name: str, value: object, low: int, high: int) -> int:
    """Return an integer from ``low`` to ``high``.

    Raises:
        TypeError: If it is not an ``int``; ``bool`` and NumPy's integers are refused.
        ValueError: If it is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse_type(name, value, "an int")
    if not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, but should be from {low} to {high}")
    return int(value)


def check_float(name: str, value: object, low: float, high: float, *, ends: bool = True) -> float:
    """Return a number from ``low`` to ``high``, which are finite; NaN and infinity are refused.

    Args:
        name: The argument's name.
        value: The argument's value.
        low: The smallest value.
        high: The largest value.
        ends: Whether ``low`` and ``high`` themselves are allowed.

    Raises:
        TypeError: If it is neither a ``float`` nor an ``int``; ``bool`` is refused.
        ValueError: If it is out of range.
    """
    if not isinstance(value, float | int) or isinstance(value, bool):
        raise refuse_type(name, value, "a float")
    if not (low <= value <= high if ends else low < value < high):
        wanted = f"from {low:g} to {high:g}" if ends else f"above {low:g} and below {high:g}"
        raise ValueError(f"{name} is {shown(value)}, but should be {wanted}")
    return float(value)


def check_choice(name: str, value: object, choices: Iterable[_Str]) -> _Str:
    """Return the choice that equals the value.

    Raises:
        TypeError: If it is not a ``str``.
        ValueError: If it is not one of the choices.
    """
    check_type(name, value, str)
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} is {shown(value)}, but should be one of {', '.join(choices)}")
    return choices[choices.index(value)]
