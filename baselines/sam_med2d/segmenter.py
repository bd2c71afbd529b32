"""SAM-Med2D driven slice by slice: official preprocessing of a slice, and its inverse.

Preprocessing follows the public data loader: grey levels 0…255 in three equal channels, SAM's pixel statistics
*before* any resizing, then a slice smaller than the network's input on both sides is padded with zeros around its
centre, any other is resized to it, aspect not kept, by nearest neighbour.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from baselines.sam.encoder import EncoderSize, resize
from baselines.sam.network import SamSize
from baselines.sam.slice_network import PIXEL_MEAN, PIXEL_STD
from baselines.sam.slice_prompts import Plane, SlicePrompt
from baselines.sam.slices import SliceSegmenter

SIZES = {
    "official": SamSize(
        EncoderSize(
            axes=2,
            image=256,
            patch=16,
            channels=3,
            dim=768,
            depth=12,
            heads=12,
            window=14,
            global_blocks=(2, 5, 8, 11),
            out=256,
            adapters=True,
        ),
        features=128,
    ),
    "tiny": SamSize(
        EncoderSize(
            axes=2,
            image=96,
            patch=6,
            channels=3,
            dim=64,
            depth=2,
            heads=2,
            window=8,
            global_blocks=(1,),
            out=64,
            adapters=True,
        ),
        features=32,
        decoder_heads=4,
        decoder_hidden=128,
        iou_hidden=64,
    ),
}


class SamMed2D(SliceSegmenter):
    """SAM-Med2D on slices."""

    system = "SAM-Med2D"
    file_name = "sam-med2d_b.pth"
    source = "the checkpoints of OpenGVLab/SAM-Med2D, with adapters"
    sizes = SIZES
    box_end = 0  # the first pixel outside, as its boxes came from half-open region properties

    def to_image(self, slices: Tensor) -> Tensor:
        plane = (slices.shape[1], slices.shape[2])
        mean, std = (slices.new_tensor(value).view(1, 3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
        image = (slices.transpose(1, 2)[:, None] - mean) / std
        if not self._is_padded(plane):
            return F.interpolate(image, (self.image, self.image), mode="nearest")
        left, top = self._margins(plane)
        return F.pad(image, (left, self.image - plane[0] - left, top, self.image - plane[1] - top))

    def to_pixels(self, places: Tensor, plane: Plane) -> Tensor:
        if self._is_padded(plane):
            return places + places.new_tensor(self._margins(plane))
        return places * places.new_tensor([self.image / plane[0], self.image / plane[1]])

    def to_slices(self, masks: Tensor, plane: Plane) -> Tensor:
        whole = resize(masks, (self.image, self.image))
        if self._is_padded(plane):
            left, top = self._margins(plane)
            return whole[..., top : top + plane[1], left : left + plane[0]].transpose(2, 3)
        return resize(whole, (plane[1], plane[0])).transpose(2, 3)

    def mask_prompt(self, low: Tensor) -> Tensor:
        return low.sigmoid()  # probabilities, unlike SAM

    def ambiguous(self, prompt: SlicePrompt) -> bool:
        """Upstream takes the best of three masks whatever the prompt."""
        return True

    def _is_padded(self, plane: Plane) -> bool:
        return max(plane) < self.image

    def _margins(self, plane: Plane) -> tuple[int, int]:
        return (self.image - plane[0]) // 2, (self.image - plane[1]) // 2
