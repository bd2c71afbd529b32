"""Small folders of scans for tests."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np


def write_msd(root: Path, cases: int = 4, labels: dict[str, str] | None = None) -> Path:
    """A folder of scans in MSD layout: a bright cube in noise, one per case."""
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    rng = np.random.default_rng(0)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    entries = []
    for number in range(cases):
        label = np.zeros((24, 24, 12), np.uint8)
        low = 4 + number
        label[low : low + 8, 6:14, 3:8] = 1
        image = (label * 120 + rng.normal(0, 10, label.shape)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, affine), root / "imagesTr" / f"case_{number}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), root / "labelsTr" / f"case_{number}.nii.gz")
        entries.append({"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"})
    content = {
        "name": "mine",
        "labels": labels or {"0": "background", "1": "tumour"},
        "modality": {"0": "CT"},
        "numTraining": cases,
        "training": entries,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root
