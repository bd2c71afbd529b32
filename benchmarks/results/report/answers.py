"""The answer that a report begins with: which method wins where, by how much, how sure, at what cost.

Nothing is computed here; the leaderboard, the pooled table and the comparisons are put into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from benchmarks.results.tables.sheet import few_mark, mean_text, number_text, p_text, seconds_text

Certainty = Literal["sure", "small", "same", "open", "few", "failed", "alone", "untested"]
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
    "untested": "not tested",
}


@dataclass(frozen=True)
class Answer:
    """The best method of a list, or over all datasets, against the next one.

    Attributes:
        winner: its row of the leaderboard (or of the pooled table).
        dice: its mean with the interval.
        rival, ahead, p: the next one, the lead over it with its interval, the corrected p of the lead; no p where the
            patients are too few for any.
        verdict: what the tests say of the two, in the leaderboard's words.
        cost: seconds and memory of the winner; over all datasets from the least to the most.
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
            certainty = certainty_of(pair["verdict"])
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            return Answer(
                best,
                dice,
                certainty,
                rival["method"],
                mean_text(sign * pair["difference"], low, high, pair["patients"], signed=True),
                p_text(pair["p_sign_flip_holm"]) if certainty != "few" else "",
                pair["verdict"] + few_mark(pair["patients"]),
                cost_text(best),
            )
    return Answer(best, dice, "untested", rival["method"], cost=cost_text(best))


def answer_over_all(rows: Sequence[Row], board: Sequence[Row]) -> Answer | None:
    """The answer of a track and protocol over all datasets.

    Args:
        rows: of the pooled table, of this track and protocol.
        board: rows of the leaderboard, of the same; the costs are theirs.
    """
    ranked = sorted((row for row in rows if pd.notna(row["dice"])), key=lambda row: -row["dice"])
    if not ranked:
        return None
    best = ranked[0]
    dice = mean_text(best["dice"], best["low"], best["high"], best["patients"])
    cost = cost_text(*(row for row in board if row["method"] == best["method"]))
    rivals = [row for row in ranked[1:] if pd.notna(row["behind"])]
    if not rivals:
        return Answer(best, dice, "alone" if len(ranked) == 1 else "untested", cost=cost)
    rival = rivals[0]
    certainty = certainty_of(str(rival["against_best"]))
    return Answer(
        best,
        dice,
        certainty,
        rival["method"],
        mean_text(rival["behind"], rival["behind_low"], rival["behind_high"], rival["patients"], signed=True),
        p_text(rival["p"]) if certainty != "few" else "",
        f"{rival['method']}: {rival['against_best']}{few_mark(rival['patients'])}",
        cost,
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


def cost_text(*rows: Row) -> str:
    """Such as "0.25 s a scan, 0.04 s a prompt, 1.2 GB"; of several rows the least and the most."""
    costs = (("seconds_open", "s a scan", seconds_text), ("seconds_segment", "s a prompt", seconds_text),
             ("peak_memory_mb", "GB", _gigabytes), ("train_minutes", "min of training", seconds_text))  # fmt: skip
    parts = []
    for column, unit, text in costs:
        values = sorted(row[column] for row in rows if pd.notna(row.get(column)))
        if values:
            ends = dict.fromkeys((text(values[0]), text(values[-1])))
            parts.append(f"{' to '.join(ends)} {unit}")
    return ", ".join(parts)


def _gigabytes(megabytes: float) -> str:
    return number_text(megabytes / 1000, 1)
