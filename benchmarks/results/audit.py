"""From a number back to what made it: the record of a case, its masks, its prompts, its log, and what decided them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import read_json, safe_name
from benchmarks.metrics import metrics_among
from benchmarks.results.predictions import facts_file, mask_file, step_stem
from benchmarks.results.record_rows import WEIGHTS

Unit = Mapping[str, Any]

DECIDES = ("method_name", "method_version", "config", "checkpoint", "budget", "seed", "dataset_version", "cases_digest",
           "prompts_digest", "empty_policy", "tolerances_mm", "metrics_version", "lesion_rule")  # fmt: skip
"""What of a unit's description decides its numbers."""

FACTS = ("status", "reason", "clicks", "carried", "seconds_open", "seconds_segment", "joules", "peak_memory_mb",
         "device")  # fmt: skip


@dataclass(frozen=True)
class Trail:
    """One case under one unit, from its rows back.

    Attributes:
        unit: the description.
        steps: for each protocol and step the metrics, facts, prompts, and `mask` and `side_car` (files, from the output
            folder on; empty where none was kept, or where it is gone). `no_mask` says why a mask that is there is not
            that of the record.
        places: record, description, log, checkpoint, prompt banks: what they are → where they lie.
        decided_by: what the numbers follow from; equal for two units only if their numbers are.
    """

    unit: Unit
    steps: tuple[Mapping[str, Any], ...]
    places: Mapping[str, str]
    decided_by: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        names = {key: self.unit[key] for key in ("suite", "dataset", "fold", "method", "unit")}
        names["target"] = self.unit["target"]["name"]
        return {**names, "steps": list(self.steps), "places": dict(self.places), "decided_by": dict(self.decided_by)}


def trails_of(
    rows: pd.DataFrame, units: Sequence[Unit], out: Path, case: str, method: str | None = None
) -> tuple[Trail, ...]:
    """All units that evaluated a case.

    Args:
        out: the output folder of the run.
        case: `dataset/case_id`, or the case alone where one data set has it.
        method: only this one.

    Raises:
        UserError: no such case or method, or a case that several data sets have.
    """
    dataset, name = _place_of(rows, case)
    mine = rows[(rows["case"] == name) & (rows["dataset"] == dataset)]
    if method is not None:
        known = list(dict.fromkeys(mine["method"]))
        if method not in known:
            raise UserError(f"no method '{method}' evaluated {dataset}/{name}; {nearest_name(method, known)}")
        mine = mine[mine["method"] == method]
    found = []
    for unit in units:
        own = mine[(mine["unit"] == unit["unit"]) & (mine["method"] == unit["method"])]
        if len(own):
            found.append(_trail(own, unit, out, name))
    return tuple(found)


def _place_of(rows: pd.DataFrame, case: str) -> tuple[str, str]:
    """Dataset and case id."""
    places = [] if rows.empty else list(rows[["dataset", "case"]].drop_duplicates().itertuples(index=False, name=None))
    found = [(dataset, name) for dataset, name in places if case in (name, f"{dataset}/{name}")]
    if len(found) == 1:
        return str(found[0][0]), str(found[0][1])
    if found:
        several = ", ".join(f"{dataset}/{name}" for dataset, name in found)
        raise UserError(f"several data sets have a case '{case}': name one of {several}")
    known = [f"{dataset}/{name}" for dataset, name in places] + [str(name) for _, name in places]
    raise UserError(f"no case '{case}' in these records; {nearest_name(case, known)}")


def _trail(rows: pd.DataFrame, unit: Unit, out: Path, case: str) -> Trail:
    metrics = [metric.key for metric in metrics_among(rows, "details")]
    steps = []
    for row in rows.to_dict("records"):
        facts = {key: row[key] for key in FACTS if key in row}
        numbers = {key: row[key] for key in metrics}
        steps.append(
            {"protocol": row["protocol"], "track": row["track"], "step": int(row["step"])}
            | numbers
            | facts
            | _kept(unit, out, case, row)
        )
    return Trail(unit, tuple(steps), _places(unit, out, rows), _decided_by(unit, rows))


def _kept(unit: Unit, out: Path, case: str, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Mask, side-car and prompts of a step; a step that kept its mask shows that of the step before it."""
    nothing = {"mask": "", "side_car": "", "prompts": None, "no_mask": ""}
    if not unit.get("predictions"):
        return nothing
    folder = out / str(unit["predictions"])
    for step in range(int(row["step"]), 0, -1):
        stem = step_stem(folder, case, str(row["target"]), str(row["protocol"]), step)
        if not facts_file(stem).is_file():
            return nothing  # a step that failed, or masks that were removed
        side_car = read_json(facts_file(stem))
        if _by_other_weights(row, side_car):
            return nothing | {"no_mask": "the mask on the disk is by other weights than this record"}
        if mask_file(stem).is_file():
            places = {"mask": _below(mask_file(stem), out), "side_car": _below(facts_file(stem), out)}
            return nothing | places | {"prompts": side_car.get("prompts")}
    return nothing


def _by_other_weights(row: Mapping[Any, Any], side_car: Mapping[str, Any]) -> bool:
    """Whether a training made again has replaced a mask and not yet its record; not where either does not say."""
    of_record, of_mask = row.get(WEIGHTS), (side_car.get("facts") or {}).get(WEIGHTS)
    return all(isinstance(one, str) and one for one in (of_record, of_mask)) and of_record != of_mask


def _places(unit: Unit, out: Path, rows: pd.DataFrame) -> dict[str, str]:
    """Where things lie, from the output folder on; only what is there."""
    target = unit["target"]["name"]
    parent = out / "records" / safe_name(str(unit["suite"])) / safe_name(str(unit["dataset"]))
    names = (str(unit["method"]), f"{unit['method']}@{target}")  # where a data set has several targets
    folder = next((one for name in names if (one := parent / f"{safe_name(name)}-{unit['unit']}").is_dir()), None)
    places = {"output folder": str(out)}
    if folder is not None:
        record = folder / "rows" / "unit.parquet"
        places |= {
            "record": _below(record if record.is_file() else record.parent, out),
            "description": _below(folder / "unit.json", out),
        }
    if unit.get("predictions"):
        places["masks"] = f"{unit['predictions']}/{safe_name(str(rows['case'].iloc[0]))}"
    if unit.get("log"):
        places["log"] = str(unit["log"])
    checkpoint = str(unit["checkpoint"])
    trained = sorted((out / "checkpoints").glob(f"*-{checkpoint}")) if checkpoint else []
    if trained:
        places["checkpoint"] = _below(trained[0], out)
    return {name: place for name, place in places.items() if (out / place).exists()}


def _decided_by(unit: Unit, rows: pd.DataFrame) -> dict[str, Any]:
    decided = {"unit": unit["unit"]} | {key: unit[key] for key in DECIDES if key in unit}
    decided["prompt_banks"] = unit.get("prompt_banks", {})
    for column in ("predicted_commit", "git_commit"):
        if column in rows:
            decided[column] = ", ".join(sorted(set(rows[column].dropna().astype(str))))
    return decided


def _below(path: Path, out: Path) -> str:
    return str(path.relative_to(out))
