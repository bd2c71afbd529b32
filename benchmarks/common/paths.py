"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common.errors import UserError, shorten


def user_path(given: str | Path) -> Path:
    """The path that is meant, with `~` replaced. Whether it exists is another question.

    Raises:
        UserError: `~name` of nobody, a character that no path may hold, or a name that no disk takes.
    """
    path = Path(given)
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
    return path
