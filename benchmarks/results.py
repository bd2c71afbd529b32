"""Records on disk: the source of truth.

One folder per unit, one Parquet file per case, written atomically: a killed run leaves whole cases or nothing,
and the next run sees exactly what is missing.

    records/<suite>/units.json                         which unit is current for (method, dataset, fold)
    records/<suite>/<dataset>/<method>-<digest>/unit.json     what the unit is, in full
    records/<suite>/<dataset>/<method>-<digest>/<case>.parquet
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from benchmarks.errors import UserError

SCHEMA_VERSION = 1

IDENTITY = [
    "suite",
    "unit",
    "dataset",
    "fold",
    "method",
    "case",
    "patient",
    "target",
    "protocol",
    "track",
    "step",
]

OK, FAILED = "ok", "failed"


class RecordStore:
    """The records of one output folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def unit_folder(self, suite: str, dataset: str, method: str, digest: str) -> Path:
        """Where the records of a unit lie."""
        return self.root / _file_name(suite) / _file_name(dataset) / f"{_file_name(method)}-{digest}"

    def begin_unit(self, folder: Path, description: Mapping[str, Any]) -> None:
        """Create the folder of a unit and write down what it is."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "unit.json", description)

    def forget_unit(self, folder: Path) -> None:
        """Delete the records of a unit, so that it is computed afresh."""
        shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None

    def set_current(self, suite: str, folders: Iterable[Path]) -> None:
        """Note the units of the latest plan; they replace older units of the same method, dataset and fold."""
        index = self.root / _file_name(suite) / "units.json"
        current = _read_json(index) if index.exists() else {}
        for folder in folders:
            unit = _read_json(folder / "unit.json")
            key = "|".join(str(unit[part]) for part in ("dataset", "fold", "method")) + f"|{unit['target']['name']}"
            current[key] = str(folder.relative_to(index.parent))
        write_json(index, current)

    def write_case(self, folder: Path, case_id: str, rows: list[dict[str, Any]]) -> Path:
        """Write all rows of one case of one unit, atomically."""
        path = folder / f"{_file_name(case_id)}.parquet"
        partial = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            pd.DataFrame(rows).to_parquet(partial, index=False)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def finished(self, folder: Path, case_ids: Iterable[str], retry_failed: bool = False) -> set[str]:
        """The cases that need no more work; with `retry_failed`, those with a failed row do."""
        done = set()
        for case_id in case_ids:
            path = folder / f"{_file_name(case_id)}.parquet"
            if not path.exists():
                continue
            if retry_failed and (pd.read_parquet(path, columns=["status"])["status"] == FAILED).any():
                continue
            done.add(case_id)
        return done

    def read_unit(self, folder: Path) -> pd.DataFrame:
        """All rows of a unit; an empty frame if there are none."""
        files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
        return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True) if files else pd.DataFrame()

    def suites(self) -> list[str]:
        """Names of the suites that have records here."""
        return sorted(path.parent.name for path in self.root.glob("*/units.json"))

    def read_suite(self, suite: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
        """The rows of the current units of a suite, and the descriptions of those units.

        Raises:
            UserError: there are no records of that suite.
        """
        index = self.root / _file_name(suite) / "units.json"
        if not index.exists():
            have = ", ".join(self.suites()) or "none"
            raise UserError(f"{self.root}: no records of suite '{suite}' (have: {have}); run `tags-bench run` first")
        folders = [index.parent / relative for relative in _read_json(index).values()]
        folders = [folder for folder in folders if (folder / "unit.json").exists()]
        frames = [frame for frame in map(self.read_unit, folders) if not frame.empty]
        rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        return rows, [_read_json(folder / "unit.json") for folder in folders]


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    partial.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it or run with --fresh") from error


def _file_name(text: str) -> str:
    """A name that is safe in any folder: no separators, no leading dot; nothing two names share."""
    return quote(text, safe=" +@=,~()").replace(".", "%2E") if text.startswith(".") else quote(text, safe=" +@=,~()")
