"""nnU-Net's trainer under a budget of minutes or steps.

Network, loss, augmentation and sampling are nnU-Net's. Changed: the end of the training is a budget, the
polynomial fall of the learning rate follows the share of the budget that is spent (by iteration, not by epoch),
small plans learn by AdamW, and nothing is validated, because the bench evaluates on its own split.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.common.processor_queue import seconds_queued

STOCK_STEPS = 250_000  # nnU-Net's 1000 epochs of 250 iterations
POLY_EXPONENT = 0.9  # as in nnU-Net
ADAM_LEARNING_RATE = 3e-3


@dataclass
class Clock:
    """How much of a budget is spent; whichever limit is met first ends it."""

    minutes: float | None
    steps: int | None
    started: float = 0.0

    def start(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def share(self, step: int) -> float:
        """0 at the start, 1 or more once the budget is spent."""
        shares = [0.0]
        if self.minutes is not None:
            shares.append(self.seconds / (60 * self.minutes))
        if self.steps is not None:
            shares.append(step / self.steps)
        return max(shares)


class BudgetTrainer(nnUNetTrainer):  # type: ignore[misc, unused-ignore]
    """nnU-Net's trainer that stops when its budget is spent."""

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
        self.seconds_queued = 0.0  # for a processor
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

    def run_training(self) -> None:
        """Train until the budget is spent, at least one step."""
        self.on_train_start()
        self.network.train()
        self.clock.start()
        share, queued_before = 0.0, seconds_queued()
        while share < 1.0:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - share) ** POLY_EXPONENT
            asked = time.monotonic()
            batch = next(self.dataloader_train)
            self.seconds_waited += time.monotonic() - asked
            self.losses.append(float(self.train_step(batch)["loss"]))
            if len(self.losses) % self.report_every == 0:
                recent = float(np.mean(self.losses[-self.report_every :]))
                self.print_to_log_file(f"step {len(self.losses)}, {share:.0%} of the budget, loss {recent:.4f}")
            share = self._agreed(self.clock.share(len(self.losses)))
        self.seconds_training, self.seconds_queued = self.clock.seconds, seconds_queued() - queued_before
        self.on_train_end()

    def _agreed(self, share: float) -> float:
        """The share that the first process sees, on all GPUs: one that ended alone would hang the others."""
        if not self.is_ddp:
            return share
        told = torch.tensor(share, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(told, src=0)
        return float(told)

    def save_checkpoint(self, filename: str) -> None:
        """Nothing: `train_process` writes the weights once, without optimiser state, in plain types."""
