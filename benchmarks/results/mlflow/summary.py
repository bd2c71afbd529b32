"""The answer of a run, as MLflow shows it: the leaderboard with rank and verdict of every row, and a note of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from benchmarks.results.comparability import with_lists
from benchmarks.results.leaderboard import LIST, comparisons_of, leaderboard_of, notes_of, overall_of
from benchmarks.results.records import FAILED
from benchmarks.results.tables import SYNTHETIC_BANNER, Page, leaderboard_page, render
from benchmarks.results.tables.render import markdown_text

NOTE_LENGTH = 4500
"""Letters of a note; MLflow takes 5000 for an experiment, its older versions at least."""


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        board: the leaderboard with `rank` (by mean Dice in its list; 1 is best) and `verdict` (against the best).
        failed: rows of all steps that failed.
        note: who is first, and the tables as Markdown, as many as there is room for.
        tables: all of them.
    """

    board: pd.DataFrame = field(default_factory=pd.DataFrame)
    failed: int = 0
    note: str = ""
    tables: str = ""


def summary_of(rows: pd.DataFrame, units: Sequence[Mapping[str, Any]]) -> Summary:
    """The answer of a run that is complete; takes some seconds for hundreds of cases, for its paired tests."""
    board = leaderboard_of(rows, units)
    if board.empty:
        return Summary()
    page = leaderboard_page(board, overall_of(board, rows), notes_of(rows, units))
    failed = int((rows["status"] == FAILED).sum())
    ranked = with_verdicts(board, with_lists(rows, units))
    note = f"{leaders_of(ranked)}\n\n{note_of(page)}".strip()
    return Summary(ranked, failed, note, render(page, "markdown"))


def leaders_of(board: pd.DataFrame, lists: int = 6) -> str:
    """Who is first by mean Dice, in one line: MLflow shows the first line of a note, and the rest when asked."""
    first = board[board["rank"] == 1].drop_duplicates(LIST)
    several = board.groupby("dataset")["target"].nunique().gt(1)
    texts = [
        f"{markdown_text(row['dataset'])}, {markdown_text(row['target']) + ', ' if several[row['dataset']] else ''}"
        f"{markdown_text(row['protocol'])}: "
        f"**{markdown_text(row['method'])}** "
        f"{row['dice']:.2f} [{row['dice_low']:.2f}, {row['dice_high']:.2f}]"
        for row in first.head(lists).to_dict("records")
    ]
    more = f"; {len(first) - lists} more lists below" if len(first) > lists else ""
    return f"First by mean Dice: {'; '.join(texts)}{more}." if texts else ""


def with_verdicts(board: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard with rank and verdict.

    A method that solved no case has no rank, as in `leaderboard.rankings_of`. The verdict is that of the paired test
    against the best of the list by mean Dice ("best", "worse", "undecided" …), Holm-corrected over the pairs of the
    list; empty where there is nothing to compare with.
    """
    solved = board["dice"].where(board["dice"] > 0)
    ranks = solved.groupby([board[column] for column in LIST], sort=False).rank(ascending=False, method="min")
    best: dict[tuple[str, ...], str] = {}
    for row in board.assign(_rank=ranks).dropna(subset="_rank").sort_values("_rank", kind="stable").to_dict("records"):
        best.setdefault(tuple(row[column] for column in LIST), str(row["method"]))
    verdicts: dict[tuple[Any, ...], str] = {}
    for pair in comparisons_of(rows).to_dict("records"):
        place = tuple(pair[column] for column in LIST)
        leader = best.get(place)
        if leader is None:
            verdicts |= {(*place, name): "both failed" for name in (pair["a"], pair["b"])}
        elif leader in (pair["a"], pair["b"]):
            other = pair["b"] if pair["a"] == leader else pair["a"]
            verdicts[(*place, other)] = str(pair["verdict"]).replace(f"{leader} is better", "worse", 1)
            verdicts[(*place, leader)] = "best"
    keys = [(*(row[column] for column in LIST), row["method"]) for row in board.to_dict("records")]
    return board.assign(rank=ranks, verdict=[verdicts.get(key, "") for key in keys])


def note_of(page: Page, length: int = NOTE_LENGTH) -> str:
    """A page as Markdown, its sheets from the first on as long as there is room."""
    banner = f"**{SYNTHETIC_BANNER}**\n\n" if page.synthetic else ""
    parts: list[str] = []
    for sheet in page.sheets:
        text = render(Page((sheet,)), "markdown").strip()
        if len(banner) + sum(len(part) + 2 for part in parts) + len(text) > length:
            parts.append(f"*{len(page.sheets) - len(parts)} more tables: artifact `leaderboard.md` of the run.*")
            break
        parts.append(text)
    return banner + "\n\n".join(parts)
