"""Tables from records: one row per dataset, track and method; failed rows count as worst, and are shown.

`leaderboard_of` is the cheap table that every run prints. The other functions answer what a reviewer asks next:
are all rows there, is the difference more than chance, would other patients give another winner, does it hold for
small tumours, what does a further click buy, what if empty masks were counted otherwise, and who had seen the data.
`details` gathers them all.
"""

from __future__ import annotations

from benchmarks.results.leaderboard.all_tables import as_json, details
from benchmarks.results.leaderboard.board import leaderboard_of, mean_columns, metrics_of, summarise
from benchmarks.results.leaderboard.comparisons import comparisons_of, rankings_of, verdict
from benchmarks.results.leaderboard.completeness import check_complete, completeness_of
from benchmarks.results.leaderboard.context import claims_of, contamination_of, published_of
from benchmarks.results.leaderboard.curves import clicks_of, policies_of, robustness_of, rounds_of
from benchmarks.results.leaderboard.lists import CONFIDENCE_SEED, GROUP, LIST, last_steps, with_seconds_of_answers
from benchmarks.results.leaderboard.notes import notes_of
from benchmarks.results.leaderboard.overall import overall_of
from benchmarks.results.leaderboard.subgroups import (
    each_lesion_of,
    in_plane_of,
    lesion_sizes_of,
    numbers_of,
    sizes_of,
    slices_of,
)

__all__ = [
    "CONFIDENCE_SEED",
    "GROUP",
    "LIST",
    "as_json",
    "check_complete",
    "claims_of",
    "clicks_of",
    "comparisons_of",
    "completeness_of",
    "contamination_of",
    "details",
    "each_lesion_of",
    "in_plane_of",
    "last_steps",
    "leaderboard_of",
    "lesion_sizes_of",
    "mean_columns",
    "metrics_of",
    "notes_of",
    "numbers_of",
    "overall_of",
    "policies_of",
    "published_of",
    "rankings_of",
    "robustness_of",
    "rounds_of",
    "sizes_of",
    "slices_of",
    "summarise",
    "verdict",
    "with_seconds_of_answers",
]
