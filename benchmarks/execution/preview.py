"""A picture of one mask: three planes of the scan with the outline, the clicks and the box."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.prompting.prompts import Prompts

SUFFIXES = (".png", ".pdf", ".svg")
PLANES = (("axial", 2, 0, 1), ("coronal", 1, 0, 2), ("sagittal", 0, 1, 2))
"""Name, the axis across the plane, and the axes that run along its width and height."""

ENDS = (("R", "L"), ("A", "P"), ("S", "I"))
"""Letters of the high and of the low end of each axis of a RAS+ volume."""

MASK, POSITIVE, NEGATIVE, BOX = "#ff7f0e", "#2ca02c", "#d62728", "#17becf"
PANEL_INCHES = 4.2


def check_preview_name(path: Path) -> None:
    """Raises UserError unless a picture of that name can be drawn."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a preview is a .png, .pdf or .svg file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file for the preview")


@dataclass(frozen=True)
class Shown:
    """What is drawn.

    Attributes:
        window: intensities (low, high) that are drawn black and white.
        title: above the picture.
    """

    volume: Volume
    mask: BoolArray
    prompts: Prompts
    window: tuple[float, float]
    title: str = ""

    @property
    def centre(self) -> tuple[int, int, int]:
        """Where the planes cross: the first positive click, else the middle of the box, else that of the mask."""
        clicks = [click.position for click in self.prompts.clicks if click.positive]
        if clicks:
            return clicks[0]
        if self.prompts.box is not None:
            ends = np.array([self.prompts.box.low, self.prompts.box.high])
            return _triple(ends.sum(axis=0) // 2)
        if self.mask.any():
            places = np.argwhere(self.mask)
            return _triple(places[np.abs(places - places.mean(axis=0)).sum(axis=1).argmin()])  # a voxel of it
        return _triple(np.array(self.volume.shape) // 2)


def draw_preview(shown: Shown, path: Path) -> Path:
    """Draw the picture; patients face the reader (their right is on the left), as radiologists look at them.

    Raises:
        UserError: another suffix, or a place that cannot be written.
    """
    check_preview_name(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    extents = np.array(shown.volume.shape) * shown.volume.spacing
    widths = [extents[across] for _, _, across, _ in PLANES]
    figure = Figure(figsize=(3 * PANEL_INCHES, PANEL_INCHES + 0.6), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 3, width_ratios=np.maximum(widths, max(widths) / 4))
    for place, plane in enumerate(PLANES):
        _draw_plane(figure.add_subplot(grid[0, place]), shown, plane)
    figure.suptitle(shown.title, color="white", fontsize=11)
    try:
        with atomically(path) as partial:
            figure.savefig(partial, dpi=120, facecolor="black")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _draw_plane(axes: Any, shown: Shown, plane: tuple[str, int, int, int]) -> None:
    name, normal, across, up = plane
    centre, volume = shown.centre, shown.volume
    index = centre[normal]
    spacing = volume.spacing
    low, high = shown.window
    picture = volume.array.take(index, axis=normal)
    axes.imshow(
        picture.T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=spacing[up] / spacing[across],
        interpolation="nearest",
    )  # fmt: skip
    outline: NDArray[np.bool_] = np.asarray(shown.mask.take(index, axis=normal))
    if outline.any():
        padded = np.pad(outline, 1).astype(np.float32)
        along = [np.arange(-1, n + 1) for n in outline.shape]
        axes.contour(*along, padded.T, levels=[0.5], colors=MASK, linewidths=1.3)
    for click in shown.prompts.clicks:
        here = click.position[normal] == index  # clicks of other planes are drawn faintly
        axes.plot(
            click.position[across], click.position[up], "+" if click.positive else "x",
            color=POSITIVE if click.positive else NEGATIVE, markersize=11, markeredgewidth=2,
            alpha=1.0 if here else 0.3,
        )  # fmt: skip
    box = shown.prompts.box
    if box is not None and box.low[normal] <= index < box.high[normal]:
        x, y = ([box.low[axis] - 0.5, box.high[axis] - 0.5] for axis in (across, up))
        axes.plot([x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color=BOX, linewidth=1.2)
    axes.set_xlim(-0.5, outline.shape[0] - 0.5)
    axes.set_ylim(-0.5, outline.shape[1] - 0.5)
    axes.invert_xaxis()  # the patient's right, or front, on the left
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{name}, {_stored_index(volume, normal, index)}", color="0.8", fontsize=9)
    for left, height, letter in ((0.02, 0.5, ENDS[across][0]), (0.98, 0.5, ENDS[across][1]), (0.5, 0.97, ENDS[up][0])):
        alignment = {
            "ha": "left" if left < 0.1 else "right" if left > 0.9 else "center",
            "va": "top" if height > 0.9 else "center",
        }
        axes.text(left, height, letter, color="0.8", fontsize=9, transform=axes.transAxes, **alignment)


def _stored_index(volume: Volume, axis: int, index: int) -> str:
    """A plane as the file counts it, such as "k = 40": the way in which `--click` counts, too."""
    if volume.orientation is None:
        return f"{'ijk'[axis]} = {index}"
    stored = int(np.flatnonzero(volume.orientation[:, 0] == axis)[0])
    counted = index if volume.orientation[stored, 1] > 0 else volume.shape[axis] - 1 - index
    return f"{'ijk'[stored]} = {counted}"


def _triple(values: Any) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)
    return x, y, z
