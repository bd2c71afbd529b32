"""SAM 2 and MedSAM2: what reaches the official package, and what comes back from it."""

from __future__ import annotations

import filecmp
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.checkpoints import official_file_problem
from baselines.sam2.method import medsam2, sam2
from baselines.sam2.segmenter import Sam2, slices_in_reach
from baselines.sam2.stand_in import write_medsam2, write_sam2
from baselines.sam2.weights import build_predictor
from benchmarks.common.errors import UserError
from benchmarks.prompting.prompts import Box, Click, Prompts
from tests.baselines.sam_helpers import TARGET, ellipsoid, volume_of

pytest.importorskip("sam2", reason="the package sam2 is not installed: pip install tags-bench[sam2]")
SHAPE, SPACING = (44, 36, 12), (1.0, 1.0, 3.0)
LESION = ellipsoid(SHAPE, (15, 12, 6), (8, 5, 3))


pytestmark = pytest.mark.usefixtures("one_thread")


class Film:
    """In place of the network: what is bright in a frame is the object; it remembers how it was asked."""

    def __init__(self) -> None:
        self.prompts: list[dict[str, Any]] = []
        self.loads = 0

    def init_state(self, folder: str, offload_video_to_cpu: bool) -> Any:
        from sam2.utils.misc import load_video_frames

        frames, height, width = load_video_frames(folder, 352, True, (0, 0, 0), (1, 1, 1), compute_device="cpu")
        assert (height, width) == (SHAPE[1], SHAPE[0])
        resized = torch.nn.functional.interpolate(frames[:, :1], (height, width), mode="area")
        self.loads += 1
        return resized

    def add_new_points_or_box(self, state: Any, **prompt: Any) -> None:
        self.prompts.append({**prompt, "frame": state[prompt["frame_idx"], 0]})

    def propagate_in_video(self, state: Any, reverse: bool) -> Any:
        order = range(len(state))
        for frame in reversed(order) if reverse else order:
            yield frame, [1], state[frame : frame + 1] - 0.5


def session(film: Any, **config: Any) -> Any:
    segmenter = Sam2.__new__(Sam2)
    segmenter.config = {**sam2.config, **config}
    segmenter.device, segmenter.predictor, segmenter.prompts = "cpu", film, sam2.prompts
    return segmenter.open(volume_of(LESION, SPACING, -160, 240), TARGET)


def test_what_is_bright_in_the_frames_comes_back_where_it_is_in_the_scan() -> None:
    """Both ways through: axes, flips, slices, files. A mirrored or transposed slice would not overlap."""
    opened = session(Film())
    mask = opened.segment(Prompts((Click((15, 12, 6)),)))
    assert mask.dtype == np.bool_
    assert 2 * (mask & LESION).sum() / (mask.sum() + LESION.sum()) > 0.98


def test_an_answer_that_is_not_finite_is_no_empty_mask() -> None:
    class Overflowing(Film):
        def propagate_in_video(self, *words: Any, **more: Any) -> Any:
            for frame, objects, logits in super().propagate_in_video(*words, **more):
                yield frame, objects, logits * torch.nan

    with pytest.raises(ValueError, match="the network's answer is not finite"):
        session(Overflowing()).segment(Prompts((Click((15, 12, 6)),)))


def test_what_the_package_warns_of_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Complaining(Film):
        def propagate_in_video(self, *words: Any, **more: Any) -> Any:
            warnings.warn("no extension\nis there", stacklevel=1)
            return super().propagate_in_video(*words, **more)

    session(Complaining()).segment(Prompts((Click((15, 12, 6)),)))
    assert caplog.messages == ["sam2: no extension is there"]


def test_a_click_points_at_the_voxel_that_was_clicked() -> None:
    film = Film()
    session(film).segment(Prompts((Click((21, 12, 6)), Click((2, 30, 6), False), Click((15, 10, 4)))))
    assert [prompt["frame_idx"] for prompt in film.prompts] == [4, 6]
    first, second = film.prompts
    assert (first["labels"].tolist(), second["labels"].tolist()) == ([1], [1, 0])
    for prompt in film.prompts:
        for (column, row), positive in zip(prompt["points"].astype(int), prompt["labels"], strict=True):
            assert (prompt["frame"][row, column] > 0.5) == bool(positive)
    assert second["points"].tolist() == [[SHAPE[0] - 1 - 21, SHAPE[1] - 1 - 12], [SHAPE[0] - 1 - 2, SHAPE[1] - 1 - 30]]


def test_a_box_prompts_its_middle_slice_and_bounds_the_slices() -> None:
    film = Film()
    mask = session(film).segment(Prompts(box=Box((7, 7, 4), (24, 18, 9))))
    (prompt,) = film.prompts
    assert prompt["frame_idx"] == 2  # slice 6 of 4 … 8
    left, top, right, bottom = prompt["box"].astype(int)
    bright = torch.nonzero(prompt["frame"] > 0.5)
    assert (bright.min(0).values.tolist(), bright.max(0).values.tolist()) == ([top, left], [bottom, right])
    assert not mask[..., :4].any()
    assert not mask[..., 9:].any()
    assert mask[..., 4].any()


def test_later_clicks_are_added_and_another_prompt_begins_anew() -> None:
    film = Film()
    opened = session(film)
    first = Click((15, 12, 6))
    opened.segment(Prompts((first,)))
    opened.segment(Prompts((first, Click((3, 3, 8), False))))
    assert film.loads == 1
    assert [prompt["frame_idx"] for prompt in film.prompts] == [6, 8]
    assert not film.prompts[1]["clear_old_points"]
    opened.segment(Prompts((first, Click((3, 3, 8), False))))  # nothing new
    assert len(film.prompts) == 2
    opened.segment(Prompts((Click((15, 12, 5)),)))
    assert film.loads == 2
    assert film.prompts[-1]["frame_idx"] == 5


def test_a_slice_that_is_told_only_what_is_background_waits_for_the_others() -> None:
    film = Film()
    session(film).segment(Prompts((Click((3, 3, 2), False), Click((15, 12, 6)))))
    assert [prompt["frame_idx"] for prompt in film.prompts] == [6, 2]


def test_the_lesion_is_followed_within_reach() -> None:
    volume = volume_of(LESION, SPACING, -160, 240)
    assert slices_in_reach(Prompts((Click((1, 1, 6)),)), volume, 9.0) == range(3, 10)
    assert slices_in_reach(Prompts((Click((1, 1, 6)), Click((1, 1, 1)))), volume, 6.0) == range(9)
    assert slices_in_reach(Prompts((Click((1, 1, 11)),), Box((0, 0, 2), (9, 9, 5))), volume, 6.0) == range(2, 12)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the official layout; its memory attention has one layer: the weights say how many."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.save({"model": build_predictor("tiny", 128, "cpu", layers=1).state_dict()}, path)
    return path


@pytest.mark.usefixtures("_no_environment")
def test_the_official_network_runs_from_its_file(weights: Path) -> None:
    """Random weights, small frames: rounds, both directions, and the same masks whichever way they are reached."""
    assert official_file_problem(weights, "SAM 2") == ""
    segmenter = medsam2.build({"checkpoint": str(weights), "image_size": 128})
    volume = volume_of(LESION, SPACING, -160, 240)
    opened = segmenter.open(volume, TARGET)
    first, second = Click((15, 12, 6)), Click((15, 20, 6), False)
    opened.segment(Prompts((first,)))
    masks = [opened.segment(Prompts((first, second))), segmenter.open(volume, TARGET).segment(Prompts((first,)))]
    again = segmenter.open(volume, TARGET)
    again.segment(Prompts((first,)))
    assert np.array_equal(again.segment(Prompts((first, second))), masks[0])
    assert masks[0].shape == SHAPE
    assert not np.array_equal(masks[0], masks[1])  # the second click has an effect
    boxed = segmenter.open(volume, TARGET).segment(Prompts(box=Box((7, 7, 4), (24, 18, 9))))
    assert not boxed[..., 9:].any()


def test_a_file_of_something_else_is_told(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"model": {"weight": torch.zeros(3)}}, other)
    assert "not recognised as any known system, expected SAM 2" in official_file_problem(other, "SAM 2")
    with pytest.raises(UserError, match=r"other\.pt: holds no memory attention"):
        Sam2({**sam2.config, "checkpoint": str(other)}, "cpu")
    with pytest.raises(UserError, match=r"does not fit SAM 2\.1 of size 'small'"):
        Sam2({**sam2.config, "checkpoint": str(weights), "size": "small", "image_size": 128}, "cpu")
    with pytest.raises(UserError, match="unknown size 'huge'"):
        Sam2({**sam2.config, "checkpoint": str(weights), "size": "huge"}, "cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("_no_environment")
@pytest.mark.parametrize(("method", "write", "million"), [(sam2, write_sam2, 224.4), (medsam2, write_medsam2, 38.9)])
def test_a_stand_in_is_read_as_the_official_file(method: Any, write: Any, million: float, tmp_path: Path) -> None:
    """By the wrapper and the package, at the size that the authors' README gives; the same bytes twice."""
    path = tmp_path / method.files[0].name
    write(path, "SAM 2")
    assert official_file_problem(path, "SAM 2") == ""
    predictor = method.build({"checkpoint": str(path)}).predictor
    assert sum(one.numel() for one in predictor.parameters()) / 1e6 == pytest.approx(million, abs=0.1)
    assert predictor.image_size == method.config["image_size"]
    again = tmp_path / "again" / path.name
    again.parent.mkdir()
    write(again, "SAM 2")
    assert filecmp.cmp(path, again, shallow=False)


@pytest.fixture
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGS_BENCH_ENVIRONMENT", "medsam2")  # in its process, whatever version is installed here
