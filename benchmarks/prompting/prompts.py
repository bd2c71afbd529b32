"""What a user gives a segmenter: clicks, a box, a previous mask, a text, in voxels of the volume (RAS+).

In JSON the coordinates are world mm, so that prompts can be written by hand or by a viewer, and belong to the
scan and not to one way of storing it. The schema is in docs/protocols.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
    """All that the user has given so far. The order of clicks is the order in which they were made."""

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask: BoolArray | None = None
    text: str | None = None

    @property
    def kinds(self) -> frozenset[PromptKind]:
        """The kinds present; `{NONE}` if nothing was given."""
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
    told: dict[str, Any] = {"version": PROMPTS_VERSION, "space": "RAS"}
    if prompts.clicks:
        told["clicks"] = [
            {"mm": _to_mm(click.position, volume), "positive": click.positive} for click in prompts.clicks
        ]
    if prompts.box is not None:
        last = [high - 1 for high in prompts.box.high]
        told["box"] = {"from_mm": _to_mm(prompts.box.low, volume), "to_mm": _to_mm(last, volume)}
    if prompts.mask is not None:
        told["mask"] = {
            "shape": list(volume.shape),
            "affine": np.asarray(volume.affine).tolist(),
            "runs": _runs(prompts.mask),
        }
    if prompts.text is not None:
        told["text"] = prompts.text
    return told


def from_json(given: Mapping[str, Any], volume: Grid) -> Prompts:
    """Prompts for a volume, from what `to_json` wrote or a user wrote by hand.

    A point belongs to the voxel whose centre is nearest. The two corners of a box may come in any order; its
    edges run along the axes of the scan.

    Raises:
        UserError: an unknown key (the nearest is offered), another version, a point outside the volume, a
            mask of another grid, or a value of the wrong type.
    """
    content = _checked(given, {"version", "space", "clicks", "box", "mask", "text"}, "prompts")
    if content.get("version") != PROMPTS_VERSION or isinstance(content["version"], bool):
        raise UserError(f"prompts: 'version' must be {PROMPTS_VERSION}, not {content.get('version')!r}")
    space = content.get("space", "RAS")
    if space not in SPACES:
        raise UserError(f"prompts: unknown space {space!r}; {nearest_name(str(space), SPACES)}")
    text = content.get("text")
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise UserError(f"prompts: 'text' must be words, not {text!r}")
    clicks = content.get("clicks", ())
    if not _is_list(clicks):
        raise UserError(f"prompts: 'clicks' must be a list, not {clicks!r}")
    return Prompts(
        clicks=tuple(_click(click, f"click {i}", space, volume) for i, click in enumerate(clicks, start=1)),
        box=_box(content["box"], space, volume) if content.get("box") is not None else None,
        mask=_mask(content["mask"], volume) if content.get("mask") is not None else None,
        text=text,
    )


def _click(given: Any, where: str, space: str, volume: Grid) -> Click:
    content = _checked(given, {"mm", "positive"}, where)
    positive = content.get("positive", True)
    if not isinstance(positive, bool):
        raise UserError(f"{where}: 'positive' must be true or false, not {positive!r}")
    return Click(_to_voxel(content.get("mm"), f"{where}, 'mm'", space, volume), positive)


def _box(given: Any, space: str, volume: Grid) -> Box:
    content = _checked(given, {"from_mm", "to_mm"}, "box")
    ends = [_to_voxel(content.get(end), f"box, '{end}'", space, volume) for end in ("from_mm", "to_mm")]
    low, last = np.min(ends, axis=0), np.max(ends, axis=0)
    return Box(_triple(low), _triple(last + 1))


def _mask(given: Any, volume: Grid) -> BoolArray:
    content = _checked(given, {"shape", "affine", "runs"}, "mask")
    affine = _numbers(content.get("affine"), (4, 4), "mask, 'affine'")
    if content.get("shape") != list(volume.shape) or not same_grid(affine, volume.affine, volume.shape):
        raise UserError("mask: it belongs to another grid than the volume's; resample it to the volume first")
    runs: Any = content.get("runs")
    if not _is_list(runs) or len(runs) % 2 or not all(isinstance(n, int) and n >= 0 for n in runs):
        raise UserError("mask: 'runs' must be an even number of whole numbers: start, length, start, length …")
    starts, lengths = np.array(runs[0::2], np.int64), np.array(runs[1::2], np.int64)
    flat = np.zeros(math.prod(volume.shape), bool)
    if starts.size and (starts + lengths).max() > flat.size:
        raise UserError("mask: 'runs' reach beyond the volume")
    for start, length in zip(starts, lengths, strict=True):
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


def _to_voxel(given: Any, where: str, space: str, volume: Grid) -> tuple[int, int, int]:
    world = _numbers(given, (3,), where)
    if space == "LPS":
        world = world * (-1, -1, 1)
    voxel = np.rint(np.linalg.solve(volume.affine[:3, :3], world - volume.affine[:3, 3]))
    if (voxel < 0).any() or (voxel >= volume.shape).any():
        last = np.asarray(volume.shape) - 1
        ends = np.array([_to_mm(np.multiply(corner, last), volume) for corner in np.ndindex(2, 2, 2)])
        raise UserError(
            f"{where}: {_listed(world)} mm (RAS) lies outside the volume, which reaches from "
            f"{_listed(ends.min(axis=0))} to {_listed(ends.max(axis=0))}"
        )
    return _triple(voxel)


def _numbers(given: Any, shape: tuple[int, ...], where: str) -> NDArray[np.float64]:
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if not _is_list(given) or values.shape != shape or not np.isfinite(values).all():
        raise UserError(f"{where}: {' × '.join(map(str, shape))} finite numbers are needed, not {given!r}")
    return values


def _checked(given: Any, known: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: an object with {', '.join(sorted(known))} is needed, not {given!r}")
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'; {nearest_name(str(key), known)}")
    return given


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _listed(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in values) + ")"


def _triple(values: Any) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)
    return x, y, z
