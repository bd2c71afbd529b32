"""One scan of whatever kind as a volume: NIfTI, NRRD, MHA, a folder of DICOM, or one multi-frame DICOM file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common.errors import UserError
from benchmarks.data.intensities import CT, DARKEST_EXPECTED_HU, PET, SUV, named_modality, on_common_scale
from benchmarks.data.volume import FloatArray, Volume, read_volume

if TYPE_CHECKING:
    from benchmarks.data.dicom import Series

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


@dataclass(frozen=True)
class Scan:
    """A scan with what its file says of it.

    Attributes:
        volume: on the common scale (`benchmarks.data.intensities`); HU for CT.
        modality: as in `benchmarks.data.intensities`.
        notes: doubts, in a line each.
        dicom: the series, for masks that are written as DICOM; None for other files.
    """

    volume: Volume
    modality: str
    notes: tuple[str, ...] = ()
    dicom: Series | None = None


def is_volume_file(path: Path) -> bool:
    """Whether the name is that of a NIfTI, NRRD or MHA file; all else is looked at as DICOM."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def read_scan(path: Path, modality: str | None = None, otherwise: str = CT) -> Scan:
    """A scan from a file or from a folder of DICOM.

    Args:
        modality: of the scan; by default what DICOM says. For a folder with scans of several modalities it also
            chooses.
        otherwise: the modality of a file that does not say.

    Raises:
        UserError: unreadable, no scan or several, or a modality that contradicts the file.
    """
    if modality is not None:
        modality = named_modality(modality)
    if is_volume_file(path):
        volume, chosen = read_volume(path), modality or otherwise
        notes = _doubts(volume.array, chosen, told=modality is not None)
        return Scan(_scaled(volume, chosen), chosen, notes)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    series = _series(path, modality)
    notes = (f"the PET is not in SUV: {series.note}",) if series.note else ()
    return Scan(_scaled(series.volume(), series.modality), series.modality, notes, series)


def _scaled(volume: Volume, modality: str) -> Volume:
    return volume if modality == CT else replace(volume, array=on_common_scale(volume.array, modality))


def _doubts(array: FloatArray, modality: str, told: bool) -> tuple[str, ...]:
    darkest = float(array.min())
    if modality != CT or told or darkest <= DARKEST_EXPECTED_HU:
        return ()
    return (f"taken for a CT, and nothing is darker than {darkest:g}; if it is none, say so with --modality MR",)


def _series(path: Path, modality: str | None) -> Series:
    from benchmarks.data.dicom import look, only_scan, read_series, scan_in_file

    wanted = {SUV: PET}.get(modality or "", modality)
    scan = only_scan(look(path), wanted) if path.is_dir() else scan_in_file(path)
    if wanted not in (None, scan.modality):
        raise UserError(f"{path}: is {scan.modality}, not {modality}")
    series = read_series(scan, path)
    if modality == SUV and series.modality != SUV:
        raise UserError(f"{path}: cannot be read in SUV ({series.note or f'it is a {series.modality}'})")
    return series
