"""Intervals, paired tests, rankings: what a table of records supports, and how firmly.

The unit of every interval and test is the patient. Nothing is dropped in silence: a missing row is an error, a failed
one counts as the worst value and is listed, a value that is not finite is refused. The one thing that is left out is a
case in which a protocol has nothing to prompt ("no-target"): it must be so for every method alike, and it is counted.
"""

from __future__ import annotations

from benchmarks.results.statistics.completeness import assert_complete, expected_rows
from benchmarks.results.statistics.intervals import (
    FEW_PATIENTS,
    Interval,
    Scale,
    cluster_means,
    mean_interval,
    scale_of,
    summary,
)
from benchmarks.results.statistics.paired import (
    Equivalence,
    PairedTest,
    cohen_d,
    comparisons,
    flips_for,
    holm,
    rank_biserial,
    sign_flip,
    tost,
    wilcoxon,
)
from benchmarks.results.statistics.pooled import Strata, pooled_equivalence, pooled_interval, pooled_sign_flip
from benchmarks.results.statistics.rankings import (
    Scheme,
    Stability,
    mean_case_ranks,
    ranking,
    ranking_stability,
    tests_can_win,
)
from benchmarks.results.statistics.robustness import robustness_curve
from benchmarks.results.statistics.rows import (
    KEYS,
    SETTING,
    UNIT,
    case_table,
    higher_is_better,
    with_failures_as_worst,
    with_target,
    without_success,
)

__all__ = [
    "FEW_PATIENTS",
    "KEYS",
    "SETTING",
    "UNIT",
    "Equivalence",
    "Interval",
    "PairedTest",
    "Scale",
    "Scheme",
    "Stability",
    "Strata",
    "assert_complete",
    "case_table",
    "cluster_means",
    "cohen_d",
    "comparisons",
    "expected_rows",
    "flips_for",
    "higher_is_better",
    "holm",
    "mean_case_ranks",
    "mean_interval",
    "pooled_equivalence",
    "pooled_interval",
    "pooled_sign_flip",
    "rank_biserial",
    "ranking",
    "ranking_stability",
    "robustness_curve",
    "scale_of",
    "sign_flip",
    "summary",
    "tests_can_win",
    "tost",
    "wilcoxon",
    "with_failures_as_worst",
    "with_target",
    "without_success",
]
