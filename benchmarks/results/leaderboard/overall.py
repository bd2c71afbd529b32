"""Over all datasets: means of means, intervals, ranks, and who is better."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.prompting.protocol import TRACKS
from benchmarks.results.comparability import DIFFERS
from benchmarks.results.leaderboard.comparisons import MARGIN, verdict
from benchmarks.results.leaderboard.completeness import PLACE
from benchmarks.results.leaderboard.lists import CONFIDENCE_SEED, beside_trained, last_steps
from benchmarks.results.statistics import (
    UNIT,
    Strata,
    case_table,
    flips_for,
    holm,
    pooled_equivalence,
    pooled_interval,
    pooled_sign_flip,
    with_target,
    without_success,
)

OVER = ["track", "protocol", DIFFERS]
BEHIND = ["behind", "behind_low", "behind_high"]
POOLED = ["low", "high", "patients", *BEHIND, "p", "against_best"]


def overall_of(board: pd.DataFrame, rows: pd.DataFrame, margin: float | None = None) -> pd.DataFrame:
    """Over all datasets: for each track and protocol the mean of the mean Dice, its interval, and the mean rank.

    Every dataset (and target) weighs the same, whatever its number of cases. Intervals and tests are over patients
    within datasets. Ranks are taken among the methods that are on all lists of the track and protocol; the others
    follow without mean or rank. A protocol that has nothing to find on any list has no rows.

    Args:
        board: the leaderboard of these rows.
        margin: the smallest difference in mean Dice that matters; by default `MARGIN`.

    Returns:
        track, protocol, differs, method, floor, untrained, missing (cases), lists (how many it is on), of (how many
        there are), dice, low, high (95 %), patients, mean_rank, margin, behind, behind_low, behind_high, p and
        against_best, and one column "dice/<dataset>" (or "dice/<dataset>/<target>") with the mean Dice of each list.
        `behind` is the mean Dice of the best method of the table minus this one's, with its 95 % interval. `p` is that
        of the sign-flip test against the best method, with Holm's correction over all pairs; `against_best` says it in
        words.
        Where the best method so far is not finished, nothing is compared.
    """
    tables = []
    final, stated = _final(board, rows), MARGIN if margin is None else margin
    for (track, protocol, differs), lists in board.groupby(OVER, sort=False) if len(board) else ():
        several = lists.groupby("dataset")["target"].nunique().gt(1)
        names = [
            f"dice/{dataset}/{target}" if several[dataset] else f"dice/{dataset}"
            for dataset, target in zip(lists["dataset"], lists["target"], strict=True)
        ]
        wide = lists.assign(_list=names).pivot(index="method", columns="_list", values="dice")
        wide = wide[list(dict.fromkeys(names))].dropna(axis="columns", how="all")  # lists with nothing to find
        if wide.empty:
            continue  # no list has anything to find under this protocol
        everywhere = wide.notna().all(axis=1)
        ranks = wide[everywhere].round(12).rank(ascending=False, method="min")
        table = pd.DataFrame(
            {
                "track": track,
                "protocol": protocol,
                DIFFERS: differs,
                "method": wide.index,
                "floor": lists.groupby("method")["floor"].any().reindex(wide.index),
                "untrained": lists.groupby("method")["untrained"].any().reindex(wide.index),
                "missing": lists.groupby("method")["missing"].sum().reindex(wide.index),
                "lists": wide.notna().sum(axis=1),
                "of": wide.shape[1],
                "dice": wide[everywhere].mean(axis=1).reindex(wide.index),
                "mean_rank": ranks.mean(axis=1).reindex(wide.index),
                "margin": stated,
            }
        )
        mine = final[(final["track"] == track) & (final["protocol"] == protocol) & (final[DIFFERS] == differs)]
        pooled = _pooled(mine, list(wide.index[everywhere]), stated)
        best_so_far = table.sort_values("dice", ascending=False, kind="stable").iloc[:1]
        if best_so_far["missing"].any():
            pooled = uncompared(pooled)  # the lead of the best finished method is not that of the best so far
        table = table.join(pooled.astype(dict.fromkeys(POOLED[:-1], float) | {POOLED[-1]: object}))
        best_first = pd.concat([table, wide], axis=1).sort_values("dice", ascending=False, kind="stable")
        tables.append(beside_trained(best_first))
    tables.sort(key=lambda table: TRACKS.index(table["track"].iloc[0]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def uncompared(table: pd.DataFrame) -> pd.DataFrame:
    """The table with means and intervals alone."""
    return table.assign(**dict.fromkeys([*BEHIND, "p"], math.nan), against_best="") if len(table) else table


def _final(board: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last steps, each in the list that the board has for it."""
    if board.empty:
        return rows
    lists = board[[*PLACE, DIFFERS]]
    return with_target(last_steps(rows.drop(columns=DIFFERS, errors="ignore").merge(lists, on=PLACE)))


def _pooled(rows: pd.DataFrame, methods: list[str], margin: float) -> pd.DataFrame:
    """Method → `POOLED`, for the methods that have every case; a run that is not finished has no test of others."""
    cases = rows.groupby("method").size()
    complete = [name for name in methods if cases[name] == len(rows.drop_duplicates(UNIT))]
    if not complete:
        return pd.DataFrame(columns=POOLED)
    one = rows[rows["method"].isin(complete)]
    table, patients = case_table(one, "dice")
    datasets, targets = (table.index.get_level_values(level).astype(str) for level in ("dataset", "target"))
    strata = Strata([f"{a}/{b}" for a, b in zip(datasets, targets, strict=True)], list(datasets), list(patients))
    lines: dict[str, dict[str, Any]] = {}
    for name in complete:
        interval = pooled_interval(table[name], strata, "share")
        lines[name] = {"low": interval.low, "high": interval.high, "patients": interval.clusters, "p": math.nan}
        lines[name]["mean"] = interval.mean
    best = max(complete, key=lambda name: lines[name]["mean"])
    failed = without_success(one, "dice")
    pairs = list(combinations(complete, 2))
    seed, flips = CONFIDENCE_SEED, flips_for(len(pairs))
    adjusted = holm([pooled_sign_flip(table[a] - table[b], strata, seed, flips).p_value for a, b in pairs])
    for (a, b), p in zip(pairs, adjusted, strict=True):
        if best in (a, b):
            other = b if a == best else a
            difference = np.asarray(table[best] - table[other])
            pair = {
                "patients": strata.patients,
                "both_failed": {a, b} <= failed,
                "equivalent": pooled_equivalence(difference, margin, strata).equivalent,
                "margin": margin,
                "p_sign_flip_holm": p,
                "better": best,
            }
            behind = pooled_interval(difference, strata)
            lines[other] |= dict(zip(BEHIND, (behind.mean, behind.low, behind.high), strict=True))
            lines[other] |= {"p": p, "against_best": _worse(verdict(pair, len(pairs)), best)}
    lines[best]["against_best"] = "best" if len(complete) > 1 and best not in failed else ""
    return pd.DataFrame.from_dict(lines, orient="index").reindex(columns=POOLED)


def _worse(text: str, best: str) -> str:
    """A verdict beside the name of the other one."""
    return text.replace(f"{best} is better", "worse") if text.startswith(f"{best} is better") else text
