"""The released archives: looked into without unpacking, and unpacked where the package looks for its models.

An archive holds one nnU-Net folder: DatasetNNN_name/TRAINER__PLANS__CONFIGURATION/{plans.json, dataset.json,
fold_N/checkpoint_final.pth}.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError, one_line
from benchmarks.common.weight_file import locate
from benchmarks.data.archives import extract

_CONFIGURATION = r"[^/]+__[^/]+__[^/]+"
_NEEDED = {
    "plans.json": r"plans\.json",
    "dataset.json": r"dataset\.json",
    "fold_N/checkpoint_final.pth": r"fold_(\d+|all)/checkpoint_final\.pth",
}


def archive_problem(path: Path, system: str) -> str:
    """Whether a file is the archive of the nnU-Net folder `system`, in a line; "" if it is. Nothing is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        return f"truncated, or not a zip archive; download it again ({one_line(error, 100)})"
    if not any(name.startswith(f"{system}/") for name in names):
        found = ", ".join(sorted({name.partition("/")[0] for name in names})[:3]) or "nothing"
        return f"this looks like an archive of {found}, expected {system}"
    for part, pattern in _NEEDED.items():
        if not any(re.fullmatch(f"{re.escape(system)}/{_CONFIGURATION}/{pattern}", name) for name in names):
            return f"holds no {system}/TRAINER__PLANS__CONFIGURATION/{part}"
    return ""


def unpack(setting: Any, system: str, method: str, results: Path) -> Path:
    """Unpack the archive that a setting names, so that `results / system` is the model's folder.

    Raises:
        UserError: it is not there, is another model's, damaged, or asks for a place outside of its folder.
    """
    archive = locate(str(setting)) if setting else None
    if archive is None:
        raise UserError(f"{method}: no file {setting}; `tags-bench weights fetch {method}`")
    problem = archive_problem(archive, system)
    if problem:
        raise UserError(f"{archive}: {problem}")
    with tempfile.TemporaryDirectory(dir=results, prefix="unpacking-") as name:
        whole = extract(archive, Path(name) / "whole")
        return (whole / system).rename(results / system)
