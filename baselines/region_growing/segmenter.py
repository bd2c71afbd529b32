"""Region growing from the click: the textbook answer that needs no training.

The volume is smoothed once by a Gaussian. Around a click, the mean and the spread of intensity start from a
small ball and are re-estimated while the region grows (as in ITK's confidence-connected filter: voxels
connected to the seed within mean ± multiplier · spread). ITK's own start is a cube of voxels, which on
thick slices reaches far out of a small lesion along z; here the start is a ball in mm. Holes are filled,
and the rim that the smoothing blurred away is given back. The region never leaves a ball of `reach_mm`, so
it cannot flood the body. Negative clicks claim the voxels nearer to them than to the positive click.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from baselines import geometry
from benchmarks.common.errors import UserError
from benchmarks.contestants import Segmenter, Session, Target
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts


@dataclass(frozen=True)
class Settings:
    """Fixed beforehand, not tuned on any split.

    Attributes:
        smoothing_mm: standard deviation of the Gaussian.
        multiplier, iterations: 2.5 and 5, the values of the ITK Software Guide's example of the filter.
        least_spread_hu: texture and noise of soft tissue that survive the smoothing; less is a fluke.
        seed_radius_mm: ball in which the first mean and spread are measured.
        reach_mm: the region stays within this distance of its click.
    """

    smoothing_mm: float
    multiplier: float
    iterations: int
    least_spread_hu: float
    seed_radius_mm: float
    reach_mm: float

    def __post_init__(self) -> None:
        if min(self.smoothing_mm, self.multiplier, self.seed_radius_mm, self.reach_mm) <= 0 or self.iterations < 0:
            raise UserError(f"region-growing: settings must be positive numbers, got {self}")


def build(config: Mapping[str, Any], device: str) -> RegionGrowingSegmenter:
    """The factory named by the method; it runs on the CPU whatever the device."""
    return RegionGrowingSegmenter(Settings(**config))


class RegionGrowingSegmenter(Segmenter):
    """Grows a region from every positive click."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def open(self, volume: Volume, target: Target) -> RegionGrowingSession:
        """Smooth the volume, clipped to the target's window: bone and air must not bleed into soft tissue."""
        sigma = [self.settings.smoothing_mm / step for step in volume.spacing]
        clipped = np.clip(volume.array, *target.window)
        smoothed = ndimage.gaussian_filter(clipped, sigma, mode="nearest", truncate=3.0)
        return RegionGrowingSession(smoothed, volume.spacing, self.settings)


class RegionGrowingSession(Session):
    """Grows on one smoothed volume; a region is kept as long as its click is."""

    def __init__(self, smoothed: FloatArray, spacing: geometry.Spacing, settings: Settings) -> None:
        self.smoothed = smoothed
        self.spacing = spacing
        self.settings = settings
        self._regions: dict[geometry.Voxel, tuple[geometry.Crop, BoolArray]] = {}

    def segment(self, prompts: Prompts) -> BoolArray:
        """The union of the regions of all positive clicks; each holds at least its click.

        Raises:
            UserError: no positive click, or one outside the volume.
        """
        x, y, z = self.smoothed.shape
        positive, negative = geometry.positions(prompts.clicks, (x, y, z))
        if not positive:
            raise UserError("region-growing: needs a positive click")
        mask = np.zeros(self.smoothed.shape, bool)
        for click in positive:
            if click not in self._regions:
                self._regions[click] = self._grow(click)
            crop, region = self._regions[click]
            mask[crop] |= region & geometry.nearer_than(click, negative, crop, self.spacing)
            mask[click] = True
        return mask

    def _grow(self, click: geometry.Voxel) -> tuple[geometry.Crop, BoolArray]:
        x, y, z = self.smoothed.shape
        crop = geometry.crop_around(click, self.settings.reach_mm, (x, y, z), self.spacing)
        seed = tuple(index - part.start for index, part in zip(click, crop, strict=True))
        image = self.smoothed[crop]
        within_reach = geometry.ball_in_crop(click, self.settings.reach_mm, crop, self.spacing)
        start = geometry.ball_in_crop(click, self.settings.seed_radius_mm, crop, self.spacing)
        region = confidence_connected(image, seed, start, within_reach, self.settings)
        return crop, restore_rim(region, self.settings.smoothing_mm, self.spacing) & within_reach


def confidence_connected(
    image: FloatArray, seed: tuple[int, ...], start: BoolArray, allowed: BoolArray, settings: Settings
) -> BoolArray:
    """The region connected to `seed`, within `allowed`, whose intensities are mean ± multiplier · spread.

    Mean and spread come from `start` at first and from the region itself in each iteration.
    """
    below_all = float(image.min()) - 1.0  # so that what lies outside `allowed` passes no threshold
    walled = sitk.GetImageFromArray(np.where(allowed, image, np.float32(below_all)).T)
    region = start
    grown = np.zeros_like(start)
    for _ in range(settings.iterations + 1):
        values = image[region]
        mean = float(values.mean(dtype=np.float64))
        margin = settings.multiplier * max(float(values.std(dtype=np.float64)), settings.least_spread_hu)
        low = max(mean - margin, below_all + 0.5)
        found = sitk.ConnectedThreshold(walled, seedList=[seed], lower=low, upper=mean + margin)
        next_region = sitk.GetArrayFromImage(found).T.astype(bool)
        if not next_region.any():  # the clicked voxel itself fell out of the interval
            break
        grown = next_region
        if np.array_equal(grown, region):
            break
        region = grown
    return grown


def restore_rim(region: BoolArray, rim_mm: float, spacing: geometry.Spacing) -> BoolArray:
    """Fill holes, then add every voxel whose centre lies within `rim_mm` of the region."""
    found = ndimage.find_objects(region.astype(np.uint8))
    if not found:
        return region
    reach = [int(rim_mm / step) for step in spacing]
    part = tuple(slice(max(0, side.start - r), side.stop + r) for side, r in zip(found[0], reach, strict=True))
    filled = ndimage.binary_fill_holes(region[part])
    restored = np.zeros_like(region)
    restored[part] = ndimage.distance_transform_edt(~filled, sampling=spacing) <= rim_mm
    return restored
