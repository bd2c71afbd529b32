"""The sheets of an ablation."""

from __future__ import annotations

import pandas as pd

from benchmarks.results.statistics import higher_is_better
from benchmarks.results.tables.sheet import Page, Sheet, few_mark, few_note, list_title, mean_text, p_text


def ablation_page(table: pd.DataFrame, metric: str, synthetic: bool) -> Page:
    """The variants of a method against it, one sheet per protocol."""
    sheets = [
        ablation_sheet(list_title((*key, ""), synthetic), rows, metric)
        for key, rows in table.groupby(["track", "protocol"], sort=False)
    ]
    sign = "positive" if higher_is_better(metric) else "negative"
    note = f"A {sign} difference says that the variant is better than the whole. Cases of all datasets together; "
    note += "the interval and the test are over patients, and know nothing of the chance in training."
    repeats = int(table["repeats"].max())
    if repeats > 1:
        note += f" Every case counts with its mean over {repeats} trainings; their own means are under 'trainings'."
    else:
        note += " One training each: differences of this size can be luck, see --repeats."
    return Page(tuple(sheets), (note, *few_note(sheets)), synthetic)


def ablation_sheet(title: str, rows: pd.DataFrame, metric: str) -> Sheet:
    repeated = int(rows["repeats"].max()) > 1
    headings = ("variant", f"{metric} [95 % CI]", *(("trainings",) if repeated else ()))
    headings += ("difference [95 % CI]", "p", "verdict")
    cells, styles = [], []
    for row in rows.to_dict("records"):
        trainings = f"{row['lowest']:.2f}–{row['highest']:.2f}" if row["repeats"] > 1 else ""
        difference = ""
        if pd.notna(row["difference"]):
            ends = (row["difference_low"], row["difference_high"])
            difference = mean_text(row["difference"], *ends, row["patients"], signed=True)
        cells.append(
            (
                f"{row['variant']} (floor)" if row["kind"] == "floor" else row["variant"],
                mean_text(row["mean"], row["low"], row["high"], row["patients"]),
                *((trainings,) if repeated else ()),
                difference,
                p_text(row["p"]) if difference else "",
                row["verdict"] + few_mark(row["patients"]) if difference else "",
            )
        )
        styles.append("bold" if row["kind"] == "whole" else "dim" if row["kind"] == "floor" else "")
    counted = f"n={rows['cases'].max()}, {rows['patients'].max()} patients"
    return Sheet(f"{title} ({counted})", headings, tuple(cells), headings[1:-1], tuple(styles))
