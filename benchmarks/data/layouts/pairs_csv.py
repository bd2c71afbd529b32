"""A table of pairs: a CSV file with the columns image and label, and optionally case, patient, modality and split.

A column split (train, validation, test) is followed, see `split_files`; others may serve to leave one centre out.
Paths are relative to the folder of the table; where the table is a link, to that of the link or, failing that, of the
file it leads to. For data that lie in no known layout.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from benchmarks.common.errors import UserError, shorten
from benchmarks.common.paths import check_name, user_path
from benchmarks.data.dataset import Dataset, DatasetInfo
from benchmarks.data.intensities import CT, named_modality
from benchmarks.data.layouts.layout import Pair, Splitting, assemble, volume_stem
from benchmarks.data.splits import StoredSplits

REQUIRED = ("image", "label")


def load(
    table: Path, info: DatasetInfo, *, stored: StoredSplits | None = None, seed: int = 0, strict: bool = True
) -> Dataset:
    """The pairs of a CSV file, split by patient. Columns beyond these are left alone.

    Raises:
        UserError: unreadable, a column or a value is missing, a case twice, or as `assemble` does.
    """
    pairs = [_pair(table, number, row) for number, row in enumerate(_rows(table), start=2)]
    seen: set[str] = set()
    for found in pairs:
        if found.case_id in seen:
            raise UserError(f"{table}: case '{found.case_id}' stands in two lines; give a column 'case'")
        seen.add(found.case_id)
    return assemble(info, table.parent, pairs, Splitting(stored, "patient", seed), strict=strict)


def modality(table: Path) -> str:
    """What the column `modality` says of all scans; CT without one. Raises UserError if it names several."""
    found = {named_modality(words) for row in _rows(table) if (words := (row.get("modality") or "").strip())}
    if len(found) > 1:
        raise UserError(f"{table}: scans of {', '.join(sorted(found))}; a dataset has one modality")
    return found.pop() if found else CT


def has_split(table: Path) -> bool:
    """Whether the table says which case is trained on and which is tested."""
    return "split" in _rows(table)[0] if _rows(table) else False


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in REQUIRED if name not in (reader.fieldnames or [])]
            if missing:
                raise UserError(f"{table}: no column '{missing[0]}'; needed: image, label [, case, patient]")
            return list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{table}: not readable as a CSV table ({shorten(str(error))})") from error


def _pair(table: Path, number: int, row: dict[str, str]) -> Pair:
    image, label, case_id, patient = ((row.get(name) or "").strip() for name in ("image", "label", "case", "patient"))
    if not image or not label:
        raise UserError(f"{table}, line {number}: image or label is empty")
    path = _beside(table, image)
    case_id = case_id or volume_stem(path) or path.name
    check_name(case_id, f"{table}, line {number}: case")
    return Pair(case_id, path, _beside(table, label), patient)


def _beside(table: Path, name: str) -> Path:
    """What a table names; beside the table, or where it is a link and nothing lies there, beside the file itself."""
    path = user_path(table.parent / name)
    if table.is_symlink() and not os.path.lexists(path):
        return user_path(table.resolve().parent / name)
    return path
