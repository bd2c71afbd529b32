"""A folder of DICOM cases into a folder in the Decathlon's layout."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError, shorten
from benchmarks.common.files import readable, write_json
from benchmarks.common.paths import user_path
from benchmarks.data.dicom.annotation import Choice, choose, read_annotation
from benchmarks.data.dicom.files import look, pydicom_or_error
from benchmarks.data.dicom.series import LPS_TO_RAS, Series, read_series
from benchmarks.data.layouts.layout import label_value


def labels_of(words: Iterable[str]) -> dict[str, int]:
    """`NAME=VALUE` words as a mapping; a name may hold `=` itself.

    Raises:
        UserError: another form, or a name that stands twice with different values.
    """
    labels: dict[str, int] = {}
    for word in words:
        name, separator, text = word.rpartition("=")
        value = label_value(text)
        if not separator or not name.strip() or value is None or value < 1:
            raise UserError(f"--label {shorten(word)}: the form is NAME=VALUE, such as GTV-1=1")
        if labels.setdefault(name, value) != value:
            raise UserError(f"--label {shorten(word)}: '{name}' has the value {labels[name]} already")
    return labels


@dataclass(frozen=True)
class Converted:
    """What came of a folder of DICOM cases.

    Attributes:
        failed: case id → why it could not be converted.
        modality: of the scans, as in `benchmarks.data.intensities`.
        notes: case id → what a reader must know, such as why a PET is not in SUV, or a structure without a voxel or
            with gaps between its slices.
        patients: case id → patient, of every case that was converted; the names are consecutive and say nothing of
            the PatientID by which cases of one patient were known.
    """

    failed: dict[str, str] = field(default_factory=dict)
    modality: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)


def convert(
    root: Path,
    out: Path,
    labels: Mapping[str, int],
    choice: Choice | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Converted:
    """Every case below `root` into `out`, in the Decathlon's layout, all of one modality.

    Where cases have the same PatientID, `patients` in dataset.json says which are of one patient.

    Args:
        root: a folder per case.
        out: a new folder.
        labels: name of an ROI or a segment → label value above 0. Where two overlap the higher value stays.
        choice: which scan and annotation, where a case has several.
        progress: called with the id of every case when it is done.

    Raises:
        UserError: nothing could be converted, `out` exists, or pydicom is missing.
    """
    pydicom_or_error()
    root, out = user_path(root), user_path(out)
    if out.exists():
        raise UserError(f"{out}: exists already; choose another folder or remove it")
    if not labels or min(labels.values()) < 1 or max(labels.values()) > 255:
        raise UserError("labels: a name with a value from 1 to 255 is needed for each, such as GTV-1=1")
    with readable():
        if not root.is_dir():
            raise UserError(f"{root}: no such folder")
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    bad: dict[str, str] = {}
    notes: dict[str, str] = {}
    known_by: dict[str, str] = {}
    modality = ""
    try:
        for folder in folders:
            case_id = re.sub(r"[^\w.-]+", "_", folder.name)
            try:
                if case_id in known_by:
                    raise UserError(f"{folder}: another folder gives the case id '{case_id}' too; rename one")
                found = _read_case(folder, labels, choice)
                series = found.series
                if modality and series.modality != modality:
                    raise UserError(f"{folder}: {series.modality}, where the cases before are {modality}{_why(series)}")
                _write_case(found, partial, case_id)
                modality = series.modality
                known_by[case_id] = found.patient_id
                if found.notes:
                    notes[case_id] = "; ".join(found.notes)
            except UserError as error:
                bad[case_id] = str(error)
            if progress is not None:
                progress(case_id)
        if not known_by:
            raise UserError(next(iter(bad.values()), f"{root}: no folder in it; a folder per case is needed"))
        patients = _patients(known_by)
        write_json(partial / "dataset.json", _description(labels, patients, modality))
        partial.chmod(0o755)  # mkdtemp makes it private
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if it was moved
    return Converted(bad, modality, notes, patients)


def _patients(known_by: Mapping[str, str]) -> dict[str, str]:
    """Names for the patients of the cases, in the order of the cases; from case id → PatientID.

    A case without a PatientID is a patient of its own. Neither the PatientID nor a hash of it is a part of the name:
    the few digits of a hospital's number are found again by trying them all.
    """
    numbers: dict[tuple[str, str], int] = {}
    return {
        case_id: f"patient_{numbers.setdefault(('', found) if found else (case_id, ''), len(numbers) + 1):03d}"
        for case_id, found in known_by.items()
    }


def _description(labels: Mapping[str, int], patients: Mapping[str, str], modality: str) -> dict[str, Any]:
    """The content of dataset.json; `patients` stands there only where it says more than that each case is one."""
    pairs = [{"image": f"./imagesTr/{one}.nii.gz", "label": f"./labelsTr/{one}.nii.gz"} for one in patients]
    names = {"0": "background"} | {str(value): name for name, value in labels.items()}
    shared = {"patients": dict(patients)} if len(set(patients.values())) < len(patients) else {}
    return {"labels": names, "training": pairs, "modality": {"0": modality}, **shared}


def _why(series: Series) -> str:
    return f" ({series.note})" if series.note else "; convert them one after the other, or choose with --modality"


@dataclass(frozen=True)
class _Case:
    """A case that was read: the scan, its label map on the same grid, the PatientID, and what a reader must know."""

    series: Series
    label: NDArray[np.uint8]
    patient_id: str
    notes: tuple[str, ...]


def _read_case(folder: Path, labels: Mapping[str, int], choice: Choice | None) -> _Case:
    scan, annotations = choose(look(folder), list(labels), choice)
    series = read_series(scan, folder)
    label = np.zeros(series.shape, np.uint8)
    notes = [f"not in SUV: {series.note}"] if series.note else []
    for name, value in sorted(labels.items(), key=lambda item: item[1]):
        drawing = read_annotation(annotations[name], name, series)
        if drawing.note:
            notes.append(drawing.note)
        if not drawing.mask.any():  # named and never drawn: perhaps no tumour, perhaps a drawing that was lost
            notes.append(f"'{name}' encloses no voxel")
        label[drawing.mask] = value
    return _Case(series, label, scan.patient, tuple(notes))


def _write_case(case: _Case, out: Path, case_id: str) -> None:
    affine = LPS_TO_RAS @ case.series.affine
    for role, array in (("imagesTr", case.series.array), ("labelsTr", case.label)):
        path = out / role / f"{case_id}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)
