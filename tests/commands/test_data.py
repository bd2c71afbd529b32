"""`data`: datasets are added, checked and used by name; licences are asked for."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.common.errors import UserError
from benchmarks.data.splits import StoredSplits
from tests.scan_folders import write_msd


def test_a_dataset_is_added_checked_and_used_by_name(call, tmp_path: Path) -> None:
    folder = write_msd(tmp_path / "scans", cases=6)
    label = nib.load(folder / "labelsTr" / "case_3.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), folder / "labelsTr" / "case_3.nii.gz")
    added = json.loads(call("data", "add", "mine", "--from", str(folder), "--json").out)
    assert added["cases"] == 6
    assert any(row["case"] == "case_3" and "target" in row["what"] for row in added["problems"])
    assert json.loads(call("data", "list", "--json").out)[0]["name"] == "mine"
    stats = call("data", "stats", "mine", "--figure", "figure.svg")
    assert stats.code == 0, stats.err
    assert Path("figure.svg").is_file()
    outcome = call("data", "splits", "mine", "--json", "--out", "mine.patient.json")
    rows, sha256 = json.loads(outcome.out), re.findall(r"SHA-256 of the file: (\w+)", outcome.err)
    written = json.loads(Path("mine.patient.json").read_text())["folds"]
    stored = StoredSplits("mine", by_patient=sha256[0], folder=Path())  # as the author of a dataset takes it over
    assert [list(fold.test) for fold in stored.folds(stored.cases())] == [fold["test"] for fold in written]
    mistaken = StoredSplits("mine", by_patient=rows[0]["sha256"], folder=Path())
    with pytest.raises(UserError, match=f"its SHA-256 is {sha256[0]}, and {rows[0]['sha256']} was announced"):
        mistaken.cases()
    assert [row["sha256"] for row in rows] == [fold["sha256"] for fold in written]
    assert [row["test"] for row in rows] == [len(fold["test"]) for fold in written]
    table = tmp_path / "pairs.csv"
    pairs = [f"{image},{image.parent.with_name('labelsTr') / image.name}" for image in folder.glob("imagesTr/*")]
    table.write_text("\n".join(["image,label", *pairs]))
    assert json.loads(call("data", "add", "table", "--from", str(table), "--target", "1", "--json").out)["cases"] == 6
    assert call("data", "verify", "mine").code == 0
    assert call("data", "remove", "mine").code == 0
    outcome = call("data", "verify", "mine")
    assert outcome.code == 2
    assert (folder / "imagesTr" / "case_0.nii.gz").is_file()


def test_cases_that_no_split_reads_are_checked_and_not_counted(call, tmp_path: Path) -> None:
    """Those of imagesTs, of data that were added without `--splits folders`."""
    folder = write_msd(tmp_path / "scans", cases=6)
    for part, more in (("images", 1), ("labels", 0)):
        image = nib.load(folder / f"{part}Tr" / "case_0.nii.gz")
        (folder / f"{part}Ts").mkdir()
        changed = (np.asarray(image.dataobj) + more).astype(image.get_data_dtype())
        nib.save(nib.Nifti1Image(changed, image.affine), folder / f"{part}Ts" / "held.nii.gz")
    assert json.loads(call("data", "add", "mine", "--from", str(folder), "--json").out)["cases"] == 6
    rows = json.loads(call("data", "stats", "mine", "--json").out)
    assert {row["cases"] for row in rows} == {6}
    (entry,) = tmp_path.rglob("registry/mine.json")
    assert list(json.loads(entry.read_text())["apart"]) == ["held"]


def test_a_name_that_stands_for_another_folder_is_said(call, tmp_path: Path) -> None:
    first, second = (str(write_msd(tmp_path / name)) for name in ("first", "second"))
    assert "was added for" not in call("data", "add", "mine", "--from", first).err
    assert "was added for" not in call("data", "add", "mine", "--from", "first").err  # the same one
    done = call("data", "add", "mine", "--from", second)
    assert f"note: 'mine' was added for {first}; {second} takes its place once it is checked" in done.err
    (entry,) = tmp_path.rglob("registry/mine.json")
    entry.write_text("{")
    assert call("data", "add", "mine", "--from", second).code == 0


def test_a_folder_that_must_not_be_looked_into(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all that asks the disk; tests/data asks a real one."""
    folder, stat = write_msd(tmp_path / "scans"), os.stat

    def refuse(path, *args, **options):
        if str(path).startswith(str(folder)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    for words in (("data", "add", "mine", "--from"), ("run", "--methods", "ball", "--data")):
        done = call(*words, str(folder))
        assert (done.code, len(done.errors)) == (2, 1)
        assert f"{folder}: cannot be read (Permission denied)" in done.errors[0]


def test_fetching_needs_the_licence(call) -> None:
    outcome = call("data", "fetch", "msd-pancreas")
    assert outcome.code == 2
    assert "licence" in outcome.err
    assert "did you mean 'kits21'" in call("data", "fetch", "kits").err


def test_phantoms_are_written_and_called_synthetic(call) -> None:
    rows = json.loads(call("data", "synth", "--dataset", "lits17", "--cases", "3", "--json").out)
    assert rows[0]["synthetic"] is True
    assert (Path(rows[0]["folder"]) / "SYNTHETIC.txt").is_file()


def test_phantoms_that_were_copied_are_called_synthetic(call) -> None:
    """As the tutorial copies them."""
    from benchmarks.data import registry
    from benchmarks.execution.datasets import data_line

    (row,) = json.loads(call("data", "synth", "--dataset", "msd-pancreas", "--cases", "3", "--json").out)
    shutil.copytree(Path(row["folder"]) / "Task07_Pancreas", "my-scans")
    assert call("data", "add", "my-scans", "--from", "my-scans", "--target", "2").code == 0
    assert "synthetic" in json.loads(call("data", "list", "--json").out)[0]["licence"]
    assert "3 SYNTHETIC phantoms, no patients" in data_line(registry.load("my-scans"))


def test_dicom_of_two_modalities_is_asked_about(call, tmp_path: Path) -> None:
    """Mutant: the options of the choice are not handed on, or the modality is not said."""
    pytest.importorskip("pydicom")
    from benchmarks.data.dicom import files
    from tests.dicom_files import STRAIGHT, box_contours, scan, write_rtstruct, write_series

    write_series(tmp_path / "in" / "a" / "ct", scan(), SeriesInstanceUID="1.1")
    write_series(tmp_path / "in" / "a" / "mr", scan(), kind=files.MR_STORAGE, SeriesInstanceUID="1.2", Modality="MR")
    for name in ("one.dcm", "two.dcm"):
        write_rtstruct(tmp_path / "in" / "a" / name, {"GTV": box_contours()}, STRAIGHT)
    words = ["data", "import-dicom", "in", "--out", "out", "--label", "GTV=1"]
    done = call(*words)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "choose with --modality" in done.errors[0]
    done = call(*words, "--modality", "mr")
    assert "choose one with --annotation" in done.errors[0]
    done = call(*words, "--modality", "mr", "--annotation", "two", "--json")
    assert done.code == 0
    counts = {"cases": 1, "patients": 1}
    assert json.loads(done.out) == {"folder": "out", "modality": "MR", **counts, "failed": {}, "notes": {}}


def test_cases_of_one_patient_are_spoken_of(call, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from tests.dicom_files import STRAIGHT, box_contours, scan, write_rtstruct, write_series

    for case, patient in (("base", "17"), ("later", "17"), ("other", "18")):
        write_series(tmp_path / "in" / case, scan(), PatientID=patient)
        write_rtstruct(tmp_path / "in" / case / "rs.dcm", {"GTV": box_contours()}, STRAIGHT)
    done = call("data", "import-dicom", "in", "--out", "out", "--label", "GTV=1")
    assert done.code == 0
    assert "note: 3 cases are of 2 patients by their PatientID; `patients` in out/dataset.json" in done.err
    done = call("data", "import-dicom", "in", "--out", "again", "--label", "GTV=1", "--json")
    assert {key: json.loads(done.out)[key] for key in ("cases", "patients")} == {"cases": 3, "patients": 2}
