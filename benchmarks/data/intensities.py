"""Scans whose intensities are no Hounsfield units, put on one scale.

The bench and most of its contestants speak of Hounsfield units: windows, least differences, the clipping of published
networks. A scan of another kind is therefore put, linearly and by itself, on a scale that has its range where the
soft-tissue window of a CT lies (`RANGE`). Nothing is clipped: what is brighter than the range stays brighter.

The percentiles are those that MedSAM and the CVPR challenges take for MR (Ma et al., Nature Communications 2024,
"Segment anything in medical images", Methods: 0.5 and 99.5 of the foreground). Ours leave out the padding: the value
that all eight corners have, if there is one.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError, nearest_name

CT, MR, PET, SUV, OTHER = "CT", "MR", "PET", "SUV", "other"
MODALITIES = (CT, MR, PET, SUV, OTHER)
"""SUV is a PET in body-weight SUV, a quantity, PET one in other units."""

INTENSITIES_VERSION = 1
"""Raised when a scan that is no CT would be read as other numbers."""

RANGE = (-160.0, 240.0)
"""Where the range of a scan that is no CT comes to lie; also the window that a target has unless it names another."""

SUV_RANGE = (0.0, 10.0)
PERCENTILES = (0.5, 99.5)
DARKEST_EXPECTED_HU = -200.0  # a CT without fat or air at all is none, or has lost its offset
MAX_SAMPLE = 4_000_000  # voxels that percentiles are taken of

_WORDS = {
    MR: {"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t1n", "t2", "t2w", "t2f", "flair", "dwi", "adc", "dce"},
    CT: {"ct", "cbct"},
    PET: {"pt", "pet"},
    SUV: {"suv", "suvbw"},
}


def modality_of(text: str) -> str:
    """The modality that the words of a `dataset.json` mean, such as "CT", "FLAIR" or "T1 MRI"; else `OTHER`.

    As in nnU-Net only the word CT stands for Hounsfield units.
    """
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    for modality in (SUV, CT, MR, PET):
        if words & _WORDS[modality]:
            return modality
    return OTHER


def named_modality(text: str) -> str:
    """The modality of that name, whatever its capitals. Raises UserError with the nearest name."""
    for modality in MODALITIES:
        if modality.lower() == text.strip().lower():
            return modality
    raise UserError(f"unknown modality '{text}'; {nearest_name(text, MODALITIES)}")


def on_common_scale(values: NDArray[np.float32], modality: str) -> NDArray[np.float32]:
    """A scan on the common scale; Hounsfield units stay as they are.

    Args:
        values: finite; changed in place unless the modality is CT.
    """
    if modality == CT:
        return values
    low, high = SUV_RANGE if modality == SUV else intensity_range(values)
    values -= np.float32(low)
    values *= np.float32((RANGE[1] - RANGE[0]) / (high - low))
    values += np.float32(RANGE[0])
    return values


def intensity_range(values: NDArray[Any]) -> tuple[float, float]:
    """The 0.5 and the 99.5 percentile of what is not padding.

    Of a volume with more than `MAX_SAMPLE` voxels every n-th counts. Without two different values the range is one.
    """
    flat = values.ravel()
    sample = flat[:: max(1, flat.size // MAX_SAMPLE)]
    corners = {float(values[place]) for place in itertools.product((0, -1), repeat=3)}
    if len(corners) == 1:
        inside = sample[sample != corners.pop()]
        sample = inside if inside.size else sample
    low, high = (float(edge) for edge in np.percentile(sample, PERCENTILES))
    if low == high:
        low, high = float(flat.min()), float(flat.max())
    return (low, high) if low < high else (low, low + 1.0)


def said_of(modality: str) -> str:
    """What a reader must know of the intensities, in a line; empty for CT."""
    scale = f"{RANGE[0]:g} to {RANGE[1]:g}"
    if modality == CT:
        return ""
    if modality == SUV:
        return f"PET in SUV: SUV {SUV_RANGE[0]:g} to {SUV_RANGE[1]:g} as {scale}; no Hounsfield units"
    low, high = PERCENTILES
    return f"{modality}: each scan's {low:g} and {high:g} percentiles as {scale}; no Hounsfield units"
