"""VISTA3D with clicks: the preprocessing of its MONAI bundle, MONAI's network and MONAI's inferer for points.

Bundle: RAS+, 1.5 mm, linear; the box of the voxels above 0 HU with a margin of 10; −963.8 … 1053.7 HU become 0 … 1; a
window of 128³ around every click, their logits added where they overlap; what lies in no window is background. Parts of
the mask that hold no positive click are dropped (`VistaPostTransformd`). Every round gives all clicks so far. A target
that is none of its classes is a new class (`label_prompt` 133), of whose mask all parts stay.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.checkpoints import load_official
from baselines.prompting import check_prompts
from baselines.vista3d.classes import Kind, kind_of
from benchmarks.common.errors import UserError
from benchmarks.contestants import Click, Prepared, Preprocessing, Segmenter, Session, Target, prepare
from benchmarks.contestants.precision import autocast_for, check_precision, finite
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts

logger = logging.getLogger(__name__)

LOW, HIGH = -963.8247715525971, 1053.678477684517  # HU, configs/inference.json of the bundle
SPACING, MARGIN, WINDOW = 1.5, 10, (128, 128, 128)  # the same file
PREPROCESSING = Preprocessing((SPACING,) * 3, window=None)
TUMOUR = 2  # added to the label of a point (0 or 1) for tumours and vessels, which lie in other classes
NEW_CLASS = 133  # the first of the numbers for what was not learned


class Vista3D(Segmenter):
    """VISTA3D.

    Settings (keys of `config`):
        checkpoint: the official file.
        tumour_points: label clicks on a tumour that VISTA3D knows as MONAI marks them for such classes.
        precision: "auto" (float16 on a GPU, as the bundle uses it) or "float32".
    """

    window = WINDOW

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        if not config["checkpoint"]:
            raise UserError("vista3d: no checkpoint; docs/methods/vista3d.md says where its file is")
        check_precision("vista3d", config["precision"])
        self.config, self.device = config, device
        self.said: set[str] = set()  # the targets of which the log says what they were taken for
        self.module = self.network()
        load_official(self.module, Path(str(config["checkpoint"])), "VISTA3D")
        self.module.to(device).eval()

    def network(self) -> torch.nn.Module:
        """The network of the paper, with fresh weights."""
        from monai.networks.nets import vista3d132

        network: torch.nn.Module = vista3d132(in_channels=1)
        return network

    def open(self, volume: Volume, target: Target) -> Vista3DSession:
        """Resamples the volume; windows are encoded when clicks are known."""
        kind = kind_of(target)
        if target.text not in self.said:
            self.said.add(target.text)
            level = logging.WARNING if kind is Kind.NEW else logging.INFO
            logger.log(level, "vista3d takes '%s' for %s", target.text, kind.value)
        return Vista3DSession(self, prepare(volume, PREPROCESSING), kind)

    @torch.inference_mode()
    def logits(
        self, image: FloatArray, points: NDArray[np.float64], positive: NDArray[np.bool_], kind: Kind
    ) -> FloatArray:
        """Logits of an image scaled to 0 … 1 (x, y, z) for points (N, 3) in its voxels; NaN outside the windows."""
        from monai.apps.vista3d.inferer import point_based_window_inferer
        from monai.data import MetaTensor

        marked = kind is Kind.TUMOUR and self.config["tumour_points"]
        labels = positive.astype(np.int64) + (TUMOUR if marked else 0)
        prompt_class = torch.tensor([[NEW_CLASS]], device=self.device) if kind is Kind.NEW else None

        def predict(window: torch.Tensor, **prompts: Any) -> torch.Tensor:
            return finite(self.module(window, **prompts))  # afterwards NaN says where no window was

        half = "float16" if self.config["precision"] == "auto" else "float32"
        with autocast_for(self.device, half):
            found = point_based_window_inferer(
                MetaTensor(torch.from_numpy(image)[None, None].to(self.device)),
                self.window,
                predict,
                torch.from_numpy(points).float()[None].to(self.device),
                torch.from_numpy(labels)[None].to(self.device),
                prompt_class=prompt_class,
                transpose=True,
            )
        return np.asarray(found[0, 0].float().cpu().numpy())


class Vista3DSession(Session):
    """One resampled volume."""

    def __init__(self, segmenter: Vista3D, prepared: Prepared, kind: Kind) -> None:
        self.segmenter, self.prepared, self.kind = segmenter, prepared, kind
        self.low, self.high = foreground(prepared.array)
        inside = prepared.array[tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))]
        self.image = ((np.clip(inside, LOW, HIGH) - LOW) / (HIGH - LOW)).astype(np.float32)

    def segment(self, prompts: Prompts) -> BoolArray:
        check_prompts(prompts, self.segmenter.prompts, self.prepared.native_shape, "vista3d")
        points, positive = self.points(prompts.clicks), _signs(prompts.clicks)
        logits = self.segmenter.logits(self.image, points, positive, self.kind)
        if self.kind is not Kind.NEW:
            logits = clicked_parts(logits, points, positive)
        probability = np.zeros(self.prepared.shape, np.float32)
        place = tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))
        probability[place] = np.nan_to_num(1 / (1 + np.exp(-logits)), nan=0.0)
        return self.prepared.to_native_mask(probability)

    def points(self, clicks: tuple[Click, ...]) -> NDArray[np.float64]:
        """Clicks in voxels of the image; one outside the box of the body goes to the nearest voxel in it."""
        points = self.prepared.to_prepared([click.position for click in clicks])
        low, high = np.array(self.low), np.array(self.high)
        return np.clip(points, low, high - 1) - low


def foreground(array: FloatArray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The box (low, high) of the voxels above 0 HU with the bundle's margin; the whole array if there is none."""
    if not (array > 0).any():
        return (0, 0, 0), array.shape
    low, high = [], []
    for axis, length in enumerate(array.shape):
        others = tuple(other for other in range(3) if other != axis)
        held = np.flatnonzero((array > 0).any(axis=others))
        low.append(max(0, int(held[0]) - MARGIN))
        high.append(min(length, int(held[-1]) + 1 + MARGIN))
    return tuple(low), tuple(high)


def clicked_parts(logits: FloatArray, points: NDArray[np.float64], positive: NDArray[np.bool_]) -> FloatArray:
    """Logits (x, y, z) without the parts above 0 that hold no positive click; all of them if no click is positive.

    Args:
        logits: NaN outside the windows, which stays.
        points: the clicks (N, 3) in voxels.
    """
    from monai.transforms.utils import keep_components_with_positive_points

    changed = keep_components_with_positive_points(
        torch.tensor(logits)[None, None], torch.from_numpy(points)[None], torch.from_numpy(positive.astype(int))[None]
    )
    return np.asarray(changed[0, 0].numpy())


def _signs(clicks: tuple[Click, ...]) -> NDArray[np.bool_]:
    return np.array([click.positive for click in clicks], np.bool_)
