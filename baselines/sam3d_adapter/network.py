"""3DSAM-adapter's network in the key layout of the official files.

SAM-B's image encoder with a volumetric stem, adapters and 8³ windows; a prompt encoder that samples the image
features at the clicks; a multi-level decoder. Source: Gong et al., "3DSAM-adapter: Holistic adaptation of SAM from 2D
to 3D for promptable tumor segmentation" (MedIA 2024); written from the paper and from tensor shapes alone.

Images enter as (B, 1, D, H, W); inside, tokens and features are in the order (H, W, D).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.checkpoints import read_checkpoint, recognise
from baselines.sam.decoder import CrossAttention
from baselines.sam.layers import Feedforward
from baselines.sam.prompt_encoder import FourierPosition
from baselines.sam3d_adapter.encoder import SIZES, ImageEncoder, Size, enlargement_matrix, shift_mask
from benchmarks.common.checkpoint import load_strictly
from benchmarks.common.errors import UserError

SYSTEM = "3DSAM-adapter"
QUERIES, HEADS = 10, 8  # of the prompt encoder's blocks, at every size


class SamplingBlock(nn.Module):
    """Learned queries and click features attend to each other; then the image attends to the learned queries."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.global_query = nn.Parameter(torch.randn(1, QUERIES, width) * 0.1)
        self.self_attn = CrossAttention(width, HEADS, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = CrossAttention(width, HEADS, width // 2)  # in the file, never called
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Feedforward(width, hidden, nn.ReLU)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = CrossAttention(width, HEADS, width // 2)

    def forward(self, image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        own = self.global_query.expand(len(points), -1, -1)
        q = torch.cat([own, points], dim=1)
        q = self.norm2(q + self.norm1(self.self_attn(q, q, q)))
        own, points = q[:, : own.shape[1]], q[:, own.shape[1] :]
        own = self.norm3(own + self.mlp(own))
        return self.norm4(image + self.cross_attn_image_to_token(image, own, own)), points


class PromptEncoder(FourierPosition):
    """A feature (B, C, H, W, D) and positive clicks → the feature, informed of the clicks."""

    def __init__(self, size: Size) -> None:
        super().__init__(3, size.feature // 2, size.feature)  # its matrix is in the file; no output depends on it
        self.crop = size.crop
        layers = nn.ModuleList(SamplingBlock(size.feature, size.prompt_hidden) for _ in range(2))
        self.transformer = nn.ModuleDict({"layers": layers})

    def position(self, grid: int) -> Tensor:
        """Encoding of the feature's positions (1, C, H, W, D), used nowhere.

        The released code stretches the coordinates by 3/2 about the centre and stacks the columns as (w, h, d).
        """
        axis = 1.5 * ((torch.arange(grid) + 0.5) / grid - 0.5) + 0.5
        h, w, d = torch.meshgrid(axis, axis, axis, indexing="ij")
        return FourierPosition.forward(self, torch.stack([w, h, d], dim=-1)).movedim(-1, 0)[None]

    def forward(self, feature: Tensor, points: Tensor) -> Tensor:  # type: ignore[override]
        """`points`: voxel indices (B, N, 3) of the crop as (d, w, h)."""
        place = (points.to(feature.dtype) + 0.5) * 2 / self.crop - 1
        sampled = F.grid_sample(feature, place[:, :, None, None], align_corners=False)
        tokens = sampled[..., 0, 0].transpose(1, 2)
        image = feature.flatten(2).transpose(1, 2)
        for layer in cast(nn.ModuleList, self.transformer["layers"]):
            image, tokens = layer(image, tokens)
        return image.transpose(1, 2).unflatten(2, feature.shape[2:])


class MultiLevelHead(nn.Module):
    """The four features, each refined and enlarged twofold, side by side."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.head2 = refinement(size.feature, size.decoder)
        self.head3 = refinement(size.feature, size.decoder)
        self.head4 = refinement(size.feature, size.decoder)
        self.head5 = refinement(size.feature, size.decoder)

    def forward(self, features: list[Tensor]) -> Tensor:
        heads = (self.head2, self.head3, self.head4, self.head5)
        return torch.cat([twice(head(x)) for head, x in zip(heads, features, strict=True)], dim=1)


def refinement(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, out, 3, padding=1, bias=False),
        nn.InstanceNorm3d(out),
        nn.ReLU(),
        nn.Conv3d(out, out, 3, padding=1, bias=False),
        nn.InstanceNorm3d(out),
        nn.ReLU(),
    )


def twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)


class MaskDecoder(nn.Module):
    """Four features and the image at half size → logits (B, 2, H, W, D) of background and tumour."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.mlahead = MultiLevelHead(size)
        self.cls = nn.Sequential(
            nn.Conv3d(4 * size.decoder + 1, size.decoder, 3, padding=1, bias=False),
            nn.InstanceNorm3d(size.decoder),
            nn.ReLU(),
            nn.Conv3d(size.decoder, 2, 3, padding=1, bias=False),
        )

    def forward(self, features: list[Tensor], half_image: Tensor) -> Tensor:
        return twice(self.cls(torch.cat([self.mlahead(features), half_image], dim=1)))


class Sam3dAdapter(nn.Module):
    """The whole model: `encode` once per crop, `decode` per prompt."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.encoder = ImageEncoder(size)
        self.prompt_encoder = PromptEncoder(size)
        self.decoder = MaskDecoder(size)

    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, 1, D, H, W) → four features and, last, the image at half size (B, 1, H/2, W/2, D/2)."""
        return [*self.encoder(image), half_size(image)]

    def decode(self, encoded: list[Tensor], points: Tensor) -> Tensor:
        """Logits (B, 2, D, H, W) for positive clicks (B, N, 3) as (d, w, h) voxel indices of the crop."""
        *features, half_image = encoded
        features = [*features[:-1], self.prompt_encoder(features[-1], points)]
        return self.decoder(features, half_image).permute(0, 1, 4, 2, 3)

    def forward(self, image: Tensor, points: Tensor) -> Tensor:
        return self.decode(self.encode(image), points)

    def freeze_backbone(self) -> None:
        """Leave trainable what the paper trains: all but SAM's patch embedding, positions, attention and MLPs."""
        trained = ("depth_embed", "slice_embed", ".norm1.", ".norm2.", ".adapter.", "rel_pos_d", "neck_3d")
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(any(part in name for part in trained))


def half_size(image: Tensor) -> Tensor:
    """(B, 1, D, H, W) → (B, 1, H/2, W/2, D/2)."""
    turned = image.permute(0, 1, 3, 4, 2)
    return F.interpolate(turned, scale_factor=0.5, mode="trilinear", align_corners=False)


def load_official_file(path: Path | str) -> Sam3dAdapter:
    """The network with the weights of an official `best.pth.tar` or `last.pth.tar`, on the CPU.

    The file holds four prompt encoders; all must fit, the last is the one in use. Its stored shift masks must be the
    ones that this network computes.

    Raises:
        UserError: another system's file, truncated, or parts or keys that do not fit.
    """
    checkpoint = read_checkpoint(path)
    seen = recognise(checkpoint)
    if seen is not None and seen != SYSTEM:
        raise UserError(f"{path}: this looks like {seen}, expected {SYSTEM}")
    encoder, prompt_encoders, decoder = parts_of(checkpoint, path)
    size = SIZES["official"]
    with torch.device("meta"):
        network = Sam3dAdapter(size)
    network.encoder.enlargement = enlargement_matrix()
    load_strictly(network.encoder, without_masks(encoder, size, path), path, f"{SYSTEM} (encoder_dict)")
    for index, state in enumerate(prompt_encoders):
        load_strictly(network.prompt_encoder, state, path, f"{SYSTEM} (feature_dict.{index})")
    load_strictly(network.decoder, decoder, path, f"{SYSTEM} (decoder_dict)")
    return network.eval()


def parts_of(checkpoint: Any, path: Path | str) -> tuple[Mapping, list[Mapping], Mapping]:
    """The file's three parts. Raises UserError where one is absent or of another kind."""
    names = ("encoder_dict", "feature_dict", "decoder_dict")
    absent = [name for name in names if not isinstance(checkpoint, Mapping) or name not in checkpoint]
    if absent:
        raise UserError(f"{path}: does not fit {SYSTEM}: missing {', '.join(absent)}")
    encoder, features, decoder = (checkpoint[name] for name in names)
    if not isinstance(features, list | tuple) or len(features) != 4:
        raise UserError(f"{path}: does not fit {SYSTEM}: feature_dict must list four prompt encoders")
    return encoder, list(features), decoder


def without_masks(encoder: Mapping[str, Tensor], size: Size, path: Path | str) -> dict[str, Tensor]:
    """The encoder's state without the shift masks that upstream stores beside its weights.

    Raises:
        UserError: a mask is missing, belongs to an unshifted block, or differs from the computed one.
    """
    state = dict(encoder)
    expected = shift_mask(size.grid, size.window)
    for index in range(0, size.levels[-1], 2):
        key = f"blocks.{index}.attn_mask"
        stored = state.pop(key, None)
        if stored is None:
            raise UserError(f"{path}: does not fit {SYSTEM}: missing encoder_dict.{key}")
        if not torch.equal(stored, expected):
            raise UserError(f"{path}: encoder_dict.{key} is not the mask of windows of {size.window} shifted by a half")
    return state
