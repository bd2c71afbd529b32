"""Synthetic scans in the layout of a dataset, written once per seed and read back by the dataset's own loader."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import write_json
from benchmarks.data.catalogue import dataset_source, phantom_names
from benchmarks.data.layouts.layout import SYNTHETIC_MANIFEST, SYNTHETIC_NOTICE, visible

NOTICE = """These scans are SYNTHETIC: computed phantoms, not patients. They imitate the files of {title}, so
that the software can be tried and tested. No number measured on them says anything about real scans.
Made by tags-bench, phantom generator {version}, seed {seed}. No restriction on use.
"""


def synthesise(name: str, root: Path, seed: int, cases: int = 14, scale: float = 1.0) -> Path:
    """Write phantoms in the layout of dataset `name` into a folder of `root` and return that folder.

    Its name carries the parameters (`folder_name`), so runs with other parameters leave each other's data
    alone. The folder appears whole or not at all. If it is there nothing is computed.
    Every folder in it says that these are phantoms, too: people copy the one that holds the data set.

    Args:
        name: of a dataset that has phantoms (`catalogue.phantom_names`).
        cases: at least one.
        scale: voxels per mm relative to the standard (about 90 × 90 × 36 voxels of 2.3 × 2.3 × 4 mm).

    Raises:
        UserError: unknown name, or the folder holds something else than phantoms.
    """
    phantoms = dataset_source(name).phantoms
    if phantoms is None:
        raise UserError(f"no phantoms for dataset '{name}'; {nearest_name(name, phantom_names())}")
    if cases < 1 or not 0.2 <= scale <= 4:
        raise UserError(f"phantoms need at least 1 case and a scale from 0.2 to 4, not {cases} and {scale}")
    folder = root / folder_name(name, seed, cases, scale)
    wanted = {"generator": phantoms.version, "dataset": name, "seed": seed, "cases": cases, "scale": scale}
    if _parameters(folder) == wanted:
        return folder
    if folder.exists() and _parameters(folder) is None:
        raise UserError(f"{folder}: exists and holds no phantoms; choose another folder or remove it")
    try:
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
    except OSError as error:
        raise UserError(f"{root}: not writable ({error.strerror})") from error
    try:
        truths = dict(phantoms.write(partial, cases, seed, scale))
        title = phantoms.title or dataset_source(name).info.title
        notice = NOTICE.format(title=title, version=phantoms.version, seed=seed)
        for inner in [path for path in visible(partial) if path.is_dir()]:
            _mark(inner, notice, wanted)
        _mark(partial, notice, {**wanted, **phantoms.facts, "truth": truths})
        _move_into_place(partial, folder, wanted)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if it was moved
    return folder


def _mark(folder: Path, notice: str, manifest: dict[str, Any]) -> None:
    (folder / SYNTHETIC_NOTICE).write_text(notice, "utf-8")
    write_json(folder / SYNTHETIC_MANIFEST, manifest)


def folder_name(name: str, seed: int, cases: int, scale: float = 1.0) -> str:
    """Where phantoms of these parameters lie: `kits21-14-2026` has 14 cases of seed 2026."""
    return f"{name}-{cases}-{seed}" + ("" if scale == 1 else f"-{scale:g}x")


def _parameters(folder: Path) -> dict[str, Any] | None:
    """The parameters of the phantoms in a folder; None if it holds none."""
    try:
        content = json.loads((folder / SYNTHETIC_MANIFEST).read_text("utf-8"))
        return {key: content[key] for key in ("generator", "dataset", "seed", "cases", "scale")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _move_into_place(partial: Path, folder: Path, wanted: dict[str, Any]) -> None:
    """Rename the finished folder; phantoms of an older generator give way, a rival's equal ones stay."""
    partial.chmod(0o755)  # mkdtemp makes it private
    if folder.exists() and _parameters(folder) is not None:
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        os.replace(folder, old)
        shutil.rmtree(old)
    try:
        os.replace(partial, folder)
    except OSError as error:
        if _parameters(folder) != wanted:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
