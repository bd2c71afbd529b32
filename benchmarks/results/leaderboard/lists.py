"""What makes one list, and how a table is made for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.prompting.protocol import TRACKS
from benchmarks.results.comparability import DIFFERS
from benchmarks.results.statistics import higher_is_better, with_failures_as_worst, with_target

LIST = ["dataset", "target", "track", "protocol", DIFFERS]
"""What makes one list of the leaderboard: only what was given the same, under the same conditions, is compared."""

GROUP = [*LIST, "method"]

CONFIDENCE_SEED = 20_26

Units = Iterable[Mapping[str, Any]]


def last_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last step of every case and protocol."""
    rows = listed(rows)
    return rows.loc[rows.groupby([*GROUP, "unit", "case"], sort=False)["step"].idxmax()]


def with_seconds_of_answers(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in which a step that kept the mask before it has the seconds of the answer that it kept.

    Such a step costs nothing itself: with its 0 s a method that satisfies its user sooner would look faster. It needs
    the rows of all steps: once those before are gone, nothing tells the seconds.
    """
    if "carried" not in rows or not rows["carried"].eq(True).any():
        return rows
    in_order = rows.sort_values("step", kind="stable")
    kept = in_order["carried"].eq(True)
    dialogue = [in_order[column] for column in ("unit", "method", "case", "target", "protocol")]
    answered = in_order["seconds_segment"].mask(kept).groupby(dialogue, sort=False).ffill()
    return rows.assign(seconds_segment=in_order["seconds_segment"].where(~kept, answered))


def listed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that nobody has put into lists are of one list for each protocol."""
    return rows if DIFFERS in rows else rows.assign(**{DIFFERS: ""})


def per_list(
    rows: pd.DataFrame, table_of: Callable[[pd.DataFrame], pd.DataFrame], methods: int = 2, last: bool = True
) -> pd.DataFrame:
    """The tables of all lists with at least so many methods, one below the other, led by the columns `LIST`."""
    tables = []
    rows = listed(rows)
    for key, one in lists(with_target(last_steps(rows) if last and len(rows) else rows)):
        if one["method"].nunique() >= methods:
            table = table_of(one)
            if table.empty:
                continue
            for place, (column, value) in enumerate(zip(LIST, key, strict=True)):
                table.insert(place, column, value)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def best_first(rows: pd.DataFrame, metric: str) -> list[str]:
    """The methods of a list by their mean, failures at the worst value."""
    means = with_failures_as_worst(rows, metric).groupby("method", sort=False)[metric].mean()
    return [str(method) for method in means.sort_values(ascending=not higher_is_better(metric), kind="stable").index]


def in_order_of(names: Sequence[str]) -> Callable[[pd.Series], pd.Series]:
    """A key that sorts a column into the order of these names."""
    return lambda column: column.map({name: place for place, name in enumerate(names)})


def lists(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The lists in the order of the suite, see `list_place`."""
    if rows.empty:
        return
    place = list_place(rows)
    groups: dict[Any, pd.DataFrame] = dict(iter(rows.groupby(LIST, sort=False)))
    for key in sorted(groups, key=place):
        yield key, groups[key]


def list_place(rows: pd.DataFrame) -> Callable[[Sequence[Any]], tuple[int, ...]]:
    """A key that sorts lists: datasets, targets and protocols as the records have them, tracks from the least given."""
    orders = [list(dict.fromkeys(rows[column])) for column in LIST]
    orders[LIST.index("track")] = list(TRACKS)
    orders[LIST.index(DIFFERS)].sort(key=bool)  # the reference first
    return lambda key: tuple(order.index(part) for order, part in zip(orders, key, strict=True))


UNTRAINED = " (untrained)"
"""What the title of a method ends in that was evaluated with the weights its training begins with."""


def beside_trained(table: pd.DataFrame) -> pd.DataFrame:
    """The rows (a method each) in their order, but each untrained method right after itself trained."""
    names = list(table["method"])
    places = {name: place for place, name in enumerate(names)}
    keys = []
    for place, name in enumerate(names):
        trained = places.get(name.removesuffix(UNTRAINED)) if name.endswith(UNTRAINED) else None
        keys.append((place, 0) if trained is None else (trained, 1))
    return table.iloc[sorted(range(len(keys)), key=keys.__getitem__)]


def row_dicts(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
