"""Whether the rows of records can be true: columns, ranges, and counts against the numbers made of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.metrics import higher_is_better, is_metric
from benchmarks.prompting.prompts import SIMULATED

SCHEMA_VERSION = 2
"""Of the rows. 2 adds the spacing, the status "no-target" and the origin of the prompts; see `upgraded`."""

OK, FAILED, NO_TARGET = "ok", "failed", "no-target"
"""Whether a row is a measurement; a failure, which counts as the worst value; or a case in which the protocol has
nothing to ask, because no voxel of the target is there to be clicked on: the same for every method, and in no mean."""

SPACINGS = ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm")

WEIGHTS = "weights"
"""The column with the digest of the trained weights that a row comes by; empty or missing where that is not known."""

REQUIRED = ("schema_version", "dataset", "method", "case", "target", "protocol", "step", "status", "reason", "dice")
"""Columns that rows of every schema have."""

ROW = ["case", "target", "protocol", "step"]
"""What names a row inside its unit."""

Column = np.ndarray[Any, Any]
"""The values of one column, of whatever type they are."""

TOLERANCE = 1e-6  # between a number and the counts that it was made of


def faults_of(rows: pd.DataFrame, due: int | None, unit: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the rows of a unit: case → a reason in a few words; empty if all can be true.

    Args:
        due: rows that every case must have; None if that is not known.
        unit: the description of the unit that they should belong to; an empty one is not compared.
    """
    return _faults({str(column): rows[column].to_numpy() for column in rows}, due, unit)


def faults_of_case(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The same for the few rows of one case that were just made, without a table."""
    columns = dict.fromkeys(key for row in rows for key in row)
    return _faults({column: _array([row.get(column) for row in rows]) for column in columns}, None, {})


def _array(values: list[Any]) -> Column:
    """Of objects, where they are not all numbers."""
    if all(type(value) is float or type(value) is int for value in values):
        return np.array(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _faults(columns: Mapping[str, Column], due: int | None, unit: Mapping[str, Any]) -> dict[str, str]:
    names = [str(case) for case in columns.get("case", ())]
    absent = [column for column in REQUIRED if column not in columns]
    if absent:
        return dict.fromkeys(names if "case" in columns else ["?"], f"no column '{absent[0]}'")
    if not all(isinstance(version, (int, np.integer)) for version in columns["schema_version"]):
        return dict.fromkeys(names, "a schema that is no number")
    faults: dict[str, str] = {}
    for reason, wrong in _wrong_rows(columns, due, unit):
        for row in np.flatnonzero(wrong):
            faults.setdefault(names[row], reason)
    return faults


def _wrong_rows(columns: Mapping[str, Column], due: int | None, unit: Mapping[str, Any]) -> list[tuple[str, Column]]:
    found = [
        (f"rows of another {column}", np.array([value != unit[column] for value in columns[column]], bool))
        for column in ("unit", "method", "dataset")
        if column in unit and column in columns
    ]
    names = list(zip(*(columns[column] for column in ROW), strict=True))
    times = Counter(names)
    found.append(("a row comes twice", np.array([times[name] > 1 for name in names], bool)))
    if due is not None:
        number = Counter(columns["case"])
        wrong = np.array([number[case] != due for case in columns["case"]], bool)
        found.append((f"not the {due} rows that are due", wrong))
    known = [status in (OK, FAILED, NO_TARGET) for status in columns["status"]]
    found.append(("an unknown status", ~np.array(known, bool)))
    for column in filter(is_metric, columns):
        values = _numbers(columns[column])
        readable = ~np.isnan(values) | pd.isna(columns[column])  # else it is a text that is no number
        top = 1.0 + 1e-9 if higher_is_better(column) else math.inf
        wrong = ~readable | (values < 0) | (values > top) | np.isinf(values)
        found.append((f"{column} outside its range", wrong))
    return found + _against_counts(columns)


def _against_counts(columns: Mapping[str, Column]) -> list[tuple[str, Column]]:
    names = ("voxels_reference", "voxels_prediction", "voxels_intersection")
    if not all(name in columns for name in names):
        return []
    reference, prediction, both = (_numbers(columns[name]) for name in names)
    dice = _numbers(columns["dice"])
    impossible = (np.minimum(reference, prediction) < both) | (both < 0)
    found = [("voxel counts that cannot be", impossible)]
    overlap = (reference > 0) & (prediction > 0)  # else the policy for empty masks decides
    with np.errstate(all="ignore"):
        found.append(
            ("a Dice that its voxel counts contradict", overlap & ~_near(dice, 2 * both, reference + prediction))
        )
        if "iou" in columns:
            contradicted = overlap & ~_near(_numbers(columns["iou"]), both, reference + prediction - both)
            found.append(("an IoU that its voxel counts contradict", contradicted))
    empty = ~overlap & np.isfinite(dice) & (dice != 0.0) & (dice != 1.0)
    return [*found, ("a Dice that no empty mask has", empty & (reference + prediction >= 0))]


def _numbers(values: Column) -> Column:
    """As float64; what is no number is NaN."""
    return values.astype(np.float64) if values.dtype.kind in "iuf" else np.array([_number(value) for value in values])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _near(value: Any, part: Any, whole: Any) -> Any:
    return np.abs(value - part / whole) <= TOLERANCE


def weights_in(rows: pd.DataFrame) -> set[str]:
    """By which trained weights rows come, as far as they say it."""
    return set(rows[WEIGHTS].dropna().astype(str)) - {""} if WEIGHTS in rows else set()


def checksum(rows: pd.DataFrame) -> str:
    """SHA-256 (hex) of the values of a table, column by column, whatever file or library they went through."""
    found = hashlib.sha256()
    for column in sorted(map(str, rows.columns)):
        values = rows[column]
        found.update(f"{column}\0".encode())
        if values.dtype.kind in "biu":
            found.update(values.to_numpy(np.int64).tobytes())
        elif values.dtype.kind == "f":
            numbers = values.to_numpy(np.float64)
            found.update(np.where(np.isnan(numbers), np.nan, numbers).tobytes())
        else:
            found.update(json.dumps([_plain(value) for value in values]).encode())
    return found.hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, (bool, int, float)) else str(value)


def rows_due(unit: Mapping[str, Any]) -> int | None:
    """Rows of every case of a unit: the steps of all its protocols; None if the description does not say."""
    from benchmarks.prompting.simulated_user import Protocol

    protocols: Sequence[Any] | None = unit.get("protocols")
    if protocols is None:
        return None
    return sum(Protocol.from_mapping(one).rounds for one in protocols)


def upgraded(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Rows of an older schema in the form of this one; what was not recorded then is missing, not guessed.

    Schema 1 knows no spacing, and wrote a case without the target down as a failure of the method.

    Raises:
        UserError: rows of a newer schema.
    """
    if rows.empty or "schema_version" not in rows or not pd.api.types.is_integer_dtype(rows["schema_version"]):
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
