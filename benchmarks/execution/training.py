"""Trainings: by the bench's own loop on Ray Train, or by a method's own tool; each leaves a checkpoint folder.

With one worker the loop runs in Ray Train's local mode inside the Ray task that asked for it (starting a worker
group costs some twenty seconds of processes that a single worker does not need); with two or more it is a worker
group with DistributedDataParallel. The loop itself is the same, see `benchmarks.execution.loop`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.errors import MachineFault, UserError
from benchmarks.common.files import in_turn, read_json, write_json
from benchmarks.common.identity import digest_of_folder
from benchmarks.common.weight_file import missing_file
from benchmarks.contestants import Budget, Method, OwnTraining, Trainable
from benchmarks.contestants import method as find_method
from benchmarks.data.dataset import fingerprint_cases
from benchmarks.execution.training_job import TrainingJob, checkpoint_folder, finished, storage_of
from benchmarks.execution.training_storage import BEST, CHECKPOINT, STATE, TrainingStorage
from benchmarks.execution.training_watch import CURVE, SIGN_OF_LIFE, Heartbeat, cause_in_group, work_folder

__all__ = [
    "Report",
    "TrainingJob",
    "checkpoint_folder",
    "device_for",
    "finished",
    "load_segmenter",
    "redirect_output",
    "require_files",
    "run_job",
    "train_loop",
    "weights_of",
]


Report = Callable[[dict[str, Any]], None]
NODE_LABEL = "ray.io/node-id"  # which Ray gives every node by itself
AFRESH = "afresh"  # names the call with --fresh that began a training
STORED = "stored"  # names the storage that a finished training is in, which is then not asked again

logger = logging.getLogger(__name__)


def run_job(
    job: TrainingJob,
    folder: Path,
    log: Path | None = None,
    cache: Path | None = None,
    fresh: str = "",
    report: Report | None = None,
    nodes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Train, and leave the checkpoint with its `training.json` in `folder`; the figures are returned.

    Args:
        fresh: name of the call that trains even if the checkpoint, or the state of another call, is there; the old
            checkpoint stays until the new one is complete.
        log: file for the output of Ray Train workers.
        cache: folder of the preprocessing cache, absolute; by default the user's own.
        report: is given every validation but the last while the training goes on; it is picklable.
        nodes: Ray's id of the node of each worker of a group; by default Ray chooses.

    Raises:
        UserError: no training case, or a method that does not train.
        TrainingProcessDied: a worker process was ended by the machine; a later call goes on from the kept state.
        MachineFault: the storage fails; a later call goes on, and what is finished is not trained again.
    """
    with in_turn(folder.with_name(f".{folder.name}.lock")):  # an equal job waits, and finds the checkpoint
        return _run_job(job, folder, Aside(log, cache, report, nodes), fresh)


@dataclass(frozen=True)
class Aside:
    """What a training leaves beside its result, and where it runs: see `run_job`."""

    log: Path | None = None
    cache: Path | None = None
    report: Report | None = None
    nodes: tuple[str, ...] = ()


def _run_job(job: TrainingJob, folder: Path, aside: Aside, fresh: str) -> dict[str, Any]:
    work = work_folder(folder)
    storage = storage_of(job)
    if fresh:
        _begin_afresh(work, storage, fresh)
    if finished(work):
        _hand_over(work, folder, storage)  # a process that was killed, or found no storage, had only this left to do
    elif fresh or not finished(folder):
        if fresh or storage is None or not _bring(storage, work, folder):
            _train(job, work, aside)
            _hand_over(work, folder, storage)
    elif storage is not None:
        _store_later(folder, storage)
    return dict(json.loads((folder / "training.json").read_text(encoding="utf-8")))


def _train(job: TrainingJob, work: Path, aside: Aside) -> None:
    """Leave the finished training in `work`: its checkpoint, and `training.json`, which is written last."""
    if not all(cases for _, cases in job.parts):
        raise UserError(f"method '{job.method}' has to be trained, and the training split is empty")
    method = find_method(job.method)
    work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    if method.training == "bench":
        if job.workers == 1:  # a group may still have to wait for a free machine, which is no sign of death
            Heartbeat(work).beat_now("starting")
        figures = _train_on_ray(job, work, aside)
    elif method.training == "own":
        Heartbeat(work).beat_now("own tool")
        figures = _train_by_own_tool(method, job, work)
    else:
        raise UserError(f"method '{method.name}' does not train")
    for name in ("state.pt", "state.pt.new", SIGN_OF_LIFE, CURVE):
        (work / name).unlink(missing_ok=True)
    shutil.rmtree(work / "best", ignore_errors=True)
    figures |= {
        "method": job.method,
        "config": method.training_config(job.config),
        "dataset": job.cases[0].dataset,
        "modality": job.cases[0].modality,  # several datasets have one, see `joint_parts`
        "synthetic": any(case.synthetic for _, cases in job.parts for case in cases),
        "target": job.target.name,
        "segments": job.target.as_plain(),
        "cases": len(job.cases),
        "further": [[cases[0].dataset, target.as_plain(), len(cases)] for target, cases in job.further],
        "budget": asdict(job.budget),
        "seed": job.seed,
        "workers": job.workers,
        "untrained": job.untrained,
        "validation": fingerprint_cases(job.validation) if job.validate_at else "",
        "weights": digest_of_folder(work / "checkpoint"),  # an equal job in minutes, trained again, has others
        "seconds_total": time.perf_counter() - started,
    }
    write_json(work / "training.json", figures)


def _hand_over(work: Path, folder: Path, storage: TrainingStorage | None) -> None:
    """Put a finished training into the storage, then in its place. Whatever is cut off here is done again."""
    if storage is not None:
        if (work / AFRESH).exists() or storage.read(CHECKPOINT) is None:  # one that is whole gives way to --fresh only
            storage.write_folder(CHECKPOINT, work, without=(AFRESH,))
        for kind in (STATE, BEST, AFRESH):
            storage.remove(kind)
    _take_place(work, folder)
    if storage is not None:
        _note_stored(folder, storage)
    (folder / AFRESH).unlink(missing_ok=True)  # last: without it the same call would begin again


def _store_later(folder: Path, storage: TrainingStorage) -> None:
    """Put a training that was finished without the storage into it; where that fails, the next call tries again.

    One that lies there with other weights gives way, as of before a --fresh without the storage: the records of this
    output folder are by the weights that are here.
    """
    noted = folder / STORED
    if noted.is_file() and noted.read_text(encoding="utf-8") == storage.place:
        return  # a call that only reads does not wait for a store, which may be away
    try:
        if _stored_weights(storage) != weights_of(folder):
            storage.write_folder(CHECKPOINT, folder, without=(STORED,))
        _note_stored(folder, storage)
    except MachineFault as fault:
        logger.warning("%s is finished, and not in the storage yet: %s", folder, fault)


def _stored_weights(storage: TrainingStorage) -> str | None:
    """As `weights_of`, for the training that the storage has; None if it has none, or a damaged one."""
    content = storage.read_from_folder(CHECKPOINT, "training.json")
    return None if content is None else str(json.loads(content).get("weights", ""))


def _begin_afresh(work: Path, storage: TrainingStorage | None, call: str) -> None:
    """Leave nothing of a training that another call began; what this call has begun goes on from its own state."""
    mark = work / AFRESH
    if mark.exists() and mark.read_text(encoding="utf-8") == call:
        return
    if work.exists():
        shutil.rmtree(work)
    if storage is not None and storage.read(AFRESH) != call.encode():
        for kind in (STATE, BEST):
            storage.remove(kind)
        storage.write(AFRESH, call.encode(), ".txt")
    work.mkdir(parents=True)
    mark.write_text(call, encoding="utf-8")


def _bring(storage: TrainingStorage, work: Path, folder: Path) -> bool:
    """Take a finished training that only the storage has; whether it has one."""
    brought = folder.with_name(f".{folder.name}.brought")
    shutil.rmtree(brought, ignore_errors=True)
    if not (storage.read_folder(CHECKPOINT, brought) and finished(brought)):
        return False
    shutil.rmtree(work, ignore_errors=True)
    _take_place(brought, folder)
    _note_stored(folder, storage)
    return True


def _note_stored(folder: Path, storage: TrainingStorage) -> None:
    (folder / STORED).write_text(storage.place, encoding="utf-8")


def weights_of(folder: Path) -> str:
    """The digest of the weights of a finished training; empty if there is none, or it is of before they had one.

    One that has only to take its place counts as being there.
    """
    place = next((one for one in (work_folder(folder), folder) if finished(one)), None)
    return "" if place is None else str(read_json(place / "training.json").get("weights", ""))


def _take_place(work: Path, folder: Path) -> None:
    """Put a completed training in the place of the checkpoint that is there; at every moment one of them is whole."""
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        os.replace(folder, before)
    os.replace(work, folder)
    shutil.rmtree(before, ignore_errors=True)


def _train_by_own_tool(method: Method, job: TrainingJob, work: Path) -> dict[str, Any]:
    segmenter = method.build(job.config, device_for(job.budget))
    if not isinstance(segmenter, OwnTraining):
        raise TypeError(f"method '{method.name}' announces its own training and has no `fit`")
    fitted = work / "checkpoint"
    if not segmenter.resumes:
        shutil.rmtree(fitted, ignore_errors=True)
    fitted.mkdir(exist_ok=True)
    return dict(segmenter.fit(job.cases, job.target, job.budget, fitted, job.seed))


def _train_on_ray(job: TrainingJob, work: Path, aside: Aside) -> dict[str, Any]:
    if aside.report is not None and job.workers == 1:
        # This process is the worker: Train's local mode refuses a trial of Tune, and would report to nobody.
        _loop(job, work, aside.cache, 0, 1).run(report=aside.report)
        return _loop_figures(work)

    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    distributed = job.workers > 1
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job, "folder": work, "log": aside.log, "cache": aside.cache},
        scaling_config=ScalingConfig(
            num_workers=job.workers if distributed else 0,
            use_gpu=job.budget.gpus > 0,
            resources_per_worker={
                "CPU": job.budget.cpus,
                **({"GPU": job.budget.gpus} if job.budget.gpus else {}),
            },
            # Ray would take any node, also one that was left out, or that other workers have been given
            label_selector=[{NODE_LABEL: node} for node in aside.nodes] if distributed and aside.nodes else None,
        ),
        run_config=RunConfig(
            name=f"{job.method}-{job.digest()}",
            storage_path=str(work.resolve() / "ray"),
            failure_config=FailureConfig(max_failures=1 if distributed else 0),
            callbacks=[] if aside.report is None else [_passing_on(aside.report)],
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise cause_in_group(error) from error
    shutil.rmtree(work / "ray", ignore_errors=True)
    return _loop_figures(work)


def _loop_figures(work: Path) -> dict[str, Any]:
    """What rank 0 left for the process that started the loop."""
    path = work / "loop.json"
    figures = dict(json.loads(path.read_text(encoding="utf-8")))
    path.unlink()
    return figures


def _passing_on(report: Report) -> Any:
    """A callback for Ray Train: it passes on what worker 0 reports."""
    from ray.train import UserCallback

    class PassOn(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            report(metrics[0])

    return PassOn()


def train_loop(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    import ray.train

    if config["log"]:
        redirect_output(config["log"])
    require_files(config["job"].files)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    _loop(config["job"], config["folder"], config["cache"], rank, world_size).run(report=ray.train.report)


def _loop(job: TrainingJob, folder: Path, cache: Path | None, rank: int, world_size: int) -> Any:
    from benchmarks.execution.loop import TrainingLoop

    return TrainingLoop(job, folder, cache, device_for(job.budget), rank, world_size)


def device_for(budget: Budget) -> str:
    """ "cuda" if the budget has a GPU and there is one, otherwise "cpu"."""
    if budget.gpus <= 0:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise UserError("the budget asks for a GPU and none is visible; set `gpus: 0` or use --gpus 0")
    return "cuda"


def require_files(names: Iterable[str]) -> None:
    """Raises MachineFault: a weights file that the driver has is not on this machine."""
    problem = missing_file(names)
    if problem:
        raise MachineFault(f"{problem} ({socket.gethostname()})")


def redirect_output(log: Path) -> None:
    """Send this process's output, that of its libraries included, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.close(stream)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)


def load_segmenter(method: Method, config: dict[str, Any], device: str, folder: Path | None) -> Any:
    """A segmenter of the method with the checkpoint of a finished job in it."""
    segmenter = method.build(config, device)
    if folder is not None:
        if not isinstance(segmenter, (Trainable, OwnTraining)):
            raise TypeError(f"method '{method.name}' cannot load a checkpoint")
        segmenter.load(folder / "checkpoint")
    if isinstance(segmenter, Trainable):
        segmenter.module.eval()
    return segmenter
