"""What the case viewer shows of one case: a reduced crop of the scan, masks as bits, prompts. Arrays in, text out.

Everything is made small here, because a page holds hundreds of cases: the scan becomes a mosaic of its axial slices in
8 bits (WebP), and each mask is kept as its difference from the one before, all of them deflated together.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
Corner = tuple[int, int, int]
Step = tuple[str, str, int]
"""Protocol, method, number of the step."""

QUALITIES = (80, 65, 50, 35, 20)
"""Of the WebP mosaic; the first that fits the bytes of a case is taken."""

BYTES_PER_VOXEL = 0.15
"""Of a CT crop at a middling quality, masks included; decides how far a crop is reduced."""

SMALLEST_BYTES, LARGEST_BYTES = 20_000, 400_000
"""Of one case: below, nothing can be made out any more; above, the eye gains nothing."""

SHARE_OF_MASKS = 0.8
"""Of the bytes of a case, at most; many methods after many prompts take more than the scan."""

WIDER = 0.75
"""So many window widths are kept on each side of the window of the target, for the other windows of the viewer."""


@dataclass(frozen=True)
class Prompted:
    """What a method was given by one step, in voxels of the scan.

    Attributes:
        clicks: x, y, z and 1 for a positive, 0 for a negative click, in the order in which they were made.
        box: its corners, `low` inclusive, `high` exclusive.
        text: a text prompt, if there was one.
    """

    clicks: tuple[tuple[int, int, int, int], ...] = ()
    box: tuple[Corner, Corner] | None = None
    text: str = ""


@dataclass(frozen=True)
class Layer:
    """The mask of one method after one step of a protocol, inside the crop.

    Attributes:
        outside: voxels of the mask that lie outside the crop.
    """

    protocol: str
    method: str
    step: int
    mask: BoolArray
    prompted: Prompted = Prompted()
    outside: int = 0


@dataclass(frozen=True)
class CasePicture:
    """A crop of one case: reference, masks and, if it may be shown, the scan; all on one grid, axes (x, y, z) in RAS+.

    Attributes:
        low: the first voxel of the crop in the scan.
        spacing: mm of a voxel of the scan.
        scan: intensities (HU for CT), or None to show none.
        modality: such as "CT"; HU windows are offered for that only.
        window: lower and upper end of what is looked at for this target.
        gaps: steps that were asked and have no mask to be shown; the mask before such a step is not that of the step.
        notes: what a reader must know, such as a mask that is not on the disk.
    """

    dataset: str
    case: str
    target: str
    low: Corner
    spacing: tuple[float, float, float]
    reference: BoolArray
    scan: NDArray[np.float32] | None
    window: tuple[float, float]
    layers: tuple[Layer, ...] = ()
    modality: str = "CT"
    gaps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = field(default=())


def crop_box(
    mask: BoolArray, points: Iterable[Sequence[int]], spacing: Sequence[float], margin_mm: float = 15.0
) -> tuple[Corner, Corner]:
    """The part of a scan that is shown: around a mask and the clicks, the whole scan if there is neither.

    Returns:
        Its corners, `low` inclusive, `high` exclusive.
    """
    found = [np.asarray(point)[:3] for point in points]
    if mask.any():
        for axis in range(3):
            across = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            found += [np.where(np.arange(3) == axis, end, -1) for end in (across[0], across[-1])]
    if not found:
        return (0, 0, 0), (mask.shape[0], mask.shape[1], mask.shape[2])
    known = np.ma.masked_less(np.array(found), 0)
    margin = np.ceil(margin_mm / np.asarray(spacing)).astype(int)
    low = np.maximum(known.min(axis=0).filled(0) - margin, 0)
    high = np.minimum(known.max(axis=0).filled(0) + 1 + margin, mask.shape)
    return _corner(low), _corner(high)


def bytes_of_each(cases: int, megabytes: float) -> int:
    """How much of a page of that size one of so many cases may take."""
    return int(min(max(megabytes * 1e6 / max(cases, 1), SMALLEST_BYTES), LARGEST_BYTES))


def encoded(picture: CasePicture, size: int) -> dict[str, Any]:
    """The picture as JSON-like values of about `size` bytes; a crop that is too large for them is reduced.

    Returns:
        shape, spacing (mm) and reduction of the grid that is shown; modality; range and window (intensities); scan (a
        mosaic of axial slices as data URL, `columns` beside each other, or None); masks (base64 of deflated bits: the
        reference, then a layer each, every mask as its difference from the one before); layers; gaps; notes.
    """
    factors, shape, packed = _fitting_masks(picture, size)
    result: dict[str, Any] = {
        "shape": list(shape),
        "spacing": [round(mm * factor, 4) for mm, factor in zip(picture.spacing, factors, strict=True)],
        "reduction": list(factors),
        "modality": picture.modality,
        "window": [float(end) for end in picture.window],
        "scan": None,
        "masks": packed,
        "layers": [_layer(layer, picture.low, factors) for layer in picture.layers],
        "gaps": [{"protocol": protocol, "method": method, "step": step} for protocol, method, step in picture.gaps],
        "notes": list(picture.notes),
    }
    if picture.scan is not None:
        low, high = _range_of(picture.window)
        columns = max(1, math.ceil(math.sqrt(shape[2] * shape[1] / shape[0])))
        grey = _eight_bits(_reduced_scan(picture.scan, factors), low, high)
        room = size - len(packed)
        result |= {"range": [low, high], "columns": columns, "scan": _mosaic(grey, columns, room)}
    return result


def _fitting_masks(picture: CasePicture, size: int) -> tuple[Corner, tuple[int, ...], str]:
    """Reduction, shape of the grid, and masks as text, reduced until these leave room for the scan."""
    room, whole = size, (picture.reference, *(layer.mask for layer in picture.layers))
    while True:
        factors = reduction(picture.reference.shape, picture.spacing, room)
        masks = [_reduced_mask(one, factors) for one in whole]
        packed = packed_masks(masks)
        if len(packed) <= SHARE_OF_MASKS * size or masks[0].size == 1:
            return factors, masks[0].shape, packed
        room = int(0.7 * min(room, BYTES_PER_VOXEL * masks[0].size))


def reduction(shape: Sequence[int], spacing: Sequence[float], size: int) -> Corner:
    """By how much each axis is reduced: the finest first, alike ones together, until it fits into so many bytes."""
    factors = [1, 1, 1]
    while (voxels := math.prod(math.ceil(n / f) for n, f in zip(shape, factors, strict=True))) > 1:
        if voxels * BYTES_PER_VOXEL <= size:
            break
        steps = [mm * f if n > f else math.inf for mm, f, n in zip(spacing, factors, shape, strict=True)]
        factors = [f + (step <= 1.01 * min(steps)) for f, step in zip(factors, steps, strict=True)]
    return _corner(factors)


def packed_masks(masks: Sequence[BoolArray]) -> str:
    """Masks of one shape as text: bits in C order, each mask as what differs from the one before, deflated, base64."""
    before = np.zeros_like(masks[0])
    parts = []
    for mask in masks:
        parts.append(np.packbits(mask ^ before).tobytes())
        before = mask
    deflate = zlib.compressobj(9, wbits=-15)
    return base64.b64encode(deflate.compress(b"".join(parts)) + deflate.flush()).decode()


def _reduced_mask(mask: BoolArray, factors: Corner) -> BoolArray:
    """A voxel of the result is in if half of those that it stands for are."""
    if factors == (1, 1, 1):
        return mask
    return np.asarray(_blocks(mask.astype(np.float32), factors) >= 0.5)


def _reduced_scan(scan: NDArray[np.float32], factors: Corner) -> NDArray[np.float32]:
    return scan if factors == (1, 1, 1) else _blocks(scan, factors)


def _blocks(values: NDArray[np.float32], factors: Corner) -> NDArray[np.float32]:
    """The mean of each block; those at the end are filled up with their last voxels."""
    padded = np.pad(values, [(0, -n % f) for n, f in zip(values.shape, factors, strict=True)], mode="edge")
    x, y, z = (n // f for n, f in zip(padded.shape, factors, strict=True))
    split = padded.reshape(x, factors[0], y, factors[1], z, factors[2])
    return np.asarray(split.mean(axis=(1, 3, 5), dtype=np.float32))


def _layer(layer: Layer, low: Corner, factors: Corner) -> dict[str, Any]:
    def place(point: Sequence[float]) -> list[float]:
        """The centre of a voxel of the scan, in voxels of the picture, of which the first has its centre at 0."""
        return [round((p - first + 0.5) / f - 0.5, 2) for p, first, f in zip(point, low, factors, strict=True)]

    prompted = layer.prompted
    content: dict[str, Any] = {"protocol": layer.protocol, "method": layer.method, "step": layer.step}
    if layer.outside:
        content["outside"] = layer.outside
    if prompted.clicks:
        content["clicks"] = [[*place(click[:3]), click[3]] for click in prompted.clicks]
    if prompted.box is not None:
        content["box"] = [place([n - 0.5 for n in prompted.box[0]]), place([n - 0.5 for n in prompted.box[1]])]
    if prompted.text:
        content["text"] = prompted.text
    return content


def _range_of(window: tuple[float, float]) -> tuple[float, float]:
    wider = WIDER * (window[1] - window[0])
    return window[0] - wider, window[1] + wider


def _eight_bits(scan: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    return np.asarray(np.clip((scan - low) / (high - low) * 255, 0, 255).round().astype(np.uint8))


def _mosaic(grey: NDArray[np.uint8], columns: int, room: int) -> str:
    """Axial slices beside and below each other, x to the right and y down in each, as a data URL of WebP."""
    from PIL import Image

    x, y, z = grey.shape
    rows = -(-z // columns)
    sheet = np.zeros((rows * y, columns * x), np.uint8)
    for number in range(z):
        row, column = divmod(number, columns)
        sheet[row * y : (row + 1) * y, column * x : (column + 1) * x] = grey[:, :, number].T
    text = ""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "WEBP", quality=quality, method=4)
        text = base64.b64encode(buffer.getvalue()).decode()
        if len(text) <= room:
            break
    return f"data:image/webp;base64,{text}"


def _corner(values: Iterable[Any]) -> Corner:
    x, y, z = (int(value) for value in values)
    return x, y, z
