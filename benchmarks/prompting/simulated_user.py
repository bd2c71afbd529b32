"""Simulated users: from a label map (and the current prediction) to prompts.

A protocol says what the user gives: nothing, a text, clicks, a box, a rough mask, or clicks that correct the
prediction round by round. The user sees the label; the segmenter sees only the prompts. All chance comes from
`common.seeds`, from (suite seed, dataset, case, target, round), with the lesion before the round where each lesion is
a task of its own: the same case gets the same prompts under every method, on any number of workers, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.common.seeds import generator
from benchmarks.data.boxes import slices
from benchmarks.prompting import cvpr25
from benchmarks.prompting.components import (
    BoolArray,
    Component,
    Position,
    Spacing,
    box_around,
    connected_components,
    interior_maximum,
    largest_component,
    largest_error,
    position,
    shift,
)
from benchmarks.prompting.prompts import Box, Click, Prompts
from benchmarks.prompting.protocol import Corrections, Protocol

if TYPE_CHECKING:
    from benchmarks.data.target import Target


class NoTarget(Exception):
    """The case holds no voxel of the target, so no click, box or mask can be made from it."""


class SimulatedUser:
    """One user at one target of one case; counts the rounds, so make a new one for each session.

    Args:
        protocol: what the user gives.
        seed_parts: (suite seed, dataset, case, target); the round is added here.
    """

    def __init__(self, protocol: Protocol, seed_parts: tuple[object, ...]) -> None:
        self.protocol = protocol
        self._seed_parts = seed_parts
        self._round = 1
        self._late_rounds = 0

    def first(self, label_mask: BoolArray, spacing: Spacing, target: Target) -> Prompts:
        """The prompts of the first round.

        Args:
            label_mask: bool, axes (x, y, z): the voxels of the target.
            spacing: mm per voxel, in the same order.

        Raises:
            NoTarget: the mask is empty and the protocol needs to see the target. An automatic or a text
                protocol never raises it: what a method paints where there is nothing must be counted.
        """
        self._round, self._late_rounds = 1, 0
        text = target.text if self.protocol.text or self.protocol.first_kind == "text" else None
        if not self.protocol.looks_at_label:
            return Prompts(text=text)
        box = box_around(label_mask)
        if box is None:
            raise NoTarget(f"no voxel of '{target.name}' in the case")
        match self.protocol.first_kind:
            case "box":
                return Prompts(box=self._jittered(box, label_mask.shape, spacing), text=text)
            case "mask":
                return Prompts(mask=self._rough_mask(label_mask, box, spacing), text=text)
            case _:
                return Prompts(clicks=self._first_clicks(label_mask, box, spacing), text=text)

    def next(self, label_mask: BoolArray, prediction: BoolArray, previous: Prompts, spacing: Spacing) -> Prompts | None:
        """The prompts of the next round: all given so far and one corrective click.

        The standard click falls in the largest error component (false negative or false positive), at its interior
        maximum, and is positive on a false negative; see `benchmarks.prompting.cvpr25` for the other rule.

        Returns:
            None when the rounds are used up or the user is satisfied (and the late stop is over).
        """
        if prediction.shape != label_mask.shape:
            raise ValueError(f"prediction {prediction.shape} and label {label_mask.shape} differ in shape")
        if self.protocol.kind != "iterative" or self._round >= self.protocol.rounds:
            return None
        boxes = [box for box in (box_around(label_mask), box_around(prediction)) if box is not None]
        if not boxes:
            return None  # nothing to find and nothing found
        window = _union(boxes)
        label, predicted = label_mask[slices(window.low, window.high)], prediction[slices(window.low, window.high)]
        if self._satisfied(label, predicted):
            if self._late_rounds >= self.protocol.noise.late_stop:
                return None
            self._late_rounds += 1
        self._round += 1
        click = self._correction(label, predicted, window.low, label_mask.shape, spacing, previous)
        mask = prediction.copy() if self.protocol.previous_mask else previous.mask
        return replace(previous, clicks=(*previous.clicks, click), mask=mask)

    def _satisfied(self, label: BoolArray, predicted: BoolArray) -> bool:
        both = np.count_nonzero(label & predicted)
        return 2 * both >= self.protocol.stop_dice * (np.count_nonzero(label) + np.count_nonzero(predicted))

    def _correction(
        self,
        label: BoolArray,
        predicted: BoolArray,
        origin: Position,
        shape: tuple[int, ...],
        spacing: Spacing,
        previous: Prompts,
    ) -> Click:
        found = _error_click(label, predicted, spacing, self.protocol.corrections)
        if found is None:  # a late user clicks on a mask that is already right
            chance = generator(*self._seed_parts, "round", self._round, "place")
            found = _draw_voxels(label, 1, chance)[0], True
        meant, positive = found
        return self._hand(shift(meant, origin), positive, shape, spacing, 0, exempt=not previous.clicks)

    def _first_clicks(self, label_mask: BoolArray, box: Box, spacing: Spacing) -> tuple[Click, ...]:
        inside = label_mask[slices(box.low, box.high)]
        regions = connected_components(inside) if self.protocol.per == "lesion" else [Component(inside, (0, 0, 0), 0)]
        places = [
            shift(place, region.low, box.low)
            for lesion, region in enumerate(regions)
            for place in self._places(region.mask, spacing, lesion)
        ]
        return tuple(
            self._hand(meant, True, label_mask.shape, spacing, order, exempt=order == 0)
            for order, meant in enumerate(places)
        )

    def _places(self, region: BoolArray, spacing: Spacing, lesion: int) -> list[Position]:
        """Where the first click or clicks fall in a target or in one lesion."""
        if self.protocol.first_kind == "centre-click":
            largest = largest_component(region)
            return [shift(interior_maximum(largest.mask, spacing), largest.low)]
        chance = generator(*self._seed_parts, "lesion", lesion, "place")
        return _draw_voxels(region, self.protocol.clicks, chance)

    def _hand(
        self,
        meant: Position,
        positive: bool,
        shape: tuple[int, ...],
        spacing: Spacing,
        order: int,
        exempt: bool,
    ) -> Click:
        """The click that the operator makes where one was meant; draws do not depend on the noise level."""
        chance = generator(*self._seed_parts, "round", self._round, "click", order, "hand")
        offset = chance.standard_normal(3) * self.protocol.noise.displacement_mm / np.asarray(spacing)
        wrong = bool(chance.random() < self.protocol.noise.wrong_sign) and not exempt
        made = np.clip(np.rint(np.asarray(meant) + offset), 0, np.asarray(shape) - 1)
        return Click(position(made), positive != wrong)

    def _jittered(self, box: Box, shape: tuple[int, ...], spacing: Spacing) -> Box:
        chance = generator(*self._seed_parts, "box")
        moves = chance.uniform(-1, 1, (2, 3)) * self.protocol.box_jitter_mm / np.asarray(spacing)
        ends = np.rint(np.asarray([box.low, box.high]) + moves)
        low = np.clip(ends.min(axis=0), 0, np.asarray(shape) - 1)
        high = np.clip(ends.max(axis=0), low + 1, np.asarray(shape))
        return Box(position(low), position(high))

    def _rough_mask(self, label_mask: BoolArray, box: Box, spacing: Spacing) -> BoolArray:
        """The label with its boundary moved by a smooth random field: bulges, dents, never empty."""
        sigma = self.protocol.mask_error_mm
        rough = np.zeros(label_mask.shape, bool)
        if sigma == 0:
            rough[slices(box.low, box.high)] = label_mask[slices(box.low, box.high)]
            return rough
        window = _padded(box, np.ceil(4 * sigma / np.asarray(spacing)).astype(int) + 1, label_mask.shape)
        label = label_mask[slices(window.low, window.high)]
        outside = ndimage.distance_transform_edt(~label, spacing)
        inside = ndimage.distance_transform_edt(np.pad(label, 1), spacing)[1:-1, 1:-1, 1:-1]
        chance = generator(*self._seed_parts, "mask")
        field_ = ndimage.gaussian_filter(
            chance.standard_normal(label.shape, dtype=np.float32), 10.0 / np.asarray(spacing), mode="wrap"
        )
        moved = (inside - outside) > sigma * (field_ - field_.mean()) / max(float(field_.std()), 1e-12)
        if not moved.any():
            moved[interior_maximum(label, spacing)] = True
        rough[slices(window.low, window.high)] = moved
        return rough


def _error_click(
    label: BoolArray, predicted: BoolArray, spacing: Spacing, rule: Corrections
) -> tuple[Position, bool] | None:
    """Where to correct and with which sign; None where nothing is wrong."""
    if rule == "cvpr25":
        return cvpr25.correction(label, predicted)
    error, positive = largest_error(label, predicted)
    return (shift(interior_maximum(error.mask, spacing), error.low), positive) if error.size else None


def _draw_voxels(region: BoolArray, count: int, chance: np.random.Generator) -> list[Position]:
    """Distinct voxels, uniform in the region, or all it has; a longer draw starts as a shorter one."""
    inside = np.flatnonzero(region)
    drawn: dict[int, None] = {}
    while len(drawn) < min(count, inside.size):
        drawn[int(inside[chance.integers(inside.size)])] = None
    return [position(np.unravel_index(voxel, region.shape)) for voxel in drawn]


def _union(boxes: Sequence[Box]) -> Box:
    low = np.min([box.low for box in boxes], axis=0)
    return Box(position(low), position(np.max([box.high for box in boxes], axis=0)))


def _padded(box: Box, margin: NDArray[np.integer], shape: tuple[int, ...]) -> Box:
    low = np.maximum(np.asarray(box.low) - margin, 0)
    return Box(position(low), position(np.minimum(np.asarray(box.high) + margin, shape)))
