"""The stem as a chain of usual layers: what the composed one is compared with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tags.stem import ENLARGE, PATCH, VolumetricStem


def naive_embed(stem: VolumetricStem, image: Tensor) -> Tensor:
    """The chain as it is usually written, enlarge, embed every slice, mix 16 slices.

    Returns:
        (B, X/4, Y/4, Z/4, C), as `VolumetricStem.embed`.
    """
    enlarged = F.interpolate(image, scale_factor=ENLARGE, mode="trilinear", align_corners=False)
    batch, _, x, y, z = enlarged.shape
    slices = enlarged.permute(0, 4, 1, 2, 3).reshape(batch * z, 1, x, y).expand(-1, 3, -1, -1)
    embedded = F.conv2d(slices, stem.patch_weight, stem.patch_bias, stride=PATCH)
    channels = embedded.shape[1]
    embedded = embedded.reshape(batch, z, channels, x // PATCH, y // PATCH).permute(0, 2, 3, 4, 1)
    weight = stem.depth_weight[:, None, None, None, :]
    mixed = F.conv3d(embedded, weight, stem.depth_bias, stride=(1, 1, PATCH), groups=channels)
    return mixed.permute(0, 2, 3, 4, 1)
