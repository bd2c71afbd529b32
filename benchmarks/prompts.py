"""What a user gives a segmenter: clicks, a box, a previous mask, a text. Voxel coordinates of the volume (RAS+)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.volume import BoolArray


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
