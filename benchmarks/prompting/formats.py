"""Prompt files of others: 3D Slicer's markups, and the boxes and clicks of the CVPR 2025 interactive challenge.

Sources: Slicer's schema `markups-schema-v1.0.3.json` (Slicer/Slicer, Modules/Loadable/Markups/Resources/Schema); the
description and the code of `CVPR25_iter_eval.py` and `get_boxes.py` (JunMa11/CVPR-MedSegFMCompetition).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from benchmarks.common.errors import UserError
from benchmarks.prompting.prompts import Box, Click, Grid, Prompts, from_json, to_voxel

FloatArray = NDArray[np.float64]
Model = TypeVar("Model", bound=BaseModel)

NEGATIVE_WORDS = frozenset({"negative", "negatives", "neg", "background", "bg"})
"""A control point is a negative click if one of these is a word of its label, its description or its list's name."""

ALONG_AXES = np.cos(np.deg2rad(1))
"""A Slicer ROI may be tilted against the axes of the scan by this much, 1 degree; a box of voxels has no tilt."""

_Number = Annotated[float, Strict(), AllowInfNan(False)]
_Size = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0)]
_Index = Annotated[int, Strict(), Field(ge=0)]
_Point = tuple[_Number, _Number, _Number]
_Voxel = tuple[_Index, _Index, _Index]


def read_prompt_file(path: Path, volume: Grid, orientation: FloatArray | None = None) -> Prompts:
    """The prompts of a JSON file of this bench, of Slicer or of the challenge, for a volume.

    Args:
        orientation: nibabel's transform of the scan file's axes to RAS+, for files that speak of stored voxels; None:
            the file is stored in RAS+.

    Raises:
        UserError: unreadable, or wrong in a way that the message tells; it begins with the file.
    """
    if path.suffix == ".npz":
        raise UserError(f"{path}: boxes and clicks are pickled in it, which is not safe to read; write them as JSON")
    if path.suffix == ".fcsv":
        raise UserError(f"{path}: a legacy point list; save it as .mrk.json in Slicer")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    try:
        return parse_prompts(content, volume, orientation)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def parse_prompts(content: Any, volume: Grid, orientation: FloatArray | None = None) -> Prompts:
    """Prompts from the content of a file, whichever of the three formats it has; see `read_prompt_file`."""
    if isinstance(content, Mapping) and "version" not in content:
        if "markups" in content or "@schema" in content:
            return from_slicer(content, volume)
        if "boxes" in content or "clicks_order" in content or _has_signs(content.get("clicks")):
            return from_challenge(content, volume, orientation)
    return from_json(content, volume)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _ControlPoint(_Entry):
    label: str = ""
    description: str = ""
    position: Any = None
    positionStatus: Literal["defined", "undefined", "preview"] = "defined"


class _Markup(_Entry):
    type: str
    name: str = ""
    coordinateSystem: Literal["LPS", "RAS"] = "LPS"
    coordinateUnits: Any = "mm"
    controlPoints: list[_ControlPoint] = Field(default_factory=list)
    center: _Point | None = None
    size: tuple[_Size, _Size, _Size] | None = None
    orientation: Annotated[list[_Number], Field(min_length=9, max_length=9)] = [1, 0, 0, 0, 1, 0, 0, 0, 1]
    insideOut: bool = False

    @property
    def to_ras_mm(self) -> FloatArray:
        """What world coordinates of the file are multiplied with."""
        units = self.coordinateUnits[0] if isinstance(self.coordinateUnits, list) else self.coordinateUnits
        if units not in ("mm", "um"):
            raise UserError(f"markup '{self.name}': coordinates in {units!r}; mm and um are known")
        signs = (-1.0, -1.0, 1.0) if self.coordinateSystem == "LPS" else (1.0, 1.0, 1.0)
        return np.asarray(signs) * (1e-3 if units == "um" else 1.0)


class _Markups(_Entry):
    markups: list[_Markup] = Field(min_length=1)


def from_slicer(content: Mapping[str, Any], volume: Grid) -> Prompts:
    """Prompts from 3D Slicer's markups: point lists are clicks, one ROI is the box.

    The sign of a click is not part of the format; see `NEGATIVE_WORDS`. A box holds the voxels whose centres lie in the
    ROI; what of it lies beyond the volume is cut off.

    Raises:
        UserError: another kind of markup, a point that was not placed or lies outside, a tilted ROI, or bad content.
    """
    clicks: list[Click] = []
    boxes: list[Box] = []
    for markup in _valid(_Markups, content).markups:
        if markup.type == "Fiducial":
            clicks += [_slicer_click(markup, number, volume) for number in range(len(markup.controlPoints))]
        elif markup.type == "ROI":
            boxes.append(_slicer_box(markup, volume))
        else:
            raise UserError(f"markup '{markup.name}' is a {markup.type}; Fiducial (clicks) and ROI (a box) can be used")
    if len(boxes) > 1:
        raise UserError(f"{len(boxes)} ROIs; there can be one box")
    if not clicks and not boxes:
        raise UserError("the markups hold no point and no ROI")
    return Prompts(clicks=tuple(clicks), box=boxes[0] if boxes else None)


def _slicer_click(markup: _Markup, number: int, volume: Grid) -> Click:
    point = markup.controlPoints[number]
    where = f"control point {number + 1} of '{markup.name}'"
    if point.positionStatus != "defined":
        raise UserError(f"{where} is {point.positionStatus}: place it or delete it")
    try:
        position = np.asarray(_POINT.validate_python(point.position))
    except ValidationError as error:
        raise UserError(f"{where}: 'position' must be 3 finite numbers, not {point.position!r}") from error
    words = set(re.findall("[a-z]+", f"{point.label} {point.description} {markup.name}".lower()))
    return Click(to_voxel((position * markup.to_ras_mm).tolist(), where, "RAS", volume), not words & NEGATIVE_WORDS)


def _slicer_box(markup: _Markup, volume: Grid) -> Box:
    where = f"ROI '{markup.name}'"
    if markup.center is None or markup.size is None:
        raise UserError(f"{where}: 'center' and 'size' are missing")
    if markup.insideOut:
        raise UserError(f"{where} is inside out; a box says where the target is")
    to_ras = markup.to_ras_mm
    to_voxels = np.linalg.inv(volume.affine[:3, :3])
    axes = np.sign(to_ras)[:, None] * np.asarray(markup.orientation).reshape(3, 3)
    directions = to_voxels @ axes
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = np.abs(directions * spacing[:, None])
    along = cosines.argmax(axis=0)
    if cosines.max(axis=0).min() < ALONG_AXES or len(set(along.tolist())) < 3:
        raise UserError(f"{where} is tilted against the axes of the scan; reset its rotation")
    half = np.zeros(3)
    half[along] = np.abs(directions[along, range(3)]) * np.asarray(markup.size) * np.abs(to_ras) / 2
    centre = to_voxels @ (np.asarray(markup.center) * to_ras - volume.affine[:3, 3])
    low = np.maximum(np.ceil(centre - half - 1e-6), 0).astype(int)
    high = np.minimum(np.floor(centre + half + 1e-6) + 1, volume.shape).astype(int)
    if (high <= low).any():
        raise UserError(f"{where} holds no voxel of the volume")
    return Box(_triple(low), _triple(high))


class _ChallengeBox(_Entry):
    """Bounds of the slices, and of the target in its middle slice; the upper ones are inclusive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    z_min: _Index
    z_max: _Index
    z_mid: _Index
    z_mid_x_min: _Index
    z_mid_y_min: _Index
    z_mid_x_max: _Index
    z_mid_y_max: _Index


class _Signed(_Entry):
    model_config = ConfigDict(extra="forbid", frozen=True)

    fg: list[_Voxel] = Field(default_factory=list)
    bg: list[_Voxel] = Field(default_factory=list)


class _Challenge(_Entry):
    model_config = ConfigDict(extra="forbid", frozen=True)

    boxes: Annotated[list[_ChallengeBox], Field(max_length=1)] = Field(default_factory=list)
    clicks: Annotated[list[_Signed], Field(max_length=1)] = Field(default_factory=list)
    clicks_order: Annotated[list[list[Literal["fg", "bg"] | None]], Field(max_length=1)] = Field(default_factory=list)


def from_challenge(content: Mapping[str, Any], volume: Grid, orientation: FloatArray | None = None) -> Prompts:
    """Prompts from `boxes`, `clicks` and `clicks_order` of the challenge, written as JSON, for one class.

    Its clicks are indices (z, y, x) of the array as the scan's file stores it. A box has the slices of the target and,
    in them, the bounds of its middle slice. Without `clicks_order` the positive clicks come first.

    Args:
        orientation: as in `read_prompt_file`.

    Raises:
        UserError: more than one class, a voxel outside the volume, an order that does not fit, or bad content.
    """
    entry = _valid(_Challenge, content)
    box = None
    if entry.boxes:
        bounds = entry.boxes[0]
        ends = [
            _from_stored((bounds.z_min, bounds.z_mid_y_min, bounds.z_mid_x_min), "box", volume, orientation),
            _from_stored((bounds.z_max, bounds.z_mid_y_max, bounds.z_mid_x_max), "box", volume, orientation),
        ]
        box = Box(_triple(np.min(ends, axis=0)), _triple(np.max(ends, axis=0) + 1))
    signed = entry.clicks[0] if entry.clicks else _Signed()
    left = {"fg": list(signed.fg), "bg": list(signed.bg)}
    order = [sign for sign in (entry.clicks_order[0] if entry.clicks_order else []) if sign is not None]
    if not order:
        order += ["fg"] * len(signed.fg)
        order += ["bg"] * len(signed.bg)
    if order.count("fg") != len(signed.fg) or order.count("bg") != len(signed.bg):
        raise UserError("'clicks_order' does not have the numbers of clicks that 'clicks' has")
    clicks = tuple(
        Click(_from_stored(left[sign].pop(0), f"click {number}", volume, orientation), sign == "fg")
        for number, sign in enumerate(order, start=1)
    )
    return Prompts(clicks=clicks, box=box)


def _from_stored(index: _Voxel, where: str, volume: Grid, orientation: FloatArray | None) -> tuple[int, int, int]:
    """The voxel of the RAS+ volume of an index (z, y, x) of the stored array."""
    z, y, x = index
    try:
        return stored_to_voxel((x, y, z), where, volume, orientation)
    except UserError as error:
        raise UserError(f"{error}; this file counts (z, y, x)") from error


def stored_to_voxel(
    stored: tuple[int, int, int], where: str, volume: Grid, orientation: FloatArray | None
) -> tuple[int, int, int]:
    """The voxel of the RAS+ volume of a voxel (i, j, k) of the file. Raises UserError if it lies outside.

    Args:
        orientation: as in `read_prompt_file`.
    """
    axes = np.arange(3) if orientation is None else orientation[:, 0].astype(int)
    flips = np.ones(3) if orientation is None else orientation[:, 1]
    shape = np.asarray(volume.shape)[axes]
    if (np.asarray(stored) < 0).any() or (np.asarray(stored) >= shape).any():
        size = " × ".join(map(str, shape))
        raise UserError(f"{where}: voxel {list(stored)} lies outside the scan of {size} voxels (counted from 0)")
    voxel = np.empty(3, int)
    voxel[axes] = np.where(flips > 0, stored, shape - 1 - np.asarray(stored))
    return _triple(voxel)


_POINT: TypeAdapter[tuple[float, float, float]] = TypeAdapter(_Point)


def _valid(model: type[Model], content: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            raise UserError(f"unknown key '{path}'; known: {', '.join(sorted(model.model_fields))}") from error
        if problem["type"] == "too_long" and model is _Challenge:
            raise UserError(f"'{path}' has {len(problem['input'])} classes; keep that of the target alone") from error
        raise UserError(f"'{path}': {problem['msg']}") from error


def _has_signs(clicks: Any) -> bool:
    return isinstance(clicks, list) and any(isinstance(one, Mapping) and one.keys() & {"fg", "bg"} for one in clicks)


def _triple(values: Any) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)
    return x, y, z
