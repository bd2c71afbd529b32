"""What each part of a method is worth: the method whole, and once without each part, trained and evaluated alike.

A variant is an ordinary method of an ordinary suite, so that everything holds for it: the same cases, prompts and
budget, records, resuming. Repeats train every variant again from other random numbers; a case then counts with
its mean over them, because one training more or less lucky must not be read as the worth of a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.contestants import method as find_method
from benchmarks.contestants import methods as installed
from benchmarks.execution.suite import MethodEntry, Suite
from benchmarks.metrics import metrics_of
from benchmarks.results.leaderboard import CONFIDENCE_SEED, last_steps, verdict, with_seconds_of_answers
from benchmarks.results.records import OK
from benchmarks.results.statistics import (
    UNIT,
    comparisons,
    mean_interval,
    scale_of,
    with_failures_as_worst,
    with_target,
)

COSTS = ("seconds_open", "seconds_segment", "peak_memory_mb")
"""What variants can be compared by beside the metrics of their masks: columns of the records."""


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        name: how the table calls it.
        kind: "whole", "without" (a part) or "floor".
        titles: its entries in the suite, one for each repeat.
    """

    name: str
    kind: str
    titles: tuple[str, ...]


def ablation_suite(suite: Suite, repeats: int = 1) -> tuple[Suite, list[Variant]]:
    """The suite of all variants of the one method that `suite` names, with the installed floors beside them.

    The configuration of that entry holds for every variant.

    Raises:
        UserError: not exactly one method, or one that announces no part that can be switched off.
    """
    if len(suite.methods) != 1:
        raise UserError(f"an ablation takes exactly one method, not {len(suite.methods)}; choose it with --methods")
    base = suite.methods[0]
    method = find_method(base.name)
    if not method.ablations:
        able = [one.name for one in installed().values() if one.ablations]
        raise UserError(f"method '{base.name}' announces no part to switch off; these do: {', '.join(able)}")
    entries: list[MethodEntry] = []
    variants: list[Variant] = []

    def add(name: str, kind: str, entry: MethodEntry, times: int) -> None:
        titles = tuple(name if turn == 0 else f"{name} (repeat {turn + 1})" for turn in range(times))
        for turn, title in enumerate(titles):
            entries.append(entry.model_copy(update={"label": title, "repeat": turn, "repeats": 1}))
        variants.append(Variant(name, kind, titles))

    add(base.title, "whole", base, repeats)
    for part, switch in method.ablations.items():
        add(f"without {part}", "without", base.model_copy(update={"config": {**base.config, **switch}}), repeats)
    for floor in installed().values():
        if floor.floor:
            add(floor.name, "floor", MethodEntry(name=floor.name), 1)
    name = f"{suite.name}-{base.title}" if suite.name == "ablation" else f"ablation-{base.title}-{suite.name}"
    return suite.model_copy(update={"name": name, "methods": tuple(entries)}), variants


def check_metric(metric: str, suite: Suite) -> None:
    """Raises UserError, with the nearest name, for a metric that no row of the suite will have."""
    known = [*(one.key for one in metrics_of(suite.tolerances_mm)), *COSTS]
    if metric not in known:
        raise UserError(f"no metric '{metric}' in suite '{suite.name}'; {nearest_name(metric, known)}")


def ablation_table(rows: pd.DataFrame, variants: list[Variant], metric: str = "dice") -> pd.DataFrame:
    """Every variant against the whole method, over the cases of all datasets together.

    The interval and the test are paired by case and clustered by patient; Holm's correction runs over the variants
    of one protocol. Failed cases count at the worst value.

    Returns:
        One row per track, protocol and variant: variant, kind, cases, patients, repeats, mean, low, high (95 %),
        lowest and highest (mean of a single repeat); difference (variant − whole), difference_low, difference_high,
        p (sign flips, Holm) and verdict; these five are empty for the whole method.
    """
    by_title = {title: variant for variant in variants for title in variant.titles}
    final = with_failures_as_worst(with_target(last_steps(with_seconds_of_answers(rows))), metric)
    final = final.assign(variant=final["method"].map({title: one.name for title, one in by_title.items()}))
    whole = variants[0]
    lines: list[dict[str, Any]] = []
    for (track, protocol), group in final.groupby(["track", "protocol"], sort=False):
        if not (group["variant"] == whole.name).any():
            continue
        keys = ["variant", *UNIT, "patient", "protocol", "step"]
        cases = group.groupby(keys, sort=False)[metric].mean().reset_index()
        cases = cases.rename(columns={"variant": "method"}).assign(status=OK)
        pairs = _against(cases, metric, whole.name)
        for variant in variants:
            mine = cases[cases["method"] == variant.name]
            if mine.empty:
                continue  # a floor that does not follow the protocol
            clusters = mine["dataset"].astype(str) + "/" + mine["patient"].astype(str)
            interval = mean_interval(mine[metric], clusters, scale_of(metric))
            single = group[group["variant"] == variant.name].groupby("method")[metric].mean()
            lines.append(
                {
                    "track": track,
                    "protocol": protocol,
                    "variant": variant.name,
                    "kind": variant.kind,
                    "cases": interval.values,
                    "patients": interval.clusters,
                    "repeats": len(variant.titles),
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "lowest": float(single.min()),
                    "highest": float(single.max()),
                }
                | pairs.get(variant.name, {})
            )
    return pd.DataFrame(lines)


def _against(cases: pd.DataFrame, metric: str, whole: str) -> dict[str, dict[str, Any]]:
    """Variant → its difference to the whole method, test and verdict."""
    if cases["method"].nunique() < 2:
        return {}
    pairs = comparisons(cases, metric, CONFIDENCE_SEED, reference=whole)
    return {
        str(pair["a"]): {
            "difference": pair["difference"],
            "difference_low": pair["low"],
            "difference_high": pair["high"],
            "p": pair["p_sign_flip_holm"],
            "verdict": _short(verdict({str(key): value for key, value in pair.items()}, len(pairs)), whole),
        }
        for pair in pairs.to_dict("records")
    }


def _short(outcome: str, whole: str) -> str:
    """The verdict on a variant, beside whose name it stands."""
    if not outcome.endswith(" is better"):
        return outcome
    return "worse" if outcome == f"{whole} is better" else "better"
