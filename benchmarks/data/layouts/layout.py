"""What every official layout has in common: finding files, checking pairs cheaply, making the `Dataset`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError, nearest_name, printable, shorten
from benchmarks.common.files import is_dead_link, readable
from benchmarks.common.paths import check_name
from benchmarks.data.dataset import Case, Dataset, DatasetInfo, Split
from benchmarks.data.image_files import ITK_SUFFIXES
from benchmarks.data.splits import FOLDS, PATIENT, PHANTOM_FRACTIONS, StoredSplits, patient_folds, patient_split
from benchmarks.data.volume import read_grid, same_grid

VOLUME_SUFFIXES = (".nii", ".nii.gz", *ITK_SUFFIXES)
IGNORE = "ignore"  # nnU-Net v2, documentation/ignore_label.md
SYNTHETIC_NOTICE = "SYNTHETIC.txt"
SYNTHETIC_MANIFEST = "phantom.json"
SYNTHETIC_WORDS = "SYNTHETIC phantoms"  # begin the description in the dataset.json of phantoms
SYNTHETIC_LICENCE = "synthetic, no restriction"


@dataclass(frozen=True)
class Pair:
    """A case as found on disk; `image` or `label` may be absent, `problem` is what is already known."""

    case_id: str
    image: Path | None
    label: Path | None
    patient: str = ""
    problem: str = ""


@readable()
def require_folder(root: Path) -> None:
    """Raises UserError unless `root` is a folder with something in it, which can be read."""
    if not root.exists():
        raise UserError(f"{root}: no such folder")
    if not root.is_dir():
        raise UserError(f"{root}: a folder is needed, this is a file")
    if not any(visible(root)):
        raise UserError(f"{root}: the folder is empty")


@readable()
def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files (macOS archives carry `._x` beside `x`).

    Raises:
        UserError: the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def volume_stem(path: Path) -> str | None:
    """The file name without .nii, .nii.gz, .nrrd or .mha; None if it is something else."""
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def file_or_dead_link(path: Path) -> bool:
    """Whether a file is meant to be there: a case of dead links is a bad case with its reason, not the lack of one."""
    return path.is_file() or is_dead_link(path)


@readable()
def volume_files(folder: Path) -> dict[str, list[Path]]:
    """The scans of one folder by stem, dead links among them; more than one where both x.nii and x.nii.gz exist.

    Raises:
        UserError: the folder cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for path in visible(folder) if folder.is_dir() else []:
        stem = volume_stem(path)
        if stem is not None and file_or_dead_link(path):
            found.setdefault(stem, []).append(path)
    return found


def pair(case_id: str, images: Sequence[Path], labels: Sequence[Path], patient: str = "") -> Pair:
    """A pair from the candidates found for it."""
    for role, found in (("image", images), ("label", labels)):
        if len(found) > 1:
            names = " and ".join(str(path) for path in found)
            return Pair(case_id, None, None, patient, f"two {role} files for one case ({names}); remove one")
    return Pair(case_id, images[0] if images else None, labels[0] if labels else None, patient)


def label_value(text: object) -> int | None:
    """A value that a label map of 16 bits may hold; None for anything else, such as a name or a fraction."""
    if not re.fullmatch(r"-?[0-9]{1,5}", str(text)):
        return None
    value = int(str(text))
    return value if -(2**15) <= value < 2**15 else None


@readable()
def read_dataset_json(root: Path) -> dict[str, Any]:
    """The dataset.json of an MSD or nnU-Net folder. Raises UserError."""
    path = root / "dataset.json"
    if not path.is_file():
        raise UserError(f"{root}: no dataset.json; the MSD and nnU-Net layouts need one")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({shorten(str(error))})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return content


def patients_of(content: Mapping[str, Any], root: Path, cases: Callable[[], Collection[str]]) -> dict[str, str]:
    """Case id → patient, as `patients` of dataset.json says it: a key of this bench, which no layout has.

    Args:
        cases: gives the cases that it may name.

    Raises:
        UserError: it is no mapping of cases to names, or names a case that is not there.
    """
    patients = content.get("patients", {})
    path = root / "dataset.json"
    if not isinstance(patients, dict) or not all(isinstance(one, str) and one.strip() for one in patients.values()):
        raise UserError(f"{path}: 'patients' must map cases to names of patients")
    known = cases() if patients else ()
    for case_id in patients:
        if case_id not in known:
            raise UserError(f"{path}: 'patients' names '{shorten(case_id)}'; {nearest_name(case_id, known)}")
    return patients


def named_entries(labels: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The labels of a dataset.json as (name, what stands for its values), from MSD's and nnU-Net's way of writing."""
    return [(str(entry), key) if label_value(key) is not None else (str(key), entry) for key, entry in labels.items()]


def refuse_partial_annotation(root: Path, content: Mapping[str, Any]) -> None:
    """Raises UserError if dataset.json has nnU-Net's label `ignore`: what it marks would count as background."""
    labels = content.get("labels")
    if isinstance(labels, dict) and any(name.strip().lower() == IGNORE for name, _ in named_entries(labels)):
        raise UserError(
            f"{root / 'dataset.json'}: the label '{IGNORE}' marks voxels that nobody annotated; label maps that are "
            "annotated in part cannot be scored"
        )


@readable()
def check_case_headers(case: Case) -> None:
    """Whether image and label exist and lie on the same grid, by their headers alone.

    Raises:
        UserError: missing, unreadable, not 3D, truncated, or of another shape or affine.
    """
    if case.image.exists() and case.label.exists() and case.image.samefile(case.label):
        raise UserError(f"{case.label}: image and label are the same file")
    shape, affine = read_grid(case.image)
    label_shape, label_affine = read_grid(case.label)
    if shape != label_shape:
        raise UserError(f"{case.label}: label shape {label_shape} differs from the image's {shape}")
    if not same_grid(label_affine, affine, shape):
        raise UserError(f"{case.label}: label and image lie on different grids (affines differ)")


@dataclass(frozen=True)
class Splitting:
    """How the cases of a dataset are split.

    Attributes:
        stored: the splits that belong to the dataset; phantoms follow them only if asked to by name.
        name: "patient", the name of a published fold ("3dsam-adapter"), or None: the latter where one is stored.
            By patient, phantoms have one split with `PHANTOM_FRACTIONS`, a dataset with stored folds those (whatever
            the seed), other data `FOLDS` folds.
        seed: of the rule, for phantoms and for data without a stored split.
    """

    stored: StoredSplits | None = None
    name: str | None = None
    seed: int = 0


def assemble(
    info: DatasetInfo,
    root: Path,
    pairs: Iterable[Pair],
    splitting: Splitting,
    *,
    strict: bool = True,
    expected: int | None = None,
) -> Dataset:
    """Check every pair by its headers and make the dataset.

    Args:
        root: where the data lie; phantoms are known as `is_synthetic` says.
        strict: the first bad case raises; otherwise bad cases are listed in `Dataset.excluded`.
        expected: how many cases a complete download has.

    Raises:
        UserError: no case, a bad case (strict), or a split without training or test cases.
    """
    check_name(info.name, "dataset")
    stored = splitting.stored
    pairs = sorted(pairs, key=lambda found: found.case_id)
    synthetic = is_synthetic(root, pairs)
    cases, problems = _check_pairs(info, pairs, synthetic)
    strangers = _strangers(stored, cases) if stored and not synthetic else {}
    cases = {case_id: case for case_id, case in cases.items() if case_id not in strangers}
    if problems and (strict or not cases):
        first = next(iter(problems))
        more = f" (and {len(problems) - 1} more bad cases)" if len(problems) > 1 else ""
        raise UserError(f"{info.name}, case {first}: {problems[first]}{more}")
    if strangers and not cases:
        first = next(iter(strangers))
        raise UserError(f"{root}: {first} is {strangers[first]}")
    if not cases:
        raise UserError(f"{root}: no case found; expected layout: {info.layout}")
    notes = []
    if expected is not None and not synthetic and len(cases) + len(problems) < expected:
        notes.append(f"partial download: {len(cases) + len(problems)} of {expected} cases")
    chosen = splitting.name or (stored.publisher if stored and stored.published and not synthetic else PATIENT)
    folds, source, left_out = _splits(cases, chosen, splitting.seed, stored, synthetic)
    if stored and chosen != PATIENT and sum(map(len, vars(folds[0]).values())) < sum(stored.published_counts()):
        notes.append(f"{source} cut down to the cases that are present")
    return Dataset(
        name=info.name,
        cases=cases,
        targets=info.targets,
        splits=folds,
        version=_phantom_version(root, pairs) if synthetic else "1",
        synthetic=synthetic,
        licence=SYNTHETIC_LICENCE if synthetic else info.licence,
        source="synthetic phantoms" if synthetic else info.url,
        excluded={printable(one): printable(why) for one, why in {**problems, **strangers, **left_out}.items()},
        split_source=source,
        notes=tuple(notes),
        label_values=info.label_values,
    )


def is_synthetic(root: Path, pairs: Iterable[Pair]) -> bool:
    """Whether a folder from the one above `root` down to the scans carries the phantoms' notice or description."""
    return any(_has_notice(place) or _is_described(place) for place in _places(root, pairs))


def _places(root: Path, pairs: Iterable[Pair]) -> list[Path]:
    """The folder, the one above it, and all on the way from it to the scans: a copy may begin or end at any."""
    holders = {found.image.parent for found in pairs if found.image is not None}
    below = {place for holder in holders for place in (holder, *holder.parents) if root in place.parents}
    return [root, root.parent, *sorted(below)]


def _has_notice(folder: Path) -> bool:
    # `os.path`, unlike `Path.is_file`, says no where a folder must not be looked into: its cases are bad ones
    return os.path.isfile(folder / SYNTHETIC_NOTICE)


def _is_described(folder: Path) -> bool:
    """Whether its dataset.json is that of phantoms; copies of older ones have no other mark."""
    if not os.path.isfile(folder / "dataset.json"):
        return False
    try:
        content = read_dataset_json(folder)
    except UserError:
        return False  # of phantoms it can be read; the layouts that need one say what is wrong with it
    words, licence = str(content.get("description")), content.get("licence")
    return words.startswith(SYNTHETIC_WORDS) and licence == SYNTHETIC_LICENCE


def _phantom_version(root: Path, pairs: Iterable[Pair]) -> str:
    """Which phantoms these are: results of one seed or generator must not be taken for those of another."""
    places = _places(root, pairs)
    for path in (place / SYNTHETIC_MANIFEST for place in places):
        if os.path.isfile(path):
            content = json.loads(path.read_text("utf-8"))
            return "phantom-{generator}-seed-{seed}-cases-{cases}-scale-{scale}".format(**content)
    if any(map(_has_notice, places)):
        raise UserError(f"{root}: {SYNTHETIC_NOTICE} without {SYNTHETIC_MANIFEST}; make the phantoms again")
    return "phantom-copied"  # by its description alone


def _check_pairs(info: DatasetInfo, pairs: list[Pair], synthetic: bool) -> tuple[dict[str, Case], dict[str, str]]:
    cases: dict[str, Case] = {}
    problems: dict[str, str] = {}
    for found in pairs:
        if found.case_id in cases and found.image is not None:
            problems[found.case_id] = f"two cases of one name ({cases.pop(found.case_id).image} and {found.image})"
        elif found.problem:
            problems[found.case_id] = found.problem
        elif found.image is None:
            problems[found.case_id] = f"label without image ({found.label})"
        elif found.label is None:
            problems[found.case_id] = f"image without label ({found.image})"
        else:
            patient = found.patient or own_patient(found.case_id)
            case = Case(info.name, found.case_id, found.image, found.label, patient, info.modality, synthetic)
            try:
                check_name(found.case_id, "case")
                check_case_headers(case)
            except UserError as error:
                problems[found.case_id] = str(error)
            else:
                cases[found.case_id] = case
    return cases, problems


def own_patient(case_id: str) -> str:
    """Whose scan it is if nobody says: its own, but the Decathlon's liver_N is LiTS17's volume-N."""
    match = re.fullmatch(r"liver_(\d+)", case_id)
    return f"volume-{int(match[1])}" if match else case_id


def _strangers(stored: StoredSplits, cases: Iterable[str]) -> dict[str, str]:
    """Cases that no stored split knows: put anywhere, they would change what a result on this dataset means."""
    official = stored.cases()
    reason = f"not one of the {len(official)} official cases of {stored.dataset}; data of your own need another name"
    return {case_id: reason for case_id in cases if case_id not in official}


def _splits(
    cases: dict[str, Case], chosen: str, seed: int, stored: StoredSplits | None, synthetic: bool
) -> tuple[tuple[Split, ...], str, dict[str, str]]:
    patients = {case_id: case.patient for case_id, case in cases.items()}
    if chosen == PATIENT and synthetic:
        shares = "/".join(f"{100 * fraction:g}" for fraction in PHANTOM_FRACTIONS)
        split = patient_split(cases, patients, seed, PHANTOM_FRACTIONS)
        return (split,), f"by phantom, {shares} %, seed {seed}", {}
    if chosen == PATIENT and stored is not None:
        folds = stored.folds(cases)
        if all(fold.train and fold.test for fold in folds):
            return folds, f"by patient, {FOLDS} stored folds", {}
        few = f"by patient among the {len(cases)} cases present, too few for the stored folds"
        return patient_folds(cases, patients), few, {}
    if chosen == PATIENT:
        folds = patient_folds(cases, patients, seed)
        return folds, f"by patient, {len(folds)} folds, seed {seed}", {}
    if stored is None or not stored.published or chosen != stored.publisher:
        known = [PATIENT, stored.publisher] if stored and stored.published else [PATIENT]
        raise UserError(f"unknown splits '{chosen}'; {nearest_name(chosen, known)}")
    split = stored.published_fold(cases)
    for part in ("train", "test"):
        if not getattr(split, part):
            raise UserError(
                f"{stored.dataset}: the {chosen} split leaves no {part} case among the {len(cases)} present; "
                f"download more, or choose the splits '{PATIENT}'"
            )
    reason = f"outside of the {chosen} split, which leaves tumour-free scans out"
    left_out = dict.fromkeys(sorted(stored.excluded() & cases.keys()), reason)
    return (split,), f"{chosen}, fold 0", left_out
