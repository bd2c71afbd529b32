"""LiTS17: 131 contrast-enhanced CT with liver and tumours.

Layout and licence: the LiTS challenge (competitions.codalab.org/competitions/17094; volume-N.nii with
segmentation-N.nii in two batches) and Bilic et al., The Liver Tumor Segmentation Benchmark, Medical Image
Analysis 84 (2023) 102680. The same scans are MSD Task03_Liver (liver_N): both layouts give the same case ids,
so a patient never falls on both sides of a split. Signs of the affine vary from case to case; the loader
follows them. Window and intensity statistics: the 3DSAM-adapter code (the figure in its README has others).
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchmarks.common.errors import UserError
from benchmarks.common.files import files_below, readable
from benchmarks.data.dataset import DatasetInfo
from benchmarks.data.layouts import msd
from benchmarks.data.layouts.layout import Pair, file_or_dead_link, pair, read_dataset_json, volume_stem
from benchmarks.data.source import DatasetSource
from benchmarks.data.splits import StoredSplits
from benchmarks.data.synthetic.abdomen import Abdomen, CaseFiles, Kind
from benchmarks.data.synthetic.writing import abdominal_phantoms
from benchmarks.data.target import Target

INFO = DatasetInfo(
    name="lits17",
    title="LiTS17, liver tumours",
    targets=(
        Target(
            name="liver-tumor",
            organ="liver",
            lesion="tumor",
            labels=(2,),
            organ_labels=(1,),
            window=(-48.0, 163.0),
            mean=60.057533,
            std=40.198017,
        ),
    ),
    licence="CC BY-NC-ND 4.0",
    layout="volume-0.nii[.gz] and segmentation-0.nii[.gz], together or in two batches; or Task03_Liver",
    citation="Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), arXiv:1901.04056",
    url="https://competitions.codalab.org/competitions/17094",
    cases=131,
    split_source="3dsam-adapter, fold 0 (13 tumour-free scans left out)",
    label_values=(0, 1, 2),
)


MOST_BELOW = 100_000  # files and folders; the whole dataset has 262 and a few


def find_pairs(root: Path) -> list[Pair]:
    """The cases of its own files or of MSD Task03_Liver. Raises UserError for a bad dataset.json."""
    folder = msd.task_folder(root, "Task03_Liver")
    return _decathlon_pairs(folder) if (folder / "dataset.json").is_file() else own_pairs(root)


@readable()
def own_pairs(root: Path) -> list[Pair]:
    """volume-N beside segmentation-N, anywhere below `root`, whose batches may be links.

    Raises:
        UserError: there is too much below the folder, or a folder that cannot be read.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    below = list(islice(files_below(root, links=True), MOST_BELOW + 1))
    if len(below) > MOST_BELOW:
        raise UserError(f"{root}: more than {MOST_BELOW:,} files below it; name the folder of the dataset itself")
    for path in sorted(below):
        match = re.fullmatch(r"(volume|segmentation)-(\d+)", volume_stem(path) or "")
        if match and file_or_dead_link(path):
            files = found.setdefault(f"volume-{int(match[2])}", {"volume": [], "segmentation": []})
            files[match[1]].append(path)
    return [pair(case_id, files["volume"], files["segmentation"]) for case_id, files in found.items()]


def _decathlon_pairs(folder: Path) -> list[Pair]:
    pairs = msd.find_pairs(folder, read_dataset_json(folder))
    return [replace(found, case_id=_lits_id(found.case_id)) for found in pairs]


def _lits_id(case_id: str) -> str:
    match = re.fullmatch(r"liver_(\d+)", case_id)
    return f"volume-{int(match[1])}" if match else case_id


ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "RAI", "LPI")  # of phantoms, in turn


def _place(
    folder: Path, index: int, cases: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> CaseFiles:
    """Two batches, and signs of the affine that vary from case to case."""
    place = folder / ("Training Batch 1" if index < (cases + 1) // 2 else "Training Batch 2")
    image, label = place / f"volume-{index}.nii", place / f"segmentation-{index}.nii"
    origin = (-110.0 + index, -180.5, 1200.0 - 31 * index)
    return CaseFiles(f"volume-{index}", image, label, ORIENTATIONS[index % len(ORIENTATIONS)], origin)


ABDOMEN = Abdomen(
    dataset="lits17",
    organ="liver",
    kind=Kind(
        "LiTS17", (95, 120), (130, 180), (10, 60), 0.2, (0.35, 0.25, 0.2, 0.2), True, 0.4, 1, (20, 55), (1.2, 1.7)
    ),
    place=_place,
)

SOURCE = DatasetSource(
    info=INFO,
    pairs=find_pairs,
    splits=StoredSplits(
        "lits17",
        by_patient="69f77b1ff53a6357ddf62794eb8f055da9364ab50d42404799cc6f28719ec474",
        published="c9e9730f7c28cdd70b296bdf9d372e989e3aceb386290e4558174b8202c9b438",
    ),
    fetch=msd.task_archive("Task03_Liver"),
    phantoms=abdominal_phantoms(ABDOMEN),
    recognise=lambda root: not (root / "imagesTr").is_dir() and bool(own_pairs(root)),
)
