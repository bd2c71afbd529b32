"""The answer that a report begins with: which method wins where, by how much, how sure, at what cost.

Nothing is computed here; the leaderboard, the pooled table and the comparisons are put into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from benchmarks.results.tables.sheet import few_mark, mean_text, number_text, p_text, seconds_text

Certainty = Literal["sure", "small", "same", "open", "few", "failed", "alone"]
"""How sure a lead is; the words of the verdicts, as one word for a sign and a colour."""

Row = Mapping[str, Any]

SAID: dict[Certainty, str] = {
    "sure": "clear winner",
    "small": "clear, but of little use",
    "same": "as good as equal",
    "open": "undecided",
    "few": "too few patients to tell",
    "failed": "all failed",
    "alone": "no rival",
}


@dataclass(frozen=True)
class Answer:
    """The best method of a list, or over all datasets, against the next one.

    Attributes:
        winner: its row of the leaderboard (or of the pooled table).
        dice: its mean with the interval.
        rival, ahead, p: the next one, the lead over it with its interval, the corrected p of the lead.
        verdict: what the tests say of the two, in the leaderboard's words.
        cost: seconds and memory of the winner; empty over all datasets.
    """

    winner: Row
    dice: str
    certainty: Certainty
    rival: str = ""
    ahead: str = ""
    p: str = ""
    verdict: str = ""
    cost: str = ""

    @property
    def said(self) -> str:
        return SAID[self.certainty]


def answer_of_list(rows: Sequence[Row], pairs: Iterable[Row]) -> Answer | None:
    """The answer of one list.

    Args:
        rows: of the leaderboard, of this list.
        pairs: of the table `comparisons`, of this list; none where it was not made.
    """
    ranked = sorted((row for row in rows if pd.notna(row["dice"])), key=lambda row: -row["dice"])
    if not ranked:
        return None
    best = ranked[0]
    dice = mean_text(best["dice"], best["dice_low"], best["dice_high"], best["patients"])
    if len(ranked) == 1:
        return Answer(best, dice, "alone", cost=cost_text(best))
    rival = ranked[1]
    for pair in pairs:
        if {pair["a"], pair["b"]} == {best["method"], rival["method"]}:
            sign = 1 if pair["a"] == best["method"] else -1
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            return Answer(
                best,
                dice,
                certainty_of(pair["verdict"]),
                rival["method"],
                mean_text(sign * pair["difference"], low, high, pair["patients"], signed=True),
                p_text(pair["p_sign_flip_holm"]),
                pair["verdict"] + few_mark(pair["patients"]),
                cost_text(best),
            )
    return Answer(best, dice, "open", rival["method"], cost=cost_text(best))


def answer_over_all(rows: Sequence[Row]) -> Answer | None:
    """The answer of a track and protocol over all datasets, from the rows of the pooled table."""
    ranked = sorted((row for row in rows if pd.notna(row["dice"])), key=lambda row: -row["dice"])
    if not ranked:
        return None
    best = ranked[0]
    dice = mean_text(best["dice"], best["low"], best["high"], best["patients"])
    rivals = [row for row in ranked[1:] if pd.notna(row["behind"])]
    if not rivals:
        return Answer(best, dice, "alone" if len(ranked) == 1 else "open")
    rival = rivals[0]
    return Answer(
        best,
        dice,
        certainty_of(str(rival["against_best"])),
        rival["method"],
        mean_text(rival["behind"], rival["behind_low"], rival["behind_high"], rival["patients"], signed=True),
        p_text(rival["p"]),
        f"{rival['method']}: {rival['against_best']}{few_mark(rival['patients'])}",
    )


def certainty_of(verdict: str) -> Certainty:
    """One word for a verdict of `leaderboard.verdict`, or of the pooled table."""
    if "by less than" in verdict:
        return "small"
    if "is better" in verdict or verdict == "worse":
        return "sure"
    if verdict.startswith("the same"):
        return "same"
    if verdict.startswith("too few"):
        return "few"
    return "failed" if verdict == "both failed" else "open"


def cost_text(row: Row) -> str:
    """Such as "0.25 s a scan, 0.04 s a prompt, 1.2 GB"; what was not measured is left out."""
    parts = []
    for column, unit in (("seconds_open", "s a scan"), ("seconds_segment", "s a prompt")):
        if pd.notna(row.get(column)):
            parts.append(f"{seconds_text(row[column])} {unit}")
    if pd.notna(row.get("peak_memory_mb")):
        parts.append(f"{number_text(row['peak_memory_mb'] / 1000, 1)} GB")
    return ", ".join(parts)
