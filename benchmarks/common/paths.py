"""Paths as users write them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from benchmarks.common.errors import UserError, shorten

LONGEST_NAME = 255
"""Bytes of a name that disks take."""
NAME_LENGTH = 150
"""Of a name; suffixes and digests still fit into `LONGEST_NAME`."""


def user_path(name: str | Path) -> Path:
    """The path that is meant, with `~` replaced. Whether it exists is another question.

    Raises:
        UserError: `~name` of nobody, a character that no path may hold, or a name that no disk takes.
    """
    path = Path(name)
    if "\0" in str(path):
        raise UserError(f"{shorten(str(path))!r}: a path cannot hold a NUL")
    try:
        path = path.expanduser()
        path.lstat()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no user '{path.parts[0].removeprefix('~')}'") from error
    except UnicodeError as error:
        raise UserError(f"{shorten(str(path))!r}: no name of a file") from error
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except OSError as error:
        raise UserError(f"{shorten(str(path))}: {error.strerror or error}") from error
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):  # below a folder that is not there yet
        raise UserError(f"{shorten(str(path))}: {os.strerror(errno.ENAMETOOLONG)}")
    return path


def whole_path(path: Path) -> Path:
    """The path from the root on, by which a folder is known whatever links lead to it.

    A link to a file stays one: its own name has the ending, and what a table names may lie beside it, as in stores
    of git-annex and DVC.
    """
    return path.resolve() if os.path.isdir(path) else path.parent.resolve() / path.name


def check_name(text: str, what: str) -> str:
    """A name that files and folders are made of, unchanged.

    Raises:
        UserError: it could lead to another folder, or no disk takes it; `what` says whose name it is.
    """
    if not text or text in (".", "..") or not text.isprintable() or set(text) & set("/\\") or len(text) > NAME_LENGTH:
        shown = shorten(ascii(text)[1:-1], 80)
        raise UserError(f"{what} '{shown}' is no name: it must have 1 to {NAME_LENGTH} letters, and no / or \\")
    return text
