"""Records on disk: the source of truth.

One folder per unit, one Parquet file per case, written atomically: a killed run leaves whole cases or nothing,
and the next run sees exactly what is missing.

    records/<suite>/units.json                         which unit is current for (method, dataset, fold)
    records/<suite>/<dataset>/<method>-<digest>/unit.json     what the unit is, in full
    records/<suite>/<dataset>/<method>-<digest>/<case>.parquet
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically, write_json
from benchmarks.metrics import is_metric
from benchmarks.prompting.prompts import SIMULATED

SCHEMA_VERSION = 2
"""Of the rows. 2 adds the spacing, the status "no-target" and the origin of the prompts; see `upgraded`."""

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

OK, FAILED, NO_TARGET = "ok", "failed", "no-target"
"""Whether a row is a measurement; a failure, which counts as the worst value; or a case in which the protocol has
nothing to ask, because no voxel of the target is there to be clicked on: the same for every method, and in no mean."""

SPACINGS = ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm")


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
        """Note the units of the latest plan, in its order; they replace older ones of the same method and dataset."""
        index = self.root / _file_name(suite) / "units.json"
        current = dict(_read_json(index)) if index.exists() else {}
        for folder in folders:
            unit = _read_json(folder / "unit.json")
            key = "|".join(str(unit[part]) for part in ("dataset", "fold", "method")) + f"|{unit['target']['name']}"
            current.pop(key, None)  # so that it takes the place that the plan gives it
            current[key] = str(folder.relative_to(index.parent))
        write_json(index, list(current.items()))

    def write_case(self, folder: Path, case_id: str, rows: list[dict[str, Any]]) -> Path:
        """Write all rows of one case of one unit, atomically."""
        path = folder / f"{_file_name(case_id)}.parquet"
        with atomically(path) as partial:
            pd.DataFrame(rows).to_parquet(partial, index=False)
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
        rows = [pd.read_parquet(path) for path in files]
        return upgraded(pd.concat(rows, ignore_index=True), str(folder)) if rows else pd.DataFrame()

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
        folders = [index.parent / relative for relative in dict(_read_json(index)).values()]
        folders = [folder for folder in folders if (folder / "unit.json").exists()]
        frames = [frame for frame in map(self.read_unit, folders) if not frame.empty]
        rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        return rows, [_read_json(folder / "unit.json") for folder in folders]


def upgraded(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Rows of an older schema in the form of this one; what was not recorded then is missing, not guessed.

    Schema 1 knows no spacing, and wrote a case without the target down as a failure of the method.

    Raises:
        UserError: rows of a newer schema.
    """
    if rows.empty or "schema_version" not in rows:
        return rows
    newest = int(rows["schema_version"].max())
    if newest > SCHEMA_VERSION:
        raise UserError(
            f"{where}: records of schema {newest}, this tags-bench reads up to {SCHEMA_VERSION}; use the newer one"
        )
    old = rows["schema_version"] < SCHEMA_VERSION
    if not old.any():
        return rows
    rows = rows.copy()
    for column in SPACINGS:
        rows[column] = rows.get(column, math.nan)
    for column, unsaid in (("prompt_origin", SIMULATED), ("prompt_bank", "")):
        rows[column] = rows.get(column, unsaid)
    nothing_there = old & (rows["status"] == FAILED) & rows["reason"].str.startswith("NoTarget:")
    rows.loc[nothing_there, "status"] = NO_TARGET
    rows.loc[nothing_there, [column for column in rows if is_metric(str(column))]] = math.nan
    return rows


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it or run with --fresh") from error


def _file_name(text: str) -> str:
    """A name that is safe in any folder: no separators, no leading dot; nothing two names share."""
    return quote(text, safe=" +@=,~()").replace(".", "%2E") if text.startswith(".") else quote(text, safe=" +@=,~()")
