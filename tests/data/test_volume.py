"""NIfTI in and out: every axis order comes to RAS+, and a mask goes back to its own file's grid."""

from __future__ import annotations

import gzip
import itertools
import re
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.common.errors import UserError
from benchmarks.data.file_doubts import file_doubts
from benchmarks.data.volume import read_grid, read_label, read_mask, read_volume, same_grid, voxel_size, write_mask

signed_permutations = st.tuples(st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([-1, 1])] * 3))
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def affine_of(permutation: list[int], signs: tuple[int, ...], spacing: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """File axis i runs along world axis permutation[i], in the direction signs[i]."""
    affine = np.zeros((4, 4))
    for axis, world in enumerate(permutation):
        affine[world, axis] = signs[axis] * spacing[axis]
    affine[:3, 3] = origin
    affine[3, 3] = 1
    return affine


def rotation(angle: float) -> np.ndarray:
    """About an oblique axis, by less than what would swap axes, and sheared a little as after a tilted gantry."""
    turn = np.eye(4)
    c, s = np.cos(angle), np.sin(angle)
    turn[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    turn[1, 2] += 0.5 * angle
    return turn


@quick
@given(signed_permutations, st.integers(0, 2**31), st.sampled_from([0.0, 0.2, -0.3]))
def test_every_voxel_keeps_its_world_position(tmp_path, turned, seed, angle):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 7, size=3))
    spacing = 10 ** rng.uniform(-1.3, 1.5, size=3)  # 0.05 to 30 mm
    affine = rotation(angle) @ affine_of(*turned, spacing, rng.uniform(-500, 500, size=3))
    array = rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.int16)
    path = save(tmp_path / "scan.nii.gz", array, affine)
    affine = nib.load(path).affine  # as float32 on disk
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous
    for index in np.ndindex(*shape):
        (found,) = np.argwhere(volume.array == array[index])
        here = volume.affine[:3, :3] @ found + volume.affine[:3, 3]
        np.testing.assert_allclose(here, affine[:3, :3] @ index + affine[:3, 3], atol=1e-3)
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    grid_shape, grid_affine = read_grid(path)
    assert grid_shape == volume.shape
    np.testing.assert_allclose(grid_affine, volume.affine)
    permutation = turned[0]
    if angle == 0:
        expected = [spacing[permutation.index(world)] for world in range(3)]
        np.testing.assert_allclose(volume.spacing, expected, rtol=1e-5)


@quick
@given(signed_permutations, st.integers(0, 2**31), st.sampled_from([0.0, 0.25]))
def test_masks_return_to_the_grid_of_the_file(tmp_path, turned, seed, angle):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 9, size=3))
    affine = rotation(angle) @ affine_of(*turned, rng.uniform(0.5, 5, size=3), rng.uniform(-99, 99, size=3))
    on_disk = rng.integers(0, 3, size=shape).astype(np.uint8)
    image = save(tmp_path / "scan.nii.gz", rng.normal(size=shape).astype(np.float32), affine)
    label = save(tmp_path / "label.nii.gz", on_disk, affine)
    volume = read_volume(image)
    write_mask(read_label(label, like=volume), volume, tmp_path / "out" / "mask.nii.gz")
    written = nib.load(tmp_path / "out" / "mask.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), on_disk)
    np.testing.assert_allclose(written.affine, nib.load(label).affine, atol=1e-4)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mask.nii.gz"]


@quick
@given(signed_permutations, st.integers(0, 2**31))
def test_agrees_with_simpleitk(tmp_path, turned, seed):
    """Another library's reader and reorientation."""
    rng = np.random.default_rng(seed)
    array = rng.integers(-1000, 1000, size=(5, 4, 3)).astype(np.int16)
    affine = affine_of(*turned, rng.uniform(0.5, 5, size=3), rng.uniform(-99, 99, size=3))
    path = save(tmp_path / "scan.nii.gz", array, affine)
    reference = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "RAS")
    # ITK's world runs to the left and the back, so RAS is two negative directions there
    np.testing.assert_allclose(reference.GetDirection(), (-1, 0, 0, 0, -1, 0, 0, 0, 1), atol=1e-6)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, SimpleITK.GetArrayFromImage(reference).transpose(2, 1, 0))
    np.testing.assert_allclose(volume.spacing, reference.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(volume.affine[:3, 3] * (-1, -1, 1), reference.GetOrigin(), atol=1e-3)


@pytest.mark.parametrize("tail", [(1,), (1, 1)])
def test_trailing_singletons(tmp_path, tail):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = save(tmp_path / "scan.nii.gz", array.reshape(2, 3, 4, *tail))
    np.testing.assert_array_equal(read_volume(path).array, array)
    assert read_grid(path)[0] == (2, 3, 4)
    np.testing.assert_array_equal(read_label(path), array)


def test_scaled_integers(tmp_path):
    """CT is often stored unsigned, with the −1024 in the header."""
    image = nib.Nifti1Image(np.full((3, 3, 3), 1064, np.uint16), np.eye(4))
    image.header.set_slope_inter(1, -1024)
    nib.save(image, tmp_path / "scan.nii.gz")
    stored = nib.load(tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii.gz").array, stored.get_fdata())
    raw = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    scaled = nib.Nifti1Image(raw, np.eye(4))
    nib.save(scaled, tmp_path / "half.nii")
    data = bytearray((tmp_path / "half.nii").read_bytes())
    data[112:120] = struct.pack("<ff", 0.5, 10.0)  # scl_slope, scl_inter
    (tmp_path / "half.nii").write_bytes(data)
    np.testing.assert_allclose(read_volume(tmp_path / "half.nii").array, raw * 0.5 + 10)
    with pytest.raises(UserError, match="whole numbers"):
        read_label(tmp_path / "half.nii")


def test_values_that_are_not_finite_become_the_lowest(tmp_path):
    array = np.array([[[1.0, np.nan], [np.inf, -7.0]], [[-np.inf, 3.0], [4.0, 5.0]]], np.float32)
    volume = read_volume(save(tmp_path / "scan.nii.gz", array))
    np.testing.assert_array_equal(volume.array[~np.isfinite(array)], -7)
    np.testing.assert_array_equal(volume.array[np.isfinite(array)], array[np.isfinite(array)])
    with pytest.raises(UserError, match="no finite intensity"):
        read_volume(save(tmp_path / "none.nii.gz", np.full((2, 2, 2), np.nan, np.float32)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_labels_of_any_type(tmp_path, dtype):
    array = np.arange(27).reshape(3, 3, 3) % 4
    label = read_label(save(tmp_path / "label.nii.gz", array.astype(dtype)))
    assert label.dtype == np.int16
    np.testing.assert_array_equal(label, array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_mask_is_where_the_label_is_above_0(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0 if dtype is np.uint8 else -1, 3, (3, 4, 5)).astype(dtype)
    path = save(tmp_path / "label.nii.gz", values, affine_of([2, 0, 1], (-1, 1, -1), np.ones(3), np.zeros(3)))
    assert np.array_equal(np.sort(read_mask(path).sum((1, 2))), np.sort((values > 0).sum((0, 2))))  # file axis 1 is x
    assert np.array_equal(read_mask(path), read_label(path) > 0)
    with pytest.raises(UserError, match="shape"):
        read_mask(path, like=read_volume(save(tmp_path / "scan.nii.gz", np.ones((3, 3, 3), np.int16))))


def test_labels_that_are_none(tmp_path):
    with pytest.raises(UserError, match="whole numbers"):
        read_label(save(tmp_path / "soft.nii.gz", np.full((2, 2, 2), 0.4, np.float32)))
    with pytest.raises(UserError, match="whole numbers"):
        read_label(save(tmp_path / "nan.nii.gz", np.full((2, 2, 2), np.nan, np.float32)))
    with pytest.raises(UserError, match="from 40000 to 40000 do not fit"):
        read_label(save(tmp_path / "wide.nii.gz", np.full((2, 2, 2), 40000, np.int32)))


def test_label_on_another_grid(tmp_path):
    volume = read_volume(save(tmp_path / "scan.nii.gz", np.zeros((4, 5, 6), np.int16)))
    with pytest.raises(UserError, match=r"shape \(4, 5, 5\) differs from the image's \(4, 5, 6\)"):
        read_label(save(tmp_path / "a.nii.gz", np.zeros((4, 5, 5), np.uint8)), like=volume)
    with pytest.raises(UserError, match="different grids"):
        read_label(save(tmp_path / "b.nii.gz", np.zeros((4, 5, 6), np.uint8), np.diag([1, 1, 1.1, 1])), like=volume)
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 3  # the same voxels, stored from the other end
    array = np.arange(120).reshape(4, 5, 6).astype(np.int16)
    label = read_label(save(tmp_path / "c.nii.gz", array, flipped), like=volume)
    np.testing.assert_array_equal(label, array[::-1])


def test_same_grid_tolerates_rounding_only():
    affine = np.diag([0.7, 0.7, 5.0, 1.0])
    assert same_grid(affine + 1e-6, affine, (512, 512, 100))
    moved = affine.copy()
    moved[2, 3] = 2.5
    assert not same_grid(moved, affine, (512, 512, 100))
    moved[2, 3], moved[0, 3] = 0.0, 0.35  # half a voxel, in a grid that is wide
    assert not same_grid(moved, affine, (512, 512, 100))
    rounded = np.diag([0.7005, 0.7, 5.0, 1.0])  # a spacing that was written with three digits
    assert same_grid(rounded, affine, (512, 512, 100))
    assert not same_grid(np.diag([0.703, 0.7, 5.0, 1.0]), affine, (512, 512, 100))


@pytest.mark.parametrize("turned", list(itertools.product((1, -1), repeat=3)))
def test_same_grid_does_not_hang_on_the_end_that_a_file_begins_with(turned):
    """Both files begin at one voxel, with spacings 0.7 and 0.7005; as RAS+ their origins may lie 0.26 mm apart."""
    shape = (512, 512, 100)

    def as_ras(spacing):
        stored = np.diag([sign * step for sign, step in zip(turned, spacing, strict=True)] + [1.0])
        return stored @ nib.orientations.inv_ornt_aff(nib.io_orientation(stored), shape)

    assert same_grid(as_ras((0.7005, 0.7005, 5.0)), as_ras((0.7, 0.7, 5.0)), shape)
    assert not same_grid(as_ras((0.703, 0.7, 5.0)), as_ras((0.7, 0.7, 5.0)), shape)
    moved = as_ras((0.7, 0.7, 5.0))
    moved[0, 3] += 0.35
    assert not same_grid(moved, as_ras((0.7, 0.7, 5.0)), shape)


# Files that are broken, or mean harm.


@pytest.mark.parametrize("read", [read_volume, read_label, read_grid])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.99])
def test_truncated(tmp_path, read, suffix, keep):
    array = np.random.default_rng(0).integers(0, 1000, size=(20, 20, 20)).astype(np.int16)
    path = save(tmp_path / f"scan{suffix}", array)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=f"scan{suffix}: ") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_gzip_of_several_members_is_whole(tmp_path):
    """Parallel compressors write several members; the last four bytes then tell only the last one's size."""
    array = np.arange(8000, dtype=np.int16).reshape(20, 20, 20)
    plain = save(tmp_path / "scan.nii", array).read_bytes()
    path = tmp_path / "parts.nii.gz"
    path.write_bytes(b"".join(gzip.compress(plain[i : i + 5000]) for i in range(0, len(plain), 5000)))
    assert read_grid(path)[0] == (20, 20, 20)
    np.testing.assert_array_equal(read_volume(path).array, array)


@contextmanager
def allocating_less_than(limit: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def header_claiming(shape: tuple[int, ...], dtype: type = np.int16) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), code=1)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    return header.binaryblock + b"\0" * 4


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("read", [read_volume, read_label, read_grid])
def test_header_claiming_terabytes_is_refused_before_allocation(tmp_path, suffix, read):
    data = header_claiming((30000, 30000, 30000)) + b"\1" * 1000
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    with allocating_less_than(5e6), pytest.raises(UserError, match="claims 54,000,000,000,352 bytes"):
        read(path)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory) -> Path:
    """200 MB of zeros behind a header of 1000 voxels."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header_claiming((10, 10, 10)))
        for _ in range(20):
            stream.write(bytes(10 << 20))
    return path


@pytest.mark.parametrize("read", [read_volume, read_label, read_grid, file_doubts])
def test_gzip_bomb_is_read_no_further_than_its_header_says(bomb, read):
    with allocating_less_than(5e6):
        read(bomb)
    if read is file_doubts:
        assert file_doubts(bomb)[-1] == "the file goes on after the voxels, by more than 1,048,576 bytes"


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (np.eye(4), True),
        (np.diag([-1.0, -1, 1, 1]), True),
        (np.diag([1.0, 1, 1.25, 1]), False),
        (np.eye(4) + np.eye(4, k=3) * 7, False),  # moved by 7 mm: that somebody knew
    ],
)
def test_a_lost_affine_is_doubted(tmp_path, suffix, affine, said):
    """LiTS17 has 20 scans of 1 × 1 × 1 mm at 0, 0, 0 that are nothing of the kind."""
    path = tmp_path / f"scan{suffix}"
    values = np.zeros((4, 5, 6), np.int16)
    if suffix == ".mha":
        image = SimpleITK.GetImageFromArray(values.T)
        to_lps = np.diag([-1.0, -1, 1]) @ affine[:3, :3]
        image.SetSpacing(np.linalg.norm(to_lps, axis=0).tolist())
        image.SetDirection((to_lps / np.linalg.norm(to_lps, axis=0)).ravel().tolist())
        image.SetOrigin((np.diag([-1.0, -1, 1]) @ affine[:3, 3]).tolist())
        SimpleITK.WriteImage(image, str(path))
    else:
        nib.save(nib.Nifti1Image(values, affine), path)
    assert ["identity" in doubt for doubt in file_doubts(path)] == [True] * said


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.int16), "3D volume is needed"),
        (np.zeros((4, 4, 4, 2), np.int16), "3D volume is needed"),
        (np.zeros((4, 4, 4), np.complex64), "not intensities"),
    ],
)
def test_unusable(tmp_path, array, message):
    path = save(tmp_path / "scan.nii.gz", array)
    for read in (read_volume, read_label, read_grid):
        with pytest.raises(UserError, match=message):
            read(path)


@pytest.mark.parametrize(("value", "message"), [(0.0, "degenerate"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_unusable_affine(tmp_path, value, message):
    path = save(tmp_path / "scan.nii", np.zeros((4, 4, 4), np.int16))
    data = bytearray(path.read_bytes())
    data[296:312] = struct.pack("<ffff", 0, value, 0, 0)  # srow_y
    path.write_bytes(data)
    for read in (read_volume, read_label, read_grid):
        with pytest.raises(UserError, match=message):
            read(path)


def test_not_nifti(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(b"no header here" * 100))
    (tmp_path / "text.nii").write_text("no header here" * 100)
    nib.save(nib.MGHImage(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "scan.mgz")
    for name in ("scan.nii.gz", "text.nii", "scan.mgz", "missing.nii.gz"):
        with pytest.raises(UserError, match=name):
            read_volume(tmp_path / name)


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    volume = read_volume(save(tmp_path / "scan.nii.gz", np.zeros((4, 4, 4), np.int16)))
    out = tmp_path / "out"

    def fails(image, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", fails)
    with pytest.raises(OSError, match="No space"):
        write_mask(np.ones((4, 4, 4)), volume, out / "mask.nii.gz")
    assert list(out.iterdir()) == []


def test_kits_label_maps_are_slices_first(shared):
    """The published KiTS label maps: first array axis runs downwards through the slices."""
    paths = sorted((shared / "kits_labels").glob("case_*.nii.gz"))
    if not paths:
        pytest.skip("no KiTS label maps")
    path = min(paths, key=lambda p: p.stat().st_size)
    image = nib.load(path)
    assert nib.aff2axcodes(image.affine) == ("I", "P", "L")
    label = read_label(path)
    assert label.shape == image.shape[::-1]
    np.testing.assert_array_equal(label, np.asanyarray(image.dataobj).transpose(2, 1, 0)[::-1, ::-1, ::-1])


@quick
@given(signed_permutations, st.integers(0, 2**31), st.sampled_from([".nrrd", ".mha"]), st.booleans())
def test_formats_of_itk_agree_with_nifti(tmp_path, turned, seed, suffix, compressed):
    """One image written by ITK as NIfTI and in its own format reads the same."""
    rng = np.random.default_rng(seed)
    array = rng.integers(-1000, 1000, size=(5, 4, 3)).astype(np.int16)
    affine = rotation(0.2) @ affine_of(*turned, rng.uniform(0.5, 5, size=3), rng.uniform(-99, 99, size=3))
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] * np.linalg.norm(affine[:3, :3], axis=0)  # ITK has no shear
    image = SimpleITK.ReadImage(str(save(tmp_path / "first.nii", array, affine)))
    SimpleITK.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    SimpleITK.WriteImage(image, str(tmp_path / f"scan{suffix}"), useCompression=compressed)
    nifti, other = read_volume(tmp_path / "scan.nii.gz"), read_volume(tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(other.array, nifti.array)
    np.testing.assert_allclose(other.affine, nifti.affine, atol=1e-3)
    np.testing.assert_array_equal(other.orientation, nifti.orientation)
    shape, grid = read_grid(tmp_path / f"scan{suffix}")
    assert shape == other.shape
    np.testing.assert_allclose(grid, other.affine)
    np.testing.assert_array_equal(read_label(tmp_path / f"scan{suffix}", like=other), other.array)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_broken_files_of_itk(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    noise = np.random.default_rng(0).integers(0, 999, size=(20, 20, 20)).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise), str(path))
    whole = path.read_bytes()
    for data in (b"", b"nothing of the kind", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"scan{suffix}: ") as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(re.sub(rb"20 20 20", b"30000 30000 30000", whole))
    with allocating_less_than(5e6), pytest.raises(UserError, match="claims 27,000,000,000,000 bytes"):
        read_volume(path)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise[0]), str(path))
    with pytest.raises(UserError, match="3D volume is needed"):
        read_volume(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_volume(path)


def test_header_pointing_to_another_file_is_refused(tmp_path):
    image = SimpleITK.GetImageFromArray(np.zeros((4, 4, 4), np.uint8))
    for header, name in ((".mhd", "scan.mha"), (".nhdr", "scan.nrrd")):
        SimpleITK.WriteImage(image, str(tmp_path / f"scan{header}"))
        (tmp_path / f"scan{header}").rename(tmp_path / name)
        with pytest.raises(UserError, match="voxels lie in another file"):
            read_volume(tmp_path / name)
        with pytest.raises(UserError, match="voxels lie in another file"):
            read_grid(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scan.mha", lambda header: header.replace(b"ElementDataFile", b"\nElementDataFile")),
        ("scan.mha", lambda header: header.replace(b"DimSize", b"Comment = " + b"x" * 70_000 + b"\nDimSize")),
        ("scan.mha", lambda header: header.replace(b"ElementDataFile =", b"ElementDataFile:")),
        ("scan.mha", lambda header: header.replace(b"ElementDataFile", b"Comment = ElementDataFile = LOCAL\nElementDataFile")),  # noqa: E501
        ("scan.nrrd", lambda header: header.replace(b"type:", b"#" + b"x" * 70_000 + b"\ntype:")),
        ("scan.nrrd", lambda header: header.replace(b"type:", b"#" + b"x" * 2**20 + b"\ntype:")),
    ],
)  # fmt: skip
def test_no_way_of_writing_a_header_leads_to_another_file(tmp_path, name, change):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((4, 4, 4), np.uint8)), str(tmp_path / "secret.mhd"))
    other = "secret.mhd" if name.endswith("mha") else "secret.nhdr"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((4, 4, 4), np.uint8)), str(tmp_path / other))
    (tmp_path / name).write_bytes(change((tmp_path / other).read_bytes()))
    with pytest.raises(UserError, match="voxels lie in another file"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("degrees", [0, 5, 17.3, 45])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (0.742188, 0.976562, 2.5)])
def test_the_spacing_of_a_turned_grid_is_the_decimal_that_was_meant(tmp_path, degrees, spacing):
    """float32 affines and direction cosines of six decimals carry noise; a tolerance of 1 mm must not see it."""
    a, b = np.deg2rad([degrees, degrees / 3])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn.round(6) * spacing
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").spacing == spacing
    assert voxel_size(read_grid(tmp_path / "a.nii")[1]) == spacing
