"""`prompts` and `predict`: prompts by hand go out, come back, and segment a scan."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.commands.options import DataOptions, MethodOptions, WorkOptions
from benchmarks.commands.run import chosen_suite
from benchmarks.data import registry
from benchmarks.execution.progress import Progress
from benchmarks.execution.work import planned
from benchmarks.prompting.prompts import GIVEN
from benchmarks.results.records import RecordStore
from tests.scan_folders import write_msd

PROMPTED = """
name: prompted
datasets: [{name: lits17, source: phantom, cases: 4}]
methods: [ball]
protocols: [centre-click, {kind: box, per: each-lesion}]
budget: {steps: 1}
"""


def test_prompts_go_out_and_come_back_by_hand(call, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(PROMPTED)
    named = ("--suite", "suite.yaml", "--out", "out")
    shown = call("prompts", "show", *named, "--json")
    rows = json.loads(shown.out)
    assert {row["prompt"] for row in rows} <= {"click +", "no-target"}
    out = call("prompts", "export", "clicks", *named)
    assert out.code == 0
    files = sorted((tmp_path / "clicks").iterdir())
    assert f"{len(files)} files in clicks" in out.out
    content = json.loads(files[0].read_text())
    content["clicks"][0]["mm"][2] += 5.0
    files[0].write_text(json.dumps(content))
    assert "the next run replays" in call("prompts", "import", "clicks", *named).out
    again = json.loads(call("prompts", "show", *named, "--json").out)
    assert again != rows
    assert len(again) == len(rows)
    files[0].unlink()
    refused = call("prompts", "import", "clicks", *named)
    assert refused.code == 2
    assert refused.err.startswith("error: clicks: no file")
    assert refused.err.count("\n") == 1
    boxes = call("prompts", "export", "boxes", *named, "--protocol", "box-each-lesion")
    assert boxes.code == 0
    assert all(".lesion-" in path.name for path in (tmp_path / "boxes").iterdir())
    assert "did you mean 'centre-click'" in call("prompts", "show", *named, "--protocol", "center-click").err


@pytest.mark.parametrize(
    "options",
    [
        ("--methods", "ball,mock-network"),  # something learns: a test split
        ("--methods", "region-growing"),  # nothing learns: all cases are tested
        ("--methods", "region-growing", "--fold", "1"),
        ("--methods", "region-growing", "--splits", "patient", "--seed", "5"),
    ],
)
def test_a_run_replays_what_was_imported_with_its_options(call, tmp_path: Path, options: tuple[str, ...]) -> None:
    """The bank lies at the cases that a run tests, and these follow from its methods, folds and splits."""
    registry.add(registry.Registration("mine", write_msd(tmp_path / "scans", cases=10)))
    named = ("--dataset", "mine", *options)
    assert call("prompts", "export", "clicks", *named, "--out", "elsewhere").code == 0
    imported = json.loads(call("prompts", "import", "clicks", *named, "--out", "out", "--json").out)
    units = planned(chosen_suite(work_options(options)), tmp_path / "out", Progress()).units
    banks = [unit.evaluation.banks["centre-click"] for unit in units]
    assert {(bank.digest, bank.origin) for bank in banks} == {(imported["sha256"], GIVEN)}
    assert {len(unit.cases) for unit in units} == {imported["cases"]}


def work_options(options: tuple[str, ...]) -> WorkOptions:
    """As the command line of `run` has them."""
    said = dict(zip(options[::2], options[1::2], strict=True))
    fold = [said["--fold"]] if "--fold" in said else None
    seed = int(said["--seed"]) if "--seed" in said else None
    data = DataOptions(dataset=["mine"], fold=fold, splits=said.get("--splits"), seed=seed)
    return WorkOptions(data=data, methods=MethodOptions(methods=said["--methods"]))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--all-datasets",), "one dataset"),
        (("--fold", "0", "--fold", "1"), "one fold"),
        (("--fold", "all"), "one fold"),
        (("--suite", "paper-folds", "--dataset", "kits21"), "one fold"),
        (("--protocol", "box", "--protocol", "centre-click"), "one protocol"),
    ],
)
def test_prompts_are_those_of_one_bank(call, options: tuple[str, ...], what: str) -> None:
    refused = call("prompts", "show", *options)
    assert refused.code == 2
    assert refused.errors == [
        f"error: prompts are those of {what}; choose it with --{what.split()[1]}"
        + (", such as --fold 0" if "fold" in what else "")
    ]


def test_a_scan_is_segmented_with_prompts_by_hand(call, tmp_path: Path) -> None:
    """From the records of a run; here a unit that needs no training, described as a run would."""
    from dataclasses import asdict

    from benchmarks.contestants import method
    from benchmarks.data.catalogue import load_folder

    root = write_msd(tmp_path / "scans")
    target = load_folder(root, target_label="1").targets[0]
    store = RecordStore(tmp_path / "out" / "records")
    folder = store.unit_folder("own", "scans", "region-growing", "u")
    told = {"unit": "u", "method": "mock-threshold", "method_name": "mock-threshold", "dataset": "scans", "fold": 0,
            "target": asdict(target), "config": method("mock-threshold").configured(), "checkpoint": "",
            "synthetic": False, "contamination": "unseen", "protocols": [], "skipped_protocols": [],
            "cases": []}  # fmt: skip
    store.begin_unit(folder, told)
    store.set_current("own", [folder])
    scan = str(root / "imagesTr" / "case_0.nii.gz")
    words = ("--method", "mock-threshold", "--suite", "own", "--out", "out")
    done = call("predict", scan, "mask.nii.gz", *words, "--json")
    assert done.code == 0
    assert json.loads(done.out)["voxels"] == np.count_nonzero(nib.load(tmp_path / "mask.nii.gz").get_fdata())
    refused = call("predict", scan, "another.nii.gz", *words, "--text", "tumour")
    assert refused.code == 2
    assert "the method takes no text" in refused.err
