"""What a person types becomes the voxel that the person meant, whatever the axes of the file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.common.errors import UserError
from benchmarks.data.volume import Volume, read_volume
from benchmarks.prompting.given import GivenBox, GivenPrompts, Point, parse_box, parse_point
from benchmarks.prompting.prompts import Click

FLIPS = [(1, 1, 1), (-1, 1, 1), (1, -1, -1)]
ORDERS = list(itertools.permutations(range(3)))[::2]


@pytest.fixture(params=itertools.product(FLIPS, ORDERS), ids=str)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A scan in which every voxel has a value of its own, its axes turned round and exchanged."""
    flips, order = request.param
    affine = np.eye(4)
    affine[:3, :3] = (np.diag((0.8, 1.1, 2.5)) * flips)[:, order]
    affine[:3, 3] = (10.0, -20.0, 30.0)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7), affine), path)
    return path


def test_voxels_are_counted_as_the_file_stores_them(stored: Path) -> None:
    """Against nibabel's array: the clicked voxel has the value that stands there in the file."""
    volume, values = read_volume(stored), np.asarray(nib.load(stored).dataobj)
    for place in ((0, 0, 0), (4, 5, 6), (1, 2, 5)):
        (click,) = GivenPrompts(points=(Point(place),)).on(volume).clicks
        assert volume.array[click.position] == values[place]


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_world_mm_are_those_of_nibabel_and_of_itk(stored: Path, space: str) -> None:
    volume, image = read_volume(stored), sitk.ReadImage(str(stored))
    index = (1, 4, 2)
    if space == "LPS":
        mm = image.TransformIndexToPhysicalPoint(index)
    else:
        mm = tuple(nib.affines.apply_affine(nib.load(stored).affine, index))
    (click,) = GivenPrompts(points=(Point(mm, "mm"),), space=space).on(volume).clicks
    assert volume.array[click.position] == image[index]


def test_a_box_holds_both_its_corners(stored: Path) -> None:
    volume, values = read_volume(stored), np.asarray(nib.load(stored).dataobj)
    box = GivenPrompts(box=GivenBox(((3, 1, 2), (1, 4, 5)))).on(volume).box
    assert box is not None
    inside = volume.array[tuple(slice(a, b) for a, b in zip(box.low, box.high, strict=True))]
    assert sorted(inside.ravel()) == sorted(values[1:4, 1:5, 2:6].ravel())
    ends = nib.affines.apply_affine(nib.load(stored).affine, [(3, 1, 2), (1, 4, 5)])
    first, second = (tuple(end) for end in ends)
    assert GivenPrompts(box=GivenBox((first, second), "mm")).on(volume).box == box


@pytest.fixture
def volume() -> Volume:
    return Volume(np.zeros((5, 6, 7), np.float32), np.eye(4))


def test_a_file_comes_first_and_more_may_be_added(volume: Volume, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"version": 1, "clicks": [{"mm": [1, 1, 1]}], "text": "cyst"}))
    given = GivenPrompts(file, (Point((2, 2, 2)), Point((0, 0, 0), "mm", False)), text="tumour")
    prompts = given.on(volume)
    assert prompts.clicks == (Click((1, 1, 1)), Click((2, 2, 2)), Click((0, 0, 0), False))
    assert prompts.text == "tumour"
    assert GivenPrompts(file).on(volume).text == "cyst"
    file.write_text(json.dumps({"version": 1, "box": {"from_mm": [0, 0, 0], "to_mm": [2, 2, 2]}}))
    with pytest.raises(UserError, match="holds a box, and another one is given"):
        GivenPrompts(file, box=GivenBox(((0, 0, 0), (1, 1, 1)))).on(volume)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            GivenPrompts(points=(Point((5, 0, 0)),)),
            r"click 5,0,0: voxel .* outside the scan of 5 × 6 × 7",
        ),
        (GivenPrompts(points=(Point((0, -1, 0)),)), r"voxel \[0, -1, 0\] lies outside"),
        (GivenPrompts(points=(Point((1.5, 0, 0)),)), "voxels are whole numbers; world mm are given with --click-mm"),
        (
            GivenPrompts(points=(Point((99, 0, 0), "mm"),)),
            r"click 99,0,0: \(99\.0, .* mm \(RAS\) lies outside",
        ),
        (GivenPrompts(box=GivenBox(((0, 0, 0), (0, 6, 0)))), "box corner 0,6,0: voxel"),
        (GivenPrompts(space="LSP"), "unknown space 'LSP'; did you mean 'LPS'"),
        (GivenPrompts(text=" "), "'text' must be words"),
    ],
)
def test_mistakes_are_one_line(volume: Volume, given: GivenPrompts, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        given.on(volume)
    assert "\n" not in str(caught.value)


def test_words_on_the_command_line() -> None:
    assert parse_point("1, 2,-3.5", "--click") == (1.0, 2.0, -3.5)
    assert parse_box("1,2,3,4,5,6", "--box") == ((1, 2, 3), (4, 5, 6))
    for text in ("1,2", "1,2,3,4", "1;2;3", "a,b,c", "", "1,2,nan", "1,2,inf"):
        with pytest.raises(UserError, match=r"--click .*: the form is X,Y,Z"):
            parse_point(text, "--click")
    with pytest.raises(UserError, match=r"--box .*: the form is X,Y,Z,X,Y,Z"):
        parse_box("1,2,3", "--box")
