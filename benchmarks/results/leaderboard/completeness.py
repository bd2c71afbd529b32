"""Whether all rows are there, unit by unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.prompting.protocol import Protocol
from benchmarks.results.leaderboard.lists import Units
from benchmarks.results.records import FAILED, NO_TARGET
from benchmarks.results.statistics import assert_complete, expected_rows


def check_complete(rows: pd.DataFrame, units: Units) -> pd.DataFrame:
    """Check that every unit has its cases × protocols × steps once and nothing else; returns the failed rows.

    Raises:
        UserError: a row is missing, comes twice or belongs to no unit; the first ones are named.
    """
    known = {(str(unit["unit"]), str(unit["method"])): unit for unit in units}  # two labels can share a digest
    owners = pd.MultiIndex.from_frame(rows[["unit", "method"]]) if len(rows) else pd.MultiIndex.from_tuples([("", "")])
    strangers = rows[~owners.isin(list(known))] if len(rows) else rows
    if len(strangers):
        first = strangers.iloc[0]
        raise UserError(f"records: {len(strangers)} rows of no known unit, such as {first['method']} / {first['unit']}")
    by_unit = dict(iter(rows.groupby(["unit", "method"]))) if len(rows) else {}
    failed = []
    for owner, unit in known.items():
        try:
            failed.append(assert_complete(by_unit.get(owner, pd.DataFrame()), _expected_of(unit)))
        except UserError as error:
            raise UserError(f"{error}; run the suite again: it computes only what is missing") from None
    return pd.concat(failed, ignore_index=True) if failed else rows


def completeness_of(rows: pd.DataFrame, units: Units) -> pd.DataFrame:
    """What `check_complete` has asserted, in numbers: a line for each unit, cases × steps due and rows found.

    Returns:
        dataset, target, method, cases, steps (of all its protocols together), due, found, failed, no_target.
    """
    lines = []
    for unit in units:
        mine = rows[(rows["unit"] == unit["unit"]) & (rows["method"] == unit["method"])] if len(rows) else rows
        steps = sum(Protocol.from_mapping(one).rounds for one in unit["protocols"])
        status = mine["status"].value_counts() if len(mine) else {}
        lines.append(
            {
                "dataset": unit["dataset"],
                "target": unit["target"]["name"],
                "method": unit["method"],
                "cases": len(unit["cases"]),
                "steps": steps,
                "due": len(unit["cases"]) * steps,
                "found": len(mine),
                "failed": int(status.get(FAILED, 0)),
                "no_target": int(status.get(NO_TARGET, 0)),
            }
        )
    return pd.DataFrame(lines)


PLACE = ["dataset", "target", "protocol", "method"]


def missing_cases(rows: pd.DataFrame, units: Units) -> dict[tuple[str, ...], int]:
    """Dataset, target, protocol, method → cases of which not every step is there; only where there are any."""
    keys = ["unit", "protocol", "method", "case"]
    found: dict[Any, int] = rows.groupby(keys).size().to_dict() if len(rows) else {}
    missing: dict[tuple[str, ...], int] = {}
    for unit in units:
        for protocol in map(Protocol.from_mapping, unit["protocols"]):
            key = (unit["unit"], protocol.name, unit["method"])
            lost = sum(found.get((*key, case), 0) < protocol.rounds for case in unit["cases"])
            if lost:
                place = (unit["dataset"], unit["target"]["name"], protocol.name, unit["method"])
                missing[place] = missing.get(place, 0) + lost
    return missing


def _expected_of(unit: Mapping[str, Any]) -> pd.DataFrame:
    protocols = [Protocol.from_mapping(one) for one in unit["protocols"]]
    steps = {str(unit["method"]): {protocol.name: protocol.rounds for protocol in protocols}}
    dataset = str(unit["dataset"])
    return expected_rows(steps, {dataset: unit["cases"]}, {dataset: [unit["target"]["name"]]})
