"""Lesions and their benign look-alikes: chosen inside an organ, then painted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from benchmarks.data.boxes import bounding_box
from benchmarks.data.synthetic.abdomen import Kind
from benchmarks.data.synthetic.canvas import FINE_SLICES, Box, Canvas, Floats, Point, waves

FURTHER_DIAMETERS = (6.0, 18.0)  # mm, of the lesions beside the largest
BRIGHTER_AT_MOST = 45.0  # HU: a lesion takes up less contrast medium than its organ more often than more
PLAIN_DIAMETER = 20.0  # mm; a smaller lesion is only marked by an annotator if it stands out more
EXTRA_CONTRAST = 10.0  # HU, at most, by which a small one does


def contrasts(kind: Kind, diameter: float, sign: int) -> tuple[float, float]:
    """Range of the difference in HU between a lesion of this diameter (mm) and its organ, without its sign.

    A small faint one is seen by nobody, nor annotated: noise of 9 to 14 HU hides it.
    """
    faintest, strongest = kind.contrast
    faintest += min(max(PLAIN_DIAMETER - diameter, 0.0), EXTRA_CONTRAST)
    return faintest, min(strongest, BRIGHTER_AT_MOST) if sign > 0 else strongest


@dataclass(frozen=True)
class Axes:
    """Of an ellipsoid: orthonormal directions as rows, and lengths whose product is 1."""

    directions: Floats
    lengths: tuple[float, float, float]


@dataclass
class Growth:
    """A lesion or a cyst: where, how large, how bright, how long; its coverage once painted."""

    centre: Point
    diameter: float
    hu: float
    contrast: float
    lesion: bool
    margin: float
    irregularity: float
    axes: Axes
    box: Box | None = None
    coverage: Floats = field(default_factory=lambda: np.empty(0, np.float32))


def place_growths(
    kind: Kind, canvas: Canvas, organ: Floats, organ_hu: float, random: np.random.Generator
) -> list[Growth]:
    """Choose lesions and cysts inside the organ, apart from each other."""
    inside = organ > 0.9
    steps = (canvas.spacing[0], canvas.spacing[1], canvas.spacing[2] / FINE_SLICES)
    low_corner, high_corner = bounding_box(inside) or ((0, 0, 0), inside.shape)
    near = tuple(slice(max(a - 1, 0), b + 1) for a, b in zip(low_corner, high_corner, strict=True))
    deep = ndimage.distance_transform_edt(inside[near], sampling=steps)[inside[near]]
    candidates = np.argwhere(inside)
    sign = 1 if random.random() < kind.hyperdense else -1
    count = 1 + int(random.choice(len(kind.lesions), p=kind.lesions))
    low, high = kind.diameter
    diameters = [float(np.exp(random.uniform(math.log(low), math.log(high))))]
    least, most = map(math.log, FURTHER_DIAMETERS)
    diameters += [float(np.exp(random.uniform(least, most))) for _ in range(count - 1)]
    lesions = [(diameter, True) for diameter in diameters]
    cysts = [(float(random.uniform(8, 22)), False)] if random.random() < kind.cyst else []
    growths: list[Growth] = []
    for diameter, lesion in lesions + cysts:
        for attempt in range(40):
            size = diameter * (1 - 0.015 * attempt)  # a crowded organ gets smaller ones
            enough = deep >= min(0.35 * size, 0.9 * deep.max())
            voxel = candidates[enough][int(random.integers(int(enough.sum())))]
            x, y, z = (float(axis[i]) for axis, i in zip(canvas.axes, voxel, strict=True))
            if all(math.dist((x, y, z), other.centre) > 0.65 * (size + other.diameter) for other in growths):
                growths.append(_growth(kind, (x, y, z), size, lesion, sign, organ_hu, random))
                break
    return growths


def _growth(
    kind: Kind, centre: Point, size: float, lesion: bool, sign: int, organ_hu: float, random: np.random.Generator
) -> Growth:
    if lesion:
        contrast = sign * float(random.uniform(*contrasts(kind, size, sign)))
        margin, irregularity = float(random.uniform(2, 5)), float(random.uniform(0.12, 0.28))
        axes = _axes(float(random.uniform(*kind.elongation)), random)
        return Growth(centre, size, organ_hu + contrast, contrast, True, margin, irregularity, axes)
    hu = float(random.choice([random.uniform(5, 20), random.uniform(35, 65)]))  # clear, or with old blood
    return Growth(centre, size, hu, hu - organ_hu, False, 0.0, 0.03, _axes(1.0, random))


def _axes(elongation: float, random: np.random.Generator) -> Axes:
    """Longest, middle and shortest axis in random directions."""
    directions, _ = np.linalg.qr(random.normal(size=(3, 3)))
    return Axes(directions.astype(np.float32), (elongation, 1.0, 1 / elongation))


def paint_growth(canvas: Canvas, growth: Growth, bounds: Floats, random: np.random.Generator) -> None:
    """An ellipsoid whose radius varies smoothly with the direction; soft margin for lesions, sharp for cysts."""
    radius = growth.diameter / 2
    box = canvas.box(growth.centre, radius * 1.7 * growth.axes.lengths[0] + 6)
    x, y, z = (axis - np.float32(c) for axis, c in zip(canvas.grid(box), growth.centre, strict=True))
    offsets = [
        (x * across[0] + y * across[1] + z * across[2]) / np.float32(length)
        for across, length in zip(growth.axes.directions, growth.axes.lengths, strict=True)
    ]
    distance = np.sqrt(offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2) + np.float32(1e-3)
    direction = tuple(offset / distance for offset in offsets)
    surface = np.exp(growth.irregularity * waves(direction, 2.2, random, 10))
    width = math.hypot(canvas.edge, min(growth.margin, radius))
    coverage = canvas.soft(distance - radius * surface, width) * bounds[box]
    if growth.lesion and growth.diameter > 22:  # a softer core that stays within the stated contrast
        core = canvas.soft(distance - 0.45 * radius * surface, 4)
        canvas.paint(coverage, growth.hu + 3 - 9 * core, box)
    else:
        canvas.paint(coverage, growth.hu, box)
    growth.box, growth.coverage = box, coverage
