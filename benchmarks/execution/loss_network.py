"""A method's loss over the workers of a training: DistributedDataParallel where there is more than one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from benchmarks.contestants import Batch, Trainable


class LossNetwork:
    """The loss of a method as a callable whose gradients are averaged over the workers."""

    def __init__(self, segmenter: Trainable, world_size: int) -> None:
        self._parallel: torch.nn.parallel.DistributedDataParallel | None = None
        self._loss = segmenter.loss
        if world_size == 1:
            return

        class LossModule(torch.nn.Module):
            """Gives DistributedDataParallel a forward that is the method's loss."""

            def __init__(self) -> None:
                super().__init__()
                self.module = segmenter.module

            def forward(self, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
                return segmenter.loss(batch)

        on_gpu = next(segmenter.module.parameters()).is_cuda
        # Prompt dropout leaves parameters without a gradient in some steps.
        self._parallel = torch.nn.parallel.DistributedDataParallel(
            LossModule(),
            device_ids=[torch.cuda.current_device()] if on_gpu else None,
            find_unused_parameters=True,
        )

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        if self._parallel is None:
            return self._loss(batch)
        loss, parts = self._parallel(batch)
        return loss, parts

    def gradients_shared(self, last: bool) -> AbstractContextManager[Any]:
        """The context of one batch of a step: workers add up their gradients once, with the last one."""
        return nullcontext() if last or self._parallel is None else self._parallel.no_sync()
