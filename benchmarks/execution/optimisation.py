"""One optimiser step: schedule, gradient clip, precision, moving average, and no step from a non-finite loss.

Nothing here waits for the device: whether a step is skipped is decided there, counted there, and read only when
`Optimisation.skips` is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from benchmarks.contestants import TrainingRecipe

FIRST_SCALE = 1024.0  # of a float16 loss; ten halvings lead to no scaling at all


def learning_rate(recipe: TrainingRecipe, progress: float) -> float:
    """Linear rise over the warm-up, then linear fall to the final rate at the end of the budget."""
    if progress < recipe.warm_up:
        return recipe.learning_rate * max(progress, 1e-3) / recipe.warm_up
    left = (1.0 - min(progress, 1.0)) / (1.0 - recipe.warm_up)
    return recipe.final_learning_rate + (recipe.learning_rate - recipe.final_learning_rate) * left


class Optimisation:
    """AdamW as a recipe wants it, over the parameters of one network.

    A step whose loss or gradient is not finite leaves weights and moments as they are. With several workers the
    gradients are summed over all of them before they come here, a NaN of one worker included, so that all workers
    skip the same steps without asking each other.

    Args:
        half: what the forward pass is computed in, see `precision.half_precision`; None for the network's own type.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], recipe: TrainingRecipe, device: str, half: torch.dtype | None
    ) -> None:
        self.parameters, self.recipe = list(parameters), recipe
        self._device_type, self._half = device.partition(":")[0], half
        self.adamw = torch.optim.AdamW(
            self.parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._scaler = torch.amp.GradScaler(self._device_type, init_scale=FIRST_SCALE, enabled=half is torch.float16)
        # Steps skipped in all, and in a row up to now.
        self._skips = torch.zeros(2, dtype=torch.int64, device=device)
        self._ema = [p.detach().clone() for p in self.parameters] if recipe.ema_decay else []
        self._ema_steps = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        if self._half is None:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=self._half)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of one batch of the step. Those of a non-finite loss become NaN, on every worker."""
        finite = torch.isfinite(loss.detach())
        guarded = loss * torch.where(finite, 1.0, torch.nan)
        self._scaler.scale(guarded / self.recipe.accumulate).backward()

    def step(self, progress: float) -> None:
        """Change the weights by the gradients, at the learning rate of that share of the budget."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate(self.recipe, progress)
        if self._scaler.is_enabled():
            self._scaler.unscale_(self.adamw)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.gradient_clip)
        skipped = ~torch.isfinite(norm)
        if self._scaler.is_enabled():
            self._scaler.step(self.adamw)
            self._scaler.update()
        else:
            # The fused kernels leave everything as it is where this is 1; it is how GradScaler tells them.
            self.adamw.found_inf = skipped.to(torch.float32)  # type: ignore[attr-defined]
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self._skips[1] += 1
        self._skips[1] *= skipped
        self._skips[0] += skipped
        self._average()

    def skips(self) -> tuple[int, int]:
        """How many steps were skipped in all, and in a row up to now. Waits for the device."""
        total, in_a_row = self._skips.tolist()
        return total, in_a_row

    def _average(self) -> None:
        if not self._ema:
            return
        self._ema_steps += 1
        decay = min(self.recipe.ema_decay, (1 + self._ema_steps) / (10 + self._ema_steps))
        get_ema_multi_avg_fn(decay)(self._ema, self.parameters, self._ema_steps)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the context the network has the moving average of its weights, if the recipe wants one."""
        if not self._ema:
            yield
            return
        own = [p.detach().clone() for p in self.parameters]
        _copy(self._ema, self.parameters)
        try:
            yield
        finally:
            _copy(own, self.parameters)

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on; tensors, numbers and containers of them only."""
        return {
            "adamw": self.adamw.state_dict(),
            "scaler": self._scaler.state_dict(),
            "ema": self._ema,
            "ema_steps": self._ema_steps,
        }

    def load(self, state: dict[str, Any], skipped: int) -> None:
        """Take over what `state` gave; so many steps have been skipped up to now, the last one not among them."""
        self.adamw.load_state_dict(state["adamw"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        self._skips.copy_(torch.tensor([skipped, 0]))
        _copy(state["ema"], self._ema)
        self._ema_steps = state["ema_steps"]


@torch.no_grad()
def _copy(source: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> None:
    for new, old in zip(source, target, strict=True):
        old.copy_(new)
