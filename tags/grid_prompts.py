"""Prompts of the user, by the crops that they fall into."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.common.errors import UserError
from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Prepared, crop
from benchmarks.data.volume import BoolArray
from benchmarks.prompting.prompts import Prompts
from tags.prompt_encoder import NEGATIVE, POSITIVE, PromptTensors

Voxel = tuple[int, int, int]


class GridPrompts:
    """The user's prompts on the model's grid."""

    def __init__(self, prompts: Prompts, prepared: Prepared) -> None:
        if prompts.text is not None:
            raise UserError("TAGS takes its anatomy from the target and does not read a text prompt")
        self.points = prepared.to_prepared([c.position for c in prompts.clicks])
        self.positive = np.array([c.positive for c in prompts.clicks], bool)
        self.box: NDArray[np.float64] | None = None
        if prompts.box is not None:
            self.box = prepared.to_prepared([prompts.box.low, [h - 1 for h in prompts.box.high]])
        self.mask: BoolArray | None = None
        self.mask_box: NDArray[np.float64] | None = None
        if prompts.mask is not None and prompts.mask.any():
            self.mask = prepared.label(prompts.mask)
            found = bounding_box(self.mask)
            if found is not None:
                self.mask_box = np.array([found[0], [h - 1 for h in found[1]]], float)

    def anchors(self, side: int) -> list[NDArray[np.float64]]:
        """Centres of the crops to begin with, in an order that further clicks only append to.

        A box (without one, a previous mask) is covered by crops; every positive click that lies in no crop's inner
        half gets its own. Negative clicks alone ask for no crop.
        """
        region = self.box if self.box is not None else None if self.positive.any() else self.mask_box
        centres = [] if region is None else _cover(region, side)
        for point in self.points[self.positive]:
            if not any(np.abs(point - centre).max() < side / 4 for centre in centres):
                centres.append(point)
        return centres

    def prompted_part(self, mask: BoolArray, origin: Voxel, inherited: NDArray[np.float64] | None) -> BoolArray:
        """The connected parts of a crop's mask that hold a positive click; the whole mask if no part does."""
        points = self.points[self.positive] if inherited is None else inherited[None]
        local = np.rint(points - np.array(origin, float)).astype(np.intp)
        local = local[((local >= 0) & (local < mask.shape[0])).all(axis=1)]
        parts, _ = ndimage.label(mask)
        wanted = set(parts[tuple(local.T)].tolist()) - {0}
        return np.isin(parts, list(wanted)) if wanted else mask

    def in_crop(
        self,
        origin: Voxel,
        side: int,
        device: torch.device,
        inherited: NDArray[np.float64] | None = None,
    ) -> PromptTensors:
        """What of the prompts falls into the crop at `origin`, in its coordinates; without a positive click there,
        `inherited` is one."""
        tensors = PromptTensors.empty(1, device)
        local = self.points - np.array(origin, float)
        inside = ((local > -0.5) & (local < side - 0.5)).all(axis=1)
        if inherited is not None and not (inside & self.positive).any():
            here = torch.tensor(inherited - np.array(origin, float), dtype=torch.float32, device=device)
            tensors = tensors.with_points(here[None, None], torch.full((1, 1), POSITIVE, device=device))
        if inside.any():
            points = torch.tensor(local[inside], dtype=torch.float32, device=device)[None]
            signs = torch.tensor(np.where(self.positive[inside], POSITIVE, NEGATIVE), device=device)[None]
            tensors = tensors.with_points(points, signs)
        if self.box is not None:
            low, high = self.box - np.array(origin, float)
            if (high > -0.5).all() and (low < side - 0.5).all():
                corners = np.stack((low.clip(0, side - 1), high.clip(0, side - 1)))
                tensors.box = torch.tensor(corners, dtype=torch.float32, device=device)[None]
                tensors.has_box = torch.ones(1, dtype=torch.bool, device=device)
        if self.mask is not None:
            centre = [o + side // 2 for o in origin]
            patch, _ = crop(self.mask, centre, (side, side, side), False)
            tensors.mask = torch.from_numpy(patch.astype(np.float32)).to(device)[None, None]
            tensors.has_mask = torch.ones(1, dtype=torch.bool, device=device)
        return tensors


def _cover(region: NDArray[np.float64], side: int) -> list[NDArray[np.float64]]:
    """Centres of crops that cover a box, at most half a side apart; one where the box fits."""
    low, high = region
    axes = []
    for a, b in zip(low, high, strict=True):
        number = 1 if b - a < 0.75 * side else int(np.ceil((b - a) / (side / 2)))
        middle, step = (a + b) / 2, (b - a) / number
        axes.append([middle + (i - (number - 1) / 2) * step for i in range(number)])
    grid = [np.array((x, y, z)) for x in axes[0] for y in axes[1] for z in axes[2]]
    return sorted(grid, key=lambda centre: float(np.abs(centre - (low + high) / 2).sum()))
