"""nnU-Net v2 behind the bench's interface: training in a process of its own, prediction in this one."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import baselines
from baselines.nnunet.plans import AUGMENTERS, CASCADE, CONFIGURATIONS, FIRST_STAGE, PLANNERS, augmenters
from baselines.nnunet.prediction import load_predictor, predict, read_json
from baselines.nnunet.raw_data import write_raw_dataset
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.contestants import Budget, OwnTraining, Session, Target
from benchmarks.data.dataset import Case
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.prompting.prompts import PromptKind, Prompts

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

logger = logging.getLogger(__name__)

MODEL = "model.json"
LOG = "train.log"
STATES = "states"  # of a training that goes on, a file for each network; gone once it is finished
STATE_EVERY_SECONDS = 300.0
MOST_FOLDS = 20


class TrainingFailed(RuntimeError):
    """The training process ended with an error; the message holds its last line and where the log lies."""


@dataclass(frozen=True)
class Settings:
    """The method's configuration.

    Attributes:
        plans: "default" (nnU-Net's default planner), "resenc-m", "resenc-l" or "resenc-xl" (its presets with residual
            encoders, planned for about 8, 24 and 40 GB of GPU memory), "small" (shrunk for a CPU).
        configuration: "3d_fullres", or "3d_lowres" or "3d_cascade_fullres", which nnU-Net plans for large images only.
            The cascade is both: full resolution that sees what low resolution has segmented.
        folds: how many networks; 1 learns from all training cases, more are nnU-Net's cross-validation over them, whose
            predictions are averaged. A cascade has so many in each stage, two or more. The budget is shared by all.
        mirroring: test-time mirroring; "auto" means not with small plans (it costs eight passes).
        tile_step_size: of the sliding window, in patches.
        keep_workdir: keep raw and preprocessed copies of the training cases beside the model.
    """

    plans: Literal["default", "resenc-m", "resenc-l", "resenc-xl", "small"]
    configuration: Literal["3d_fullres", "3d_lowres", "3d_cascade_fullres"]
    folds: int
    mirroring: bool | Literal["auto"]
    tile_step_size: float
    keep_workdir: bool

    def __post_init__(self) -> None:
        if self.plans not in PLANNERS:
            raise UserError(f"nnunet: no plans '{self.plans}'; {nearest_name(str(self.plans), PLANNERS)}")
        if self.configuration not in CONFIGURATIONS:
            raise UserError(f"nnunet: configuration must be {' or '.join(CONFIGURATIONS)}, not '{self.configuration}'")
        if self.plans == "small" and self.configuration == FIRST_STAGE:
            raise UserError("nnunet: small plans have no 3d_lowres by itself, only 3d_fullres and 3d_cascade_fullres")
        if isinstance(self.folds, bool) or not isinstance(self.folds, int) or not 1 <= self.folds <= MOST_FOLDS:
            raise UserError(f"nnunet: folds must be a whole number from 1 to {MOST_FOLDS}, not {self.folds}")
        if self.configuration == CASCADE and self.folds < 2:
            raise UserError(
                "nnunet: 3d_cascade_fullres needs folds: 2 or more (its authors: 5): the second stage learns from what "
                "networks of the first have segmented on cases that they did not learn from"
            )
        if self.mirroring not in (True, False, "auto"):
            raise UserError(f"nnunet: mirroring must be auto, true or false, not '{self.mirroring}'")
        if not 0 < self.tile_step_size <= 1:
            raise UserError(f"nnunet: tile_step_size must lie in (0, 1], not {self.tile_step_size}")


def build_tumour_only(config: Mapping[str, Any], device: str) -> NnUNet:
    """The factory of `nnunet`."""
    return NnUNet(Settings(**config), device, with_organ=False)


def build_with_organ(config: Mapping[str, Any], device: str) -> NnUNet:
    """The factory of `nnunet-organ`."""
    return NnUNet(Settings(**config), device, with_organ=True)


class NnUNet(OwnTraining):
    """nnU-Net, one 3D configuration or the cascade of two, one network or folds; automatic: it takes no prompt."""

    resumes = True

    def __init__(self, settings: Settings, device: str, with_organ: bool) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.with_organ = with_organ
        self.stages: tuple[nnUNetPredictor, ...] = ()
        self.lesion = 0

    def fit(self, cases: Sequence[Case], target: Target, budget: Budget, folder: Path, seed: int) -> dict[str, Any]:
        """Plan and train on the cases in a subprocess; the model is left in `folder`, its log in train.log.

        `budget.minutes` is the wall-clock of the training iterations of all folds; planning and preprocessing come on
        top and are reported. A budget of neither minutes nor steps means nnU-Net's own 250 000 steps for each fold.
        Networks go on from the states that a training which was cut off has left; the cases are prepared again.

        Raises:
            UserError: no cases, fewer than folds, no lesion, or no organ label for `nnunet-organ`.
            TrainingFailed: the subprocess ended with an error.
        """
        started = time.monotonic()
        folder = folder.resolve()
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)  # of one that was cut off; what else it left is written anew
        (folder / STATES).mkdir(exist_ok=True)
        if self.device.type == "cpu" and self.settings.plans != "small":
            logger.warning(
                "nnU-Net's own plans on a CPU: a step takes seconds to minutes; 'nnunet-small' is made for it"
            )
        self._say_augmentation(budget)
        if len(cases) < self.settings.folds:
            raise UserError(f"nnunet: {self.settings.folds} folds of {len(cases)} training cases")
        try:
            _, names = write_raw_dataset(cases, target, self.with_organ, work / "raw")
            cpus = max(1, budget.cpus)
            job = {
                "folder": str(folder),
                "states": str(folder / STATES),
                "state_every": STATE_EVERY_SECONDS,
                "names": list(names),
                "plans": self.settings.plans,
                "configuration": self.settings.configuration,
                "folds": self.settings.folds,
                "minutes": budget.minutes,
                "steps": budget.steps,
                "cpus": cpus,
                "gpus": max(1, int(budget.gpus)) if self.device.type == "cuda" else 0,
                "device": self.device.type,
                "seed": seed,
            }
            (work / "job.json").write_text(json.dumps(job))
            run_training_process(work, folder / LOG, cpus, self.device)
        finally:
            if not self.settings.keep_workdir:
                shutil.rmtree(work, ignore_errors=True)
        figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
        model = {
            "method": "nnunet-organ" if self.with_organ else "nnunet",
            "target": target.name,
            "plans": self.settings.plans,
            "configuration": self.settings.configuration,
            "folds": self.settings.folds,
            "cases": names,
        }
        (folder / MODEL).write_text(json.dumps(model, indent=1))
        self.load(folder)
        shutil.rmtree(folder / STATES)
        return {**figures, "plans": model["plans"], "seconds_total": round(time.monotonic() - started, 2)}

    def _say_augmentation(self, budget: Budget) -> None:
        """Where a GPU will wait for its batches: a word to whoever runs the bench, not only in the training's log."""
        if self.device.type != "cuda" or self.settings.plans == "small":
            return
        each = augmenters("cuda", max(1, budget.cpus), max(1, int(budget.gpus)))
        if each < AUGMENTERS:
            logger.warning(
                "nnU-Net: %d processes will augment for a GPU; its authors use %d or more. The GPU may wait for them, "
                "and a budget in minutes is then fewer steps: give the workers more processors (--cpus)",
                each,
                AUGMENTERS,
            )

    def load(self, folder: Path) -> None:
        """Build the predictors from plans and weights; nothing is unpickled but tensors and plain types."""
        model = read_json(folder / MODEL)
        method = "nnunet-organ" if self.with_organ else "nnunet"
        if model.get("method") != method:
            raise UserError(f"{folder}: this is a model of '{model.get('method')}', expected '{method}'")
        mirroring = self.settings.mirroring
        mirrored = model["plans"] != "small" if mirroring == "auto" else bool(mirroring)
        stages = [folder / FIRST_STAGE, folder] if model.get("configuration") == CASCADE else [folder]
        self.stages = tuple(
            load_predictor(stage, self.device, self.settings.tile_step_size, mirrored, int(model.get("folds", 1)))
            for stage in stages
        )
        self.lesion = int(self.stages[-1].dataset_json["labels"]["lesion"])

    def open(self, volume: Volume, target: Target) -> NnUNetSession:
        """A session that predicts when it is first asked."""
        if not self.stages:
            raise UserError("nnunet: no model yet; train it on the training split first")
        return NnUNetSession(self.stages, volume, self.lesion)


class NnUNetSession(Session):
    """One volume; the prediction does not depend on prompts, so it is made once."""

    def __init__(self, stages: Sequence[nnUNetPredictor], volume: Volume, lesion: int) -> None:
        self.stages = stages
        self.volume = volume
        self.lesion = lesion
        self._prediction: BoolArray | None = None

    def segment(self, prompts: Prompts) -> BoolArray:
        """The lesion mask; a copy, so that the caller may write into it."""
        if prompts.kinds != {PromptKind.NONE}:
            raise UserError("nnunet: is automatic and takes no prompt")
        if self._prediction is None:
            self._prediction = predict(self.stages, self.volume, self.lesion)
        return self._prediction.copy()


def run_training_process(work: Path, log: Path, cpus: int, device: torch.device) -> None:
    """Run `train_process` on work/job.json with its output at the end of `log`, and wait for it.

    Raises:
        TrainingFailed: it ended with an error.
    """
    environment = {
        **os.environ,
        **{f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")},
        "nnUNet_def_n_proc": str(cpus),
        "nnUNet_n_proc_DA": "1",
        "OMP_NUM_THREADS": str(cpus),
        "MKL_NUM_THREADS": str(cpus),
        "BLOSC_NTHREADS": str(cpus),
        "PYTHONPATH": os.pathsep.join(
            [str(Path(baselines.__path__[0]).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "PYTHONUNBUFFERED": "1",
    }
    if device.type == "cpu":
        environment["nnUNet_compile"] = "f"
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "baselines.nnunet.train_process", str(work / "job.json")]
    with log.open("ab") as output:
        # The child reads its standard input and ends when this end closes, so that it dies with this process.
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
    if code != 0:
        raise TrainingFailed(f"nnU-Net's training ended with exit code {code}: {last_line(log)} (log: {log})")


def last_line(log: Path) -> str:
    """The last line of a log that is not blank."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
