"""nnU-Net's trainer under a budget of minutes or steps.

Network, loss, augmentation and sampling are nnU-Net's. Changed: the end of the training is a budget, the
polynomial fall of the learning rate follows the share of the budget that is spent (by iteration, not by epoch),
small plans learn by AdamW, and nothing is validated, because the bench evaluates on its own split. Its state is kept
every few minutes, and a training that was cut off goes on from it; what it had spent of the budget counts.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.common.processor_queue import seconds_queued

STOCK_STEPS = 250_000  # nnU-Net's 1000 epochs of 250 iterations
POLY_EXPONENT = 0.9  # as in nnU-Net
ADAM_LEARNING_RATE = 3e-3
NOT_FINITE_IN_A_ROW = 10  # losses after which the weights are taken to be bad, as in the bench's own loop

logger = logging.getLogger(__name__)


@dataclass
class Clock:
    """How much of a budget is spent; whichever limit is met first ends it."""

    minutes: float | None
    steps: int | None
    started: float = 0.0
    earlier: float = 0.0  # seconds, before the training was cut off

    def start(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self.started

    def share(self, step: int) -> float:
        """0 at the start, 1 or more once the budget is spent."""
        shares = [0.0]
        if self.minutes is not None:
            shares.append(self.seconds / (60 * self.minutes))
        if self.steps is not None:
            shares.append(step / self.steps)
        return max(shares)


def read_state(path: Path) -> dict[str, Any] | None:
    """The state of a training that was cut off; None if there is none, or none that can be read."""
    if not path.is_file():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises whatever its reader happens to meet
        logger.warning("%s cannot be read: the training begins anew (%s)", path, str(error)[:200])
        return None


def unwrapped(network: Any) -> torch.nn.Module:
    """The network without torch.compile and DistributedDataParallel."""
    for name in ("_orig_mod", "module", "_orig_mod"):
        network = getattr(network, name, network)
    return network


class BudgetTrainer(nnUNetTrainer):  # type: ignore[misc, unused-ignore]
    """nnU-Net's trainer that stops when its budget is spent.

    Attributes:
        state_file: where its state is kept; None for nowhere.
        state_every: seconds between states.
    """

    state_file: Path | None = None
    state_every: float
    seconds_queued = 0.0  # for a processor

    # nnU-Net reads the names of the parameters from the signature: it must be spelled out, not (*args)
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.clock = Clock(minutes=None, steps=STOCK_STEPS)
        self.adam = False
        self.report_every = 50
        self.seconds_waited = 0.0  # for a batch
        self.losses: list[float] = []

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """nnU-Net's SGD, or AdamW for the few hundred iterations of a demonstration.

        On small lesions, SGD was seen to predict nothing after 150 to 230 iterations.
        """
        optimiser, schedule = super().configure_optimizers()
        if self.adam:
            self.initial_lr = ADAM_LEARNING_RATE
            optimiser = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimiser, schedule

    def plot_network_architecture(self) -> None:
        """Nothing: the plot needs a package that nnU-Net no longer has."""

    def run_training(self, kept: dict[str, Any] | None = None) -> None:
        """Train until the budget is spent, at least one step; from a kept state on, if there is one.

        Raises:
            FloatingPointError: too many steps in a row without a finite loss, or none with one.
        """
        self.on_train_start()
        self.network.train()
        if kept is not None:
            self._resume(kept)
        self.clock.start()
        queued_before, kept_at = seconds_queued() - self.seconds_queued, time.monotonic()
        share = self._agreed(self.clock.share(len(self.losses))) if self.losses else 0.0
        while share < 1.0:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - share) ** POLY_EXPONENT
            asked = time.monotonic()
            batch = next(self.dataloader_train)
            self.seconds_waited += time.monotonic() - asked
            self.losses.append(float(self.train_step(batch)["loss"]))
            if len(self.losses) >= NOT_FINITE_IN_A_ROW:
                self._require_a_finite_loss()
            if len(self.losses) % self.report_every == 0:
                recent = float(np.mean(self.losses[-self.report_every :]))
                self.print_to_log_file(f"step {len(self.losses)}, {share:.0%} of the budget, loss {recent:.4f}")
            share = self._agreed(self.clock.share(len(self.losses)))
            if self.state_file is not None and (share >= 1.0 or time.monotonic() - kept_at >= self.state_every):
                self.seconds_queued = seconds_queued() - queued_before
                self._keep_state(self.state_file)
                kept_at = time.monotonic()
        self.seconds_training, self.seconds_queued = self.clock.seconds, seconds_queued() - queued_before
        self._require_a_finite_loss()
        self.on_train_end()

    def _require_a_finite_loss(self) -> None:
        """Among the last ones. Where no GradScaler skips the step, a single gradient of NaN makes all weights NaN."""
        recent = self.losses[-NOT_FINITE_IN_A_ROW:]
        if not np.isfinite(recent).any():
            raise FloatingPointError(
                f"nnU-Net's loss is not finite in {len(recent)} steps in a row up to step {len(self.losses)}"
            )

    def _resume(self, kept: dict[str, Any]) -> None:
        """Go on from a state, if it is one of these plans."""
        if kept["plans"] != self.plans_manager.plans:  # as of another version of nnU-Net
            self.print_to_log_file("the kept state is of other plans: the training begins anew")
            return
        unwrapped(self.network).load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        if self.grad_scaler is not None and kept["scaler"] is not None:
            self.grad_scaler.load_state_dict(kept["scaler"])
        self.losses, self.clock.earlier = list(kept["losses"]), kept["seconds"]
        self.seconds_waited, self.seconds_queued = kept["waited"], kept["queued"]
        self.print_to_log_file(f"going on from step {len(self.losses)}, after {self.clock.earlier:.0f} s of training")

    def _keep_state(self, path: Path) -> None:
        """Put the state of the first process in the place of the one before; its time is not charged to the budget.

        A disk that cannot take it costs no more than what is trained until the next one. A bad state is not kept.
        """
        if self.local_rank != 0 or not np.isfinite(self.losses[-1]):
            return
        began = time.monotonic()
        state = {
            "plans": self.plans_manager.plans,
            "network": unwrapped(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "losses": self.losses,
            "seconds": self.clock.seconds,
            "waited": self.seconds_waited,
            "queued": self.seconds_queued,
        }
        fresh = path.with_suffix(".new")
        try:
            torch.save(state, fresh)
            os.replace(fresh, path)
        except (OSError, RuntimeError) as error:  # the latter from torch's own writer
            self.print_to_log_file(f"the state cannot be kept: {str(error)[:200]}")
        self.clock.started += time.monotonic() - began

    def _agreed(self, share: float) -> float:
        """The share that the first process sees, on all GPUs: one that ended alone would hang the others."""
        if not self.is_ddp:
            return share
        told = torch.tensor(share, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(told, src=0)
        return float(told)

    def save_checkpoint(self, filename: str) -> None:
        """Nothing: `train_process` writes the weights once, without optimiser state, in plain types."""
