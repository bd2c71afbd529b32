"""Prompts of the user, by the views that they ask for and fall into."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Prepared
from benchmarks.data.volume import BoolArray, FloatArray
from benchmarks.prompting.prompts import Prompts
from tags.plan import SHARE_OF_VIEW
from tags.prompt_encoder import NEGATIVE, POSITIVE, PromptTensors
from tags.views import View

NEARLY_ONE = 0.8  # a step from here to 1 is taken as 1: the volume need not be read anew


class GridPrompts:
    """The user's prompts on the model's grid."""

    def __init__(self, prompts: Prompts, prepared: Prepared) -> None:
        self.points = prepared.to_prepared([c.position for c in prompts.clicks])
        self.positive = np.array([c.positive for c in prompts.clicks], bool)
        self.box: NDArray[np.float64] | None = None
        if prompts.box is not None:  # outer faces of its first and last voxels
            self.box = prepared.to_prepared([np.array(prompts.box.low) - 0.5, np.array(prompts.box.high) - 0.5])
        self.mask_box: NDArray[np.float64] | None = None
        found = None if prompts.mask is None else bounding_box(prompts.mask)
        if found is not None:
            self.mask_box = prepared.to_prepared([np.array(found[0]) - 0.5, np.array(found[1]) - 0.5])
        given = prompts.mask
        self.takes_away = np.array(
            [given is not None and not c.positive and bool(given[c.position]) for c in prompts.clicks], bool
        )

    def first_views(self, side: int, finest: float) -> list[View]:
        """Views to begin with, in an order that further clicks only append to.

        A box (without one and without a click inside, a previous mask) fills three quarters of a view. Every positive
        click that lies in no view's inner half gets its own, of step 1; so does a negative one that lies in a previous
        mask and in no view. Other negative clicks ask for no view.

        Args:
            finest: smallest step that shows more of the scan than a larger one.
        """
        region = self.box if self.box is not None else None if self.positive.any() else self.mask_box
        views = [] if region is None else [_around(region, side, finest)]
        for point, positive, takes_away in zip(self.points, self.positive, self.takes_away, strict=True):
            share = 0.5 if positive else 1.0
            if (positive or takes_away) and not any(view.holds(point, share) for view in views):
                views.append(View.about(point, 1.0, side))
        return views

    def clicked_in(self, view: View) -> NDArray[np.float64] | None:
        """The positive click nearest to the centre of a view, of those that lie in it."""
        points = [point for point in self.points[self.positive] if view.holds(point)]
        return min(points, key=lambda point: float(np.abs(point - np.array(view.centre)).max()), default=None)

    def in_box(self, points: NDArray[np.float64]) -> BoolArray:
        """Which of the points (N, 3) lie in the box; there is one."""
        assert self.box is not None
        low, high = self.box
        return np.asarray(((points >= low) & (points <= high)).all(axis=1))

    def prompted_part(self, mask: BoolArray, view: View) -> BoolArray:
        """The connected parts of a view's mask that hold a positive click; the whole mask if no part does."""
        local = np.rint(view.local(self.points[self.positive])).astype(np.intp)
        local = local[((local >= 0) & (local < view.side)).all(axis=1)]
        parts, _ = ndimage.label(mask)
        wanted = set(parts[tuple(local.T)].tolist()) - {0}
        return np.isin(parts, list(wanted)) if wanted else mask

    def in_view(self, view: View, device: torch.device, previous: FloatArray | None = None) -> PromptTensors:
        """What of the prompts falls into a view, in its coordinates, and the previous probabilities there."""
        tensors = PromptTensors.empty(1, device)
        side = view.side
        local = view.local(self.points)
        inside = ((local > -0.5) & (local < side - 0.5)).all(axis=1)
        if inside.any():
            points = torch.tensor(local[inside], dtype=torch.float32, device=device)[None]
            signs = torch.tensor(np.where(self.positive[inside], POSITIVE, NEGATIVE), device=device)[None]
            tensors = tensors.with_points(points, signs)
        if self.box is not None:
            low, high = view.local(self.box)
            if (high > 0).all() and (low < side - 1).all():
                last = np.maximum(np.rint(high - 0.5), np.rint(low + 0.5))  # voxels whose centres lie within
                corners = np.stack((np.rint(low + 0.5).clip(0, side - 1), last.clip(0, side - 1)))
                tensors.box = torch.tensor(corners, dtype=torch.float32, device=device)[None]
                tensors.has_box = torch.ones(1, dtype=torch.bool, device=device)
        if previous is not None:
            tensors.mask = torch.from_numpy(previous).to(device)[None, None]
            tensors.has_mask = torch.ones(1, dtype=torch.bool, device=device)
        return tensors


def _around(region: NDArray[np.float64], side: int, finest: float) -> View:
    """The view of which the longest side of a region (2, 3) fills three quarters, no finer than the scan shows."""
    low, high = region
    step = max(float((high - low).max()) / (SHARE_OF_VIEW * side), finest)
    step = 1.0 if NEARLY_ONE <= step <= 1 else step
    middle = (low + high) / 2 + (0.5 if side % 2 == 0 else 0.0)
    return View.about(middle, step, side)
