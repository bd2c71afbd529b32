"""Splits: the published fold by its known counts, ours by the properties that make a split honest."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.common.errors import UserError
from benchmarks.data import splits
from benchmarks.data.catalogue import dataset_info, sources
from benchmarks.data.splits import (
    patient_folds,
    patient_split,
    split_rows,
    split_text,
    stored_document,
    write_splits,
)

OURS = {name: source.splits for name, source in sources().items() if source.splits is not None}


def complete_ids(name: str) -> list[str]:
    """The case ids of a complete download; those of the Decathlon have gaps, and are only known as a list."""
    if name == "kits21":
        return [f"case_{i:05d}" for i in range(300)]
    if name == "lits17":
        return [f"volume-{i}" for i in range(131)]
    return sorted(OURS[name].cases())


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("kits21", (209, 30, 61)),
        ("msd-pancreas", (196, 28, 57)),
        ("lits17", (83, 11, 24)),
        ("msd-colon", (89, 11, 26)),
    ],
)
def test_predecessor_split_of_a_complete_download(name, counts):
    split = OURS[name].published_fold(complete_ids(name))
    parts = (split.train, split.validation, split.test)
    assert tuple(map(len, parts)) == counts == OURS[name].published_counts()
    together = set().union(*map(set, parts))
    assert len(together) == sum(counts)
    assert together | OURS[name].excluded() == set(complete_ids(name))
    assert not together & OURS[name].excluded()


def test_tumour_free_scans_are_left_out():
    numbers = {32, 34, 38, 41, 47, 87, 89, 91, 105, 106, 114, 115, 119}
    assert OURS["lits17"].excluded() == {f"volume-{i}" for i in numbers}


def test_predecessor_split_of_a_partial_download_is_the_intersection():
    whole = OURS["kits21"].published_fold(complete_ids("kits21"))
    some = complete_ids("kits21")[::3]
    part = OURS["kits21"].published_fold(some)
    for name in ("train", "validation", "test"):
        assert set(getattr(part, name)) == set(getattr(whole, name)) & set(some)


@pytest.mark.parametrize("file_name", [f"{name}{kind}.json" for name in OURS for kind in ("", ".patient")])
def test_a_changed_split_is_refused(file_name, tmp_path):
    (tmp_path / "splits").mkdir()
    for stored in Path(splits.__file__).with_name("splits").iterdir():
        (tmp_path / "splits" / stored.name).write_bytes(stored.read_bytes())
    name, by_patient = file_name.split(".")[0], ".patient" in file_name
    stored = replace(OURS[name], folder=tmp_path / "splits")
    read = stored.folds if by_patient else stored.published_fold
    assert read(complete_ids(name))
    path = tmp_path / "splits" / file_name
    path.write_text(path.read_text().replace('"test"', '"test "', 1))
    with pytest.raises(UserError, match=f"{file_name} was changed: its SHA-256 is"):
        read(["case_00000"])


@pytest.mark.parametrize("name", OURS)
def test_stored_folds_are_those_of_the_rule(name):
    """Each file made again from the case ids, by the rule as the documentation states it, written out once more."""
    ids = complete_ids(name)
    path = Path(splits.__file__).with_name("splits") / f"{name}.patient.json"
    assert path.read_text("utf-8") == split_text(stored_document(name, ids))
    assert len(ids) == dataset_info(name).cases
    order = sorted(ids, key=lambda i: hashlib.sha256(b"0\x1f" + i.encode()).hexdigest())
    edges = [round(len(order) * k / 5) for k in range(6)]
    for k, fold in enumerate(OURS[name].folds(ids)):
        around = order[edges[k + 1] :] + order[: edges[k]]
        tenth = round(0.1 * len(order))
        assert set(fold.test) == set(order[edges[k] : edges[k + 1]])
        assert set(fold.validation) == set(around[:tenth])
        assert set(fold.train) == set(around[tenth:])
        shares = [len(part) / len(ids) for part in (fold.train, fold.validation, fold.test)]
        assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_official_case_ids():
    """Numbers of cases and highest numbers are published; the predecessor's ids are among them."""
    assert OURS["kits21"].cases() == set(complete_ids("kits21"))
    assert OURS["lits17"].cases() == set(complete_ids("lits17"))
    for name, highest in (("msd-pancreas", "pancreas_421"), ("msd-colon", "colon_219")):
        assert max(OURS[name].cases()) == highest
        split = OURS[name].published_fold(OURS[name].cases())
        assert sum(map(len, vars(split).values())) == dataset_info(name).cases


def test_lesions_of_another_group_come_from_official_cases(shared):
    """Independent of the lists: file names of annotations that others made on the training cases."""
    names = [path.name.split("_lesion")[0] for path in (shared / "lesion_masks").glob("*/*.nii.gz")]
    if not names:
        pytest.skip("no lesion masks")
    for name in names:
        dataset = {"kidney21": "kits21", "liver": "lits17", "pancreas": "msd-pancreas", "colon": "msd-colon"}
        known = OURS[dataset[name.split("_")[0]]].cases()
        assert name.removeprefix("kidney21_").replace("liver_", "volume-") in known


def test_a_partial_download_keeps_the_parts_of_the_whole():
    ids = complete_ids("lits17")
    for whole, part in zip(OURS["lits17"].folds(ids), OURS["lits17"].folds(ids[::2]), strict=True):
        for name in ("train", "validation", "test"):
            assert set(getattr(part, name)) == set(getattr(whole, name)) & set(ids[::2])


def test_splits_written_to_a_file(tmp_path):
    folds = patient_folds([f"käse_{i}" for i in range(20)])
    path = write_splits(tmp_path / "a" / "mine.json", "mine", "by patient", folds)
    content = json.loads(path.read_text("utf-8"))
    assert (content["dataset"], content["source"], len(content["folds"])) == ("mine", "by patient", 5)
    for fold, row, written in zip(folds, split_rows(folds), content["folds"], strict=True):
        assert written == {"sha256": row["sha256"], **{part: list(ids) for part, ids in vars(fold).items()}}
    assert [p.name for p in path.parent.iterdir()] == ["mine.json"]
    with pytest.raises(UserError, match="cannot be written"):
        write_splits(path / "inside.json", "mine", "", folds)


patients_of = st.dictionaries(
    st.integers(0, 200).map(lambda i: f"case{i}"), st.integers(0, 30).map(lambda i: f"p{i}"), min_size=1
)


@settings(max_examples=80, deadline=None)
@given(patients_of, st.integers(0, 5))
def test_patient_split_is_disjoint_complete_and_patient_safe(patients, seed):
    split = patient_split(patients, patients, seed)
    parts = [split.train, split.validation, split.test]
    assert sorted(sum(parts, ())) == sorted(patients)
    sides = [{patients[case] for case in part} for part in parts]
    people = len(set(patients.values()))
    assert sum(map(len, sides)) == people
    assert len(sides[0]) >= 1
    assert (len(sides[2]) >= 1) == (people >= 2)
    assert (len(sides[1]) >= 1) == (people >= 3)


@settings(max_examples=60, deadline=None)
@given(patients_of, st.integers(0, 5))
def test_folds_test_every_patient_once(patients, seed):
    folds = patient_folds(patients, patients, seed)
    people = set(patients.values())
    assert len(folds) == min(5, max(1, len(people)))
    if len(people) > 1:
        tested = [case for fold in folds for case in fold.test]
        assert sorted(tested) == sorted(patients)
    for fold in folds:
        parts = [fold.train, fold.validation, fold.test]
        assert sorted(sum(parts, ())) == sorted(patients)
        assert fold.train
        sides = [{patients[case] for case in part} for part in parts]
        assert sum(map(len, sides)) == len(people)


def test_split_does_not_depend_on_the_order_of_files():
    ids = [f"case_{i}" for i in range(100)]
    shuffled = ids.copy()
    random.Random(1).shuffle(shuffled)
    assert patient_split(ids, seed=3) == patient_split(shuffled, seed=3)
    assert patient_folds(ids, seed=3) == patient_folds(shuffled, seed=3)
    assert patient_folds(iter(["alone"])) == patient_folds(["alone"])  # of one patient, read once
    assert patient_split(ids, seed=3) != patient_split(ids, seed=4)


def test_split_does_not_depend_on_the_process():
    code = (
        "from benchmarks.data.splits import patient_split;"
        "print(patient_split([f'case_{i}' for i in range(40)], seed=7))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"{patient_split([f'case_{i}' for i in range(40)], seed=7)}\n"


def test_shares_of_a_large_dataset():
    split = patient_split([f"case_{i}" for i in range(1000)])
    assert (len(split.train), len(split.validation), len(split.test)) == (700, 100, 200)
    assert patient_folds([f"case_{i}" for i in range(1000)])[0] == split


@pytest.mark.parametrize(
    ("fractions", "counts"), [((1, 0, 0), (10, 0, 0)), ((0.8, 0, 0.2), (8, 0, 2)), ((0, 0, 1), (0, 0, 10))]
)
def test_fractions(fractions, counts):
    split = patient_split([f"case_{i}" for i in range(10)], fractions=fractions)
    assert (len(split.train), len(split.validation), len(split.test)) == counts


def test_fractions_must_sum_to_one():
    with pytest.raises(UserError, match="sum to 1"):
        patient_split(["a"], fractions=(0.7, 0.1, 0.1))


def test_rows_of_a_table():
    folds = patient_folds([f"case_{i}" for i in range(20)])
    rows = split_rows(folds)
    assert [(row["fold"], row["train"], row["validation"], row["test"]) for row in rows] == [
        (i, 14, 2, 4) for i in range(5)
    ]
    assert len({row["sha256"] for row in rows}) == 5
    assert split_rows(folds) == rows
