"""What the page shows of one list of the leaderboard: board, answer, tables, cases, and what is drawn."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from benchmarks.results.leaderboard import LIST, as_json
from benchmarks.results.leaderboard.lists import row_dicts
from benchmarks.results.report.answers import Answer, answer_of_list
from benchmarks.results.report.board import Board, board_of
from benchmarks.results.report.cases import cases_of
from benchmarks.results.report.groups import letters, runs
from benchmarks.results.statistics.rankings import ALPHA
from benchmarks.results.tables import Sheet, detail_sheets
from benchmarks.results.tables.sheet import few_mark, list_title, mean_text, p_text

Tables = Mapping[str, pd.DataFrame]
Key = tuple[str, ...]

BEHIND_THE_RANKING = ("comparisons", "rankings", "policies")
"""Tables of a list that are about its ranking; the others are about quality."""

DRAWN = ("rounds", "rankings", "sizes")


@dataclass(frozen=True)
class ListPage:
    """One list.

    Attributes:
        number: its place on the page, 0 the first.
        key: dataset, target, track, protocol, what differs.
        left_out: methods that cannot follow the protocol.
        drawn: rows of the tables that charts are made of, and `runs` of methods that no test tells apart.
        cases: see `cases.cases_of`.
    """

    number: int
    key: Key
    synthetic: bool
    answer: Answer | None
    board: Board
    ranking: tuple[Sheet, ...]
    quality: tuple[Sheet, ...]
    left_out: tuple[str, ...]
    drawn: Mapping[str, Any]
    cases: Mapping[str, Any]

    @property
    def title(self) -> str:
        return list_title(self.key, self.synthetic)

    @property
    def where(self) -> str:
        return f"{self.key[0]} · {self.key[1]}"

    @property
    def given(self) -> str:
        """The track and the protocol, and what differs."""
        return list_title(self.key[2:], False).removeprefix("all datasets · ")


@dataclass(frozen=True)
class Shown:
    """The tables that stand on the page, and the metric that they compare."""

    tables: Tables
    metric: str


def list_pages(
    board: pd.DataFrame, rows: pd.DataFrame, by_dice: Tables, shown: Shown, units: Sequence[Mapping[str, Any]]
) -> Iterator[ListPage]:
    """The lists in the order of the leaderboard.

    Args:
        rows: with the column `comparability.DIFFERS`.
        by_dice: what `leaderboard.details` gave for Dice, which the answer, the ranks and the charts go by; empty for
            a run that is not finished.
        shown: the same for the metric that was asked for.
    """
    synthetic = {str(unit["dataset"]) for unit in units if unit["synthetic"]}
    floors = {str(unit["method"]) for unit in units if unit.get("floor")}
    groups = dict(iter(rows.groupby(LIST, sort=False)))
    for number, (key, lines) in enumerate(board.groupby(LIST, sort=False)):
        mine = {name: _of_list(table, key) for name, table in by_dice.items()}
        asked = {name: _of_list(table, key) for name, table in shown.tables.items()}
        boarded = row_dicts(lines)
        pairs = row_dicts(mine.get("comparisons", pd.DataFrame()))
        ranking, quality = _sheets(key, asked, shown.metric, synthetic, floors)
        ranking += _every_pair(row_dicts(asked.get("comparisons", pd.DataFrame())))
        yield ListPage(
            number=number,
            key=tuple(map(str, key)),
            synthetic=key[0] in synthetic,
            answer=answer_of_list(boarded, pairs),
            board=board_of(boarded, _ranks(mine), _letters(boarded, pairs)),
            ranking=ranking,
            quality=quality,
            left_out=_left_out(key, units),
            drawn={name: as_json(mine[name]) for name in DRAWN if name in mine} | {"runs": _runs(mine, pairs)},
            cases=cases_of(groups[key], [row["method"] for row in boarded]),
        )


def _of_list(table: pd.DataFrame, key: Any) -> pd.DataFrame:
    if table.empty or not set(LIST) <= set(table):
        return pd.DataFrame()
    return table[(table[LIST] == list(key)).all(axis=1)]


def _ranks(tables: Tables) -> dict[str, Any]:
    rankings = tables.get("rankings", pd.DataFrame())
    return {} if rankings.empty else dict(zip(rankings["method"], rankings["mean-then-rank"], strict=True))


def _letters(board: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Letters by the verdicts, that is by the sign-flip test; none where the patients are too few for any test."""
    if all(str(pair["verdict"]).startswith(("too few", "both failed")) for pair in pairs):
        return {}
    apart = {frozenset((pair["a"], pair["b"])) for pair in pairs if "is better" in str(pair["verdict"])}
    best_first = sorted(board, key=lambda row: -row["dice"])
    return letters([str(row["method"]) for row in best_first], lambda a, b: frozenset((a, b)) in apart)


def _runs(tables: Tables, pairs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The bars of the critical-difference diagram: by mean rank, and by Wilcoxon's test with Holm's correction."""
    rankings = tables.get("rankings", pd.DataFrame())
    if rankings.empty:
        return []
    ranked = rankings.dropna(subset="mean_case_rank").sort_values("mean_case_rank", kind="stable")["method"]
    apart = {frozenset((pair["a"], pair["b"])) for pair in pairs if pair["p_wilcoxon_holm"] <= ALPHA}
    return [list(run) for run in runs([str(name) for name in ranked], lambda a, b: frozenset((a, b)) in apart)]


def _sheets(
    key: Any, tables: Tables, metric: str, synthetic: Collection[str], floors: Collection[str]
) -> tuple[tuple[Sheet, ...], tuple[Sheet, ...]]:
    """The tables about the ranking, and those about quality; their titles without that of the list."""
    prefix = list_title(key, key[0] in synthetic)

    def of(names: Collection[str]) -> tuple[Sheet, ...]:
        chosen = {name: table for name, table in tables.items() if name in names}
        sheets = detail_sheets(chosen, metric, synthetic, floors)
        return tuple(replace(sheet, title=sheet.title.removeprefix(prefix).removeprefix(" · ")) for sheet in sheets)

    return of(BEHIND_THE_RANKING), of([name for name in tables if name not in BEHIND_THE_RANKING])


def _every_pair(pairs: Sequence[Mapping[str, Any]]) -> tuple[Sheet, ...]:
    """All comparisons; the sheet of the tables has those of the best method only."""
    if len(pairs) < 2:
        return ()
    cells = tuple(
        (
            str(pair["a"]),
            str(pair["b"]),
            mean_text(pair["difference"], pair["low"], pair["high"], pair["patients"], signed=True),
            p_text(pair["p_sign_flip_holm"]),
            p_text(pair["p_wilcoxon_holm"]),
            str(pair["verdict"]) + few_mark(pair["patients"]),
        )
        for pair in pairs
    )
    headings = ("method", "minus", "difference [95 % CI]", "p flip", "p Wilcoxon", "verdict")
    return (Sheet(f"every pair: {len(pairs)}, Holm-corrected over all of them", headings, cells, headings[2:5]),)


def _left_out(key: Any, units: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    mine = [unit for unit in units if unit["dataset"] == key[0] and unit["target"]["name"] == key[1]]
    return tuple(dict.fromkeys(str(unit["method"]) for unit in mine if key[3] in unit["skipped_protocols"]))
