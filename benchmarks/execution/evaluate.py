"""One case × one segmenter × simulated users → records. Pure: no Ray, no MLflow, nothing written but masks.

Three parts that a worker can do side by side for three cases: `load_case`, `predict_case`, `score_case`. The
segmenter sees the volume, the target's name and the prompts. The label stays on this side: the simulated user and the
metrics look at it, the segmenter must not; `label_guard` watches over every call of it.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.environment import revision
from benchmarks.common.errors import FAULTS_OF_READING, MachineFault, UserError, fault_here, machine_faults
from benchmarks.common.files import require_readable, safe_name, write_json
from benchmarks.contestants import Segmenter
from benchmarks.data.dataset import Case, target_mask
from benchmarks.data.volume import BoolArray, Volume, read_label, write_mask
from benchmarks.execution.case_rows import (
    UNKNOWN_DIAGONAL_MM,
    WELL,
    Cell,
    Evaluation,
    Truth,
    kept_facts,
    lesion_figures,
    peak_memory_mb,
)
from benchmarks.execution.label_guard import Guard
from benchmarks.execution.prediction import Interaction, Predicted, Step
from benchmarks.metrics import evaluate_mask
from benchmarks.prompting.prompts import Prompts, to_json
from benchmarks.prompting.protocol import Protocol
from benchmarks.results.predictions import facts_file, mask_file

__all__ = [
    "UNKNOWN_DIAGONAL_MM",
    "Evaluation",
    "LoadedCase",
    "Predicted",
    "applicable",
    "evaluate_case",
    "failed_case",
    "load_case",
    "predict_case",
    "rescore_case",
    "score_case",
]

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory, with everything that is asked about it."""

    volume: Volume
    guard: Guard
    cells: tuple[Cell, ...]

    def for_the_last_time(self) -> LoadedCase:
        """The same case, where running out of memory is a failure of the method now."""
        return replace(
            self,
            cells=tuple(
                replace(cell, evaluation=replace(cell.evaluation, raise_out_of_memory=False)) for cell in self.cells
            ),
        )


def evaluate_case(case: Case, segmenter: Segmenter, evaluation: Evaluation) -> Rows:
    """All rows of one case: targets × protocols × steps, failed ones included.

    A failure of the method, of the file or of the prompts becomes rows with `status` "failed", the reason in one
    line and the worst values, and never drops a row. Where a protocol has nothing to click on, because no voxel of
    the target is there, the method is not asked, and its rows say "no-target".

    Raises:
        MachineFault: the storage fails, where the case is read or the masks are written.
        MemoryError, torch.OutOfMemoryError: only if `evaluation.raise_out_of_memory`.
    """
    loaded = load_case(case, evaluation)
    return loaded if isinstance(loaded, list) else score_case(loaded, predict_case(loaded, segmenter))


def load_case(case: Case, evaluation: Evaluation) -> LoadedCase | Rows:
    """The case in memory; or, if a file of it is damaged, all its rows as failed.

    Raises:
        MachineFault: a file that was there when the run was planned is not there, or the storage fails.
    """
    try:
        volume, label = _read(case)
    except Exception as error:
        evaluation.pass_on(error)
        logger.exception("%s/%s cannot be loaded", case.dataset, case.case_id)
        return failed_case(case, evaluation, error)
    volume.array.setflags(write=False)
    return LoadedCase(volume, Guard(case, label), _cells(case, evaluation, volume, label))


def predict_case(loaded: LoadedCase, segmenter: Segmenter) -> list[Predicted]:
    """The masks of all steps of all protocols that have something to ask.

    Raises:
        MemoryError, torch.OutOfMemoryError: only if `Evaluation.raise_out_of_memory`.
    """
    return [
        Interaction(cell, loaded.volume, segmenter, loaded.guard).predicted()
        for cell in loaded.cells
        if cell.has_target()
    ]


def score_case(loaded: LoadedCase, predictions: Sequence[Predicted]) -> Rows:
    """All rows of one case; masks and prompts are kept on disk if that is asked for.

    Raises:
        MachineFault: the masks cannot be written.
    """
    predicted = {id(one.cell): one for one in predictions}
    rows: Rows = []
    for cell in loaded.cells:
        cell.forget_kept()
        one = predicted.get(id(cell))
        rows += cell.without_target() if one is None else _scored(one, loaded.volume)
    return rows


def rescore_case(case: Case, evaluation: Evaluation) -> Rows | None:
    """All rows of one case from the masks that an earlier run kept: no segmenter, no GPU; None if one is missing.

    Timings, memory and the Dice of each lesion are those of the run that made the masks.
    """
    if evaluation.given is not None:
        return _score_given(case, evaluation)
    folder = evaluation.predictions
    if folder is None or not (folder / safe_name(case.case_id)).is_dir():
        return None
    volume, label = _read(case)
    rows: Rows = []
    for cell in _cells(case, evaluation, volume, label):
        if not cell.has_target():
            rows += cell.without_target()
            continue
        for step in cell.steps:
            facts = kept_facts(cell.stem(step))
            if facts is None:
                return None
            if facts["carried"]:
                rows.append({**rows[-1], "step": step} | facts)
                continue
            mask = read_label(mask_file(cell.stem(step)), like=volume) > 0
            unsaid = dict.fromkeys(cell.weights, "")  # by masks of before, or of a unit without a training
            rows.append({**cell.identity(step), **evaluate_mask(mask, cell.truth.reference), **WELL} | unsaid | facts)
    return rows


def _score_given(case: Case, evaluation: Evaluation) -> Rows:
    """All rows of one case from a mask made elsewhere; one that is missing or does not fit is a failure.

    Nothing is known of time, memory and code of whoever made it.
    """
    assert evaluation.given is not None
    loaded = load_case(case, evaluation)
    if isinstance(loaded, list):
        return loaded
    rows: Rows = []
    for cell in loaded.cells:
        cell.forget_kept()
        try:
            with machine_faults(FAULTS_OF_READING):
                mask = evaluation.given.mask(case, loaded.volume)
        except UserError as error:
            rows += cell.failed(error, since=1)
            continue
        facts = {"carried": False, "clicks": 0, "predicted_commit": ""}
        _keep(cell, 1, {"facts": facts, "prompts": to_json(Prompts(), loaded.volume)}, loaded.volume, mask)
        unknown = dict.fromkeys(("seconds_open", "seconds_segment", "joules", "peak_memory_mb"), math.nan)
        rows.append({**cell.identity(1), **evaluate_mask(mask, cell.truth.reference), **WELL} | facts | unknown)
    return rows


def failed_case(case: Case, evaluation: Evaluation, error: BaseException) -> Rows:
    """The rows of a case that could not be evaluated at all: every expected row, failed, with the reason."""
    try:
        cells = _cells(case, evaluation, *case.load())
    except Exception:  # the file itself may be what failed; `error` has the reason
        cells = _cells(case, evaluation)
    rows: Rows = []
    for cell in cells:
        try:
            cell.forget_kept()
        except MachineFault as fault:  # the failure is written all the same
            logger.warning("%s/%s: what an earlier run kept stays: %s", case.dataset, case.case_id, fault)
        rows += cell.failed(error, since=1) if cell.has_target() else cell.without_target()
    return rows


def _read(case: Case) -> tuple[Volume, NDArray[np.int16]]:
    """The volume and the label map.

    Raises:
        MachineFault: the storage fails, or must not be read now; even to ask whether a file is there may be refused.
        UserError: a file is damaged.
    """
    with machine_faults(FAULTS_OF_READING):
        for path in (case.image, case.label):
            if not path.exists():
                raise MachineFault(f"{path} is not there on {socket.gethostname()}")
            require_readable(path)
        return case.load()


def _cells(
    case: Case, evaluation: Evaluation, volume: Volume | None = None, label: NDArray[np.int16] | None = None
) -> tuple[Cell, ...]:
    """Targets × protocols; without volume and label as far as they are known."""
    cells: list[Cell] = []
    for target in evaluation.targets:
        if volume is None or label is None:
            truth = Truth.unknown(evaluation)
        else:
            truth = Truth(target_mask(label, target), volume.spacing, evaluation)
        cells += [Cell(case, target, protocol, evaluation, truth) for protocol in evaluation.protocols]
    return tuple(cells)


def _scored(one: Predicted, volume: Volume) -> Rows:
    """The rows of one target under one protocol; if a step cannot be scored, it and those after it have failed."""
    rows: Rows = []
    failure = one.failure
    for number, step in enumerate(one.steps, start=1):
        try:
            rows.append(_row(one, number, step, volume, rows[-1] if rows else None))
        except Exception as error:
            one.cell.evaluation.pass_on(error)
            logger.exception("%s/%s, step %d cannot be scored", one.cell.case.dataset, one.cell.case.case_id, number)
            failure = error
            break
    return rows if failure is None else rows + one.cell.failed(failure, len(rows) + 1, one.lesions)


def _row(one: Predicted, number: int, step: Step, volume: Volume, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The record of a step, kept on disk if masks are kept."""
    cell, answers = one.cell, step.answers
    if before is not None and all(answer.carried for answer in answers):
        carried: dict[str, Any] = {"carried": True, "seconds_segment": 0.0}
        _keep(cell, number, {"facts": carried}, volume)
        return {**before, "step": number} | carried
    mask = step.whole_mask(volume.shape)
    facts = {
        "carried": False,
        "clicks": sum(len(answer.prompts.clicks) for answer in answers),
        "seconds_open": sum(answer.seconds_open for answer in answers),
        "seconds_segment": sum(answer.seconds_segment for answer in answers),
        "joules": sum(answer.joules for answer in answers),
        "peak_memory_mb": max((answer.peak_memory_mb for answer in answers), default=peak_memory_mb()),
        "device": next((answer.device for answer in answers), ""),
        "predicted_commit": revision()[0],
        **cell.weights,
    } | lesion_figures(cell, one.lesions, step.lesion_dices)
    row = {**cell.identity(number), **evaluate_mask(mask, cell.truth.reference), **WELL} | facts
    prompts = [to_json(answer.prompts, volume) for answer in answers]
    by_lesion = cell.protocol.per == "each-lesion"
    _keep(cell, number, {"facts": facts, "prompts": prompts if by_lesion else prompts[0]}, volume, mask)
    return row


def _keep(cell: Cell, step: int, content: dict[str, Any], volume: Volume, mask: BoolArray | None = None) -> None:
    """Keep the mask of a step, then its side-car: whoever finds the side-car finds the whole mask."""
    if cell.evaluation.predictions is None:
        return
    stem = cell.stem(step)
    facts = {name: None if value != value else value for name, value in content["facts"].items()}  # JSON has no NaN
    try:
        if mask is not None:
            write_mask(mask, volume, mask_file(stem))
        write_json(facts_file(stem), {**content, "facts": facts})
    except OSError as error:
        raise fault_here(error) from error


def applicable(protocols: Sequence[Protocol], segmenter_prompts: frozenset[Any]) -> tuple[Protocol, ...]:
    """The protocols that a method can follow: it understands every kind of prompt that they may send."""
    return tuple(protocol for protocol in protocols if protocol.needs <= segmenter_prompts)
