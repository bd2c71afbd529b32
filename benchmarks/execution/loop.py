"""The training loop of one worker: the same data, budget and schedule for every method that the bench trains.

Every crop, flip and click follows from (seed, step, place), and so does the state of torch's own generator, so a run
that was cut off goes on exactly where its last kept state was.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.errors import FAULTS_OF_READING, UserError, machine_faults
from benchmarks.common.files import write_json
from benchmarks.common.processor_queue import seconds_queued
from benchmarks.common.seeds import derive_seed
from benchmarks.contestants import Batch, Trainable
from benchmarks.contestants import method as find_method
from benchmarks.contestants.precision import half_precision
from benchmarks.data.cache import default_cache
from benchmarks.data.dataset import Case
from benchmarks.execution.crops import Ahead, CropSource, JointCrops, WorkerPlace, on_device, pinned
from benchmarks.execution.loss_network import LossNetwork
from benchmarks.execution.optimisation import Optimisation
from benchmarks.execution.state import digest_of, load_state, save_state, tensors_in
from benchmarks.execution.training_job import TrainingJob, storage_of
from benchmarks.execution.training_storage import BEST, STATE, TrainingStorage
from benchmarks.execution.training_watch import CURVE, Heartbeat
from benchmarks.execution.worker_group import WorkerGroup
from benchmarks.prompting.prompts import PromptKind

logger = logging.getLogger(__name__)

STATE_EVERY_SECONDS = 300.0
LOG_POINTS = 20  # entries of the loss curve
LOOK_EVERY_STEPS = 10  # between looks at how many steps were skipped, each of which waits for the device
SKIPS_IN_A_ROW = 10  # steps without a finite loss after which the weights are taken to be bad

Report = Callable[[dict[str, Any]], None]


class TrainingLoop:
    """One worker's training.

    Args:
        folder: for the state, the checkpoint and the figures; only that of worker 0 is used.
        cache: folder of the preprocessing cache; by default the user's own.
        device: "cpu" or "cuda".
        rank, world_size: of this worker among all; with more than one, torch.distributed has to be up.
    """

    def __init__(
        self, job: TrainingJob, folder: Path, cache: Path | None, device: str, rank: int = 0, world_size: int = 1
    ) -> None:
        budget = job.budget
        if budget.steps is None and budget.minutes is None:
            raise UserError("a training budget needs minutes, steps, or both")
        self.job, self.folder, self.device = job, folder, device
        self.cache = default_cache(cache)
        self.group = WorkerGroup(rank, world_size)
        torch.set_num_threads(max(1, budget.cpus))
        torch.manual_seed(derive_seed(job.seed, "initialisation"))
        segmenter = find_method(job.method).build(job.config, device)
        if not isinstance(segmenter, Trainable):
            raise TypeError(f"method '{job.method}' announces training by the bench and is no Trainable")
        self.segmenter = segmenter
        if job.start is not None:  # with the plan that these weights were trained by
            segmenter.load(job.start / "checkpoint")
        elif job.cases:
            segmenter.plan(job.parts)
        self.recipe = segmenter.recipe(job.target)
        if self.recipe.compile:  # in place: names and values of the weights stay
            segmenter.module.compile(backend=self.recipe.compile)
        self.network = LossNetwork(segmenter, world_size)
        self.optimisation = Optimisation(
            segmenter.trainable_parameters(),
            self.recipe,
            device,
            half_precision(device, self.recipe.mixed_precision, self.recipe.float16),
        )
        self.step, self.went_back_to = 0, -1
        self.clock = _Clock()
        self.waited = 0.0
        self.curve: list[dict[str, float]] = []
        self.validations: list[dict[str, float]] = []
        self.heart = Heartbeat(folder)
        self.storage = storage_of(job)
        self._kept_step, self._kept_at = -1, time.monotonic()

    @property
    def is_first(self) -> bool:
        """Whether this is worker 0, which alone writes."""
        return self.group.rank == 0

    def run(self, report: Report = lambda figures: None) -> None:
        """Steps until the budget is spent (none for an untrained job), then the checkpoint and `loop.json`.

        Raises:
            FloatingPointError: too many steps in a row without a finite loss, going back to a good state included.
        """
        self._beat("preparing", now=True)
        if self.job.untrained:
            if self.is_first:
                self._finish()
            return
        source = self._crops()
        self._resume()
        self.segmenter.trained_here = True
        self.segmenter.module.train()
        pin = pinned if self.device.startswith("cuda") else lambda batch: batch
        with Ahead(lambda step: [pin(batch) for batch in source.step(step)], first=self.step) as crops:
            self.clock.start()
            if self.step == 0:
                self._keep_state()
            progress = self._progress()
            while progress < 1.0:
                losses = self._take_step(crops, progress)
                progress = self._progress()
                self._look_after(losses, progress)
                while progress < 1.0 and self._validation_is_due(progress):
                    with self.clock.stopped():
                        report(self._validate())
                    self._keep_state()
                if time.monotonic() - self._kept_at > STATE_EVERY_SECONDS:
                    self._keep_state()
            self._require_some_steps()
            self.clock.stop()
        while self._validation_is_due(1.0):  # the last step may pass several shares of the budget, as any other
            self._validate()  # not reported here: a sweep reports it once the checkpoint is in place
        self._require_equal("the trained weights")
        if self.is_first:
            self._finish()

    def _crops(self) -> CropSource:
        """The crops of the job's target, or of all its targets in turn."""
        place = WorkerPlace(self.group.rank, self.group.world_size)
        with machine_faults(FAULTS_OF_READING):
            sources = [
                CropSource(
                    cases, target, self.segmenter.recipe(target), self.job.seed,
                    worker=place, cache=self.cache, prepared=lambda: self._beat("preparing"),
                )
                for target, cases in self.job.parts
            ]  # fmt: skip
        return sources[0] if len(sources) == 1 else JointCrops(sources)

    def _progress(self) -> float:
        """Share of the budget that is spent, the same number on every worker."""
        budget, shares = self.job.budget, [0.0]
        if budget.steps is not None:
            shares.append(self.step / budget.steps)
        if budget.minutes is not None:  # the clock of worker 0 decides
            seconds = self.group.from_first(torch.tensor([self.clock.seconds], dtype=torch.float64))
            shares.append(float(seconds) / (60.0 * budget.minutes))
        return max(shares)

    def _take_step(self, crops: Ahead[list[Batch]], progress: float) -> dict[str, Any]:
        """One optimiser step; its losses stay on the device."""
        torch.manual_seed(derive_seed(self.job.seed, "step", self.step, self.group.rank))
        before = crops.seconds_waited
        batches = crops.take()
        self.waited += crops.seconds_waited - before
        total: Any = 0.0
        parts: Mapping[str, Any] = {}
        for number, batch in enumerate(batches, start=1):
            with self.network.gradients_shared(number == len(batches)):
                with self.optimisation.autocast():
                    loss, parts = self.network(on_device(batch, self.device, progress))
                self.optimisation.backward(loss)
            total = total + loss.detach() / len(batches)
        self.optimisation.step(progress)
        self.step += 1
        return {"loss": total, **parts}

    def _look_after(self, losses: Mapping[str, Any], progress: float) -> None:
        """The log, the sign of life, and whether the training is still sound."""
        if progress >= len(self.curve) / LOG_POINTS:
            self._note(losses, progress)
        facts = {"step": self.step, "progress": progress}
        if self.curve:
            facts["loss"] = self.curve[-1]["loss"]
        self._beat("training", facts)
        if self.step % LOOK_EVERY_STEPS == 0:
            _, in_a_row = self.optimisation.skips()
            if in_a_row >= SKIPS_IN_A_ROW:
                self._go_back(in_a_row)

    def _note(self, losses: Mapping[str, Any], progress: float) -> None:
        """A point of the loss curve; the next step makes it where this one's loss is not finite."""
        values = {name: float(value) for name, value in losses.items()}
        if not all(map(math.isfinite, values.values())):
            logger.warning("step %d is skipped, its loss is not finite: %s", self.step, values)
            return
        skipped, _ = self.optimisation.skips()
        place = {"step": self.step, "progress": progress, "seconds": self.clock.seconds}
        figures = {**self._shares(), "skipped_steps": skipped}
        self.curve.append({**place, **figures, **values})
        if self.is_first:
            with self.clock.stopped():
                write_json(self.folder / CURVE, self.curve)
        logger.info("step %d, %.0f s: %s", self.step, self.clock.seconds, {**figures, **values})

    def _shares(self) -> dict[str, float]:
        """Shares of the training time in which a step waited for its crops, and for a processor that had other work."""
        seconds = max(self.clock.seconds, 1e-9)
        return {"waiting_share": self.waited / seconds, "queued_share": self.clock.queued / seconds}

    def _go_back(self, in_a_row: int) -> None:
        """Take the weights of the last good state, and go on with the crops that come next; once from each state."""
        state = load_state(self._state_file, self.group, self.storage)
        where = f"the loss of '{self.job.method}' is not finite in {in_a_row} steps in a row up to step {self.step}"
        if state is None or int(state["step"]) <= self.went_back_to:
            raise FloatingPointError(f"{where}, also after going back to the weights of step {self.went_back_to}")
        self.went_back_to = int(state["step"])
        logger.warning("%s: going back to the weights of step %d", where, self.went_back_to)
        self._load_weights(state, skipped=self.optimisation.skips()[0])

    def _require_some_steps(self) -> None:
        skipped, _ = self.optimisation.skips()
        if self.step and skipped == self.step:
            raise FloatingPointError(f"the loss of '{self.job.method}' is not finite in any of {self.step} steps")

    def _validation_is_due(self, progress: float) -> bool:
        done, planned = len(self.validations), self.job.validate_at
        return done < len(planned) and progress >= planned[done]

    def _validate(self) -> dict[str, Any]:
        """Mean Dice on the validation cases after one centre click, or without a prompt where a method takes none.

        Cases without the target say nothing and are left out. Every worker must come here equally often.

        Raises:
            UserError: no validation case holds the target.
        """
        cases = self.job.validation[self.group.rank :: self.group.world_size]
        self.segmenter.module.eval()
        with torch.no_grad(), self.optimisation.averaged():
            dice = [value for case in cases if not math.isnan(value := self._validation_dice(case))]
        self.segmenter.module.train()
        total, number = self.group.sum(torch.tensor([sum(dice), len(dice)], dtype=torch.float64)).tolist()
        if not number:
            target, tried = self.job.target.name, len(self.job.validation)
            raise UserError(f"none of the {tried} validation cases holds '{target}': there is nothing to decide by")
        seconds = self.clock.seconds
        best = max((one["validation_dice"] for one in self.validations), default=-1.0)
        self.validations.append({"step": self.step, "seconds": seconds, "validation_dice": total / number})
        if self.job.keep_best and self.is_first and self.validations[-1]["validation_dice"] > best:
            self._save_checkpoint(self.folder / BEST)
            if self.storage is not None:
                self.storage.write_folder(BEST, self.folder / BEST)
        loss = self.curve[-1]["loss"] if self.curve else math.nan
        return {**self.validations[-1], "rung": len(self.validations), "loss": loss}

    def _validation_dice(self, case: Case) -> float:
        from benchmarks.execution.evaluate import Evaluation, evaluate_case
        from benchmarks.metrics import DEFAULT_POLICY
        from benchmarks.prompting.protocol import Protocol

        takes_clicks = PromptKind.CLICK in self.segmenter.prompts
        evaluation = Evaluation(
            (self.job.target,),
            (Protocol("centre-click" if takes_clicks else "none"),),
            self.job.seed,
            (),
            DEFAULT_POLICY.policy_id,
            None,
            {},
        )
        dice = float(evaluate_case(case, self.segmenter, evaluation)[0]["dice"])
        self._beat("validating")
        return dice

    def _save_checkpoint(self, folder: Path) -> None:
        """Put the weights, or their average, in the place of what is there; at every moment a whole one is."""
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        was_training = self.segmenter.module.training
        self.segmenter.module.eval()
        with self.optimisation.averaged():
            self.segmenter.save(fresh)
        self.segmenter.module.train(was_training)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)

    def _finish(self) -> None:
        checkpoint, best = self.folder / "checkpoint", self.folder / BEST
        kept_step = self.step
        if self.job.keep_best and best.is_dir():
            shutil.rmtree(checkpoint, ignore_errors=True)
            shutil.copytree(best, checkpoint)  # and not moved: a process that is ended here comes here again
            kept_step = int(max(self.validations, key=lambda one: one["validation_dice"])["step"])
        else:
            self._save_checkpoint(checkpoint)
        skipped, _ = self.optimisation.skips()
        figures = {
            "steps": self.step,
            **({"kept_step": kept_step} if self.job.keep_best else {}),
            "skipped_steps": skipped,
            "seconds_training": self.clock.seconds,
            **self._shares(),
            **({"loss": self.curve[-1]["loss"]} if self.curve else {}),
            "curve": self.curve,
            "validations": self.validations,
            "parameters": sum(parameter.numel() for parameter in self.segmenter.module.parameters()),
            "parameters_trained": sum(parameter.numel() for parameter in self.optimisation.parameters),
            "device": self.device,
        }
        write_json(self.folder / "loop.json", figures)

    # State

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.pt"

    def _keep_state(self) -> None:
        """What is needed to go on after a crash; not charged to the budget. A bad state is not kept."""
        self._kept_at = time.monotonic()
        skipped, in_a_row = self.optimisation.skips()
        if not self.is_first or in_a_row:
            return
        with self.clock.stopped():
            save_state(
                self._state_file,
                {
                    "step": self.step,
                    "elapsed": self.clock.seconds,
                    "queued": self.clock.queued,
                    "waited": self.waited,
                    "skipped": skipped,
                    "curve": self.curve,
                    "validations": self.validations,
                    "went_back_to": self.went_back_to,
                    "world_size": self.group.world_size,
                    "weights": self._weights(),
                    "optimisation": self.optimisation.state(),
                },
                self.storage,
            )

    def _weights(self) -> list[torch.Tensor]:
        """What of the network changes in training: the trainable parameters, and all buffers."""
        return [*(p.detach() for p in self.optimisation.parameters), *self.segmenter.module.buffers()]

    def _load_weights(self, state: Mapping[str, Any], skipped: int) -> None:
        with torch.no_grad():
            for own, kept in zip(self._weights(), state["weights"], strict=True):
                own.copy_(kept)
        self.optimisation.load(state["optimisation"], skipped)

    def _resume(self) -> None:
        """Go on from the state of worker 0, if it has one."""
        state = load_state(self._state_file, self.group, self.storage)
        if state is not None and [w.shape for w in state["weights"]] != [w.shape for w in self._weights()]:
            logger.warning("the kept state %s is of another network: starting over", self._state_file)
            state = None
        if state is not None:
            self._load_weights(state, skipped=state["skipped"])
            self.step, self.clock = state["step"], _Clock(state["elapsed"], state.get("queued", 0.0))
            self.waited, self.went_back_to = state["waited"], state["went_back_to"]
            self.curve, self.validations = state["curve"], state["validations"]
            others = "" if state["world_size"] == self.group.world_size else f" of {state['world_size']} workers"
            logger.info("going on from the state of step %d%s", self.step, others)
            if self.job.keep_best and self.is_first and self.storage is not None:
                self._bring_best(self.storage)
        self._require_equal("the weights to begin with")

    def _bring_best(self, storage: TrainingStorage) -> None:
        """Put the storage's best checkpoint in the place of this disk's, which another machine may have outdone.

        A storage without a state was named only now: there this disk's is put into it.
        """
        here, brought = self.folder / BEST, self.folder / f"{BEST}.brought"
        if not storage.holds(STATE):
            if here.is_dir():
                storage.write_folder(BEST, here)
            return
        shutil.rmtree(brought, ignore_errors=True)
        found = storage.read_folder(BEST, brought)
        shutil.rmtree(here, ignore_errors=True)
        if found:
            brought.rename(here)
        elif self.validations:
            logger.warning("the storage has lost the best weights up to step %d: later ones can be kept", self.step)

    def _require_equal(self, what: str) -> None:
        if self.group.world_size > 1:
            self.group.require_equal(digest_of([*self._weights(), *tensors_in(self.optimisation.state())]), what)

    def _beat(self, stage: str, facts: Mapping[str, float] | None = None, now: bool = False) -> None:
        if self.is_first:
            (self.heart.beat_now if now else self.heart.beat)(stage, **(facts or {}))


class _Clock:
    """Seconds of training, without what is not charged to the budget, and in how many of them no processor was free."""

    def __init__(self, seconds: float = 0.0, queued: float = 0.0) -> None:
        self._earlier, self._since = (seconds, queued), (0.0, 0.0)
        self._runs = False

    @property
    def seconds(self) -> float:
        return self._earlier[0] + (time.perf_counter() - self._since[0] if self._runs else 0.0)

    @property
    def queued(self) -> float:
        return self._earlier[1] + (seconds_queued() - self._since[1] if self._runs else 0.0)

    def start(self) -> None:
        self._since, self._runs = (time.perf_counter(), seconds_queued()), True

    def stop(self) -> None:
        self._earlier, self._runs = (self.seconds, self.queued), False

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Time that does not count."""
        self.stop()
        try:
            yield
        finally:
            self.start()
