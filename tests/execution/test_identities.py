"""Digests that finished runs and trainings are found again by, for every kind of entry that a suite knows.

They were written down from what had been run by then. Code that is put in another order leaves them alone; where a
version (of the metrics, the prompts, the records) is raised on purpose, the new ones are written here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.contestants import Method, Target
from benchmarks.data.dataset import Case, Dataset, External, Split
from benchmarks.execution import plan as planning
from benchmarks.execution.datasets import Folders
from benchmarks.execution.plan import plan
from benchmarks.execution.suite import parse_suite
from benchmarks.execution.unit import Unit
from benchmarks.weights.zoo import ZooWeights

SUITE = """
name: identities
seed: 7
datasets: [{name: kits21, source: phantom}, {name: lits17, source: phantom}]
methods: [ENTRY]
protocols: [none, centre-click, box]
budget: {steps: 4}
workers: 2
"""
TARGETS = {
    "kits21": Target("kidney-tumor", "kidney", "tumor", (2,)),
    "lits17": Target("liver-tumor", "liver", "", (1,)),
}
CASES = ("a", "b", "c", "d")
# entry → digest of the unit, of what decides its masks, and of its training; on kits21
KNOWN = {
    "mock-noop": ("adf179fcc2dce5fe", "b44dcd4937c5065e"),
    "{name: mock-threshold, label: own}": ("5ac3ac408109ca3f", "0467928151872c3c"),
    "mock-official": ("84c521751383f5e8", "727dd67438e99311"),
    "{name: mock-official, config: {checkpoint: FILE}}": ("497d1bddf60a8bb6", "13fd776c71434c0e"),
    "mock-network": ("5fcb023352bb1664", "165881423d6f682e", "9abbcccd8d99b3de"),
    "{name: mock-network, config: {learning_rate: 0.001}, repeat: 1}": (
        "22342364d8e9476d",
        "19312bc295ada871",
        "f0a214bb78cfb480",
    ),
    "{name: mock-network, untrained: true}": ("2fb0e667196828a0", "fd3558c87c6bc24c", "21c26f754bc19c96"),
    "{name: mock-network, joint: true}": ("beb1c473b1cb7ccb", "dc34f49f9b70c502", "b5b4ecf6d1d2ee37"),
    "{name: mock-network, zoo: true}": ("dd8b61f651c87773", "9b7ec9b1bc9d8627"),
    "{name: mock-network, zoo: true, fine_tune: true}": ("0a941b9233275a01", "451433e84d5a76a4", "13f8e1070fff0844"),
    "{name: mock-network, budget: {steps: 6}, environment: {pip: [einops==0.0.1]}}": (
        "cc1c5320206bf9c3",
        "e1998eaa2776bd80",
        "a352b1b439fb4496",
    ),
    "mock-apart-learner": ("156ec82aac1c008f", "0d0b4a4e6f3ed8b4", "6a7f9b6ee24f2c9d"),
    "mock-bad-fit": ("311683844b17ddcf", "239f030cb17711b8", "7ca256372e91585f"),
}
KEEPS_BEST = ("c43390afa07300e4", "eae6a4501a337fc5", "d94ac6f03ccd1899")
EXTERNAL = ("fda609a2de7969b9", "cb079d0182a776b0", "262250a6d565e690")


def dataset_of(name: str, folder: Path) -> Dataset:
    """Four cases of one phantom each, in files whose bytes no library decides."""
    folder.mkdir(parents=True)
    cases = {}
    for number, case in enumerate(CASES):
        label = np.zeros((8, 8, 8), np.int16)
        label[2:5, 2:5, 2 : 5 + number % 2] = TARGETS[name].labels[0]
        scan = (100 * label + number + len(name)).astype(np.int16)
        files = [folder / f"{case}.{part}.nii" for part in ("image", "label")]
        for path, array in zip(files, (scan, label), strict=True):
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)
        cases[case] = Case(name, case, *files, synthetic=True)
    split = Split(("a", "b"), ("c",), ("d",))
    return Dataset(name, cases, (TARGETS[name],), (split,), synthetic=True)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    root = tmp_path_factory.mktemp("identities")
    return [dataset_of(name, root / name) for name in TARGETS]


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official file of the mock, in the weights folder, and a zoo for its network."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mock-official.bin").write_bytes(b"MOCK: some weights")
    (tmp_path / "zoo" / "checkpoint").mkdir(parents=True)
    (tmp_path / "zoo" / "checkpoint" / "weights").write_bytes(b"some weights")
    card: dict[str, Any] = {"config": {"learning_rate": 0.01}, "datasets": ["kits21"], "phantoms": {"images": []}}

    def zoo_weights(method: Method, dataset: str) -> ZooWeights | None:
        return ZooWeights(tmp_path / "zoo", card, "of the zoo") if dataset == "kits21" else None

    monkeypatch.setattr(planning, "zoo_weights", zoo_weights)


def identities(unit: Unit) -> tuple[str, ...]:
    """Of the unit, of its masks (they end the name of their folder), and of its training."""
    assert unit.evaluation.predictions is not None
    training = (unit.job.digest(),) if unit.job else ()
    return (unit.digest, unit.evaluation.predictions.name.rpartition("-")[2], *training)


def first_unit(text: str, datasets: list[Dataset], out: Path) -> Unit:
    return plan(parse_suite(text, "test"), datasets, Folders(out))[0]


@pytest.mark.parametrize("entry", KNOWN)
def test_every_kind_of_entry_is_found_again(entry: str, datasets: list[Dataset], tmp_path: Path) -> None:
    (tmp_path / "own.bin").write_bytes(b"MOCK: other weights")
    text = SUITE.replace("ENTRY", entry).replace("FILE", str(tmp_path / "own.bin"))
    assert identities(first_unit(text, datasets, tmp_path / "out")) == KNOWN[entry]


def test_a_training_that_keeps_its_best_is_found_again(datasets: list[Dataset], tmp_path: Path) -> None:
    text = SUITE.replace("ENTRY", "mock-network") + "keep_best: 2\n"
    assert identities(first_unit(text, datasets, tmp_path)) == KEEPS_BEST


def test_what_learns_from_another_dataset_is_found_again(datasets: list[Dataset], tmp_path: Path) -> None:
    kits, lits = datasets
    tested = replace(kits, external=External("kits21", replace(lits, targets=kits.targets)))
    unit = first_unit(SUITE.replace("ENTRY", "mock-network"), [tested, lits], tmp_path)
    assert identities(unit) == EXTERNAL
