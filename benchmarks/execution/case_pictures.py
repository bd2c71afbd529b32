"""The pictures of a report: scan, reference and every kept mask of each case, cropped and reduced.

A mask is shown only if it is that of the record: its side-car has the seconds that the record has, and it has as many
voxels. The same holds for the reference. What does not fit is named in the viewer and not drawn.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common.errors import UserError, one_line
from benchmarks.common.files import safe_name
from benchmarks.data.boxes import slices
from benchmarks.data.dataset import Case, target_mask
from benchmarks.data.intensities import CT
from benchmarks.data.target import Target
from benchmarks.data.volume import Volume, read_mask
from benchmarks.execution.case_files import CaseFiles, case_files
from benchmarks.execution.datasets import Folders
from benchmarks.prompting.prompts import Prompts, from_json
from benchmarks.results.predictions import facts_file, mask_file
from benchmarks.results.records import FAILED, OK
from benchmarks.results.report.pictures import (
    CasePicture,
    Corner,
    Layer,
    Prompted,
    Step,
    bytes_of_each,
    crop_box,
    encoded,
)

MOST_PROCESSES = 8
WORTHWHILE = 12  # pictures; fewer are made before another process has started
BYTES_OF_ONE = 3_000_000_000  # memory that a large scan takes while its picture is made

CaseKey = tuple[str, str, str]
"""Dataset, case, target."""


@dataclass(frozen=True)
class _Answer:
    """A mask that a record speaks of."""

    protocol: str
    method: str
    step: int
    stem: Path
    voxels: int

    @property
    def name(self) -> str:
        return f"{self.method}, {self.protocol}, step {self.step}"

    @property
    def place(self) -> Step:
        return self.protocol, self.method, self.step


@dataclass(frozen=True)
class PictureOrder:
    """All that the picture of a case is made of; a process can do it alone. `failed` are steps without an answer."""

    case: Case
    target: Target
    voxels: int
    answers: tuple[_Answer, ...]
    failed: tuple[Step, ...] = ()

    @property
    def key(self) -> CaseKey:
        return self.case.dataset, self.case.case_id, self.target.name


def picture_orders(rows: pd.DataFrame, units: Sequence[Mapping[str, Any]], folders: Folders) -> list[PictureOrder]:
    """The pictures that can be made: of every case whose files the run noted down.

    Args:
        rows: the records of a suite.
        units: what its units are.
    """
    orders: dict[CaseKey, PictureOrder] = {}
    asked = dict(iter(rows.groupby(["unit", "method"], sort=False))) if len(rows) else {}
    for unit in units:
        files, mine = case_files(unit, folders), asked.get((unit["unit"], unit["method"]))
        if mine is None:
            continue
        target = _target_of(unit)
        found = _mask_folder(unit, units, mine, folders)
        for case, group in mine.groupby("case", sort=False):
            if case not in files:
                continue
            key = (str(unit["dataset"]), str(case), target.name)
            reference = int(group["voxels_reference"].max())
            order = orders.setdefault(key, PictureOrder(_case(unit, key, files[str(case)]), target, reference, ()))
            if found is not None:
                answers, failed = (*order.answers, *_answers(group, found)), (*order.failed, *_failed(group))
                orders[key] = replace(order, answers=answers, failed=failed)
    return list(orders.values())


def case_pictures(
    orders: Sequence[PictureOrder], scans: bool = True, megabytes: float = 36.0
) -> Iterator[tuple[CaseKey, dict[str, Any]]]:
    """Each order with its picture, encoded for the page; several processes make them where there are many.

    Args:
        scans: False shows masks alone, and no voxel of a scan.
        megabytes: of all pictures together, at most.

    Raises:
        UserError: a process was killed.
    """
    make = partial(_made, scans=scans, size=bytes_of_each(len(orders), megabytes))
    processes = min(MOST_PROCESSES, os.cpu_count() or 1, len(orders) // WORTHWHILE, _memory() // BYTES_OF_ONE)
    if processes < 2:
        yield from map(make, orders)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(make, orders, chunksize=2)
        except BrokenProcessPool as error:
            raise UserError("a process that made pictures was killed; is there enough memory?") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _made(order: PictureOrder, scans: bool, size: int) -> tuple[CaseKey, dict[str, Any]]:
    """What cannot be read costs its picture and says why; the report is made all the same."""
    try:
        return order.key, encoded(picture_of(order, scans), size)
    except (UserError, OSError, MemoryError) as error:
        return order.key, {"error": one_line(error)}


def picture_of(order: PictureOrder, scans: bool = True) -> CasePicture:
    """Read the files of a case and crop them.

    Raises:
        UserError: the scan or the label cannot be read, or the label is not the one that was evaluated.
    """
    volume, label = order.case.load()
    reference = target_mask(label, order.target)
    if int(reference.sum()) != order.voxels:
        raise UserError(
            f"{order.case.label}: {int(reference.sum())} voxels of '{order.target.name}', the records say "
            f"{order.voxels}; the file has changed since the run"
        )
    notes: list[str] = []
    given = [(answer, _prompts_of(answer, volume, notes)) for answer in order.answers]
    points = [point for _, prompted in given if prompted for point in (*prompted.clicks, *(prompted.box or ()))]
    box = crop_box(reference, points, volume.spacing)
    shown = [
        (answer.place, None if prompted is None else _layer(answer, prompted, volume, box, notes))
        for answer, prompted in given
    ]
    inside = slices(*box)
    return CasePicture(
        *order.key,
        low=box[0],
        spacing=volume.spacing,
        reference=reference[inside],
        scan=volume.array[inside] if scans else None,
        window=order.target.window,
        modality=order.case.modality,
        layers=tuple(layer for _, layer in shown if layer is not None),
        gaps=(*order.failed, *(step for step, layer in shown if layer is None)),
        notes=tuple(notes),
    )


def _prompts_of(answer: _Answer, volume: Volume, notes: list[str]) -> Prompted | None:
    """What the method was given; None and a note where the side-car of the mask cannot be read."""
    try:
        return _prompted(json.loads(facts_file(answer.stem).read_text(encoding="utf-8")).get("prompts"), volume)
    except (UserError, OSError, ValueError) as error:
        notes.append(f"{answer.name}: no mask ({one_line(error)})")
        return None


def _layer(
    answer: _Answer, prompted: Prompted, volume: Volume, box: tuple[Corner, Corner], notes: list[str]
) -> Layer | None:
    """The mask of an answer inside the crop; None and a note where it is not the mask of the record."""
    try:
        mask = read_mask(mask_file(answer.stem), like=volume)
    except (UserError, OSError) as error:
        notes.append(f"{answer.name}: no mask ({one_line(error)})")
        return None
    voxels = int(np.count_nonzero(mask))
    if voxels != answer.voxels:
        notes.append(f"{answer.name}: the mask on the disk is not that of the record, so it is not shown")
        return None
    cropped = mask[slices(*box)]
    outside = voxels - int(cropped.sum())
    return Layer(answer.protocol, answer.method, answer.step, cropped, prompted, outside)


def _prompted(content: Any, volume: Volume) -> Prompted:
    """The prompts of a step; where each lesion is a task of its own, those of all of them."""
    given = [_of_one(one, volume) for one in (content if isinstance(content, list) else [content]) if one]
    clicks = tuple((*click.position, int(click.positive)) for one in given for click in one.clicks)
    boxes = [one.box for one in given if one.box is not None]
    box: tuple[Corner, Corner] | None = None
    if boxes:
        low, high = np.min([one.low for one in boxes], axis=0), np.max([one.high for one in boxes], axis=0)
        box = (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))
    return Prompted(clicks, box, next((one.text for one in given if one.text), ""))


def _of_one(content: Mapping[str, Any], volume: Volume) -> Prompts:
    """A mask that was a prompt is not drawn: it is the answer to the step before."""
    return from_json({key: value for key, value in content.items() if key != "mask"}, volume)


def _case(unit: Mapping[str, Any], key: CaseKey, files: CaseFiles) -> Case:
    return Case(key[0], key[1], files.image, files.label, modality=str(unit.get("modality", CT)))


def _target_of(unit: Mapping[str, Any]) -> Target:
    known = {name: unit["target"][name] for name in Target.__dataclass_fields__ if name in unit["target"]}
    return Target.from_plain(known)


def _answers(rows: pd.DataFrame, folder: Path) -> list[_Answer]:
    """The masks of a case: those of steps that were answered, not those that a step carried over."""
    answered = rows[(rows["status"] == OK) & ~_carried(rows)]
    return [
        _Answer(row["protocol"], row["method"], int(row["step"]), _stem(folder, row), int(row["voxels_prediction"]))
        for row in answered.to_dict("records")
    ]


def _failed(rows: pd.DataFrame) -> list[Step]:
    failed = rows[rows["status"] == FAILED]
    return [(str(row["protocol"]), str(row["method"]), int(row["step"])) for row in failed.to_dict("records")]


def _carried(rows: pd.DataFrame) -> pd.Series:
    return rows["carried"].eq(True) if "carried" in rows else pd.Series(False, rows.index)


def _seconds_of(side_car: Path) -> Any:
    """Of the answer, as its side-car has them; None for a mask made elsewhere, NaN for a side-car that is damaged."""
    try:
        return json.loads(side_car.read_text(encoding="utf-8")).get("facts", {}).get("seconds_segment")
    except (OSError, ValueError, AttributeError, RecursionError):
        return math.nan


def _stem(folder: Path, row: Mapping[Any, Any]) -> Path:
    name = safe_name(f"{row['target']}.{row['protocol']}")
    return folder / safe_name(str(row["case"])) / f"{name}.{row['step']}"


def _mask_folder(
    unit: Mapping[str, Any], units: Sequence[Mapping[str, Any]], rows: pd.DataFrame, folders: Folders
) -> Path | None:
    """The folder of the masks that these rows were made from; None if there is none.

    The description of a unit names it; those of earlier runs do not. Several of one name stand beside each other where
    a method was run with several settings, and entries that differ in their label only share the folder of one of
    them. The seconds in the side-cars tell which one it is.
    """
    answered = rows[(rows["status"] == OK) & ~_carried(rows)]
    if answered.empty:
        return None
    row = answered.iloc[0].to_dict()
    place = folders.predictions / safe_name(str(unit["suite"])) / safe_name(str(unit["dataset"]))
    titles = [str(one["method"]) for one in units if one["unit"] == unit["unit"]]
    names = [safe_name(name) for title in titles for name in (title, f"{title}@{unit['target']['name']}")]
    named = [folders.out / str(unit["predictions"])] if unit.get("predictions") else []
    for folder in [*named, *sorted(path for path in place.glob("*") if path.name.rpartition("-")[0] in names)]:
        path = facts_file(_stem(folder, row))
        if path.is_file():
            seconds = _seconds_of(path)
            if seconds == row["seconds_segment"] or (seconds is None and pd.isna(row["seconds_segment"])):
                return folder
    return None
