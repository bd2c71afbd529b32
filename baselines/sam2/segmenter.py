"""SAM 2's predictor for films on a scan: axial slices are the frames, the lesion is the object that is followed.

The official package does the work: it loads the frames, prompts, and propagates. The frames are handed over as files,
because that is what its public interface takes: PNG data under the names that it asks for, so nothing is lost.

Frames show the slice as a reader sees it: columns from the patient's right to the left, rows from front to back, grey
levels 0…255 of the target's window. A click goes to its slice; of a box the middle slice is prompted, and the slices
of the box are the ones that are segmented. From there the lesion is followed forwards, then backwards, no farther than
`reach` mm. Clicks of later rounds correct the slices that they lie on, as the package does it, and the lesion is
followed again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.prompting import check_prompts
from baselines.rounds import added_clicks
from baselines.sam2.weights import predictor_from
from benchmarks.common.errors import UserError
from benchmarks.contestants import Box, Click, Segmenter, Session, Target
from benchmarks.contestants.precision import autocast_for, check_precision, finite
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.prompting.prompts import Prompts

logger = logging.getLogger(__name__)

OBJECT = 1  # there is one


class Sam2(Segmenter):
    """SAM 2 or MedSAM2.

    Settings (keys of `config`):
        checkpoint: the official file.
        size: of the network, as in `CONFIGURATIONS`.
        image_size: pixels on a side to which slices are resized.
        reach: mm that the lesion is followed from the outermost prompts.
        precision: "auto" (bfloat16 on a GPU that has it, as the authors use it) or "float32".
    """

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        if not config["checkpoint"]:
            raise UserError("sam2: no checkpoint; `tags-bench weights fetch` brings the official file")
        check_precision("sam2", config["precision"])
        self.config, self.device = config, device
        path = Path(str(config["checkpoint"]))
        self.predictor = predictor_from(path, config["size"], int(config["image_size"]), device)

    def open(self, volume: Volume, target: Target) -> Sam2Session:
        """Loads nothing yet: which slices are needed depends on the prompts."""
        return Sam2Session(self, volume, target)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """No gradients, the authors' precision; what the package prints or warns of, but for its bars, in the log."""
        with (
            warnings_in_log(),
            torch.inference_mode(),
            autocast_for(self.device, self.config["precision"], float16=False),
            contextlib.redirect_stdout(sys.stderr),
            contextlib.redirect_stderr(io.StringIO()),  # bars
        ):
            yield


@contextlib.contextmanager
def warnings_in_log() -> Iterator[None]:
    """What is warned of goes to the log, each text once: such as that the package skips its own post-processing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for text in dict.fromkeys(" ".join(str(one.message).split()) for one in caught):
                logger.warning("sam2: %s", text)


class Sam2Session(Session):
    """One scan: the frames in reach of the prompts, and what was followed in the rounds so far."""

    def __init__(self, segmenter: Sam2, volume: Volume, target: Target) -> None:
        self.segmenter, self.volume, self.window = segmenter, volume, target.window
        self.given: Prompts | None = None
        self.rounds: list[tuple[Click, ...]] = []
        self.slices = range(0)  # those that are frames now
        self.state: Any = None

    def segment(self, prompts: Prompts) -> BoolArray:
        check_prompts(prompts, self.segmenter.prompts, self.volume.shape, "sam2")
        new = added_clicks(self.given, prompts)
        self.rounds = [prompts.clicks] if new is None else [*self.rounds, new]
        slices = slices_in_reach(prompts, self.volume, float(self.segmenter.config["reach"]))
        with self.segmenter.working():
            if new is None or slices != self.slices:
                self._load(slices)
                self._play(prompts.box, self.rounds)
            elif new:
                self._play(None, [new])
            self.given = prompts
            return self._masks()

    def _load(self, slices: range) -> None:
        """The package reads the slices as frames of a film."""
        with tempfile.TemporaryDirectory(prefix="sam2-") as folder:
            write_frames(frames_of(self.volume, self.window, slices), Path(folder))
            self.state = self.segmenter.predictor.init_state(folder, offload_video_to_cpu=True)
        self.slices = slices
        self.found: dict[int, BoolArray] = {}

    def _play(self, box: Box | None, rounds: Sequence[tuple[Click, ...]]) -> None:
        """Give the prompts of each round, and follow the lesion after each."""
        for clicks in rounds:
            by_slice: dict[int, list[Click]] = {}
            for click in clicks:
                by_slice.setdefault(click.position[2], []).append(click)
            if not self.found:  # a slice that was told only what is background has nothing to show yet
                late = {z: of for z, of in by_slice.items() if not any(click.positive for click in of)}
                self._prompt({z: of for z, of in by_slice.items() if z not in late}, box)
                by_slice, box = late, None
            if by_slice:
                self._prompt(by_slice, None)

    def _prompt(self, by_slice: Mapping[int, Sequence[Click]], box: Box | None) -> None:
        predictor, width, height = self.segmenter.predictor, self.volume.shape[0], self.volume.shape[1]
        middle = None if box is None else (box.low[2] + box.high[2] - 1) // 2
        for z in sorted({*by_slice, *([] if middle is None else [middle])}):
            clicks = by_slice.get(z, ())
            points = [(width - 1 - click.position[0], height - 1 - click.position[1]) for click in clicks]
            corners = None
            if box is not None and z == middle:
                corners = [width - box.high[0], height - box.high[1], width - 1 - box.low[0], height - 1 - box.low[1]]
            predictor.add_new_points_or_box(
                self.state,
                frame_idx=self.slices.index(z),
                obj_id=OBJECT,
                points=np.array(points, np.float32) if points else None,
                labels=np.array([click.positive for click in clicks], np.int32) if points else None,
                box=None if corners is None else np.array(corners, np.float32),
                clear_old_points=corners is not None,  # the package wants a box to come first
            )
        for backwards in (False, True):
            for frame, _, logits in predictor.propagate_in_video(self.state, reverse=backwards):
                self.found[self.slices[frame]] = (finite(logits[0, 0]) > 0).cpu().numpy()

    def _masks(self) -> BoolArray:
        """The masks of the frames on the grid of the volume."""
        mask = np.zeros(self.volume.shape, np.bool_)
        for z, rows in self.found.items():
            mask[..., z] = rows.T[::-1, ::-1]
        return mask


def slices_in_reach(prompts: Prompts, volume: Volume, reach: float) -> range:
    """The slices of the box, with those of clicks beyond it; without a box, those within `reach` mm of the clicks."""
    clicked = [click.position[2] for click in prompts.clicks]
    if prompts.box is not None:
        low, high = prompts.box.low[2], prompts.box.high[2] - 1
        return range(min([low, *clicked]), max([high, *clicked]) + 1)
    more = int(reach / volume.spacing[2])
    return range(max(0, min(clicked) - more), min(volume.shape[2], max(clicked) + more + 1))


def frames_of(volume: Volume, window: tuple[float, float], slices: range) -> Iterator[NDArray[np.uint8]]:
    """Grey levels (rows, columns) of slices: rows from front to back, columns from the patient's right to the left."""
    low, high = window
    for z in slices:
        grey = (np.clip(volume.array[..., z], low, high) - low) * (255 / (high - low))
        yield np.rint(grey).astype(np.uint8).T[::-1, ::-1]


def write_frames(frames: Iterator[NDArray[np.uint8]], folder: Path) -> None:
    """Files that the package takes for the frames of a film; it tells their format by their content."""
    from PIL import Image

    for number, frame in enumerate(frames):
        with (folder / f"{number:05d}.jpg").open("wb") as file:
            Image.fromarray(np.ascontiguousarray(frame)).save(file, format="PNG", compress_level=1)
