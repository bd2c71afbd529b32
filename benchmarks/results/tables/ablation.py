"""The sheets of an ablation."""

from __future__ import annotations

import pandas as pd

from benchmarks.results.tables.sheet import Sheet, few_mark, mean_text, p_text


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
