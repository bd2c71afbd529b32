"""SAM ViT-B driven slice by slice: official preprocessing of a slice, and its inverse.

Preprocessing follows the public predictor: grey levels 0…255 in three equal channels, the longest side resized to
the network's with antialiasing, SAM's pixel statistics, zeros below and to the right. A point is scaled with its
slice. Low-resolution masks go up to the network's size, lose the padding, and are resized to the slice.

How long the sides become and where a point goes is the `segment_anything` package's own `ResizeLongestSide`. Its
resizing of tensors takes the wrong two axes for the size, so that step is ours; so is the reading of files, which its
registry does by unpickling.
"""

from __future__ import annotations

import torch.nn.functional as F
from segment_anything.utils.transforms import ResizeLongestSide
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
            image=1024,
            patch=16,
            channels=3,
            dim=768,
            depth=12,
            heads=12,
            window=14,
            global_blocks=(2, 5, 8, 11),
            out=256,
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
        ),
        features=32,
        decoder_heads=4,
        decoder_hidden=128,
        iou_hidden=64,
    ),
}


class SamB(SliceSegmenter):
    """SAM ViT-B on slices."""

    system = "SAM-B"
    file_name = "sam_vit_b_01ec64.pth"
    source = "the model checkpoints of facebookresearch/segment-anything, ViT-B"
    sizes = SIZES
    box_end = -1  # the last pixel inside

    def to_image(self, slices: Tensor) -> Tensor:
        rows, columns = self._content((slices.shape[1], slices.shape[2]))
        grey = slices.transpose(1, 2)[:, None]
        grey = F.interpolate(grey, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (grey.new_tensor(value).view(1, 3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
        return F.pad((grey.round() - mean) / std, (0, self.image - columns, 0, self.image - rows))

    def to_pixels(self, places: Tensor, plane: Plane) -> Tensor:
        moved: Tensor = ResizeLongestSide(self.image).apply_coords_torch(places, (plane[1], plane[0]))
        return moved

    def to_slices(self, masks: Tensor, plane: Plane) -> Tensor:
        rows, columns = self._content(plane)
        whole = resize(masks, (self.image, self.image))[..., :rows, :columns]
        return resize(whole, (plane[1], plane[0])).transpose(2, 3)

    def mask_prompt(self, low: Tensor) -> Tensor:
        return low

    def ambiguous(self, prompt: SlicePrompt) -> bool:
        """One point and nothing else may mean a part or the whole: the paper takes the best of three then."""
        return len(prompt.points) == 1 and prompt.box is None

    def _content(self, plane: Plane) -> tuple[int, int]:
        """Rows and columns that a slice fills after resizing its longest side."""
        rows, columns = ResizeLongestSide.get_preprocess_shape(plane[1], plane[0], self.image)
        return max(1, rows), max(1, columns)
