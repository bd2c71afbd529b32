"""The files of SAM 2 and MedSAM2, read into the official network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from baselines.checkpoints import read_checkpoint, state_dict_of
from benchmarks.common.checkpoint import load_strictly
from benchmarks.common.errors import UserError

CONFIGURATIONS = {
    "tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "base-plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "large": "configs/sam2.1/sam2.1_hiera_l.yaml",
}
SYSTEM = "SAM 2"
_LAYERS = "memory_attention.layers."


def predictor_from(path: Path, size: str, image_size: int, device: str) -> Any:
    """SAM 2's own predictor for films with these weights. How deep the memory attention is, the weights say.

    Raises:
        UserError: an unknown size, or weights that do not fit it.
    """
    if size not in CONFIGURATIONS:
        raise UserError(f"sam2: unknown size '{size}'; known: {', '.join(CONFIGURATIONS)}")
    state = state_dict_of(read_checkpoint(path), path, SYSTEM)
    if not any(key.startswith(_LAYERS) for key in state):
        raise UserError(f"{path}: holds no memory attention; this is not the file of a {SYSTEM}")
    layers = 1 + max(int(key.removeprefix(_LAYERS).split(".")[0]) for key in state if key.startswith(_LAYERS))
    predictor = build_predictor(size, image_size, device, layers)
    load_strictly(predictor, state, path, f"SAM 2.1 of size '{size}'")
    return predictor


def build_predictor(size: str, image_size: int, device: str, layers: int = 4) -> Any:
    """The predictor with fresh weights; a slice that is corrected stays corrected when the lesion is followed again."""
    from sam2.build_sam import build_sam2_video_predictor

    overrides = [
        f"++model.image_size={image_size}",
        f"++model.memory_attention.num_layers={layers}",
        "++model.add_all_frames_to_correct_as_cond=true",
    ]
    return build_sam2_video_predictor(CONFIGURATIONS[size], None, device=device, hydra_overrides_extra=overrides)
