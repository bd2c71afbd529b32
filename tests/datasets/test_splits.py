"""Splits: the published fold by its known counts, ours by the properties that make a split honest."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.datasets import splits
from benchmarks.datasets.splits import (
    STORED_SPLITS,
    patient_folds,
    patient_split,
    predecessor_counts,
    predecessor_excluded,
    predecessor_split,
    split_rows,
)
from benchmarks.errors import UserError


def complete_ids(name: str) -> list[str]:
    """As many case ids as a complete download has; MSD's numbering has gaps, anywhere."""
    if name == "kits21":
        return [f"case_{i:05d}" for i in range(300)]
    if name == "lits17":
        return [f"volume-{i}" for i in range(131)]
    prefix, total = {"msd-pancreas": ("pancreas", 281), "msd-colon": ("colon", 126)}[name]
    named = {*splits._stored(name)["validation"], *splits._stored(name)["test"]}
    others = (f"{prefix}_{i:03d}" for i in range(1, 1000))
    while len(named) < total:
        named.add(next(others))
    return sorted(named)


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
    split = predecessor_split(name, complete_ids(name))
    parts = (split.train, split.validation, split.test)
    assert tuple(map(len, parts)) == counts == predecessor_counts(name)
    together = set().union(*map(set, parts))
    assert len(together) == sum(counts)
    assert together | predecessor_excluded(name) == set(complete_ids(name))
    assert not together & predecessor_excluded(name)


def test_tumour_free_scans_are_left_out():
    numbers = {32, 34, 38, 41, 47, 87, 89, 91, 105, 106, 114, 115, 119}
    assert predecessor_excluded("lits17") == {f"volume-{i}" for i in numbers}


def test_predecessor_split_of_a_partial_download_is_the_intersection():
    whole = predecessor_split("kits21", complete_ids("kits21"))
    some = complete_ids("kits21")[::3]
    part = predecessor_split("kits21", some)
    for name in ("train", "validation", "test"):
        assert set(getattr(part, name)) == set(getattr(whole, name)) & set(some)


def test_unknown_dataset_has_no_predecessor_split():
    with pytest.raises(UserError, match="did you mean 'kits21'"):
        predecessor_split("kits2", [])


@pytest.mark.parametrize("name", STORED_SPLITS)
def test_a_changed_split_is_refused(name, monkeypatch, tmp_path):
    stored = dict(splits._stored(name))
    stored["test"] = stored["test"][1:]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / f"{name}.json").write_text(json.dumps(stored))
    monkeypatch.setattr(splits, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="SHA-256"):
        predecessor_split(name, [])


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
    assert patient_split(ids, seed=3) != patient_split(ids, seed=4)


def test_split_does_not_depend_on_the_process():
    code = (
        "from benchmarks.datasets.splits import patient_split;"
        "print(patient_split([f'case_{i}' for i in range(40)], seed=7))"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert runs == {f"{patient_split([f'case_{i}' for i in range(40)], seed=7)}\n"}


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
