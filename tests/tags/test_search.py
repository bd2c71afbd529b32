"""Views over a body, and the parts of their answer that are looked at."""

from __future__ import annotations

import numpy as np
import pytest

from tags.search import MOST_PARTS, parts_found, views_over
from tags.views import Answer, View


def answer_of(values: np.ndarray) -> Answer:
    """What one view of the whole grid says."""
    side = values.shape[0]
    return Answer(((View(((side - 1) / 2,) * 3, 1.0, side), values.astype(np.float32)),))


@pytest.mark.parametrize("step", [1.0, 1.5, 2.25])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_views_cover_a_box_from_end_to_end(step: float, overlap: float) -> None:
    low, high, side = (3, 10, 0), (200, 45, 300), 32
    views = views_over((low, high), step, side, overlap)
    covered = np.zeros((210, 60, 310), int)
    for view in views:
        start = view.start - (step - 1) / 2
        first, last = np.floor(start + 1e-9).astype(int), np.ceil(start + side * step - 1e-9).astype(int)
        x, y, z = (slice(max(a, 0), b) for a, b in zip(first, last, strict=True))
        covered[x, y, z] += 1
    assert covered[3:200, 10:45, 0:300].min() >= 1
    starts = np.unique([view.start[2] for view in views])
    assert np.diff(starts).max() <= side * step * (1 - overlap) + 1
    unit, first = (1, (side - 1) / 2 % 1) if step == 1 else (0.5, 0)
    assert all(((at - first) / unit).is_integer() for view in views for at in view.centre)


def test_parts_come_by_their_weight_with_their_likeliest_place() -> None:
    values = np.zeros((48, 48, 48))
    values[4:9, 4:9, 4:9] = 0.9  # 125 voxels: 112.5
    values[20:31, 20:31, 20:31] = 0.6  # 1331 voxels: 798.6
    values[40:47, 40:47, 40:47] = 0.8  # 343 voxels: 274.4
    values[30, 4, 4] = 1.0  # 1 voxel: 1.0
    values[10:14, 30:40, 30:40] = 0.5  # not above the threshold
    middles = np.array([[25, 25, 25], [43, 43, 43], [6, 6, 6], [30, 4, 4]])

    def places(share: float, step: float = 1.0) -> np.ndarray:
        return parts_found(answer_of(values), (48, 48, 48), step, 0.5, share)

    for share, number in ((1.0, 1), (0.3, 2), (0.1, 3), (0.0, 4)):
        found = places(share)
        assert len(found) == number
        assert np.abs(found - middles[:number]).max() <= 1  # the smoothed middle of a box is flat
    assert np.abs(places(0.05, step=2.0) - middles[:3]).max() < 2
    values[20, 20:31, 20:31] = 0.65  # a brighter face does not draw the place to the edge
    assert np.abs(places(1.0)[0] - 25).max() <= 3
    values[23:27, 26:30, 22:26] = 0.95  # a likelier spot does
    assert np.abs(places(1.0)[0] - [24.5, 27.5, 23.5]).max() <= 0.5
    assert parts_found(answer_of(0 * values), (48, 48, 48), 1.0, 0.5, 0.5).shape == (0, 3)


def test_of_many_parts_the_heaviest_are_kept() -> None:
    values = np.zeros((48, 48, 48))
    values[::4, ::4, ::4] = 0.9
    values[0, 0, 0] = 1.0
    found = parts_found(answer_of(values), (48, 48, 48), 1.0, 0.5, 0.5)
    assert len(found) == MOST_PARTS
    assert found[0].tolist() == [0, 0, 0]
