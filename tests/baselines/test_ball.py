"""The ball against closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from baselines.ball.method import ball
from baselines.ball.segmenter import BallSegmenter, lesion_radius_mm
from benchmarks.common.errors import UserError
from benchmarks.contestants import Budget, Session, Target
from benchmarks.data.dataset import Case
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Box, Click, Prompts

SPACING = (0.8, 1.0, 2.5)
TARGET = Target(name="t", organ="", lesion="tumor", labels=(2,))


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = SPACING) -> Volume:
    return Volume(np.zeros(shape, np.float32), np.diag([*spacing, 1.0]))


def opened(radius_mm: float, volume: Volume) -> Session:
    return BallSegmenter(radius_mm).open(volume, TARGET)


def sphere(shape: tuple[int, int, int], centre: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    """Independent of the code under test: one dense grid of mm coordinates."""
    mm = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, SPACING, strict=True)], indexing="ij"))
    return np.linalg.norm(mm - (np.array(centre) * SPACING)[:, None, None, None], axis=0) <= radius_mm


def write_case(folder: Path, name: str, label: np.ndarray) -> Case:
    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])  # stored right to left, unlike the bench's RAS+
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), path)
    return Case("toy", name, image=folder / "no-such-image.nii.gz", label=path)


def test_volume_of_a_ball_is_the_closed_form() -> None:
    mask = opened(15.0, grid((60, 50, 24))).segment(Prompts(clicks=(Click((30, 25, 12)),)))
    assert mask.sum() * np.prod(SPACING) == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)


@pytest.mark.parametrize("centre", [(30, 25, 12), (0, 0, 0), (59, 3, 23)])
def test_ball_equals_a_dense_computation_also_at_the_border(centre: tuple[int, int, int]) -> None:
    mask = opened(11.3, grid((60, 50, 24))).segment(Prompts(clicks=(Click(centre),)))
    assert np.array_equal(mask, sphere((60, 50, 24), centre, 11.3))


def test_two_clicks_give_the_union_and_a_negative_click_the_nearer_half() -> None:
    shape = (60, 50, 24)
    session = opened(8.0, grid(shape))
    a, b = (20, 25, 12), (40, 25, 12)
    both = session.segment(Prompts(clicks=(Click(a), Click(b))))
    assert np.array_equal(both, sphere(shape, a, 8.0) | sphere(shape, b, 8.0))
    c = (24, 25, 12)  # the border between a and c is the plane x = 22
    cut = session.segment(Prompts(clicks=(Click(a), Click(c, positive=False))))
    expected = sphere(shape, a, 8.0)
    expected[22:] = False
    assert np.array_equal(cut, expected)


def test_box_gives_the_inscribed_ellipsoid() -> None:
    box = Box((10, 5, 2), (50, 35, 20))
    mask = opened(3.0, grid((60, 50, 24))).segment(Prompts(box=box))
    sides = (40 * SPACING[0], 30 * SPACING[1], 18 * SPACING[2])
    assert mask.sum() * np.prod(SPACING) == pytest.approx(np.pi / 6 * np.prod(sides), rel=0.02)
    inside = np.argwhere(mask)
    assert tuple(inside.min(0)) == box.low
    assert tuple(inside.max(0) + 1) == box.high


def test_box_cut_by_the_border() -> None:
    mask = opened(3.0, grid((20, 20, 10))).segment(Prompts(box=Box((-10, 0, 0), (10, 20, 10))))
    assert mask[0].any()
    assert not mask[10:].any()
    with pytest.raises(UserError, match="outside the volume"):
        opened(3.0, grid((20, 20, 10))).segment(Prompts(box=Box((20, 0, 0), (25, 20, 10))))


def test_click_outside_the_volume_and_missing_prompt_are_user_errors() -> None:
    session = opened(3.0, grid((20, 20, 10)))
    with pytest.raises(UserError, match=r"\(20, 0, 0\)"):
        session.segment(Prompts(clicks=(Click((20, 0, 0)),)))
    with pytest.raises(UserError, match="positive click or a box"):
        session.segment(Prompts(clicks=(Click((1, 1, 1), positive=False),)))


def test_fit_takes_the_median_of_the_largest_lesion(tmp_path: Path) -> None:
    shape = (60, 50, 24)
    radii = (5.0, 8.0, 14.0)
    cases = []
    for index, radius in enumerate(radii):
        label = np.where(sphere(shape, (30, 25, 12), radius), 2, 1)  # 1 is organ, not target
        label[:2, :2, :2] = 2  # a second, smaller lesion that must not count
        cases.append(write_case(tmp_path, f"c{index}", label))
    cases.append(write_case(tmp_path, "healthy", np.ones(shape)))
    folder = tmp_path / "out"
    folder.mkdir()
    figures = BallSegmenter().fit(cases, TARGET, Budget(minutes=1), folder, seed=0)
    assert figures["radius_mm"] == pytest.approx(8.0, rel=0.03)
    assert figures["cases_measured"] == 3
    fresh = ball.build()
    assert isinstance(fresh, BallSegmenter)
    fresh.load(folder)
    assert fresh.radius_mm == figures["radius_mm"]
    for case, radius in zip(cases, radii, strict=False):
        assert lesion_radius_mm(case, TARGET) == pytest.approx(radius, rel=0.06)


def test_no_lesion_no_checkpoint_and_a_broken_one_are_user_errors(tmp_path: Path) -> None:
    case = write_case(tmp_path, "healthy", np.ones((4, 4, 4)))
    with pytest.raises(UserError, match="none of the 1 training cases"):
        BallSegmenter().fit([case], TARGET, Budget(), tmp_path, seed=0)
    with pytest.raises(UserError, match="train 'ball' first"):
        BallSegmenter().load(tmp_path)
    with pytest.raises(UserError, match="no radius yet"):
        BallSegmenter().open(grid((4, 4, 4)), TARGET)
    for broken in ("{", "[]", json.dumps({"radius_mm": -1}), json.dumps({"radius_mm": "nan"})):
        (tmp_path / "ball.json").write_text(broken)
        with pytest.raises(UserError, match="ball"):
            BallSegmenter().load(tmp_path)
