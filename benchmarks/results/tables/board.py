"""The sheets of the leaderboard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.metrics import Metric, metrics_among
from benchmarks.results.comparability import DIFFERS, ITS_TRAINING, WORDS
from benchmarks.results.leaderboard import LIST
from benchmarks.results.leaderboard.board import TRAINING_FACTS
from benchmarks.results.leaderboard.overall import OVER
from benchmarks.results.tables.sheet import (
    UNFINISHED_LEGEND,
    Page,
    Sheet,
    count_text,
    digits_of,
    few_note,
    list_title,
    mean_text,
    method_text,
    metric_text,
    number_text,
    seconds_text,
    unfinished_mark,
    verdict_text,
)

MARKS = {"trained-on": "*", "superset": "+", "unseen": "", "unknown": "?"}
"""The sign beside a row for what the released weights have seen of the dataset."""

KNOWS = {WORDS: "w", ITS_TRAINING: "t"}
"""The letter of what a method knows of the target beside the prompts."""

NO_OVERALL = "overall: nothing to show, no list has two data sets that a table could be over"

DIFFERS_LEGEND = "other …: made under other conditions than most of these methods, so in a list of its own."

UNTRAINED_LEGEND = (
    "(untrained): the method with the weights that its training begins with; what lies above it was learned."
)

MEANINGS = {"trained-on": "trained on it", "superset": "trained on a collection that holds it", "unknown": "not known"}


def leaderboard_page(
    board: pd.DataFrame, overall: pd.DataFrame, notes: Sequence[str] = (), overall_only: bool = False
) -> Page:
    """One sheet per dataset and track; methods that were given different things are never in one list.

    Where a track has more than one dataset, a sheet over all of them comes first; `overall_only` gives no other.

    Args:
        overall: what `leaderboard.overall_of` gives for the board.
    """
    if board.empty:
        return Page(notes=tuple(notes))
    synthetic = bool(board["synthetic"].any())
    first = overall_sheets(board, overall)
    sheets = first if overall_only and first else [*first, *board_sheets(board), *costs_sheets(board)]
    about_all = (_overall_legend(overall),) if first else ()
    return Page(tuple(sheets), (*legend(board), *about_all, *few_note(sheets), *notes), synthetic)


def overall_page(board: pd.DataFrame, overall: pd.DataFrame) -> Page:
    """The tables over all datasets and no other; a note where no track has two datasets."""
    sheets = overall_sheets(board, overall)
    if not sheets:
        return Page(notes=(NO_OVERALL,))
    notes = (*legend(board), _overall_legend(overall), *few_note(sheets))
    return Page(tuple(sheets), notes, bool(board["synthetic"].any()))


def _overall_legend(overall: pd.DataFrame) -> str:
    return (
        "all datasets: mean of the lists' means, each data set and target weighing the same; interval and tests over "
        "patients within datasets. against the best: sign-flip test, Holm-corrected over all pairs of the table, and "
        f"equivalence within {overall['margin'].iloc[0]:g}."
    )


def overall_sheets(board: pd.DataFrame, overall: pd.DataFrame) -> list[Sheet]:
    """Per track and protocol: mean Dice over the datasets, mean rank, Dice on each; nothing for a single dataset."""
    if overall.empty:
        return []
    on_list = {
        (*(row[column] for column in OVER), row["method"], name): row
        for row in board.to_dict("records")
        for name in (f"dice/{row['dataset']}", f"dice/{row['dataset']}/{row['target']}")
    }
    sheets = []
    for key, rows in overall.groupby(OVER, sort=False):
        lists = [str(column) for column in rows if str(column).startswith("dice/") and rows[column].notna().any()]
        if len(lists) < 2:
            continue
        headings = (
            "method",
            "mean Dice [95 % CI]",
            "mean rank",
            "against the best",
            *(name.removeprefix("dice/") for name in lists),
        )
        cells = tuple(
            (
                method_text(row),
                _overall_mean(row),
                number_text(row["mean_rank"], 1),
                verdict_text(row["against_best"], row["patients"]),
                *(_mean_on(on_list.get((*(row[column] for column in OVER), row["method"], name))) for name in lists),
            )
            for row in rows.to_dict("records")
        )
        styles = tuple(
            "dim" if floor or untrained else ""
            for floor, untrained in zip(rows["floor"], rows["untrained"], strict=True)
        )
        title = list_title(key, bool(board["synthetic"].any()))
        sheets.append(Sheet(title, headings, cells, (*headings[1:3], *headings[4:]), styles))
    return sheets


def _done(row: Mapping[Any, Any]) -> str:
    return f"{row['cases'] - row['failed']}/{row['cases'] + row['missing']}{unfinished_mark(row)}"


def _mean_on(row: Mapping[Any, Any] | None) -> str:
    """Dice on one list, with as many decimals as its interval allows."""
    if row is None:
        return "–"
    return number_text(row["dice"], digits_of(row["dice_low"], row["dice_high"])) + MARKS[row["contamination"]]


def _overall_mean(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["dice"]):
        return "–"
    return mean_text(row["dice"], row["low"], row["high"], row["patients"]) + unfinished_mark(row)


def board_sheets(board: pd.DataFrame) -> list[Sheet]:
    """One sheet per dataset, target, track and protocol, in the order of the suite."""
    shown = main_metrics(board)
    marked = bool(board["contamination"].map(MARKS).any())
    headings = ("method", *(("seen",) if marked else ()), "Dice [95 % CI]")
    headings += (*(metric.heading for metric in shown), "s open", "s prompt", "done")
    sheets = []
    for key, rows in board.groupby(LIST, sort=False):
        records = rows.to_dict("records")
        cells = tuple(
            (
                method_text(row),
                *((MARKS[row["contamination"]],) if marked else ()),
                mean_text(row["dice"], row["dice_low"], row["dice_high"], row["patients"]),
                *(metric_text(row, metric) for metric in shown),
                seconds_text(row["seconds_open"]),
                seconds_text(row["seconds_segment"]),
                _done(row),
            )
            for row in records
        )
        styles = tuple("red" if row["failed"] else "dim" if row["floor"] or row["untrained"] else "" for row in records)
        title = list_title(key, bool(rows["synthetic"].any()))
        sheets.append(Sheet(title, headings, cells, headings[1:], styles, ("s open", "s prompt")))
    return sheets


def costs_sheets(board: pd.DataFrame) -> list[Sheet]:
    """What each method cost, over all lists: one sheet, or none where nobody was trained and no memory is known."""
    wanted = ("joules", "peak_memory_mb", *TRAINING_FACTS)
    rows = board.assign(**{name: math.nan for name in wanted if name not in board})
    energy = ("J case",) if rows["joules"].notna().any() else ()
    headings = ("method", "knows", "train min", "parameters", "memory GB", *energy, "s open", "s prompt")
    cells = []
    for method, group in rows.groupby("method", sort=False):
        trained = group.drop_duplicates(["dataset", "target"])["train_minutes"]
        cells.append(
            (
                method_text({"method": method, "floor": group["floor"].iloc[0]}),
                _knows(group),
                seconds_text(trained.mean()),
                count_text(group["parameters"].max()),
                number_text(group["peak_memory_mb"].max() / 1000.0, 1),
                *(seconds_text(group["joules"].mean()) for _ in energy),
                seconds_text(group["seconds_open"].mean()),
                seconds_text(group["seconds_segment"].mean()),
            )
        )
    title = f"costs, over all lists{' · SYNTHETIC' * bool(board['synthetic'].any())}"
    return [Sheet(title, headings, tuple(cells), headings[2:])]


def _knows(rows: pd.DataFrame) -> str:
    """The letters of what a method knows of the target before any prompt, over all lists."""
    found = {one for text in rows.get("knows", ()) for one in text.split(", ")}
    return " ".join(letter for name, letter in KNOWS.items() if name in found) or "–"


def main_metrics(board: pd.DataFrame) -> list[Metric]:
    """The metrics of the main table beside Dice; of the tolerances one, 2 mm if the suite has it."""
    metrics = [metric for metric in metrics_among(board, "leaderboard") if metric.key != "dice"]
    tolerances = [metric.key for metric in metrics if metric.key.startswith("nsd@")]
    chosen = "nsd@2mm" if "nsd@2mm" in tolerances else next(iter(tolerances), None)
    return [metric for metric in metrics if metric.key == chosen or metric.key not in tolerances]


def legend(board: pd.DataFrame) -> list[str]:
    """What the columns and the marks mean, in a few lines."""
    lines = [
        "Dice: mean over cases at the last prompt, 95 % interval over patients; a failed case counts as 0 (done: "
        "cases that did not fail). F1: lesion-wise. s open, s prompt: seconds to take in a scan, and per prompt.",
        "costs: minutes of one training (mean over folds and data sets), parameters of its network, largest memory of "
        "the process that predicts (of the GPU where it has one). knows, beside the prompts: w the target in words, t "
        "a training on this target alone.",
    ]
    if board["untrained"].any():
        lines.append(UNTRAINED_LEGEND)
    if (board["missing"] > 0).any():
        lines.append(UNFINISHED_LEGEND)
    if (board[DIFFERS] != "").any():
        lines.append(DIFFERS_LEGEND)
    used = [seen for seen in MARKS if MARKS[seen] and (board["contamination"] == seen).any()]
    if used:
        meanings = "; ".join(f"{MARKS[seen]} {MEANINGS[seen]}" for seen in used)
        lines.append(f"seen: what the released weights have seen of the dataset: {meanings}.")
    return lines
