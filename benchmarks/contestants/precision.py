"""What a network computes in, in training and at inference alike."""

from __future__ import annotations

import torch


def half_precision(device: str, wanted: bool, float16: bool = True) -> torch.dtype | None:
    """bfloat16 on a GPU that has it, float16 on one that has not, if the method's values fit; on a CPU none.

    On a CPU bfloat16 pays only with AMX, and the method may use it by itself.
    """
    if not wanted or not device.startswith("cuda"):
        return None
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if float16 else None


def finite(answer: torch.Tensor) -> torch.Tensor:
    """The answer of a network as it is. Raises ValueError if a value is not finite.

    Such a value is above no threshold: it would be an empty mask that nobody wonders at.
    """
    if not bool(torch.isfinite(answer).all()):
        raise ValueError("the network's answer is not finite")
    return answer
