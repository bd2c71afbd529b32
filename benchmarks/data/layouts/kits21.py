"""KiTS21: 300 contrast-enhanced CT with kidney, tumour and cyst.

Layout, label values and licence: github.com/neheller/kits21 (README, "Data Description") and
kits21.kits-challenge.org. The images are stored slices first (array axes inferior, posterior, left); the
affine says so, and the loader follows it. Window and intensity statistics: the 3DSAM-adapter code.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.data.dataset import Dataset, DatasetInfo
from benchmarks.data.layouts.layout import Pair, assemble, require_folder, visible
from benchmarks.data.target import Target

IMAGE = "imaging.nii.gz"
LABEL = "aggregated_MAJ_seg.nii.gz"
KIDNEY, TUMOUR, CYST = 1, 2, 3

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


def load(root: Path, *, splits: str | None = None, seed: int = 0, strict: bool = True) -> Dataset:
    """KiTS21 from a clone of its repository or its `data` folder. Raises UserError as `assemble` does."""
    require_folder(root)
    pairs = [_pair(folder) for folder in case_folders(root)]
    return assemble(INFO, root, pairs, splits=splits, seed=seed, strict=strict, expected=INFO.cases)


def case_folders(root: Path) -> list[Path]:
    """The folders case_00000, case_00001 … in `root` or in `root/data`."""
    for place in (root, root / "data"):
        found = [path for path in visible(place) if _is_case(path)] if place.is_dir() else []
        if found:
            return found
    return []


def _is_case(path: Path) -> bool:
    return path.is_dir() and re.fullmatch(r"case_\d{5}", path.name) is not None


def _pair(folder: Path) -> Pair:
    image, label = folder / IMAGE, folder / LABEL
    if not image.is_file() and not label.is_file():
        return Pair(folder.name, None, None, problem=f"{folder}: neither {IMAGE} nor {LABEL}")
    return Pair(folder.name, image if image.is_file() else None, label if label.is_file() else None)
