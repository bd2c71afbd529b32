"""The layout of the Medical Segmentation Decathlon: imagesTr, labelsTr, and a dataset.json listing the pairs.

Layout, label values and licence: medicaldecathlon.com and Antonelli et al., The Medical Segmentation
Decathlon, Nature Communications 13 (2022) 4128. Task07 is `msd-pancreas`, Task10 `msd-colon`; Task03 holds
the scans of LiTS17 and is read by `lits17`. Windows and intensity statistics: the 3DSAM-adapter code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.download import RemoteFile
from benchmarks.common.errors import UserError, shorten
from benchmarks.common.files import write_json
from benchmarks.data.dataset import Dataset, DatasetInfo
from benchmarks.data.layouts.layout import (
    SYNTHETIC_LICENCE,
    SYNTHETIC_WORDS,
    Pair,
    Splitting,
    assemble,
    label_value,
    named_entries,
    pair,
    patients_of,
    read_dataset_json,
    refuse_partial_annotation,
    require_folder,
    volume_files,
    volume_stem,
)
from benchmarks.data.source import DatasetSource, FetchList
from benchmarks.data.splits import StoredSplits
from benchmarks.data.synthetic.abdomen import Abdomen, CaseFiles, Kind
from benchmarks.data.synthetic.writing import abdominal_phantoms
from benchmarks.data.target import Target

CITATION = "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022) 4128"
LICENCE = "CC BY-SA 4.0"
URL = "http://medicaldecathlon.com"
MAX_ABSENT = 3  # cases named in a note

PANCREAS = DatasetInfo(
    name="msd-pancreas",
    title="MSD Task07, pancreatic tumours",
    targets=(
        Target(
            name="pancreas-tumor",
            organ="pancreas",
            lesion="tumor",
            labels=(2,),
            organ_labels=(1,),
            window=(-39.0, 204.0),
            mean=68.45214,
            std=63.422806,
        ),
    ),
    licence=LICENCE,
    layout="Task07_Pancreas/imagesTr/pancreas_001.nii.gz, labelsTr/pancreas_001.nii.gz, dataset.json",
    citation=CITATION,
    url=URL,
    cases=281,
    split_source="3dsam-adapter, fold 0",
    label_values=(0, 1, 2),
)

COLON = DatasetInfo(
    name="msd-colon",
    title="MSD Task10, primary colon cancer",
    targets=(
        Target(
            name="colon-tumor",
            organ="colon",
            lesion="tumor",
            labels=(1,),
            window=(-57.0, 175.0),
            mean=65.175035,
            std=32.651197,
        ),
    ),
    licence=LICENCE,
    layout="Task10_Colon/imagesTr/colon_001.nii.gz, labelsTr/colon_001.nii.gz, dataset.json",
    citation=CITATION,
    url=URL,
    cases=126,
    split_source="3dsam-adapter, fold 0",
    label_values=(0, 1),
)


def load(root: Path, info: DatasetInfo, splitting: Splitting, *, strict: bool = True, tested: bool = False) -> Dataset:
    """Any folder of that layout; `tested`: with the scans of imagesTs whose labels lie in labelsTs.

    A note names the cases that dataset.json lists and that are not there.

    Raises:
        UserError: the label values of `info` are not in dataset.json, or as `assemble` does.
    """
    require_folder(root)
    content = read_dataset_json(root)
    pairs = labelled_pairs(root, info) + (tested_pairs(root, content) if tested else [])
    dataset = assemble(info, root, pairs, splitting, strict=strict)
    return replace(dataset, notes=(*dataset.notes, *_absent_note(root, content)))


def _absent_note(root: Path, content: dict[str, Any]) -> list[str]:
    listed = _listed(root, content)
    there = volume_files(root / "imagesTr").keys() | volume_files(root / "labelsTr").keys()
    absent = [stem for stem in listed if stem not in there]
    if not absent:
        return []
    shown = ", ".join(absent[:MAX_ABSENT]) + (f" and {len(absent) - MAX_ABSENT} more" if absent[MAX_ABSENT:] else "")
    return [f"{len(absent)} of the {len(listed)} training cases of dataset.json not there: {shown}"]


def tested_pairs(root: Path, content: dict[str, Any]) -> list[Pair]:
    """What lies in imagesTs with a label in labelsTs; `content` is that of dataset.json."""
    images, labels = volume_files(root / "imagesTs"), volume_files(root / "labelsTs")
    patients = named_patients(content, root)
    return [pair(stem, images.get(stem, []), found, patients.get(stem, "")) for stem, found in labels.items()]


def labelled_pairs(folder: Path, info: DatasetInfo) -> list[Pair]:
    """The pairs of a folder whose dataset.json has the label values of `info`. Raises UserError if it has not."""
    content = read_dataset_json(folder)
    known = {value for _, values in named_labels(content, folder) for value in values}
    for target in info.targets:
        missing = sorted({*target.labels, *target.organ_labels} - known)
        if missing:
            raise UserError(f"{folder / 'dataset.json'}: no label {missing[0]}; is this {info.title}?")
    return find_pairs(folder, content)


def task_pairs(info: DatasetInfo, folder: str) -> Callable[[Path], list[Pair]]:
    """Reads a task folder of the Decathlon, or the folder above it."""
    return lambda root: labelled_pairs(task_folder(root, folder), info)


def task_archive(task: str) -> FetchList:
    """The archive of a task; address and MD5 are asked of the installed MONAI when they are needed."""

    def files(cases: Sequence[int] | None) -> list[RemoteFile]:
        if cases is not None:
            raise UserError(f"{task} comes in one archive; single cases cannot be fetched")
        from monai.apps import DecathlonDataset

        return [RemoteFile(DecathlonDataset.resource[task], f"{task}.tar", f"md5:{DecathlonDataset.md5[task]}")]

    return FetchList(f"{task}.tar, as hosted for MONAI", files, LICENCE, URL)


def task_folder(root: Path, name: str) -> Path:
    """`root` if it holds a dataset.json, else the task's folder in it."""
    inner = root / name
    return inner if name and not (root / "dataset.json").is_file() and inner.is_dir() else root


def find_pairs(root: Path, content: dict[str, Any]) -> list[Pair]:
    """The pairs that dataset.json lists and that are there, and whatever lies there unlisted as a problem.

    A listed case of which neither file is there is a case not downloaded, not a bad one; a note counts these.
    """
    images, labels = volume_files(root / "imagesTr"), volume_files(root / "labelsTr")
    pairs = []
    listed = _listed(root, content)
    patients = named_patients(content, root)
    for stem in listed:
        if stem in images or stem in labels:
            pairs.append(pair(stem, images.get(stem, []), labels.get(stem, []), patients.get(stem, "")))
    for stem in sorted({*images, *labels} - set(listed)):
        problem = f"{root / 'dataset.json'} does not list it as a training case"
        pairs.append(Pair(stem, None, None, problem=problem))
    return pairs


def named_labels(content: dict[str, Any], root: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Foreground labels as (name, values), from either way of writing them (MSD's and nnU-Net's).

    nnU-Net's regions have several values, and may be the only place where one of them stands.

    Raises:
        UserError: no labels, one that is no whole number, or nnU-Net's label `ignore`.
    """
    labels = content.get("labels")
    path = root / "dataset.json"
    if not isinstance(labels, dict) or not labels:
        raise UserError(f"{path}: no 'labels' that say what each value means")
    refuse_partial_annotation(root, content)
    found = []
    for name, listed in named_entries(labels):
        values = [label_value(value) for value in (listed if isinstance(listed, list) else [listed])]
        whole = sorted({value for value in values if value is not None})
        if not values or None in values:
            raise UserError(f"{path}: label '{shorten(f'{name}: {listed}')}' has no whole number of a label map")
        if whole != [0]:
            found.append((name, tuple(value for value in whole if value != 0)))
    return sorted(found, key=lambda label: (len(label[1]), label[1]))


def named_patients(content: dict[str, Any], root: Path) -> dict[str, str]:
    """As `patients_of`, for cases that dataset.json lists or that lie in imagesTs."""
    return patients_of(content, root, lambda: {*_listed(root, content), *volume_files(root / "imagesTs")})


def _listed(root: Path, content: dict[str, Any]) -> list[str]:
    entries = content.get("training")
    path = root / "dataset.json"
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no 'training' list of image and label pairs")
    stems = []
    for entry in entries:
        try:
            image, label = Path(entry["image"]), Path(entry["label"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: every entry of 'training' needs 'image' and 'label'") from error
        stem = volume_stem(image)
        if stem is None or stem != volume_stem(label):
            raise UserError(f"{path}: '{image}' and '{label}' are not a pair of scans of one name")
        if (image.parent, label.parent) != (Path("imagesTr"), Path("labelsTr")):
            raise UserError(f"{path}: '{image}' and '{label}' do not lie in imagesTr and labelsTr")
        stems.append(stem)
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise UserError(f"{path}: case '{twice}' is listed twice")
    return sorted(stems)


def _place(
    folder: Path, index: int, cases: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> CaseFiles:
    case_id = f"pancreas_{index + 1:03d}"
    image, label = (folder / "Task07_Pancreas" / part / f"{case_id}.nii.gz" for part in ("imagesTr", "labelsTr"))
    return CaseFiles(case_id, image, label, "RAS", (0.0, 0.0, -350.0 + 7 * index))


def _describe(folder: Path, case_ids: list[str]) -> None:
    """The dataset.json of phantoms."""
    pairs = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in case_ids]
    description = {
        "name": "Pancreas",
        "description": f"{SYNTHETIC_WORDS} in the layout of MSD Task07",
        "licence": SYNTHETIC_LICENCE,
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
        "numTraining": len(pairs),
        "numTest": 0,
        "training": pairs,
        "test": [],
    }
    write_json(folder / "Task07_Pancreas" / "dataset.json", description)


ABDOMEN = Abdomen(
    dataset="msd-pancreas",
    organ="pancreas",
    kind=Kind("MSD Task07", (90, 115), (130, 170), (10, 36), 0.1, (0.85, 0.15), True, 0.3, 1, (20, 50), (1.3, 2.0)),
    place=_place,
    describe=_describe,
)

PANCREAS_SOURCE = DatasetSource(
    info=PANCREAS,
    pairs=task_pairs(PANCREAS, "Task07_Pancreas"),
    splits=StoredSplits(
        "msd-pancreas",
        by_patient="96c5ab9e88f41350333af12b7ca10d867b8c567a9b65c3b908b84a3d99b60dda",
        published="0e7f8a1b53089a1817264dac5240bc3b309c65995f047e0baed00008ced15538",
    ),
    fetch=task_archive("Task07_Pancreas"),
    phantoms=abdominal_phantoms(ABDOMEN),
)

COLON_SOURCE = DatasetSource(
    info=COLON,
    pairs=task_pairs(COLON, "Task10_Colon"),
    splits=StoredSplits(
        "msd-colon",
        by_patient="0b23d69577478ce40256c1317af7f0b0ebe8eaabe018947900684c8827fe7e22",
        published="8027aa09635c1c90c60e2486e67b96f11f5c838f5d4dbf13f343609240e7127b",
    ),
    fetch=task_archive("Task10_Colon"),
)
