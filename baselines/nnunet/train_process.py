"""The process that plans and trains: `python -m baselines.nnunet.train_process JOB.json`.

A process of its own because nnU-Net is configured by environment variables, may start worker processes, and may
run out of memory: whatever happens to it, the bench lives on. It ends when its standard input closes, so it does
not outlive the process that started it.
"""

from __future__ import annotations

import json
import logging
import multiprocessing.pool
import os
import random
import shutil
import socket
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from baselines.nnunet.plans import AUGMENTERS, CASCADE, FIRST_STAGE, PLANNERS, augmenters, stages_of
from baselines.nnunet.raw_data import DATASET_ID, DATASET_NAME

if TYPE_CHECKING:
    from baselines.nnunet.trainer import BudgetTrainer

logger = logging.getLogger(__name__)


def main(job_file: Path) -> None:
    """Fingerprint, plan, shrink, preprocess, train every fold; leave model and figures in the job's folder."""
    job = json.loads(job_file.read_text())
    folder = Path(job["folder"])

    import torch  # here and below: a broken job must not cost the seconds of this import

    torch.set_num_threads(job["cpus"])
    if job["cpus"] == 1:
        work_in_this_process()
    started = time.monotonic()
    job["stages"] = len(stages_of(job["configuration"]))
    job["identifier"] = plan(job)
    planned = time.monotonic()
    preprocess(job)
    preprocessed = time.monotonic()
    stages = [train_stage({**job, "configuration": stage}, folder) for stage in stages_of(job["configuration"])]
    about = {
        "seconds_planning": round(planned - started, 2),
        "seconds_preprocessing": round(preprocessed - planned, 2),
        **in_order(stages),
        **what_was_run(job),
    }
    (folder / "figures.json").write_text(json.dumps(about))


def work_in_this_process() -> None:
    """Let nnU-Net's pools for fingerprint, preprocessing and the end of a cascade's first stage be threads.

    On one core a spawned worker gains nothing, costs seconds of imports and may be left behind.
    """
    from nnunetv2.evaluation import evaluate_predictions
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.preprocessing.preprocessors import default_preprocessor
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer

    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=multiprocessing.pool.ThreadPool))
    for module in (fingerprint_extractor, default_preprocessor, evaluate_predictions, nnUNetTrainer):
        module.multiprocessing = threads


def preprocessed_folder() -> Path:
    """Where nnU-Net keeps plans, splits and preprocessed cases of the data set."""
    return Path(os.environ["nnUNet_preprocessed"]) / DATASET_NAME  # noqa: SIM112 - nnU-Net's own spelling


def plan(job: dict[str, Any]) -> str:
    """Write fingerprint, plans (shrunk if the job says so) and the split; the plans' name in nnU-Net."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    from baselines.nnunet.plans import SmallPlans, shrink

    extract_fingerprints([DATASET_ID], num_processes=job["cpus"], verbose=False, show_progress_bar=False)
    identifier = str(plan_experiments([DATASET_ID], experiment_planner_class_name=PLANNERS[job["plans"]]))
    path = preprocessed_folder() / f"{identifier}.json"
    plans = json.loads(path.read_text())
    configuration = job["configuration"]
    small = job["plans"] == "small"
    if ("3d_fullres" if small else configuration) not in plans["configurations"]:
        low = configuration in (FIRST_STAGE, CASCADE) and not small
        reason = "the images are small enough for 3d_fullres" if low else "a single slice each"
        raise ValueError(f"nnU-Net planned no {configuration} for these training volumes: {reason}")
    if small:
        path.write_text(json.dumps(shrink(plans, SmallPlans(), configuration)))
    (preprocessed_folder() / "splits_final.json").write_text(json.dumps(splits(job["names"], job["folds"])))
    return identifier


def splits(names: list[str], folds: int) -> list[dict[str, list[str]]]:
    """Which cases each network learns from: all of them, or nnU-Net's own cross-validation.

    The bench's own validation and test cases stay out of nnU-Net altogether. Its loader wants a list of validation
    cases though; it is never evaluated.
    """
    if folds == 1:
        return [{"train": names, "val": names[:1]}]
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    return [{part: [str(name) for name in fold[part]] for part in ("train", "val")}
            for fold in generate_crossval_split(names, n_splits=folds)]  # fmt: skip


def preprocess(job: dict[str, Any]) -> None:
    """nnU-Net's own preprocessing of what is trained; the second stage of a cascade reads the cases of 3d_fullres."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess as run

    names = tuple("3d_fullres" if stage == CASCADE else stage for stage in stages_of(job["configuration"]))
    run([DATASET_ID], job["identifier"], names, (job["cpus"],) * len(names), show_progress_bar=False)


def train_stage(job: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Train every fold of one configuration; the first stage of a cascade has a folder of its own in the model."""
    folder = folder / FIRST_STAGE if job["configuration"] == FIRST_STAGE and job["stages"] > 1 else folder
    folder.mkdir(exist_ok=True)
    return [train(job, fold, folder) for fold in range(job["folds"])]


def train(job: dict[str, Any], fold: int, folder: Path) -> dict[str, Any]:
    """Train a fold, on one device or on all GPUs of the job; export it and return its figures."""
    gpus = min(job["gpus"], batch_size(job))  # nnU-Net shares the batch among its GPUs
    each = augmenters(job["device"], job["cpus"], gpus)
    if job["device"] == "cuda" and each < AUGMENTERS and job["plans"] != "small":
        logger.warning("nnU-Net: %d processes augment for a GPU, its authors use %d or more", each, AUGMENTERS)
    os.environ["nnUNet_n_proc_DA"] = str(each)  # noqa: SIM112 - nnU-Net's own spelling
    if gpus < 2:
        return train_here(job, fold, folder)
    import torch

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ["MASTER_PORT"] = str(free_port())
    torch.multiprocessing.spawn(train_on_gpu, args=(gpus, job, fold, folder), nprocs=gpus)
    figures: dict[str, Any] = json.loads((folder / f"fold_{fold}" / "figures.json").read_text())
    return figures


def batch_size(job: dict[str, Any]) -> int:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(preprocessed_folder() / f"{job['identifier']}.json"))
    return int(plans.get_configuration(job["configuration"]).batch_size)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def train_on_gpu(rank: int, gpus: int, job: dict[str, Any], fold: int, folder: Path) -> None:
    """One of the processes of a training on several GPUs, as `nnunetv2.run.run_training.run_ddp` sets them up."""
    import torch
    from torch import distributed

    distributed.init_process_group("nccl", rank=rank, world_size=gpus)
    torch.cuda.set_device(torch.device("cuda", rank))
    figures = train_here(job, fold, folder, rank)
    if rank == 0:
        (folder / f"fold_{fold}" / "figures.json").write_text(json.dumps(figures))
    distributed.destroy_process_group()


def train_here(job: dict[str, Any], fold: int, folder: Path, rank: int = 0) -> dict[str, Any]:
    """Train a fold under its share of the budget, seeded as far as nnU-Net can be.

    One that was cut off goes on from its state, with other crops than those that it has seen.
    """
    import numpy as np
    import torch

    from baselines.nnunet.trainer import STOCK_STEPS, BudgetTrainer, Clock, read_state

    state_file = Path(job["states"]) / f"{job['configuration']}-{fold}.pth"
    kept = read_state(state_file)
    seed = job["seed"] + 1000 * fold + rank + (7919 * len(kept["losses"]) if kept else 0)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - nnU-Net draws from NumPy's global state
    torch.manual_seed(seed)
    plans = json.loads((preprocessed_folder() / f"{job['identifier']}.json").read_text())
    plans["continue_training"] = False
    dataset_json = json.loads((preprocessed_folder() / "dataset.json").read_text())
    trainer = BudgetTrainer(plans, job["configuration"], fold, dataset_json, torch.device(job["device"]))
    trainer.adam = job["plans"] == "small"
    trainer.state_file, trainer.state_every = state_file, job["state_every"]
    minutes, steps, networks = job["minutes"], job["steps"], job["folds"] * job["stages"]
    if minutes is None and steps is None:
        trainer.clock = Clock(None, STOCK_STEPS)
    else:
        trainer.clock = Clock(minutes and minutes / networks, steps and max(1, steps // networks))
    trainer.run_training(kept)
    if rank == 0:
        export(trainer, folder, fold)
    if trainer.configuration_manager.next_stage_names and job["stages"] > 1:
        trainer.perform_actual_validation()  # writes what the next stage sees of the cases that this fold left out
    return describe(trainer)


def export(trainer: BudgetTrainer, folder: Path, fold: int) -> None:
    """Leave the model as nnU-Net's own tools expect it: plans.json, dataset.json, fold_N/checkpoint_final.pth.

    The checkpoint holds tensors and plain types only, so that it can be read without unpickling code. It names
    nnU-Net's stock trainer, which builds the same network.
    """
    import torch

    from baselines.nnunet.trainer import unwrapped

    for name in ("plans.json", "dataset.json"):
        shutil.copyfile(Path(trainer.output_folder_base) / name, folder / name)
    weights = unwrapped(trainer.network).state_dict()
    checkpoint = {
        "network_weights": {key: value.detach().cpu() for key, value in weights.items()},
        "init_args": {"configuration": trainer.configuration_name, "fold": fold},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": [int(axis) for axis in trainer.inference_allowed_mirroring_axes],
    }
    (folder / f"fold_{fold}").mkdir(exist_ok=True)
    torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")


def describe(trainer: BudgetTrainer) -> dict[str, Any]:
    """Figures of a fold for the log; patch and spacing in nnU-Net's axis order (slowest axis first)."""
    config = trainer.configuration_manager
    recent = trainer.losses[-20:]
    return {
        "seconds_training": round(trainer.seconds_training, 2),
        "waiting_share": round(trainer.seconds_waited / max(trainer.seconds_training, 1e-9), 3),
        "queued_share": round(trainer.seconds_queued / max(trainer.seconds_training, 1e-9), 3),
        "iterations": len(trainer.losses),
        "epochs": round(len(trainer.losses) / trainer.num_iterations_per_epoch, 2),
        "final_loss": sum(recent) / len(recent),
        "loss_curve": loss_curve(trainer.losses),
        "patch_size": [int(size) for size in config.patch_size],
        "spacing": [float(step) for step in config.spacing],
        "batch_size": int(config.batch_size),
        "features_per_stage": [int(n) for n in config.network_arch_init_kwargs["features_per_stage"]],
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }


def together(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of all folds: what adds up is added, the rest is that of the first."""
    added = ("seconds_training", "iterations", "epochs")
    figures = folds[0] | {key: round(sum(one[key] for one in folds), 2) for key in added}
    return figures | ({"loss_of_folds": [one["final_loss"] for one in folds]} if len(folds) > 1 else {})


def in_order(stages: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Figures of the last stage; of a cascade with those of the first beside them, and time and steps of both."""
    figures = together(stages[-1])
    if len(stages) > 1:
        first = together(stages[0])
        figures |= {key: round(figures[key] + first[key], 2) for key in ("seconds_training", "iterations", "epochs")}
        figures["first_stage"] = first
    return figures


def what_was_run(job: dict[str, Any]) -> dict[str, Any]:
    """For whoever asks which nnU-Net a row is: version, planner, configuration, folds, GPUs, augmentation."""
    from importlib.metadata import version

    return {
        "nnunetv2": version("nnunetv2"),
        "planner": PLANNERS[job["plans"]],
        "configuration": job["configuration"],
        "folds": job["folds"],
        "gpus": min(job["gpus"], batch_size(job)),
        "augmentation_processes": int(os.environ["nnUNet_n_proc_DA"]),  # noqa: SIM112 - nnU-Net's own spelling
        "optimiser": "AdamW" if job["plans"] == "small" else "SGD",
    }


def loss_curve(losses: list[float], points: int = 20) -> list[dict[str, float]]:
    """The mean loss of equal parts of the training, each at its last step."""
    edges = sorted({round(part * len(losses) / points) for part in range(points + 1)})
    return [{"step": high, "loss": round(sum(losses[low:high]) / (high - low), 4)} for low, high in pairwise(edges)]


def end_with_parent() -> None:
    """End this process when the parent's end of standard input closes, however the parent died."""

    def watch() -> None:
        # Not through sys.stdin: its lock, held while it blocks, would be inherited by forked workers, which close it.
        while os.read(0, 1):
            continue
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]))
