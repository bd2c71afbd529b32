"""Splits that a user brings: each word gives the cases that the file or the folder says, and nothing in silence."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.data import registry
from benchmarks.data.catalogue import Reading, load_own
from benchmarks.data.splits import write_splits
from tests.scan_folders import write_msd

CASES = [f"case_{number}" for number in range(9)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_msd(tmp_path / "scans", cases=len(CASES))


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_column_split_is_followed_and_the_rest_is_left_out(folder: Path, tmp_path: Path) -> None:
    words = ["train"] * 4 + ["val"] + ["Test", "testing"]
    rows = [{"case": case, "split": word} for case, word in zip(CASES, words, strict=False)]
    dataset = load_own(folder, Reading(splits=str(table(tmp_path / "s.csv", rows))))
    (split,) = dataset.splits
    assert (split.train, split.validation, split.test) == (tuple(CASES[:4]), ("case_4",), ("case_5", "case_6"))
    assert set(dataset.excluded) == {"case_7", "case_8"}
    assert "no part of the split" in dataset.excluded["case_7"]


def test_a_table_of_pairs_with_a_column_split_follows_it(folder: Path) -> None:
    rows = [
        {"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz", "split": "test" if i < 3 else "train"}
        for i, case in enumerate(CASES)
    ]
    pairs = table(folder / "pairs.csv", rows)
    assert load_own(pairs, Reading(label=1)).splits[0].test == tuple(CASES[:3])
    assert len(load_own(pairs, Reading(label=1, splits="patient")).splits) == 5


def test_one_centre_is_left_out_in_turn(folder: Path, tmp_path: Path) -> None:
    rows = [{"case": case, "centre": "BCA"[i % 3]} for i, case in enumerate(CASES)]
    dataset = load_own(folder, Reading(splits=f"{table(tmp_path / 'c.csv', rows)}:centre"))
    by_centre = {letter: [row["case"] for row in rows if row["centre"] == letter] for letter in "ABC"}
    assert [list(fold.test) for fold in dataset.splits] == [by_centre[letter] for letter in "ABC"]
    for fold in dataset.splits:
        assert sorted([*fold.train, *fold.validation, *fold.test]) == CASES
        assert len(fold.validation) == 1
    assert dataset.split_source == "leave one centre out: 0 A, 1 B, 2 C"


def test_a_patient_of_two_centres_is_never_learned_from_and_tested(folder: Path, tmp_path: Path) -> None:
    rows = [
        {
            "image": f"imagesTr/{case}.nii.gz",
            "label": f"labelsTr/{case}.nii.gz",
            "patient": "both" if i in (0, 1) else case,
            "centre": "ABC"[i % 3],
        }
        for i, case in enumerate(CASES)
    ]
    pairs = table(folder / "pairs.csv", rows)
    first = load_own(pairs, Reading(label=1, splits=f"{pairs}:centre")).splits[0]
    assert "case_0" in first.test
    assert "case_1" not in (*first.train, *first.validation)
    for first, second in (("test", "train"), ("test", "validation"), ("train", "validation")):
        parts = [first, second, *["train"] * (len(CASES) - 3), "test"]
        listed = [{"case": case, "split": part} for case, part in zip(CASES, parts, strict=True)]
        shared = table(tmp_path / "s.csv", listed)
        with pytest.raises(UserError, match=r"has the patient of 'case_[01]' on both sides"):
            load_own(pairs, Reading(label=1, splits=str(shared)))


def patients_table(path: Path, patients: str, column: str, values: str) -> Path:
    """A letter for each case and column."""
    return table(
        path,
        [
            {"case": case, "patient": patient.strip(), column: WORDS.get(value, value)}
            for case, patient, value in zip(CASES, patients, values, strict=True)
        ],
    )


WORDS = {"r": "train", "v": "validation", "t": "test"}


def test_a_table_says_whose_scans_a_folder_holds(folder: Path, tmp_path: Path) -> None:
    for shared in ("rttrrrrrr", "rrrrrtrrt", "rrvrrtrrr"):
        word = str(patients_table(tmp_path / "s.csv", "pqqrstuqw", "split", shared))
        sides = {shared[case] for case in (1, 2, 7)}
        if len(sides) == 1:
            assert load_own(folder, Reading(splits=word)).cases["case_7"].patient == "q"
            continue
        with pytest.raises(UserError, match=r"has the patient of 'case_[127]' on both sides"):
            load_own(folder, Reading(splits=word))
    centres = patients_table(tmp_path / "c.csv", "pqqrstu w", "centre", "ABAABBAAB")
    dataset = load_own(folder, Reading(splits=f"{centres}:centre"))
    assert [dataset.cases[case].patient for case in CASES] == [*"pqqrstu", "case_7", "w"]
    first, second = dataset.splits
    assert first.test == ("case_0", "case_2", "case_3", "case_6", "case_7")
    assert sorted([*first.train, *first.validation]) == ["case_4", "case_5", "case_8"]  # not case_1, of patient q
    assert sorted([*second.train, *second.validation]) == ["case_0", "case_3", "case_6", "case_7"]


@pytest.mark.parametrize(
    ("patients", "fits"),
    [("xxyzabcde", True), ("xx", True), ("xyyzabcde", False), ("xyzwabcde", False), ("xxxzabcde", False)],
)
def test_a_table_that_contradicts_what_the_folder_says_of_its_patients(
    folder: Path, tmp_path: Path, patients: str, fits: bool
) -> None:
    """The folder has numbers where the table has names: which cases are of one patient is what counts."""
    content = json.loads((folder / "dataset.json").read_text())
    content["patients"] = {"case_0": "patient_001", "case_1": "patient_001", "case_2": "patient_002"}
    (folder / "dataset.json").write_text(json.dumps(content))
    word = str(patients_table(tmp_path / "s.csv", patients.ljust(9), "split", "rrrrrrrtt"))
    if fits:
        assert load_own(folder, Reading(splits=word)).cases["case_1"].patient == "patient_001"
    else:
        with pytest.raises(UserError, match=r"by its column 'patient' or by dataset 'scans' itself 'case_\d' and"):
            load_own(folder, Reading(splits=word))


def test_nnunets_folds_test_what_they_call_val(folder: Path, tmp_path: Path) -> None:
    folds = [{"train": CASES[3:], "val": CASES[:3]}, {"train": CASES[:6], "val": CASES[6:]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    dataset = load_own(folder, Reading(splits=str(tmp_path / "splits_final.json")))
    assert [(list(one.train), list(one.validation), list(one.test)) for one in dataset.splits] == [
        (fold["train"], [], fold["val"]) for fold in folds
    ]


def test_a_fold_that_names_a_case_which_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": CASES[1:], "val": ["case_00"]}]))
    with pytest.raises(UserError, match="has no case 'case_00'; did you mean 'case_0'"):
        load_own(folder, Reading(splits=str(path)))


def test_a_case_that_a_fold_lists_twice_is_tested_once(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": CASES[2:], "val": [*CASES[:2], CASES[0]]}]))
    assert load_own(folder, Reading(splits=str(path))).splits[0].test == tuple(CASES[:2])


def test_what_data_splits_writes_is_read_back(folder: Path, tmp_path: Path) -> None:
    usual = load_own(folder, Reading())
    path = write_splits(tmp_path / "ours.json", "scans", "by patient", usual.splits)
    assert load_own(folder, Reading(splits=str(path))).splits == usual.splits


def test_the_folders_of_a_challenge(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs scans in imagesTs and labelsTs"):
        load_own(folder, Reading(splits="folders"))
    for part in ("images", "labels"):
        (folder / f"{part}Ts").mkdir()
        for number in (0, 1):
            shutil.copy(folder / f"{part}Tr" / f"case_{number}.nii.gz", folder / f"{part}Ts" / f"held_{number}.nii.gz")
    shutil.copy(folder / "imagesTr" / "case_2.nii.gz", folder / "imagesTs" / "unlabelled.nii.gz")
    (split,) = load_own(folder, Reading(splits="folders")).splits
    assert split.test == ("held_0", "held_1")
    assert sorted([*split.train, *split.validation]) == CASES
    assert "held_0" not in load_own(folder, Reading()).cases
    shutil.copy(folder / "imagesTr" / "case_3.nii.gz", folder / "imagesTs" / "case_3.nii.gz")
    shutil.copy(folder / "labelsTr" / "case_3.nii.gz", folder / "labelsTs" / "case_3.nii.gz")
    with pytest.raises(UserError, match="two cases of one name"):
        load_own(folder, Reading(splits="folders"))


@pytest.mark.parametrize(
    ("rows", "word", "message"),
    [
        ([{"case": "case_0", "split": "tested"}], "", "is none of train, validation, test"),
        ([{"case": "case_0", "part": "test"}], "", "no column 'split'"),
        ([{"case": "case_00", "split": "test"}], "", "has no case 'case_00'; did you mean 'case_0'"),
        ([{"case": "case_0", "split": "train"}], "", "leaves no case to test"),
        ([{"case": "case_0", "center": "A"}], ":centre", "no column 'centre'; did you mean 'center'"),
        ([{"case": "case_0", "centre": "A"}], ":centre", "one value only"),
        ([{"case": "case_0", "split": "test"}, {"case": "case_0", "split": "train"}], "", "stands in two lines"),
        ([{"case": "", "split": "test"}], "", "line 2: no case"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, tmp_path: Path, rows: list, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_own(folder, Reading(splits=f"{table(tmp_path / 's.csv', rows)}{word}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"folds": 3}', '[{"train": []}]', "[3]", '"text"'])
def test_a_file_that_is_no_list_of_folds(folder: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(UserError, match=r"s\.json"):
        load_own(folder, Reading(splits=str(tmp_path / "s.json")))


def test_an_unknown_word_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="unknown splits 'pateint'"):
        load_own(folder, Reading(splits="pateint"))


def test_a_listed_dataset_keeps_its_split_and_a_suite_may_ask_for_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"case": case, "split": "test" if i > 5 else "train"} for i, case in enumerate(CASES)]
    word = str(table(tmp_path / "s.csv", rows))
    monkeypatch.chdir(tmp_path)
    assert registry.add(registry.Registration("mine", folder, splits="s.csv")).splits == word
    monkeypatch.chdir(folder)
    assert registry.load("mine").splits[0].test == tuple(CASES[6:])
    assert len(registry.load("mine", splits="patient").splits) == 5
