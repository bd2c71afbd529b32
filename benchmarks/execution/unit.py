"""A unit: one method on one fold of one dataset, the grain of scheduling, training and MLflow runs."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import Environment, Method, Target
from benchmarks.data.dataset import Case, Dataset
from benchmarks.data.intensities import said_of
from benchmarks.execution.evaluate import Evaluation
from benchmarks.execution.suite import MethodEntry
from benchmarks.execution.training_job import TrainingJob
from benchmarks.metrics import DEFAULT_RULE, METRICS_VERSION
from benchmarks.results.comparability import ITS_TRAINING, WORDS
from benchmarks.weights.zoo import ZooWeights


@dataclass(frozen=True)
class Unit:
    """One (method, dataset, fold) of a suite: the grain of scheduling, training and MLflow runs.

    A dataset with several targets gives one unit for each.

    Attributes:
        digest: of everything that decides the numbers; equal for two entries that differ in their label only.
        cases_digest: of the content of the evaluated files.
        prompts_digest: of what the first prompts follow from: equal where every protocol gives equal prompts.
        zoo: the weights that come with the method, where they are evaluated or trained from.
        weight_files: those that its configuration names and the driver has; no part of its identity.
        part_of_dataset: its target and fold, where the suite has others of the dataset: ", tumour, fold 2".
    """

    suite: str
    method: Method
    entry: MethodEntry
    dataset: Dataset
    fold: int
    target: Target
    cases: tuple[Case, ...]
    evaluation: Evaluation
    job: TrainingJob | None
    skipped_protocols: tuple[str, ...]
    digest: str
    cases_digest: str
    prompts_digest: str
    folder: Path
    log: Path
    case_timeout_seconds: float
    cpus: int
    gpus: float
    rehearsal: bool = False
    zoo: ZooWeights | None = None
    part_of_dataset: str = ""
    weight_files: tuple[str, ...] = ()

    @property
    def environment(self) -> Environment | None:
        """Where the method's processes run; None: in the bench's own environment."""
        return self.entry.environment or self.method.environment

    @property
    def title(self) -> str:
        return f"{self.entry.title} · {self.dataset.name}{self.part_of_dataset}"

    @property
    def key(self) -> str:
        """The place of the unit in its suite: data set, fold, target and title, whatever its settings."""
        return "|".join((self.dataset.name, str(self.fold), self.target.name, self.entry.title))

    @property
    def learns_of_nothing(self) -> bool:
        """Whether its weights were random before a training, here or for the zoo."""
        return self.zoo is not None if self.job is None else not self.job.untrained

    @property
    def rows_per_case(self) -> int:
        return sum(protocol.rounds for protocol in self.evaluation.protocols)

    def description(self) -> dict[str, Any]:
        """What the unit is, for `unit.json` and MLflow."""
        elsewhere = {"made_elsewhere": True} if self.evaluation.given is not None else {}
        apart: dict[str, Any] = {"environment": str(self.environment)} if self.environment is not None else {}
        if self.entry.environment is not None:
            apart["environment_given"] = self.entry.environment.as_mapping()
        return {
            **elsewhere,
            **apart,
            "suite": self.suite,
            "key": self.key,
            "unit": self.digest,
            "method": self.entry.title,
            "method_name": self.method.name,
            "method_version": self.method.version,
            "floor": self.method.floor,
            "config": self.method.configured(self.entry.config),
            "dataset": self.dataset.name,
            "dataset_version": self.dataset.version,
            "synthetic": self.dataset.synthetic,
            "fold": self.fold,
            "target": asdict(self.target),
            "protocols": [protocol.to_mapping() for protocol in self.evaluation.protocols],
            "protocol_names": [protocol.name for protocol in self.evaluation.protocols],
            "prompts_digest": self.prompts_digest,
            "prompt_banks": {name: bank.digest for name, bank in self.evaluation.banks.items()},
            "skipped_protocols": list(self.skipped_protocols),
            "cases": [case.case_id for case in self.cases],
            "patients": {case.case_id: case.patient for case in self.cases if case.patient},
            "cases_digest": self.cases_digest,
            "training_cases": self._training_cases(),
            **self._particulars(),
            "checkpoint": self.job.digest() if self.job else "",
            "budget": asdict(self.job.budget) if self.job else {},
            "workers": self.job.workers if self.job else 0,
            "modality": self.dataset.modality,
            "intensities": said_of(self.dataset.modality),
            "untrained": self.job.untrained if self.job else False,
            "zoo": self.zoo.digest if self.zoo else "",
            "seed": self.evaluation.seed,
            "tolerances_mm": list(self.evaluation.tolerances_mm),
            "empty_policy": self.evaluation.empty_policy,
            "metrics_version": METRICS_VERSION,
            "lesion_rule": DEFAULT_RULE.name,
            "contamination": self._contamination(),
            "knows": self._knows(),
            "predictions": self._below_out(self.evaluation.predictions),
            "log": self._below_out(self.log),
        }

    def _below_out(self, path: Path | None) -> str:
        """A path from the output folder on, which may be moved; empty for none."""
        out = self.folder.parents[3]  # records/<suite>/<dataset>/<unit> lies in it
        return "" if path is None else os.path.relpath(path, out)

    def _particulars(self) -> dict[str, Any]:
        """What is said of some units only."""
        found: dict[str, Any] = {}
        if self.rehearsal:
            found["rehearsal"] = True
        external = self.dataset.external
        if external is not None:
            learned = len(external.training.split_cases("train", external.fold))
            found["external"] = {
                "tested": external.tested,
                "trained_on": external.training.name,
                "fold": external.fold,
                "training_cases": learned,
                "synthetic_training": external.training.synthetic,
            }
        if self.dataset.split_source:
            found["split_source"] = self.dataset.split_source
        return found

    def _training_cases(self) -> list[str]:
        """What a training learns from; with the dataset before it where there are several."""
        parts = self.job.parts if self.job else ()
        if len(parts) == 1:
            return [case.case_id for case in parts[0][1]]
        return list(dict.fromkeys(f"{case.dataset}/{case.case_id}" for _, cases in parts for case in cases))

    def _knows(self) -> list[str]:
        """What the method knows of the target before any prompt: see `benchmarks.results.comparability`."""
        trained_here = self.job is not None and not self.job.untrained and len(self.job.parts) == 1
        of_one_target = self.zoo is not None and len(self.zoo.card["datasets"]) == 1
        return [WORDS] * self.method.reads_words + [ITS_TRAINING] * (trained_here or of_one_target)

    def _contamination(self) -> str:
        """What the released weights have seen of the dataset, by the method's card; nobody has seen the phantoms."""
        if self.dataset.synthetic:
            return "unseen"
        seen = self.method.card.training_data
        return seen.get(self.dataset.known_as, seen.get("*", "unknown"))
