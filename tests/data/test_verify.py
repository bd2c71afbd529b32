"""The full check finds what was broken on purpose, and nothing else."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from benchmarks.common.errors import UserError
from benchmarks.data import verify as verification
from benchmarks.data.catalogue import load_dataset, load_folder
from benchmarks.data.dataset import Case
from benchmarks.data.figures import statistics_figure
from benchmarks.data.file_doubts import file_doubts
from benchmarks.data.phantom import synthesise
from benchmarks.data.verify import CaseReport, Problem, in_processes, problems, statistics, verify, without_bad_cases
from tests.scan_folders import write_msd


@pytest.fixture
def folder(tmp_path) -> Path:
    return synthesise("lits17", tmp_path, 4, 8, scale=0.4)


def path_of(folder: Path, role: str, number: int) -> Path:
    (path,) = folder.rglob(f"{role}-{number}.nii")
    return path


def change(path: Path, function) -> None:
    image = nib.load(path)
    array = function(np.array(image.dataobj))
    nib.save(nib.Nifti1Image(array, image.affine), path)


def test_a_good_dataset_has_no_problem(folder):
    dataset = load_dataset("lits17", folder)
    reports = verify(dataset)
    assert problems(reports) == []
    assert without_bad_cases(dataset, reports) == dataset
    for report in reports:
        volume, label = dataset.cases[report.case_id].load()
        size = report.targets["liver-tumor"]
        assert (report.shape, report.spacing) == (volume.shape, volume.spacing)
        assert size.voxels == (label == 2).sum()
        assert size.millilitres == pytest.approx(size.voxels * np.prod(volume.spacing) / 1000)
        assert size.lesions == ndimage.label(label == 2, np.ones((3, 3, 3)))[1]
        np.testing.assert_allclose(report.intensities, np.percentile(volume.array, (0.5, 50, 99.5)), atol=1)


@pytest.mark.parametrize(("lean", "turn", "said"), [(0.0, 33.0, 0), (0.5, 0.0, 0), (2.0, 0.0, 1), (20.0, 33.0, 1)])
def test_sheared_axes_are_said_and_turned_ones_are_not(tmp_path, lean, turn, said):
    """A lean of less than the 1.15 degrees (2 % of a slice distance) that the DICOM import allows is rounding."""
    angle = np.deg2rad(turn)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] = affine[:3, :3] @ [[0.8, 0, 0], [0, 0.8, 3 * np.tan(np.deg2rad(lean))], [0, 0, 3]]
    affine[:3, 3] = (-20, 30, 10)
    image = nib.Nifti1Image(np.zeros((9, 8, 7), np.int16), None)
    image.set_sform(affine, code=1)
    nib.save(image, tmp_path / "a.nii.gz")
    assert ["not at right angles" in one for one in file_doubts(tmp_path / "a.nii.gz")] == [True] * said


def test_statistics_of_a_dataset(folder):
    change(path_of(folder, "segmentation", 1), lambda a: np.where(a == 2, 1, a).astype(np.uint8))
    dataset = load_dataset("lits17", folder)
    rows = {row["quantity"]: row for row in statistics(verify(dataset))}
    pairs = [case.load() for case in dataset.cases.values()]
    spacings = [volume.spacing[2] for volume, _ in pairs]
    row = rows["spacing z (mm)"]
    assert (row["min"], row["median"], row["max"]) == pytest.approx(
        (min(spacings), np.median(spacings), max(spacings)), rel=1e-4
    )
    volumes = [(label == 2).sum() * np.prod(v.spacing) / 1000 for v, label in pairs if (label == 2).any()]
    row = rows["liver-tumor (ml)"]
    assert row["cases"] == 7
    assert (row["q25"], row["q75"]) == pytest.approx(tuple(np.quantile(volumes, (0.25, 0.75))), rel=1e-4)
    assert rows["voxels x"]["cases"] == 8


def test_what_is_broken_is_found(folder):
    change(path_of(folder, "segmentation", 0), lambda a: np.where(a == 2, 7, a).astype(np.uint8))
    change(path_of(folder, "segmentation", 1), lambda a: np.where(a == 2, 1, a).astype(np.uint8))
    change(path_of(folder, "volume", 2), lambda a: np.zeros_like(a))
    change(path_of(folder, "volume", 3), lambda a: (a + 1024).astype(np.int16))
    change(path_of(folder, "segmentation", 4), lambda a: a + np.float32(0.5))
    dataset = load_dataset("lits17", folder)
    reports = verify(dataset)
    found = {(one.case_id, one.severity): one.text for one in problems(reports)}
    assert "label values 7 are not of this dataset" in found["volume-0", "error"]
    assert "no voxel of the target 'liver-tumor'" in found["volume-1", "warning"]
    assert "every voxel is 0" in found["volume-2", "error"]
    assert "Hounsfield" in found["volume-3", "warning"]
    assert "whole numbers" in found["volume-4", "error"]
    assert {case_id for case_id, _ in found} == {f"volume-{i}" for i in range(5)}
    assert [one.severity for one in problems(reports)] == sorted(one.severity for one in problems(reports))
    rest = without_bad_cases(dataset, reports)
    bad = {"volume-0", "volume-2", "volume-4"}
    assert set(rest.excluded) == bad
    assert set(rest.cases) == set(dataset.cases) - bad
    assert not bad & {i for split in rest.splits for part in vars(split).values() for i in part}


def table_of(folder: Path, image: str, label: str, cases: int) -> Path:
    """A table of pairs: nothing says which values its label maps may hold."""
    lines = [f"{folder / image / f'case_{i}.nii.gz'},{folder / label / f'case_{i}.nii.gz'}" for i in range(cases)]
    (folder / "pairs.csv").write_text("\n".join(["image,label", *lines]))
    return folder / "pairs.csv"


def test_a_table_with_image_and_label_the_wrong_way_round(tmp_path):
    dataset = load_folder(table_of(write_msd(tmp_path / "scans"), "labelsTr", "imagesTr", 4), 1)
    reports = verify(dataset)
    assert [report.usable for report in reports] == [False] * 4
    assert all("image and label the wrong way round" in problems([one])[0].text for one in reports)
    with pytest.raises(UserError, match=r"no usable case among 4; .*label values below 0 \(down to -"):
        without_bad_cases(dataset, reports)


@pytest.mark.parametrize(("values", "usable"), [(255, True), (256, False)])
def test_a_label_map_may_number_its_lesions_and_no_more(tmp_path, values, usable):
    folder = write_msd(tmp_path / "scans", cases=1)
    change(
        folder / "labelsTr" / "case_0.nii.gz", lambda a: (np.arange(a.size) % values).reshape(a.shape).astype(np.int16)
    )
    (report,) = verify(load_folder(table_of(folder, "imagesTr", "labelsTr", 1), 1))
    assert report.usable == usable
    assert any(one.text.startswith("256 different label values") for one in report.problems) == (not usable)


def test_values_below_0_that_are_declared_are_left_to_the_data_set(tmp_path):
    folder = write_msd(tmp_path / "scans", cases=1, labels={"0": "background", "1": "tumour", "-1": "outside"})
    change(folder / "labelsTr" / "case_0.nii.gz", lambda a: a.astype(np.int16) - (a == 0))
    (report,) = verify(load_folder(folder, 1))
    assert report.usable


def test_the_same_scan_under_two_names(folder):
    """Stored with other axes and another origin, it is still the same scan."""
    source, copy = path_of(folder, "volume", 1), path_of(folder, "volume", 5)
    image = nib.load(source)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("PSL"))
    nib.save(turned, copy)
    label = nib.load(path_of(folder, "segmentation", 1))
    nib.save(label.as_reoriented(nib.orientations.axcodes2ornt("PSL")), path_of(folder, "segmentation", 5))
    reports = verify(load_dataset("lits17", folder))
    (problem,) = problems(reports)
    assert (problem.case_id, problem.severity) == ("volume-5", "error")
    assert problem.text == "the same scan as case volume-1"


def test_a_scan_is_not_lost_to_a_bad_copy_of_it(folder):
    """A label map was mended under a new name, and the old one is still there; a third copy is one too many."""
    for copy in (3, 5):
        for role in ("volume", "segmentation"):
            path_of(folder, role, copy).write_bytes(path_of(folder, role, 1).read_bytes())
    change(path_of(folder, "segmentation", 1), lambda a: np.where(a == 2, 7, a).astype(np.uint8))
    dataset = load_dataset("lits17", folder)
    found = {one.case_id: one.text for one in problems(verify(dataset)) if one.severity == "error"}
    assert list(found) == ["volume-1", "volume-5"]
    assert found["volume-1"].startswith("label values 7 are not of this dataset")
    assert found["volume-5"] == "the same scan as case volume-3"
    assert "volume-3" in without_bad_cases(dataset, verify(dataset)).cases


def test_progress_and_several_at_once(folder):
    dataset = load_dataset("lits17", folder)
    seen = []
    with ThreadPoolExecutor(2) as pool:
        reports = verify(dataset, each=pool.map, progress=lambda report: seen.append(report.case_id))
    assert seen == list(dataset.cases)
    assert reports == verify(dataset)


def test_in_processes(folder, monkeypatch):
    dataset = load_dataset("lits17", folder)
    alone = verify(dataset)
    assert verify(dataset, each=in_processes) == alone  # so little is not worth a process
    monkeypatch.setattr(verification, "WORTHWHILE_BYTES", 0)
    assert verify(dataset, each=partial(in_processes, processes=2)) == alone
    with pytest.raises(UserError, match="was killed"):
        list(in_processes(_killed, dataset.cases.values(), processes=2))


def _killed(case: Case) -> CaseReport:
    os.kill(os.getpid(), signal.SIGKILL)


def test_nothing_usable(folder):
    for i in range(8):
        change(path_of(folder, "volume", i), lambda a: np.zeros_like(a))
    dataset = load_dataset("lits17", folder)
    with pytest.raises(UserError, match="no usable case among 8; volume-0 and 7 more: every voxel is 0"):
        without_bad_cases(dataset, verify(dataset))


def test_the_reasons_of_most_cases_come_first(folder):
    dataset = load_dataset("lits17", folder)
    reasons = ["too dark", "cut off", "too dark", "odd", "cut off", "too dark", "empty", "alone"]
    bad = [
        CaseReport(case, problems=(Problem(case, "error", why),))
        for case, why in zip(dataset.cases, reasons, strict=True)
    ]
    with pytest.raises(UserError) as caught:
        without_bad_cases(dataset, bad)
    first, *others = list(dataset.cases)
    expected = f"{first} and 2 more: too dark; {others[0]} and 1 more: cut off; {others[2]}: odd; and 2 more bad cases"
    assert str(caught.value) == f"lits17: no usable case among 8; {expected}"


@pytest.mark.slow
def test_sarcoma_folder_is_clean(shared):
    root = shared / "real_cases" / "soft_tissue_sarcoma"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    reports = verify(load_folder(root))
    assert len(reports) == 24
    assert all(report.usable for report in reports)
    assert all(report.targets["sarcoma"].voxels > 100 for report in reports)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_figure_of_a_dataset(folder, tmp_path, suffix):
    change(path_of(folder, "segmentation", 1), lambda a: np.where(a == 2, 1, a).astype(np.uint8))
    path_of(folder, "volume", 2).write_bytes(b"broken")
    reports = verify(load_dataset("lits17", folder, strict=False))
    path = statistics_figure(reports, tmp_path / "figures" / f"lits{suffix}", "LiTS17")
    content = path.read_bytes()
    assert len(content) > 5000
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    if suffix == ".svg":
        assert all(word in content.decode() for word in ("spacing (mm)", "liver-tumor (ml)", "lesions"))
    with pytest.raises(UserError, match="nothing to draw"):
        statistics_figure([], path)
    with pytest.raises(UserError, match="cannot be written"):
        statistics_figure(reports, path / "below a file.png")
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    with pytest.raises(UserError, match="not supported"):
        statistics_figure(reports, tmp_path / "figure.xyz")
