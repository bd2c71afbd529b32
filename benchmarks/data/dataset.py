"""What a dataset is: named cases on disk, targets, splits, licence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.content import remembered, sha256_of_all
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.identity import digest
from benchmarks.data.intensities import CT, INTENSITIES_VERSION, on_common_scale
from benchmarks.data.target import Target
from benchmarks.data.volume import BoolArray, Volume, read_grid, read_label, read_volume, voxel_hash


@dataclass(frozen=True)
class Case:
    """One volume with its label map, identified by `dataset/case_id`. Reads nothing until asked."""

    dataset: str
    case_id: str
    image: Path
    label: Path
    patient: str = ""  # cases of one patient never fall on both sides of a split; case_id if empty
    modality: str = CT  # as in `benchmarks.data.intensities`
    synthetic: bool = False  # a phantom
    voxels: str = field(default="", compare=False, repr=False)  # `voxel_hash` of the image, where a check found it

    def read_image(self) -> Volume:
        """The volume, in HU or on the common scale of other modalities. Raises UserError if it is unusable."""
        volume = read_volume(self.image)
        if self.modality == CT:
            return volume
        return replace(volume, array=on_common_scale(volume.array, self.modality))

    def load(self) -> tuple[Volume, NDArray[np.int16]]:
        """The volume and its label map on the same grid. Raises UserError if either is unusable."""
        volume = self.read_image()
        return volume, read_label(self.label, like=volume)


@dataclass(frozen=True)
class Split:
    """Case ids of one fold."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class External:
    """Another dataset that methods learn from, where a dataset is there for testing only.

    Attributes:
        tested: the name under which the tested dataset is known.
        training: the dataset that is learned from.
        fold: of it; its training and validation cases are used.
    """

    tested: str
    training: Dataset
    fold: int = 0


@dataclass(frozen=True)
class Dataset:
    """A named, versioned collection of cases.

    Attributes:
        name: "kits21", "msd-pancreas", "lits17", or the user's own.
        cases: by case id, sorted.
        targets: what is to be segmented (usually one).
        splits: folds; fold 0 is the default.
        synthetic: phantoms; every table and log must then say so.
        licence: of the images and labels.
        excluded: case id → why it is not used; listed wherever the dataset is described.
        split_source: where the splits come from, in a line for tables.
        notes: what a reader of results must know, such as a download that is only partial.
        label_values: that a label map may hold, the background included; empty if that is not known.
        external: what methods learn from, if that is another dataset.
        recognised: the known dataset whose official files these are, where they go by a name of the user's.
    """

    name: str
    cases: Mapping[str, Case]
    targets: tuple[Target, ...]
    splits: tuple[Split, ...]
    version: str = "1"
    synthetic: bool = False
    licence: str = ""
    source: str = ""
    excluded: Mapping[str, str] = field(default_factory=dict)
    split_source: str = ""
    notes: tuple[str, ...] = ()
    label_values: tuple[int, ...] = ()
    external: External | None = None
    recognised: str = ""

    def learning_cases(self, part: str, fold: int = 0) -> list[Case]:
        """The cases of "train" or "validation" that methods learn from: its own, or those of another dataset."""
        if self.external is None:
            return self.split_cases(part, fold)
        return self.external.training.split_cases(part, self.external.fold)

    @property
    def known_as(self) -> str:
        """The name under which the tested cases are known, whatever was learned from."""
        return self.recognised or (self.name if self.external is None else self.external.tested)

    def renamed(self, name: str) -> Dataset:
        """The same under a name of the user's; `known_as` stays."""
        if name == self.name:
            return self
        cases = {case_id: replace(case, dataset=name) for case_id, case in self.cases.items()}
        return replace(self, name=name, cases=cases, recognised=self.known_as)

    @property
    def modality(self) -> str:
        """Of its scans, as in `benchmarks.data.intensities`."""
        return next((case.modality for case in self.cases.values()), CT)

    def split_cases(self, part: str, fold: int = 0) -> list[Case]:
        """The cases of "train", "validation" or "test". Raises UserError for a fold that does not exist."""
        if fold >= len(self.splits):
            raise UserError(f"dataset '{self.name}' has folds 0 to {len(self.splits) - 1}, not {fold}")
        return [self.cases[case_id] for case_id in getattr(self.splits[fold], part)]

    def target(self, name: str) -> Target:
        """The target of that name. Raises UserError with the nearest name."""
        for target in self.targets:
            if target.name == name:
                return target
        known = [target.name for target in self.targets]
        raise UserError(f"dataset '{self.name}' has no target '{name}'; {nearest_name(name, known)}")


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before anything is downloaded.

    Attributes:
        name: the word on the command line, such as "kits21".
        cases: how many with public labels.
        layout: the official folders and files, in a line.
        split_source: of the default split.
        label_values: that a label map may hold, the background included.
        modality: of the scans, as in `benchmarks.data.intensities`.
    """

    name: str
    title: str
    targets: tuple[Target, ...]
    licence: str
    layout: str
    citation: str
    url: str
    cases: int
    split_source: str
    label_values: tuple[int, ...] = ()
    modality: str = CT


def target_mask(label: NDArray[np.int16], target: Target) -> BoolArray:
    """The voxels of a label map that belong to the target."""
    if len(target.labels) == 1:
        return np.asarray(label == target.labels[0])
    return np.isin(label, target.labels)


_Hashed = tuple[Case, str]  # with the SHA-256 of its image


def same_scan(cases: Sequence[Case], others: Sequence[Case]) -> tuple[Case, Case] | None:
    """The first of some cases whose image is the same scan as that of one of the others, with that other one.

    Compressed, in another format or with its axes in another order a scan has other bytes: where these differ, equal
    voxels in RAS+ count. They are read only where shapes are equal and no check of the dataset has left their hash.

    Raises:
        UserError: a file is missing, or has no readable header.
    """
    contents = sha256_of_all([case.image for case in (*cases, *others)])
    ours = list(zip(cases, contents[: len(cases)], strict=True))
    theirs = list(zip(others, contents[len(cases) :], strict=True))
    return _first_equal(ours, theirs, lambda _, content: content) or _first_equal(*_of_one_shape(ours, theirs), _voxels)


def _first_equal(
    ours: list[_Hashed], theirs: list[_Hashed], mark: Callable[[Case, str], str]
) -> tuple[Case, Case] | None:
    """The first of ours that has the mark of one of theirs, with that one; an empty mark is nobody's."""
    known = {mark(*one): one[0] for one in theirs}
    return next(((one[0], known[own]) for one in ours if (own := mark(*one)) and own in known), None)


def _of_one_shape(ours: list[_Hashed], theirs: list[_Hashed]) -> tuple[list[_Hashed], list[_Hashed]]:
    """Those whose shape in RAS+ stands on both sides."""
    shapes, others = ([read_grid(case.image)[0] for case, _ in part] for part in (ours, theirs))
    both = set(shapes) & set(others)
    kept = [one for one, shape in zip(ours, shapes, strict=True) if shape in both]
    return kept, [one for one, shape in zip(theirs, others, strict=True) if shape in both]


def _voxels(case: Case, content: str) -> str:
    """The `voxel_hash` of an image of this SHA-256; empty where it cannot be read, by nobody then."""
    try:
        return case.voxels or remembered("voxels", content, lambda: voxel_hash(read_volume(case.image).array))
    except UserError:
        return ""


def fingerprint_cases(cases: Iterable[Case]) -> str:
    """A fingerprint of some cases: every byte of their images and labels, whatever folder they lie in.

    How intensities are read is a part of it where they are no Hounsfield units.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    cases = list(cases)
    found = sha256_of_all([file for case in cases for file in (case.image, case.label)])
    content = sorted(zip([case.case_id for case in cases], found[::2], found[1::2], strict=True))
    others = sorted({case.modality for case in cases} - {CT})
    return digest([content, others, INTENSITIES_VERSION] if others else content)
