"""What keeps a rehearsal and results apart: a folder of its own, and marked units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError

MARK = "REHEARSAL"
NOTICE = (
    "REHEARSAL: networks with weights by a rule, two steps of training, one case. It shows that the road is passable "
    "and what it costs. No number here says anything about any method."
)


def claim(folder: Path) -> None:
    """Make a folder one of rehearsals.

    Raises:
        UserError: it holds the records of runs.
    """
    if not _marked(folder):
        if (folder / "records").is_dir():
            raise UserError(f"--out {folder}: holds the records of runs; a rehearsal needs a folder of its own")
        (folder / f"{MARK}.txt").write_text(f"{NOTICE}\n", encoding="utf-8")


def keep_results_out(folder: Path, rehearsal: bool) -> None:
    """Raise UserError if results would be written into a folder of rehearsals."""
    if _marked(folder) and not rehearsal:
        raise UserError(f"--out {folder}: is a folder of rehearsals; results need another one")


def refuse_rehearsal(suite: str, units: Iterable[Mapping[str, Any]]) -> None:
    """Raise UserError if the records of a suite are those of a rehearsal: they are no results."""
    if any(unit.get("rehearsal") for unit in units):
        raise UserError(f"'{suite}' was rehearsed, not run: its records are no results; `tags-bench run` makes some")


def _marked(folder: Path) -> bool:
    return (folder / f"{MARK}.txt").is_file()
