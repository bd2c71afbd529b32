"""What a user gives a segmenter: clicks, a box, a previous mask, a text, in voxels of the volume (RAS+).

In JSON the coordinates are world mm, so that prompts can be written by hand or by a viewer, and belong to the
scan and not to one way of storing it. The schema is in docs/protocols.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, Strict, StringConstraints, ValidationError

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.data.volume import BoolArray, same_grid

PROMPTS_VERSION = 1
"""Version of the JSON schema of prompts."""

SPACES = ("RAS", "LPS")
"""World axes that a prompt file may use: NIfTI's (the default) and DICOM's."""


class Grid(Protocol):
    """Anything with a shape and an affine, such as a `Volume`."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def affine(self) -> NDArray[np.float64]: ...


NO_TARGET = "no-target"
"""Where no voxel of the target is, so that there is nothing to click on."""

SIMULATED, GIVEN = "simulated", "given"
"""Who made the first prompts of a row: the simulated user, or people whose prompts were imported."""


class PromptKind(StrEnum):
    """The kinds of prompt that a method can understand."""

    NONE = "none"  # works with no prompt at all (automatic segmentation)
    TEXT = "text"
    CLICK = "click"  # positive clicks
    NEGATIVE_CLICK = "negative-click"
    BOX = "box"
    MASK = "mask"  # a previous mask to improve


@dataclass(frozen=True)
class Click:
    """A voxel (x, y, z) said to lie inside the target (`positive`) or outside it."""

    position: tuple[int, int, int]
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """An axis-aligned box of voxels: `low` inclusive, `high` exclusive."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]


@dataclass(frozen=True)
class Prompts:
    """All prompts of a session so far. The order of clicks is the order in which they were made."""

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask: BoolArray | None = None
    text: str | None = None

    @property
    def kinds(self) -> frozenset[PromptKind]:
        """The kinds present; `{NONE}` if there is no prompt."""
        present = set()
        if any(click.positive for click in self.clicks):
            present.add(PromptKind.CLICK)
        if any(not click.positive for click in self.clicks):
            present.add(PromptKind.NEGATIVE_CLICK)
        if self.box is not None:
            present.add(PromptKind.BOX)
        if self.mask is not None:
            present.add(PromptKind.MASK)
        if self.text is not None:
            present.add(PromptKind.TEXT)
        return frozenset(present or {PromptKind.NONE})


def to_json(prompts: Prompts, volume: Grid) -> dict[str, Any]:
    """Prompts as JSON-like values in world mm (RAS+); what is absent is left out.

    A click is the centre of its voxel; a box is given by the centres of its first and its last voxel; a mask
    by runs on the volume's own grid.
    """
    content: dict[str, Any] = {"version": PROMPTS_VERSION, "space": "RAS"}
    if prompts.clicks:
        content["clicks"] = [
            {"mm": _to_mm(click.position, volume), "positive": click.positive} for click in prompts.clicks
        ]
    if prompts.box is not None:
        last = [high - 1 for high in prompts.box.high]
        content["box"] = {"from_mm": _to_mm(prompts.box.low, volume), "to_mm": _to_mm(last, volume)}
    if prompts.mask is not None:
        content["mask"] = {
            "shape": list(volume.shape),
            "affine": np.asarray(volume.affine).tolist(),
            "runs": _runs(prompts.mask),
        }
    if prompts.text is not None:
        content["text"] = prompts.text
    return content


_Number = Annotated[float, Strict(), AllowInfNan(False)]
_Triple = Annotated[tuple[_Number, _Number, _Number], Field(description="3 finite numbers")]
_Row = tuple[_Number, _Number, _Number, _Number]
_Whole = Annotated[int, Strict(), Field(ge=0)]
_PAIRS = "an even number of whole numbers: start, length, start, length …"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ClickEntry(_Entry):
    mm: _Triple
    positive: Annotated[bool, Strict()] = Field(default=True, description="true or false")


class _BoxEntry(_Entry):
    from_mm: _Triple
    to_mm: _Triple


class _MaskEntry(_Entry):
    shape: tuple[_Whole, _Whole, _Whole] = Field(description="3 whole numbers")
    affine: tuple[_Row, _Row, _Row, _Row] = Field(description="4 × 4 finite numbers")
    runs: list[_Whole] = Field(description=_PAIRS)


class _Content(_Entry):
    """A prompt file as JSON has it; the schema of docs/protocols.md."""

    version: Annotated[int, Strict()] = Field(ge=PROMPTS_VERSION, le=PROMPTS_VERSION, description=str(PROMPTS_VERSION))
    space: Literal["RAS", "LPS"] = "RAS"
    clicks: list[_ClickEntry] = Field(default_factory=list, description="a list")
    box: _BoxEntry | None = None
    mask: _MaskEntry | None = None
    text: Annotated[str, Strict(), StringConstraints(pattern=r"\S")] | None = Field(default=None, description="words")


_PARTS: dict[str, type[BaseModel]] = {"clicks": _ClickEntry, "box": _BoxEntry, "mask": _MaskEntry}


def from_json(content: Mapping[str, Any], volume: Grid) -> Prompts:
    """Prompts for a volume, from what `to_json` wrote or a user wrote by hand.

    A point belongs to the voxel whose centre is nearest. The two corners of a box may come in any order; its
    edges run along the axes of the scan.

    Raises:
        UserError: an unknown key (the nearest is offered), another version, a point outside the volume, a
            mask of another grid, or a value of the wrong type.
    """
    try:
        entry = _Content.model_validate(dict(content) if isinstance(content, Mapping) else content)
    except ValidationError as error:
        raise UserError(_first_problem(error)) from error
    return Prompts(
        clicks=tuple(
            Click(to_voxel(click.mm, f"click {number}, 'mm'", entry.space, volume), click.positive)
            for number, click in enumerate(entry.clicks, start=1)
        ),
        box=None if entry.box is None else _box(entry.box, entry.space, volume),
        mask=None if entry.mask is None else _mask(entry.mask, volume),
        text=entry.text,
    )


def _first_problem(error: ValidationError) -> str:
    """The problem to name first: a misspelt key explains the rest."""
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where, model, place = "prompts", cast("type[BaseModel]", _Content), problem["loc"]
    nested = len(place) > 1 and place[0] in _PARTS
    if nested:
        where, model = str(place[0]), _PARTS[str(place[0])]
        place = place[1:]
        if where == "clicks":
            where, place = f"click {int(place[0]) + 1}", place[1:]
    elif place and problem["type"] == "model_type":
        where, model, place = str(place[0]), _PARTS[str(place[0])], ()
    value = problem["input"]
    if not place:
        return f"{where}: an object with {', '.join(sorted(model.model_fields))} is needed, not {value!r}"
    name = str(place[0])
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key '{name}'; {nearest_name(name, model.model_fields)}"
    if problem["type"] == "missing":
        value = None
    if name == "space":
        return f"prompts: unknown space {value!r}; {nearest_name(str(value), SPACES)}"
    phrase = f"must be {model.model_fields[name].description}, not {value!r}"
    return f"{where}, '{name}': {phrase}" if nested else f"{where}: '{name}' {phrase}"


def _box(entry: _BoxEntry, space: str, volume: Grid) -> Box:
    ends = [to_voxel(getattr(entry, end), f"box, '{end}'", space, volume) for end in ("from_mm", "to_mm")]
    low, last = np.min(ends, axis=0), np.max(ends, axis=0)
    return Box(_triple(low), _triple(last + 1))


def _mask(entry: _MaskEntry, volume: Grid) -> BoolArray:
    affine = np.asarray(entry.affine, np.float64)
    if entry.shape != tuple(volume.shape) or not same_grid(affine, volume.affine, volume.shape):
        raise UserError("mask: it belongs to another grid than the volume's; resample it to the volume first")
    if len(entry.runs) % 2:
        raise UserError(f"mask, 'runs': must be {_PAIRS}")
    flat = np.zeros(math.prod(volume.shape), bool)
    for start, length in zip(entry.runs[0::2], entry.runs[1::2], strict=True):
        if start + length > flat.size:
            raise UserError("mask: 'runs' reach beyond the volume")
        flat[start : start + length] = True
    return flat.reshape(volume.shape)


def _runs(mask: BoolArray) -> list[int]:
    """Start and length of each run of true voxels, in C order (z fastest), as one flat list."""
    changes = np.flatnonzero(np.diff(mask.ravel().view(np.int8), prepend=0, append=0))
    starts, ends = changes[0::2], changes[1::2]
    flat: list[int] = np.stack([starts, ends - starts], axis=1).ravel().tolist()
    return flat


def _to_mm(position: Sequence[int], volume: Grid) -> list[float]:
    world = volume.affine[:3, :3] @ np.asarray(position, float) + volume.affine[:3, 3]
    return [round(float(value), 4) for value in world]


def to_voxel(point: Sequence[float], where: str, space: str, volume: Grid) -> tuple[int, int, int]:
    """The voxel whose centre is nearest to a point in world mm. Raises UserError if it lies outside the volume."""
    world = np.asarray(point, np.float64) * ((-1, -1, 1) if space == "LPS" else (1, 1, 1))
    voxel = np.rint(np.linalg.solve(volume.affine[:3, :3], world - volume.affine[:3, 3]))
    if (voxel < 0).any() or (voxel >= volume.shape).any():
        last = np.asarray(volume.shape) - 1
        ends = np.array([_to_mm(np.multiply(corner, last), volume) for corner in np.ndindex(2, 2, 2)])
        raise UserError(
            f"{where}: {_listed(world)} mm (RAS) lies outside the volume, which reaches from "
            f"{_listed(ends.min(axis=0))} to {_listed(ends.max(axis=0))}"
        )
    return _triple(voxel)


def _listed(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in values) + ")"


def _triple(values: Any) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)
    return x, y, z
