"""The CLIP-driven Universal Model's network in the key layout of the official files.

A backbone (Swin UNETR or U-Net) gives a bottleneck and a feature map; a controller turns the pooled bottleneck and
the CLIP embedding of a class name into the weights of three tiny 1×1×1 convolutions that segment that class.
Source: Liu et al., "CLIP-Driven Universal Model for Organ Segmentation and Tumor Detection" (ICCV 2023); written from
the paper and from tensor shapes alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.checkpoints import read_checkpoint, state_dict_of
from benchmarks.common.checkpoint import load_strictly

Backbone = Literal["swinunetr", "unet"]
SYSTEMS = {"swinunetr": "Universal Model (Swin UNETR)", "unet": "Universal Model (U-Net)"}

CLASSES = 32
HIDDEN = 8  # channels of the per-class head
OCTANTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


@dataclass(frozen=True)
class Size:
    """Widths; the defaults are those of the released weights.

    Attributes:
        width: channels of the first stage.
        groups: groups of the head's group norms.
        pooled, text: channels of the image and text vectors, and of the class embeddings.
    """

    swin_width: int = 48
    unet_width: int = 32
    groups: int = 16
    pooled: int = 256
    embedding: int = 512


SIZES = {
    "official": Size(),
    "tiny": Size(swin_width=12, unet_width=4, groups=4, pooled=32, embedding=32),
}


class LegacyPatchMerging(nn.Module):
    """Swin's down-sampling as MONAI had it up to 1.4: of the eight octants two are taken twice and two never.

    The released weights were trained with it. Channels-last (B, X, Y, Z, C) → (B, X/2, Y/2, Z/2, 2C).
    """

    def __init__(self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError("only three spatial dimensions are known")
        self.norm = norm_layer(8 * dim)
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return self.reduction(self.norm(torch.cat([x[:, i::2, j::2, k::2] for i, j, k in OCTANTS], dim=-1)))


class SwinBackbone(nn.Module):
    """MONAI's Swin UNETR with the legacy merging and without its output convolution."""

    swinViT: nn.Module
    encoder1: nn.Module
    encoder2: nn.Module
    encoder3: nn.Module
    encoder4: nn.Module
    encoder10: nn.Module
    decoder1: nn.Module
    decoder2: nn.Module
    decoder3: nn.Module
    decoder4: nn.Module
    decoder5: nn.Module

    def __init__(self, width: int) -> None:
        super().__init__()
        from monai.networks.nets import SwinUNETR

        parts = SwinUNETR(
            1, 1, feature_size=width, downsample=LegacyPatchMerging, use_flash_attention=True, spatial_dims=3
        )
        del parts.out
        for name, part in parts.named_children():
            self.add_module(name, part)
        self.bottleneck, self.features = 16 * width, width

    def hidden(self, x: Tensor) -> list[Tensor]:
        """The five normalised states of the transformer, from fine to coarse."""
        states: list[Tensor] = self.swinViT(x, True)
        return states

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, X, Y, Z), each a multiple of 32 → bottleneck (B, 16w, X/32, …), features (B, w, X, Y, Z)."""
        hidden = self.hidden(x)
        bottleneck = self.encoder10(hidden[4])
        up = self.decoder5(bottleneck, hidden[3])
        up = self.decoder4(up, self.encoder4(hidden[2]))
        up = self.decoder3(up, self.encoder3(hidden[1]))
        up = self.decoder2(up, self.encoder2(hidden[0]))
        return bottleneck, self.decoder1(up, self.encoder1(x))


class WindowStatistics(nn.Module):
    """Batch normalisation by the statistics of the window at hand, in evaluation too.

    The released model never uses the running statistics in its file; it normalises by the batch, and its batches are
    single windows. Each window of a batch is normalised by itself here, so that windows may be batched together. A
    prediction still depends on what else lies in its window.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight, bias=self.bias)


class ConvNormRelu(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, out, 3, padding=1)
        self.bn1 = WindowStatistics(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))


class Down(nn.Module):
    """Two convolutions."""

    def __init__(self, channels: int, middle: int, out: int) -> None:
        super().__init__()
        self.ops = nn.Sequential(ConvNormRelu(channels, middle), ConvNormRelu(middle, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(x)


class Up(nn.Module):
    """Twice the resolution, the skip behind it, two convolutions."""

    def __init__(self, channels: int, skip: int) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(channels, channels, 2, 2)
        self.ops = nn.Sequential(ConvNormRelu(channels + skip, skip), ConvNormRelu(skip, skip))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.ops(torch.cat([self.up_conv(x), skip], dim=1))


class UNetBackbone(nn.Module):
    """A 3D U-Net with three poolings; its stages are named after their channels at the official width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down_tr64 = Down(1, width, 2 * width)
        self.down_tr128 = Down(2 * width, 2 * width, 4 * width)
        self.down_tr256 = Down(4 * width, 4 * width, 8 * width)
        self.down_tr512 = Down(8 * width, 8 * width, 16 * width)
        self.up_tr256 = Up(16 * width, 8 * width)
        self.up_tr128 = Up(8 * width, 4 * width)
        self.up_tr64 = Up(4 * width, 2 * width)
        self.bottleneck, self.features = 16 * width, 2 * width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, X, Y, Z), each a multiple of 8 → bottleneck (B, 16w, X/8, …), features (B, 2w, X, Y, Z)."""
        skip64 = self.down_tr64(x)
        skip128 = self.down_tr128(F.max_pool3d(skip64, 2))
        skip256 = self.down_tr256(F.max_pool3d(skip128, 2))
        bottleneck = self.down_tr512(F.max_pool3d(skip256, 2))
        up = self.up_tr256(bottleneck, skip256)
        up = self.up_tr128(up, skip128)
        return bottleneck, self.up_tr64(up, skip64)


class UniversalModel(nn.Module):
    """Backbone, and one small head per class whose weights follow from image and class name."""

    organ_embedding: Tensor

    def __init__(self, backbone: Backbone, size: Size) -> None:
        super().__init__()
        self.backbone: SwinBackbone | UNetBackbone = (
            SwinBackbone(size.swin_width) if backbone == "swinunetr" else UNetBackbone(size.unet_width)
        )
        deep, fine = self.backbone.bottleneck, self.backbone.features
        self.precls_conv = nn.Sequential(nn.GroupNorm(size.groups, fine), nn.ReLU(), nn.Conv3d(fine, HIDDEN, 1))
        self.GAP = nn.Sequential(
            nn.GroupNorm(size.groups, deep), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Conv3d(deep, size.pooled, 1)
        )
        outputs = 2 * HIDDEN * HIDDEN + HIDDEN + 2 * HIDDEN + 1
        self.controller = nn.Conv3d(2 * size.pooled, outputs, 1)
        self.text_to_vision = nn.Linear(size.embedding, size.pooled)
        self.register_buffer("organ_embedding", torch.randn(CLASSES, size.embedding))

    def text(self) -> Tensor:
        """The class vectors (32, pooled)."""
        return F.relu(self.text_to_vision(self.organ_embedding))

    def head_parameters(self, bottleneck: Tensor) -> Tensor:
        """(B, 32, 153): weights of the three layers, then their biases."""
        pooled = self.GAP(bottleneck).flatten(1)
        text = self.text()
        both = torch.cat([pooled[:, None].expand(-1, len(text), -1), text[None].expand(len(pooled), -1, -1)], dim=-1)
        return F.linear(both, self.controller.weight.flatten(1), self.controller.bias)

    def heads(self, bottleneck: Tensor, features: Tensor, classes: Sequence[int] | None = None) -> Tensor:
        """Logits (B, K, X, Y, Z) of the chosen classes (all by default), one class at a time to save memory."""
        chosen = range(CLASSES) if classes is None else classes
        parameters = self.head_parameters(bottleneck)
        x = self.precls_conv(features)
        logits = [torch.stack([class_head(x[b].flatten(1), parameters[b, k]) for k in chosen]) for b in range(len(x))]
        return torch.stack(logits).unflatten(2, features.shape[2:])

    def forward(self, x: Tensor, classes: Sequence[int] | None = None) -> Tensor:
        bottleneck, features = self.backbone(x)
        return self.heads(bottleneck, features, classes)


def class_head(x: Tensor, parameters: Tensor) -> Tensor:
    """Three 1×1×1 convolutions with ReLU between: (8, V) and 153 numbers → (V,)."""
    square = HIDDEN * HIDDEN
    w1, w2, w3, b1, b2, b3 = parameters.split([square, square, HIDDEN, HIDDEN, HIDDEN, 1])
    x = torch.addmm(b1[:, None], w1.view(HIDDEN, HIDDEN), x).relu_()
    x = torch.addmm(b2[:, None], w2.view(HIDDEN, HIDDEN), x).relu_()
    return torch.addmv(b3, x.t(), w3)


def load_official_file(path: Path | str, backbone: Backbone) -> UniversalModel:
    """The network with the weights of an official file, on the CPU.

    Released files hold the backbone's keys with or without `backbone.` in front.

    Raises:
        UserError: another system's file (or the other backbone's), truncated, or keys that do not fit.
    """
    system = SYSTEMS[backbone]
    state = state_dict_of(read_checkpoint(path), path, system, containers=("net",))
    network = UniversalModel(backbone, SIZES["official"])
    load_strictly(network, {own_key(key): value for key, value in state.items()}, path, system)
    return network.eval()


def own_key(key: str) -> str:
    """An official key, its wrapper's prefix already taken off → ours."""
    in_backbone = re.match(r"(swinViT|encoder\d+|decoder\d+|down_tr\d+|up_tr\d+)\.", key)
    return f"backbone.{key}" if in_backbone else key
