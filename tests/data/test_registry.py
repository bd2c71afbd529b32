"""What is added is checked, found again with its bad cases left out, and forgotten without a trace."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.common.errors import UserError
from benchmarks.data import registry
from benchmarks.data.phantom import synthesise
from benchmarks.data.verify import statistics
from tests.plain_user import as_plain_user, closed, not_utf8
from tests.scan_folders import write_msd


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(registry.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path) -> Path:
    return synthesise("lits17", tmp_path, 4, 8, scale=0.4)


def blank(folder: Path, number: int) -> None:
    (path,) = folder.rglob(f"volume-{number}.nii")
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.int16), image.affine), path)


def test_added_listed_found_and_forgotten(home, folder):
    seen = []
    found = registry.add(
        registry.Registration("lits17", folder), opened=lambda d: seen.append(len(d.cases)), progress=seen.append
    )
    assert seen[0] == 8
    assert len(seen) == 9
    assert (found.cases, dict(found.excluded)) == (8, {})
    assert registry.resolve("lits17") == folder
    assert registry.registrations() == {"lits17": found}
    assert registry.problem_rows(found) == []
    rows = {row["quantity"]: row for row in statistics(found.reports)}
    assert rows["liver-tumor (ml)"]["cases"] == 8
    dataset = registry.load("lits17")
    assert len(dataset.cases) == 8
    assert dataset.synthetic
    before = sorted(folder.rglob("*"))
    assert registry.remove("lits17") == folder
    assert sorted(folder.rglob("*")) == before
    assert registry.resolve("lits17") is None


def test_bad_cases_are_left_out_and_listed(home, folder):
    blank(folder, 2)
    (label,) = folder.rglob("segmentation-5.nii")
    label.unlink()
    found = registry.add(registry.Registration("lits17", folder))
    assert found.cases == 6
    rows = {row["case"]: row["what"] for row in registry.problem_rows(found)}
    assert "every voxel is 0" in rows["volume-2"]
    assert "image without label" in rows["volume-5"]
    dataset = registry.load("lits17")
    assert set(dataset.excluded) == {"volume-2", "volume-5"}
    assert "every voxel is 0" in dataset.excluded["volume-2"]
    assert not {"volume-2", "volume-5"} & {i for part in vars(dataset.splits[0]).values() for i in part}


def test_a_changed_file_is_not_used_unchecked(home, folder):
    registry.add(registry.Registration("lits17", folder))
    (label,) = folder.rglob("segmentation-3.nii")
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine), label)
    with pytest.raises(UserError, match="volume-3: changed since its check; run `tags-bench data verify lits17`"):
        registry.load("lits17")
    registry.verify_again("lits17")
    assert len(registry.load("lits17").cases) == 8
    label.unlink()
    with pytest.raises(UserError, match="volume-3: image without label"):
        registry.load("lits17")


def test_new_cases_wait_for_a_check(home, folder):
    (image,), (label,) = folder.rglob("volume-7.nii"), folder.rglob("segmentation-7.nii")
    kept = image.read_bytes(), label.read_bytes()
    image.unlink()
    label.unlink()
    registry.add(registry.Registration("lits17", folder))
    image.write_bytes(kept[0])
    label.write_bytes(kept[1])
    dataset = registry.load("lits17")
    assert "volume-7" not in dataset.cases
    assert "was not there" in dataset.excluded["volume-7"]
    assert registry.verify_again("lits17").cases == 8


def test_own_data_keep_their_words(home, tmp_path):
    root = tmp_path / "mine"
    random = np.random.default_rng(0)
    for role, make in (
        ("imagesTr", lambda: random.integers(-900, 900, (9, 8, 7)).astype(np.int16)),
        ("labelsTr", lambda: random.integers(0, 3, (9, 8, 7)).astype(np.uint8)),
    ):
        (root / role).mkdir(parents=True)
        for i in range(4):
            nib.save(nib.Nifti1Image(make(), np.eye(4)), root / role / f"x_{i}.nii.gz")
    pairs = [{"image": f"./imagesTr/x_{i}.nii.gz", "label": f"./labelsTr/x_{i}.nii.gz"} for i in range(4)]
    content = {"labels": {"0": "b", "1": "lung", "2": "nodule"}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="choose the label"):
        registry.add(registry.Registration("mine", root))
    registry.add(registry.Registration("mine", root, target="nodule", organ="lung"))
    (target,) = registry.load("mine").targets
    assert (target.name, target.labels, target.organ_labels) == ("lung-nodule", (2,), (1,))
    assert registry.verify_again("mine") == registry.registration("mine")


def test_data_without_any_target_are_refused(home, tmp_path):
    """Masks of 0 and 255, as image programs write them."""
    folder = write_msd(tmp_path / "scans")
    pairs = [f"{image},{folder / 'labelsTr' / image.name}" for image in sorted(folder.glob("imagesTr/*"))]
    (folder / "pairs.csv").write_text("\n".join(["image,label", *pairs]))
    for path in folder.glob("labelsTr/*"):
        label = nib.load(path)
        nib.save(nib.Nifti1Image((np.asarray(label.dataobj) * 255).astype(np.uint8), label.affine), path)
    with pytest.raises(
        UserError, match=r"none of the 4 cases holds the target 'label-1' \(label 1\); .* values 0, 255;"
    ):
        registry.add(registry.Registration("mine", folder / "pairs.csv", target=1))
    assert registry.registrations() == {}
    assert registry.add(registry.Registration("mine", folder / "pairs.csv", target=255)).cases == 4


def test_a_report_that_names_no_label_values_is_read(home, folder):
    """As entries of before have it."""
    registry.add(registry.Registration("lits17", folder))
    path = home / "registry" / "lits17.json"
    content = json.loads(path.read_text())
    for report in content["reports"]:
        assert report.pop("label_values") == [0, 1, 2]
    path.write_text(json.dumps(content))
    assert {report.label_values for report in registry.registration("lits17").reports} == {()}


def test_words_for_the_target_of_a_known_dataset_need_its_label(home, folder):
    """Without it the dataset is the official one, whose target is announced: the words would count for nothing."""
    with pytest.raises(UserError, match=r"'lits17': organ 'spleen' is not its target, which is liver-tumor .*--target"):
        registry.add(registry.Registration("lits17", folder, organ="spleen"))
    assert registry.registrations() == {}
    registry.add(registry.Registration("lits17", folder, organ="liver"))
    registry.add(registry.Registration("lits17", folder, target="2", organ="spleen"))
    assert registry.load("lits17").targets[0].organ == "spleen"


def test_a_root_that_is_not_utf8_is_refused_before_the_check(home, folder):
    seen = []
    with pytest.raises(UserError, match=r"lits17.*\\udce9.*: a name that is not UTF-8 cannot be kept") as caught:
        registry.add(registry.Registration("lits17", not_utf8(folder)), opened=seen.append, progress=seen.append)
    assert str(caught.value).isprintable()
    assert seen == []
    assert registry.registrations() == {}


def test_files_that_are_not_utf8_are_left_out_and_kept_as_they_are_shown(home, folder):
    """Mutant: what cannot be written is found out after every voxel was read."""
    (label,) = folder.rglob("segmentation-5.nii")
    label.unlink()
    not_utf8(label.parent)
    found = registry.add(registry.Registration("lits17", folder))
    assert found.cases == 7
    (reason,) = found.excluded.values()
    assert "image without label" in reason
    assert "\\udce9" in reason
    assert registry.registration("lits17") == found
    assert registry.load("lits17").excluded == found.excluded


def test_a_case_that_is_not_utf8_is_left_out_and_named(home, tmp_path):
    root = write_msd(tmp_path / "scans", 5)
    for role in ("imagesTr", "labelsTr"):
        not_utf8(root / role / "case_2.nii.gz")
    found = registry.add(registry.Registration("mine", root))
    assert found.cases == 4
    assert list(found.excluded) == ["case_2\\udce9"]
    assert registry.registration("mine") == found
    assert registry.load("mine").excluded == found.excluded


@pytest.mark.parametrize("place", ["..", "."])
def test_a_dataset_that_must_not_be_looked_into_any_more(open_place, place, monkeypatch):
    monkeypatch.setenv(registry.HOME_VARIABLE, str(open_place))
    root = write_msd(open_place / "above" / "scans")
    registry.add(registry.Registration("mine", root))
    closed(root / place)
    for call in (registry.verify_again, registry.load):
        with as_plain_user(), pytest.raises(UserError, match=r"scans: cannot be read \(Permission denied\)"):
            call("mine")


def test_the_dataset_folder_is_never_written_to(home, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in [folder, *folder.iterdir()]:
        if path.is_dir():
            path.chmod(0o555)
    try:
        registry.add(registry.Registration("lits17", folder))
        registry.load("lits17")
    finally:
        for path in [folder, *folder.iterdir()]:
            if path.is_dir():
                path.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_mistakes_are_one_line(home, folder, tmp_path):
    with pytest.raises(UserError, match="is not on this machine; `tags-bench data add kits21 --from DIR`"):
        registry.registration("kits21")
    registry.add(registry.Registration("lits17", folder))
    with pytest.raises(UserError, match="did you mean 'lits17'"):
        registry.registration("lits71")
    with pytest.raises(UserError, match="no name for a dataset"):
        registry.add(registry.Registration("../lits", folder))
    with pytest.raises(UserError, match="no case found"):
        registry.add(registry.Registration("kits21", folder))
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="is gone"):
        registry.resolve("lits17")
    (home / "registry" / "lits17.json").write_text("{")
    with pytest.raises(UserError, match="not readable"):
        registry.registration("lits17")


def test_a_data_home_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(registry.HOME_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UserError, match="TAGS_BENCH_DATA"):
        registry.add(registry.Registration("lits17", folder))


@pytest.mark.parametrize("name", ["../victim", "/etc/passwd", "a/b", "", "x" * 300, "Große"])
def test_no_name_leads_out_of_the_data_home(home, name):
    (home / "registry").mkdir(parents=True)
    (home / "victim.json").write_text("{}")
    for call in (registry.remove, registry.registration, registry.load, registry.resolve, registry.verify_again):
        with pytest.raises(UserError, match="is no name for a dataset"):
            call(name)
    assert (home / "victim.json").read_text() == "{}"


@pytest.mark.parametrize("content", ["{}", "[]", "null", "[" * 100_000, "\0"])
def test_a_damaged_entry_is_one_line(home, content):
    (home / "registry").mkdir(parents=True)
    (home / "registry" / "mine.json").write_text(content)
    with pytest.raises(UserError, match=r"mine\.json: not readable .*; remove it"):
        registry.registration("mine")


def challenge(root: Path, layout: str) -> Path:
    """Nine cases to learn from, three to test, and a scan without a label, in MSD's or nnU-Net's layout."""
    write_msd(root, cases=9)
    random = np.random.default_rng(5)
    for part in ("imagesTs", "labelsTs"):
        (root / part).mkdir()
    for number in range(3):
        label = nib.load(root / "labelsTr" / f"case_{number}.nii.gz")
        scan = random.normal(0, 40, label.shape).astype(np.int16)
        nib.save(nib.Nifti1Image(scan, label.affine), root / "imagesTs" / f"held_{number}.nii.gz")
        nib.save(label, root / "labelsTs" / f"held_{number}.nii.gz")
    nib.save(nib.Nifti1Image(scan + np.int16(1), label.affine), root / "imagesTs" / "unlabelled.nii.gz")
    if layout == "nnunet":
        for path in [*root.glob("images*/*")]:
            path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
        labels = {"background": 0, "tumour": 1}
        content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 9, "file_ending": ".nii.gz"}
        (root / "dataset.json").write_text(json.dumps(content))
    return root


def without_apart(home: Path) -> None:
    """An entry as earlier versions wrote it."""
    path = home / "registry" / "mine.json"
    content = json.loads(path.read_text())
    del content["apart"]
    path.write_text(json.dumps(content))


LEARNED, HELD = {f"case_{number}" for number in range(9)}, {f"held_{number}" for number in range(3)}


@pytest.mark.parametrize("layout", ["msd", "nnunet"])
@pytest.mark.parametrize("added", ["folders", None, "patient"])
@pytest.mark.parametrize("before", [False, True])
def test_any_split_of_a_dataset_that_was_added_with_another(home, tmp_path, layout, added, before):
    registry.add(registry.Registration("mine", challenge(tmp_path / "scans", layout), splits=added))
    if before:
        without_apart(home)
    by_patient = registry.load("mine", splits="patient")
    assert set(by_patient.cases) == LEARNED
    assert {case for split in by_patient.splits for case in split.test} == LEARNED
    if before and added != "folders":
        with pytest.raises(UserError, match="what lies in imagesTs was not checked; run `tags-bench data verify mine`"):
            registry.load("mine", splits="folders")
        registry.verify_again("mine")
    by_folder = registry.load("mine", splits="folders")
    assert set(by_folder.splits[0].test) == HELD
    assert {*by_folder.splits[0].train, *by_folder.splits[0].validation} == LEARNED
    assert by_folder.excluded == {}
    assert set(registry.load("mine").cases) == (LEARNED | HELD if added == "folders" else LEARNED)
    assert registry.verify_again("mine") == registry.registration("mine")


def test_what_is_wrong_in_images_to_test_costs_no_case_to_learn_from(home, tmp_path):
    """A copy of a scan that is learned from, a name that stands on both sides, and a label of another value."""
    root = challenge(tmp_path / "scans", "msd")
    (root / "imagesTs" / "held_0.nii.gz").write_bytes((root / "imagesTr" / "case_0.nii.gz").read_bytes())
    for part in ("images", "labels"):
        (root / f"{part}Ts" / "held_1.nii.gz").rename(root / f"{part}Ts" / "case_1.nii.gz")
        (root / f"{part}Ts" / "held_0.nii.gz").rename(root / f"{part}Ts" / "a.nii.gz")  # before the others
    label = nib.load(root / "labelsTs" / "held_2.nii.gz")
    nib.save(
        nib.Nifti1Image(np.asarray(label.dataobj) * np.uint8(7), label.affine), root / "labelsTs" / "held_2.nii.gz"
    )
    found = registry.add(registry.Registration("mine", root))
    assert found.cases == 9
    assert found.excluded == {
        "a": "the same scan as case case_0", "held_2": "label values 7 are not of this dataset (known: (0, 1))",
    }  # fmt: skip
    assert set(registry.load("mine").cases) == LEARNED


def test_files_to_test_that_changed_matter_where_they_are_tested(home, tmp_path):
    root = challenge(tmp_path / "scans", "msd")
    registry.add(registry.Registration("mine", root))
    (root / "labelsTs" / "held_1.nii.gz").unlink()
    assert set(registry.load("mine").cases) == LEARNED
    with pytest.raises(UserError, match="mine, case held_1: missing; run `tags-bench data verify mine`"):
        registry.load("mine", splits="folders")
