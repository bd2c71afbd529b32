"""SAM-Med3D as a contestant: geometry, rounds of clicks, training, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.sam.network import Sam
from baselines.sam_b.segmenter import SIZES as SAM_B
from baselines.sam_med3d.method import sam_med3d, sam_med3d_tiny
from baselines.sam_med3d.segmenter import SIZES, SamMed3D, normalised
from benchmarks.common.errors import UserError
from benchmarks.prompting.prompts import Box, Click, Prompts
from tests.baselines.sam_helpers import TARGET, batch_of, dice, ellipsoid, inputs_of, volume_of


def build(**config: Any) -> SamMed3D:
    segmenter = sam_med3d_tiny.build(config)
    assert isinstance(segmenter, SamMed3D)
    return segmenter


class PerfectCrops:
    """Sees the mask in the crop and gives it back as a decoder would: logits on the coarse grid."""

    def __init__(self) -> None:
        self.prompt_encoder = Sam(SIZES["tiny"]).prompt_encoder
        self.prompt_encoder.grid = (8, 8, 8)
        self.decoded: list[tuple[Tensor, Tensor, Tensor]] = []

    def decode(self, embedding: Tensor, points: tuple[Tensor, Tensor], masks: Tensor) -> tuple[Tensor, Tensor]:
        self.decoded.append((*points, masks))
        low = 4 * (F.adaptive_avg_pool3d(embedding / 1000, 32) - 0.5)
        return low, torch.ones(1, 1)


def at_official_size() -> tuple[SamMed3D, PerfectCrops]:
    """The official geometry, a stand-in for the network."""
    segmenter, perfect = build(spacing=1.5), PerfectCrops()
    segmenter.window = (128, 128, 128)
    segmenter.encode = lambda crops: crops  # type: ignore[method-assign]
    segmenter.module = perfect  # type: ignore[assignment]
    return segmenter, perfect


@pytest.mark.parametrize(
    ("shape", "spacing", "centre", "radii"),
    [
        ((220, 200, 60), (0.8, 0.8, 3.0), (110, 90, 28), (60, 50, 18)),
        ((80, 70, 30), (1.5, 1.5, 5.0), (35, 30, 14), (28, 24, 9)),  # smaller than the window on two axes
        ((100, 90, 120), (2.0, 1.9, 1.2), (20, 45, 60), (18, 22, 40)),  # lesion at the volume's edge
    ],
)
def test_round_trip(shape: Any, spacing: Any, centre: Any, radii: Any) -> None:
    """A network that sees the mask gives it back through both processings."""
    mask = ellipsoid(shape, centre, radii)
    segmenter, _ = at_official_size()
    volume = volume_of(mask, spacing, 0, 1000, oblique=True)
    session = segmenter.open(volume, TARGET)
    prompts = Prompts((Click(centre),))
    result = session.segment(prompts)
    assert result.shape == shape
    assert result.dtype == np.bool_
    assert dice(result, mask) > 0.99


def test_clicks_are_rounds_in_the_crop() -> None:
    """Points are voxels of the crop in the order of its axes; the first mask prompt is zeros, then the last logits."""
    mask = ellipsoid((128, 128, 128), (60, 50, 70), (20, 20, 20))
    segmenter, perfect = at_official_size()
    session = segmenter.open(volume_of(mask, (1.5, 1.5, 1.5), 0, 1000), TARGET)
    clicks = (Click((60, 50, 70)), Click((90, 50, 75), False), Click((61, 52, 66)))
    session.segment(Prompts(clicks))
    points, labels, masks = perfect.decoded[-1]
    assert [len(given[0]) for given, _, _ in perfect.decoded] == [1, 2, 3]
    assert points.tolist() == [[[64, 64, 64], [94, 64, 69], [65, 66, 60]]]
    assert labels.tolist() == [[1, 0, 1]]
    assert not perfect.decoded[0][2].any()
    assert masks.any()
    session.segment(Prompts(clicks[:2]))
    assert len(perfect.decoded) == 3  # that round was played already


def test_rounds_begin_with_the_first_positive_click() -> None:
    """Before it there is no mask to correct: the negative one is seen together with it, beside the zeros."""
    mask = ellipsoid((128, 128, 128), (60, 50, 70), (20, 20, 20))
    segmenter, perfect = at_official_size()
    session = segmenter.open(volume_of(mask, (1.5, 1.5, 1.5), 0, 1000), TARGET)
    session.segment(Prompts((Click((90, 50, 75), False), Click((60, 50, 70)))))
    ((points, labels, masks),) = perfect.decoded
    assert points.shape[1] == 2
    assert labels.tolist() == [[0, 1]]
    assert not masks.any()


def test_a_far_click_opens_a_second_crop() -> None:
    mask = ellipsoid((300, 60, 60), (40, 30, 30), (20, 16, 16)) | ellipsoid((300, 60, 60), (260, 30, 30), (20, 16, 16))
    segmenter, _ = at_official_size()
    session = segmenter.open(volume_of(mask, (1.5, 1.5, 1.5), 0, 1000), TARGET)
    one = session.segment(Prompts((Click((40, 30, 30)),)))
    assert not one[150:].any()
    both = session.segment(Prompts((Click((40, 30, 30)), Click((150, 5, 5), False), Click((260, 30, 30)))))
    assert dice(both, mask) > 0.98


def test_a_training_crop_shows_beyond_the_scan_what_one_at_inference_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, _ = at_official_size()
    shown: list[torch.Tensor] = []
    encode = segmenter.encode
    monkeypatch.setattr(segmenter, "encode", lambda crops: shown.append(crops) or encode(crops))
    scan = volume_of(np.zeros((40, 40, 40), bool), (1.5, 1.5, 1.5), -900, 1000)
    segmenter.open(scan, TARGET).segment(Prompts((Click((20, 20, 20)),)))
    recipe = segmenter.recipe(TARGET)
    assert float(shown[0][..., 0, 0, 0]) == recipe.fill
    assert recipe.augmentation.intensity_shift == 0


def test_normalisation_uses_the_voxels_above_zero() -> None:
    crops = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) * 50
    result = normalised(crops)
    for before, after in zip(crops, result, strict=True):
        above = before[before > 0]
        torch.testing.assert_close(after, (before - above.mean()) / above.std())
    assert torch.equal(normalised(-crops.abs()), -crops.abs())  # nothing above zero: as it is


def test_hounsfield_units_are_clamped_on_request() -> None:
    volume = volume_of(np.ones((8, 8, 8), bool), (1.5, 1.5, 1.5), 0, 2500)
    assert build().open(volume, TARGET).prepared.array.max() == 1000
    assert build(clamp=False).open(volume, TARGET).prepared.array.max() == 2500


def test_segment_depends_on_the_prompts_only() -> None:
    volume = volume_of(ellipsoid((60, 50, 20), (30, 25, 10), (15, 12, 6)), (1.0, 1.0, 3.0), 40, 120)
    one, two = Prompts((Click((30, 25, 10)),)), Prompts((Click((30, 25, 10)), Click((50, 40, 15), False)))
    session = build().open(volume, TARGET)
    first = session.segment(one)
    session.segment(two)
    assert np.array_equal(session.segment(one), first)
    assert np.array_equal(build().open(volume, TARGET).segment(one), first)


def test_no_crop_is_encoded_twice() -> None:
    volume = volume_of(ellipsoid((160, 160, 80), (80, 80, 40), (20, 20, 15)), (1.0, 1.0, 2.0), 40, 120)
    segmenter = build()
    encoded = inputs_of(segmenter.module.image_encoder)
    session = segmenter.open(volume, TARGET)
    session.segment(Prompts((Click((80, 80, 40)),)))
    session.segment(Prompts((Click((80, 80, 40)), Click((90, 80, 40)))))
    assert len(encoded) == 1


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (Prompts((Click((0, 0, 10)),)), "outside the volume"),
        (Prompts(box=Box((0, 0, 0), (5, 5, 5))), "kind box"),
        (Prompts((Click((1, 1, 1), False),)), "at least one positive click"),
        (Prompts(), "kind none"),
    ],
)
def test_prompts_that_cannot_work(prompts: Prompts, message: str) -> None:
    session = build().open(volume_of(np.ones((20, 20, 10), bool), (1.0, 1.0, 1.0), 0, 1), TARGET)
    with pytest.raises(UserError, match=message):
        session.segment(prompts)


def test_tiny_volumes() -> None:
    for shape in ((1, 1, 1), (3, 50, 2), (40, 37, 9)):
        session = build().open(volume_of(np.ones(shape, bool), (1.0, 1.0, 5.0), 40, 120), TARGET)
        assert session.segment(Prompts((Click((0, 0, 0)),))).shape == shape


def test_training_learns_and_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    segmenter = build()
    recipe = segmenter.recipe(TARGET)
    assert recipe.patch == (32, 32, 32)
    mask = ellipsoid(recipe.patch, (13, 16, 19), (8, 6, 7))
    batch = batch_of(np.stack([mask] * 2), np.stack([np.where(mask, 120, 40)] * 2))
    optimiser = torch.optim.AdamW(segmenter.trainable_parameters(), lr=3 * recipe.learning_rate)  # few steps
    losses = []
    for _ in range(12):
        loss, parts = segmenter.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert set(parts) == {"mask", "quality"}
    assert losses[-1] < 0.8 * losses[0]
    segmenter.save(tmp_path)
    other = build(seed=1)
    other.load(tmp_path)
    for mine, theirs in zip(segmenter.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(UserError, match=r"spacing = 2\.25, SAM-Med3D expects 3\.0"):
        build(spacing=3.0).load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="damaged checkpoint"):
        other.load(tmp_path)


def test_a_crop_without_target_costs_nothing() -> None:
    empty = np.zeros((1, 32, 32, 32))
    loss, _ = build().loss(batch_of(empty, empty))
    loss.backward()
    assert float(loss.detach()) == 0


def test_official_size_says_which_file_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sam_med3d_turbo\.pth .the checkpoints of uni-medical/SAM-Med3D"):
        sam_med3d.build()
    path = tmp_path / "file.pth"
    torch.save(Sam(SAM_B["tiny"]).state_dict(), path)
    with pytest.raises(UserError, match=r"file\.pth: does not fit SAM-Med3D"):
        sam_med3d.build({"checkpoint": str(path)})
