"""One scan, one method of a finished run, prompts by hand → a mask. No label is needed, and none is looked for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.errors import UserError, is_out_of_memory, nearest_name, one_line
from benchmarks.common.paths import user_path
from benchmarks.contestants import Segmenter, Target, method
from benchmarks.data.volume import Volume, read_volume, write_mask
from benchmarks.execution.training import load_segmenter
from benchmarks.prompting.formats import read_prompt_file
from benchmarks.prompting.prompts import PROMPTS_VERSION, PromptKind, Prompts, from_json


def unit_of(units: Iterable[Mapping[str, Any]], name: str, dataset: str | None = None) -> Mapping[str, Any]:
    """The description of one method on one dataset in a finished suite; see `RecordStore.read_suite`.

    Raises:
        UserError: no such method, or it was run on several datasets and none is named.
    """
    units = list(units)
    mine = [unit for unit in units if unit["method"] == name]
    if not mine:
        raise UserError(f"no method '{name}' in this suite; {nearest_name(name, {unit['method'] for unit in units})}")
    known = [str(unit["dataset"]) for unit in mine]
    if dataset is None and len(mine) > 1:
        raise UserError(f"'{name}' was run on {', '.join(known)}; say which with --dataset")
    for unit in mine:
        if dataset in (None, unit["dataset"]):
            return unit
    raise UserError(f"'{name}' was not run on '{dataset}'; {nearest_name(str(dataset), known)}")


def load_unit(unit: Mapping[str, Any], checkpoints: Path, device: str = "cpu") -> tuple[Segmenter, Target]:
    """The segmenter of a unit with the weights that it was evaluated with, and its target.

    Raises:
        UserError: the checkpoint is not there any more.
    """
    chosen = method(str(unit["method_name"]))
    folder = None
    if unit["checkpoint"]:
        found = sorted(checkpoints.glob(f"*-{unit['checkpoint']}/training.json"))
        if not found:
            raise UserError(f"{checkpoints}: no checkpoint {unit['checkpoint']} of '{unit['method']}'; run it again")
        folder = found[0].parent
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in unit["target"].items()}
    try:
        return load_segmenter(chosen, dict(unit["config"]), device, folder), Target(**fields)
    except UserError:
        raise
    except Exception as error:  # files that are cut off fail in as many ways as there are libraries that read them
        if is_out_of_memory(error):
            raise
        where = folder or f"method '{unit['method']}'"
        raise UserError(
            f"{where}: cannot be loaded ({one_line(error, 200)}); if it is damaged, train it again"
        ) from error


def read_prompts(file: Path | None, volume: Volume, text: str | None = None) -> Prompts:
    """Prompts of a JSON file in a format of docs/protocols.md, with a text added or replaced; none without a file.

    Raises:
        UserError: unreadable, or wrong in a way that the message tells.
    """
    prompts = Prompts() if file is None else read_prompt_file(file, volume, volume.orientation)
    if text is None:
        return prompts
    return replace(prompts, text=from_json({"version": PROMPTS_VERSION, "text": text}, volume).text)


def _check_target(mask: Path, inputs: Iterable[Path]) -> None:
    """Before any work: the mask must not take the place of a folder, or of a file that it is made from."""
    if not mask.name.lower().endswith((".nii", ".nii.gz")):
        raise UserError(f"{mask}: the mask is a .nii or .nii.gz file")
    if mask.is_dir():
        raise UserError(f"{mask}: is a folder; name a file for the mask")
    for file in inputs:
        if mask.exists() and file.exists() and mask.samefile(file):
            raise UserError(f"{mask}: is the same file as {file}; the mask would replace it")


def predict_scan(
    scan: Path, segmenter: Segmenter, target: Target, mask: Path, prompts: Path | None = None, text: str | None = None
) -> dict[str, Any]:
    """Segment one scan and write the mask (uint8 NIfTI) on the scan's own grid.

    Returns:
        mask (the file), voxels, millilitres, clicks, seconds_open, seconds_segment.

    Raises:
        UserError: an unusable scan or prompt file, prompts that the method does not understand, or a mask that would
            replace the scan or a folder, or cannot be written.
    """
    scan, mask, prompts = user_path(scan), user_path(mask), user_path(prompts) if prompts else None
    _check_target(mask, [scan, *([prompts] if prompts else [])])
    volume = read_volume(scan)
    user_prompts = read_prompts(prompts, volume, text)
    foreign = user_prompts.kinds - segmenter.prompts
    if foreign:
        needs = ", ".join(sorted(segmenter.prompts))
        accepted = "some prompt" if foreign == {PromptKind.NONE} else f"no {', '.join(sorted(foreign))}"
        raise UserError(f"the method takes {accepted}; it understands: {needs}")
    started = time.perf_counter()
    session = segmenter.open(volume, target)
    opened = time.perf_counter()
    found = session.segment(user_prompts)
    ended = time.perf_counter()
    if isinstance(found, np.ma.MaskedArray) or found.dtype != np.bool_ or found.shape != volume.shape:
        kind = f"{type(found).__name__} of {found.dtype} {found.shape}"
        raise UserError(f"the method gave a {kind}; a bool array of shape {volume.shape} is due")
    try:
        write_mask(found, volume, mask)
    except OSError as error:
        raise UserError(f"{mask}: cannot be written ({error.strerror or error})") from error
    voxels = int(np.count_nonzero(found))
    return {
        "mask": str(mask),
        "voxels": voxels,
        "millilitres": voxels * float(np.prod(volume.spacing)) / 1000,
        "clicks": len(user_prompts.clicks),
        "seconds_open": opened - started,
        "seconds_segment": ended - opened,
    }
