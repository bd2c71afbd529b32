"""Stand-ins for official weights files: the same keys, shapes and containers, every value by a rule from its key.

For rehearsals and tests. A stand-in knows nothing: it shows that a file of that layout is read and that the network
of that size runs here, in what time and memory. It lies in a folder of its own, never among the official files.

The rule: a tensor is drawn from PCG64 seeded with the CRC-32 of its key, as the file has it, and scaled by what it is
(a kernel by its fan-in, a norm around one). Two machines write the same bytes.
"""

from __future__ import annotations

import importlib
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common.files import atomically
from benchmarks.common.weight_file import WeightFile
from benchmarks.weights.official_files import Announced

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

EMBEDDINGS = ("pos_embed", "depth_embed", "position_embeddings", "global_query")
STANDARD_NORMAL = ("positional_encoding_gaussian_matrix", "organ_embedding")


@dataclass(frozen=True)
class StandIn:
    """Where a file of a rehearsal comes from.

    Attributes:
        real: whether it is the official file itself, or made by the rule.
        path: in the folder of the rehearsal.
    """

    file: WeightFile
    real: bool
    path: Path


def by_rule(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A tensor by the rule for each of a state dict; only keys and shapes are read, so it may be on `meta`.

    What is no floating-point number, and the masks of attention, are constants of the network: they stay as they are.
    """
    return {key: value if _constant(key, value) else _drawn(key, tuple(value.shape)) for key, value in state.items()}


def _constant(key: str, value: torch.Tensor) -> bool:
    return not value.is_floating_point() or key.endswith("attn_mask")


def _drawn(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    import torch

    random = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    values = random.standard_normal(int(np.prod(shape)), dtype=np.float64).reshape(shape)
    return torch.from_numpy(np.asarray(_scaled(key, values)).astype(np.float32))


def _scaled(key: str, x: Any) -> Any:
    if any(part in key for part in STANDARD_NORMAL):
        return x
    if key.endswith("running_mean"):
        return 0.1 * x
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(x)
    if x.ndim < 2 or "output_upscaling.1." in key:  # SegVol's norm there has four dimensions
        return 1 + 0.1 * x if x.ndim == 0 or key.endswith("weight") else 0.1 * x
    if key.endswith(EMBEDDINGS):
        return 0.1 * x
    return x * min(0.05, 1 / np.sqrt(np.prod(x.shape[1:])))


def folder_for_rehearsal(
    announced: Iterable[Announced], folder: Path, note: Callable[[str], None] = logger.warning
) -> list[StandIn]:
    """Fill a weights folder: a link to each official file that is on this machine, a stand-in for every other.

    A file whose methods say no way to make a stand-in is left out, and so is, with a note, one whose stand-in is
    made with a package that is not here. What is there already is not made again, but a stand-in gives way to the
    official file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    placed = []
    for one in announced:
        path = folder / one.file.name
        if one.file.path.is_file() and one.file.path.parent.resolve() != folder.resolve():
            path.unlink(missing_ok=True)
            path.symlink_to(one.file.path.resolve())
        elif not path.is_file() or path.is_symlink():
            maker = next((use for use in one.uses if use.stand_in), None)
            if maker is None:
                continue
            path.unlink(missing_ok=True)
            try:
                _write(maker, path)
            except ModuleNotFoundError as error:  # of the method's own environment
                note(f"no stand-in for {path.name}: it is made with {error.name}, which is not installed here")
                continue
        placed.append(StandIn(one.file, path.is_symlink(), path))
    return placed


def _write(maker: WeightFile, path: Path) -> None:
    module, _, name = maker.stand_in.partition(":")
    with atomically(path) as partial:
        getattr(importlib.import_module(module), name)(partial, maker.system)
