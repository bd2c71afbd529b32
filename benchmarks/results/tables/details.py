"""The sheets of the tables beside the leaderboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.metrics import is_metric, metric_of, metrics_among
from benchmarks.results.comparability import DIFFERS
from benchmarks.results.leaderboard import LIST, details, leaderboard_of
from benchmarks.results.leaderboard.context import NOT_BESIDE_PHANTOMS
from benchmarks.results.leaderboard.subgroups import (
    DIAMETERS_MM,
    IN_PLANE_MM,
    LESION_NUMBERS,
    SLICE_MM,
    UNKNOWN,
    class_names,
)
from benchmarks.results.published import LABEL
from benchmarks.results.records import NO_TARGET
from benchmarks.results.tables.board import overall_page
from benchmarks.results.tables.sheet import (
    Page,
    Sheet,
    few_mark,
    few_note,
    given_text,
    list_title,
    mean_text,
    method_text,
    metric_text,
    number_text,
    p_text,
    percent_text,
)

NO_EMPTY_MASK = "empty masks: there was none, neither in a label nor predicted, so every policy gives these ranks"

COMPARISON_LEGEND = (
    "d: Cohen's d, r: rank-biserial correlation, both on patients; p flip: sign-flip permutation test of the mean "
    "difference (it decides the verdict); p same: two one-sided tests of equivalence within the margin, uncorrected."
)

RANKING_LEGEND = (
    "by case ranks: ties share the mean of their places; in brackets with ties at the better place (as challengeR), "
    "where that differs. by tests: number of methods beaten significantly; – where with so few patients no test can "
    "win."
)


def details_page(
    rows: pd.DataFrame,
    units: Sequence[Mapping[str, Any]],
    metric: str = "dice",
    margin: float | None = None,
    only: Sequence[str] = (),
) -> Page:
    """The tables of `benchmarks.results.leaderboard.details`: what stands behind the ranking.

    The comparisons are shown for the best method only; `details` has all pairs. The tables over all datasets stand
    in the leaderboard, and here only if `only` names them.

    Raises:
        UserError: records that are not complete, an unknown metric or table.
    """
    tables = details(rows, units, metric, margin, only)
    synthetic = {str(unit["dataset"]) for unit in units if unit["synthetic"]}
    floors = {str(unit["method"]) for unit in units if unit.get("floor")}
    sheets = detail_sheets(tables, metric, synthetic, floors)
    notes = [
        f"{name}: {_why_empty(name)}" for name in only if tables[name].empty and name not in ("policies", "overall")
    ]
    notes += few_note(sheets)
    if "policies" in tables and tables["policies"].empty:
        notes.append(NO_EMPTY_MASK)
    if "rankings" in tables and len(tables["rankings"]):
        notes.append(RANKING_LEGEND)
    if "comparisons" in tables and len(tables["comparisons"]):
        notes.append(COMPARISON_LEGEND)
    if synthetic:
        notes.append(NOT_BESIDE_PHANTOMS)
    notes += _sources(tables.get("published", pd.DataFrame()))
    for claim in tables.get("claims", pd.DataFrame()).to_dict("records"):
        notes.append(f"claim ({LABEL}, {claim['standing']}): {claim['method']} {claim['text']}. {claim['citation']}")
    page = Page(tuple(sheets), tuple(notes), bool(synthetic))
    return overall_page(leaderboard_of(rows, units), tables["overall"]) + page if "overall" in only else page


def _why_empty(table: str) -> str:
    """Why a table that was asked for by name is not there."""
    if table in ("comparisons", "rankings"):
        return "nothing to show, no list has two methods made under the same conditions"
    return "nothing to show for these records"


def _sources(published: pd.DataFrame) -> list[str]:
    """Where the published numbers shown come from, and what their labels mean."""
    if published.empty:
        return []
    cited = published.drop_duplicates("paper").to_dict("records")
    meaning = "published: printed in a paper, on other cases and prompts than ours"
    if (published["standing"] == "recalled").any():
        meaning += "; recalled: written down from memory, not yet compared with the source"
    return [meaning + ".", *(f"{row['paper']}: {row['citation']}" for row in cited)]


def detail_sheets(
    tables: Mapping[str, pd.DataFrame], metric: str, synthetic: Collection[str] = (), floors: Collection[str] = ()
) -> list[Sheet]:
    """The tables of `details` as text, in the order in which they are read.

    Args:
        synthetic: datasets that are phantoms; their sheets say so.
        floors: methods that are marked as floors, as they are in the leaderboard.
    """
    name = metric_of(metric).name if is_metric(metric) else metric
    present = {
        table: rows if table == "published" else _with_floors(rows, floors)
        for table, rows in tables.items()
        if len(rows)
    }
    sheets = []
    if "completeness" in present:
        sheets.append(_completeness_sheet(present["completeness"]))
    if "contamination" in present:
        sheets.append(_contamination_sheet(present["contamination"]))
    for table, make in _SHEETS.items():
        for key, rows in present[table].groupby(LIST, sort=False) if table in present else ():
            sheets.append(make(list_title(key, key[0] in synthetic), rows, name))
    if "robustness" in present:
        for key, rows in present["robustness"].groupby(["dataset", "target", "protocol", "noise", DIFFERS], sort=False):
            mark = f" · {key[4]!s}" * bool(key[4]) + " · SYNTHETIC" * (key[0] in synthetic)
            sheets.append(_robustness_sheet("{} · {} · {}".format(*key) + mark, str(key[3]), rows, name))
    if "published" in present:
        for key, rows in present["published"].groupby(["dataset", "track", "paper", "where", "protocol"], sort=False):
            sheets.append(_published_sheet([str(part) for part in key], rows))
    return sheets


def _with_floors(rows: pd.DataFrame, floors: Collection[str]) -> pd.DataFrame:
    """The methods under the names that the leaderboard gives them."""
    names = {floor: method_text({"method": floor, "floor": True}) for floor in floors}
    columns = [column for column in ("method", "a", "b", "better") if column in rows]
    return rows.assign(**{column: rows[column].replace(names) for column in columns})


def _completeness_sheet(table: pd.DataFrame) -> Sheet:
    """Sums over the methods of a dataset; `details` has a line for each."""
    headings = ("dataset", "target", "methods", "cases", "rows due", "found", "failed", NO_TARGET)
    cells = []
    for (dataset, target), rows in table.groupby(["dataset", "target"], sort=False):
        sums = (str(rows[column].sum()) for column in ("due", "found", "failed", "no_target"))
        cells.append((str(dataset), str(target), str(len(rows)), str(rows["cases"].max()), *sums))
    title = "complete: rows due = methods × cases × steps of the protocols that each method can follow"
    return Sheet(title, headings, tuple(cells), headings[2:])


def _contamination_sheet(table: pd.DataFrame) -> Sheet:
    headings = tuple(str(column) for column in table)
    cells = tuple(tuple("–" if pd.isna(cell) else str(cell) for cell in row) for row in table.to_numpy())
    return Sheet("what the released weights have seen (model cards)", headings, cells)


def _metrics_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    metrics = metrics_among(rows, "details")
    headings = ("method", *(one.heading for one in metrics))
    cells = tuple((row["method"], *(metric_text(row, one) for one in metrics)) for row in rows.to_dict("records"))
    return Sheet(f"{title} · every metric, means", headings, cells, headings[1:])


def _ranking_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    headings = ("method", "by mean", "by case ranks", "by tests", "95 % of draws", "rank in the draws")
    cells = tuple(
        (
            row["method"],
            _rank(row["mean-then-rank"]),
            _rank(row["rank-then-mean"], row["rank-then-mean-min"]),
            _rank(row["test-based"]),
            _span(row["rank_low"], row["rank_high"]),
            _shares_of_ranks(row) if pd.notna(row["mean-then-rank"]) else "no case above the worst value",
        )
        for row in rows.to_dict("records")
    )
    by_mean, by_case = (rows[name].iloc[0] for name in ("kendall_tau", "kendall_tau_case_ranks"))
    tau = f"Kendall's τ {by_mean:.2f} (by mean), {by_case:.2f} (by case ranks)"
    return Sheet(f"{title} · ranks by {metric}; when patients are drawn again: {tau}", headings, cells, headings[1:5])


def _rank(rank: Any, other: Any = None) -> str:
    """A rank; in brackets the one with ties counted the other way, where that differs."""
    if pd.isna(rank):
        return "–"
    return f"{rank}" if other is None or rank == other else f"{rank} ({other})"


def _span(low: Any, high: Any) -> str:
    if pd.isna(low):
        return "–"
    return f"{low}" if low == high else f"{low} to {high}"


def _shares_of_ranks(row: Mapping[Any, Any]) -> str:
    """How often a method has which rank when patients are drawn again, such as "1st 66 %, 2nd 34 %"; from 5 % on."""
    names = {1: "1st", 2: "2nd", 3: "3rd"}
    shares = {int(str(key).rsplit("_", 1)[1]): row[key] for key in row if str(key).startswith("share_of_rank_")}
    common = [
        f"{names.get(rank, f'{rank}th')} {100 * share:.0f} %"
        for rank, share in sorted(shares.items())
        if share == share and share >= 0.05
    ]
    return ", ".join(common)


def _comparison_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    """The best method by mean against each other one; `details` has all pairs."""
    best = _best_of(rows)
    margin = rows["margin"].iloc[0] if "margin" in rows else None
    same = () if margin is None else (f"p same ±{margin:g}",)
    headings = ("against", "difference [95 % CI]", "d", "r", "p flip", "p Wilcoxon", *same, "verdict")
    cells = []
    against = rows[(rows["a"] == best) | (rows["b"] == best)]
    nearest_first = against["difference"].abs().sort_values(kind="stable").index
    for row in against.loc[nearest_first].to_dict("records"):
        sign = 1 if row["a"] == best else -1
        low, high = sorted((sign * row["low"], sign * row["high"]))
        cells.append(
            (
                row["b"] if row["a"] == best else row["a"],
                mean_text(sign * row["difference"], low, high, row["patients"], signed=True),
                f"{sign * row['cohen_d']:+.1f}",
                f"{sign * row['rank_biserial']:+.2f}",
                p_text(row["p_sign_flip_holm"]),
                p_text(row["p_wilcoxon_holm"]),
                *(() if margin is None else (p_text(row["p_equivalence"]),)),
                row["verdict"] + few_mark(row["patients"]),
            )
        )
    pairs = f"{len(rows)} pair{'s' if len(rows) > 1 else ''}"
    corrected = f"p flip and p Wilcoxon Holm-corrected over {pairs}" + (" (all: --json)" if len(rows) > 1 else "")
    return Sheet(f"{title} · {metric} of {best} minus the others; {corrected}", headings, tuple(cells), headings[1:-1])


def _best_of(rows: pd.DataFrame) -> str:
    """The method that is better in most of its pairs; of equals, the first."""
    wins = dict.fromkeys(dict.fromkeys([*rows["a"], *rows["b"]]), 0)
    for name in rows["better"]:
        if name:
            wins[name] += 1
    return max(wins, key=lambda name: wins[name])


def _size_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    return _subgroup_sheet(f"{title} · {metric} by diameter of the target", rows, class_names(DIAMETERS_MM))


def _number_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    return _subgroup_sheet(f"{title} · {metric} by number of lesions", rows, LESION_NUMBERS)


def _in_plane_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    return _subgroup_sheet(f"{title} · {metric} by pixel size in the plane", rows, class_names(IN_PLANE_MM))


def _slice_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    return _subgroup_sheet(f"{title} · {metric} by distance between slices", rows, class_names(SLICE_MM))


def _each_lesion_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    name = f"{title} · Dice of each lesion as a task of its own, by its diameter"
    return _subgroup_sheet(name, rows, ["all", *class_names(DIAMETERS_MM)])


def _subgroup_sheet(title: str, rows: pd.DataFrame, names: Sequence[str]) -> Sheet:
    counts = rows.groupby("group")["n"].max()
    shown = [name for name in (*names, NO_TARGET, UNKNOWN) if name in counts]
    headings = ("method", *(f"{name} (n={counts[name]})" for name in shown))
    cells = []
    for method, group in rows.groupby("method", sort=False):
        lines = group.set_index("group").to_dict("index")
        means = [_mean_of(lines[name]) for name in shown]
        cells.append((str(method), *means))
    return Sheet(title, headings, tuple(cells), headings[1:])


def _mean_of(line: Mapping[Any, Any]) -> str:
    return mean_text(line["mean"], line["low"], line["high"], line["patients"])


def _lesion_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    there = rows.groupby("size", sort=False)["lesions"].max()
    headings = ("method", *(f"{size} (n={count})" for size, count in there.items()))
    shares = ("sensitivity", "precision")
    cells = tuple(
        (str(method), *(" / ".join(map(percent_text, pair)) for pair in group[[*shares]].to_numpy()))
        for method, group in rows.groupby("method", sort=False)
    )
    title = f"{title} · by diameter: lesions found / predictions true"
    return Sheet(title, headings, cells, headings[1:])


def _click_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    shown = [c for c in rows if str(c).startswith(("dice@", "auc")) and rows[c].notna().any()]
    shown += [f"{kind}@{quality}" for quality in ("0.8", "0.9") for kind in ("noc", "failures")]
    names = {c: str(c).replace("dice@", "Dice@").replace("auc", "AUC").replace("noc@", "NoC@") for c in shown}
    headings = ("method", *(names[column].replace("failures@", "never ") for column in shown))
    cells = tuple(
        (
            row["method"],
            *(
                f"{row[column]}/{row['curves']}"
                if str(column).startswith("failures@")
                else number_text(row[column], 1 if str(column).startswith("noc") else 3)
                for column in shown
            ),
        )
        for row in rows.to_dict("records")
    )
    return Sheet(f"{title} · click curves", headings, cells, headings[1:])


def _cvpr25_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    names = {"dsc_auc": "DSC AUC", "nsd_auc": "NSD AUC", "dsc_final": "DSC final", "nsd_final": "NSD final"}
    headings = ("method", *names.values(), "cases")
    cells = tuple(
        (row["method"], *(number_text(row[name], 3) for name in names), str(row["n"]))
        for row in rows.to_dict("records")
    )
    return Sheet(f"{title} · by the CVPR 2025 challenge's definitions (AUC 0 to 4)", headings, cells, headings[1:])


def _round_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    steps = sorted(rows["step"].unique())
    headings = ("method", *(f"round {step}" for step in steps))
    cells = []
    for method, group in rows.groupby("method", sort=False):
        lines = group.set_index("step").to_dict("index")
        cells.append(
            (
                str(method),
                *(_mean_of(lines[step]) for step in steps),
            )
        )
    return Sheet(f"{title} · {metric} after each round", headings, tuple(cells), headings[1:])


def _policy_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    policies = list(dict.fromkeys(rows["policy"]))
    headings = ("method", *policies)
    cells = []
    for method, group in rows.groupby("method", sort=False):
        lines = group.set_index("policy").to_dict("index")
        cells.append((str(method), *(_policy_cell(lines[policy]) for policy in policies)))
    return Sheet(
        f"{title} · {metric} (rank) if empty masks were counted otherwise", headings, tuple(cells), headings[1:]
    )


def _policy_cell(line: Mapping[Any, Any]) -> str:
    skipped = f", {line['skipped']} skipped" if line["skipped"] else ""
    return f"{number_text(line['mean'], 3)} ({line['rank']}){skipped}"


_SHEETS: dict[str, Callable[[str, pd.DataFrame, str], Sheet]] = {
    "metrics": _metrics_sheet,
    "rankings": _ranking_sheet,
    "comparisons": _comparison_sheet,
    "sizes": _size_sheet,
    "numbers": _number_sheet,
    "in-plane": _in_plane_sheet,
    "slices": _slice_sheet,
    "each-lesion": _each_lesion_sheet,
    "lesions": _lesion_sheet,
    "clicks": _click_sheet,
    "cvpr25": _cvpr25_sheet,
    "rounds": _round_sheet,
    "policies": _policy_sheet,
}
"""The tables that come once for each list."""


def _robustness_sheet(title: str, noise: str, rows: pd.DataFrame, metric: str) -> Sheet:
    levels = sorted(rows["level"].unique())
    headings = ("method", *(f"{level:g}" for level in levels), "tolerated")
    cells = []
    for method, group in rows.groupby("method", sort=False):
        curve = group.sort_values("level")
        tolerated = curve["tolerated"].iloc[0]
        means = (_mean_of(row) for row in curve.to_dict("records"))
        cells.append((str(method), *means, f"{tolerated:.2g}" if math.isfinite(tolerated) else f"> {levels[-1]:g}"))
    counted = f"n={rows['n'].max()}"
    title = f"{title} · {metric} against {noise} ({counted}); tolerated: until 0.05 is lost"
    return Sheet(title, headings, tuple(cells), headings[1:])


def _published_sheet(key: Sequence[str], rows: pd.DataFrame) -> Sheet:
    dataset, track, paper, where, protocol = key
    metrics = tuple(dict.fromkeys(rows["metric"]))
    headings = ("method", "target", *metrics)
    cells = []
    for (title, target), group in rows.groupby(["title", "target"], sort=False):
        values = dict(zip(group["metric"], group["value"], strict=True))
        cells.append((str(title), str(target), *(number_text(values.get(metric, math.nan), 3) for metric in metrics)))
    name = f"PUBLISHED, not measured here · {dataset} · {given_text(track)} · {paper}, {where} · protocol: {protocol}"
    return Sheet(name, headings, tuple(cells), metrics)
