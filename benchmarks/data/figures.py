"""A dataset at a glance: how its spacings, sizes, intensities and targets are spread over the cases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically
from benchmarks.data.verify import CaseReport

COLUMNS = 3
BINS = 20


def statistics_figure(reports: Iterable[CaseReport], path: Path, title: str = "") -> Path:
    """Draw histograms over the cases into a PNG, SVG or PDF file and return its path.

    Raises:
        UserError: no case could be read, an unknown suffix, or matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise UserError("the figure needs matplotlib; install it with `pip install matplotlib`") from error
    panels = _panels([report for report in reports if report.shape is not None])
    if not panels:
        raise UserError(f"{path}: no case could be read, there is nothing to draw")
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, series, logarithmic) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        together = np.concatenate([values for _, values in series])
        axes.hist([values for _, values in series], _edges(together, logarithmic), label=[one for one, _ in series])
        axes.set_xscale("log" if logarithmic else "linear")
        axes.set_xlabel(name)
        axes.set_ylabel("cases")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if len(series) > 1:
            axes.legend(frameon=False)
    figure.suptitle(title)
    try:
        with atomically(path) as partial:
            figure.savefig(partial, dpi=150)
    except ValueError as error:  # a suffix that matplotlib does not know
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _panels(reports: list[CaseReport]) -> list[tuple[str, list[tuple[str, Any]], bool]]:
    """Label of the axis, named series of values, and whether the axis is logarithmic."""
    if not reports:
        return []
    spacings, shapes, intensities = (
        np.array([getattr(report, name) for report in reports], float) for name in ("spacing", "shape", "intensities")
    )
    panels: list[tuple[str, list[tuple[str, Any]], bool]] = [
        ("spacing (mm)", [(axis, spacings[:, i]) for i, axis in enumerate("xyz")], False),
        ("voxels", [(axis, shapes[:, i]) for i, axis in enumerate("xyz")], False),
        ("HU", [(p, intensities[:, i]) for i, p in enumerate(("0.5 %", "median", "99.5 %"))], False),
    ]
    for target in reports[0].targets:
        sizes = [report.targets[target] for report in reports if report.targets[target].voxels]
        if sizes:
            panels.append((f"{target} (ml)", [(target, np.array([one.millilitres for one in sizes]))], True))
            panels.append((f"{target} (lesions)", [(target, np.array([one.lesions for one in sizes], float))], False))
    return panels


def _edges(values: Any, logarithmic: bool) -> Any:
    low, high = float(values.min()), float(values.max())
    if not logarithmic and high - low <= BINS and not (values % 1).any():
        return np.arange(low - 0.5, high + 1)  # a bar for each whole number
    if low == high:
        low, high = (low / 1.1, high * 1.1) if logarithmic else (low - 0.5, high + 0.5)
    return np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)
