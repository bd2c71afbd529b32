"""SegVol's network in the key layout of the official file, for arrays (D, H, W).

Image encoder (ViT, learned positions, no bias in qkv), CLIP's text tower, SAM's prompt encoder and mask decoder in
3D. Source: Du et al., "SegVol: Universal and Interactive Volumetric Medical Image Segmentation" (NeurIPS 2024).
Peculiarities of the released model that its weights depend on are kept, and named where they occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.checkpoints import load_official
from baselines.sam.decoder import MaskDecoder as SamMaskDecoder
from baselines.sam.layers import ChannelNorm
from baselines.sam.prompt_encoder import PADDING, FourierPosition

END_OF_TEXT = 49407
START_OF_TEXT = 49406
VOCABULARY = 49408
POSITIONS = 77  # CLIP's tokens of a text
TEMPLATE = "A computerized tomography of a {}."


@dataclass(frozen=True)
class Size:
    """Widths and depths; the defaults are those of `SegVol_v1.pth`."""

    image: tuple[int, int, int] = (32, 256, 256)
    patch: tuple[int, int, int] = (4, 16, 16)
    width: int = 768
    depth: int = 12
    heads: int = 12
    text_width: int = 512
    text_depth: int = 12
    text_heads: int = 8
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    iou_hidden: int = 256
    aligned: bool = False

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens per axis."""
        d, h, w = (n // p for n, p in zip(self.image, self.patch, strict=True))
        return d, h, w


SIZES = {
    "official": Size(),
    "tiny": Size(
        image=(16, 48, 48), patch=(4, 4, 4), width=48, depth=2, heads=2,
        text_width=16, text_depth=1, text_heads=2, decoder_heads=2, decoder_hidden=96, iou_hidden=24,
        aligned=True,
    ),
}  # fmt: skip


class SelfAttention(nn.Module):
    """Multi-head self-attention; the order of `qkv` is (q, k, v), then heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GeluMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x)))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = GeluMlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ToPatches(nn.Module):
    """(B, 1, D, H, W) → (B, patches, voxels of a patch), both row-major."""

    def __init__(self, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, image: Tensor) -> Tensor:
        x = image[:, 0]
        for axis, size in zip((1, 3, 5), self.patch, strict=True):
            x = x.unflatten(axis, (-1, size))
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)


class PatchEmbedding(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        tokens, voxels = torch.Size(size.grid).numel(), torch.Size(size.patch).numel()
        self.patch_embeddings = nn.Sequential(ToPatches(size.patch), nn.Linear(voxels, size.width))
        self.position_embeddings = nn.Parameter(torch.randn(1, tokens, size.width) * 0.02)

    def forward(self, image: Tensor) -> Tensor:
        return self.patch_embeddings(image) + self.position_embeddings


class ImageEncoder(nn.Module):
    """(B, 1, D, H, W) in [0, 1] → (B, tokens, C), tokens row-major over (D, H, W)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(size)
        self.blocks = nn.ModuleList(EncoderBlock(size.width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embedding(image)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class ClipSelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class QuickGeluMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class ClipLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = ClipSelfAttention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = QuickGeluMlp(width)
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipTextTower(nn.Module):
    """CLIP's text transformer (ViT-B/32 at the official size), keys as `transformers` 4 named them."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(VOCABULARY, width),
                "position_embedding": nn.Embedding(POSITIONS, width),
            }
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(ClipLayer(width, heads) for _ in range(depth))})
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) → states (B, L, C), and the state at the first end-of-text token (B, C)."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.embeddings["token_embedding"](ids) + self.embeddings["position_embedding"](positions)
        for layer in cast(nn.ModuleList, self.encoder["layers"]):
            x = layer(x)
        x = self.final_layer_norm(x)
        end = (ids == END_OF_TEXT).int().argmax(dim=1)
        return x, x[torch.arange(len(x), device=x.device), end]


class TextEncoder(nn.Module):
    """Token ids (B, L) → one prompt token per text (B, C)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        tower = ClipTextTower(size.text_width, size.text_depth, size.text_heads)
        self.clip_text_model = nn.ModuleDict({"text_model": tower})
        self.dim_align = nn.Linear(size.text_width, size.width)

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's states and pooled state."""
        states, pooled = self.clip_text_model["text_model"](ids)
        return states, pooled

    def forward(self, ids: Tensor) -> Tensor:
        with torch.no_grad():  # CLIP is frozen, as in the original training
            pooled = self.states(ids)[1]
        return self.dim_align(pooled)


class PromptEncoder(nn.Module):
    """Points, a box and a text embedding → prompt tokens (B, N, C)."""

    def __init__(self, size: Size, mask_channels: int = 16) -> None:
        super().__init__()
        self.image = size.image
        # Upstream divides d by the height and h by the depth, so h runs beyond 1, and stacks the grid as (h, d, w): as
        # `FourierPosition` does for every 3D descendant of SAM. The weights learned it.
        self.pe_layer = FourierPosition(3, size.width // 2, size.width, size.aligned)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, size.width) for _ in range(4))  # -, +, corners
        self.not_a_point_embed = nn.Embedding(1, size.width)
        # The released model never calls this 2D stack; it is in the file.
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, 2),
            ChannelNorm(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, 2),
            ChannelNorm(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, size.width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, size.width)

    def forward(self, points: tuple[Tensor, Tensor] | None, box: Tensor | None, text: Tensor | None) -> Tensor:
        """Prompt tokens in upstream's order: points, a padding point unless there is a box, corners, text.

        Args:
            points: voxel indices (B, N, 3) in (d, h, w) and labels (B, N): 1, 0, or -1 for padding.
            box: (B, 6) as (d1, h1, w1, d2, h2, w2).
            text: (B, C).
        """
        tokens = []
        if points is not None:
            tokens.append(self._points(*points, pad=box is None))
        if box is not None:
            corners = self.pe_layer.of_points(box.unflatten(-1, (2, 3)) + 0.5, self.image)
            tokens.append(corners + torch.stack([self._kind(2), self._kind(3)], 1))
        if text is not None:
            tokens.append(text[:, None])
        return torch.cat(tokens, dim=1)

    def _kind(self, index: int) -> Tensor:
        return cast(nn.Embedding, self.point_embeddings[index]).weight

    def _points(self, coordinates: Tensor, labels: Tensor, pad: bool) -> Tensor:
        if pad:
            coordinates = F.pad(coordinates, (0, 0, 0, 1))
            labels = F.pad(labels, (0, 1), value=PADDING)
        encoded = self.pe_layer.of_points(coordinates + 0.5, self.image)
        label = labels[..., None]
        encoded = torch.where(label == PADDING, self.not_a_point_embed.weight, encoded)
        encoded = encoded + (label == 0) * self._kind(0)
        return encoded + (label == 1) * self._kind(1)


class MaskDecoder(SamMaskDecoder):
    """Prompt tokens and image embedding → low-resolution mask logits; text also acts on the masks directly."""

    def __init__(self, size: Size) -> None:
        super().__init__(3, size.width, size.decoder_heads, size.decoder_hidden, size.iou_hidden)
        self.grid = size.grid
        middle = (size.width // 4, *(2 * n for n in size.grid))
        self.output_upscaling[1] = nn.LayerNorm(middle)  # over positions too: ties the decoder to one input size
        self.txt_align_upscaled_embedding = nn.Linear(size.width, size.width // 8)

    def single(self, cells: Tensor, position: Tensor, prompt: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """The single mask (token 0) and its predicted IoU.

        Args:
            cells: image tokens (B, N, C), the embedding of the absent mask prompt added.
            position: their encoding (1, N, C).
            prompt: prompt tokens (B, T, C).
            text: (B, C) or None.

        Returns:
            Logits (B, 1, 4d, 4h, 4w) for a grid (d, h, w), IoU (B, 1).
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(prompt), -1, -1)
        hidden, image = self.transformer(torch.cat([own, prompt], dim=1), cells, position)
        upscaled = self.output_upscaling(image.transpose(1, 2).unflatten(2, self.grid))
        weights = self.output_hypernetworks_mlps[0](hidden[:, 1])
        if text is not None:  # a similarity map, added to the mask
            weights = weights + self.txt_align_upscaled_embedding(text)
        logits = torch.einsum("bc,bcdhw->bdhw", weights, upscaled)[:, None]
        return logits, self.iou_prediction_head(hidden[:, 0])[:, :1]


class SegVol(nn.Module):
    """The whole model. Point and box coordinates are voxel indices of the (D, H, W) input."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.image_encoder = ImageEncoder(size)
        self.prompt_encoder = PromptEncoder(size)
        self.mask_decoder = MaskDecoder(size)
        self.text_encoder = TextEncoder(size)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) in [0, 1] → image tokens (B, N, C)."""
        return self.image_encoder(image)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) → (B, C)."""
        return self.text_encoder(ids)

    def decode(
        self,
        tokens: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        box: Tensor | None = None,
        text: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits and IoU for one prompt set per image."""
        prompt = self.prompt_encoder(points, box, text)
        position = self.prompt_encoder.pe_layer.of_grid(self.size.grid).flatten(2).transpose(1, 2)
        return self.mask_decoder.single(tokens + self.prompt_encoder.no_mask_embed.weight, position, prompt, text)

    def enlarge(self, low_resolution: Tensor) -> Tensor:
        """Logits of the decoder on the input's grid."""
        return F.interpolate(low_resolution, self.size.image, mode="trilinear", align_corners=False)

    def forward(
        self,
        image: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        box: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, 1, D, H, W)."""
        return self.enlarge(self.decode(self.encode(image), points, box, text)[0])


def load_official_file(path: Path | str) -> SegVol:
    """The network with the weights of `SegVol_v1.pth` (or a file of that layout), on the CPU.

    Raises:
        UserError: another system's file, truncated, or keys missing, unexpected or misshapen.
    """
    with torch.device("meta"):
        network = SegVol(SIZES["official"])
    load_official(network, path, "SegVol", prefixes=("module.", "model."), optional=(r"embeddings\.position_ids$",))
    return network.eval()


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def token_ids(sentence: str) -> list[int]:
    """CLIP's byte-pair ids with start and end of text; from the vocabulary bundled with open_clip (offline)."""
    return [START_OF_TEXT, *_tokenizer().encode(sentence), END_OF_TEXT]


def batch_of_ids(sentences: Sequence[str]) -> Tensor:
    """Ids of several sentences (B, L), padded behind the end of text, which causal attention never sees."""
    ids = [token_ids(sentence) for sentence in sentences]
    longest = max(map(len, ids))
    return torch.tensor([row + [END_OF_TEXT] * (longest - len(row)) for row in ids])
