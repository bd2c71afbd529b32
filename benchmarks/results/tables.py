"""What a person sees in a terminal: progress bars and tables. Nothing is computed here."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.metrics import Metric, is_metric, metric_of, metrics_among
from benchmarks.results.leaderboard import (
    DIAMETERS_MM,
    IN_PLANE_MM,
    LESION_NUMBERS,
    LIST,
    NO_TARGET,
    NOT_BESIDE_PHANTOMS,
    SLICE_MM,
    UNKNOWN,
    class_names,
    details,
    overall_of,
)
from benchmarks.results.published import LABEL

SYNTHETIC_BANNER = (
    "SYNTHETIC DATA: generated phantoms. These numbers rank methods on phantoms; they say nothing about patients."
)

MARKS = {"trained-on": "*", "superset": "+", "unseen": "", "unknown": "?"}
"""The sign beside a row for what the released weights have seen of the dataset."""

MEANINGS = {"trained-on": "trained on it", "superset": "trained on a collection that holds it", "unknown": "not known"}

NO_EMPTY_MASK = "empty masks: there was none, neither in a label nor predicted, so every policy gives these ranks"
COMPARISON_LEGEND = (
    "d: Cohen's d, r: rank-biserial correlation, both on patients; p flip: sign-flip permutation test of the mean "
    "difference (it decides the verdict); p same: two one-sided tests of equivalence within the margin, uncorrected."
)


@dataclass(frozen=True)
class Sheet:
    """A table as text: what the terminal, Markdown and LaTeX print alike.

    Attributes:
        numeric: headings of the columns that are set flush right.
        styles: a rich style for each row, or nothing.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()


def show_leaderboard(
    board: pd.DataFrame, console: Console, notes: Sequence[str] = (), overall_only: bool = False
) -> None:
    """Print one table per dataset and track; methods that were given different things are never in one list.

    Where a track has more than one dataset, a table over all of them comes first; `overall_only` prints no other.
    """
    if board.empty:
        console.print("no records yet")
        return
    if board["synthetic"].any():
        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")
    overall = overall_sheets(board)
    for sheet in overall if overall_only and overall else (*overall, *board_sheets(board)):
        _print_sheet(sheet, console)
    for note in (*legend(board), *notes):
        console.print(Text(note, style="dim"))


def overall_sheets(board: pd.DataFrame) -> list[Sheet]:
    """Per track and protocol: mean Dice over the datasets, mean rank, Dice on each; nothing for a single dataset."""
    overall = overall_of(board)
    if overall.empty:
        return []
    marks = {
        (row["method"], name): MARKS[row["contamination"]]
        for row in board.to_dict("records")
        for name in (f"dice/{row['dataset']}", f"dice/{row['dataset']}/{row['target']}")
    }
    sheets = []
    for (track, protocol), rows in overall.groupby(["track", "protocol"], sort=False):
        lists = [str(column) for column in rows if str(column).startswith("dice/") and rows[column].notna().any()]
        if len(lists) < 2:
            continue
        headings = ("method", "mean Dice", "mean rank", *(name.removeprefix("dice/") for name in lists))
        cells = tuple(
            (
                _title_of(row),
                _number(row["dice"], 3),
                _number(row["mean_rank"], 1),
                *(_number(row[name], 3) + marks.get((row["method"], name), "") for name in lists),
            )
            for row in rows.to_dict("records")
        )
        styles = tuple("dim" if floor else "" for floor in rows["floor"])
        synthetic = " · SYNTHETIC" if board["synthetic"].any() else ""
        title = f"all datasets · given: {track} ({protocol}){synthetic}"
        sheets.append(Sheet(title, headings, cells, headings[1:], styles))
    return sheets


def board_sheets(board: pd.DataFrame) -> list[Sheet]:
    """One sheet per dataset, target, track and protocol, as in `show_leaderboard`."""
    shown = _main_metrics(board)
    marked = bool(board["contamination"].map(MARKS).any())
    headings = ("method", *(("seen",) if marked else ()), "Dice [95 % CI]")
    headings += (*(metric.heading for metric in shown), "s open", "s prompt", "done")
    sheets = []
    for (dataset, target, track, protocol), rows in board.groupby(LIST, sort=False):
        records = rows.to_dict("records")
        cells = tuple(
            (
                _title_of(row),
                *((MARKS[row["contamination"]],) if marked else ()),
                f"{_number(row['dice'], 3)} {_interval(row['dice_low'], row['dice_high'], 3)}",
                *(_number(row[metric.key], metric.digits) for metric in shown),
                _seconds(row["seconds_open"]),
                _seconds(row["seconds_segment"]),
                f"{row['cases'] - row['failed']}/{row['cases']}",
            )
            for row in records
        )
        styles = tuple("red" if row["failed"] else "dim" if row["floor"] else "" for row in records)
        synthetic = " · SYNTHETIC" if rows["synthetic"].any() else ""
        title = f"{dataset} · {target} · given: {track} ({protocol}){synthetic}"
        sheets.append(Sheet(title, headings, cells, headings[1:], styles))
    return sheets


def _main_metrics(board: pd.DataFrame) -> list[Metric]:
    """The metrics of the main table beside Dice; of the tolerances one, 2 mm if the suite has it."""
    metrics = [metric for metric in metrics_among(board, "leaderboard") if metric.key != "dice"]
    tolerances = [metric.key for metric in metrics if metric.key.startswith("nsd@")]
    chosen = "nsd@2mm" if "nsd@2mm" in tolerances else next(iter(tolerances), None)
    return [metric for metric in metrics if metric.key == chosen or metric.key not in tolerances]


def _metrics_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    metrics = metrics_among(rows, "details")
    headings = ("method", *(one.heading for one in metrics))
    cells = tuple(
        (_title_of(row), *(_number(row[one.key], one.digits) for one in metrics)) for row in rows.to_dict("records")
    )
    return Sheet(f"{title} · every metric, means", headings, cells, headings[1:])


def legend(board: pd.DataFrame) -> list[str]:
    """What the columns and the marks mean, in a few lines."""
    lines = [
        "Dice: mean over cases at the last prompt, 95 % interval over patients; a failed case counts as 0 (done: "
        "cases that did not fail). F1: lesion-wise. s open, s prompt: seconds to take in a scan, and per prompt."
    ]
    used = [seen for seen in MARKS if MARKS[seen] and (board["contamination"] == seen).any()]
    if used:
        told = "; ".join(f"{MARKS[seen]} {MEANINGS[seen]}" for seen in used)
        lines.append(f"seen: what the released weights have seen of the dataset: {told}.")
    return lines


def show_details(
    rows: pd.DataFrame,
    units: Sequence[Mapping[str, Any]],
    console: Console,
    metric: str = "dice",
    margin: float | None = None,
    only: Sequence[str] = (),
) -> None:
    """Print the tables of `benchmarks.results.leaderboard.details`: what stands behind the ranking.

    The comparisons are shown for the best method only; `details` has all pairs.

    Raises:
        UserError: records that are not complete, an unknown metric or table.
    """
    tables = details(rows, units, metric, margin, only)
    if any(unit["synthetic"] for unit in units):
        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")
    for sheet in detail_sheets(tables, metric):
        _print_sheet(sheet, console)
    if "policies" in tables and tables["policies"].empty:
        console.print(Text(NO_EMPTY_MASK, style="dim"))
    if "comparisons" in tables and len(tables["comparisons"]):
        console.print(Text(COMPARISON_LEGEND, style="dim"))
    if any(unit["synthetic"] for unit in units):
        console.print(Text(NOT_BESIDE_PHANTOMS, style="dim"))
    for line in _sources(tables.get("published", pd.DataFrame())):
        console.print(Text(line, style="dim"))
    for claim in tables.get("claims", pd.DataFrame()).to_dict("records"):
        told = f"claim ({LABEL}, {claim['standing']}): {claim['method']} {claim['text']}. {claim['citation']}"
        console.print(Text(told, style="dim"))


def _sources(published: pd.DataFrame) -> list[str]:
    """Where the published numbers shown come from, and what their labels mean."""
    if published.empty:
        return []
    cited = published.drop_duplicates("paper").to_dict("records")
    meaning = "published: printed in a paper, on other cases and prompts than ours"
    if (published["standing"] == "recalled").any():
        meaning += "; recalled: written down from memory, not yet compared with the source"
    return [meaning + ".", *(f"{row['paper']}: {row['citation']}" for row in cited)]


def detail_sheets(tables: Mapping[str, pd.DataFrame], metric: str) -> list[Sheet]:
    """The tables of `details` as text, in the order in which they are read."""
    name = metric_of(metric).name if is_metric(metric) else metric
    given = {table: rows for table, rows in tables.items() if len(rows)}
    sheets = []
    if "completeness" in given:
        sheets.append(_completeness_sheet(given["completeness"]))
    if "contamination" in given:
        sheets.append(_contamination_sheet(given["contamination"]))
    for table, make in _SHEETS.items():
        for key, rows in given[table].groupby(LIST, sort=False) if table in given else ():
            sheets.append(make("{} · {} · given: {} ({})".format(*key), rows, name))
    if "robustness" in given:
        for key, rows in given["robustness"].groupby(["dataset", "target", "protocol", "noise"], sort=False):
            sheets.append(_robustness_sheet("{} · {} · {}".format(*key), str(key[3]), rows, name))
    if "published" in given:
        for key, rows in given["published"].groupby(["dataset", "track", "paper", "where", "protocol"], sort=False):
            sheets.append(_published_sheet([str(part) for part in key], rows))
    return sheets


def _completeness_sheet(table: pd.DataFrame) -> Sheet:
    """Sums over the methods of a dataset; `details` has a line for each."""
    headings = ("dataset", "target", "methods", "cases", "rows due", "found", "failed", "no target")
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


def _ranking_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    headings = ("method", "by mean", "by case ranks", "by tests", "95 % of draws", "rank in the draws")
    cells = tuple(
        (
            row["method"],
            str(row["mean-then-rank"]),
            str(row["rank-then-mean"]),
            str(row["test-based"]),
            f"{row['rank_low']}" if row["rank_low"] == row["rank_high"] else f"{row['rank_low']} to {row['rank_high']}",
            _shares_of_ranks(row),
        )
        for row in rows.to_dict("records")
    )
    by_mean, by_case = (rows[name].iloc[0] for name in ("kendall_tau", "kendall_tau_case_ranks"))
    tau = f"Kendall's τ {by_mean:.2f} (by mean), {by_case:.2f} (by case ranks)"
    return Sheet(f"{title} · ranks by {metric}; when patients are drawn again: {tau}", headings, cells, headings[1:5])


def _shares_of_ranks(row: Mapping[Any, Any]) -> str:
    """How often a method has which rank when patients are drawn again, such as "1st 66 %, 2nd 34 %"; from 5 % on."""
    names = {1: "1st", 2: "2nd", 3: "3rd"}
    shares = {int(str(key).rsplit("_", 1)[1]): row[key] for key in row if str(key).startswith("share_of_rank_")}
    told = [
        f"{names.get(rank, f'{rank}th')} {100 * share:.0f} %"
        for rank, share in sorted(shares.items())
        if share == share and share >= 0.05
    ]
    return ", ".join(told)


def _comparison_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    """The best method by mean against each other one; `details` has all pairs."""
    best = _best_of(rows)
    margin = rows["margin"].iloc[0] if "margin" in rows else None
    same = () if margin is None else (f"p same ±{margin:g}",)
    headings = ("against", "difference [95 % CI]", "d", "r", "p flip", "p Wilcoxon", *same, "verdict")
    cells = []
    for row in rows.to_dict("records"):
        if best not in (row["a"], row["b"]):
            continue
        sign = 1 if row["a"] == best else -1
        low, high = sorted((sign * row["low"], sign * row["high"]))
        cells.append(
            (
                row["b"] if row["a"] == best else row["a"],
                f"{sign * row['difference']:+.3f} {_interval(low, high, 3, signed=True)}",
                f"{sign * row['cohen_d']:+.1f}",
                f"{sign * row['rank_biserial']:+.2f}",
                _p_value(row["p_sign_flip_holm"]),
                _p_value(row["p_wilcoxon_holm"]),
                *(() if margin is None else (_p_value(row["p_equivalence"]),)),
                row["verdict"],
            )
        )
    pairs = f"{len(rows)} pair{'s' if len(rows) > 1 else ''}"
    corrected = f"p flip and p Wilcoxon Holm-corrected over {pairs}" + (" (all: --json)" if len(rows) > 1 else "")
    return Sheet(f"{title} · {metric} of {best} minus the others; {corrected}", headings, tuple(cells), headings[1:-1])


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


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
        means = [f"{lines[name]['mean']:.3f} {_interval(lines[name]['low'], lines[name]['high'], 2)}" for name in shown]
        cells.append((str(method), *means))
    return Sheet(title, headings, tuple(cells), headings[1:])


def _lesion_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    there = rows.groupby("size", sort=False)["lesions"].max()
    headings = ("method", *(f"{size} (n={count})" for size, count in there.items()))
    shares = ("sensitivity", "precision")
    cells = tuple(
        (str(method), *(" / ".join(map(_percent, pair)) for pair in group[[*shares]].to_numpy()))
        for method, group in rows.groupby("method", sort=False)
    )
    told = f"{title} · by diameter: lesions found / predictions true"
    return Sheet(told, headings, cells, headings[1:])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == share else "–"


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
                else _number(row[column], 1 if str(column).startswith("noc") else 3)
                for column in shown
            ),
        )
        for row in rows.to_dict("records")
    )
    return Sheet(f"{title} · click curves", headings, cells, headings[1:])


def _round_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    steps = sorted(rows["step"].unique())
    headings = ("method", *(f"round {step}" for step in steps))
    cells = []
    for method, group in rows.groupby("method", sort=False):
        lines = group.set_index("step").to_dict("index")
        cells.append(
            (str(method), *(f"{lines[s]['mean']:.3f} {_interval(lines[s]['low'], lines[s]['high'], 2)}" for s in steps))
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
    return f"{_number(line['mean'], 3)} ({line['rank']}){skipped}"


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
        means = (f"{row['mean']:.3f} {_interval(row['low'], row['high'], 2)}" for row in curve.to_dict("records"))
        cells.append((str(method), *means, f"{tolerated:.2g}" if math.isfinite(tolerated) else f"> {levels[-1]:g}"))
    counted = f"n={rows['n'].max()}"
    told = f"{title} · {metric} against {noise} ({counted}); tolerated: until 0.05 is lost"
    return Sheet(told, headings, tuple(cells), headings[1:])


def _published_sheet(key: Sequence[str], rows: pd.DataFrame) -> Sheet:
    dataset, track, paper, where, protocol = key
    metrics = tuple(dict.fromkeys(rows["metric"]))
    headings = ("method", "target", *metrics)
    cells = []
    for (title, target), group in rows.groupby(["title", "target"], sort=False):
        values = dict(zip(group["metric"], group["value"], strict=True))
        cells.append((str(title), str(target), *(_number(values.get(metric, math.nan), 3) for metric in metrics)))
    name = f"PUBLISHED, not measured here · {dataset} · given: {track} · {paper}, {where} · protocol: {protocol}"
    return Sheet(name, headings, tuple(cells), metrics)


def show_ablation(table: pd.DataFrame, metric: str, synthetic: bool, console: Console) -> None:
    """Print the variants of a method against it, one table per protocol."""
    if synthetic:
        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")
    for (track, protocol), rows in table.groupby(["track", "protocol"], sort=False):
        _print_sheet(_ablation_sheet(f"given: {track} · {protocol}", rows, metric), console)
    told = "A positive difference says that the variant is better than the whole. Cases of all datasets together; "
    told += "the interval and the test are over patients, and know nothing of the chance in training."
    repeats = int(table["repeats"].max())
    if repeats > 1:
        told += f" Every case counts with its mean over {repeats} trainings; their own means are under 'trainings'."
    else:
        told += " One training each: differences of this size can be luck, see --repeats."
    console.print(Text(told, style="dim"))


def _ablation_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    repeated = int(rows["repeats"].max()) > 1
    headings = ("variant", f"{metric} [95 % CI]", *(("trainings",) if repeated else ()))
    headings += ("difference [95 % CI]", "p", "verdict")
    cells, styles = [], []
    for row in rows.to_dict("records"):
        trainings = f"{row['lowest']:.2f}–{row['highest']:.2f}" if row["repeats"] > 1 else ""
        difference = ""
        if pd.notna(row["difference"]):
            ends = _interval(row["difference_low"], row["difference_high"], 2, signed=True)
            difference = f"{row['difference']:+.3f} {ends}"
        cells.append(
            (
                f"{row['variant']} (floor)" if row["kind"] == "floor" else row["variant"],
                f"{row['mean']:.3f} {_interval(row['low'], row['high'], 2)}",
                *((trainings,) if repeated else ()),
                difference,
                _p_value(row["p"]) if difference else "",
                row["verdict"] if difference else "",
            )
        )
        styles.append("bold" if row["kind"] == "whole" else "dim" if row["kind"] == "floor" else "")
    counted = f"n={rows['cases'].max()}, {rows['patients'].max()} patients"
    return Sheet(f"{title} ({counted})", headings, tuple(cells), headings[1:-1], tuple(styles))


def _print_sheet(sheet: Sheet, console: Console) -> None:
    console.print(Text(sheet.title, style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    cell_widths = [max(len(row[place]) for row in sheet.rows) for place in range(len(sheet.headings))]
    whole = sum(max(width, len(name)) + 2 for width, name in zip(cell_widths, sheet.headings, strict=True))
    for width, heading in zip(cell_widths, sheet.headings, strict=True):
        right = heading in sheet.numeric
        narrowest = max(width, *map(len, heading.split()), 1)
        lines = textwrap.wrap(heading, narrowest) if right and whole > console.width else [heading]
        table.add_column(Text("\n".join(lines)), justify="right" if right else "left", overflow="fold")
    for cells, style in zip(sheet.rows, sheet.styles or ("",) * len(sheet.rows), strict=True):
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    console.print()


def _title_of(row: Mapping[Any, Any]) -> str:
    return f"{row['method']} (floor)" if row["floor"] else str(row["method"])


def _interval(low: float, high: float, digits: int, signed: bool = False) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "[–, –]"
    sign = "+" if signed else ""
    ends = (f"{round(end, digits) + 0.0:{sign}.{digits}f}" for end in (low, high))  # + 0.0: never "-0.000"
    return f"[{', '.join(ends)}]"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if pd.notna(value) else "–"


def _seconds(value: float) -> str:
    """Three figures are enough: 0.04, 1.25, 12.5, 125."""
    return _number(value, 2 if not value >= 10 else 1 if value < 100 else 0)


# -- pictures and text for other places --


def svg(board: pd.DataFrame, notes: Sequence[str] = (), overall_only: bool = False) -> str:
    """The leaderboard as an SVG picture of a terminal, 100 columns wide; it loads nothing from elsewhere."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    show_leaderboard(board, console, notes, overall_only)
    picture = console.export_svg(title="tags-bench leaderboard")
    return re.sub(r"@font-face\s*{.*?}", "", picture, flags=re.DOTALL)


def to_markdown(board: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The leaderboard as Markdown tables, with the same cells as in the terminal."""
    if board.empty:
        return "no records yet\n"
    blocks = [f"**{SYNTHETIC_BANNER}**"] if board["synthetic"].any() else []
    for sheet in (*overall_sheets(board), *board_sheets(board)):
        lines = [f"**{_markdown(sheet.title)}**", ""]
        lines.append(_markdown_row(sheet.headings))
        lines.append("| " + " | ".join("---:" if name in sheet.numeric else "---" for name in sheet.headings) + " |")
        lines += [_markdown_row(row) for row in sheet.rows]
        blocks.append("\n".join(lines))
    blocks.append("\n".join(f"- {_markdown(note)}" for note in (*legend(board), *notes)))
    return "\n\n".join(blocks) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown, cells)) + " |"


def _markdown(text: str) -> str:
    for sign in "\\|*_`<>":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def to_latex(board: pd.DataFrame) -> str:
    """The leaderboard as LaTeX tables (package booktabs), one per list, with what a caption must say."""
    blocks = []
    for sheet in (*overall_sheets(board), *board_sheets(board)) if len(board) else ():
        columns = "".join("r" if name in sheet.numeric else "l" for name in sheet.headings)
        caption = f"{sheet.title}. {' '.join(legend(board))}"
        if board["synthetic"].any():
            caption = f"{caption} {SYNTHETIC_BANNER}"
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_row(sheet.headings),
            r"\midrule",
            *map(_latex_row, sheet.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "·": r"\textperiodcentered{}",
    "–": "--",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _latex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)
