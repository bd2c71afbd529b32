"""Prompts that a person types: points and boxes in voxels of the scan's file or in world mm, a file, a text.

Voxels are counted from 0 along the axes of the file as it is stored, as nibabel, ITK and 3D Slicer (IJK) count them;
in a DICOM series they are column, row and slice, slices in the order of their positions along the normal. World mm are
RAS+ (NIfTI's, what 3D Slicer shows), or LPS (DICOM's and ITK's) where asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.common.errors import UserError, nearest_name, shorten
from benchmarks.data.volume import Volume
from benchmarks.prompting.formats import read_prompt_file, stored_to_voxel
from benchmarks.prompting.prompts import PROMPTS_VERSION, SPACES, Box, Click, Prompts, from_json, to_voxel

Triple = tuple[float, float, float]
Unit = Literal["voxel", "mm"]


@dataclass(frozen=True)
class Point:
    """A click as it was given: voxel of the file, or world mm."""

    place: Triple
    unit: Unit = "voxel"
    positive: bool = True


@dataclass(frozen=True)
class GivenBox:
    """Two opposite corners, both inside the box, as they were given."""

    ends: tuple[Triple, Triple]
    unit: Unit = "voxel"


@dataclass(frozen=True)
class GivenPrompts:
    """All that is given for one scan.

    Attributes:
        file: JSON in one of the formats of docs/protocols.md; its clicks come first.
        points: clicks, in their order.
        space: of what is in mm, "RAS" or "LPS"; a file says its own.
    """

    file: Path | None = None
    points: tuple[Point, ...] = ()
    box: GivenBox | None = None
    text: str | None = None
    space: str = "RAS"

    def on(self, volume: Volume) -> Prompts:
        """The prompts in voxels of the volume.

        Raises:
            UserError: an unusable file, a point outside the volume, a part of a voxel, or two boxes.
        """
        if self.space not in SPACES:
            raise UserError(f"unknown space '{shorten(self.space)}'; {nearest_name(self.space, SPACES)}")
        prompts = Prompts() if self.file is None else read_prompt_file(self.file, volume, volume.orientation)
        if self.box is not None and prompts.box is not None:
            raise UserError(f"{self.file}: holds a box, and another one is given")
        clicks = tuple(
            Click(self._voxel(point.place, point.unit, f"click {_shown(point.place)}", volume), point.positive)
            for point in self.points
        )
        prompts = replace(prompts, clicks=prompts.clicks + clicks)
        if self.box is not None:
            prompts = replace(prompts, box=self._box(self.box, volume))
        if self.text is not None:
            prompts = replace(prompts, text=from_json({"version": PROMPTS_VERSION, "text": self.text}, volume).text)
        return prompts

    def _voxel(self, place: Triple, unit: Unit, where: str, volume: Volume) -> tuple[int, int, int]:
        if unit == "mm":
            return to_voxel(place, where, self.space, volume)
        if any(value != round(value) for value in place):
            raise UserError(f"{where}: voxels are whole numbers; world mm are given with --click-mm or --box-mm")
        i, j, k = (int(value) for value in place)
        return stored_to_voxel((i, j, k), where, volume, volume.orientation)

    def _box(self, box: GivenBox, volume: Volume) -> Box:
        corners = [self._voxel(end, box.unit, f"box corner {_shown(end)}", volume) for end in box.ends]
        low, last = (tuple(int(v) for v in edge) for edge in (np.min(corners, axis=0), np.max(corners, axis=0)))
        return Box((low[0], low[1], low[2]), (last[0] + 1, last[1] + 1, last[2] + 1))


def parse_point(text: str, option: str) -> Triple:
    """`X,Y,Z` as three numbers. Raises UserError."""
    x, y, z = _numbers(text, 3, option, "X,Y,Z")
    return x, y, z


def parse_box(text: str, option: str) -> tuple[Triple, Triple]:
    """`X,Y,Z,X,Y,Z` as two corners. Raises UserError."""
    a, b, c, d, e, f = _numbers(text, 6, option, "X,Y,Z,X,Y,Z, two opposite corners")
    return (a, b, c), (d, e, f)


def _numbers(text: str, count: int, option: str, form: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise UserError(f"{option} {shorten(text)}: the form is {form}")
    return values


def _shown(place: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in place)
