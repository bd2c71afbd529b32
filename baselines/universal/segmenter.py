"""The Universal Model on a volume: a sliding window over the whole scan, no prompt.

Preprocessing follows the paper's public pipeline: RAS+, 1.5 mm, HU −175…250 brought to [0, 1], the box of voxels above
the lower bound, windows of 96³ with half overlap and Gaussian weights, logits blended before the sigmoid. Only the
classes that a target needs are computed. Two differences: the grid is laid face to face over the scan (the library of
the original aligns the first voxel centres, less than a voxel away), and the mask returns to the scan's own grid by
linear interpolation of probabilities instead of nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from baselines.losses import mask_losses
from baselines.network_segmenter import NetworkSegmenter
from baselines.prompting import check_prompts
from baselines.universal.classes import Wanted, wanted
from baselines.universal.network import SIZES, SYSTEMS, UniversalModel, load_official_file
from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Session, Target, TrainingRecipe
from benchmarks.contestants.precision import finite
from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Prepared, Preprocessing, prepare
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts

SYSTEM = "Universal Model"
FILE_NAMES = {
    "swinunetr": "clip_driven_universal_swin_unetr.pth",
    "unet": "clip_driven_universal_unet.pth",
}
SOURCE = "released by the authors of the CLIP-Driven Universal Model"
WINDOW_HU = (-175.0, 250.0)
WINDOWS = {"official": 96, "tiny": 32}  # voxels per axis
OVERLAPS = {"official": 0.5, "tiny": 0.25}  # of neighbouring windows
WINDOWS_AT_ONCE = {False: 1, True: 4}  # on the CPU and on a GPU; no window sees another


class UniversalSegmenter(NetworkSegmenter):
    """Fully automatic: the target names the class, nothing else is given.

    Settings (keys of `config`) beside those of every `NetworkSegmenter`:
        backbone: "swinunetr" or "unet".
        postprocess: "official" keeps the largest components of organs and confines kidney and liver tumours to the
            closed and dilated organ; "none" leaves the thresholded probabilities.
        spacing: mm of the isotropic grid; the released weights know 1.5 only.
        train: "all", or "heads" (the backbone stays as it is).
    """

    module: UniversalModel
    system = SYSTEM
    choices = {  # noqa: RUF012
        "size": tuple(SIZES),
        "backbone": tuple(SYSTEMS),
        "postprocess": ("none", "official"),
        "train": ("all", "heads"),
    }
    identity = ("size", "backbone", "spacing")

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        super().__init__(config, device)
        side = WINDOWS[config["size"]]
        self.window = (side, side, side)
        mm, (low, high) = float(config["spacing"]), WINDOW_HU
        self.preprocessing = Preprocessing(spacing=(mm, mm, mm), window=WINDOW_HU, mean=low, std=high - low)

    def read_official(self) -> UniversalModel:
        backbone = self.config["backbone"]
        path = self.official_file(f"universal-{backbone}", FILE_NAMES[backbone], SOURCE)
        return load_official_file(path, backbone)

    def untrained(self) -> UniversalModel:
        return UniversalModel(self.config["backbone"], SIZES[self.config["size"]])

    def freeze(self) -> None:
        self.module.backbone.requires_grad_(self.config["train"] == "all")

    def open(self, volume: Volume, target: Target) -> UniversalSession:
        """Segments at once: nothing depends on a prompt. Raises UserError for a target that is no class."""
        return UniversalSession(self, volume, target)

    @torch.inference_mode()
    def logits(self, array: FloatArray, classes: Sequence[int]) -> Tensor:
        """Logits (K, X, Y, Z) of a prepared array, on the CPU."""
        from monai.inferers import sliding_window_inference

        def predict(windows: Tensor) -> Tensor:
            with self.half_precision():
                return finite(self.module(windows, classes)).float()

        result: Tensor = sliding_window_inference(
            torch.from_numpy(array)[None, None],
            self.window,
            WINDOWS_AT_ONCE[self.device.type == "cuda"],
            predict,
            overlap=OVERLAPS[self.config["size"]],
            mode="gaussian",
            sw_device=self.device,
            device=torch.device("cpu"),
        )
        return result[0]

    def recipe(self, target: Target) -> TrainingRecipe:
        wanted(target)  # an unknown target is refused before the first step
        return self.training_recipe(self.preprocessing, self.window)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Soft Dice plus binary cross-entropy of the target's classes; the other classes get no gradient.

        A target of several classes is scored by their largest logit.
        """
        bottleneck, features = self.module.backbone(batch.image)
        losses = []
        for index, target in enumerate(batch.targets):
            one = slice(index, index + 1)
            logits = self.module.heads(bottleneck[one], features[one], wanted(target).classes)
            losses.append(
                mask_losses(logits.float().amax(1, keepdim=True), batch.label[one], self.config["dice_share"])
            )
        mask_loss = torch.cat(losses).mean()
        return mask_loss, {"mask": mask_loss.detach()}


class UniversalSession(Session):
    """The probabilities of one target in one volume, on the network's grid."""

    def __init__(self, segmenter: UniversalSegmenter, volume: Volume, target: Target) -> None:
        self.segmenter = segmenter
        self.text = target.text
        self.prepared: Prepared = prepare(volume, segmenter.preprocessing)
        self._result = self._probabilities(wanted(target))

    def segment(self, prompts: Prompts) -> BoolArray:
        check_prompts(prompts, self.segmenter.prompts, self.prepared.native_shape, SYSTEM)
        if prompts.text is not None and prompts.text.strip().lower() != self.text.lower():
            raise UserError(f"{SYSTEM} has a class for '{self.text}', not for '{prompts.text}'; name another target")
        return self.prepared.to_native_mask(self._result)

    def _probabilities(self, asked: Wanted) -> FloatArray:
        box = bounding_box(self.prepared.array > 0)
        result = np.zeros(self.prepared.shape, np.float32)
        if box is None:  # nothing above the window's lower bound
            return result
        part = tuple(slice(low, high) for low, high in zip(*box, strict=True))
        official = self.segmenter.config["postprocess"] == "official"
        classes = (*asked.classes, *asked.organ) if official else asked.classes
        logits = self.segmenter.logits(np.ascontiguousarray(self.prepared.array[part]), classes)
        values = logits.sigmoid().numpy()
        found = values[: len(asked.classes)].max(0)
        if official:
            found = found * confinement(found, values[len(asked.classes) :], asked)
        result[part] = found
        return result


def confinement(found: FloatArray, organ: FloatArray, asked: Wanted) -> BoolArray:
    """Where the official post-processing lets a prediction stand.

    An organ keeps its largest components. A kidney or liver tumour must lie in the organ's largest components,
    closed and dilated by a cube of 5 voxels. Everything else stands as it is.
    """
    if not asked.organs:
        return np.ones(found.shape, np.bool_)
    if not asked.organ:
        return largest_components(found > 0.5, asked.organs)
    cube = np.ones((5, 5, 5), np.bool_)
    mask = np.pad(largest_components(organ.max(0) > 0.5, asked.organs), 5)  # so that closing works at the border
    mask = ndimage.binary_dilation(ndimage.binary_closing(mask, cube), cube)
    return np.asarray(mask[5:-5, 5:-5, 5:-5])


def largest_components(mask: BoolArray, count: int) -> BoolArray:
    """The `count` largest 26-connected components."""
    labelled, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    largest = np.argsort(sizes, kind="stable")[::-1][:count]
    return np.isin(labelled, largest[sizes[largest] > 0])
