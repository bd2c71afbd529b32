"""The value that a suite gives for a setting, held against what the method itself has there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
"""A number such as 1e-3 or 1.5e3, which YAML 1.2 knows as one; the reader of suites, of YAML 1.1, takes it for text."""


def fitting(value: Any, known: Sequence[Any]) -> Any:
    """The value as the setting takes it: as it is, or a number where it is one in text.

    A whole number may stand for a real one, and stays whole; a list may stand for a tuple, and None for a list.

    Args:
        known: values that the setting can have, such as its default. None or a word (which may stand beside numbers
            or switches, like "auto") says nothing of what else it takes.

    Raises:
        ValueError: what the setting takes.
    """
    for one in known:
        try:
            return _of_kind(value, one)
        except TypeError:
            continue
    kinds = {type(one): _kind(one) for one in reversed(known)}  # in the words of the first of each
    raise ValueError(" or ".join(reversed(kinds.values())))


def _of_kind(value: Any, like: Any) -> Any:
    """The value, if it is of the kind of another; raises TypeError."""
    if like is None or isinstance(like, str):
        return value
    if isinstance(like, bool):
        return _checked(value, isinstance(value, bool))
    if isinstance(like, int):
        return _checked(value, isinstance(value, int) and not isinstance(value, bool))
    if isinstance(like, float):
        number = float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
        real = isinstance(number, (int, float)) and not isinstance(number, bool)
        return _checked(number, real and number == number)  # NaN is none
    if isinstance(like, (list, tuple)):
        return _list_like(value, like)
    return _checked(value, isinstance(value, Mapping) or not isinstance(like, Mapping))


def _list_like(value: Any, like: Sequence[Any]) -> Any:
    """A list whose every value is of the kind of one in the other; itself where none of them had to be read.

    None is left to the method: the same setting of another size may be "none given".
    """
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise TypeError
    try:
        read = [fitting(one, like) if like else one for one in value]
    except ValueError as error:
        raise TypeError from error
    return value if all(one is other for one, other in zip(read, value, strict=True)) else read


def _checked(value: Any, fits: bool) -> Any:
    if not fits:
        raise TypeError
    return value


def _kind(like: Any) -> str:
    """What a setting takes that has this value, in words."""
    if isinstance(like, bool):
        return "true or false"
    if isinstance(like, int):
        return "a whole number"
    if isinstance(like, float):
        return "a number"
    if isinstance(like, (list, tuple)):
        return f"a list such as {list(like)}" if like else "a list"
    return "a mapping"
