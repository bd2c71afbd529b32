"""The raw layout of nnU-Net: imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz, dataset.json.

Layout: nnU-Net v2, documentation/dataset_format.md. Folders of version 1, whose dataset.json maps values to
names, are read too. One channel only: the bench compares methods on one scan per case.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError
from benchmarks.data.dataset import Dataset, DatasetInfo
from benchmarks.data.layouts.layout import (
    VOLUME_SUFFIXES,
    Pair,
    Splitting,
    assemble,
    pair,
    patients_of,
    read_dataset_json,
    require_folder,
    volume_files,
)


def load(root: Path, info: DatasetInfo, splitting: Splitting, *, strict: bool = True, tested: bool = False) -> Dataset:
    """A folder in nnU-Net's raw layout; `tested`: with the scans of imagesTs whose labels lie in labelsTs.

    Raises:
        UserError: several channels, an ending that is not read, `patients` that name no case, or as `assemble` does.
    """
    require_folder(root)
    content = read_dataset_json(root)
    channels = content.get("channel_names") or content.get("modality") or {}
    if not isinstance(channels, dict | list):
        raise UserError(f'{root / "dataset.json"}: the channels are {channels!r}; write them as {{"0": "CT"}}')
    if len(channels) > 1:
        raise UserError(f"{root / 'dataset.json'}: {len(channels)} channels; the bench reads one scan per case")
    ending = content.get("file_ending", ".nii.gz")
    if ending not in VOLUME_SUFFIXES:
        known = ", ".join(VOLUME_SUFFIXES)
        raise UserError(f"{root / 'dataset.json'}: file_ending '{ending}' is none of {known}; convert the images")
    pairs = find_pairs(root, "Tr") + (find_pairs(root, "Ts") if tested else [])
    patients = patients_of(content, root, lambda: _case_ids(root))
    named = [replace(found, patient=patients.get(found.case_id, "")) for found in pairs]
    return assemble(info, root, named, splitting, strict=strict)


def _case_ids(root: Path) -> set[str]:
    """Every case that lies there, to learn from or to test."""
    tested = {stem.removesuffix("_0000") for stem in volume_files(root / "imagesTs")}
    return tested | {found.case_id for found in find_pairs(root, "Tr")}


def find_pairs(root: Path, part: str) -> list[Pair]:
    """<case>_0000 in imagesTr with <case> in labelsTr; of part "Ts", those of imagesTs that have a label."""
    images: dict[str, list[Path]] = {}
    pairs = []
    for stem, paths in volume_files(root / f"images{part}").items():
        match = re.fullmatch(r"(.+)_(\d{4})", stem)
        if match is None:
            problem = f"{paths[0]}: the name lacks a channel such as _0000; rename it to {stem}_0000"
            pairs.append(Pair(stem, None, None, problem=problem))
        elif match[2] != "0000":
            pairs.append(Pair(stem, None, None, problem=f"{paths[0]}: a second channel; one scan per case"))
        else:
            images[match[1]] = paths
    labels = volume_files(root / f"labels{part}")
    for stem in [stem for stem in labels if stem.endswith("_0000") and stem.removesuffix("_0000") not in labels]:
        case_id = stem.removesuffix("_0000")
        problem = f"{labels.pop(stem)[0]}: a label map must not have the channel _0000; rename it to {case_id}"
        pairs.append(Pair(case_id, None, None, problem=problem))
    known = {found.case_id for found in pairs}
    rest = sorted(({*images, *labels} if part == "Tr" else {*labels}) - known)
    return pairs + [pair(case_id, images.get(case_id, []), labels.get(case_id, [])) for case_id in rest]


def is_layout(root: Path, content: dict[str, Any]) -> bool:
    """Whether dataset.json is one of version 2, or images carry a channel number that their labels lack."""
    if "training" not in content and {"channel_names", "file_ending"} & content.keys():
        return True
    labels = volume_files(root / "labelsTr")
    stems = volume_files(root / "imagesTr")
    return any(stem.endswith("_0000") and stem not in labels for stem in stems)
