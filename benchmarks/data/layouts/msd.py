"""The layout of the Medical Segmentation Decathlon: imagesTr, labelsTr, and a dataset.json listing the pairs.

Layout, label values and licence: medicaldecathlon.com and Antonelli et al., The Medical Segmentation
Decathlon, Nature Communications 13 (2022) 4128. Task07 is `msd-pancreas`, Task10 `msd-colon`; Task03 holds
the scans of LiTS17 and is read by `lits17`. Windows and intensity statistics: the 3DSAM-adapter code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError
from benchmarks.data.dataset import Dataset, DatasetInfo
from benchmarks.data.layouts.layout import (
    Pair,
    assemble,
    pair,
    read_dataset_json,
    require_folder,
    volume_files,
    volume_stem,
)
from benchmarks.data.target import Target

CITATION = "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022) 4128"
LICENCE = "CC BY-SA 4.0"
URL = "http://medicaldecathlon.com"

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
    default=False,
)

FOLDERS = {"msd-pancreas": "Task07_Pancreas", "msd-colon": "Task10_Colon"}


def load(
    root: Path,
    info: DatasetInfo = PANCREAS,
    *,
    splits: str | None = None,
    seed: int = 0,
    strict: bool = True,
) -> Dataset:
    """A task folder of the Decathlon (or the folder above it), or any folder of that layout.

    Raises:
        UserError: the label values of `info` are not in dataset.json, or as `assemble` does.
    """
    require_folder(root)
    folder = task_folder(root, FOLDERS.get(info.name, ""))
    content = read_dataset_json(folder)
    known = {value for _, value in label_names(content, folder)}
    for target in info.targets:
        missing = sorted({*target.labels, *target.organ_labels} - known)
        if missing:
            raise UserError(f"{folder / 'dataset.json'}: no label {missing[0]}; is this {info.title}?")
    pairs = find_pairs(folder, content)
    return assemble(info, folder, pairs, splits=splits, seed=seed, strict=strict, expected=info.cases or None)


def task_folder(root: Path, name: str) -> Path:
    """`root` if it holds a dataset.json, else the task's folder in it."""
    inner = root / name
    return inner if name and not (root / "dataset.json").is_file() and inner.is_dir() else root


def find_pairs(root: Path, content: dict[str, Any]) -> list[Pair]:
    """The pairs that dataset.json lists and that are there, and whatever lies there unlisted as a problem.

    A listed case of which neither file is there is a case not downloaded, not a bad one.
    """
    images, labels = volume_files(root / "imagesTr"), volume_files(root / "labelsTr")
    pairs = []
    listed = _listed(root, content)
    for stem in listed:
        if stem in images or stem in labels:
            pairs.append(pair(stem, images.get(stem, []), labels.get(stem, [])))
    for stem in sorted({*images, *labels} - set(listed)):
        problem = f"{root / 'dataset.json'} does not list it as a training case"
        pairs.append(Pair(stem, None, None, problem=problem))
    return pairs


def label_names(content: dict[str, Any], root: Path) -> list[tuple[str, int]]:
    """Foreground labels as (name, value), from either way of writing them (MSD's and nnU-Net's)."""
    labels = content.get("labels")
    path = root / "dataset.json"
    if not isinstance(labels, dict) or not labels:
        raise UserError(f"{path}: no 'labels' that say what each value means")
    found = []
    for key, entry in labels.items():
        name, value = (str(entry), key) if str(key).lstrip("-").isdigit() else (str(key), entry)
        if isinstance(value, list | tuple):
            continue  # a region of several labels (nnU-Net); its parts are listed by themselves
        if not str(value).lstrip("-").isdigit():
            raise UserError(f"{path}: label '{key}: {entry}' has no whole number")
        if int(value) != 0 and name.lower() != "ignore":
            found.append((name, int(value)))
    return sorted(found, key=lambda label: label[1])


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
