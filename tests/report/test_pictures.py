"""A picture is unpacked here by other means than the page's, and compared with what went in."""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.results.report.pictures import (
    BYTES_PER_VOXEL,
    LARGEST_BYTES,
    CasePicture,
    Layer,
    Prompted,
    bytes_of_each,
    crop_box,
    encoded,
    reduction,
)

LARGE = LARGEST_BYTES


def unpacked(content: dict[str, Any]) -> list[np.ndarray]:
    """Reference and layers, as booleans."""
    shape = content["shape"]
    voxels = math.prod(shape)
    raw = np.frombuffer(zlib.decompress(base64.b64decode(content["masks"]), wbits=-15), np.uint8)
    parts = raw.reshape(len(content["layers"]) + 1, -1)
    return [
        np.unpackbits(np.bitwise_xor.reduce(parts[: place + 1], axis=0))[:voxels].reshape(shape).astype(bool)
        for place in range(len(parts))
    ]


def grey(content: dict[str, Any]) -> np.ndarray:
    """The mosaic as an array (x, y, z)."""
    x, y, z = content["shape"]
    image = Image.open(io.BytesIO(base64.b64decode(content["scan"].partition(",")[2]))).convert("L")
    sheet = np.asarray(image)
    columns = content["columns"]
    slices = [
        sheet[(n // columns) * y : (n // columns + 1) * y, (n % columns) * x : (n % columns + 1) * x] for n in range(z)
    ]
    return np.stack(slices, axis=-1).transpose(1, 0, 2)


def picture(
    shape: tuple[int, int, int] = (23, 17, 9), spacing: tuple[float, float, float] = (1, 1, 3), **more: Any
) -> CasePicture:
    chance = np.random.default_rng(3)
    ramp = np.add.outer(np.add.outer(np.arange(shape[0]) * 4, np.arange(shape[1]) * 2), np.arange(shape[2]) * 5)
    layers = tuple(
        Layer("iterative", "m", step, chance.random(shape) > 0.6, Prompted(clicks=((12, 13, 14, 1),)))
        for step in (1, 2, 3)
    )
    scan = ramp.astype(np.float32) - 60
    known: dict[str, Any] = {"scan": scan, "window": (-60.0, 140.0), "layers": layers}
    return CasePicture("d", "c", "t", (10, 10, 10), spacing, chance.random(shape) > 0.5, **known | more)


def test_every_mask_comes_back_whole() -> None:
    one = picture()
    content = json.loads(json.dumps(encoded(one, LARGE)))
    masks = unpacked(content)
    np.testing.assert_array_equal(masks[0], one.reference)
    for layer, mask in zip(one.layers, masks[1:], strict=True):
        np.testing.assert_array_equal(mask, layer.mask)


def test_the_scan_comes_back_in_place() -> None:
    """Each axis rises at its own rate, so that a turned or mirrored axis would show; WebP is lossy."""
    one = picture(layers=())
    content = encoded(one, LARGE)
    low, high = content["range"]
    assert (low, high) == (-210.0, 290.0)  # three quarters of the window on either side
    back = grey(content) / 255 * (high - low) + low
    assert one.scan is not None
    assert np.abs(back - one.scan).mean() < 4


def test_no_voxel_of_a_scan_where_scans_are_left_out() -> None:
    content = encoded(picture(scan=None), LARGE)
    assert content["scan"] is None
    assert "range" not in content


def test_a_click_stays_on_its_voxel_when_the_picture_is_reduced() -> None:
    """The middle of a block of voxels is where a viewer must draw a click on any of them, to half a block."""
    one = picture((24, 24, 8), (1, 1, 1), layers=(Layer("p", "m", 1, np.zeros((24, 24, 8), bool), Prompted(
        clicks=((10, 10, 10, 1), (33, 22, 17, 0)), box=((10, 10, 10), (34, 34, 18)))),))  # fmt: skip
    whole = encoded(one, LARGE)
    assert whole["layers"][0]["clicks"] == [[0, 0, 0, 1], [23, 12, 7, 0]]
    assert whole["layers"][0]["box"] == [[-0.5, -0.5, -0.5], [23.5, 23.5, 7.5]]
    small = encoded(one, 150)
    assert small["reduction"] == [2, 2, 2]
    assert small["shape"] == [12, 12, 4]
    assert small["spacing"] == [2, 2, 2]
    assert small["layers"][0]["clicks"] == [[-0.25, -0.25, -0.25, 1], [11.25, 5.75, 3.25, 0]]
    assert small["layers"][0]["box"] == [[-0.5, -0.5, -0.5], [11.5, 11.5, 3.5]]


def test_a_reduced_mask_is_that_of_the_majority() -> None:
    reference = np.zeros((32, 32, 8), bool)
    reference[:16, :16, :] = True
    reference[20, 20, 0] = True  # a quarter of what becomes one voxel
    reference[24:26, 24, 0] = True  # half of one
    one = CasePicture("d", "c", "t", (0, 0, 0), (1, 1, 3), reference, None, (0, 1))
    content = encoded(one, 600)
    assert content["reduction"] == [2, 2, 1]
    expected = np.zeros((16, 16, 8), bool)
    expected[:8, :8, :] = True
    expected[12, 12, 0] = True
    np.testing.assert_array_equal(unpacked(content)[0], expected)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((200, 180, 40), (0.7, 0.7, 5.0)), ((90, 90, 90), (1, 1, 1)), ((1, 1, 500), (1, 1, 1))]
)
@pytest.mark.parametrize("size", [20_000, 100_000])
def test_a_crop_is_reduced_where_it_is_finest_and_no_farther_than_needed(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], size: int
) -> None:
    factors = reduction(shape, spacing, size)
    voxels = math.prod(math.ceil(n / f) for n, f in zip(shape, factors, strict=True))
    assert voxels * BYTES_PER_VOXEL <= size
    reduced = [mm * f for mm, f in zip(spacing, factors, strict=True)]
    for axis, factor in enumerate(factors):
        if factor > 1:  # before its last step it was the finest
            before = reduced[axis] - spacing[axis]
            assert all(before <= 1.01 * mm or shape[i] <= factors[i] for i, mm in enumerate(reduced))


def test_masks_that_nothing_makes_small_leave_room_for_the_scan() -> None:
    """Noise cannot be deflated: 30 masks of it take 30 bits a voxel."""
    chance = np.random.default_rng(0)
    layers = tuple(Layer("p", "m", step, chance.random((40, 40, 20)) > 0.5) for step in range(30))
    content = encoded(picture((40, 40, 20), (1, 1, 1), layers=layers), 30_000)
    assert len(content["masks"]) <= 24_000
    assert len(json.dumps(content)) <= 33_000
    assert min(content["reduction"]) >= 2


def test_the_bytes_of_a_page_are_shared_out() -> None:
    assert bytes_of_each(300, 36.0) == 120_000
    assert bytes_of_each(1, 36.0) == LARGEST_BYTES


def test_the_crop_holds_the_target_the_clicks_and_a_margin() -> None:
    mask = np.zeros((60, 60, 30), bool)
    mask[20:25, 30:33, 10:12] = True
    low, high = crop_box(mask, [(40, 31, 11, 1)], (1.0, 2.0, 5.0), margin_mm=10.0)
    assert low == (10, 25, 8)
    assert high == (51, 38, 14)
    assert crop_box(np.zeros((5, 6, 7), bool), [], (1, 1, 1)) == ((0, 0, 0), (5, 6, 7))
    assert crop_box(np.zeros((50, 50, 50), bool), [(0, 25, 49, 0)], (1, 1, 1), 3.0) == ((0, 22, 46), (4, 29, 50))
