"""One data set of all traps we know of, added as a user adds it: what is usable is read right, the rest is listed.

Each case is the same world: a scan in RAS+ and a lesion in it, stored in another awkward way.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from benchmarks.data import registry
from benchmarks.data.cache import Cache
from benchmarks.data.dataset import Dataset, target_mask
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.data.registry import Registration, problem_rows

SHAPE, SPACING = (14, 12, 10), (1.5, 1.0, 3.0)
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = (-20, 31, -400)
RECIPE = Preprocessing((1.0, 1.0, 1.0), (-100.0, 300.0), 60.0, 50.0)

Arrays = tuple[np.ndarray, np.ndarray]


def world(seed: int) -> Arrays:
    """HU and labels in RAS+; the lesion (2) lies in the organ (1), and is brighter."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:11, 2:10, 2:8] = 1
    label[5:9, 4:8, 3:6] = 2
    hu = np.random.default_rng(seed).integers(-1000, 0, SHAPE).astype(np.int16)
    hu[label > 0] += 1000
    hu[label == 2] += 100
    return hu, label


def image(array: np.ndarray, codes: str = "RAS", affine: np.ndarray = AFFINE, kind: type = nib.Nifti1Image) -> object:
    """An RAS+ array as an image whose axes run along `codes`."""
    straight = nib.Nifti1Image(array, affine)
    turned = straight.as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    )
    stored = kind(np.asanyarray(turned.dataobj), turned.affine)
    stored.set_sform(turned.affine, code=1)
    return stored


def pair(root: Path, case: str, hu: object, label: object, suffix: str = ".nii.gz") -> tuple[Path, Path]:
    paths = root / "imagesTr" / f"{case}{suffix}", root / "labelsTr" / f"{case}{suffix}"
    for path, content in zip(paths, (hu, label), strict=True):
        nib.save(content if isinstance(content, nib.Nifti1Image) else image(content), path)
    return paths


def change_header(path: Path, at: int, value: bytes) -> None:
    whole = bytearray(gzip.decompress(path.read_bytes()))
    whole[at : at + len(value)] = value
    path.write_bytes(gzip.compress(whole))


# Usable: whatever the file looks like, the volume is that of `world`.


def turned(codes: str) -> Callable[..., None]:
    return lambda root, case, hu, label: pair(root, case, image(hu, codes), image(label, codes))


def turned_differently(root, case, hu, label):
    """The headers of image and label flip other axes, and mean the same place."""
    pair(root, case, image(hu, "LPS"), image(label, "RAI"))


def four_dimensions(root, case, hu, label):
    pair(root, case, nib.Nifti1Image(hu[..., None], AFFINE), nib.Nifti1Image(label[..., None, None], AFFINE))


def float_labels(root, case, hu, label):
    pair(root, case, hu, (label + np.float32(1e-5)).astype(np.float32))


def scaled_labels(root, case, hu, label):
    _, path = pair(root, case, hu, (label + 5).astype(np.int16))
    change_header(path, 112, struct.pack("<ff", 1, -5))  # scl_slope, scl_inter


def big_endian(root, case, hu, label):
    header = nib.Nifti1Header(endianness=">")
    pair(root, case, nib.Nifti1Image(hu, AFFINE, header), nib.Nifti1Image(label, AFFINE, header))


def second_format(root, case, hu, label):
    pair(root, case, image(hu, kind=nib.Nifti2Image), image(label, kind=nib.Nifti2Image))


def upper_case(root, case, hu, label):
    for path in pair(root, case, hu, label):
        path.rename(path.with_name(f"{case}.NII.GZ"))


def other_format(suffix: str) -> Callable[..., None]:
    def write(root, case, hu, label):
        for path in pair(root, case, hu, label):
            SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(path.with_name(f"{case}.{suffix.lower()}")))
            path.with_name(f"{case}.{suffix.lower()}").rename(path.with_name(f"{case}.{suffix}"))
            path.unlink()

    return write


def hidden_twins(root, case, hu, label):
    for path in pair(root, case, hu, label):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7 what macOS puts into archives")


def bomb(root, case, hu, label):
    """200 MB behind the voxels: read no further than the header says."""
    path, _ = pair(root, case, hu, label)
    content = gzip.decompress(path.read_bytes())
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(content)
        for _ in range(20):
            stream.write(bytes(10 << 20))


def parts(root, case, hu, label):
    """As parallel compressors write it."""
    path, _ = pair(root, case, hu, label)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(b"".join(gzip.compress(content[i : i + 999]) for i in range(0, len(content), 999)))


def linked(root, case, hu, label):
    """A data set made of links, as data managers make them."""
    for path in pair(root, case, hu, label):
        (root / "store").mkdir(exist_ok=True)
        kept = root / "store" / f"{path.parent.name}-{path.name}"
        path.rename(kept)
        path.symlink_to(kept)


READ_RIGHT = {
    "as it should be": turned("RAS"),
    "flipped header": turned("LPI"),
    "slices first": turned("IPL"),
    "flipped differently": turned_differently,
    "a fourth dimension": four_dimensions,
    "float labels": float_labels,
    "scaled labels": scaled_labels,
    "big-endian": big_endian,
    "NIfTI-2": second_format,
    "UPPER CASE": upper_case,
    "nrrd": other_format("nrrd"),
    "NRRD": other_format("NRRD"),
    "MHA": other_format("MHA"),
    "hidden twins": hidden_twins,
    "parts": parts,
    "links": linked,
    "Ölfaß 肝臓 and a space": turned("PSR"),
}

# Usable with something to say or to mend; what is asserted is in the tests below.


def not_finite(root, case, hu, label):
    hu = hu.astype(np.float32)
    hu[0], hu[1, 0], hu[1, 1] = np.nan, np.inf, -np.inf
    pair(root, case, hu, label)


def padded(root, case, hu, label):
    hu[:2] = -3024
    pair(root, case, hu, label)


def flat_voxels(root, case, hu, label):
    """8 : 1."""
    pair(
        root, case, image(hu, affine=np.diag([0.6, 0.6, 4.8, 1.0])), image(label, affine=np.diag([0.6, 0.6, 4.8, 1.0]))
    )


def one_voxel(root, case, hu, label):
    pair(root, case, hu, np.where(np.arange(label.size).reshape(SHAPE) == 600, 2, label > 0).astype(np.uint8))


def no_target(root, case, hu, label):
    pair(root, case, hu, (label > 0).astype(np.uint8))


def two_affines(root, case, hu, label):
    content = image(hu)
    content.set_qform(np.diag([1.5, 1.0, 2.0, 1.0]), code=1)
    pair(root, case, content, label)


def long_quaternion(length: float) -> Callable[..., None]:
    """A qform whose quaternion is longer than 1, beside a good sform."""

    def write(root, case, hu, label):
        for path in pair(root, case, hu, label):
            change_header(path, 252, struct.pack("<h", 1))  # qform_code
            change_header(path, 256, struct.pack("<3f", *[length / 3**0.5] * 3))  # quatern_b, c, d

    return write


def sheared(root, case, hu, label):
    """A gantry tilt of 20 degrees: slices 3 mm apart, each moved along y."""
    affine = AFFINE.copy()
    affine[1, 2] = 3 * np.tan(np.deg2rad(20))
    pair(root, case, image(hu, affine=affine), image(label, affine=affine))


def sheared_nrrd(root, case, hu, label):
    """The same as NRRD, whose header holds the edges of a voxel themselves."""
    sheared(root, case, hu, label)
    for path in (root / "imagesTr" / f"{case}.nii.gz", root / "labelsTr" / f"{case}.nii.gz"):
        array = np.asanyarray(nib.load(path).dataobj)
        lean = f"({0},{3 * np.tan(np.deg2rad(20)):.6f},3)"
        kind = "int16" if array.dtype == np.int16 else "uint8"
        header = (
            f"NRRD0004\ntype: {kind}\ndimension: 3\nspace: right-anterior-superior\nsizes: 14 12 10\n"
            f"space directions: (1.5,0,0) (0,1,0) {lean}\nkinds: domain domain domain\nendian: little\n"
            "encoding: raw\nspace origin: (-20,31,-400)\n\n"
        )
        path.with_name(f"{case}.nrrd").write_bytes(header.encode() + array.tobytes(order="F"))
        path.unlink()


def no_affine(root, case, hu, label):
    for path in pair(root, case, hu, label):
        change_header(path, 252, struct.pack("<hh", 0, 0))  # qform_code, sform_code


def in_metres(root, case, hu, label):
    tiny = np.diag([0.001, 0.001, 0.003, 1.0])
    pair(root, case, image(hu, affine=tiny), image(label, affine=tiny))


def no_hounsfield(root, case, hu, label):
    pair(root, case, (hu + 1024).astype(np.uint16), label)


WARNED = {
    "not finite": (not_finite, ""),
    "padded": (padded, ""),
    "flat voxels": (flat_voxels, ""),
    "one voxel": (one_voxel, ""),
    "no target": (no_target, "no voxel of the target 'kidney-tumour'"),
    "bomb": (bomb, "goes on after the voxels"),
    "two affines": (two_affines, "sform and qform.*disagree"),
    "long qform": (long_quaternion(1.4), "qform of the header is no rotation; the sform is used"),
    "rounded qform": (long_quaternion(1.000002), "qform of the header is no rotation; the sform is used"),
    "sheared": (sheared, "axes are not at right angles; distances and volumes of this case are not in mm"),
    "sheared nrrd": (sheared_nrrd, "axes are not at right angles; distances and volumes of this case are not in mm"),
    "no affine": (no_affine, "does not say how the patient lies"),
    "in metres": (in_metres, "are the units of the header mm"),
    "no Hounsfield units": (no_hounsfield, "are these Hounsfield units"),
}

# Not usable


def cut_off(root, case, hu, label):
    path, _ = pair(root, case, hu, label)
    path.write_bytes(path.read_bytes()[:-300])


def flipped_bit(root, case, hu, label):
    path, _ = pair(root, case, hu, label)
    content = bytearray(path.read_bytes())
    content[-900] ^= 16
    path.write_bytes(content)


def terabytes(root, case, hu, label):
    path, _ = pair(root, case, hu, label)
    change_header(path, 40, struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1))


def moved_label(root, case, hu, label):
    affine = AFFINE.copy()
    affine[2, 3] += 3
    pair(root, case, hu, image(label, affine=affine))


def label_with_a_flipped_header_only(root, case, hu, label):
    affine = AFFINE.copy()
    affine[0] *= -1
    pair(root, case, hu, nib.Nifti1Image(label, affine))


def undeclared_label(root, case, hu, label):
    pair(root, case, hu, np.where(label == 2, 9, label).astype(np.uint8))


def soft_label(root, case, hu, label):
    pair(root, case, hu, label.astype(np.float32) / 2)


def label_of_nan(root, case, hu, label):
    pair(root, case, hu, np.where(label == 2, np.nan, label).astype(np.float32))


def nothing_finite(root, case, hu, label):
    pair(root, case, np.full(SHAPE, np.nan, np.float32), label)


def all_the_same(root, case, hu, label):
    pair(root, case, np.full(SHAPE, -1024, np.int16), label)


def colours(root, case, hu, label):
    pair(root, case, nib.Nifti1Image(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE), label)


def a_film(root, case, hu, label):
    pair(root, case, nib.Nifti1Image(np.stack([hu, hu], axis=3), AFFINE), label)


def no_voxel_size(root, case, hu, label):
    path, _ = pair(root, case, hu, label)
    change_header(path, 252, struct.pack("<hh", 0, 0))
    change_header(path, 80, struct.pack("<f", 0))


def all_in_a_plane(root, case, hu, label):
    affine = np.eye(4)
    affine[:3, :3] = [[1, 1, 0], [1, 1.01, 0], [0, 0, 1]]
    pair(root, case, nib.Nifti1Image(hu, affine), nib.Nifti1Image(label, affine))


def twice(root, case, hu, label):
    path, _ = pair(root, case, hu, label)
    nib.save(image(hu), path.with_name(f"{case}.nii"))


def no_label(root, case, hu, label):
    pair(root, case, hu, label)[1].unlink()


def a_folder(root, case, hu, label):
    path, _ = pair(root, case, hu, label)
    path.unlink()
    path.mkdir()


def dead_link(root, case, hu, label):
    path, _ = pair(root, case, hu, label)
    path.unlink()
    path.symlink_to("nowhere.nii.gz")


def the_same_scan(root, case, hu, label):
    hu, label = world(0)
    pair(root, case, image(hu, "PIR"), image(label, "PIR"))


BAD = {
    "cut off": (cut_off, "truncated"),
    "flipped bit": (flipped_bit, "damaged"),
    "terabytes": (terabytes, "header claims 54,000,000,000,352 bytes"),
    "moved label": (moved_label, "different grids"),
    "label flipped": (label_with_a_flipped_header_only, "different grids"),
    "undeclared label": (undeclared_label, "label values 9 are not of this dataset"),
    "soft label": (soft_label, "whole numbers"),
    "NaN label": (label_of_nan, "whole numbers"),
    "nothing finite": (nothing_finite, "no finite intensity"),
    "all the same": (all_the_same, "every voxel is -1024"),
    "colours": (colours, "not intensities"),
    "a film": (a_film, "3D volume is needed"),
    "no voxel size": (no_voxel_size, "no size of the voxels"),
    "in a plane": (all_in_a_plane, "lie in a plane"),
    "twice": (twice, "two image files for one case"),
    "no label": (no_label, "image without label"),
    "a folder": (a_folder, "label without image"),
    "dead link": (dead_link, "a dead link: the file it leads to is not there"),
    "the same scan": (the_same_scan, "the same scan as case as it should be"),
}


@pytest.fixture(scope="module")
def added(tmp_path_factory) -> tuple[Registration, Dataset]:
    """The folder of traps, read-only, added by the road that `tags-bench data add` takes."""
    root = tmp_path_factory.mktemp("traps") / "Übung"
    for role in ("imagesTr", "labelsTr"):
        (root / role).mkdir(parents=True)
    writers = READ_RIGHT | {name: write for name, (write, _) in {**WARNED, **BAD}.items()}
    for number, (case, write) in enumerate(writers.items()):
        write(root, case, *world(number))
    names = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in writers]
    content = {"labels": {"0": "background", "1": "kidney", "2": "tumour"}, "training": names}
    (root / "dataset.json").write_text(json.dumps(content))
    for folder in (root, root / "imagesTr", root / "labelsTr"):
        folder.chmod(0o555)
    before = sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(registry.HOME_VARIABLE, str(tmp_path_factory.mktemp("home")))
            found = registry.add(registry.Registration("traps", root, target="tumour", organ="kidney"))
            dataset = registry.load("traps")
        assert sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*")) == before
        yield found, dataset
    finally:
        for folder in (root, root / "imagesTr", root / "labelsTr"):
            folder.chmod(0o755)
        shutil.rmtree(root)


def test_exactly_the_bad_ones_are_left_out(added):
    found, dataset = added
    assert set(found.excluded) == set(BAD)
    assert set(dataset.cases) == {*READ_RIGHT, *WARNED}
    assert dict(dataset.excluded) == dict(found.excluded)
    for split in dataset.splits:
        assert not set(BAD) & {case for part in vars(split).values() for case in part}


@pytest.mark.parametrize("case", BAD)
def test_the_reason_is_one_line_for_the_case(added, case):
    (row,) = (row for row in problem_rows(added[0]) if row["case"] == case)  # nothing else is said of it
    assert row["severity"] == "left out"
    assert "\n" not in row["what"]
    assert re.search(BAD[case][1], row["what"]), row["what"]


@pytest.mark.parametrize("case", WARNED)
def test_what_is_odd_is_said_and_used(added, case):
    said = [row for row in problem_rows(added[0]) if row["case"] == case]
    assert bool(said) == bool(WARNED[case][1])
    for row in said:
        assert row["severity"] == "warning"
        assert re.search(WARNED[case][1], row["what"]), row["what"]


@pytest.mark.parametrize("case", READ_RIGHT)
def test_the_volume_is_that_of_the_world(added, case):
    hu, label = world(list(READ_RIGHT).index(case))
    volume, found = added[1].cases[case].load()
    np.testing.assert_array_equal(volume.array, hu)
    np.testing.assert_array_equal(found, label)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    assert [row for row in problem_rows(added[0]) if row["case"] == case] == []


@pytest.mark.parametrize("case", [*READ_RIGHT, *WARNED])
def test_a_crop_of_it_can_be_trained_on(added, case, tmp_path):
    dataset = added[1]
    (target,) = dataset.targets
    cached = Cache(tmp_path).prepared(dataset.cases[case], RECIPE if case != "in metres" else Preprocessing(None, None))
    mask = cached.label_mask(target)
    _, label = dataset.cases[case].load()
    there = target_mask(label, target)
    assert bool(mask.voxels) == bool(there.any())
    assert np.isfinite(cached.array).all()
    if mask.voxels:
        patch, origin = cached.crop(mask.foreground[0], (8, 8, 8))
        assert np.isfinite(patch).all()
        assert mask.crop(mask.foreground[0], (8, 8, 8))[0][tuple(mask.foreground[0] - origin)]
        back = cached.to_native_mask(mask.array.astype(np.float32))
        if there.sum() > 1:
            assert 2 * (back & there).sum() / (back.sum() + there.sum()) > 0.85
