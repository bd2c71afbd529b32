"""Loaders on small hand-made folders in the official layouts, good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from benchmarks.common.errors import UserError
from benchmarks.data import registry
from benchmarks.data.catalogue import (
    Reading,
    dataset_source,
    datasets,
    intensity_statistics,
    load_dataset,
    load_folder,
    load_own,
    phantom_names,
)
from benchmarks.data.dataset import target_mask
from benchmarks.data.layouts import lits17
from benchmarks.data.splits import patient_folds
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.entries import OwnData
from benchmarks.metrics.folders import score_folders
from tests.plain_user import as_plain_user, closed

SHAPE = (8, 7, 6)


def save(path: Path, values: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) if values is None else values
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


def label(*values: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        array[place] = value
    return array


def kits(root: Path, numbers: range = range(3)) -> Path:
    for i in numbers:
        save(root / f"case_{i:05d}" / "imaging.nii.gz")
        save(root / f"case_{i:05d}" / "aggregated_MAJ_seg.nii.gz", label(1, 2, 3))
    return root


def msd(root: Path, prefix: str, numbers: range, labels: dict[str, str], listed: range | None = None) -> Path:
    for i in numbers:
        save(root / "imagesTr" / f"{prefix}_{i:03d}.nii.gz")
        save(root / "labelsTr" / f"{prefix}_{i:03d}.nii.gz", label(1, 2))
    pairs = [
        {"image": f"./imagesTr/{prefix}_{i:03d}.nii.gz", "label": f"./labelsTr/{prefix}_{i:03d}.nii.gz"}
        for i in listed or numbers
    ]
    content = {"labels": labels, "training": pairs, "modality": {"0": "CT"}, "licence": "CC BY 4.0"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


PANCREAS = {"0": "background", "1": "pancreas", "2": "cancer"}


@pytest.mark.parametrize("inner", ["", "data"])
def test_kits21(tmp_path, inner):
    kits(tmp_path / inner)
    dataset = load_dataset("kits21", tmp_path, splits="patient")
    assert list(dataset.cases) == ["case_00000", "case_00001", "case_00002"]
    _, array = dataset.cases["case_00001"].load()
    mask = target_mask(array, dataset.target("kidney-tumor"))
    assert mask.sum() == SHAPE[1] * SHAPE[2]
    assert not dataset.synthetic
    assert dataset.notes == ("partial download: 3 of 300 cases",)


def test_partial_download_uses_the_intersection_and_says_so(tmp_path):
    kits(tmp_path, range(10))
    dataset = load_dataset("kits21", tmp_path)
    (split,) = dataset.splits
    assert split.test == ("case_00002", "case_00005", "case_00007", "case_00008")
    assert len(split.train) == 6
    assert dataset.split_source == "3dsam-adapter, fold 0"
    assert any("cut down" in note for note in dataset.notes)
    assert any("10 of 300" in note for note in dataset.notes)


def test_split_without_test_cases_is_refused(tmp_path):
    kits(tmp_path, range(2))
    with pytest.raises(UserError, match=r"leaves no test case among the 2 present.*'patient'"):
        load_dataset("kits21", tmp_path)


@pytest.mark.parametrize("inner", ["", "Task07_Pancreas"])
def test_msd_pancreas(tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    msd(tmp_path / inner, "pancreas", range(4, 7), PANCREAS, range(4, 9))
    (tmp_path / inner / "imagesTr" / "._pancreas_004.nii.gz").write_bytes(b"macOS")
    dataset = load_dataset("msd-pancreas", tmp_path, splits="patient")
    assert len(dataset.cases) == 3  # the listed cases 7 and 8 were not downloaded
    assert dataset.target("pancreas-tumor").labels == (2,)
    assert not dataset.excluded


def test_msd_refuses_another_task(tmp_path):
    msd(tmp_path, "colon", range(1, 3), {"0": "background", "1": "colon cancer primaries"})
    with pytest.raises(UserError, match="no label 2; is this MSD Task07"):
        load_dataset("msd-pancreas", tmp_path)
    assert load_dataset("msd-colon", tmp_path, splits="patient").target("colon-tumor").labels == (1,)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_lits17_in_two_batches(tmp_path, suffix):
    for i in range(4):
        folder = tmp_path / f"Training Batch {1 + i % 2}"
        save(folder / f"volume-{i}{suffix}")
        save(folder / f"segmentation-{i}{suffix}", label(1, 2))
    save(tmp_path / f"test-volume-0{suffix}")
    dataset = load_dataset("lits17", tmp_path, splits="patient")
    assert list(dataset.cases) == [f"volume-{i}" for i in range(4)]


def test_a_whole_disk_is_not_searched_for_lits17(tmp_path, monkeypatch, caplog):
    """As with `--from /`: the walk ends early, and says so."""
    (tmp_path / "deep").mkdir()
    for number in range(12):
        (tmp_path / "deep" / f"{number}.txt").touch()
    monkeypatch.setattr(lits17, "MOST_BELOW", 10)
    with pytest.raises(UserError, match="more than 10 files below it; name the folder of the dataset"):
        load_dataset("lits17", tmp_path)
    with pytest.raises(UserError):
        load_folder(tmp_path)
    assert "more than 10 files below it" in caplog.text
    monkeypatch.setattr(lits17, "MOST_BELOW", 13)
    with pytest.raises(UserError, match="no "):
        load_dataset("lits17", tmp_path)


def test_lits17_and_task03_give_the_same_cases(tmp_path):
    own = tmp_path / "lits"
    for i in range(6):
        save(own / f"volume-{i}.nii")
        save(own / f"segmentation-{i}.nii", label(1, 2))
    decathlon = tmp_path / "Task03_Liver"
    decathlon.mkdir()
    msd(decathlon, "liver", range(6), {"0": "background", "1": "liver", "2": "cancer"})
    for path in sorted(decathlon.glob("*Tr/*.gz")):
        path.rename(path.with_name(f"liver_{int(path.name[6:9])}.nii.gz"))
    content = (decathlon / "dataset.json").read_text().replace("liver_00", "liver_")
    (decathlon / "dataset.json").write_text(content)
    a, b = load_dataset("lits17", own, splits="patient"), load_dataset("lits17", tmp_path / "Task03_Liver")
    assert list(a.cases) == list(b.cases)
    assert a.splits == load_dataset("lits17", decathlon, splits="patient").splits
    assert b.splits[0].test == ("volume-0", "volume-5")


def test_task03_as_data_of_ones_own_has_the_patients_of_lits17(tmp_path):
    """Whatever reads them, the scans of LiTS17 and of Task03 fall on the same side of a split."""
    for folder, names in (("lits", "volume-{}"), ("task", "liver_{}")):
        lines = ["image,label"]
        for i in range(12):
            image = save(tmp_path / folder / f"{names.format(i)}.nii.gz")
            mask = save(tmp_path / folder / f"label-{i}.nii.gz", label(1, 2))
            lines.append(f"{image},{mask}")
        (tmp_path / f"{folder}.csv").write_text("\n".join(lines))
    own, decathlon = (load_folder(tmp_path / f"{name}.csv", 2) for name in ("lits", "task"))
    for a, b in zip(own.splits, decathlon.splits, strict=True):
        assert {i.replace("volume-", "liver_") for i in a.test} == set(b.test)
    both = tmp_path / "both.csv"
    both.write_text((tmp_path / "lits.csv").read_text() + "\n" + (tmp_path / "task.csv").read_text().split("\n", 1)[1])
    dataset = load_folder(both, 2)
    assert len(dataset.cases) == 24
    for split in dataset.splits:
        sides = [{dataset.cases[i].patient for i in part} for part in vars(split).values()]
        assert sum(map(len, sides)) == 12


def test_cases_that_no_stored_split_knows_are_listed(tmp_path):
    kits(tmp_path, range(10))
    kits(tmp_path, range(300, 302))
    for splits in (None, "patient"):
        dataset = load_dataset("kits21", tmp_path, splits=splits)
        assert len(dataset.cases) == 10
        assert "not one of the 300 official cases" in dataset.excluded["case_00301"]
        assert not {"case_00300", "case_00301"} & {i for s in dataset.splits for part in vars(s).values() for i in part}
    strangers = kits(tmp_path / "other", range(300, 305))
    with pytest.raises(UserError, match="case_00300 is not one of the 300 official cases of kits21"):
        load_dataset("kits21", strangers)


def test_stored_folds_of_a_partial_download(tmp_path):
    dataset = load_dataset("kits21", kits(tmp_path / "a", range(40)), splits="patient")
    assert dataset.split_source == "by patient, 5 stored folds"
    assert dataset.splits == dataset_source("kits21").splits.folds(dataset.cases)
    assert dataset.splits == load_dataset("kits21", tmp_path / "a", splits="patient", seed=7).splits
    few = load_dataset("kits21", kits(tmp_path / "b", range(3)), splits="patient")
    assert few.split_source == "by patient among the 3 cases present, too few for the stored folds"
    assert few.splits == patient_folds(few.cases)


def test_tumour_free_lits_scans_are_listed_as_left_out(tmp_path):
    for i in (0, 1, 2, 32):
        save(tmp_path / f"volume-{i}.nii")
        save(tmp_path / f"segmentation-{i}.nii", label(1))
    dataset = load_dataset("lits17", tmp_path)
    assert "tumour-free" in dataset.excluded["volume-32"]
    assert "volume-32" not in {*dataset.splits[0].train, *dataset.splits[0].test}


def nnunet(root: Path, names_to_values: bool = True, channels: int = 1) -> Path:
    for i in range(3):
        save(root / "imagesTr" / f"BRATS_{i}_0000.nii.gz")
        save(root / "labelsTr" / f"BRATS_{i}.nii.gz", label(1, 2))
    labels = {"background": 0, "kidney": 1, "mass": 2} if names_to_values else {"0": "b", "1": "kidney", "2": "mass"}
    channel_names = {str(i): "CT" for i in range(channels)}
    content = {"labels": labels, "channel_names": channel_names, "file_ending": ".nii.gz", "numTraining": 3}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("names_to_values", [True, False])
@pytest.mark.parametrize("wanted", [2, "2", "mass", "Mass"])
def test_nnunet_raw_folder(tmp_path, names_to_values, wanted):
    nnunet(tmp_path, names_to_values)
    dataset = load_folder(tmp_path, wanted, organ="kidney", name="mine")
    assert list(dataset.cases) == ["BRATS_0", "BRATS_1", "BRATS_2"]
    (target,) = dataset.targets
    assert (target.name, target.labels, target.organ_labels) == ("kidney-mass", (2,), (1,))
    assert dataset.name == "mine"
    assert [len(part) for part in vars(dataset.splits[0]).values()] == [1, 1, 1]


def test_nnunet_second_channel_is_refused(tmp_path):
    with pytest.raises(UserError, match="2 channels"):
        load_folder(nnunet(tmp_path, channels=2), 2)


def test_folder_with_several_labels_needs_a_target(tmp_path):
    nnunet(tmp_path)
    with pytest.raises(UserError, match="--target; labels: 1 kidney, 2 mass"):
        load_folder(tmp_path)
    with pytest.raises(UserError, match="no single label 'spleen'"):
        load_folder(tmp_path, "spleen")


def test_folder_recognises_the_official_layouts(tmp_path):
    assert load_folder(kits(tmp_path / "kits")).name == "kits21"
    save(tmp_path / "lits" / "volume-3.nii")
    save(tmp_path / "lits" / "segmentation-3.nii", label(1, 2))
    assert load_folder(tmp_path / "lits").name == "lits17"
    (cyst,) = load_folder(tmp_path / "kits", 3, organ="kidney", lesion="cyst").targets
    assert (cyst.name, cyst.labels, cyst.organ_labels) == ("kidney-cyst", (3,), (1,))
    (own,) = load_folder(tmp_path / "kits", lesion="carcinoma").targets
    assert (own.labels, own.lesion, own.window) == ((2,), "carcinoma", (-54.0, 247.0))
    with pytest.raises(UserError, match="files of kits21: no label '9'; its labels: 1, 2, 3"):
        load_folder(tmp_path / "kits", 9)


def test_official_files_go_by_the_name_that_the_user_gives(tmp_path):
    """Two targets of the same files are two datasets; what a method has seen is still looked up by the official one."""
    kits(tmp_path)
    cysts = load_folder(tmp_path, 3, organ="kidney", lesion="cyst", name="cysts")
    assert (cysts.name, cysts.known_as) == ("cysts", "kits21")
    assert {case.dataset for case in cysts.cases.values()} == {"cysts"}
    assert load_folder(tmp_path, name="kits21").recognised == ""
    with pytest.raises(UserError, match="these are files of kits21, not of lits17; give them another name"):
        load_folder(tmp_path, name="lits17")


@pytest.mark.parametrize("layout", ["lits17", "kits21"])
def test_scans_of_ones_own_in_an_official_layout(tmp_path, layout):
    """One case that is none of the official ones tells: all are read, by rules and facts of no other dataset."""
    root = tmp_path / "hospital"
    if layout == "lits17":
        cases = [f"volume-{i}" for i in range(126, 136)]
        lits(root, range(126, 136))
    else:
        cases = [f"case_{i:05d}" for i in range(295, 305)]
        kits(root, range(295, 305))
    for name in ("mine", None):
        dataset = load_folder(root, 1, organ="pancreas", lesion="cyst", name=name)
        assert (list(dataset.cases), dict(dataset.excluded)) == (sorted(cases), {})
        assert (dataset.name, dataset.known_as, dataset.licence) == (name or "hospital", name or "hospital", "")
        assert {case.dataset for case in dataset.cases.values()} == {name or "hospital"}
        assert (dataset.notes, dataset.label_values, dataset.source) == ((), (), str(root))
        assert dataset.splits == patient_folds(cases)
        (target,) = dataset.targets
        assert (target.name, target.labels, target.organ_labels) == ("pancreas-cyst", (1,), ())
    assert load_folder(root, 7).targets[0].labels == (7,), "which values there are nobody has said"
    with pytest.raises(UserError, match=f"the layout of {layout}, .* does not name its labels; .* with --target"):
        load_folder(root)
    official = load_folder(root, name=layout, strict=False)
    assert {case for case, why in official.excluded.items() if "need another name" in why} == set(cases[5:])
    root.rename(tmp_path / layout)
    assert load_folder(tmp_path / layout, 2).known_as == "folder", "the name of a folder does not make it official"


def test_official_cases_and_phantoms_stay_what_they_are(tmp_path):
    dataset = load_folder(lits(tmp_path / "some", range(3, 9)), name="mine")
    assert (dataset.known_as, dataset.licence) == ("lits17", "CC BY-NC-ND 4.0")
    root = lits(tmp_path / "phantoms", range(129, 134))
    (root / "SYNTHETIC.txt").touch()
    (root / "phantom.json").write_text('{"generator": "1", "seed": 0, "cases": 5, "scale": 1.0}')
    assert (load_folder(root, name="mine").known_as, len(load_folder(root).cases)) == ("lits17", 5)


def test_single_foreground_label_needs_no_target(tmp_path):
    msd(tmp_path, "x", range(1, 4), {"0": "background", "1": "sarcoma"})
    (target,) = load_folder(tmp_path).targets
    assert (target.name, target.lesion, target.labels) == ("sarcoma", "sarcoma", (1,))


# Bad input: one line each, naming the file.


def test_missing_empty_and_unknown(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_dataset("kits21", tmp_path / "none")
    with pytest.raises(UserError, match="the folder is empty"):
        load_dataset("kits21", tmp_path)
    with pytest.raises(UserError, match="unknown dataset 'kits12'; did you mean 'kits21'"):
        load_dataset("kits12", tmp_path)
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(UserError, match="no case found; expected layout"):
        load_dataset("kits21", tmp_path)
    with pytest.raises(UserError, match="no known layout"):
        load_folder(tmp_path)


def damage(root: Path, kind: str) -> str:
    folder = root / "case_00001"
    image, mask = folder / "imaging.nii.gz", folder / "aggregated_MAJ_seg.nii.gz"
    if kind == "image without label":
        mask.unlink()
    elif kind == "label without image":
        image.unlink()
    elif kind == "differs from the image's":
        save(mask, np.zeros((8, 7, 5), np.uint8))
    elif kind == "different grids":
        save(mask, label(1), np.diag([1.0, 2.0, 3.1, 1.0]))
    elif kind == "not a readable NIfTI":
        image.write_bytes(b"this is no scan")
    elif kind == "truncated":
        noise = np.random.default_rng(0).integers(-1000, 1000, size=(40, 40, 40)).astype(np.int16)
        save(image, noise)
        image.write_bytes(image.read_bytes()[:-2000])
    elif kind == "3D volume is needed":
        save(image, np.zeros((8, 7, 6, 2), np.int16))
    return kind


@pytest.mark.parametrize(
    "kind",
    [
        "image without label",
        "label without image",
        "differs from the image's",
        "different grids",
        "not a readable NIfTI",
        "truncated",
        "3D volume is needed",
    ],
)
def test_bad_cases(tmp_path, kind):
    root = kits(tmp_path, range(8))
    damage(root, kind)
    with pytest.raises(UserError, match=f"case_00001.*{kind}") as caught:
        load_dataset("kits21", root)
    assert "\n" not in str(caught.value)
    dataset = load_dataset("kits21", root, strict=False)
    assert "case_00001" not in dataset.cases
    assert len(dataset.cases) == 7
    assert kind in dataset.excluded["case_00001"]


def test_the_first_bad_case_raises_and_counts_the_others(tmp_path):
    root = kits(tmp_path, range(8))
    for i in (1, 2, 5):
        (root / f"case_{i:05d}" / "aggregated_MAJ_seg.nii.gz").unlink()
    with pytest.raises(UserError, match=r"case_00001.*\(and 2 more bad cases\)"):
        load_dataset("kits21", root)


def test_unlisted_msd_files_are_a_problem(tmp_path):
    msd(tmp_path, "pancreas", range(1, 5), PANCREAS, range(1, 4))
    with pytest.raises(UserError, match=r"pancreas_004: .*does not list it"):
        load_dataset("msd-pancreas", tmp_path, splits="patient")


def test_two_files_for_one_case(tmp_path):
    for i in range(4):
        save(tmp_path / f"volume-{i}.nii")
        save(tmp_path / f"segmentation-{i}.nii", label(1, 2))
    save(tmp_path / "volume-2.nii.gz")
    with pytest.raises(UserError, match="volume-2: two image files for one case"):
        load_dataset("lits17", tmp_path, splits="patient")


@pytest.mark.parametrize("image", ["../../imagesTr/x_001.nii.gz", "/etc/imagesTr/x_001.nii.gz", "other/x_001.nii.gz"])
def test_dataset_json_cannot_point_outside(tmp_path, image):
    msd(tmp_path, "x", range(1, 4), {"0": "background", "1": "sarcoma"})
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["training"][0]["image"] = image
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="do not lie in imagesTr"):
        load_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"labels": {"1": "a"}}', '{"labels": {"a": "b"}, "training": []}'])
def test_broken_dataset_json(tmp_path, text):
    save(tmp_path / "imagesTr" / "x.nii.gz")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: "):
        load_folder(tmp_path)


def lits(root: Path, numbers: range) -> Path:
    for i in numbers:
        save(root / f"volume-{i}.nii")
        save(root / f"segmentation-{i}.nii", label(1, 2))
    return root


@pytest.mark.parametrize("gone", ["both files", "the image", "the label"])
@pytest.mark.parametrize("layout", ["msd", "nnunet", "lits17", "kits21", "kits23"])
def test_a_case_of_dead_links_is_left_out_with_its_reason(tmp_path, layout, gone):
    """As git-annex, DataLad and DVC leave the files that were not fetched."""
    root, case = tmp_path / "data", {"msd": "x_001", "nnunet": "b", "lits17": "volume-1"}.get(layout, "case_00001")
    {
        "msd": lambda: msd(root, "x", range(4), {"0": "background", "1": "organ", "2": "tumour"}),
        "nnunet": lambda: nnunet_v2(root, {"background": 0, "organ": 1, "tumour": 2}),
        "lits17": lambda: lits(root, range(4)),
        "kits21": lambda: kits(root, range(4)),
        "kits23": lambda: kits23(root, range(4)),
    }[layout]()
    files = load_folder(root, 2).cases[case]
    for path in {"the image": [files.image], "the label": [files.label]}.get(gone, [files.image, files.label]):
        path.unlink()
        path.symlink_to(tmp_path / "annex" / "not-fetched.nii.gz")
    dataset = load_folder(root, 2, strict=False)
    assert set(dataset.excluded) == {case}
    assert "a dead link" in dataset.excluded[case]
    with pytest.raises(UserError, match=f"case {case}: .*: a dead link"):
        load_folder(root, 2)


def test_a_case_folder_that_is_a_dead_link_is_left_out(tmp_path):
    kits(tmp_path, range(3))
    (tmp_path / "case_00003").symlink_to(tmp_path / "nowhere")
    assert "neither imaging" in load_dataset("kits21", tmp_path, splits="patient", strict=False).excluded["case_00003"]


def test_lits_batches_may_be_links(tmp_path):
    """Also one that leads back up, and two to the same folder."""
    root = tmp_path / "lits"
    lits(root, range(2))
    lits(tmp_path / "elsewhere", range(2, 5))
    for name in ("Batch 2", "Batch 2 again"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(root)
    assert sorted(found.case_id for found in lits17.own_pairs(root)) == [f"volume-{i}" for i in range(5)]
    assert sorted(load_folder(root, 2).cases) == [f"volume-{i}" for i in range(5)]


def test_a_lits_batch_that_must_not_be_read_is_one_line(open_place):
    lits(open_place / "lits" / "Batch 1", range(3))
    lits(open_place / "lits" / "Batch 2", range(3, 5))
    closed(open_place / "lits" / "Batch 2")
    with as_plain_user(), pytest.raises(UserError, match=r"Batch 2: cannot be read \(Permission denied\)"):
        load_folder(open_place / "lits", 2)


@pytest.mark.parametrize("channels", ["CT", 5, True])
def test_channels_that_are_no_mapping_are_one_line(tmp_path, channels):
    nnunet(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text()) | {"channel_names": channels}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'dataset\.json: the channels are .*; write them as \{"0": "CT"\}'):
        load_folder(tmp_path, 2)


def test_own_cases_that_are_listed_and_not_there_are_noted(tmp_path):
    msd(tmp_path, "x", range(1, 5), {"0": "background", "1": "organ", "2": "tumour"}, range(1, 10))
    dataset = load_folder(tmp_path, 2)
    assert len(dataset.cases) == 4
    assert dataset.notes == ("5 of the 9 training cases of dataset.json not there: x_005, x_006, x_007 and 2 more",)
    msd(tmp_path / "whole", "x", range(1, 5), {"0": "background", "1": "organ", "2": "tumour"})
    assert load_folder(tmp_path / "whole", 2).notes == ()


@pytest.mark.parametrize(
    ("patients", "message"),
    [
        ([["x_000", "a"]], "'patients' must map cases to names"),
        ({"x_000": 7}, "'patients' must map cases to names"),
        ({"x_000": " "}, "'patients' must map cases to names"),
        ({"x_00": "a"}, "'patients' names 'x_00'; did you mean 'x_00"),
    ],
)
def test_patients_that_nobody_can_mean(tmp_path, patients, message):
    msd(tmp_path, "x", range(4), {"1": "mass", "2": "other"})
    content = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"patients": patients}))
    with pytest.raises(UserError, match=message):
        load_folder(tmp_path, 1)


def test_patients_in_nnunets_raw_layout(tmp_path):
    """Follow-ups of one patient, which no split may part."""
    root = nnunet_v2(tmp_path, {"background": 0, "organ": 1, "tumour": 2})
    content = json.loads((root / "dataset.json").read_text())
    first, second, *_ = load_folder(root, 2).cases
    (root / "dataset.json").write_text(json.dumps(content | {"patients": {first: "a", second: "a"}}))
    found = load_folder(root, 2)
    assert {found.cases[first].patient, found.cases[second].patient} == {"a"}
    for split in found.splits:
        assert all((first in part) == (second in part) for part in (split.train, split.validation, split.test))
    (root / "dataset.json").write_text(json.dumps(content | {"patients": {f"{first}_0000": "a"}}))
    with pytest.raises(UserError, match=f"'patients' names '{first}_0000'"):
        load_folder(root, 2)


def test_patients_of_cases_to_train_and_to_test(tmp_path):
    """A case that is not named is a patient of its own; one on both sides of a published split is refused."""
    msd(tmp_path, "x", range(6), {"1": "mass", "2": "other"}, listed=range(4))
    for role in ("images", "labels"):
        (tmp_path / f"{role}Ts").mkdir()
        for number in (4, 5):
            name = f"x_{number:03d}.nii.gz"
            (tmp_path / f"{role}Tr" / name).rename(tmp_path / f"{role}Ts" / name)
    content = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"patients": {"x_001": "a", "x_003": "a"}}))
    found = load_folder(tmp_path, 1).cases
    assert {case: one.patient for case, one in found.items()} == {
        "x_000": "x_000", "x_001": "a", "x_002": "x_002", "x_003": "a"
    }  # fmt: skip
    assert len(load_own(tmp_path, Reading(1, splits="folders")).cases) == 6
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"patients": {"x_001": "a", "x_005": "a"}}))
    with pytest.raises(UserError, match="has the patient of 'x_005' on both sides"):
        load_own(tmp_path, Reading(1, splits="folders"))


@pytest.mark.parametrize(
    ("place", "mode"),
    [("labelsTr", 0), ("imagesTr", 0o444), (".", 0), (".", 0o444), ("..", 0), ("dataset.json", 0)],
)
def test_a_place_that_must_not_be_looked_into_is_one_line(open_place, place, mode):
    """Even whether a file is there cannot be asked where a folder may be listed and not entered (444)."""
    root = msd(open_place / "above" / "scans", "x", range(4), {"1": "mass"})
    closed(root / place, mode)
    with as_plain_user(), pytest.raises(UserError, match=r"scans.*: (cannot be read|not readable).*Permission denied"):
        load_folder(root, 1)


def test_a_scan_that_must_not_be_opened_is_left_out(open_place):
    """The others are used; a table leads to files anywhere."""
    rows = ["image,label"]
    for number in range(5):
        image, truth = (open_place / f"{role}-{number}.mha" for role in ("image", "label"))
        for path, array in ((image, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)), (truth, label(1))):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.T), str(path))
        rows.append(f"{image.name},{truth.name}")
    (open_place / "inner").mkdir()
    (open_place / "pairs.csv").write_text("\n".join([*rows, "inner/a.nii.gz,inner/b.nii.gz"]))
    closed(open_place / "image-0.mha")
    closed(open_place / "label-1.mha")
    closed(open_place / "inner")
    with as_plain_user():
        found = load_folder(open_place / "pairs.csv", 1, strict=False)
    assert list(found.cases) == ["image-2", "image-3", "image-4"]
    assert sorted(found.excluded) == ["a", "image-0", "image-1"]
    for reason in found.excluded.values():
        assert "cannot be read (Permission denied)" in reason


def test_missing_dataset_json(tmp_path):
    save(tmp_path / "imagesTr" / "x.nii.gz")
    with pytest.raises(UserError, match=r"no dataset\.json"):
        load_folder(tmp_path)


def test_non_ascii_paths(tmp_path):
    root = tmp_path / "Lébertumor 肝臓"
    for i in range(3):
        save(root / f"volume-{i}.nii")
        save(root / f"segmentation-{i}.nii", label(1, 2))
    dataset = load_dataset("lits17", root, splits="patient")
    dataset.cases["volume-1"].load()


def test_loading_reads_no_voxels(tmp_path):
    """Only headers: the files' voxels are cut off, and only the uncompressed size can show it."""
    root = kits(tmp_path, range(3))
    dataset = load_dataset("kits21", root, splits="patient")
    (root / "case_00001" / "imaging.nii.gz").unlink()
    assert len(dataset.cases) == 3
    with pytest.raises(UserError, match="no such file"):
        dataset.cases["case_00001"].load()


def test_intensity_statistics_against_the_definition(tmp_path):
    rng = np.random.default_rng(5)
    pooled = []
    for i in range(1, 4):
        values = rng.normal(60 + 10 * i, 20, size=(20, 20, 20)).astype(np.float32)
        mask = (rng.random((20, 20, 20)) < 0.3).astype(np.uint8)
        save(tmp_path / "imagesTr" / f"x_{i}.nii.gz", values)
        save(tmp_path / "labelsTr" / f"x_{i}.nii.gz", mask)
        pooled.append(values[mask == 1])
    pairs = [{"image": f"./imagesTr/x_{i}.nii.gz", "label": f"./labelsTr/x_{i}.nii.gz"} for i in range(1, 4)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "mass"}, "training": pairs}))
    dataset = load_folder(tmp_path)
    target = intensity_statistics(dataset.cases.values(), dataset.targets[0])
    values = np.concatenate(pooled).astype(float)
    low, high = np.percentile(values, [0.5, 99.5])
    assert target.window == pytest.approx((low, high), abs=1e-4)
    assert target.mean == pytest.approx(values.clip(low, high).mean(), abs=1e-4)
    assert target.std == pytest.approx(values.clip(low, high).std(), abs=1e-4)
    figures = (*target.window, target.mean, target.std)
    assert figures == tuple(round(one, 4) for one in figures), "the last digits of a sum depend on the processor"
    with pytest.raises(UserError, match="no training case"):
        intensity_statistics([], dataset.targets[0])


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_table_of_pairs(tmp_path, suffix):
    lines = ["image,label,case,patient,scanner"]
    for i in range(6):
        for role, values in (("scan", None), ("mask", label(1, 2))):
            path = save(tmp_path / "files" / f"{role} {i}.nii", values)
            image = SimpleITK.ReadImage(str(path))
            path.unlink()
            SimpleITK.WriteImage(image, str(path.with_suffix(suffix)))
        lines.append(f"files/scan {i}{suffix},files/mask {i}{suffix},visit{i},person{i // 2},A")
    table = tmp_path / "Pairs.csv"
    table.write_text("\n".join(lines))
    dataset = load_folder(table, 2, organ="kidney", lesion="tumour")
    assert dataset.name == "pairs"
    assert list(dataset.cases) == [f"visit{i}" for i in range(6)]
    _, array = dataset.cases["visit3"].load()
    assert target_mask(array, dataset.target("kidney-tumour")).sum() == SHAPE[1] * SHAPE[2]
    for split in dataset.splits:
        sides = [{dataset.cases[i].patient for i in part} for part in vars(split).values()]
        assert sum(map(len, sides)) == 3


@pytest.mark.parametrize("beside", ["the link", "the file"])
def test_a_table_may_be_a_link(tmp_path, monkeypatch, beside):
    """As in a store of git-annex or DVC, whose files have other names; or from another folder."""
    place, store = tmp_path / "scans", tmp_path / "store"
    lines = ["image,label"]
    for i in range(6):
        image, truth = f"image {i}.nii", f"label {i}.nii"
        save(place / image, np.arange(i, i + np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
        save(place / truth, label(1))
        lines.append(f"{image},{truth}")
    store.mkdir()
    file, link = (store / "5eed", place / "own.csv") if beside == "the link" else (place / "own.csv", store / "own.csv")
    file.write_text("\n".join(lines))
    link.symlink_to(file)
    monkeypatch.chdir(link.parent)
    added = registry.add(registry.Registration("own", Path("own.csv"), 1))
    assert added.root == link
    assert len(registry.load("own").cases) == 6
    entry = OwnData(Path("own.csv"), "own", 1).entry()
    assert len(resolve_dataset(entry, 1, Folders(tmp_path / "out")).cases) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mask\na,b", "no column 'label'"),
        ("image,label\na.nii,", "line 2: image or label is empty"),
        ("image,label\na.nii,b.nii\na.nii,c.nii", "case 'a' stands in two lines"),
        ("image,label\na.nii,b.nii", "a.nii: no such file"),
        ("image,label", "no case found"),
        ("", "no column 'image'"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load_folder(tmp_path / "pairs.csv", 1)


def test_an_image_is_not_its_own_label(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(path)
    for other in ("a.nii.gz", "link.nii.gz"):
        (tmp_path / "pairs.csv").write_text(f"image,label,case\na.nii.gz,{other},x")
        with pytest.raises(UserError, match="image and label are the same file"):
            load_folder(tmp_path / "pairs.csv", 1)


def test_table_needs_a_number(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,label\na.nii,b.nii")
    with pytest.raises(UserError, match="--target"):
        load_folder(tmp_path / "pairs.csv", "tumour")


def test_missing_table(tmp_path):
    with pytest.raises(UserError, match="not readable as a CSV"):
        load_folder(tmp_path / "pairs.csv", 1)


def test_catalogue_is_complete_and_unlocks_no_torch():
    known = datasets()
    assert list(known) == ["kits21", "lits17", "msd-colon", "msd-pancreas"]
    assert phantom_names() == ["kits21", "lits17", "msd-pancreas"]
    for name, info in known.items():
        assert info.name == name
        assert info.licence.startswith("CC BY")
        assert info.citation
        assert all(target.window[0] < target.mean < target.window[1] for target in info.targets)


def test_sarcoma_folder(shared):
    root = shared / "real_cases" / "soft_tissue_sarcoma"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    dataset = load_folder(root, organ="soft tissue", lesion="sarcoma")
    assert len(dataset.cases) == 24
    assert not dataset.excluded
    assert dataset.licence == "CC BY 3.0"
    volume, array = next(iter(dataset.cases.values())).load()
    assert volume.shape == array.shape
    assert volume.spacing[2] == pytest.approx(3.27, abs=0.01)
    assert target_mask(array, dataset.targets[0]).any()


def kits23(root: Path, numbers: range = range(3)) -> Path:
    for i in numbers:
        save(root / f"case_{i:05d}" / "imaging.nii.gz")
        save(root / f"case_{i:05d}" / "segmentation.nii.gz", label(1, 2, 3))
    return root


@pytest.mark.parametrize("inner", ["", "data", "dataset"])
def test_kits23_is_read_as_own_data(tmp_path, inner):
    """Its cases beyond the 300 of KiTS21 count, and nothing of it passes for KiTS21."""
    kits23(tmp_path / inner, range(298, 303))
    dataset = load_folder(tmp_path, 2, organ="kidney", name="mine")
    assert (dataset.name, list(dataset.cases)) == ("mine", [f"case_{i:05d}" for i in range(298, 303)])
    assert dataset.cases["case_00300"].dataset == "mine"
    assert sum(len(split.test) for split in dataset.splits) == 5
    _, array = dataset.cases["case_00300"].load()
    assert target_mask(array, dataset.targets[0]).sum() == SHAPE[1] * SHAPE[2]
    assert dataset.label_values == (0, 1, 2, 3)
    with pytest.raises(UserError, match=r"files of KiTS19 or KiTS23, whose annotations .* give them another name"):
        load_dataset("kits21", tmp_path)


def test_a_kits23_case_that_lacks_a_file(tmp_path):
    kits23(tmp_path)
    (tmp_path / "case_00001" / "segmentation.nii.gz").unlink()
    assert "image without label" in load_folder(tmp_path, 2, strict=False).excluded["case_00001"]


def nnunet_v2(root: Path, labels: dict[str, object], image: str = "{}_0000", mask: str = "{}") -> Path:
    for case in ("a", "b", "c", "d", "e", "f"):
        save(root / "imagesTr" / f"{image.format(case)}.nii.gz")
        save(root / "labelsTr" / f"{mask.format(case)}.nii.gz", label(1, 2, 3))
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


REGIONS = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}
PLANE = SHAPE[1] * SHAPE[2]


@pytest.mark.parametrize(
    ("wanted", "values", "planes"),
    [("tumor", (2,), 1), ("2", (2,), 1), (3, (3,), 1), ("Masses", (2, 3), 2), ("kidney", (1, 2, 3), 3)],
)
def test_regions_of_nnunet_are_labels(tmp_path, wanted, values, planes):
    """Values that stand in regions only are of the data set, and a region is a target as a label is."""
    dataset = load_folder(nnunet_v2(tmp_path, REGIONS), wanted, organ="kidney")
    assert dataset.label_values == (0, 1, 2, 3)
    assert dataset.targets[0].labels == values
    assert dataset.targets[0].organ_labels == tuple({1, 2, 3} - set(values))
    _, array = dataset.cases["a"].load()
    assert target_mask(array, dataset.targets[0]).sum() == planes * PLANE


def test_a_region_is_the_only_label(tmp_path):
    dataset = load_folder(nnunet_v2(tmp_path, {"background": 0, "enhancing tumor": [3]}))
    assert (dataset.targets[0].labels, dataset.targets[0].lesion) == ((3,), "enhancing tumor")
    with pytest.raises(UserError, match=r"choose the label .* labels: 2 tumor, 2\+3 masses, 1\+2\+3 kidney"):
        load_folder(nnunet_v2(tmp_path / "b", REGIONS))
    for wanted in ("4", "²", "tumour!", "9" * 400):
        with pytest.raises(UserError, match="no single label"):
            load_folder(tmp_path / "b", wanted)


@pytest.mark.parametrize("value", [[], [1, "x"], {}, None, 1.5, "²", 40000, 10**400, [[1]], True])
def test_labels_that_are_no_numbers(tmp_path, value):
    nnunet_v2(tmp_path, {"background": 0, "tumor": value})
    with pytest.raises(
        UserError, match=r"dataset\.json: label 'tumor: .*' has no whole number of a label map"
    ) as caught:
        load_folder(tmp_path, 1)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "tumor": 1, "ignore": 2},
        {"background": 0, "kidney": [1, 2], "tumor": 2, "ignore": [3]},
        {"0": "background", "1": "tumor", "2": "ignore"},
    ],
)
def test_label_maps_that_are_annotated_in_part_are_refused(tmp_path, labels):
    """nnU-Net leaves such voxels out of its loss; here they would be background, and a mask there wrong."""
    root = nnunet_v2(tmp_path, labels)
    message = r"dataset\.json: the label 'ignore' marks voxels that nobody annotated; .* cannot be scored"
    for target in ("tumor", 1, "ignore", None):
        with pytest.raises(UserError, match=message):
            load_folder(root, target)
    with pytest.raises(UserError, match=message):
        registry.add(registry.Registration("mine", root, target="tumor"))
    for place in (root, root / "labelsTr"):
        with pytest.raises(UserError, match=message):
            score_folders(root / "labelsTr", place, label=1)
    description = json.loads((root / "dataset.json").read_text())
    del description["labels"][next(key for key, entry in labels.items() if "ignore" in (key, entry))]
    (root / "dataset.json").write_text(json.dumps(description))
    assert len(load_folder(root, 2 if "kidney" in labels else 1).cases) == 6
    assert {row["dice"] for row in score_folders(root / "labelsTr", root / "labelsTr", label=1)} == {1.0}


def test_nnunet_folders_with_the_channel_in_the_wrong_place(tmp_path):
    labels = {"background": 0, "tumor": 2}
    for name, image, mask, message in (
        ("bare images", "{}", "{}", r"case a: .*a\.nii\.gz: the name lacks a channel .* \(and 5 more bad cases\)"),
        ("both", "{}_0000", "{}_0000", r"case a: .*a_0000\.nii\.gz: a label map must not have the channel _0000"),
        ("swapped", "{}", "{}_0000", "case a: .*must not have the channel _0000"),
    ):
        with pytest.raises(UserError, match=message):
            load_folder(nnunet_v2(tmp_path / name, labels, image, mask), 2)
    mixed = nnunet_v2(tmp_path / "mixed", labels)
    (mixed / "imagesTr" / "b_0000.nii.gz").rename(mixed / "imagesTr" / "b.nii.gz")
    (mixed / "labelsTr" / "c.nii.gz").rename(mixed / "labelsTr" / "c_0000.nii.gz")
    excluded = load_folder(mixed, 2, strict=False).excluded
    assert sorted(excluded) == ["b", "c"]
    assert "lacks a channel" in excluded["b"]
    assert "must not have" in excluded["c"]


HOSTILE_NAMES = ["../outside", "/etc/outside", "a/b", "a\\b", "..", "x" * 300, "a\tb", "a\x1b[2Jb"]


@pytest.mark.parametrize("case", HOSTILE_NAMES)
def test_no_case_leads_out_of_its_folder(tmp_path, case):
    """Masks and logs are kept under the name of the case."""
    for i in range(3):
        save(tmp_path / f"{i}.nii"), save(tmp_path / f"{i}-label.nii", label(1))
    table = tmp_path / "pairs.csv"
    table.write_text("".join(["image,label,case\n", f"0.nii,0-label.nii,{case}\n", "1.nii,1-label.nii,b\n"]))
    with pytest.raises(UserError, match=r"pairs\.csv, line 2: case '.*' is no name") as caught:
        load_folder(table, 1)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_paths_in_a_table(tmp_path):
    for path, message in (("a\0b.nii", "NUL"), ("~nosuch-user/x.nii", "no such file"), ("x" * 300, "too long")):
        table = tmp_path / "pairs.csv"
        table.write_text(f"image,label\n{path},{path}\n")
        with pytest.raises(UserError, match=f"NUL|{message}"):
            load_folder(table, 1)


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "x" * 300, "\0"])
def test_no_dataset_leads_out_of_its_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"dataset '.*' is no name"):
        load_folder(nnunet_v2(tmp_path, {"background": 0, "tumor": 2}), 2, name=name)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"labels": {"a": ' + "9" * 5000 + "}}", "\xff\xfe", "null", "\0"])
def test_a_dataset_json_that_nobody_can_mean(tmp_path, content):
    nnunet_v2(tmp_path, {"background": 0, "tumor": 2})
    (tmp_path / "dataset.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"dataset\.json: ") as caught:
        load_folder(tmp_path, 2)
    assert len(str(caught.value)) < 500
