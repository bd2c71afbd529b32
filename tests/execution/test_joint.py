"""One training on several datasets: what it learns from, what it must not, and how it is named."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.data.dataset import Dataset
from benchmarks.data.phantom import synthesise
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.suite import Suite, parse_suite
from benchmarks.execution.training_job import TrainingJob

SUITE = """
name: several
seed: 7
datasets:
  - {name: kits21, source: phantom, cases: 6}
  - {name: lits17, source: phantom, cases: 6}
methods: [{name: tags-tiny, joint: true}, tags-tiny]
protocols: [none]
budget: {steps: 4}
"""
# The folder holds the files of KiTS21, whose labels are 2 for tumours and 3 for cysts.
TWO_LESIONS = """
name: two-lesions
seed: 7
datasets:
  - {name: tumours, source: FOLDER, target: 2, organ: kidney, lesion: tumour}
  - {name: cysts, source: FOLDER, target: 3, organ: kidney, lesion: cyst, SPLITS}
methods: [{name: tags-tiny, joint: true}]
protocols: [none]
budget: {steps: 4}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("joint"))


def job_of(unit: Unit) -> TrainingJob:
    assert unit.job is not None
    return unit.job


def datasets_of(suite: Suite, folders: Folders) -> list[Dataset]:
    return [resolve_dataset(entry, suite.seed, folders) for entry in suite.datasets]


def units_of(text: str, folders: Folders) -> list[Unit]:
    suite = parse_suite(text, "test")
    return plan(suite, datasets_of(suite, folders), folders)


def test_all_datasets_share_one_training_on_the_training_cases_of_all(folders: Folders) -> None:
    joint, alone, joint_too, alone_too = units_of(SUITE, folders)
    assert job_of(joint).digest() == job_of(joint_too).digest()
    assert len({job_of(one).digest() for one in (joint, alone, alone_too)}) == 3
    assert [target.name for target, _ in job_of(joint).parts] == ["kidney-tumor", "liver-tumor"]
    learned = {(case.dataset, case.case_id) for _, cases in job_of(joint).parts for case in cases}
    split = {("kits21", one) for one in joint.dataset.splits[0].train}
    assert learned == split | {("lits17", one) for one in joint_too.dataset.splits[0].train}
    tested = {(case.dataset, case.case_id) for unit in (joint, joint_too) for case in unit.cases}
    assert not learned & tested
    assert joint.entry.title == "tags-tiny (joint)"


def test_what_was_learned_from_stands_in_the_records(folders: Folders) -> None:
    joint, alone, *_ = units_of(SUITE, folders)
    assert joint.description()["training_cases"][0].startswith("kits21/")
    assert joint.description()["training_cases"][-1].startswith("lits17/")
    assert len(joint.description()["training_cases"]) == 2 * len(alone.description()["training_cases"])
    # Whoever learns several targets has to be told in words which one is meant; whoever learns one knows it.
    assert joint.description()["knows"] == ["words"]
    assert alone.description()["knows"] == ["words", "its training"]


def test_two_lesions_of_the_same_scans_are_told_apart_by_their_words(folders: Folders, tmp_path: Path) -> None:
    folder = synthesise("kits21", tmp_path, seed=3, cases=8)
    tumours, cysts = units_of(TWO_LESIONS.replace("FOLDER", str(folder)).replace(", SPLITS", ""), folders)
    assert job_of(tumours).digest() == job_of(cysts).digest()
    (tumour, tumour_cases), (cyst, cyst_cases) = job_of(tumours).parts
    assert (tumour.labels, cyst.labels, cyst.lesion) == ((2,), (3,), "cyst")
    assert [case.case_id for case in tumour_cases] == [case.case_id for case in cyst_cases]


@pytest.mark.parametrize("level", [None, 1])
def test_a_scan_that_one_dataset_learns_from_and_another_tests_is_refused(
    folders: Folders, tmp_path: Path, level: int | None
) -> None:
    """The same files, or the same scans compressed anew at some level."""
    folder = synthesise("kits21", tmp_path / "one", seed=3, cases=8)
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    for path in again.rglob("*.nii.gz") if level is not None else ():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), level, mtime=5))
    rows = "\n".join(
        f"{case.name},{'train' if n < 4 else 'test'}" for n, case in enumerate(sorted(again.rglob("case_*")))
    )
    split = tmp_path / "split.csv"
    split.write_text(f"case,split\n{rows}\n")
    text = TWO_LESIONS.replace("FOLDER", str(folder), 1).replace("FOLDER", str(again))
    with pytest.raises(UserError, match=r"`joint` would train on 'case_\d+' of .*, which is evaluated as"):
        units_of(text.replace("SPLITS", f"splits: {split}"), folders)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{name: tags-tiny, joint: true}, tags-tiny", "{name: nnunet-small, joint: true}"), "that the bench trains"),
        (("joint: true", "joint: true, datasets: [kits21]"), "more than one target"),
        (("joint: true", "joint: true, zoo: true"), "that are trained, and this one is not"),
        (("budget:", "keep_best: 1\nbudget:"), "`keep_best` validates on one dataset"),
        (("cases: 6}\nmethods", "cases: 6, fold: 1}\nmethods"), "'lits17' has folds 0 to 0, not 1"),
    ],
)
def test_what_cannot_be_learned_together_is_refused(folders: Folders, change: tuple[str, str], message: str) -> None:
    text = SUITE.replace(*change)
    assert text != SUITE
    with pytest.raises(UserError, match=message):
        units_of(text, folders)
