"""nnInteractive through the session of its package.

The package works on voxels, without spacing, in the axes of nnU-Net (z, y, x), on raw intensities, which it normalises
itself. Clicks are made one after the other, each followed by a prediction that sees the one before, as its users do.
A mask prompt is its initial segmentation; clicks beside a mask are given together and followed by one prediction. A
box goes in as it is where the released model takes boxes in 3D; the model 1.0 takes flat ones only, and is given the
middle axial slice of the box.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from baselines.nninteractive.model import load_model
from baselines.prompting import check_prompts
from baselines.rounds import added_clicks
from benchmarks.common.errors import UserError
from benchmarks.contestants import Box, Click, Segmenter, Session, Target
from benchmarks.contestants.precision import finite
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.prompting.prompts import Prompts


class NnInteractive(Segmenter):
    """nnInteractive.

    Settings (keys of `config`):
        checkpoint, plans, dataset, session: the official files, by path or by name in the weights folder.
        autozoom: look at a larger field where the mask reaches the border of the view.
    """

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        from nnInteractive.inference.inference_session import nnInteractiveInferenceSession

        threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
        with contextlib.redirect_stdout(sys.stderr):  # it prints whatever it is told
            self.session = nnInteractiveInferenceSession(
                device=torch.device(device),
                torch_n_threads=threads,
                do_autozoom=bool(config["autozoom"]),
                enable_undo=False,
            )
        load_model(self.session, config)
        # the package takes the larger of two logits, and NaN for background
        self.session.network.register_forward_hook(lambda _network, _given, logits: finite(logits))
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark

    @property
    def takes_3d_boxes(self) -> bool:
        return bool(self.session.supported_interactions.get("bbox3d", False))

    def open(self, volume: Volume, target: Target) -> NnInteractiveSession:
        """The package normalises the scan and makes room for interactions. One scan is open at a time."""
        return NnInteractiveSession(self, volume)


class NnInteractiveSession(Session):
    """One scan in the session of the package."""

    def __init__(self, segmenter: NnInteractive, volume: Volume) -> None:
        self.segmenter, self.volume = segmenter, volume
        self.given: Prompts | None = None
        self.buffer = torch.zeros(volume.shape[::-1], dtype=torch.uint8)
        self._take()

    def _take(self) -> None:
        """Make this scan the one that the package works on; another may have been opened since."""
        session = self.segmenter.session
        with contextlib.redirect_stdout(sys.stderr):
            session.set_image(np.ascontiguousarray(self.volume.array.T)[None])
            session.preprocess_future.result()  # it works in the background; here its time belongs to `open`
        self.buffer.zero_()
        session.set_target_buffer(self.buffer)
        self.given = None

    def segment(self, prompts: Prompts) -> BoolArray:
        """The mask after all prompts so far; what was given before is not given again."""
        segmenter, shape = self.segmenter, self.volume.shape
        check_prompts(prompts, segmenter.prompts, shape, "nninteractive", mask_says_where=True)
        if segmenter.session.target_buffer is not self.buffer:
            self._take()
        new = added_clicks(self.given, prompts)
        with contextlib.redirect_stdout(sys.stderr):
            if new is None:
                segmenter.session.reset_interactions()
                self._begin(prompts)
                new = prompts.clicks
            if prompts.mask is None:
                for click in new:
                    self._click(click)
        self.given = prompts
        return np.asarray(self.buffer.numpy().T > 0)

    def _begin(self, prompts: Prompts) -> None:
        """A mask with all clicks beside it, or a box."""
        session = self.segmenter.session
        if prompts.mask is not None:
            mask = np.ascontiguousarray(prompts.mask.T.astype(np.uint8))
            alone = not prompts.clicks and prompts.box is None
            session.add_initial_seg_interaction(mask, run_prediction=alone)
        if prompts.box is not None:
            box = flat_box(prompts.box) if not self.segmenter.takes_3d_boxes else prompts.box
            corners = [[low, high] for low, high in zip(box.low[::-1], box.high[::-1], strict=True)]
            last = prompts.mask is None or not prompts.clicks
            session.add_bbox_interaction(corners, include_interaction=True, run_prediction=last)
        if prompts.mask is not None:
            for number, click in enumerate(prompts.clicks, start=1):
                self._click(click, predict=number == len(prompts.clicks))

    def _click(self, click: Click, predict: bool = True) -> None:
        self.segmenter.session.add_point_interaction(
            click.position[::-1], include_interaction=click.positive, run_prediction=predict
        )


def flat_box(box: Box) -> Box:
    """The middle axial slice of a box."""
    middle = (box.low[2] + box.high[2] - 1) // 2
    if min(high - low for low, high in zip(box.low[:2], box.high[:2], strict=True)) < 1:
        raise UserError(f"nninteractive: the box {box} is empty")
    return Box((*box.low[:2], middle), (*box.high[:2], middle + 1))
