"""Errors that a user can cause: one line that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input. The command line prints the message as one line and exits with code 2."""


class MachineFault(Exception):
    """The machine failed, not the method: a full disk, a missing shared folder, a process that was killed.

    It is never a method's result: the work is tried again elsewhere, and is then without one.
    """


FAULTS_OF_FILES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT}
)
"""What an OSError says when the storage, not the file, is at fault."""


def is_fault_of_files(error: BaseException | None) -> bool:
    """Whether the storage is at fault, somewhere in the chain of causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FAULTS_OF_FILES:
            return True
        error = error.__cause__ or error.__context__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the processor or of the GPU. Imports no torch."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


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
