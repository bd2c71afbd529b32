"""KiTS19 and KiTS23: the layout of KiTS21 with another label file, `segmentation.nii.gz`.

Layout and label values: github.com/neheller/kits19 and github.com/neheller/kits23 (README). KiTS23 keeps its cases in
`dataset`, and has the values of KiTS21; KiTS19 has no cyst. Their annotations are not those of KiTS21, hence they are
read as data of the user's own and never stand for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.data.dataset import Dataset
from benchmarks.data.layouts import kits21
from benchmarks.data.layouts.layout import Pair, Splitting, assemble, file_or_dead_link

LABEL = kits21.OTHER_LABEL


def is_layout(root: Path) -> bool:
    """Whether the label maps are those of KiTS19 or KiTS23, and none is that of KiTS21."""
    own, other = (
        any(file_or_dead_link(place / name) for place in kits21.case_folders(root)) for name in (LABEL, kits21.LABEL)
    )
    return own and not other


def load(root: Path, name: str, *, seed: int = 0, strict: bool = True) -> Dataset:
    """The cases under the user's name, split by patient. Raises UserError as `assemble` does."""
    info = replace(kits21.INFO, name=name, title="KiTS19 or KiTS23", layout=f"case_00000/{kits21.IMAGE} and {LABEL}")
    info = replace(info, url="https://kits-challenge.org", citation="", split_source="by patient", cases=0)
    pairs = [_pair(folder) for folder in kits21.case_folders(root)]
    return assemble(info, root, pairs, Splitting(name="patient", seed=seed), strict=strict)


def _pair(folder: Path) -> Pair:
    image, label = folder / kits21.IMAGE, folder / LABEL
    has_image, has_label = file_or_dead_link(image), file_or_dead_link(label)
    if not has_image and not has_label:
        return Pair(folder.name, None, None, problem=f"{folder}: neither {kits21.IMAGE} nor {LABEL}")
    return Pair(folder.name, image if has_image else None, label if has_label else None)
