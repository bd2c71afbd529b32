"""One synthetic scan: a slim body with an organ of interest and its lesions, exposed as CT.

Edges are soft (partial volume), slices are averaged from finer ones, organs are textured, noise is correlated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.common.seeds import generator
from benchmarks.data.synthetic.abdomen import GENERATOR_VERSION, Abdomen, Kind
from benchmarks.data.synthetic.anatomy import paint_body, paint_neighbours, paint_organ
from benchmarks.data.synthetic.canvas import Canvas, Floats, Point
from benchmarks.data.synthetic.lesions import Growth, paint_growth, place_growths

PADDING = -1024


@dataclass(frozen=True)
class Phantom:
    """One synthetic scan: int16 HU and uint8 labels (x, y, z) in RAS+, spacing in mm, and what was put in."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    spacing: Point
    truth: dict[str, Any]


def draw(abdomen: Abdomen, seed: int, index: int, scale: float = 1.0) -> Phantom:
    """The phantom of one case, from the seed, the dataset and the index alone."""
    kind = abdomen.kind
    random = generator("phantom", GENERATOR_VERSION, abdomen.dataset, seed, index)
    in_plane = float(random.uniform(2.1, 2.45)) / scale
    slices = float(random.uniform(3.0, 5.0)) / scale
    body = (float(random.uniform(86, 97)), float(random.uniform(66, 74)))
    extent = float(random.uniform(118, 142))
    columns = math.ceil((2 * body[0] + 12) / in_plane)
    shape = (columns, columns, max(3, round(extent / slices)))
    spacing = (round(in_plane, 4), round(in_plane, 4), round(slices, 4))
    canvas = Canvas(shape, spacing)
    cavity = paint_body(canvas, body, random)
    paint_neighbours(canvas, cavity, body, kind, random)
    organ_hu = float(random.uniform(*kind.organ_hu))
    organ = paint_organ(abdomen.organ, canvas, cavity, body, organ_hu, random)
    growths = place_growths(kind, canvas, organ, organ_hu, random)
    for growth in growths:
        paint_growth(canvas, growth, organ if kind.within else cavity, random)
    return _expose(canvas, organ, growths, organ_hu, kind, random)


def _expose(
    canvas: Canvas,
    organ: Floats,
    growths: list[Growth],
    organ_hu: float,
    kind: Kind,
    random: np.random.Generator,
) -> Phantom:
    """Average the slices, add texture and noise, cut off the scanner's circle, draw the labels."""
    hu = canvas.to_scan(canvas.hu)
    organ = canvas.to_scan(organ)
    label = (organ > 0.5).astype(np.uint8)
    spacing = canvas.spacing
    hu += 4.0 * organ * _correlated(hu.shape, tuple(6.0 / s for s in spacing), random)
    found = []
    for growth in sorted(growths, key=lambda one: one.lesion):  # lesions are drawn over cysts
        coverage = np.zeros(canvas.shape, np.float32)
        assert growth.box is not None
        coverage[growth.box] = growth.coverage
        share = canvas.to_scan(coverage)
        mask = share > 0.5
        mask.flat[share.argmax()] = True  # an annotator marks at least the voxel that shows it best
        label[mask] = 2 if growth.lesion else kind.cyst_label
        found.append((growth, mask, share))
    texture = _correlated(hu.shape, tuple(4.0 / s for s in spacing), random)
    for growth, _, share in found:
        hu += (3.5 if growth.lesion else 0.0) * share * texture
    noise = float(random.uniform(9, 14))
    hu += noise * _correlated(hu.shape, (0.7, 0.7, 0.35), random)
    x, y, _ = canvas.grid()
    circle = np.broadcast_to(x**2 + y**2 > (0.5 * hu.shape[0] * spacing[0]) ** 2, hu.shape)
    image = np.rint(hu).clip(PADDING, 3071).astype(np.int16)
    image[circle] = PADDING
    growth_truth = [
        {
            "what": "lesion" if growth.lesion else "cyst",
            "diameter_mm": round(growth.diameter, 2),
            "contrast_hu": round(growth.contrast, 2),
            "centre_mm": [round(c, 2) for c in growth.centre],
            "voxels": int((mask & (label == (2 if growth.lesion else kind.cyst_label))).sum()),
        }
        for growth, mask, _ in found
    ]
    truth = {"organ_hu": round(organ_hu, 2), "noise_hu": round(noise, 2), "growths": growth_truth[::-1]}
    return Phantom(image, label, spacing, truth)


def _correlated(shape: tuple[int, ...], sigma: Sequence[float], random: np.random.Generator) -> Floats:
    """Gaussian noise of unit deviation, correlated over `sigma` voxels."""
    noise = ndimage.gaussian_filter(random.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return np.asarray(noise / noise.std())
