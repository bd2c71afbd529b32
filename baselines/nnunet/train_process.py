"""The process that plans and trains: `python -m baselines.nnunet.train_process JOB.json`.

A process of its own because nnU-Net is configured by environment variables, may start worker processes, and may
run out of memory: whatever happens to it, the bench lives on. It ends when its standard input closes, so it does
not outlive the process that started it.
"""

from __future__ import annotations

import json
import multiprocessing.pool
import os
import random
import shutil
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from baselines.nnunet.raw_data import DATASET_ID, DATASET_NAME

if TYPE_CHECKING:
    from baselines.nnunet.trainer import BudgetTrainer

CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"


def main(job_file: Path) -> None:
    """Fingerprint, plan, shrink, preprocess, train; leave model and figures in the job's folder."""
    job = json.loads(job_file.read_text())
    folder = Path(job["folder"])

    import torch  # here and below: a broken job must not cost the seconds of this import

    torch.set_num_threads(job["cpus"])
    if job["cpus"] == 1:
        work_in_this_process()
    started = time.monotonic()
    plan(job)
    planned = time.monotonic()
    preprocess(job)
    preprocessed = time.monotonic()
    trainer = train(job)
    export(trainer, folder)
    figures = {
        "seconds_planning": round(planned - started, 2),
        "seconds_preprocessing": round(preprocessed - planned, 2),
        **describe(trainer),
    }
    (folder / "figures.json").write_text(json.dumps(figures))


def work_in_this_process() -> None:
    """Let nnU-Net's pools for fingerprint and preprocessing be threads.

    On one core a spawned worker gains nothing, costs seconds of imports and may be left behind.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.preprocessing.preprocessors import default_preprocessor

    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=multiprocessing.pool.ThreadPool))
    fingerprint_extractor.multiprocessing = threads
    default_preprocessor.multiprocessing = threads


def preprocessed_folder() -> Path:
    """Where nnU-Net keeps plans, splits and preprocessed cases of the data set."""
    return Path(os.environ["nnUNet_preprocessed"]) / DATASET_NAME  # noqa: SIM112 - nnU-Net's own spelling


def plan(job: dict[str, Any]) -> None:
    """Write fingerprint, plans (shrunk if the job says so) and the split."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    from baselines.nnunet.plans import SmallPlans, shrink

    extract_fingerprints([DATASET_ID], num_processes=job["cpus"], verbose=False, show_progress_bar=False)
    plan_experiments([DATASET_ID])
    path = preprocessed_folder() / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    if CONFIGURATION not in plans["configurations"]:
        raise ValueError("nnU-Net planned no 3D configuration: the training volumes have a single slice")
    if job["plans"] == "small":
        path.write_text(json.dumps(shrink(plans, SmallPlans(), CONFIGURATION)))
    # The bench's own validation and test cases stay out of nnU-Net altogether. Its loader wants a list of
    # validation cases though; it is never evaluated.
    split = [{"train": job["names"], "val": job["names"][:1]}]
    (preprocessed_folder() / "splits_final.json").write_text(json.dumps(split))


def preprocess(job: dict[str, Any]) -> None:
    """nnU-Net's own preprocessing of the one configuration that is trained."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess as run

    run([DATASET_ID], PLANS, (CONFIGURATION,), (job["cpus"],), show_progress_bar=False)


def train(job: dict[str, Any]) -> BudgetTrainer:
    """Train fold 0 under the budget, seeded as far as nnU-Net can be."""
    import numpy as np
    import torch

    from baselines.nnunet.trainer import STOCK_STEPS, BudgetTrainer, Clock

    # Planning needs a positive number here; 0 then makes training augment in this process.
    os.environ["nnUNet_n_proc_DA"] = str(job["cpus"] - 1)  # noqa: SIM112 - nnU-Net's own spelling
    random.seed(job["seed"])
    np.random.seed(job["seed"] % 2**32)  # noqa: NPY002 - nnU-Net draws from NumPy's global state
    torch.manual_seed(job["seed"])
    plans = json.loads((preprocessed_folder() / f"{PLANS}.json").read_text())
    plans["continue_training"] = False
    dataset_json = json.loads((preprocessed_folder() / "dataset.json").read_text())
    trainer = BudgetTrainer(plans, CONFIGURATION, 0, dataset_json, torch.device(job["device"]))
    unlimited = job["minutes"] is None and job["steps"] is None
    trainer.adam = job["plans"] == "small"
    trainer.clock = Clock(job["minutes"], STOCK_STEPS if unlimited else job["steps"])
    trainer.run_training()
    return trainer


def export(trainer: BudgetTrainer, folder: Path) -> None:
    """Leave the model as nnU-Net's own tools expect it: plans.json, dataset.json, fold_0/checkpoint_final.pth.

    The checkpoint holds tensors and plain types only, so that it can be read without unpickling code. It names
    nnU-Net's stock trainer, which builds the same network.
    """
    import torch

    for name in ("plans.json", "dataset.json"):
        shutil.copyfile(Path(trainer.output_folder_base) / name, folder / name)
    network: Any = trainer.network
    network = getattr(network, "_orig_mod", network)  # unwrap torch.compile
    checkpoint = {
        "network_weights": {key: value.detach().cpu() for key, value in network.state_dict().items()},
        "init_args": {"configuration": CONFIGURATION, "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": [int(axis) for axis in trainer.inference_allowed_mirroring_axes],
    }
    (folder / "fold_0").mkdir(exist_ok=True)
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


def describe(trainer: BudgetTrainer) -> dict[str, Any]:
    """Figures of the training for the log; patch and spacing in nnU-Net's axis order (slowest axis first)."""
    config = trainer.configuration_manager
    recent = trainer.losses[-20:]
    return {
        "seconds_training": round(trainer.seconds_training, 2),
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
