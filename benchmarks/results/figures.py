"""Curves of a leaderboard as a figure: quality against the operator's error, and against the rounds of prompting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.results.comparability import DIFFERS
from benchmarks.results.leaderboard import LIST

COLUMNS = 2
UNITS = {"displacement_mm": "displacement of the click (mm, each axis)", "box_jitter_mm": "error of the box (± mm)",
         "mask_error_mm": "error of the mask's boundary (mm)", "wrong_sign": "probability of a wrong sign",
         "late_stop": "rounds after being satisfied"}  # fmt: skip


def curves_figure(tables: Mapping[str, pd.DataFrame], path: Path, metric: str = "dice", note: str = "") -> Path:
    """Draw the tables "robustness" and "rounds" of `leaderboard.details` into a PNG, SVG or PDF file.

    One panel for each curve, a line for each method with its 95 % interval over patients.

    Args:
        note: a line over all panels, such as that the data are synthetic.

    Raises:
        UserError: no table has a curve, an unknown suffix, or matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("the figure needs matplotlib; install it with `pip install matplotlib`") from error
    panels = [*_noise_panels(tables), *_round_panels(tables)]
    if not panels:
        raise UserError(
            f"{path}: no curve to draw; a suite needs one protocol at several sizes of an error, or an iterative one"
        )
    known = FigureCanvasAgg(Figure()).get_supported_filetypes()
    if path.suffix.lstrip(".") not in known:
        raise UserError(f"{path}: a figure is a .png, .svg or .pdf file")
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, across, table, column) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for method, curve in table.groupby("method", sort=False):
            curve = curve.sort_values(column)
            line = axes.plot(curve[column], curve["mean"], marker="o", label=str(method))[0]
            axes.fill_between(curve[column], curve["low"], curve["high"], color=line.get_color(), alpha=0.15, lw=0)
        axes.set_title(title, fontsize="small")
        axes.set_xlabel(across)
        axes.set_ylabel(metric)
        if column == "step":
            axes.set_xticks(sorted(table[column].unique()))
        axes.legend(fontsize="x-small", frameon=False)
    if note:
        figure.suptitle(note, fontsize="small", color="darkorange")
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tags-bench"}):  # text stays text; same input, same file
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


Panel = tuple[str, str, pd.DataFrame, str]


def _noise_panels(tables: Mapping[str, pd.DataFrame]) -> list[Panel]:
    table = tables.get("robustness", pd.DataFrame())
    if table.empty:
        return []
    groups: Any = table.groupby(["dataset", "target", "protocol", "noise", DIFFERS], sort=False)
    return [(_title(*key[:3], key[4]), UNITS.get(str(key[3]), str(key[3])), rows, "level") for key, rows in groups]


def _round_panels(tables: Mapping[str, pd.DataFrame]) -> list[Panel]:
    table = tables.get("rounds", pd.DataFrame())
    if table.empty:
        return []
    groups: Any = table.groupby(LIST, sort=False)
    return [(_title(*key[:2], f"given: {key[2]} ({key[3]})", key[4]), "round", rows, "step") for key, rows in groups]


def _title(*parts: object) -> str:
    return " · ".join(str(part) for part in parts if part)
