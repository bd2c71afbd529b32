"""`prompts` and `predict`: prompts by hand go out, come back, and segment a scan."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

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
    refused = call("predict", scan, "mask.nii.gz", *words, "--text", "tumour")
    assert refused.code == 2
    assert "the method takes no text" in refused.err
