"""What a further click buys, what an operator's error costs, and what if empty masks were counted otherwise."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.metrics import ClickCurve, mean_under_policies, summarise_curves
from benchmarks.prompting.protocol import NOISE_SIZES, Protocol
from benchmarks.results.comparability import DIFFERS
from benchmarks.results.leaderboard.lists import (
    LIST,
    Units,
    best_first,
    in_order_of,
    last_steps,
    listed,
    per_list,
    row_dicts,
)
from benchmarks.results.records import FAILED
from benchmarks.results.statistics import (
    higher_is_better,
    robustness_curve,
    summary,
    with_failures_as_worst,
    with_target,
)


def clicks_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Click curves of the iterative protocols: LIST, method, curves, dice@k, auc, noc@q, failures@q.

    Each case is one curve over clicks, not over rounds: a box without a click is "dice@0", and a round with a click for
    each lesion counts them all. Failed rows have Dice 0. See `benchmarks.metrics.clicks` for the definitions.
    """

    def curves(one: pd.DataFrame) -> pd.DataFrame:
        counted = with_clicks(with_failures_as_worst(one, "dice")).sort_values("step")
        lines = []
        for method, group in counted.groupby("method", sort=False):
            each = [
                ClickCurve.of_steps(case["clicks"].tolist(), case["dice"].tolist(), int(case["click_budget"].max()))
                for _, case in group.groupby(["unit", "case"], sort=False)
            ]
            lines.append({"method": method} | summarise_curves(each))
        return pd.DataFrame(lines).sort_values("auc", ascending=False, kind="stable")

    rows = listed(rows)
    last = rows.groupby(LIST)["step"].transform("max") if len(rows) else rows
    return per_list(rows[last > 1] if len(rows) else rows, curves, methods=1, last=False)


def with_clicks(one: pd.DataFrame) -> pd.DataFrame:
    """The rows of one list with `clicks` as they count, and `click_budget`, those of a whole session of the case.

    A round adds one click to each session, of which a case has one, or one for each lesion that is a task of its own.
    A failed row counts the clicks that were due by then. Rows that say nothing of clicks count a round as a click.
    """
    if "clicks" not in one or not one["clicks"].any():
        return one.assign(clicks=one["step"], click_budget=one["step"].max())
    of_case = one.groupby("case")
    start = one["clicks"].where(one["step"] == 1).groupby(one["case"]).transform("max").fillna(0)
    sessions = pd.Series(1, one.index)
    if "each_lesion_dice" in one:
        lesions = one["each_lesion_dice"].map(lambda dice: len(dice) if isinstance(dice, Sized) else 1)
        sessions = lesions.groupby(one["case"]).transform("max").clip(lower=1)
    due = start + sessions * (one["step"] - 1)
    clicks = one["clicks"].where(one["status"] != FAILED, due.where(due > one["clicks"], one["clicks"]))
    budget = start + sessions * (of_case["step"].transform("max") - 1)
    return one.assign(clicks=clicks.astype(int), click_budget=budget.astype(int))


def rounds_of(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """The metric after each round of iterative protocols: LIST, method, step, n, patients, failed, mean, low, high."""

    def by_round(one: pd.DataFrame) -> pd.DataFrame:
        table = summary(one, metric)
        table = table.sort_values("method", key=in_order_of(best_first(last_steps(one), metric)), kind="stable")
        return table.drop(columns=["dataset", "target", "protocol"])

    rows = listed(rows)
    last = rows.groupby(LIST)["step"].transform("max") if len(rows) else rows
    return per_list(rows[last > 1] if len(rows) else rows, by_round, methods=1, last=False)


def policies_of(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Mean and rank of each method if empty masks were counted otherwise, from the stored rows alone.

    Returns:
        LIST, method, policy, mean, cases, skipped, rank. Only lists in which a mask was empty have rows: in
        the others every policy gives the same numbers.
    """

    def under_all(one: pd.DataFrame) -> pd.DataFrame:
        counted = one[["empty", "diagonal_mm", metric]]
        lines = [
            {"method": method, **line}
            for method in best_first(one, metric)
            for line in mean_under_policies(row_dicts(counted[one["method"] == method]), metric)
        ]
        table = pd.DataFrame(lines)
        means = table.groupby("policy")["mean"]
        ranks = means.rank(ascending=not higher_is_better(metric), method="min", na_option="bottom")
        return table.assign(rank=ranks.astype(int))

    rows = with_target(listed(rows))
    touched = rows.assign(_empty=rows["empty"] != "none") if len(rows) else rows
    affected = touched.groupby(LIST)["_empty"].transform("any") if len(rows) else rows
    return per_list(rows[affected] if len(rows) else rows, under_all, methods=1)


def robustness_of(rows: pd.DataFrame, units: Units, metric: str = "dice") -> pd.DataFrame:
    """How a metric falls as the operator errs more, where a suite has one protocol at several sizes of an error.

    Returns:
        noise (which error), protocol (without it), differs, method, dataset, target, level, n, patients, failed, mean,
        low, high and tolerated: the size of the error at which 0.05 is lost, infinite if never. Methods that can
        follow only some of the protocols are left out.
    """
    rows = listed(rows)
    protocols = {p.name: p for unit in units for p in map(Protocol.from_mapping, unit["protocols"])}
    tables = []
    for noise in NOISE_SIZES:
        ladders: dict[str, dict[str, float]] = {}
        for name, protocol in protocols.items():
            level, calm = _without(protocol, noise)
            ladders.setdefault(calm.name, {})[name] = level
        for calm_name, levels in ladders.items():
            ladder = rows[rows["protocol"].isin(list(levels))]
            follows = ladder.groupby(["dataset", "target", "method", DIFFERS])["protocol"].transform("nunique")
            ladder = ladder[follows == len(levels)]
            for differs, on_all in ladder.groupby(DIFFERS) if len(levels) > 1 else ():
                curve = robustness_curve(on_all, metric, levels)
                means = curve.groupby("method")["mean"].transform("mean")
                places = curve["dataset"].map(list(dict.fromkeys(rows["dataset"])).index)
                curve = curve.iloc[np.lexsort([-means if higher_is_better(metric) else means, places])]
                tables.append(
                    curve.drop(columns=["protocol", "step"]).assign(
                        noise=noise, protocol=calm_name, **{DIFFERS: differs}
                    )
                )
    if not tables:
        return pd.DataFrame()
    first = ["noise", "protocol", DIFFERS, "dataset", "target", "method", "level"]
    table = pd.concat(tables, ignore_index=True)
    return table[[*first, *(column for column in table if column not in first)]]


def _without(protocol: Protocol, noise: str) -> tuple[float, Protocol]:
    """The size of one error in a protocol, and the protocol free of it."""
    if noise == "box_jitter_mm":
        return protocol.box_jitter_mm, replace(protocol, box_jitter_mm=0.0)
    if noise == "mask_error_mm":
        made = protocol.kind == "mask"
        return (protocol.mask_error_mm, replace(protocol, mask_error_mm=0.0)) if made else (0.0, protocol)
    level = float(getattr(protocol.noise, noise))
    return level, replace(protocol, noise=replace(protocol.noise, **{noise: type(getattr(protocol.noise, noise))(0)}))
