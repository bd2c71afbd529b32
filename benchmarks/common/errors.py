"""Errors that a user can cause: one line that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input. The command line prints the message as one line and exits with code 2."""


def one_line(error: BaseException) -> str:
    """An exception's kind and message without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def nearest_name(given: str, known: Iterable[str]) -> str:
    """A hint that offers the known name closest to `given`, or lists the known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names)}" if names else "none are known"
