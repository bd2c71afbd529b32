"""Within one list: every pair of methods with a verdict, and the ranks under each scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pandas as pd

from benchmarks.results.leaderboard.lists import CONFIDENCE_SEED, per_list, row_dicts
from benchmarks.results.statistics import (
    Scheme,
    case_table,
    comparisons,
    higher_is_better,
    mean_case_ranks,
    ranking,
    ranking_stability,
    tests_can_win,
    without_success,
)
from benchmarks.results.statistics.rankings import ALPHA

MARGIN = 0.02
"""The smallest difference in a bounded metric, such as Dice, that is taken to matter; stated before any result."""


def comparisons_of(rows: pd.DataFrame, metric: str = "dice", margin: float | None = None) -> pd.DataFrame:
    """Every pair of methods in every list, at the last step: `statistics.comparisons` and a verdict in words.

    Holm's correction runs over the pairs of one list. The verdict follows the sign-flip test of the mean
    difference and the equivalence test within ± `margin`; see `verdict`. No margin stated means `MARGIN` for a
    metric between 0 and 1, and no equivalence test for a distance or a time.
    """
    stated = MARGIN if margin is None and higher_is_better(metric) else margin
    return per_list(rows, lambda one: _with_verdicts(comparisons(one, metric, CONFIDENCE_SEED, stated)))


def _with_verdicts(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs.assign(verdict=[verdict(pair, len(pairs)) for pair in row_dicts(pairs)])


def verdict(pair: Mapping[str, Any], pairs: int) -> str:
    """What a pair's tests say, in a few words.

    Two methods without a single case above the worst value have nothing in common but that.

    With few patients even the clearest result cannot reach the level: n patients have 2ⁿ sign patterns, of which
    two are the most extreme. Then no test is pretended. A p that did reach it comes first: where the pairs have
    different numbers of patients, Holm's factor for those with few is smaller than the number of pairs.
    """
    if pair.get("both_failed", False):
        return "both failed"
    same = bool(pair.get("equivalent", False))
    if pair["p_sign_flip_holm"] <= ALPHA:
        return f"{pair['better']} is better" + (f", by less than {pair['margin']:g}" if same else "")
    if 2.0 ** (1 - pair["patients"]) * pairs > ALPHA:
        return f"too few patients ({pair['patients']}) to tell"
    return f"the same within {pair['margin']:g}" if same else "undecided"


def rankings_of(rows: pd.DataFrame, metric: str = "dice", draws: int = 1000) -> pd.DataFrame:
    """The rank of each method in its list under each scheme, and how it fares when patients are drawn again.

    A method without a single case above the worst value has no rank; nobody has one by tests where no test can win.

    Returns:
        LIST, method, one column per scheme ("mean-then-rank" …), mean_case_rank (the mean of the ranks in each case);
        of mean-then-rank first (share of the draws in which the method has rank 1), rank_low and rank_high (95 % of
        the draws) and the share of each rank ("share_of_rank_1" …); kendall_tau and kendall_tau_case_ranks,
        means over the draws, one value for the list, of mean-then-rank and rank-then-mean; patients.
    """
    schemes: tuple[Scheme, ...] = get_args(Scheme)

    def ranked(one: pd.DataFrame) -> pd.DataFrame:
        table, patients = case_table(one, metric)
        larger = higher_is_better(metric)
        ranks = pd.DataFrame({scheme: ranking(table, patients, larger, scheme) for scheme in schemes})
        drawn = ranking_stability(table, patients, larger, seed=CONFIDENCE_SEED, n=draws)
        by_case = ranking_stability(table, patients, larger, "rank-then-mean", CONFIDENCE_SEED, draws)
        ranks = ranks.assign(
            mean_case_rank=mean_case_ranks(table, larger),
            first=drawn.frequency[1],
            rank_low=drawn.low,
            rank_high=drawn.high,
        )
        ranks = ranks.join(drawn.frequency.add_prefix("share_of_rank_"))
        ranks = ranks.sort_values("mean-then-rank", kind="stable")
        ranks = ranks.astype(dict.fromkeys((*schemes, "rank_low", "rank_high"), "Int64"))
        if not tests_can_win(table.shape[1], patients.nunique()):
            ranks["test-based"] = pd.NA
        ranks[ranks.index.isin(list(without_success(one, metric)))] = np.nan
        taus = {"kendall_tau": drawn.kendall_tau.mean(), "kendall_tau_case_ranks": by_case.kendall_tau.mean()}
        return ranks.assign(**taus, patients=patients.nunique()).reset_index(names="method")

    return per_list(rows, ranked)
