"""Prompts in JSON: world mm by nibabel's own arithmetic, and back to the same voxels under odd affines."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from benchmarks.common.errors import UserError
from benchmarks.data.volume import Volume, read_volume
from benchmarks.prompting.prompts import Box, Click, PromptKind, Prompts, from_json, to_json


def volume(affine: np.ndarray, shape: tuple[int, int, int] = (20, 17, 9)) -> Volume:
    return Volume(np.zeros(shape, np.float32), affine)


def oblique(spacing: list[float], angles: list[float], origin: list[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    return affine


PLAIN = oblique([0.8, 0.9, 5.0], [0, 0, 0], [-120.5, 30.25, -900])
FULL = Prompts(
    clicks=(Click((3, 16, 8)), Click((0, 0, 0), positive=False)),
    box=Box((1, 2, 3), (2, 17, 9)),
    mask=np.random.default_rng(0).random((20, 17, 9)) < 0.3,
    text="kidney tumor",
)


def mask_of(**changed: object) -> dict[str, object]:
    return {"shape": [20, 17, 9], "affine": PLAIN.tolist(), "runs": [], **changed}


def assert_same(a: Prompts, b: Prompts) -> None:
    assert (a.clicks, a.box, a.text) == (b.clicks, b.box, b.text)
    assert (a.mask is None) == (b.mask is None)
    if a.mask is not None:
        np.testing.assert_array_equal(a.mask, b.mask)


@given(
    spacing=st.lists(st.floats(0.1, 8), min_size=3, max_size=3),
    angles=st.lists(st.floats(-40, 40), min_size=3, max_size=3),
    origin=st.lists(st.floats(-2000, 2000), min_size=3, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_round_trip_under_odd_affines(spacing: list[float], angles: list[float], origin: list[float]) -> None:
    scan = volume(oblique(spacing, angles, origin))
    written = json.loads(json.dumps(to_json(FULL, scan)))
    assert_same(from_json(written, scan), FULL)


def test_mm_are_those_of_nibabel_and_belong_to_the_scan_not_to_the_file(tmp_path) -> None:
    """The same scan stored in two axis orders: prompts written for one are read for the other."""
    affine = oblique([0.7, 0.8, 3.0], [8, -5, 12], [-100, 40, -300])
    image = nib.Nifti1Image(np.arange(20 * 17 * 9, dtype=np.int16).reshape(20, 17, 9), affine)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("PSL"))
    nib.save(image, tmp_path / "a.nii.gz")
    nib.save(turned, tmp_path / "b.nii.gz")
    one, other = read_volume(tmp_path / "a.nii.gz"), read_volume(tmp_path / "b.nii.gz")
    prompts = Prompts(clicks=(Click((3, 16, 8)),), box=Box((1, 2, 3), (5, 17, 9)))
    written = to_json(prompts, one)
    np.testing.assert_allclose(written["clicks"][0]["mm"], nib.affines.apply_affine(affine, (3, 16, 8)), atol=1e-3)
    assert_same(from_json(written, other), prompts)


def test_what_a_user_writes_by_hand() -> None:
    scan = volume(PLAIN)
    prompts = from_json({"version": 1, "clicks": [{"mm": [-118.2, 30.6, -884]}]}, scan)
    assert prompts.clicks == (Click((3, 0, 3)),)
    assert prompts.kinds == {PromptKind.CLICK}
    lps = from_json({"version": 1, "space": "LPS", "clicks": [{"mm": [118.2, -30.6, -884]}]}, scan)
    assert lps == prompts
    box = from_json({"version": 1, "box": {"from_mm": [-110, 40, -890], "to_mm": [-118, 31, -870]}}, scan).box
    assert box == Box((3, 1, 2), (14, 12, 7))
    assert from_json({"version": 1}, scan) == Prompts()
    assert from_json({"version": 1, "text": "liver tumor"}, scan).text == "liver tumor"


@pytest.mark.parametrize("fill", [False, True])
def test_an_empty_and_a_full_mask_survive(fill: bool) -> None:
    scan = volume(PLAIN)
    assert_same(
        from_json(to_json(Prompts(mask=np.full(scan.shape, fill)), scan), scan),
        Prompts(mask=np.full(scan.shape, fill)),
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "'version' must be 1"),
        ({"version": 2}, "'version' must be 1, not 2"),
        ({"version": True}, "'version' must be 1"),
        ({"version": 1, "click": []}, "did you mean 'clicks'"),
        ({"version": 1, "space": "RPI"}, "unknown space"),
        ({"version": 1, "text": " "}, "'text' must be words"),
        ({"version": 1, "clicks": {"mm": [0, 0, 0]}}, "must be a list"),
        ({"version": 1, "clicks": [[1, 2, 3]]}, "click 1: an object"),
        ({"version": 1, "clicks": [{"mm": [-118, 31, -880], "postive": True}]}, "did you mean 'positive'"),
        ({"version": 1, "clicks": [{"mm": [-118, 31, -880], "positive": 1}]}, "must be true or false"),
        ({"version": 1, "clicks": [{}]}, "3 finite numbers"),
        ({"version": 1, "clicks": [{"mm": [1, 2]}]}, "3 finite numbers"),
        ({"version": 1, "clicks": [{"mm": "abc"}]}, "3 finite numbers"),
        ({"version": 1, "clicks": [{"mm": [1, 2, "x"]}]}, "3 finite numbers"),
        ({"version": 1, "clicks": [{"mm": [1, 2, float("nan")]}]}, "3 finite numbers"),
        (
            {"version": 1, "clicks": [{"mm": [-118, 31, -880]}, {"mm": [0, 0, 0]}]},
            "click 2.*outside the volume",
        ),
        ({"version": 1, "box": {"from_mm": [-118, 31, -880]}}, "box, 'to_mm'"),
        ({"version": 1, "box": {"from_mm": [-118, 31, -880], "to_mm": [0, 0, 0]}}, "box, 'to_mm'.*outside"),
        ({"version": 1, "mask": mask_of(shape=[1, 1, 1])}, "another grid"),
        (
            {"version": 1, "mask": mask_of(affine=np.eye(4).tolist())},
            "another grid",
        ),
        (
            {"version": 1, "mask": mask_of(runs=[3])},
            "even number",
        ),
        (
            {"version": 1, "mask": mask_of(runs=[3059, 2])},
            "beyond",
        ),
        ([], "prompts: an object"),
    ],
)
def test_a_mistake_is_one_clear_line(wrong, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_json(wrong, volume(PLAIN))
    assert "\n" not in str(caught.value)


def test_a_point_outside_is_told_where_the_volume_lies() -> None:
    with pytest.raises(UserError, match=r"\(-120\.5, 30\.2, -900\.0\) to \(-105\.3, 44\.6, -860\.0\)"):
        from_json({"version": 1, "clicks": [{"mm": [0, 0, 0]}]}, volume(PLAIN))
