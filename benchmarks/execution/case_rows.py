"""The rows of one case: which are due, what they have in common, and what those say that have no answer."""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.environment import revision
from benchmarks.common.errors import MachineFault, fault_here, is_out_of_memory, one_line, raise_if_spoilt
from benchmarks.contestants import Target
from benchmarks.data.dataset import Case
from benchmarks.data.volume import BoolArray
from benchmarks.execution.given_masks import GivenMasks
from benchmarks.metrics import POLICIES, Reference, failed_values, is_metric
from benchmarks.prompting.bank import PromptBank
from benchmarks.prompting.prompts import SIMULATED
from benchmarks.prompting.protocol import Protocol
from benchmarks.prompting.tasks import Task
from benchmarks.results.predictions import facts_file, mask_file, step_stem
from benchmarks.results.records import FAILED, NO_TARGET, OK, SCHEMA_VERSION, SPACINGS, WEIGHTS

UNKNOWN_DIAGONAL_MM = 1000.0  # worst distance where the image cannot be read, so that its size is not known


@dataclass(frozen=True)
class Evaluation:
    """What to do with every case of a unit.

    Attributes:
        targets, protocols: all pairs are evaluated; the protocols are those that the method can follow.
        seed: seed of the suite; prompts depend on (seed, dataset, case, target, step) only.
        tolerances_mm, empty_policy: for the metrics.
        predictions: folder for masks and prompts, or None to keep none.
        provenance: columns that every row of the unit shares.
        banks: frozen first prompts by protocol name; without a bank the simulated user makes them on the spot.
        given: masks made elsewhere, scored in place of a segmenter's.
        raise_out_of_memory: let the caller try again with more memory instead of writing down a failure.
    """

    targets: tuple[Target, ...]
    protocols: tuple[Protocol, ...]
    seed: int
    tolerances_mm: tuple[float, ...]
    empty_policy: str
    predictions: Path | None
    provenance: dict[str, Any]
    banks: Mapping[str, PromptBank] = field(default_factory=dict)
    given: GivenMasks | None = None
    raise_out_of_memory: bool = False

    def pass_on(self, error: Exception) -> None:
        """Raise what is no failure of the method, or not yet."""
        if isinstance(error, MachineFault) or (self.raise_out_of_memory and is_out_of_memory(error)):
            raise error
        raise_if_spoilt(error)


WELL = {"status": OK, "reason": ""}


class Truth:
    """What the label says of a target: for the simulated user and the metrics, never for the segmenter."""

    def __init__(
        self, mask: BoolArray, spacing: tuple[float, float, float], evaluation: Evaluation, known: bool = True
    ) -> None:
        self.mask, self.spacing, self.known = mask, spacing, known
        policy = POLICIES[evaluation.empty_policy]
        self.reference = Reference(mask, spacing, evaluation.tolerances_mm, policy)

    @classmethod
    def unknown(cls, evaluation: Evaluation) -> Truth:
        """Of a case whose image or label cannot be read."""
        edge = UNKNOWN_DIAGONAL_MM / 3**0.5
        return cls(np.zeros((1, 1, 1), bool), (edge, edge, edge), evaluation, known=False)

    @property
    def spacing_columns(self) -> dict[str, float]:
        return dict(zip(SPACINGS, self.spacing if self.known else (math.nan,) * 3, strict=True))


@dataclass(frozen=True)
class Cell:
    """One target of one case under one protocol: what its rows have in common."""

    case: Case
    target: Target
    protocol: Protocol
    evaluation: Evaluation
    truth: Truth

    @property
    def bank(self) -> PromptBank | None:
        return self.evaluation.banks.get(self.protocol.name)

    @property
    def steps(self) -> range:
        return range(1, self.protocol.rounds + 1)

    def has_target(self) -> bool:
        """Whether the protocol can ask anything; a frozen bank decides, as it does for every other method."""
        if not self.protocol.looks_at_label:
            return True
        if self.bank is not None:
            return self.bank.has_target(self.case.case_id, self.target.name)
        return not self.truth.known or self.truth.reference.voxels > 0

    def forget_kept(self) -> None:
        """Remove the masks and facts that an earlier run kept of all steps, or they would be taken for this one's.

        Raises:
            MachineFault: the storage fails.
        """
        if self.evaluation.predictions is None:
            return
        try:
            for step in self.steps:
                facts_file(self.stem(step)).unlink(missing_ok=True)  # who finds them believes the mask
                mask_file(self.stem(step)).unlink(missing_ok=True)
        except OSError as error:
            raise fault_here(error) from error

    def stem(self, step: int) -> Path:
        """Where the mask and the facts of a step are kept, without suffix."""
        assert self.evaluation.predictions is not None
        return step_stem(self.evaluation.predictions, self.case.case_id, self.target.name, self.protocol.name, step)

    @property
    def weights(self) -> dict[str, str]:
        """By which weights of a training its masks come, as their facts say it; empty without a training."""
        return {name: value for name, value in self.evaluation.provenance.items() if name == WEIGHTS}

    def identity(self, step: int) -> dict[str, Any]:
        return {
            **self.evaluation.provenance,
            "schema_version": SCHEMA_VERSION,
            "seed": self.evaluation.seed,
            "dataset": self.case.dataset,
            "case": self.case.case_id,
            "patient": self.case.patient or self.case.case_id,
            "target": self.target.name,
            "protocol": self.protocol.name,
            "prompt_bank": self.bank.digest[:16] if self.bank is not None else "",
            "prompt_origin": self.bank.origin if self.bank is not None else SIMULATED,
            "track": self.protocol.track,
            "step": step,
            **self.truth.spacing_columns,
        }

    def failed(self, error: BaseException, since: int, lesions: Sequence[Task] = ()) -> list[dict[str, Any]]:
        """The rows from a step on, with the worst values, the reason, and the clicks that were due by then."""
        values = failed_values(self.truth.reference) | _without_answer(FAILED, one_line(error)[:500])
        values |= lesion_figures(self, lesions, [0.0] * len(lesions))
        sessions = max(1, len(lesions))
        return [
            {**self.identity(step), **values, "clicks": sessions * self.protocol.clicks_by(step)}
            for step in self.steps
            if step >= since
        ]

    def without_target(self) -> list[dict[str, Any]]:
        """The rows of a case without the target: no metric, for the method did nothing well or badly."""
        nothing = {
            key: math.nan if is_metric(key) else value for key, value in failed_values(self.truth.reference).items()
        }
        values = nothing | _without_answer(NO_TARGET, f"no voxel of '{self.target.name}' in the case")
        values |= lesion_figures(self, (), ())
        return [{**self.identity(step), **values} for step in self.steps]


def lesion_figures(cell: Cell, lesions: Sequence[Task], dices: Sequence[float]) -> dict[str, Any]:
    """The Dice of each lesion that was a task of its own, and its diameter (mm, of the ball of its volume)."""
    if cell.protocol.per != "each-lesion":
        return {}
    voxel_mm3 = cell.truth.reference.voxel_mm3
    diameters = [float(np.cbrt(6 / np.pi * lesion.voxels * voxel_mm3)) for lesion in lesions]
    return {"each_lesion_dice": list(dices), "each_lesion_diameter_mm": diameters}


def kept_facts(stem: Path) -> dict[str, Any] | None:
    """What was kept beside a mask; None if there is none. What is not known there is NaN here."""
    path = facts_file(stem)
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))["facts"]
    return {name: math.nan if value is None else value for name, value in facts.items()}


def _without_answer(status: str, reason: str) -> dict[str, Any]:
    """What a row without an answer says of how it came about."""
    return {
        "status": status,
        "reason": reason,
        "carried": False,
        "clicks": 0,
        "seconds_open": math.nan,
        "seconds_segment": math.nan,
        "joules": math.nan,
        "peak_memory_mb": peak_memory_mb(),
        "device": "",
        "predicted_commit": revision()[0],
    }


def peak_memory_mb() -> float:
    """Peak of this process so far, in MB: GPU memory if CUDA is in use, otherwise resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated() / 1e6)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def device_name() -> str:
    """On what this process works: the name of its GPU if CUDA is in use, otherwise "CPU"."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return "CPU"
