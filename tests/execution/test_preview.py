"""The picture shows the mask where it is, and the patient the right way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from benchmarks.common.errors import UserError
from benchmarks.data.volume import Volume
from benchmarks.execution.preview import MASK, NEGATIVE, POSITIVE, Shown, draw_preview
from benchmarks.prompting.prompts import Box, Click, Prompts


def shown(place: tuple[int, int, int], **changes: object) -> Shown:
    volume = Volume(np.zeros((40, 40, 20), np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
    mask = np.zeros(volume.shape, bool)
    mask[tuple(slice(p - 3, p + 4) for p in place)] = True
    values = {"volume": volume, "mask": mask, "prompts": Prompts((Click(place),)), "window": (-160.0, 240.0)}
    return Shown(**values | changes)  # type: ignore[arg-type]


def pixels(path: Path, colour: str) -> np.ndarray:
    """Rows and columns of the pixels of a colour."""
    picture = imread(path)[:, :, :3]
    return np.argwhere(np.abs(picture - to_rgb(colour)).max(axis=2) < 0.05)


def middles(found: np.ndarray, width: int) -> list[np.ndarray]:
    """Of what lies in the left, the middle and the right third of the picture."""
    parts = [found[(found[:, 1] >= k * width / 3) & (found[:, 1] < (k + 1) * width / 3)] for k in range(3)]
    return [part.mean(axis=0) for part in parts]


def test_right_is_left_and_front_is_up(tmp_path: Path) -> None:
    """A lesion in the patient's right front upper part, and one opposite: mirrored in all three planes."""
    places = []
    for name, place in (("a", (32, 32, 15)), ("b", (7, 7, 4))):
        path = draw_preview(shown(place), tmp_path / f"{name}.png")
        width = imread(path).shape[1]
        places.append(middles(pixels(path, MASK), width))
        clicked = middles(pixels(path, POSITIVE), width)
        for outline, click in zip(places[-1], clicked, strict=True):
            np.testing.assert_allclose(outline, click, atol=12)  # the click lies in the middle of the mask
    for first, second in zip(*places, strict=True):
        assert first[0] < second[0] - 40  # front, or head, is up
        assert first[1] < second[1] - 40  # right, or front, is on the left


def test_without_a_mask_and_a_click_there_is_a_picture(tmp_path: Path) -> None:
    empty = np.zeros((40, 40, 20), bool)
    path = draw_preview(shown((20, 20, 10), mask=empty, prompts=Prompts()), tmp_path / "a.png")
    assert len(pixels(path, MASK)) == 0
    away = Prompts((Click((20, 20, 10)), Click((22, 20, 10), False)))
    assert len(pixels(draw_preview(shown((20, 20, 10), prompts=away), tmp_path / "b.png"), NEGATIVE)) > 10


@pytest.mark.parametrize(
    ("prompts", "centre"),
    [
        (Prompts((Click((1, 2, 3), False), Click((4, 5, 6)))), (4, 5, 6)),
        (Prompts(box=Box((10, 10, 4), (21, 13, 9))), (15, 11, 6)),
        (Prompts(), (20, 20, 10)),
    ],
)
def test_where_the_planes_cross(prompts: Prompts, centre: tuple[int, int, int]) -> None:
    assert shown((20, 20, 10), prompts=prompts).centre == centre


def test_other_suffixes_and_places_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path / "a.jpg", r"a preview is a \.png"),
        (tmp_path / "file" / "a.png", "cannot be written"),
    ):
        with pytest.raises(UserError, match=message):
            draw_preview(shown((20, 20, 10)), path)
