"""Weights of the frozen towers: official SAM files, CLIP by open_clip name or file, seeded ones, and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.common.content import sha256_of
from benchmarks.common.errors import one_line
from benchmarks.common.files import write_json
from benchmarks.common.weight_file import locate, weights_folder
from benchmarks.weights.segment_anything import FILES as SAM_FILES
from benchmarks.weights.segment_anything import GRID as SAM_GRID
from benchmarks.weights.segment_anything import sam_of
from tags.model import TAGS
from tags.official import CLIP_FILES
from tags.semantic import build_clip

RANDOM = "random"  # no download, no knowledge: frozen towers from a fixed seed, a trained one as torch draws it
SEED = 2025  # of frozen random towers
PHANTOMS = "phantoms"  # CLIP towers that `tags.contrast` has trained; they come with the package
TOWERS_FILE = "towers.safetensors"
UNUSED_PREFIXES = ("prompt_encoder.", "mask_decoder.")  # SAM's own prompt and mask heads are 2D


class WeightsError(Exception):
    """A weights file is missing, is not what it should be, or does not fit; one line."""


@dataclass(frozen=True)
class Loaded:
    """What became of every key of a file."""

    used: tuple[str, ...]
    unused: tuple[str, ...]


def find_file(name: str) -> Path:
    """A weights file by path, or by name in the weights folder."""
    path = locate(name)
    if path is not None:
        return path
    official = name in {file for file, *_ in SAM_FILES.values()}
    fetch = f"fetch it (`tags-bench weights fetch {name}`), " if official else ""
    raise WeightsError(f"no weights file '{name}': {fetch}put it at {weights_folder() / name}, or give its path")


def read_state(path: Path) -> dict[str, Tensor]:
    """A flat state dict from a .pth or .safetensors file; nothing but tensors is ever unpickled."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path}: not a readable weights file ({error})") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for broken files
        raise WeightsError(f"{path}: not a readable weights file ({one_line(error, 200)})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a flat state dict of tensors; the official SAM file is needed")
    return dict(state)


def sam_file_problem(path: Path, system: str) -> str:
    """What is wrong with a file that should be an official SAM file ("SAM-B", "SAM-L", "SAM-H"); "" if nothing is."""
    try:
        state = read_state(path)
    except WeightsError as error:
        return str(error).removeprefix(f"{path}: ")
    foreign = [key for key in state if not key.startswith(("image_encoder.", *UNUSED_PREFIXES))]
    position = state.get("image_encoder.pos_embed")
    if foreign or position is None:
        found = foreign[0] if foreign else min(state, default="nothing")
        return f"not a SAM file, expected {system} (it holds '{found}')"
    known = sam_of(position.shape) if tuple(position.shape[:-1]) == (1, *SAM_GRID) else None
    seen = known or "a relative of SAM"
    if any(".Adapter." in key for key in state):
        seen = "SAM with adapters"
    return "" if seen == system else f"this looks like {seen}, expected {system}"


def clip_file_problem(path: Path, system: str) -> str:
    """What is wrong with a file that should hold the CLIP of that open_clip name; "" if nothing is."""
    try:
        state = read_clip_file(path)
    except WeightsError as error:
        return str(error).removeprefix(f"{path}: ")
    with torch.device("meta"):
        own = build_clip(system).state_dict()
    odd = sorted(own.keys() ^ state.keys()) or [key for key in own if own[key].shape != state[key].shape]
    return f"does not fit the CLIP {system}, the first difference is '{odd[0]}'" if odd else ""


def sam_key(key: str) -> str | None:
    """The parameter of `TAGS` that takes a key of SAM's file as it is; None for the neck and the unused keys."""
    whole = {
        "image_encoder.pos_embed": "stem.pos_embed",
        "image_encoder.patch_embed.proj.weight": "stem.patch_weight",
        "image_encoder.patch_embed.proj.bias": "stem.patch_bias",
    }
    if key in whole:
        return whole[key]
    if key.startswith("image_encoder.blocks."):
        return key.replace("image_encoder.", "encoder.", 1)
    return None


def load_sam(model: TAGS, state: Mapping[str, Tensor], source: str = "SAM weights") -> Loaded:
    """Put SAM's image encoder under TAGS, strictly.

    SAM's neck starts all of TAGS's necks: its 2D kernels become the middle slice of the 3D ones, and its norms are
    taken over. The depth axis of each relative-position table starts at the mean of SAM's two. The 2D prompt encoder
    and mask decoder are not used.

    Raises:
        WeightsError: a key that is neither used nor known as unused, one that is missing, or another shape.
    """
    parameters = dict(model.named_parameters())
    wanted = {name for name in parameters if _comes_from_sam(name)}
    used, unused, unknown = [], [], []
    with torch.no_grad():
        for key, value in state.items():
            name = sam_key(key)
            if name is not None and name in parameters:
                _copy(parameters[name], value, key, source)
                wanted.discard(name)
                used.append(key)
            elif key.startswith("image_encoder.neck."):
                for tap in range(len(model.encoder.necks)):
                    _start_neck(parameters[f"encoder.necks.{tap}.{key.split('neck.')[1]}"], value, key, source)
                    wanted.discard(f"encoder.necks.{tap}.{key.split('neck.')[1]}")
                used.append(key)
            elif key.startswith(UNUSED_PREFIXES):
                unused.append(key)
            else:
                unknown.append(key)
        if unknown:
            raise WeightsError(f"{source}: {len(unknown)} keys fit nothing, the first is '{unknown[0]}'")
        if wanted:
            raise WeightsError(f"{source}: {len(wanted)} weights are missing, the first is for '{sorted(wanted)[0]}'")
        for name, parameter in parameters.items():
            if name.endswith("rel_pos_d"):
                stem = name.removesuffix("d")
                parameter.copy_((parameters[f"{stem}h"] + parameters[f"{stem}w"]) / 2)
    return Loaded(tuple(used), tuple(unused))


def _comes_from_sam(name: str) -> bool:
    """Whether a parameter of TAGS must be found in SAM's file."""
    if name in ("stem.pos_embed", "stem.patch_weight", "stem.patch_bias") or name.startswith("encoder.necks."):
        return True
    return name.startswith("encoder.blocks.") and ".adapter." not in name and not name.endswith("rel_pos_d")


def _copy(parameter: Tensor, value: Tensor, key: str, source: str) -> None:
    if parameter.shape != value.shape:
        raise WeightsError(
            f"{source}: '{key}' has shape {tuple(value.shape)}, this size of TAGS needs {tuple(parameter.shape)}"
        )
    parameter.copy_(value)


def _start_neck(parameter: Tensor, value: Tensor, key: str, source: str) -> None:
    """A 2D kernel (out, in, h, w) becomes the middle slice of (out, in, h, w, d); norms are copied."""
    if parameter.ndim == value.ndim:
        _copy(parameter, value, key, source)
        return
    parameter.zero_()
    _copy(parameter[..., parameter.shape[-1] // 2], value, key, source)


def seed_tower(module: nn.Module, seed: int) -> None:
    """Fill a tower from a fixed seed, the same on every machine: normal weights by fan-in, ones and zeros for norms."""
    _seed(module.named_parameters(), seed)


def seed_sam(model: TAGS, seed: int) -> None:
    """Fill the frozen SAM tower likewise: a checkpoint does not hold it, so every process has to find the same one.

    Its relative positions stay at zero, where they start.
    """
    tower = [(name, p) for name, p in model.frozen_parameters() if model.tower(name) == "sam"]
    _seed([(name, p) for name, p in tower if "rel_pos" not in name], seed)


def _seed(parameters: Iterable[tuple[str, nn.Parameter]], seed: int) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for name, parameter in sorted(parameters):
            if parameter.ndim == 0:
                continue
            if parameter.ndim == 1 and "embedding" not in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            values = random.standard_normal(parameter.shape, dtype=np.float32)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
            parameter.copy_(torch.from_numpy(values) * fan_in**-0.5)


def load_clip(model: TAGS, weights: str) -> None:
    """Put weights under the CLIP tower: "random" (seeded), "phantoms", a local file, or an open_clip pre-trained tag.

    A tag whose file lies in the weights folder is read from there; otherwise open_clip fetches it into its own cache.

    Raises:
        WeightsError: the file or tag is not there, or does not fit the architecture.
    """
    if model.clip is None:
        return
    if weights == RANDOM:
        seed_tower(model.clip, SEED)
        return
    name = model.config.clip
    official = CLIP_FILES.get((name, weights))
    if weights == PHANTOMS:
        state = read_state(phantom_towers() / TOWERS_FILE)
    elif official is not None and official.path.is_file():
        state = read_clip_file(official.path)
    elif weights in open_clip.list_pretrained_tags_by_model(name):
        state = _download_clip(name, weights)
    else:
        state = read_clip_file(find_file(weights))
    try:
        model.clip.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"CLIP weights '{weights}' do not fit '{name}': {reason}") from error


def phantom_towers() -> Path:
    """The folder of the towers trained by `tags.contrast`: their weights and the card that says how they were made."""
    return Path(__file__).parent / "zoo" / "clip-phantoms"


def save_phantom_towers(clip: nn.Module, card: Mapping[str, Any], folder: Path) -> None:
    """Write towers in half precision, which is what is read again, and their card with the SHA-256 of that file."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().half().contiguous() for name, value in clip.state_dict().items()}
    save_file(state, folder / TOWERS_FILE)
    write_json(folder / "card.json", {**card, "sha256": sha256_of(folder / TOWERS_FILE)})


def read_clip_file(path: Path) -> dict[str, Tensor]:
    """An open_clip state dict; a wrapping `state_dict` and a `module.` prefix are taken off."""
    if path.suffix == ".safetensors":
        return read_state(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for broken files
        raise WeightsError(f"{path}: not a readable weights file ({one_line(error, 200)})") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a CLIP state dict")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _download_clip(name: str, tag: str) -> dict[str, Tensor]:
    try:
        pretrained = open_clip.create_model(name, pretrained=tag)
    except Exception as error:  # network, disk and hub errors of many kinds
        official = CLIP_FILES.get((name, tag))
        other = f"`tags-bench weights fetch {official.name}` says where to put it, or " if official else ""
        raise WeightsError(
            f"CLIP '{name}' with weights '{tag}' could not be fetched ({one_line(error, 200)}); without a "
            f"network {other}save its open_clip state dict as a file and give that as clip_weights"
        ) from error
    return pretrained.state_dict()


def tower_digests(model: TAGS) -> dict[str, str]:
    """SHA-256 of every frozen tower ("sam", "clip"), over names, shapes and float32 bytes."""
    hashes: dict[str, hashlib._Hash] = {}
    for name, parameter in sorted(model.frozen_parameters()):
        tower = model.tower(name)
        if tower is None:
            continue
        digest = hashes.setdefault(tower, hashlib.sha256())
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return {tower: digest.hexdigest() for tower, digest in hashes.items()}


def trained_state(model: TAGS) -> dict[str, Tensor]:
    """What a checkpoint holds: parameters that are trained, and no frozen tower."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def restore_trained(model: TAGS, state: Mapping[str, Tensor], source: str) -> None:
    """Put back what `trained_state` gave, strictly."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    odd = sorted(trained.keys() ^ state.keys())
    if odd:
        raise WeightsError(f"{source}: does not hold the same trained parameters, the first difference is '{odd[0]}'")
    with torch.no_grad():
        for name, parameter in trained.items():
            _copy(parameter, state[name], name, source)
