"""Errors that a user can cause: one line that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
import errno
import socket
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

LONGEST_MESSAGE = 2000


class UserError(Exception):
    """Wrong input. The command line prints the message as one line and exits with code 2.

    The message may quote input: what would break the line, or command a terminal, is shown by its escape, and what is
    longer than anybody reads is cut off.
    """

    def __init__(self, message: str) -> None:
        line = printable(message[: LONGEST_MESSAGE + 1])
        super().__init__(line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…")


class MachineFault(Exception):
    """The machine failed, not the method: a full disk, a missing shared folder, a process that was killed.

    It is never a method's result: the work is tried again elsewhere, and is then without one.
    """


FAULTS_OF_FILES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT}
)
"""What an OSError says when the storage, not the file, is at fault."""

KEYS = ("EKEYEXPIRED", "EKEYREVOKED", "EKEYREJECTED", "ENOKEY")  # Linux has them
FAULTS_OF_READING = FAULTS_OF_FILES | {
    errno.EACCES,
    errno.EPERM,
    *(number for number in (getattr(errno, name, None) for name in KEYS) if number is not None),
}
"""Those, and what it says where the bench itself must not read any more what it could: a ticket that has run out."""


def is_fault_of_files(error: BaseException | None, numbers: Collection[int] = FAULTS_OF_FILES) -> bool:
    """Whether the storage is at fault, somewhere in the chain of causes."""
    return any(isinstance(one, OSError) and one.errno in numbers for one in _chain(error))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, of the processor or of the GPU, somewhere in the chain of causes. Imports no torch."""
    torch = sys.modules.get("torch")
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return any(isinstance(one, kinds) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and what caused that."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def fault_here(error: BaseException) -> MachineFault:
    """The fault of this machine that an error was; raise it `from` that error."""
    return MachineFault(f"{one_line(error)} on {socket.gethostname()}")


@contextmanager
def machine_faults(numbers: Collection[int] = FAULTS_OF_FILES) -> Iterator[None]:
    """Turns a failing storage, by these numbers of an OSError, into a `MachineFault` that names the machine."""
    try:
        yield
    except MachineFault:
        raise
    except Exception as error:
        if is_fault_of_files(error, numbers):
            raise fault_here(error) from error
        raise


def one_line(error: BaseException, limit: int = 1000) -> str:
    """An exception's kind and message without line breaks, cut off where it is longer than anybody reads."""
    return shorten(f"{type(error).__name__}: {error}", limit)


def printable(text: str) -> str:
    """A text with what would break a line, command a terminal, or cannot be written as UTF-8, shown by its escape."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def shorten(text: str, limit: int = 200) -> str:
    """A text that came from outside, on one line and not longer than `limit`: a message may quote a whole file."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit and len(text) <= 4 * limit else f"{line[:limit]}…"


def nearest_name(name: str, known: Iterable[str]) -> str:
    """A hint that offers the known name closest to `name`, or lists the known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names)}" if names else "none are known"
