"""One case × one segmenter × simulated users → records. Pure: no Ray, no MLflow, nothing written but masks.

The segmenter sees the volume, the target's name and the prompts. The label stays on this side: the simulated
user and the metrics look at it, the segmenter cannot.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.dataset import Case, target_mask
from benchmarks.environment import revision
from benchmarks.errors import one_line
from benchmarks.metrics import POLICIES, Reference, evaluate_mask, failed_values
from benchmarks.prompt_bank import PromptBank
from benchmarks.prompts import Prompts, to_json
from benchmarks.results import FAILED, OK, SCHEMA_VERSION, write_json
from benchmarks.segmenter import Segmenter, Session, Target
from benchmarks.users import Protocol, SimulatedUser
from benchmarks.volume import BoolArray, Volume, read_label, write_mask

logger = logging.getLogger(__name__)

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
    """

    targets: tuple[Target, ...]
    protocols: tuple[Protocol, ...]
    seed: int
    tolerances_mm: tuple[float, ...]
    empty_policy: str
    predictions: Path | None
    provenance: dict[str, Any]
    banks: Mapping[str, PromptBank] = field(default_factory=dict)


def evaluate_case(case: Case, segmenter: Segmenter, evaluation: Evaluation) -> list[dict[str, Any]]:
    """All rows of one case: targets × protocols × steps, failed ones included.

    A failure of the method, of the file or of the prompts becomes rows with `status` "failed", the reason in one
    line and the worst values; it never raises and never drops a row.
    """
    try:
        volume, label = case.load()
    except Exception as error:
        logger.exception("%s/%s cannot be loaded", case.dataset, case.case_id)
        return failed_case(case, evaluation, error)
    volume.array.setflags(write=False)
    rows: list[dict[str, Any]] = []
    for target in evaluation.targets:
        truth = _Truth(target_mask(label, target), volume.spacing, evaluation)
        for protocol in evaluation.protocols:
            rows += _follow_protocol(case, volume, target, protocol, truth, segmenter, evaluation)
    return rows


def rescore_case(case: Case, evaluation: Evaluation) -> list[dict[str, Any]] | None:
    """All rows of one case from the masks that an earlier run kept: no segmenter, no GPU; None if one is missing.

    Timings and memory are those of the run that made the masks.
    """
    folder = evaluation.predictions
    if folder is None or not (folder / case.case_id).is_dir():
        return None
    volume, label = case.load()
    rows: list[dict[str, Any]] = []
    for target in evaluation.targets:
        truth = _Truth(target_mask(label, target), volume.spacing, evaluation)
        for protocol in evaluation.protocols:
            for step in range(1, protocol.rounds + 1):
                stem = folder / case.case_id / _stem(target, protocol, step)
                facts = _kept_facts(stem)
                if facts is None:
                    return None
                if facts["carried"]:
                    rows.append({**rows[-1], "step": step} | facts)
                    continue
                mask = read_label(_mask_file(stem), like=volume) > 0
                identity = _identity(case, target, protocol, step, evaluation)
                rows.append({**identity, **evaluate_mask(mask, truth.reference), "status": OK, "reason": ""} | facts)
    return rows


class _Truth:
    """What the label says of a target: for the simulated user and the metrics, never for the segmenter."""

    def __init__(self, mask: BoolArray, spacing: tuple[float, float, float], evaluation: Evaluation) -> None:
        self.mask, self.spacing = mask, spacing
        policy = POLICIES[evaluation.empty_policy]
        self.reference = Reference(mask, spacing, evaluation.tolerances_mm, policy)


def failed_case(case: Case, evaluation: Evaluation, error: BaseException) -> list[dict[str, Any]]:
    """The rows of a case that could not be evaluated at all: every expected row, failed, with the reason."""
    try:
        volume, label = case.load()
    except Exception:  # the file itself may be what failed; `error` has the reason
        volume, label = None, None
    rows = []
    for target in evaluation.targets:
        if volume is None or label is None:
            edge = UNKNOWN_DIAGONAL_MM / 3**0.5
            truth = _Truth(np.zeros((1, 1, 1), bool), (edge, edge, edge), evaluation)
        else:
            truth = _Truth(target_mask(label, target), volume.spacing, evaluation)
        worst = failed_values(truth.reference) | _failure(error)
        rows += [
            {**_identity(case, target, protocol, step, evaluation), **worst}
            for protocol in evaluation.protocols
            for step in range(1, protocol.rounds + 1)
        ]
    return rows


def _follow_protocol(
    case: Case,
    volume: Volume,
    target: Target,
    protocol: Protocol,
    truth: _Truth,
    segmenter: Segmenter,
    evaluation: Evaluation,
) -> list[dict[str, Any]]:
    """Open, then prompt step by step. A session is never shared by protocols: each pays its own `open`."""
    user = SimulatedUser(protocol, (evaluation.seed, case.dataset, case.case_id, target.name))
    bank = evaluation.banks.get(protocol.name)
    rows: list[dict[str, Any]] = []
    mask: BoolArray | None = None
    prompts: Prompts | None = None
    session: Session | None = None
    seconds_open = 0.0
    for step in range(1, protocol.rounds + 1):
        identity = _identity(case, target, protocol, step, evaluation)
        try:
            if prompts is None or mask is None or session is None:
                if bank is None:
                    prompts = user.first(truth.mask, volume.spacing, target)
                else:
                    prompts = bank.prompts(case.case_id, target.name, volume)
                started = time.perf_counter()
                session = segmenter.open(volume, target)
                seconds_open = time.perf_counter() - started
            else:
                following = user.next(truth.mask, mask, prompts, volume.spacing)
                if following is None:  # satisfied: the remaining steps keep the last result
                    facts: dict[str, Any] = {"carried": True, "seconds_segment": 0.0}
                    rows.append({**rows[-1], "step": step} | facts)
                    _keep(evaluation, case, target, protocol, step, facts)
                    continue
                prompts = following
            started = time.perf_counter()
            mask = _checked(session.segment(prompts), volume)
            seconds = time.perf_counter() - started
            values = evaluate_mask(mask, truth.reference)
        except Exception as error:
            logger.exception("%s/%s, %s, step %d failed", case.dataset, case.case_id, protocol.name, step)
            worst = failed_values(truth.reference)
            return rows + [
                {**_identity(case, target, protocol, late, evaluation), **worst, **_failure(error)}
                for late in range(step, protocol.rounds + 1)
            ]
        facts = {
            "carried": False,
            "clicks": len(prompts.clicks),
            "seconds_open": seconds_open,
            "seconds_segment": seconds,
            "peak_memory_mb": peak_memory_mb(),
            "predicted_commit": revision()[0],
        }
        rows.append({**identity, **values, "status": OK, "reason": ""} | facts)
        _keep(evaluation, case, target, protocol, step, facts, volume, mask, prompts)
    return rows


def _checked(mask: Any, volume: Volume) -> BoolArray:
    """The geometry contract: a boolean mask on the volume's own grid."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != volume.shape:
        found = f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}"
        raise TypeError(f"the method returned {found}; a bool mask of shape {volume.shape} is due")
    return mask


def _keep(
    evaluation: Evaluation,
    case: Case,
    target: Target,
    protocol: Protocol,
    step: int,
    facts: dict[str, Any],
    volume: Volume | None = None,
    mask: BoolArray | None = None,
    prompts: Prompts | None = None,
) -> None:
    """Keep the mask of a step, then its side-car: whoever finds the side-car finds the whole mask."""
    if evaluation.predictions is None:
        return
    stem = evaluation.predictions / case.case_id / _stem(target, protocol, step)
    told: dict[str, Any] = {"facts": facts}
    if volume is not None and mask is not None and prompts is not None:
        write_mask(mask, volume, _mask_file(stem))
        told["prompts"] = to_json(prompts, volume)
    write_json(_facts_file(stem), told)


def _kept_facts(stem: Path) -> dict[str, Any] | None:
    path = _facts_file(stem)
    return dict(json.loads(path.read_text(encoding="utf-8"))["facts"]) if path.is_file() else None


def _stem(target: Target, protocol: Protocol, step: int) -> str:
    return f"{target.name}.{protocol.name}.{step}"


def _mask_file(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.nii.gz")


def _facts_file(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")


def _identity(case: Case, target: Target, protocol: Protocol, step: int, evaluation: Evaluation) -> dict[str, Any]:
    return {
        **evaluation.provenance,
        "schema_version": SCHEMA_VERSION,
        "seed": evaluation.seed,
        "dataset": case.dataset,
        "case": case.case_id,
        "patient": case.patient or case.case_id,
        "target": target.name,
        "protocol": protocol.name,
        "prompt_bank": evaluation.banks[protocol.name].digest[:16] if protocol.name in evaluation.banks else "",
        "track": protocol.track,
        "step": step,
    }


def _failure(error: BaseException) -> dict[str, Any]:
    return {
        "status": FAILED,
        "reason": one_line(error)[:500],
        "carried": False,
        "clicks": 0,
        "seconds_open": float("nan"),
        "seconds_segment": float("nan"),
        "peak_memory_mb": peak_memory_mb(),
        "predicted_commit": revision()[0],
    }


def peak_memory_mb() -> float:
    """Peak of this process so far, in MB: GPU memory if CUDA is in use, otherwise resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated() / 1e6)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def applicable(protocols: Sequence[Protocol], segmenter_prompts: frozenset[Any]) -> tuple[Protocol, ...]:
    """The protocols that a method can follow: it understands every kind of prompt that they may send."""
    return tuple(protocol for protocol in protocols if protocol.needs <= segmenter_prompts)
