"""The datasets that the bench knows by name, found by entry point, and any folder of the user's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.errors import UserError, one_line, shorten
from benchmarks.common.files import files_below, readable
from benchmarks.common.paths import user_path
from benchmarks.common.plugins import BrokenPlugin, chosen, installed
from benchmarks.common.seeds import generator
from benchmarks.data.dataset import Case, Dataset, DatasetInfo
from benchmarks.data.intensities import CT, modality_of
from benchmarks.data.layouts import kits23, lits17, msd, nnunet_raw, pairs_csv
from benchmarks.data.layouts.layout import (
    Splitting,
    assemble,
    is_synthetic,
    label_value,
    read_dataset_json,
    require_folder,
)
from benchmarks.data.source import DatasetSource
from benchmarks.data.split_files import FOLDERS, is_split_file, with_splits
from benchmarks.data.splits import PATIENT, StoredSplits
from benchmarks.data.target import Target

logger = logging.getLogger(__name__)

STATISTICS_SAMPLES = 20_000  # foreground voxels of one case; keeps large lesions from drowning the small

ENTRY_POINT_GROUP = "tags_bench.datasets"


def sources() -> dict[str, DatasetSource]:
    """All installed datasets by name; broken ones are left out (`broken_datasets`)."""
    return dict(sorted(installed(ENTRY_POINT_GROUP, DatasetSource)[0].items()))


def broken_datasets() -> tuple[BrokenPlugin, ...]:
    """The installed datasets that cannot be used, each with its reason."""
    return installed(ENTRY_POINT_GROUP, DatasetSource)[1]


def dataset_source(name: str) -> DatasetSource:
    """The dataset of that name. Raises UserError with the reason if it is broken, else with the nearest name."""
    return chosen(name, "dataset", *installed(ENTRY_POINT_GROUP, DatasetSource))


def datasets() -> dict[str, DatasetInfo]:
    """What is known of all installed datasets, by name."""
    return {name: source.info for name, source in sources().items()}


def phantom_names() -> list[str]:
    """The datasets that can be imitated."""
    return [name for name, source in sources().items() if source.phantoms is not None]


def dataset_info(name: str) -> DatasetInfo:
    """What is known of a dataset. Raises UserError as `dataset_source` does."""
    return dataset_source(name).info


@readable()
def load_dataset(name: str, root: Path, *, splits: str | None = None, seed: int = 0, strict: bool = True) -> Dataset:
    """A known dataset from its official layout under `root`.

    Args:
        splits: "patient", the name of a published fold ("3dsam-adapter"), or a word of `split_files`; by default the
            dataset's own (`DatasetInfo.split_source`), and "patient" for phantoms.
        seed: of the patient split of phantoms; stored folds do not depend on it.
        strict: the first bad case raises; otherwise bad cases are listed in `Dataset.excluded`.

    Raises:
        UserError: unknown dataset, missing or empty folder, a bad case (strict).
    """
    if splits is None or not is_split_file(splits):
        return dataset_source(name).load(root, splits=splits, seed=seed, strict=strict)
    return with_splits(dataset_source(name).load(root, splits="patient", seed=seed, strict=strict), splits)


@dataclass(frozen=True)
class Reading:
    """How the user's own data are read.

    Attributes:
        label: value or name of the label to segment; needed if dataset.json has more than one.
        organ, lesion: plain words for methods that read text; the lesion defaults to the label's name.
        name: of the dataset; by default the folder's.
        splits: "patient" (the default), or a word of `split_files`. A table with a column `split` follows it.
        seed: of the split by patient.
        strict: the first bad case raises; otherwise bad cases are listed in `Dataset.excluded`.
    """

    label: int | str | None = None
    organ: str = ""
    lesion: str = ""
    name: str | None = None
    splits: str | None = None
    seed: int = 0
    strict: bool = True


def load_folder(
    root: Path,
    target_label: int | str | None = None,
    organ: str = "",
    lesion: str = "",
    seed: int = 0,
    name: str | None = None,
    *,
    strict: bool = True,
) -> Dataset:
    """The user's own data, split by patient; arguments and errors as for `load_own`."""
    return load_own(root, Reading(target_label, organ, lesion, name, None, seed, strict))


@readable()
def load_own(root: Path, reading: Reading) -> Dataset:
    """The user's own data.

    Args:
        root: a folder in MSD or nnU-Net raw layout (files of KiTS21 and LiTS17 are recognised too, and scans of the
            user's own in these layouts, which have cases that are none of the official ones), or a CSV of pairs.

    The target gets a soft-tissue window; `intensity_statistics` measures one that fits.

    Raises:
        UserError: no known layout, an ambiguous or unknown target, a split that does not fit, or a bad case (strict).
    """
    root, splits = user_path(root), reading.splits
    if splits not in (None, PATIENT) and not is_split_file(splits):
        known = "'patient', 'folders', or a .csv or .json file"
        raise UserError(f"unknown splits '{shorten(str(splits), 80)}' for data of your own; {known}")
    if root.suffix.lower() == ".csv":
        dataset = _load_table(root, reading)
        splits = splits or (str(root) if pairs_csv.has_split(root) else None)
    else:
        dataset = _load_layout(root, reading)
    return with_splits(dataset, splits) if splits is not None and is_split_file(splits) else dataset


def _load_layout(root: Path, reading: Reading) -> Dataset:
    require_folder(root)
    if kits23.is_layout(root):
        _refuse_name_of_another(root, reading.name, "KiTS19 or KiTS23")
        dataset = kits23.load(root, _own_name(root, reading), seed=reading.seed, strict=reading.strict)
        return replace(dataset, targets=(_official_target(dataset, reading),))
    official = recognise(root)
    if official is not None:
        return _load_recognised(root, dataset_source(official), reading)
    if not (root / "imagesTr").is_dir():
        _refuse_what_is_closed(root)
        raise UserError(
            f"{root}: no known layout; needed: imagesTr, labelsTr and dataset.json (MSD or nnU-Net raw), "
            "the files of KiTS21 or LiTS17, or a CSV table of pairs"
        )
    content = read_dataset_json(root)
    labels = msd.named_labels(content, root)
    target = _target(root, labels, reading)
    chosen_name = reading.name or _slug(root.resolve().name) or "folder"
    info = replace(
        _own_info(chosen_name, target, root, "imagesTr, labelsTr, dataset.json", _modality(content)),
        licence=str(content.get("licence") or content.get("license") or ""),
        label_values=(0, *sorted({value for _, values in labels for value in values})),
    )
    load = nnunet_raw.load if nnunet_raw.is_layout(root, content) else msd.load
    splitting = Splitting(_stored_splits(chosen_name), PATIENT, reading.seed)
    return load(root, info, splitting, strict=reading.strict, tested=reading.splits == FOLDERS)


def _load_recognised(root: Path, source: DatasetSource, reading: Reading) -> Dataset:
    """The official files of a known dataset, whatever they are called, or scans of the user's own in its layout."""
    _refuse_name_of_another(root, reading.name, source.name)
    if reading.name != source.name and _has_other_cases(root, source):
        return _load_own_scans(root, source, reading)
    dataset = load_dataset(source.name, root, splits=PATIENT, seed=reading.seed, strict=reading.strict)
    return replace(dataset, targets=(_official_target(dataset, reading),)).renamed(reading.name or source.name)


def _has_other_cases(root: Path, source: DatasetSource) -> bool:
    """Whether a case is none of the official ones; phantoms may be more than these."""
    if source.splits is None:
        return False
    pairs = list(source.pairs(root))
    return not is_synthetic(root, pairs) and not {found.case_id for found in pairs} <= source.splits.cases()


def _load_own_scans(root: Path, source: DatasetSource, reading: Reading) -> Dataset:
    """Scans in the layout of a known dataset of which nothing else holds for them: labels, licence, folds, number."""
    target = _numbered_target(root, reading, f"the layout of {source.name}, in which scans of your own lie here,")
    info = _own_info(_own_name(root, reading), target, root, source.info.layout, source.info.modality)
    splitting = Splitting(name=PATIENT, seed=reading.seed)
    return assemble(info, root, source.pairs(root), splitting, strict=reading.strict)


def _own_info(name: str, target: Target, place: Path, layout: str, modality: str) -> DatasetInfo:
    """What is known of the user's own data: no licence, no citation, no number of cases that there should be."""
    return DatasetInfo(
        name=name,
        title=name,
        targets=(target,),
        licence="",
        layout=layout,
        citation="",
        url=str(place),
        cases=0,
        split_source="by patient",
        modality=modality,
    )


@readable()
def _refuse_what_is_closed(root: Path) -> None:
    """Raises UserError for a folder below that cannot be read: its files may be what a layout lacks."""
    for _ in islice(files_below(root), lits17.MOST_BELOW):
        pass


def _own_name(root: Path, reading: Reading) -> str:
    """The name that the user gave, or that of the folder unless a known dataset has it."""
    slug = _slug(root.resolve().name)
    return reading.name or ("folder" if slug in datasets() else slug) or "folder"


def _refuse_name_of_another(root: Path, name: str | None, found: str) -> None:
    """What is known of a dataset is looked up by its name: the files of one do not go by the name of another."""
    if name in datasets() and name != found:
        raise UserError(f"{root}: these are files of {found}, not of {name}; give them another name")


def _modality(content: Mapping[str, Any]) -> str:
    """What a dataset.json says of its first channel: `modality` in MSD, `channel_names` in nnU-Net; CT if nothing."""
    channels = content.get("channel_names") or content.get("modality")
    first = channels.get("0", next(iter(channels.values()))) if isinstance(channels, dict) else channels
    return modality_of(str(first)) if first else CT


def _load_table(table: Path, reading: Reading) -> Dataset:
    target = _numbered_target(table, reading, "a table")
    chosen_name = reading.name or _slug(table.stem) or "table"
    layout = "a CSV file with the columns image, label [, case, patient, split]"
    info = _own_info(chosen_name, target, table, layout, pairs_csv.modality(table))
    stored = _stored_splits(chosen_name)
    return pairs_csv.load(table, info, stored=stored, seed=reading.seed, strict=reading.strict)


def _stored_splits(name: str) -> StoredSplits | None:
    """Data of one's own that take the name of a known dataset must follow its folds, or be refused."""
    source = sources().get(name)
    return None if source is None else source.splits


def intensity_statistics(cases: Iterable[Case], target: Target, seed: int = 0) -> Target:
    """The target with window, mean and standard deviation measured on training cases.

    The window runs from the 0.5 to the 99.5 percentile of the voxels of target and organ; mean and deviation
    are taken after clipping. At most 20 000 voxels of a case are drawn, so every case counts about the same.
    All are rounded to a ten-thousandth: the last digits of a sum depend on the processor and on NumPy, and a run that
    goes on somewhere else must find the same target.

    Raises:
        UserError: no case has a voxel of the target.
    """
    wanted = [*target.labels, *target.organ_labels]
    drawn = []
    for case in cases:
        volume, label = case.load()
        values = volume.array[np.isin(label, wanted)]
        if values.size > STATISTICS_SAMPLES:
            chosen = generator(seed, "statistics", case.dataset, case.case_id)
            values = chosen.choice(values, STATISTICS_SAMPLES, replace=False)
        drawn.append(values)
    together = np.concatenate(drawn) if drawn else np.empty(0, np.float32)
    if together.size == 0:
        raise UserError(f"target '{target.name}': no training case has a voxel of labels {wanted}")
    low, high = (float(edge) for edge in np.percentile(together, (0.5, 99.5)))
    if low == high:
        low, high = low - 1, high + 1
    clipped = together.clip(low, high)
    mean, deviation = float(clipped.mean(dtype=np.float64)), max(float(clipped.std(dtype=np.float64)), 1e-3)
    return replace(target, window=(round(low, 4), round(high, 4)), mean=round(mean, 4), std=round(deviation, 4))


def recognise(root: Path) -> str | None:
    """The installed dataset in whose layout these files are, the bench's own first; None if it is none's."""
    for name, source in installed(ENTRY_POINT_GROUP, DatasetSource)[0].items():
        try:
            if source.recognise is not None and source.recognise(root):
                return name
        except Exception as error:  # of a plug-in, which must not keep others from being read
            logger.warning("dataset '%s' fails to look at %s: %s", name, root, one_line(error))
    return None


def is_dataset(root: Path) -> bool:
    """Whether a folder holds scans beside their label maps in a layout that `load_own` reads; False for masks alone.

    Raises:
        UserError: as the reader of the layout does.
    """
    if (root / "imagesTr").is_dir() or kits23.is_layout(root):
        return True
    name = recognise(root)
    # label maps alone may have the names of a layout, such as segmentation-N: only a pair shows that scans are there
    return name is not None and any(found.image and found.label for found in dataset_source(name).pairs(root))


def _official_target(dataset: Dataset, reading: Reading) -> Target:
    """The dataset's own target in the user's words, or another of its label values."""
    wanted, organ, lesion = reading.label, reading.organ, reading.lesion
    target = dataset.targets[0]
    target = replace(target, organ=organ or target.organ, lesion=lesion or target.lesion)
    if wanted is None or str(wanted) == str(target.labels[0]):
        return target
    known = [value for value in dataset.label_values if value]
    value = label_value(wanted)
    if value is None or value not in known:
        listing = ", ".join(map(str, known))
        raise UserError(f"these are files of {dataset.name}: no label '{shorten(str(wanted))}'; its labels: {listing}")
    name = _slug(f"{organ} {lesion}") or f"{dataset.name}-label-{wanted}"
    organs = tuple(other for other in target.organ_labels if other != value)
    return Target(name, organ, lesion, (value,), organs)


def refuse_another_target(dataset: Dataset, asked: Reading, advice: str, called: int | str | None = None) -> None:
    """Words of a user about a target that is settled already: where they would change it, they would count for nothing.

    Args:
        called: the label in the words in which it was chosen once, if it was.

    Raises:
        UserError: a label, an organ or a lesion that is not the dataset's own; says its own, and the advice.
    """
    if all(_says(asked, target, called) for target in dataset.targets):
        return
    words = {"target": asked.label, "organ": asked.organ, "lesion": asked.lesion}
    given = ", ".join(f"{key} '{shorten(str(value))}'" for key, value in words.items() if value not in (None, ""))
    own = "; ".join(
        f"{target.name} (label {_values(target)}, organ '{target.organ}', lesion '{target.lesion}')"
        for target in dataset.targets
    )
    raise UserError(f"dataset '{dataset.name}': {given} is not its target, which is {own}; {advice}")


def _says(asked: Reading, target: Target, called: int | str | None) -> bool:
    """Whether all that the user says holds for a target."""
    names = {target.name.lower(), _values(target)} | ({str(called).lower()} if called is not None else set())
    right_label = asked.label is None or str(asked.label).lower() in names
    return right_label and asked.organ in ("", target.organ) and asked.lesion in ("", target.lesion)


def _values(target: Target) -> str:
    return "+".join(map(str, target.labels))


def _numbered_target(place: Path, reading: Reading, nameless: str) -> Target:
    """The label of a number, where nothing says what the values mean. Raises UserError without such a number."""
    value = label_value(reading.label)
    if value is None or value < 1:
        raise UserError(f"{place}: {nameless} does not name its labels; give the number to segment with --target")
    organ, lesion = reading.organ, reading.lesion
    return Target(_slug(f"{organ} {lesion}") or f"label-{value}", organ, lesion, (value,))


def _target(root: Path, labels: list[tuple[str, tuple[int, ...]]], reading: Reading) -> Target:
    """The label or region of a name, or the label of a value, which may have a name only as a part of regions."""
    wanted, organ, lesion = reading.label, reading.organ, reading.lesion
    listing = ", ".join(f"{'+'.join(map(str, values))} {name}" for name, values in labels) or "none"
    if wanted is None and len(labels) != 1:
        raise UserError(f"{root}: choose the label to segment with --target; labels: {listing}")
    value = label_value(wanted)
    chosen = [one for one in labels if wanted is None or str(wanted).lower() == one[0].lower() or one[1] == (value,)]
    if not chosen and value is not None and any(value in values for _, values in labels):
        chosen = [("", (value,))]
    if len(chosen) != 1:
        raise UserError(f"{root}: no single label '{shorten(str(wanted))}' in dataset.json; labels: {listing}")
    name, found = chosen[0]
    lesion = lesion or name
    organs = {v for n, values in labels if organ and n.lower() == organ.lower() for v in values} - set(found)
    title = _slug(f"{organ} {lesion}") or f"label-{found[0]}"
    return Target(name=title, organ=organ, lesion=lesion, labels=found, organ_labels=tuple(sorted(organs)))


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text.strip().lower()).strip("-")
