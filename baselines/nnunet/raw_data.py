"""The bench's cases as an nnU-Net raw data set.

Every case is read by the bench and written anew, on purpose: then training sees the very RAS+ arrays, in the very
axis order, that `Segmenter.open` gets at prediction, whatever the order of the files. The copies carry spacing
only, no rotation: nnU-Net uses nothing else of the geometry, and its reader refuses some oblique affines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.data.dataset import Case
from benchmarks.data.volume import FloatArray, Volume, write_nifti

DATASET_ID = 1
DATASET_NAME = f"Dataset{DATASET_ID:03d}_Bench"


def label_values(target: Target, with_organ: bool) -> dict[str, int]:
    """nnU-Net's consecutive label values by name; the lesion is always the last."""
    names = ["background", "organ", "lesion"] if with_organ else ["background", "lesion"]
    return {name: value for value, name in enumerate(names)}


def remap(label: NDArray[np.int16], target: Target, with_organ: bool) -> NDArray[np.uint8]:
    """The bench's label map in nnU-Net's values; labels of neither kind (cysts and the like) become background."""
    values = label_values(target, with_organ)
    mapped = np.zeros(label.shape, np.uint8)
    if with_organ:
        mapped[np.isin(label, target.organ_labels)] = values["organ"]
    mapped[np.isin(label, target.labels)] = values["lesion"]
    return mapped


def write_raw_dataset(
    cases: Sequence[Case], target: Target, with_organ: bool, raw: Path
) -> tuple[Path, dict[str, str]]:
    """Write `cases` under `raw` in nnU-Net's layout; returns the data set's folder and nnU-Net name → case id.

    Raises:
        UserError: no cases, an unreadable one, no lesion in any, or no organ label where one is wanted.
    """
    if not cases:
        raise UserError("nnU-Net: no training cases")
    if with_organ and not target.organ_labels:
        raise UserError(
            f"nnunet-organ: dataset '{cases[0].dataset}' has no organ label for target '{target.name}'; use 'nnunet'"
        )
    folder = raw / DATASET_NAME
    names: dict[str, str] = {}
    lesion_voxels = 0
    lesion = label_values(target, with_organ)["lesion"]
    for index, case in enumerate(cases):
        name = f"case_{index:04d}"
        volume, label = case.load()
        mapped = remap(label, target, with_organ)
        lesion_voxels += int((mapped == lesion).sum())
        affine = np.diag([*volume.spacing, 1.0])
        write_nifti(_compact(volume.array), affine, folder / "imagesTr" / f"{name}_0000.nii")
        write_nifti(mapped, affine, folder / "labelsTr" / f"{name}.nii")
        names[name] = case.case_id
    if not lesion_voxels:
        raise UserError(f"nnU-Net: none of the {len(cases)} training cases holds the target '{target.name}'")
    description: dict[str, Any] = {
        "channel_names": {"0": cases[0].modality},  # the word CT selects nnU-Net's CT normalisation, any other z-scores
        "labels": label_values(target, with_organ),
        "numTraining": len(names),
        "file_ending": ".nii",  # uncompressed: they live as long as the training only
        # listed, so that nnU-Net does not start a pool of processes to list two folders
        "dataset": {name: {"images": [f"imagesTr/{name}_0000.nii"], "label": f"labelsTr/{name}.nii"} for name in names},
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))
    return folder, names


def to_nnunet_axes(volume: Volume) -> tuple[FloatArray, dict[str, list[float]]]:
    """(x, y, z) → nnU-Net's (channel, z, y, x), with the spacing in that order."""
    x, y, z = volume.spacing
    return np.ascontiguousarray(volume.array.T)[None], {"spacing": [z, y, x]}


def from_nnunet_axes(array: NDArray[Any]) -> NDArray[Any]:
    """(z, y, x) → the bench's (x, y, z)."""
    return np.ascontiguousarray(array.T)


def _compact(array: FloatArray) -> NDArray[np.generic]:
    """int16 where that loses nothing, which halves the disk that a large CT data set needs."""
    fits = array.min() >= -32768 and array.max() <= 32767
    return array.astype(np.int16) if fits and np.array_equal(array, np.rint(array)) else array
