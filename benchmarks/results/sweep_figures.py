"""Figures of a sweep: the trials as parallel coordinates, and which knobs mattered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.errors import UserError
from benchmarks.results.sweep import FINISHED, METRIC, Trial, importance

MOST_AXES = 10


def sweep_figures(trials: Sequence[Trial], folder: Path, note: str = "") -> list[Path]:
    """Write `parallel.svg` and, with enough trials, `importance.svg`; the files that were written.

    Args:
        note: over each figure, such as that the data are synthetic.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("the figures of a sweep need matplotlib; install it with `pip install matplotlib`") from error
    shares = importance(trials)
    names = [str(name) for name in shares["knob"]] or list(dict.fromkeys(k for one in trials for k in one.config))
    drawings = {"parallel.svg": lambda axes: _parallel(axes, trials, names[:MOST_AXES])}
    if not shares.empty:
        drawings["importance.svg"] = lambda axes: _bars(axes, shares)
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in drawings.items():
        figure = Figure(figsize=(10.0, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        if note:
            figure.suptitle(note, fontsize="small", color="darkorange")
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tags-bench"}):
            figure.savefig(folder / name, metadata={"Date": None})
        written.append(folder / name)
    return written


def _parallel(axes: Any, trials: Sequence[Trial], knobs: Sequence[str]) -> None:
    """A line for each trial over the knobs and its Dice; dashed where it was stopped early, broken where a knob does
    not exist in it."""
    from matplotlib import colormaps

    shown = [one for one in trials if one.has_result]
    scales = [_scale([one.config.get(knob) for one in shown]) for knob in knobs]
    dice = [one.validation_dice for one in shown]
    low, high = (min(dice), max(dice)) if dice else (0.0, 1.0)
    for one in sorted(shown, key=lambda one: one.validation_dice):
        height = (one.validation_dice - low) / (high - low) if high > low else 0.5
        values = [scale[0](one.config.get(knob)) for knob, scale in zip(knobs, scales, strict=True)]
        style = "-" if one.status == FINISHED else "--"
        axes.plot(range(len(knobs) + 1), [*values, height], style, color=colormaps["viridis"](height), lw=1.2)
    axes.set_xticks(range(len(knobs) + 1), [*knobs, METRIC], rotation=30, ha="right", fontsize="small")
    axes.set_yticks([])
    for place, (_, marks) in enumerate([*scales, (None, [(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")])]):
        axes.axvline(place, color="0.7", lw=0.8, zorder=0)
        for height, text in marks:
            axes.annotate(text, (place, height), textcoords="offset points", xytext=(3, 0), fontsize=6, va="center")
    axes.set_ylim(-0.08, 1.08)
    axes.set_title("trials: full lines went through all rungs, dashed ones were stopped early", fontsize="small")


def _scale(values: Sequence[Any]) -> tuple[Any, list[tuple[float, str]]]:
    """A knob's value → height from 0 to 1 (NaN where it is missing), and what is written along its axis."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        log = min(there) > 0 and max(there) > 10 * min(there)
        turn = np.log if log else float
        low, high = float(turn(min(there))), float(turn(max(there)))
        span = high - low or 1.0
        marks = [(0.0, f"{min(there):.3g}"), (1.0, f"{max(there):.3g}")][: 1 + (high > low)]
        return lambda value: float("nan") if value is None else (float(turn(value)) - low) / span, marks
    words = sorted({str(value) for value in there})
    places = {word: place / max(1, len(words) - 1) for place, word in enumerate(words)}
    return lambda value: places.get(str(value), float("nan")), [(place, word) for word, place in places.items()]


def _bars(axes: Any, shares: Any) -> None:
    shown = shares.head(MOST_AXES).iloc[::-1]
    names = [f"{row.knob}{' *' if row.conditional else ''}" for row in shown.itertuples()]
    axes.barh(names, shown["importance"], color="steelblue")
    axes.set_xlabel("share of the spread of the Dice at the first rung (fANOVA); * among the trials that have it")
    axes.set_xlim(0, 1)
