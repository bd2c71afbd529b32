"""Scans without Hounsfield units: one scale for all, told apart in every identity; a CT is left as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.common.content import sha256_of
from benchmarks.common.errors import UserError
from benchmarks.common.identity import digest
from benchmarks.data.cache import Cache
from benchmarks.data.catalogue import intensity_statistics, load_folder
from benchmarks.data.dataset import Case, fingerprint_cases
from benchmarks.data.intensities import (
    CT,
    MODALITIES,
    MR,
    SUV,
    intensity_range,
    modality_of,
    named_modality,
    on_common_scale,
)
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.data.verify import verify_case
from tests.scan_folders import write_msd


def brain(seed: int = 0) -> np.ndarray:
    """A head in a frame of padding, as skull-stripped and z-scored scans have it: the padding is no zero."""
    values = np.full((40, 36, 30), -3.25, np.float32)
    values[8:32, 6:30, 5:25] = np.random.default_rng(seed).gamma(4.0, 1.0, (24, 24, 20)) - 2.0
    return values


def test_the_percentiles_are_those_of_the_head():
    """With the padding among them the range would begin at −3.25, as 75 of 100 voxels do."""
    values = brain()
    inside = values[8:32, 6:30, 5:25]
    assert intensity_range(values) == pytest.approx(np.percentile(inside, (0.5, 99.5)), abs=1e-6)
    scaled = on_common_scale(values.copy(), MR)
    np.testing.assert_allclose(np.percentile(scaled[8:32, 6:30, 5:25], (0.5, 99.5)), (-160, 240), atol=1e-3)
    assert scaled.max() > 240 + 10  # nothing is clipped
    assert (np.diff(scaled.ravel()[np.argsort(values.ravel())]) >= 0).all()


def test_air_that_is_noise_is_no_padding():
    values = np.random.default_rng(1).normal(0, 5, (20, 20, 20)).astype(np.float32)
    assert intensity_range(values) == pytest.approx(np.percentile(values, (0.5, 99.5)), abs=1e-5)


@pytest.mark.parametrize(("factor", "offset"), [(3.5, 0.0), (0.01, 7.0), (900.0, -4000.0)])
def test_gain_and_offset_of_a_scanner_play_no_part(factor, offset):
    values = brain()
    other = (values * np.float32(factor) + np.float32(offset)).astype(np.float32)
    np.testing.assert_allclose(on_common_scale(other, MR), on_common_scale(values.copy(), MR), atol=0.1)


def test_suv_is_a_quantity_and_keeps_its_scale():
    values = np.array([0.0, 2.5, 10.0, 35.0], np.float32).reshape(1, 1, 4)
    np.testing.assert_allclose(on_common_scale(values, SUV).ravel(), [-160, -60, 240, 1240])


@pytest.mark.parametrize("values", [np.zeros((4, 4, 4)), np.full((4, 4, 4), 7.0)])
def test_a_scan_of_one_value_divides_by_nothing(values):
    assert np.isfinite(on_common_scale(values.astype(np.float32), MR)).all()


def test_few_bright_voxels_are_a_range_of_their_own():
    values = np.zeros((30, 30, 30), np.float32)
    values[1, 1, 1] = 5.0  # all else is padding
    assert on_common_scale(values, MR)[0, 0, 0] < on_common_scale(values, MR)[1, 1, 1]


def test_hounsfield_units_stay():
    values = np.array([-3024.0, -1000.0, 40.0, 3071.0], np.float32).reshape(1, 1, 4)
    np.testing.assert_array_equal(on_common_scale(values.copy(), CT), values)


@pytest.mark.parametrize(
    ("words", "modality"),
    [
        ("CT", "CT"), ("ct", "CT"), ("MRI", "MR"), ("FLAIR", "MR"), ("T1w", "MR"), ("T1-weighted MRI", "MR"),
        ("ADC", "MR"), ("PET", "PET"), ("PT", "PET"), ("SUV", "SUV"), ("PET (SUV)", "SUV"), ("octopus", "other"),
        ("noNorm", "other"),
    ],
)  # fmt: skip
def test_words_of_other_tools(words, modality):
    assert modality_of(words) == modality


def test_a_misspelt_modality_is_offered_the_nearest():
    assert [named_modality(one.lower()) for one in MODALITIES] == list(MODALITIES)
    with pytest.raises(UserError, match="unknown modality 'MRT'; did you mean 'MR'"):
        named_modality("MRT")


def case_of(folder: Path, modality: str) -> Case:
    image, label = folder / "image.nii.gz", folder / "label.nii.gz"
    if not image.exists():
        nib.save(nib.Nifti1Image(brain(), np.eye(4)), image)
        mask = np.zeros(brain().shape, np.uint8)
        mask[12:20, 12:20, 10:16] = 1
        nib.save(nib.Nifti1Image(mask, np.eye(4)), label)
    return Case("d", "a", image, label, modality=modality)


def test_a_case_is_read_on_the_scale_of_its_modality(tmp_path):
    raw, scaled = (case_of(tmp_path, one).load()[0].array for one in (CT, MR))
    np.testing.assert_array_equal(raw, brain())
    np.testing.assert_allclose(scaled, on_common_scale(brain(), MR))
    assert verify_case(case_of(tmp_path, MR)).problems != verify_case(case_of(tmp_path, CT)).problems
    assert any("Hounsfield" in one.text for one in verify_case(case_of(tmp_path, CT)).problems)
    assert not any("Hounsfield" in one.text for one in verify_case(case_of(tmp_path, MR)).problems)


def test_identities_tell_modalities_apart_and_leave_those_of_ct(tmp_path):
    """The same bytes read as MR are other numbers; what CT had as identity before there was a choice, it still has."""
    prints = {one: fingerprint_cases([case_of(tmp_path, one)]) for one in MODALITIES}
    assert len(set(prints.values())) == len(MODALITIES)
    hashes = [sha256_of(tmp_path / name) for name in ("image.nii.gz", "label.nii.gz")]
    assert prints[CT] == digest([("a", *hashes)])
    cache, recipe = Cache(tmp_path / "cache"), Preprocessing(None, None)
    np.testing.assert_allclose(cache.prepared(case_of(tmp_path, CT), recipe).array, brain(), atol=1e-2)
    np.testing.assert_allclose(
        cache.prepared(case_of(tmp_path, MR), recipe).array, on_common_scale(brain(), MR), atol=0.3
    )


@pytest.mark.parametrize("layout", ["msd", "table"])
def test_folders_and_tables_say_their_modality(tmp_path, layout):
    root = write_msd(tmp_path / "in")
    if layout == "msd":
        path = root / "dataset.json"
        path.write_text(path.read_text().replace('"CT"', '"T2w"'))
        dataset = load_folder(root)
    else:
        lines = [f"imagesTr/case_{n}.nii.gz,labelsTr/case_{n}.nii.gz,mr" for n in range(4)]
        (root / "t.csv").write_text("\n".join(["image,label,modality", *lines]))
        dataset = load_folder(root / "t.csv", 1)
        (root / "mixed.csv").write_text("\n".join(["image,label,modality", lines[0], lines[1].replace("mr", "CT")]))
        with pytest.raises(UserError, match="scans of CT, MR; a dataset has one modality"):
            load_folder(root / "mixed.csv", 1)
    assert dataset.modality == MR
    assert {case.modality for case in dataset.cases.values()} == {MR}
    target = intensity_statistics(dataset.cases.values(), dataset.targets[0])
    label = [case.load() for case in dataset.cases.values()]
    drawn = np.concatenate([volume.array[mask == 1] for volume, mask in label])
    assert target.window == pytest.approx(np.percentile(drawn, (0.5, 99.5)), rel=1e-5)
    assert replace(dataset, cases={}).modality == CT


def test_the_real_brain(shared):
    folder = shared / "real_cases" / "single" / "brain_brats2013_pat0005_t1c"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    case = Case("brain", "pat0005", folder / "image.nii.gz", folder / "label.nii.gz", modality=MR)
    volume, label = case.load()
    head = volume.array[volume.array > volume.array.min()]
    np.testing.assert_allclose(np.percentile(head, (0.5, 99.5)), (-160, 240), atol=2)
    enhancing, white = volume.array[label == 4].mean(), np.median(head)
    assert -160 < white < enhancing < 240
