"""The one training loop, on Ray Train: the same data, budget and schedule for every method that the bench trains.

With one worker the loop runs in Ray Train's local mode inside the Ray task that asked for it (starting a worker
group costs some twenty seconds of processes that a single worker does not need); with two or more it is a worker
group with DistributedDataParallel. The loop itself is the same function.

Every crop, flip and click follows from (seed, step, rank), so a run that was cut off goes on exactly where its
last saved state was.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common.errors import UserError
from benchmarks.common.files import in_turn, safe_name, write_json
from benchmarks.common.identity import digest, fingerprint_config
from benchmarks.common.seeds import derive_seed, generator
from benchmarks.contestants import Batch, Budget, Method, OwnTraining, Target, Trainable, TrainingRecipe
from benchmarks.contestants import method as find_method
from benchmarks.data.cache import Cache, default_cache
from benchmarks.data.dataset import Case, fingerprint_cases
from benchmarks.prompting.prompts import PromptKind

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

STATE_EVERY_SECONDS = 300.0
LOG_POINTS = 20  # entries of the loss curve


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
        return digest(
            {
                "method": self.method,
                "version": method.version,
                "config": fingerprint_config(config, method.file_settings),
                "target": asdict(self.target),
                "cases": fingerprint_cases(self.cases),
                "budget": budget,
                "seed": self.seed,
                "workers": self.workers,
            }
        )


def checkpoint_folder(root: Path, job: TrainingJob) -> Path:
    """Where the checkpoint of a job belongs."""
    dataset = job.cases[0].dataset if job.cases else "none"
    return root / f"{safe_name(f'{job.method}-{dataset}')}-{job.digest()}"


def finished(folder: Path) -> bool:
    """Whether a checkpoint folder holds a completed training."""
    return (folder / "training.json").is_file()


def run_job(job: TrainingJob, folder: Path, log: Path | None = None, cache: Path | None = None) -> dict[str, Any]:
    """Train, and leave the checkpoint with its `training.json` in `folder`; the figures are returned.

    Args:
        log: file for the output of Ray Train workers.
        cache: folder of the preprocessing cache, absolute; by default the user's own.

    Raises:
        UserError: no training case, or a method that does not train.
    """
    with in_turn(folder.with_name(f".{folder.name}.lock")):  # an equal job waits, and finds the checkpoint
        return _run_job(job, folder, log, cache)


def _run_job(job: TrainingJob, folder: Path, log: Path | None, cache: Path | None) -> dict[str, Any]:
    if finished(folder):
        return dict(json.loads((folder / "training.json").read_text(encoding="utf-8")))
    if not job.cases:
        raise UserError(f"method '{job.method}' has to be trained, and the training split is empty")
    method = find_method(job.method)
    work = folder.with_name(f".{folder.name}.partial")
    work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    if method.training == "bench":
        figures = _train_on_ray(job, work, log, cache)
    elif method.training == "own":
        figures = _train_by_own_tool(method, job, work)
    else:
        raise UserError(f"method '{method.name}' does not train")
    shutil.rmtree(work / "state", ignore_errors=True)
    figures |= {
        "method": job.method,
        "config": method.training_config(job.config),
        "dataset": job.cases[0].dataset,
        "target": job.target.name,
        "cases": len(job.cases),
        "budget": asdict(job.budget),
        "seed": job.seed,
        "workers": job.workers,
        "seconds_total": time.perf_counter() - started,
    }
    write_json(work / "training.json", figures)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(work, folder)
    return figures


def _train_by_own_tool(method: Method, job: TrainingJob, work: Path) -> dict[str, Any]:
    segmenter = method.build(job.config, device_for(job.budget))
    if not isinstance(segmenter, OwnTraining):
        raise TypeError(f"method '{method.name}' announces its own training and has no `fit`")
    fitted = work / "checkpoint"
    shutil.rmtree(fitted, ignore_errors=True)
    fitted.mkdir()
    return dict(segmenter.fit(job.cases, job.target, job.budget, fitted, job.seed))


def _train_on_ray(job: TrainingJob, work: Path, log: Path | None, cache: Path | None) -> dict[str, Any]:
    from ray import tune

    in_sweep = _in_sweep()
    if in_sweep and job.workers == 1:  # the trial's own process is the worker; Train's local mode refuses a trial
        _Loop(job, work, cache, rank=0, world_size=1).run(report=tune.report)
        return _loop_figures(work)

    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    distributed = job.workers > 1
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job, "folder": work, "log": log, "cache": cache},
        scaling_config=ScalingConfig(
            num_workers=job.workers if distributed else 0,
            use_gpu=job.budget.gpus > 0,
            resources_per_worker={
                "CPU": job.budget.cpus,
                **({"GPU": job.budget.gpus} if job.budget.gpus else {}),
            },
        ),
        run_config=RunConfig(
            name=f"{job.method}-{job.digest()}",
            storage_path=str(work.resolve() / "ray"),
            failure_config=FailureConfig(max_failures=1 if distributed else 0),
            callbacks=[TuneReportCallback()] if in_sweep else [],
        ),
    )
    trainer.fit()
    shutil.rmtree(work / "ray", ignore_errors=True)
    return _loop_figures(work)


def _loop_figures(work: Path) -> dict[str, Any]:
    """What rank 0 left for the process that started the loop."""
    path = work / "loop.json"
    figures = dict(json.loads(path.read_text(encoding="utf-8")))
    path.unlink()
    return figures


def _in_sweep() -> bool:
    """Whether this process is a trial of Ray Tune."""
    from ray import tune

    context = tune.get_context()
    return context is not None and context.get_trial_id() is not None


def train_loop(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    import ray.train

    if config["log"]:
        redirect_output(config["log"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    _Loop(config["job"], config["folder"], config["cache"], rank, world_size).run(report=ray.train.report)


class _Loop:
    """The state of one worker's training."""

    def __init__(self, job: TrainingJob, folder: Path, cache: Path | None, rank: int, world_size: int) -> None:
        import torch

        self.cache = default_cache(cache)
        self.job, self.folder, self.rank, self.world_size = job, folder, rank, world_size
        torch.set_num_threads(max(1, job.budget.cpus))
        torch.manual_seed(derive_seed(job.seed, "initialisation"))
        self.device = device_for(job.budget)
        segmenter = find_method(job.method).build(job.config, self.device)
        if not isinstance(segmenter, Trainable):
            raise TypeError(f"method '{job.method}' announces training by the bench and is no Trainable")
        self.segmenter = segmenter
        self.recipe = segmenter.recipe(job.target)
        self.network = _distributed(segmenter, world_size)
        self.parameters = segmenter.trainable_parameters()
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay, fused=True
        )
        self.step, self.elapsed = 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.validations: list[dict[str, float]] = []

    def run(self, report: Callable[[dict[str, Any]], None]) -> None:
        """Steps until the budget is spent, then the checkpoint."""
        self._resume()
        data = CropSource(self.job.cases, self.job.target, self.recipe, self.job.seed, self.rank, self.cache)
        self.segmenter.module.train()
        saved_at = started = time.perf_counter()
        earlier = self.elapsed
        progress = self._progress()
        while progress < 1.0:
            losses = self._one_step(data, progress)
            self.step += 1
            self.elapsed = earlier + time.perf_counter() - started
            progress = self._progress()
            self._note(losses, progress)
            if any(not np.isfinite(value) for value in losses.values()):
                raise FloatingPointError(f"the loss of '{self.job.method}' is not finite at step {self.step}")
            while progress < 1.0 and self._validation_is_due(progress):
                paused = time.perf_counter()
                report(self._validate())
                started += time.perf_counter() - paused  # validation is not charged to the budget
            if time.perf_counter() - saved_at > STATE_EVERY_SECONDS:
                self._save_state()
                saved_at = time.perf_counter()
        if self._validation_is_due(1.0):
            self._validate()  # not reported here: a sweep reports it once the checkpoint is in place
        if self.rank == 0:
            self._finish()

    def _validation_is_due(self, progress: float) -> bool:
        done, planned = len(self.validations), self.job.validate_at
        return done < len(planned) and progress >= planned[done]

    def _progress(self) -> float:
        """Share of the budget that is spent, the same number on every worker."""
        import torch

        budget, shares = self.job.budget, [0.0]
        if budget.steps is None and budget.minutes is None:
            raise UserError("a training budget needs minutes, steps, or both")
        if budget.steps is not None:
            shares.append(self.step / budget.steps)
        if budget.minutes is not None:
            shares.append(self.elapsed / (60.0 * budget.minutes))
        share = torch.tensor([max(shares)], dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            torch.distributed.broadcast(share, 0)
        return float(share)

    def _one_step(self, data: CropSource, progress: float) -> dict[str, float]:
        import torch

        for group in self.optimiser.param_groups:
            group["lr"] = _learning_rate(self.recipe, progress)
        batch = data.batch(self.step, progress, self.device)
        with _autocast(self.device, self.recipe.mixed_precision):
            loss, parts = self.network(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.gradient_clip)
        self.optimiser.step()
        return {"loss": float(loss.detach()), **parts}

    def _note(self, losses: dict[str, float], progress: float) -> None:
        if progress >= len(self.curve) / LOG_POINTS:
            self.curve.append({"step": self.step, "progress": progress, "seconds": self.elapsed, **losses})
            logger.info("step %d, %.0f s: %s", self.step, self.elapsed, losses)

    def _validate(self) -> dict[str, Any]:
        """Mean Dice on the validation cases after one centre click, or without a prompt where a method takes none.

        Every worker must come here equally often.
        """
        import torch

        self.segmenter.module.eval()
        with torch.no_grad():
            dice = [self._validation_dice(case) for case in self.job.validation[self.rank :: self.world_size]]
        self.segmenter.module.train()
        total = torch.tensor([sum(dice), len(dice)], dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        value = float(total[0] / total[1].clamp(min=1))
        self.validations.append({"step": self.step, "seconds": self.elapsed, "validation_dice": value})
        return {**self.validations[-1], "rung": len(self.validations), "loss": self.curve[-1]["loss"]}

    def _validation_dice(self, case: Case) -> float:
        from benchmarks.execution.evaluate import Evaluation, evaluate_case
        from benchmarks.metrics import DEFAULT_POLICY
        from benchmarks.prompting.protocol import Protocol

        takes_clicks = PromptKind.CLICK in self.segmenter.prompts
        asked = Evaluation(
            (self.job.target,),
            (Protocol("centre-click" if takes_clicks else "none"),),
            self.job.seed,
            (),
            DEFAULT_POLICY.policy_id,
            None,
            {},
        )
        return float(evaluate_case(case, self.segmenter, asked)[0]["dice"])

    def _finish(self) -> None:
        checkpoint = self.folder / "checkpoint"
        shutil.rmtree(checkpoint, ignore_errors=True)
        checkpoint.mkdir(parents=True)
        self.segmenter.module.eval()
        self.segmenter.save(checkpoint)
        total = sum(parameter.numel() for parameter in self.segmenter.module.parameters())
        figures = {
            "steps": self.step,
            "seconds_training": self.elapsed,
            "loss": self.curve[-1]["loss"],
            "curve": self.curve,
            "validations": self.validations,
            "parameters": total,
            "parameters_trained": sum(parameter.numel() for parameter in self.parameters),
            "device": self.device,
        }
        write_json(self.folder / "loop.json", figures)

    def _save_state(self) -> None:
        """What is needed to go on after a crash; whole or not at all."""
        import torch

        if self.rank != 0:
            return
        fresh = self.folder / "state.new"
        shutil.rmtree(fresh, ignore_errors=True)
        (fresh / "checkpoint").mkdir(parents=True)
        self.segmenter.save(fresh / "checkpoint")
        torch.save(self.optimiser.state_dict(), fresh / "optimiser.pt")
        place = {
            "step": self.step,
            "elapsed": self.elapsed,
            "curve": self.curve,
            "validations": self.validations,
            "world_size": self.world_size,
        }
        write_json(fresh / "place.json", place)
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        os.replace(fresh, self.folder / "state")

    def _resume(self) -> None:
        import torch

        state = self.folder / "state"
        if not (state / "place.json").is_file():
            return
        place = json.loads((state / "place.json").read_text(encoding="utf-8"))
        if place["world_size"] != self.world_size:
            return
        self.segmenter.load(state / "checkpoint")
        self.optimiser.load_state_dict(torch.load(state / "optimiser.pt", map_location=self.device, weights_only=True))
        self.step, self.elapsed = place["step"], place["elapsed"]
        self.curve, self.validations = place["curve"], place["validations"]
        logger.info("going on from step %d", self.step)


class CropSource:
    """Training crops, each a function of (seed, step, rank, place in the batch).

    Prepared cases lie in the cache on disk and are mapped into memory; a crop touches its own pages only.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        target: Target,
        recipe: TrainingRecipe,
        seed: int,
        rank: int = 0,
        cache: Cache | None = None,
    ) -> None:
        self.cases, self.target, self.recipe, self.seed, self.rank = tuple(cases), target, recipe, seed, rank
        cache = cache or default_cache()
        self._volumes = [cache.prepared(case, recipe.preprocessing) for case in self.cases]
        self._masks = [volume.label_mask(target) for volume in self._volumes]

    def batch(self, step: int, progress: float, device: str) -> Batch:
        """The crops of one step, augmented as the recipe says; see `Augmentation`."""
        import torch

        size = self.recipe.batch_size
        crops = [self._crop(generator(self.seed, "crop", step, self.rank, place)) for place in range(size)]
        torch_generator = torch.Generator(device="cpu")
        torch_generator.manual_seed(derive_seed(self.seed, "prompts", step, self.rank))
        image = torch.from_numpy(np.stack([image for image, _ in crops])[:, None]).to(device, torch.float32)
        label = torch.from_numpy(np.stack([label for _, label in crops])[:, None]).to(device, torch.float32)
        return Batch(image, label, [self.target] * size, torch_generator, progress)

    def _crop(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chosen = random.integers(len(self._volumes))
        volume, mask = self._volumes[chosen], self._masks[chosen]
        patch, shape, foreground = self.recipe.patch, np.array(volume.shape), mask.foreground
        if len(foreground) and random.random() < self.recipe.foreground:
            centre = foreground[random.integers(len(foreground))].astype(float)
        else:
            half = np.array(patch) / 2
            low, high = np.minimum(half, shape / 2), np.maximum(half, shape - half)
            centre = random.uniform(low, np.maximum(high, low))
        image, _ = volume.crop(centre, patch)
        label, _ = mask.crop(centre, patch)
        how = self.recipe.augmentation
        axes = tuple(axis for axis, chance in enumerate(how.flips) if random.random() < chance)
        image, label = np.flip(image, axes), np.flip(label, axes)
        scale = 1 + random.uniform(-how.intensity_scale, how.intensity_scale)
        shift = random.uniform(-how.intensity_shift, how.intensity_shift)
        return np.ascontiguousarray(image * scale + shift, np.float32), np.ascontiguousarray(label)


def _learning_rate(recipe: TrainingRecipe, progress: float) -> float:
    """Linear rise over the warm-up, then linear fall to the final rate at the end of the budget."""
    if progress < recipe.warm_up:
        return recipe.learning_rate * max(progress, 1e-3) / recipe.warm_up
    left = (1.0 - min(progress, 1.0)) / (1.0 - recipe.warm_up)
    return recipe.final_learning_rate + (recipe.learning_rate - recipe.final_learning_rate) * left


def _distributed(segmenter: Trainable, world_size: int) -> Callable[[Batch], tuple[torch.Tensor, dict[str, float]]]:
    """The loss as a callable whose gradients are averaged over the workers."""
    if world_size == 1:
        return segmenter.loss
    import torch
    from ray.train.torch import prepare_model

    class LossModule(torch.nn.Module):
        """Gives DistributedDataParallel a forward that is the method's loss."""

        def __init__(self) -> None:
            super().__init__()
            self.module = segmenter.module

        def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
            return segmenter.loss(batch)

    # Prompt dropout leaves parameters without a gradient in some steps.
    return prepare_model(LossModule(), parallel_strategy_kwargs={"find_unused_parameters": True})


def _autocast(device: str, wanted: bool) -> AbstractContextManager[Any]:
    """bf16 on GPU; on CPU float32, where bf16 pays only with AMX and the method may use it by itself."""
    import torch

    if wanted and device.startswith("cuda"):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def device_for(budget: Budget) -> str:
    """ "cuda" if the budget has a GPU and there is one, otherwise "cpu"."""
    if budget.gpus <= 0:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise UserError("the budget asks for a GPU and none is visible; set `gpus: 0` or use --gpus 0")
    return "cuda"


def redirect_output(log: Path) -> None:
    """Send this process's output, that of its libraries included, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.close(stream)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)


def load_trained(method: Method, config: dict[str, Any], device: str, folder: Path | None) -> Any:
    """A segmenter of the method with the checkpoint of a finished job in it."""
    segmenter = method.build(config, device)
    if folder is not None:
        if not isinstance(segmenter, (Trainable, OwnTraining)):
            raise TypeError(f"method '{method.name}' cannot load a checkpoint")
        segmenter.load(folder / "checkpoint")
    if isinstance(segmenter, Trainable):
        segmenter.module.eval()
    return segmenter
