"""One training: everything that its result depends on, and the folder that its checkpoint belongs in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.common.files import safe_name
from benchmarks.common.identity import digest, digest_of_folder, fingerprint_config
from benchmarks.contestants import Budget, Environment, Target
from benchmarks.contestants import method as find_method
from benchmarks.data.dataset import Case, fingerprint_cases
from benchmarks.execution.training_storage import TrainingStorage

TIMEOUT_MINUTES = 30.0


@dataclass(frozen=True)
class TrainingJob:
    """One training: everything that its result depends on.

    Attributes:
        method, config: the name and the settings laid over its defaults.
        cases: the training cases.
        validation: cases for `validate_at`; never used to fit.
        budget: see `Budget`; the minutes are those of the loop itself.
        workers: Ray Train workers; each draws its own crops, so the batch grows with them.
        validate_at: shares of the budget at which the validation Dice of one centre click is reported.
        keep_best: the checkpoint is that of the best validation instead of the last step.
        untrained: keep the weights to begin with; the budget is not touched.
        environment: where its processes run, if not in the bench's own environment.
        further: more targets, each with its training cases, on which the same weights are trained in turn.
        start: folder of a finished training whose weights this one begins with.
        storage: place for its states and its checkpoint beside the output folder; see `TrainingStorage`.
        files: the weights files that the configuration names and the driver has; no part of its identity.
        timeout_minutes: without a sign of life for so long the training is ended; see `TrainingWatch`.
    """

    method: str
    config: dict[str, Any]
    target: Target
    cases: tuple[Case, ...]
    budget: Budget
    seed: int
    workers: int = 1
    validation: tuple[Case, ...] = ()
    validate_at: tuple[float, ...] = ()
    keep_best: bool = False
    untrained: bool = False
    timeout_minutes: float = TIMEOUT_MINUTES
    environment: Environment | None = None
    further: tuple[tuple[Target, tuple[Case, ...]], ...] = ()
    start: Path | None = None
    storage: str = ""
    files: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[tuple[Target, tuple[Case, ...]], ...]:
        """Every target with its training cases."""
        return ((self.target, self.cases), *self.further)

    def digest(self) -> str:
        """The identity of the checkpoint that comes of this job.

        Settings that act at inference only are no part of it, except where the job validates: its figures depend on
        them.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:  # once: it reads every training file
        method = find_method(self.method)
        config = method.configured(self.config) if self.validate_at else method.training_config(self.config)
        budget = asdict(self.budget)
        if self.budget.minutes is None:
            del budget["cpus"]  # more of them are only faster
        identity = {
            "method": self.method,
            "version": method.version if self.validate_at else method.training_version,
            "config": fingerprint_config(method.identifying(config), method.file_settings),
            "target": asdict(self.target),
            "cases": fingerprint_cases(self.cases),
            "budget": budget,
            "seed": self.seed,
            "workers": self.workers,
        }
        if self.workers > 1:
            identity["crops"] = "joined order"
        if self.keep_best:
            identity["keep_best"] = [list(self.validate_at), fingerprint_cases(self.validation)]
        elif self.validate_at:  # what a sweep decides by
            identity["validation"] = fingerprint_cases(self.validation)
        if self.untrained:
            # Released weights want scans as without a training, which an earlier version did not say in the checkpoint
            identity["untrained"] = "as released" if self.config.get("checkpoint") else True
        if self.environment is not None and self.environment.identity:
            identity["environment"] = self.environment.identity
        if self.further:
            identity["further"] = [[asdict(target), fingerprint_cases(cases)] for target, cases in self.further]
        if self.start is not None:
            identity["start"] = digest_of_folder(self.start / "checkpoint")
        return digest(identity)


def checkpoint_folder(root: Path, job: TrainingJob) -> Path:
    """Where the checkpoint of a job belongs."""
    dataset = "-".join(dict.fromkeys(case.dataset for _, cases in job.parts for case in cases[:1])) or "none"
    return root / f"{safe_name(f'{job.method}-{dataset}')}-{job.digest()}"


def storage_of(job: TrainingJob) -> TrainingStorage | None:
    """Where its states and its checkpoint are kept beside the output folder, if anywhere."""
    return TrainingStorage(job.storage, checkpoint_folder(Path(), job).name) if job.storage else None


def finished(folder: Path) -> bool:
    """Whether a checkpoint folder holds a completed training."""
    return (folder / "training.json").is_file()
