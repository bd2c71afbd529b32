"""Semantic guidance: a frozen CLIP visual tower looks at axial slices and enters the SAM stream through zero gates."""

from __future__ import annotations

from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

CLIP_MEAN = open_clip.OPENAI_DATASET_MEAN
CLIP_STD = open_clip.OPENAI_DATASET_STD
PLAIN_CLIP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}  # what open_clip says of one; others have more
TINY_CLIP = "tiny"  # our own architecture names, for the size that needs no download: the one with random weights,
PHANTOM_CLIP = "tiny-phantoms"  # and the one that `tags.contrast` trains


@dataclass
class VisualFeatures:
    """What the frozen tower sees of a crop; depends on the crop only, so it is cacheable.

    Attributes:
        patches: (B, layers·width, g, g, S), tokens of the chosen layers, axes (x, y, z).
        joint: (B, E, g, g, S), last-layer tokens in the space that images and texts share.
        pooled: (B, E), mean of the slices' image embeddings.
    """

    patches: Tensor
    joint: Tensor
    pooled: Tensor


def build_clip(name: str) -> CLIP:
    """The CLIP architecture of that open_clip name, without pre-trained weights; two small ones are made here."""
    if name == TINY_CLIP:
        return CLIP(
            embed_dim=32,
            vision_cfg=CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32),
            text_cfg=CLIPTextCfg(context_length=77, width=16, heads=2, layers=2),
        )
    if name == PHANTOM_CLIP:
        return CLIP(
            embed_dim=48,
            vision_cfg=CLIPVisionCfg(layers=3, width=48, head_width=16, patch_size=4, image_size=32),
            text_cfg=CLIPTextCfg(context_length=77, width=24, heads=2, layers=2),
        )
    config = open_clip.get_model_config(name)
    plain = config is not None and config.keys() <= PLAIN_CLIP and "hf_model_name" not in config["text_cfg"]
    model = CLIP(**config) if plain else None
    if model is None or not isinstance(model.visual, VisionTransformer):
        raise ValueError(f"open_clip model '{name}' has no plain ViT image tower with text tower; use a ViT-* CLIP")
    return model


def slice_centres(depth: int, slices: int) -> Tensor:
    """Indices of the slices that are looked at, in the middles of as many equal parts; never more than there are."""
    count = min(slices, depth)
    return ((torch.arange(count) + 0.5) * depth / count - 0.5).round().long()


class ClipVision(nn.Module):
    """Sees S axial slices of a crop (three neighbouring slices as the colours) through a frozen visual tower.

    Args:
        clip: the frozen CLIP model; held, not owned (its parameters are registered elsewhere).
        slices: S.
        layers: indices of the transformer layers whose tokens guide; negative ones count from the end.
    """

    def __init__(self, clip: CLIP, slices: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        self._clip = (clip,)  # in a tuple: not a sub-module
        self.slices = slices
        depth = len(clip.visual.transformer.resblocks)
        self.layers = tuple(sorted({layer % depth for layer in layers} | {depth - 1}))
        self.guiding = [self.layers.index(layer % depth) for layer in layers]
        self.width = len(layers) * clip.visual.conv1.out_channels
        self.embed_dim = clip.visual.output_dim
        self.image_size = clip.visual.image_size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)

    def pictures(self, image: Tensor, bounds: Tensor) -> Tensor:
        """(B·S, 3, h, w): slices upright (front up, patient's right on the left), CLIP mean and std.

        Args:
            image: (B, 1, X, Y, Z), normalised intensities.
            bounds: (B, 2), the normalised values of black and white.
        """
        depth = image.shape[-1]
        centres = slice_centres(depth, self.slices)
        planes = (centres[:, None] + torch.tensor([-1, 0, 1])).clamp(0, depth - 1)
        chosen = image[:, 0, :, :, planes.to(image.device)].permute(0, 3, 4, 1, 2)  # B, S, 3, X, Y
        low, high = bounds[:, 0].view(-1, 1, 1, 1, 1), bounds[:, 1].view(-1, 1, 1, 1, 1)
        chosen = ((chosen - low) / (high - low)).clamp(0, 1).flatten(0, 1)
        upright = chosen.transpose(-1, -2).flip(-1, -2)
        resized = F.interpolate(upright, self.image_size, mode="bilinear", align_corners=False)
        return (resized - self.mean) / self.std

    @torch.no_grad()
    def forward(self, image: Tensor, bounds: Tensor) -> VisualFeatures:
        return self.look(image, bounds)

    def look(self, image: Tensor, bounds: Tensor) -> VisualFeatures:
        """The same with gradients, for those who train the tower."""
        visual = self._clip[0].visual
        out = visual.forward_intermediates(self.pictures(image, bounds), indices=list(self.layers), output_fmt="NCHW")
        maps = out["image_intermediates"]
        last = visual.ln_post(maps[-1].permute(0, 2, 3, 1)) @ visual.proj
        batch = image.shape[0]
        return VisualFeatures(
            patches=self._volume(torch.cat([maps[i] for i in self.guiding], dim=1), batch),
            joint=self._volume(last.permute(0, 3, 1, 2), batch),
            pooled=out["image_features"].view(batch, -1, self.embed_dim).mean(dim=1),
        )

    @staticmethod
    def _volume(maps: Tensor, batch: int) -> Tensor:
        """(B·S, D, rows, columns), upright → (B, D, x, y, S) in the crop's axes."""
        maps = maps.flip(-1, -2).transpose(-1, -2)
        return maps.unflatten(0, (batch, -1)).permute(0, 2, 3, 4, 1)


class FilmGate(nn.Module):
    """tokens + tanh(α) · (scale(s) · tokens + shift(s)), α starting at zero, per channel."""

    def __init__(self, dim: int, source: int) -> None:
        super().__init__()
        self.film = nn.Linear(source, 2 * dim)
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor, guidance: Tensor) -> Tensor:
        """tokens and guidance (B, X, Y, Z, C)."""
        scale, shift = self.film(guidance).chunk(2, dim=-1)
        return tokens + torch.tanh(self.gate) * (scale * tokens + shift)


class AttentionGate(nn.Module):
    """tokens + tanh(α) · attention from the tokens to CLIP's patch tokens, α starting at zero, per channel."""

    def __init__(self, dim: int, source: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, source // heads * heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, self.width)
        self.key_value = nn.Linear(source, 2 * self.width)
        self.out = nn.Linear(self.width, dim)
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor, guidance: Tensor) -> Tensor:
        shape = tokens.shape
        q = self._split(self.query(self.norm(tokens)).flatten(1, 3))
        k, v = self.key_value(guidance.flatten(1, 3)).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(q, self._split(k), self._split(v))
        return tokens + torch.tanh(self.gate) * self.out(attended.transpose(1, 2).flatten(2)).view(shape)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SemanticGuidance(nn.Module):
    """One gate per tap; with every gate at zero the SAM stream is untouched, bit for bit.

    Args:
        width: channels of CLIP's patch features.
        dim: channels of the guidance after projection.
        embed_dim: channels of the SAM stream.
        taps: number of depths.
        form: "film" or "attention".
    """

    def __init__(self, width: int, dim: int, embed_dim: int, taps: int, form: str = "film") -> None:
        super().__init__()
        forms = {"film": FilmGate, "attention": AttentionGate}
        if form not in forms:
            raise ValueError(f"semantic_gate must be one of {sorted(forms)}, not '{form}'")
        self.form = form
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim)
        self.gates = nn.ModuleList(forms[form](embed_dim, dim) for _ in range(taps))

    def guidance(self, features: VisualFeatures, size: tuple[int, int, int]) -> Tensor:
        """Computed once for all depths: (B, *size, dim) for FiLM, CLIP's own grid (B, g, g, S, dim) for attention."""
        tokens = F.gelu(self.project(self.norm(features.patches.permute(0, 2, 3, 4, 1))))
        if self.form == "attention":
            return tokens
        resized = F.interpolate(tokens.permute(0, 4, 1, 2, 3), size, mode="trilinear", align_corners=False)
        return resized.permute(0, 2, 3, 4, 1)

    def forward(self, tap: int, tokens: Tensor, guidance: Tensor) -> Tensor:
        return self.gates[tap](tokens, guidance)
