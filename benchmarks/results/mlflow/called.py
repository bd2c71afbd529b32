"""Which MLflow run the last call of a suite made, noted in the output folder: what is made later is added to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.files import safe_name, write_json


@dataclass(frozen=True)
class Called:
    """The run of a suite.

    Attributes:
        plan: what names it, as in every message of it.
        uri: the server that it was sent to, without a password; empty for the store of the output folder.
        units: the digests of its units.
    """

    plan: Mapping[str, Any]
    uri: str
    units: tuple[str, ...]


def note_call(out: Path, called: Called) -> None:
    """Keep it in the output folder. Raises OSError if that cannot be."""
    write_json(_file(out, str(called.plan["suite"])), asdict(called))


def last_call(out: Path, suite: str) -> Called | None:
    """The last call of a suite from an output folder; None if none was noted, or the note is damaged."""
    try:
        stored = json.loads(_file(out, suite).read_text(encoding="utf-8"))
        return Called(stored["plan"], str(stored["uri"]), tuple(stored["units"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def called_folder(out: Path) -> Path:
    """Where it is noted; no message lies there."""
    return out / "mlflow-outbox" / "called"


def _file(out: Path, suite: str) -> Path:
    return called_folder(out) / f"{safe_name(suite)}.json"
