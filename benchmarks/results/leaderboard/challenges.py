"""Tables by the definitions of public challenges, where a suite follows their protocol."""

from __future__ import annotations

import pandas as pd

from benchmarks.metrics.challenges import CVPR25_STEPS, CVPR25_TOLERANCE_MM, cvpr25_figures
from benchmarks.prompting.protocol import Protocol
from benchmarks.results.leaderboard.lists import Units, per_list
from benchmarks.results.records import FAILED
from benchmarks.results.statistics import with_failures_as_worst

SURFACE_DICE = f"nsd@{CVPR25_TOLERANCE_MM:g}mm"


def cvpr25_of(rows: pd.DataFrame, units: Units) -> pd.DataFrame:
    """The CVPR 2025 interactive challenge's figures: LIST, method, n, dsc_auc, nsd_auc, dsc_final, nsd_final.

    Means over cases of `cvpr25_figures`, for the protocols that follow the challenge (a box, then five of its
    corrective clicks) in suites with a tolerance of 2 mm; a failed step has Dice and surface Dice 0. Best first by
    `dsc_auc`.
    """

    def figures(one: pd.DataFrame) -> pd.DataFrame:
        if one.loc[one["status"] != FAILED, SURFACE_DICE].isna().any():
            return pd.DataFrame()  # of other tolerances, and so in a list of its own
        scored = with_failures_as_worst(with_failures_as_worst(one, "dice"), SURFACE_DICE).sort_values("step")
        lines = []
        for method, group in scored.groupby("method", sort=False):
            cases = [
                cvpr25_figures(case["dice"].tolist(), case[SURFACE_DICE].tolist())
                for _, case in group.groupby(["unit", "case"], sort=False)
            ]
            lines.append({"method": method, "n": len(cases)} | pd.DataFrame(cases).mean().to_dict())
        return pd.DataFrame(lines).sort_values("dsc_auc", ascending=False, kind="stable")

    protocols = [Protocol.from_mapping(protocol) for unit in units for protocol in unit["protocols"]]
    known = {protocol.name for protocol in protocols if _is_of_the_challenge(protocol)}
    if rows.empty or SURFACE_DICE not in rows:
        return pd.DataFrame()
    return per_list(rows[rows["protocol"].isin(known)], figures, methods=1, last=False)


def _is_of_the_challenge(protocol: Protocol) -> bool:
    return protocol.corrections == "cvpr25" and protocol.start == "box" and protocol.rounds == CVPR25_STEPS
