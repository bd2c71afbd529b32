"""Two runs, or two methods, on the same cases: paired differences with their intervals over patients."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.results.comparability import DIFFERS, with_lists
from benchmarks.results.leaderboard import CONFIDENCE_SEED, last_steps, verdict, with_seconds_of_answers
from benchmarks.results.leaderboard.comparisons import MARGIN
from benchmarks.results.leaderboard.completeness import missing_cases
from benchmarks.results.leaderboard.lists import row_dicts
from benchmarks.results.records import with_newest_patients
from benchmarks.results.statistics import case_table, comparisons, higher_is_better, holm, with_target

PAIR = ["dataset", "target", "track", "protocol", "method"]


@dataclass(frozen=True)
class Side:
    """One of two things that are compared.

    Attributes:
        name: as the user gave it.
        rows, units: its records; of one method, or of all methods of a run.
    """

    name: str
    rows: pd.DataFrame
    units: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RunPairs:
    """What came of a comparison.

    Attributes:
        table: `PAIR`, n, patients, mean_a, mean_b, difference (b − a) with low and high (95 %, over patients),
            p_sign_flip, p_sign_flip_holm (over all rows), better ("a", "b" or ""), verdict.
        notes: what was not compared, and why; what else differs.
        synthetic: whether any of the numbers was measured on phantoms.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    synthetic: bool = False


def compared(a: Side, b: Side, metric: str = "dice", margin: float | None = None) -> RunPairs:
    """Every method that two runs have, against itself; or, where each side is one method, these two.

    Raises:
        UserError: two runs without a method in common.
    """
    methods = [{str(unit["method"]) for unit in side.units} for side in (a, b)]
    same_method = bool(methods[0] & methods[1])
    if not same_method and [len(names) for names in methods] != [1, 1]:
        raise UserError(f"{a.name} and {b.name} have no method in common; name two methods of one run instead")
    stated = MARGIN if margin is None and higher_is_better(metric) else margin
    marked = [_marked(side, mark) for side, mark in ((a, "a"), (b, "b"))]
    units = [unit for side in marked for unit in side.units]
    called = sorted(units, key=lambda unit: (unit.get("called_at", ""), unit.get("created_at", "")))
    together = with_newest_patients(pd.concat([side.rows for side in marked], ignore_index=True), called)
    everything = with_lists(together, units)
    rows, missing = last_steps(with_seconds_of_answers(everything)), missing_cases(everything, units)
    lines: list[dict[str, Any]] = []
    notes: list[str] = []
    places = dict.fromkeys(zip(*(rows[column] for column in ("dataset", "target", "track", "protocol")), strict=True))
    others: list[tuple[str, str]] = [(min(methods[0]), min(methods[1]))]
    pairs = {place: [(name, name) for name in _names(rows, place)] if same_method else others for place in places}
    wanted = _Wanted(metric, stated, sum(map(len, pairs.values())))
    for place, pair in ((place, pair) for place, of_place in pairs.items() for pair in of_place):
        line, note = _pair(_rows_of(rows, place), place, pair, wanted, missing)
        lines += [line] if line else []
        notes += [note] if note else []
    table = pd.DataFrame(lines)
    if len(table):
        table["p_sign_flip_holm"] = holm(table["p_sign_flip"])
        table["verdict"] = [
            verdict({**row, "better": {"a": a.name, "b": b.name}.get(row["better"], "")}, len(table))
            for row in row_dicts(table)
        ]
    notes += _budgets(a, b, same_method)
    if same_method:
        notes += _alone(a, b, methods)
    synthetic = any(bool(unit["synthetic"]) for unit in units)
    return RunPairs(table, tuple(dict.fromkeys(notes)), synthetic)


def _alone(a: Side, b: Side, methods: Sequence[set[str]]) -> list[str]:
    sides = ((a, methods[0] - methods[1]), (b, methods[1] - methods[0]))
    return [f"only in {side.name}: {', '.join(sorted(names))}" for side, names in sides if names]


def _marked(side: Side, mark: str) -> Side:
    """The same with `mark:` before every method, and without budgets, which may be what is compared."""
    rows = side.rows.assign(method=f"{mark}:" + side.rows["method"].astype(str))
    units = [{**unit, "method": f"{mark}:{unit['method']}", "budget": {}} for unit in side.units]
    return Side(side.name, rows, units)


@dataclass(frozen=True)
class _Wanted:
    """Of every comparison; `tests` are corrected together."""

    metric: str
    margin: float | None
    tests: int


def _rows_of(rows: pd.DataFrame, place: tuple[str, ...]) -> pd.DataFrame:
    return rows[(rows[["dataset", "target", "track", "protocol"]] == list(place)).all(axis=1)]


def _names(rows: pd.DataFrame, place: tuple[str, ...]) -> list[str]:
    """Of the methods there, without the mark of a side."""
    return list(dict.fromkeys(name.split(":", 1)[1] for name in _rows_of(rows, place)["method"]))


def _pair(
    rows: pd.DataFrame,
    place: tuple[str, ...],
    pair: tuple[str, str],
    wanted: _Wanted,
    missing: Collection[tuple[str, ...]],
) -> tuple[dict[str, Any] | None, str]:
    """The comparison of one pair on one list, or why there is none; `missing` as `missing_cases` has it."""
    a, b = (rows[rows["method"] == f"{mark}:{name}"] for mark, name in zip("ab", pair, strict=True))
    where = f"{' · '.join((place[0], place[1], place[3]))}, {' and '.join(dict.fromkeys(pair))}"
    if a.empty or b.empty:
        return None, "" if a.empty and b.empty else f"not compared: {where}: only one of the two has it"
    differs = {str(one[DIFFERS].iloc[0]) for one in (a, b)}
    if len(differs) > 1:
        return None, f"not compared: {where}: {'; '.join(sorted(filter(None, differs)))}"
    both = with_target(pd.concat([a, b]))
    if both.empty:
        return None, f"not compared: {where}: no case has anything to find"
    dataset, target, _, protocol = place
    unfinished = any(
        (dataset, target, protocol, f"{mark}:{name}") in missing for mark, name in zip("ab", pair, strict=True)
    )
    if unfinished or set(a["case"]) != set(b["case"]):
        return None, f"not compared: {where}: a run is not finished"
    table, _ = case_table(both, wanted.metric)
    pairs = comparisons(both, wanted.metric, CONFIDENCE_SEED, wanted.margin, tests=wanted.tests)
    found = pairs.iloc[0].to_dict()
    names = dict(zip("ab", pair, strict=True))
    means = {f"mean_{mark}": float(table[f"{mark}:{name}"].mean()) for mark, name in names.items()}
    kept = ("n", "patients", "p_sign_flip", "p_wilcoxon", "margin", "equivalent", "both_failed")
    line = dict(zip(PAIR, (*place, " → ".join(dict.fromkeys(pair))), strict=True)) | means
    line |= {key: found[key] for key in kept if key in found}
    line |= {"difference": -found["difference"], "low": -found["high"], "high": -found["low"]}  # b minus a
    line |= {"cohen_d": -found["cohen_d"]}
    return line | {"better": str(found["better"])[:1]}, ""


def _budgets(a: Side, b: Side, same_method: bool) -> list[str]:
    """Where two runs, or two methods of one, trained with other budgets: that is allowed, and said.

    A method that one run trains and the other does not is named, too; of two methods one may have nothing to learn.
    """
    notes = []
    for one, other in product(a.units, b.units):
        budgets = [unit.get("budget") or {} for unit in (one, other)]
        if one["dataset"] != other["dataset"] or budgets[0] == budgets[1]:
            continue
        what = f"{one['method']} on {one['dataset']} was trained with {budgets[0]}"
        if same_method and one["method"] == other["method"]:
            notes.append(f"{what} in {a.name}, with {budgets[1]} in {b.name}")
        elif not same_method and all(budgets):
            notes.append(f"{what}, {other['method']} with {budgets[1]}")
    return notes
