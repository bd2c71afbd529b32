"""Checkpoints of the bench's own training: weights as safetensors, beside JSON that says what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common.errors import UserError

if TYPE_CHECKING:
    import torch

WEIGHTS, FACTS = "weights.safetensors", "checkpoint.json"
MAX_NAMED = 4  # keys that an error message lists before it says "and N more"


def save_weights(module: torch.nn.Module, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write weights (safetensors) and what they belong to (JSON) into an existing folder."""
    from safetensors.torch import save_file

    state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    (folder / FACTS).write_text(json.dumps(dict(facts), indent=2, sort_keys=True) + "\n")


def load_weights(module: torch.nn.Module, folder: Path, facts: Mapping[str, Any], system: str) -> dict[str, Any]:
    """Read what `save_weights` wrote; all facts that were saved, which may be more than `facts`.

    Raises:
        UserError: files missing or damaged, other facts than those saved, keys or shapes that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (WEIGHTS, FACTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no checkpoint of {system} (no {name})")
    try:
        saved = json.loads((folder / FACTS).read_text())
        state = load_file(folder / WEIGHTS)
        if not isinstance(saved, dict):
            raise ValueError(f"{FACTS} holds no JSON object")
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{folder}: damaged checkpoint of {system} ({error})") from error
    for key, value in json.loads(json.dumps(dict(facts))).items():
        if saved.get(key) != value:
            raise UserError(f"{folder}: checkpoint has {key} = {saved.get(key)!r}, {system} expects {value!r}")
    load_strictly(module, state, folder / WEIGHTS, system)
    return saved


def load_strictly(module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path | str, system: str) -> None:
    """Copy a state dict into the module; every key must be there, no other, each of the right shape.

    A module built under `torch.device("meta")` receives the tensors themselves instead of a copy.

    Raises:
        UserError: naming the first missing, unexpected or wrongly shaped keys.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes)]
    if any(keys for _, keys in faults):
        text = "; ".join(f"{len(keys)} {what}: {named(keys)}" for what, keys in faults if keys)
        raise UserError(f"{path}: does not fit {system}: {text}")
    on_meta = any(tensor.is_meta for tensor in own.values())
    if on_meta:
        # assign keeps the file's dtype, a copy would convert: convert here, so that both ways end alike
        state = {key: value.to(own[key].dtype).contiguous() for key, value in state.items()}
    module.load_state_dict(dict(state), strict=True, assign=on_meta)


def named(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:MAX_NAMED])
    return f"{shown} and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else shown
