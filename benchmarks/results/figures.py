"""Figures of a leaderboard: means, boxes, quality against cost, the operator's error, and rounds of prompting."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.common.files import safe_name
from benchmarks.common.output import output_file
from benchmarks.results.comparability import DIFFERS
from benchmarks.results.leaderboard import LIST, last_steps, with_seconds_of_answers
from benchmarks.results.leaderboard.lists import best_first
from benchmarks.results.statistics import summary, with_failures_as_worst, with_target
from benchmarks.results.tables.sheet import given_text

COLUMNS = 2
AS_WRITTEN: dict[str, Any] = {"parse_math": False}
"""Of a text with names in it, in which a "$" is a letter and begins no formula."""
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
    _require_matplotlib()
    panels = [*_noise_panels(tables), *_round_panels(tables)]
    if not panels:
        raise UserError(
            f"{path}: no curve to draw; a suite needs one protocol at several sizes of an error, or an iterative one"
        )
    _require_known(path)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(5.5 * columns, 3.4 * rows)
    for place, (title, across, table, column) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        lines: dict[str, Any] = {}
        for method, curve in table.groupby("method", sort=False):
            curve = curve.sort_values(column)
            line = lines[str(method)] = axes.plot(curve[column], curve["mean"], marker="o")[0]
            axes.fill_between(curve[column], curve["low"], curve["high"], color=line.get_color(), alpha=0.15, lw=0)
        axes.set_title(title, fontsize="small", **AS_WRITTEN)
        axes.set_xlabel(across)
        axes.set_ylabel(metric)
        if column == "step":
            axes.set_xticks(sorted(table[column].unique()))
        _name(axes, lines)
    return _saved(figure, path, note)


def _name(axes: Any, lines: Mapping[str, Any]) -> None:
    """A legend with names as they are: matplotlib leaves out what begins with a "_", so they are put in afterwards."""
    legend = axes.legend(list(lines.values()), ["method"] * len(lines), fontsize="x-small", frameon=False)
    for text, name in zip(legend.get_texts(), lines, strict=True):
        text.set(text=name, **AS_WRITTEN)


def all_figures(
    rows: pd.DataFrame,
    board: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    folder: Path,
    metric: str = "dice",
    note: str = "",
) -> list[Path]:
    """Draw every figure that the records allow into a folder, as SVG.

    `curves.svg` (where a protocol has rounds or sizes of an error); and for each list `means-….svg` (means with 95 %
    intervals), `boxes-….svg` (a box for each method over cases, failures at the worst value) and `costs-….svg`
    (the metric against seconds per prompt).

    Args:
        rows: all rows; the last step of each case is drawn.
        board: the leaderboard of these rows.
        curves: the tables "robustness" and "rounds".

    Raises:
        UserError: matplotlib is missing.
    """
    _require_matplotlib()
    drawn = []
    if not (curves["robustness"].empty and curves["rounds"].empty):
        drawn.append(curves_figure(curves, folder / "curves.svg", metric, note))
    final = rows_on(board, rows)
    for number, (key, one) in enumerate(final.groupby(LIST, sort=False), start=1):
        name = safe_name("-".join(str(part) for part in (*key[:2], key[3]) if part)) + (f"-{number}" if key[4] else "")
        title = _title(*key[:2], f"{given_text(str(key[2]))} ({key[3]})", key[4])
        for kind, draw in (("means", _means), ("boxes", _boxes), ("costs", _costs)):
            figure = _figure(7.0, 1.2 + 0.36 * one["method"].nunique() if kind != "costs" else 4.2)
            axes = figure.add_subplot()
            draw(axes, one, metric)
            axes.set_title(title, fontsize="small", **AS_WRITTEN)
            drawn.append(_saved(figure, folder / f"{kind}-{name}.svg", note))
    return drawn


def rows_on(board: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last steps that count in a mean, each in the list of the board, in its order."""
    keys = ["dataset", "target", "protocol", "method"]
    rows = with_seconds_of_answers(rows.drop(columns=DIFFERS, errors="ignore"))
    final = last_steps(rows).drop(columns=DIFFERS)
    return with_target(board[[*keys, DIFFERS]].merge(final, on=keys, how="inner"))  # within a list, not across lists


def _means(axes: Any, rows: pd.DataFrame, metric: str) -> None:
    """A point with its interval for each method, the best on top."""
    table = summary(rows, metric).set_index("method").loc[best_first(rows, metric)[::-1]]
    places = range(len(table))
    for place, (low, mean, high) in zip(places, table[["low", "mean", "high"]].to_numpy(), strict=True):
        axes.plot([low, high], [place, place], color="C0")
        axes.plot(mean, place, "o", color="C0")
    axes.set_yticks(list(places), list(table.index), **AS_WRITTEN)
    axes.set_xlabel(f"{metric}, mean and 95 % interval over patients")


def _boxes(axes: Any, rows: pd.DataFrame, metric: str) -> None:
    names = best_first(rows, metric)[::-1]
    filled = with_failures_as_worst(rows, metric)
    axes.boxplot([filled[filled["method"] == name][metric] for name in names], orientation="horizontal")
    axes.set_yticks(range(1, len(names) + 1), names, **AS_WRITTEN)
    axes.set_xlabel(f"{metric} of each case")


def _costs(axes: Any, rows: pd.DataFrame, metric: str) -> None:
    """Quality against time: what lies further up and left is better in both, if the metric is to be high."""
    means = summary(rows, metric).set_index("method")
    seconds = rows.groupby("method", sort=False)["seconds_segment"].mean()
    for name in means.index:
        if seconds[name] > 0:
            axes.plot(seconds[name], means["mean"][name], "o")
            axes.annotate(str(name), (seconds[name], means["mean"][name]), fontsize="x-small", xytext=(4, 4),
                          textcoords="offset points", **AS_WRITTEN)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("seconds per prompt, mean")
    axes.set_ylabel(metric)


def _require_matplotlib() -> None:
    if find_spec("matplotlib") is None:
        raise UserError("the figure needs matplotlib; install it with `pip install matplotlib`")


def _require_known(path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if path.suffix.lstrip(".") not in FigureCanvasAgg(Figure()).get_supported_filetypes():
        raise UserError(f"{path}: a figure is a .png, .svg or .pdf file")


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure: Any, path: Path, note: str) -> Path:
    from matplotlib import rc_context

    if note:
        figure.suptitle(note, fontsize="small", color="darkorange")
    style = {"svg.fonttype": "none", "svg.hashsalt": "tags-bench"}  # text stays text; same input, same file
    with output_file(path) as partial, rc_context(style):
        figure.savefig(partial, metadata={"Date": None} if path.suffix == ".svg" else None)
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
    return [
        (_title(*key[:2], f"{given_text(key[2])} ({key[3]})", key[4]), "round", rows, "step") for key, rows in groups
    ]


def _title(*parts: object) -> str:
    return " · ".join(str(part) for part in parts if part)
