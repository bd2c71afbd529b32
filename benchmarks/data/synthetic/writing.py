"""Phantoms of the abdomen in the layout of a dataset. Importing this loads none of what draws them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.data.source import Phantoms
from benchmarks.data.synthetic.abdomen import GENERATOR_VERSION, Abdomen

MOST_THREADS = 4


def abdominal_phantoms(abdomen: Abdomen) -> Phantoms:
    """As a dataset announces them."""
    return Phantoms(partial(_write, abdomen), GENERATOR_VERSION, abdomen.kind.title, {"kind": asdict(abdomen.kind)})


def _write(abdomen: Abdomen, folder: Path, cases: int, seed: int, scale: float) -> Mapping[str, Any]:
    """Write cases in the dataset's layout; returns case id → what was put in."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:  # most of the time is NumPy's and zlib's
        found = list(pool.map(partial(_write_case, abdomen, folder, cases, seed, scale), range(cases)))
    truths = dict(found)
    if abdomen.describe is not None:
        abdomen.describe(folder, sorted(truths))
    return truths


def _write_case(
    abdomen: Abdomen, folder: Path, cases: int, seed: int, scale: float, index: int
) -> tuple[str, dict[str, Any]]:
    """Draw and write one case; its id, and what was put in."""
    import nibabel as nib
    import numpy as np

    from benchmarks.data.synthetic import scan
    from benchmarks.data.volume import write_nifti

    phantom = scan.draw(abdomen, seed, index, scale)
    x, y, z = phantom.image.shape
    files = abdomen.place(folder, index, cases, (x, y, z), phantom.spacing)
    affine = np.diag([*phantom.spacing, 1.0])
    affine[:3, 3] = files.origin
    orientation = nib.orientations.axcodes2ornt(files.codes)
    write_nifti(phantom.image, affine, files.image, orientation)
    write_nifti(phantom.label, affine, files.label, orientation)
    return files.case_id, phantom.truth
