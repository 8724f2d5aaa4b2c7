"""Whether plain values, as JSON and TOML hold them, have the types that a dataclass states."""

import sys
from types import UnionType
from typing import Any, Literal, get_args, get_origin


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field: plain ones, literals, unions, tuples (lists, too), tables.

    A float may be an integer, if it is no larger than floats are; NaN and infinity are none.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if isinstance(hint, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(each) and all(map(fits, value, each))
    if origin is dict:
        return isinstance(value, dict)
    if hint in (int, float):
        number = isinstance(value, hint | int) and not isinstance(value, bool)
        return number and (hint is int or abs(value) <= sys.float_info.max)
    return isinstance(value, hint)
