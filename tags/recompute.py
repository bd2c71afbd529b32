"""Memory in training: what is computed again in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


class Block(Protocol):
    """What is used of a block of the image encoder."""

    adapter: nn.Module | None

    def __call__(self, x: Tensor) -> Tensor:
        """The whole block."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of all its layers."""

    def parts(self, x: Tensor) -> Any:
        """How x is cut into windows, and which of them go together."""

    def within(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What follows the adapter, on windows."""

    def after_adapter(self, x: Tensor) -> Tensor:
        """What follows the adapter, on the whole."""


def recomputed(function: Callable[..., T], *args: Any) -> T:
    """The function's result, of which the backward pass keeps the arguments alone. Nothing in it may be random."""
    result: T = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return result


def recomputed_block(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)` of which the backward pass keeps x alone, and computes again a few windows at a time."""
    result: Tensor = _Recomputed.apply(block, x, *_trained(block))
    return result


def _trained(module: nn.Module | Block) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


class _Recomputed(torch.autograd.Function):
    """A block, once more in the backward pass: the adapter as a whole, all behind it by windows.

    A checkpoint of the whole block would hold the activations of all windows at once, eight times as large as its
    input; checkpoints of its parts would compute or keep more. The block's trained parameters are arguments, so that
    their gradients go the usual way (DistributedDataParallel waits for them there).
    """

    @staticmethod
    def forward(ctx: Any, block: Block, x: Tensor, *trained: Tensor) -> Tensor:
        kind = x.device.type
        ctx.autocast = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
        ctx.block = block
        ctx.save_for_backward(x, *trained)
        return block(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *_ = ctx.saved_tensors
        block: Block = ctx.block
        trained = _trained(block)
        own = [] if block.adapter is None else _trained(block.adapter)
        sums: dict[Tensor, Tensor] = {}
        x = x.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(x.device.type, **ctx.autocast):
            entered = x if block.adapter is None else block.adapter(x)
            behind = [p for p in trained if not any(p is mine for mine in own)]
            gradient = _behind_adapter(block, entered.detach(), gradients[0], behind, sums)
            if block.adapter is not None:
                gradient, *others = torch.autograd.grad(entered, [x, *own], gradient)
                sums.update(zip(own, others, strict=True))
        return None, gradient, *(sums.get(p) for p in trained)


def _behind_adapter(
    block: Block, x: Tensor, gradient: Tensor, trained: list[Tensor], sums: dict[Tensor, Tensor]
) -> Tensor:
    """Gradient of x, which is behind the adapter; those of the trained parameters are added to `sums`."""
    layout, parts = block.parts(x)
    if len(parts) == 1:
        return _one(block.after_adapter, x, gradient, trained, sums)
    windows, out = layout.cut(x), layout.cut(gradient)
    found = torch.empty_like(windows)
    for part, mask in parts:
        found[part] = _one(partial(block.within, mask=mask), windows[part], out[part], trained, sums)
    return layout.join(found, len(x))


def _one(
    function: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor, trained: list[Tensor], sums: dict[Tensor, Tensor]
) -> Tensor:
    x = x.detach().requires_grad_()
    wanted, *others = torch.autograd.grad(function(x), [x, *trained], gradient, allow_unused=True)
    for parameter, other in zip(trained, others, strict=True):
        if other is not None:
            sums[parameter] = sums[parameter] + other if parameter in sums else other
    return wanted
