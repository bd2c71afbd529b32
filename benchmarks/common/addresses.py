"""Addresses of servers and stores: what may be shown of them, and SQLite files as addresses."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.common.errors import UserError
from benchmarks.common.paths import user_path

_SQLITE = "sqlite:///"
_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s'\"]*@")


def without_password(text: str) -> str:
    """A text, such as an address or an error message, without the user names and passwords of its addresses."""
    return _CREDENTIALS.sub(r"\g<scheme>", text)


def sqlite_address(path: Path) -> str:
    """The address of an SQLite file.

    Raises:
        UserError: a path that no such address can express; SQLAlchemy cuts it at `?`, and MLflow decodes `%20`.
    """
    path = user_path(path).resolve()
    if "?" in str(path) or re.search(r"%[0-9a-fA-F]{2}", str(path)):
        raise UserError(f"{path.parent}: MLflow can keep no store in a folder with '?' or '%20' in its path; rename it")
    return f"{_SQLITE}{path}"


def sqlite_path(address: str) -> Path | None:
    """The file behind an SQLite address, None for any other address."""
    return Path(address.removeprefix(_SQLITE)) if address.startswith(_SQLITE) else None
