"""What a network computes in, in training and at inference alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.common.errors import UserError


def half_precision(device: str, wanted: bool, float16: bool = True) -> torch.dtype | None:
    """bfloat16 on a GPU that has it, float16 on one that has not, if the method's values fit; on a CPU none.

    On a CPU bfloat16 pays only with AMX, and the method may use it by itself.
    """
    if not wanted or not device.startswith("cuda"):
        return None
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if float16 else None


def autocast_for(device: str, precision: str, float16: bool = True) -> torch.autocast:
    """The context that a network computes in.

    Args:
        precision: "float32"; "bfloat16", on a CPU too; "float16", on a GPU alone; or "auto", see `half_precision`.
        float16: whether the method's values fit it.
    """
    kind = device.partition(":")[0]
    if precision == "bfloat16":
        half: torch.dtype | None = torch.bfloat16
    elif precision == "float16":
        half = torch.float16 if kind == "cuda" else None
    else:
        half = half_precision(device, precision == "auto", float16)
    return torch.autocast(kind, half, enabled=half is not None)


def check_precision(method: str, precision: str, known: Sequence[str] = ("auto", "float32")) -> None:
    """Raises UserError for a word that the method's setting `precision` does not take."""
    if precision not in known:
        raise UserError(f"{method}: precision must be {' or '.join(known)}, not '{precision}'")


def finite(answer: torch.Tensor) -> torch.Tensor:
    """The answer of a network as it is. Raises ValueError if a value is not finite.

    Such a value is above no threshold: it would be an empty mask that nobody wonders at.
    """
    if not bool(torch.isfinite(answer).all()):
        raise ValueError("the network's answer is not finite")
    return answer


def finite_by_channel(answer: torch.Tensor) -> torch.Tensor:
    """`finite` for channels as large as a scan, one by one: it takes as much memory again as what it is given."""
    for channel in answer:
        finite(channel)
    return answer
