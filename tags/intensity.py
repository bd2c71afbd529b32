"""Training crops as other scanners could have shown them: noise, blur, contrast, lower resolution, gamma.

After nnU-Net, with its ranges of blur, contrast, resolution and gamma, but noise of up to three times its deviation,
one chance for all, and no correction of range, mean or deviation afterwards. Everything random comes from the
generator that is passed in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_NOISE = 0.3  # standard deviation, in units of the normalised intensity
BLUR = (0.5, 1.0)  # standard deviation in voxels
BLUR_REACH = 3  # voxels, three of the widest deviations
CONTRAST = (0.75, 1.25)  # factor of the distance to the mean
RESOLUTION = (0.5, 1.0)  # voxels kept, as a share along each axis
GAMMA = (0.7, 1.5)


def intensity_augmented(image: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Crops (B, 1, X, Y, Z), each of them changed in each of five ways with probability `chance`."""
    if not chance:
        return image
    image = image.clone()
    for change in (_with_noise, _blurred, _with_contrast, _at_lower_resolution, _with_gamma):
        chosen = torch.nonzero(torch.rand(len(image), generator=generator) < chance).flatten()
        if len(chosen):
            places = chosen.to(image.device, non_blocking=True)  # a mask would have the host wait for the card
            image.index_copy_(0, places, change(image.index_select(0, places), generator))
    return image


def _with_noise(image: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(image.shape, generator=generator) * _drawn(len(image), (0.0, MOST_NOISE), generator)
    return image + noise.to(image)


def _blurred(image: Tensor, generator: torch.Generator) -> Tensor:
    return gaussian_blur(image, _drawn(len(image), BLUR, generator).to(image))


def gaussian_blur(image: Tensor, deviation: Tensor) -> Tensor:
    """(B, 1, X, Y, Z) blurred by a Gaussian of `deviation` (B, 1, 1, 1, 1) voxels; beyond the crop its edge goes on.

    Sums of shifted crops and no convolution, which autocast would compute with 8 bits.
    """
    reach = torch.arange(-BLUR_REACH, BLUR_REACH + 1).to(image)
    weights = torch.exp(-0.5 * (reach / deviation) ** 2)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    for axis in (2, 3, 4):
        size = image.shape[axis]
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = BLUR_REACH
        padded = F.pad(image, pad, mode="replicate")
        shifts = [weights[..., k : k + 1] * padded.narrow(axis, k, size) for k in range(len(reach))]
        image = torch.stack(shifts).sum(dim=0)
    return image


def _with_contrast(image: Tensor, generator: torch.Generator) -> Tensor:
    mean = image.mean(dim=(1, 2, 3, 4), keepdim=True)
    return mean + (image - mean) * _drawn(len(image), CONTRAST, generator).to(image)


def _at_lower_resolution(image: Tensor, generator: torch.Generator) -> Tensor:
    sides = torch.tensor(image.shape[2:])
    shares = _drawn(len(image), RESOLUTION, generator).flatten()
    kept = [(sides * share).round().int().clamp(min=1).tolist() for share in shares]
    return torch.cat([_resampled(one, size) for one, size in zip(image.split(1), kept, strict=True)])


def _resampled(image: Tensor, size: list[int]) -> Tensor:
    """Every voxel of a grid of `size`, nearest neighbours, seen at the image's own resolution again, linearly."""
    coarse = F.interpolate(image, size=size, mode="nearest-exact")
    return F.interpolate(coarse, size=image.shape[2:], mode="trilinear")


def _with_gamma(image: Tensor, generator: torch.Generator) -> Tensor:
    """(image - lowest) / range to the power of gamma; lowest and range stay."""
    lowest, highest = image.amin(dim=(1, 2, 3, 4), keepdim=True), image.amax(dim=(1, 2, 3, 4), keepdim=True)
    span = (highest - lowest).clamp(min=1e-6)
    return lowest + span * ((image - lowest) / span) ** _drawn(len(image), GAMMA, generator).to(image)


def _drawn(number: int, span: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(number, 1, 1, 1, 1), even in the span."""
    low, high = span
    return low + (high - low) * torch.rand(number, 1, 1, 1, 1, generator=generator)
