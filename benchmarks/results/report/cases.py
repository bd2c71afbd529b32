"""The cases of one list as arrays for the page: what each method got in each case, after each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.metrics import metrics_among
from benchmarks.results.records import FAILED, NO_TARGET, OK

STATUS = {OK: "o", FAILED: "f", NO_TARGET: "n"}
MISSING = "m"
DIGITS = 4


def cases_of(rows: pd.DataFrame, methods: Sequence[str]) -> dict[str, Any]:
    """One list's cases; every array is in the order of `cases`, every mapping has all `methods`.

    Args:
        rows: the records of the list, all steps.
        methods: in the order of the leaderboard.

    Returns:
        cases, patients, diameter (mm of the ball of the target's volume) and lesions of each case; steps; dice: method
        → case → value after each step; metrics: key → method → value after the last; seconds: method → seconds of the
        last prompt; status: method → a letter for each case (o, f failed, n no target, m missing); reasons: method →
        {place of the case: why it failed}. What there is no value of is None.
    """
    cases = rows.groupby("case", sort=True)
    names = [str(name) for name in cases.groups]
    steps = sorted(int(step) for step in rows["step"].unique())
    volumes = cases["volume_mm3_reference"].max().to_numpy(float)
    result: dict[str, Any] = {
        "cases": names,
        "patients": cases["patient"].first().astype(str).tolist(),
        "diameter": _rounded(np.cbrt(6 / np.pi * volumes), 1),
        "lesions": [int(n) for n in cases["lesions_reference"].max().fillna(0)] if "lesions_reference" in rows else [],
        "steps": steps,
        "methods": list(methods),
        "dice": {},
        "metrics": {},
        "seconds": {},
        "status": {},
        "reasons": {},
    }
    shown = [metric.key for metric in metrics_among(rows, "leaderboard") if metric.key != "dice"]
    result["metrics"] = {key: {} for key in shown}
    for method in methods:
        mine = rows[rows["method"] == method]
        table = mine.pivot_table(index="case", columns="step", values="dice", dropna=False).reindex(
            index=names, columns=steps
        )
        last = mine.sort_values("step").drop_duplicates("case", keep="last").set_index("case").reindex(names)
        result["dice"][method] = [_rounded(line) for line in table.to_numpy(float)]
        result["seconds"][method] = _rounded(last["seconds_segment"].to_numpy(float))
        result["status"][method] = "".join(STATUS.get(status, MISSING) for status in last["status"])
        result["reasons"][method] = {
            place: str(reason)
            for place, (status, reason) in enumerate(zip(last["status"], last["reason"], strict=True))
            if status == FAILED
        }
        for key in shown:
            result["metrics"][key][method] = _rounded(last[key].to_numpy(float))
    return result


def _rounded(values: Any, digits: int = DIGITS) -> list[float | None]:
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]
