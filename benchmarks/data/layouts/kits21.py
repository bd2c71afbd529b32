"""KiTS21: 300 contrast-enhanced CT with kidney, tumour and cyst.

Layout, label values and licence: github.com/neheller/kits21 (README, "Data Description") and
kits21.kits-challenge.org. The images are stored slices first (array axes inferior, posterior, left); the
affine says so, and the loader follows it. Window and intensity statistics: the 3DSAM-adapter code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.download import RemoteFile
from benchmarks.common.errors import UserError
from benchmarks.common.files import is_dead_link
from benchmarks.data.dataset import DatasetInfo
from benchmarks.data.layouts.layout import Pair, file_or_dead_link, visible
from benchmarks.data.source import DatasetSource, FetchList
from benchmarks.data.splits import StoredSplits
from benchmarks.data.synthetic.abdomen import Abdomen, CaseFiles, Kind
from benchmarks.data.synthetic.writing import abdominal_phantoms
from benchmarks.data.target import Target

IMAGE = "imaging.nii.gz"
LABEL = "aggregated_MAJ_seg.nii.gz"
OTHER_LABEL = "segmentation.nii.gz"  # of KiTS19 and KiTS23
KIDNEY, TUMOUR, CYST = 1, 2, 3
IMAGE_ADDRESS = "https://kits19.sfo2.digitaloceanspaces.com/master_{:05d}.nii.gz"
LABEL_ADDRESS = "https://github.com/neheller/kits21/raw/master/kits21/data/case_{:05d}/" + LABEL

INFO = DatasetInfo(
    name="kits21",
    title="KiTS21, kidney tumours",
    targets=(
        Target(
            name="kidney-tumor",
            organ="kidney",
            lesion="tumor",
            labels=(TUMOUR,),
            organ_labels=(KIDNEY,),
            window=(-54.0, 247.0),
            mean=59.53867,
            std=55.457336,
        ),
    ),
    licence="CC BY-NC-SA 4.0",
    layout=f"[data/]case_00000/{IMAGE} and {LABEL}",
    citation="Heller et al., The KiTS21 Challenge, arXiv:2307.01984",
    url="https://github.com/neheller/kits21",
    cases=300,
    split_source="3dsam-adapter, fold 0",
    label_values=(0, KIDNEY, TUMOUR, CYST),
)


def find_pairs(root: Path) -> list[Pair]:
    """The cases of a clone of its repository, or of its `data` folder."""
    return [_pair(folder) for folder in case_folders(root)]


def case_folders(root: Path) -> list[Path]:
    """The folders case_00000, case_00001 … in `root`, in `root/data` or in `root/dataset`."""
    for place in (root, root / "data", root / "dataset"):
        found = [path for path in visible(place) if _is_case(path)] if place.is_dir() else []
        if found:
            return found
    return []


def _is_case(path: Path) -> bool:
    return (path.is_dir() or is_dead_link(path)) and re.fullmatch(r"case_\d{5}", path.name) is not None


def _pair(folder: Path) -> Pair:
    image, label = folder / IMAGE, folder / LABEL
    has_image, has_label = file_or_dead_link(image), file_or_dead_link(label)
    if not has_image and not has_label:
        return Pair(folder.name, None, None, problem=f"{folder}: neither {IMAGE} nor {LABEL}")
    if not has_label and file_or_dead_link(folder / OTHER_LABEL):
        problem = f"{folder}: {OTHER_LABEL} instead of {LABEL}: these are files of KiTS19 or KiTS23, whose annotations"
        return Pair(folder.name, None, None, problem=f"{problem} are not those of KiTS21; give them another name")
    return Pair(folder.name, image if has_image else None, label if has_label else None)


def _remote_files(cases: Sequence[int] | None) -> list[RemoteFile]:
    """Images and label maps one by one. No checksums are published; gzip keeps the CRC-32 of the content."""
    numbers = range(INFO.cases) if cases is None else cases
    strange = [number for number in numbers if not 0 <= number < INFO.cases]
    if strange:
        raise UserError(f"kits21 has the cases 0 to {INFO.cases - 1}, not {strange[0]}")
    return [
        RemoteFile(address.format(number), f"data/case_{number:05d}/{file}", "gzip")
        for number in numbers
        for address, file in ((IMAGE_ADDRESS, IMAGE), (LABEL_ADDRESS, LABEL))
    ]


def _place(
    folder: Path, index: int, cases: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> CaseFiles:
    """Slices first, the affine without offset."""
    case_id = f"case_{index:05d}"
    x, y, z = (-s * (n - 1) for s, n in zip(spacing, shape, strict=True))
    place = folder / "data" / case_id
    return CaseFiles(case_id, place / IMAGE, place / LABEL, "IPL", (x, y, z))


ABDOMEN = Abdomen(
    dataset="kits21",
    organ="kidney",
    kind=Kind(
        "KiTS21", (120, 150), (210, 290), (10, 45), 0.3, (0.75, 0.2, 0.05), False, 0.5, CYST, (25, 80), (1.0, 1.05)
    ),
    place=_place,
)

SOURCE = DatasetSource(
    info=INFO,
    pairs=find_pairs,
    splits=StoredSplits(
        "kits21",
        by_patient="f13ee558cb3bbde9b8fe2a567e62ede1903c12c0d4da9b9ad92b830739741ceb",
        published="de73ac44640da5e8ccbdf72fdfad0bcf8303b4d72a9012ac364c63d39a860348",
    ),
    fetch=FetchList("images from the challenge's storage, label maps from its repository", _remote_files),
    phantoms=abdominal_phantoms(ABDOMEN),
    recognise=lambda root: bool(case_folders(root)),
)
