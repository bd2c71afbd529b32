"""A ball around every positive click; the floor that any method which looks at the image must beat.

`fit` measures one number on the training cases: the median, over cases, of the radius of the sphere that
has the volume of the case's largest lesion. Negative clicks claim the voxels that are nearer to them than
to any positive click. A box gives the ellipsoid inscribed in it, whatever the radius.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from baselines import geometry
from benchmarks.common.errors import UserError
from benchmarks.contestants import Budget, OwnTraining, Session, Target
from benchmarks.data.dataset import Case, target_mask
from benchmarks.data.volume import BoolArray, Volume, read_volume
from benchmarks.prompting.prompts import Prompts

FILE = "ball.json"
ASSUMED_RADIUS_MM = 10.0  # only for one scan by hand, without a training split


def build(config: Mapping[str, Any], device: str) -> BallSegmenter:
    """The factory named by the method. The ball has no configuration and needs no device."""
    return BallSegmenter()


class BallSegmenter(OwnTraining):
    """Draws balls of one fitted radius."""

    def __init__(self, radius_mm: float | None = None) -> None:
        self.radius_mm = radius_mm

    def fit(self, cases: Sequence[Case], target: Target, budget: Budget, folder: Path, seed: int) -> dict[str, Any]:
        """Measure the median radius in mm and write it as JSON; spends none of the budget.

        Raises:
            UserError: no training case holds the target.
        """
        radii = [radius for case in cases if (radius := lesion_radius_mm(case, target)) is not None]
        if not radii:
            raise UserError(f"ball: none of the {len(cases)} training cases holds the target '{target.name}'")
        self.radius_mm = float(np.median(radii))
        figures = {"radius_mm": self.radius_mm, "cases_measured": len(radii)}
        (folder / FILE).write_text(json.dumps(figures) + "\n")
        return figures

    def load(self, folder: Path) -> None:
        """Read the radius that `fit` wrote."""
        path = folder / FILE
        try:
            radius = float(json.loads(path.read_text())["radius_mm"])
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; train 'ball' first") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a ball's checkpoint; train 'ball' again") from error
        if not (np.isfinite(radius) and radius > 0):
            raise UserError(f"{path}: radius_mm must be a positive number, not {radius}")
        self.radius_mm = radius

    def without_training(self) -> str:
        """A radius that was measured on nothing."""
        self.radius_mm = ASSUMED_RADIUS_MM
        return f"a radius of {ASSUMED_RADIUS_MM:g} mm, fitted to nothing"

    def open(self, volume: Volume, target: Target) -> BallSession:
        """A session on the volume's grid; the intensities are not looked at."""
        if self.radius_mm is None:
            raise UserError("ball: no radius yet; train it on the training split first")
        return BallSession(volume.shape, volume.spacing, self.radius_mm)


class BallSession(Session):
    """Balls and ellipsoids on one grid."""

    def __init__(self, shape: geometry.Voxel, spacing: geometry.Spacing, radius_mm: float) -> None:
        self.shape = shape
        self.spacing = spacing
        self.radius_mm = radius_mm

    def segment(self, prompts: Prompts) -> BoolArray:
        """The union of balls (and of the box's ellipsoid), less what is nearer to a negative click.

        Raises:
            UserError: neither a positive click nor a box, or one outside the volume.
        """
        positive, negative = geometry.positions(prompts.clicks, self.shape)
        if not positive and prompts.box is None:
            raise UserError("ball: needs a positive click or a box")
        mask = np.zeros(self.shape, bool)
        if prompts.box is not None:
            crop = geometry.clipped_box(prompts.box, self.shape)
            ellipsoid = geometry.ellipsoid_in_box(prompts.box, crop, self.spacing)
            centre = geometry.box_centre(prompts.box)
            mask[crop] = ellipsoid & geometry.nearer_than(centre, negative, crop, self.spacing)
        for click in positive:
            crop = geometry.crop_around(click, self.radius_mm, self.shape, self.spacing)
            inside = geometry.ball_in_crop(click, self.radius_mm, crop, self.spacing)
            mask[crop] |= inside & geometry.nearer_than(click, negative, crop, self.spacing)
        return mask


def lesion_radius_mm(case: Case, target: Target) -> float | None:
    """Radius in mm of the sphere with the volume of the case's largest lesion; None if the case holds none.

    Lesions are 26-connected components of the target. Only the label file is read.
    """
    label = read_volume(case.label)
    mask = target_mask(np.rint(label.array).astype(np.int16), target)
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    components, _ = ndimage.label(mask[found[0]], np.ones((3, 3, 3)))
    largest = int(np.bincount(components.ravel())[1:].max())
    return float((3 * largest * np.prod(label.spacing) / (4 * np.pi)) ** (1 / 3))
