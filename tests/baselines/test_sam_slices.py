"""SAM-B and SAM-Med2D as contestants: geometry, slice protocol, prompts, training, files."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from segment_anything.utils.transforms import ResizeLongestSide

from baselines.sam.network import Sam
from baselines.sam.slice_network import PIXEL_MEAN, PIXEL_STD
from baselines.sam.slice_prompts import SlicePrompt
from baselines.sam.slice_training import draw_tasks, framed
from baselines.sam.slices import SliceSegmenter, follow_prompt
from baselines.sam_b.method import sam_b, sam_b_tiny
from baselines.sam_b.segmenter import SIZES as SAM_B
from baselines.sam_b.segmenter import SamB
from baselines.sam_med2d.method import sam_med2d, sam_med2d_tiny
from baselines.sam_med2d.segmenter import SIZES as SAM_MED2D
from baselines.sam_med2d.segmenter import SamMed2D
from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Method
from benchmarks.data.volume import BoolArray
from benchmarks.prompting.prompts import Box, Click, Prompts
from tests.baselines.sam_helpers import TARGET, PerfectSlices, batch_of, dice, ellipsoid, inputs_of, volume_of

METHODS = pytest.mark.parametrize("method", [sam_b_tiny, sam_med2d_tiny], ids=lambda method: method.name)


def build(method: Method) -> SliceSegmenter:
    segmenter = method.build()
    assert isinstance(segmenter, SliceSegmenter)
    return segmenter


def at_official_size(method: Method) -> SliceSegmenter:
    """The official geometry without the official network: it is put in place of the tiny one by a stand-in."""
    segmenter = build(method)
    size = (SAM_B if isinstance(segmenter, SamB) else SAM_MED2D)["official"]
    segmenter.image = size.encoder.image
    segmenter.module = PerfectSlices(size, 4 * size.encoder.grid)  # type: ignore[assignment]
    return segmenter


def centre(mask: BoolArray) -> tuple[int, int, int]:
    inside = np.argwhere(mask)
    x, y, z = inside[np.abs(inside - inside.mean(0)).sum(1).argmin()].tolist()
    return x, y, z


SHAPES = {
    "large": ((512, 512, 6), (0.8, 0.8, 5.0)),
    "oblong": ((300, 420, 6), (0.9, 0.7, 3.0)),
    "small": ((120, 90, 9), (2.0, 1.6, 5.0)),
}


@METHODS
@pytest.mark.parametrize("name", SHAPES)
def test_round_trip(method: Method, name: str) -> None:
    """A network that sees the mask gives it back through both processings."""
    shape, spacing = SHAPES[name]
    mask = ellipsoid(shape, (shape[0] * 0.4, shape[1] * 0.55, 3), (shape[0] * 0.28, shape[1] * 0.22, 40))
    low, high = TARGET.window
    segmenter = at_official_size(method)
    session = segmenter.open(volume_of(mask, spacing, low, high, oblique=True), TARGET)
    result = session.segment(Prompts(box=Box((0, 0, 0), shape)))
    assert result.shape == shape
    assert result.dtype == np.bool_
    assert dice(result, mask) > 0.99


@METHODS
def test_following_finds_the_whole_lesion_and_stops(method: Method) -> None:
    mask = ellipsoid((160, 160, 40), (70, 90, 18), (28, 24, 9))
    segmenter = at_official_size(method)
    session = segmenter.open(volume_of(mask, (1.0, 1.0, 2.0), *TARGET.window), TARGET)
    result = session.segment(Prompts((Click(centre(mask)),)))
    assert dice(result, mask) > 0.98
    encoded = session._embeddings.keys()
    assert set(np.flatnonzero(mask.any((0, 1)))) <= set(encoded)
    assert len(encoded) < 40  # slices far from the lesion are never encoded


@METHODS
def test_following_goes_no_farther_than_reach(method: Method) -> None:
    """A tube through the whole volume is followed for `reach` times its width, in mm."""
    mask = np.zeros((100, 100, 60), np.bool_)
    mask[40:60, 40:60] = True
    segmenter = at_official_size(method)
    segmenter.config["reach"] = 0.5
    session = segmenter.open(volume_of(mask, (1.0, 1.0, 2.0), *TARGET.window), TARGET)
    slices = np.flatnonzero(session.segment(Prompts((Click((50, 50, 30)),))).any((0, 1)))
    assert (slices[0], slices[-1]) == (25, 35)  # 0.5 × 20 mm at 2 mm a slice


@METHODS
def test_following_ends_where_quality_ends(method: Method) -> None:
    segmenter = build(method)
    segmenter.config["least_quality"] = 1e9
    mask = ellipsoid((64, 64, 20), (30, 30, 10), (12, 12, 6))
    session = segmenter.open(volume_of(mask, (1.0, 1.0, 2.0), *TARGET.window), TARGET)
    result = session.segment(Prompts((Click((30, 30, 10)),)))
    assert set(np.flatnonzero(result.any((0, 1)))) <= {10}


def test_two_clicked_slices_share_what_lies_between() -> None:
    mask = np.zeros((100, 100, 30), np.bool_)
    mask[30:70, 30:70, 5:25] = True
    segmenter = at_official_size(sam_b_tiny)
    session = segmenter.open(volume_of(mask, (1.0, 1.0, 1.0), *TARGET.window), TARGET)
    result = session.segment(Prompts((Click((50, 50, 8)), Click((50, 50, 22)))))
    assert dice(result, mask) > 0.97


def test_follow_prompt_is_the_largest_part() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[2:5, 2:5] = True
    mask[10:21, 20:31] = True
    prompt = follow_prompt(mask, ((1, 1, 0),))
    assert prompt.box == (10, 20, 21, 31)
    assert prompt.points == ((15, 25, 1), (1, 1, 0))


def test_clicks_of_a_slice_are_rounds() -> None:
    """Each round sees all clicks so far and the mask of the round before, in SAM-Med2D as probabilities."""
    for method, bounded in ((sam_b_tiny, False), (sam_med2d_tiny, True)):
        segmenter = at_official_size(method)
        mask = ellipsoid((64, 64, 3), (30, 30, 1), (20, 20, 5))
        session = segmenter.open(volume_of(mask, (1.0, 1.0, 9.0), *TARGET.window), TARGET)
        clicks = (Click((30, 30, 1)), Click((5, 5, 1), False), Click((40, 30, 1)))
        session.segment(Prompts(clicks))
        decoded = cast(PerfectSlices, segmenter.module).decoded
        rounds = decoded[:3]
        assert [points[0].shape[1] for points, _, _ in rounds] == [1, 2, 3]
        assert rounds[2][0][1].tolist() == [[1, 0, 1]]
        assert rounds[0][2] is None
        values = rounds[1][2]
        assert (float(values.min()) >= 0) == bounded
        count = len(decoded)
        session.segment(Prompts(clicks[:1]))
        assert all(len(points[0][0]) <= 2 for points, *_ in decoded[count:])  # only following


def test_rounds_of_a_slice_begin_with_its_first_positive_click() -> None:
    """Before it there is no mask to correct: the negative ones are seen together with it, without a mask."""
    segmenter = at_official_size(sam_b_tiny)
    mask = ellipsoid((64, 64, 3), (30, 30, 1), (20, 20, 5))
    session = segmenter.open(volume_of(mask, (1.0, 1.0, 9.0), *TARGET.window), TARGET)
    clicks = (Click((5, 5, 1), False), Click((5, 9, 1), False), Click((30, 30, 1)), Click((40, 30, 1)))
    session.segment(Prompts(clicks))
    rounds = cast(PerfectSlices, segmenter.module).decoded[:2]
    assert [points[1].tolist() for points, _, _ in rounds] == [[[0, 0, 1]], [[0, 0, 1, 1]]]
    assert rounds[0][2] is None
    assert rounds[1][2] is not None


@METHODS
def test_segment_depends_on_the_prompts_only(method: Method) -> None:
    mask = ellipsoid((64, 64, 12), (30, 30, 6), (15, 12, 4))
    volume = volume_of(mask, (1.0, 1.0, 3.0), 40, 120)
    one, two = Prompts((Click((30, 30, 6)),)), Prompts((Click((30, 30, 6)), Click((50, 50, 6), False)))
    session = build(method).open(volume, TARGET)
    first = session.segment(one)
    session.segment(two)
    assert np.array_equal(session.segment(one), first)
    assert np.array_equal(build(method).open(volume, TARGET).segment(one), first)


@METHODS
def test_no_slice_is_encoded_twice(method: Method) -> None:
    mask = ellipsoid((128, 128, 40), (60, 60, 20), (20, 20, 15))
    segmenter = build(method)
    segmenter.config["least_quality"] = -1e9
    encoded = inputs_of(segmenter.module.image_encoder)
    session = segmenter.open(volume_of(mask, (1.0, 1.0, 1.0), 40, 120), TARGET)
    whole = Box((30, 30, 0), (90, 90, 40))
    session.segment(Prompts(box=whole))
    assert sum(map(len, encoded)) == 40
    session.segment(Prompts((Click((60, 60, 20)),), whole))
    assert sum(map(len, encoded)) == 40


@METHODS
@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (Prompts((Click((64, 0, 0)),)), "outside the volume"),
        (Prompts((Click((0, -1, 0)),)), "outside the volume"),
        (Prompts(box=Box((0, 0, 0), (64, 64, 11))), "leaves the volume"),
        (Prompts(box=Box((5, 0, 0), (5, 64, 9))), "is empty"),
        (Prompts(), "kind none"),
        (Prompts((Click((1, 1, 1), False),)), "at least one positive click"),
        (Prompts((Click((1, 1, 1)),), text="a tumour"), "kind text"),
    ],
)
def test_prompts_that_cannot_work(method: Method, prompts: Prompts, message: str) -> None:
    session = build(method).open(volume_of(np.zeros((64, 64, 10), bool), (1.0, 1.0, 1.0), 0, 1), TARGET)
    with pytest.raises(UserError, match=message):
        session.segment(prompts)


@METHODS
def test_tiny_volume_and_thin_slices(method: Method) -> None:
    segmenter = build(method)
    for shape in ((1, 1, 1), (3, 200, 2), (40, 37, 9)):
        session = segmenter.open(volume_of(np.ones(shape, bool), (1.0, 1.0, 5.0), 40, 120), TARGET)
        assert session.segment(Prompts((Click((0, 0, 0)),))).shape == shape


def test_sam_b_prepares_as_the_public_predictor() -> None:
    segmenter = at_official_size(sam_b_tiny)
    grey = np.random.default_rng(0).integers(0, 256, (97, 61)).astype(np.uint8)
    transform = ResizeLongestSide(1024)
    rows = transform.apply_image(np.repeat(grey.T[..., None], 3, 2)).astype(np.float32)
    ours = segmenter.to_image(torch.from_numpy(grey.astype(np.float32))[None])[0]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
    levels = (ours[:, : rows.shape[0], : rows.shape[1]] * std + mean).permute(1, 2, 0).numpy()
    assert np.abs(levels - rows).max() < 1.01  # one grey level: the public way goes through 8-bit arithmetic
    assert ours.shape == (3, 1024, 1024)
    assert not ours[:, rows.shape[0] :].any()
    assert not ours[:, :, rows.shape[1] :].any()
    points = np.array([[10.0, 20.0], [96.0, 60.0]])
    expected = transform.apply_coords(points, (61, 97))
    np.testing.assert_allclose(segmenter.to_pixels(torch.tensor(points), (97, 61)), expected, rtol=1e-6)


def test_sam_med2d_prepares_by_padding_or_nearest() -> None:
    segmenter = at_official_size(sam_med2d_tiny)
    grey = np.random.default_rng(0).integers(0, 256, (100, 60)).astype(np.float32)
    padded = segmenter.to_image(torch.from_numpy(grey)[None])[0, 1]
    np.testing.assert_allclose(padded[98:158, 78:178] * PIXEL_STD[1] + PIXEL_MEAN[1], grey.T, atol=1e-4)
    assert int((padded != 0).sum()) <= 6000
    assert segmenter.to_pixels(torch.tensor([[0.0, 0.0]]), (100, 60)).tolist() == [[78.0, 98.0]]
    large = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (512, 300)).astype(np.float32))
    resized = segmenter.to_image(large[None])[0, 0] * PIXEL_STD[0] + PIXEL_MEAN[0]
    np.testing.assert_allclose(resized, large.T[(np.arange(256) * 300) // 256][:, ::2], atol=1e-4)


@METHODS
def test_box_convention(method: Method) -> None:
    """SAM's boxes end on the last pixel, those of SAM-Med2D on the first one outside."""
    segmenter = at_official_size(method)
    side = segmenter.image
    _, boxes = segmenter.tokens([SlicePrompt((), (10, 20, 30, 50))], (side, side))
    assert boxes is not None
    end = 1 if isinstance(segmenter, SamB) else 0
    assert boxes.tolist() == [[10, 20, 30 - end, 50 - end]]


@METHODS
def test_training_learns_and_a_checkpoint_keeps_it(method: Method, tmp_path: Path) -> None:
    segmenter = build(method)
    recipe = segmenter.recipe(TARGET)
    side = recipe.patch[0]
    mask = ellipsoid((side, side, 5), (100, 90, 2), (20, 15, 2.4))
    image = np.where(mask, 200, 60)
    batch = batch_of(np.stack([mask] * 2), np.stack([image] * 2))
    optimiser = torch.optim.AdamW(segmenter.trainable_parameters(), lr=recipe.learning_rate)
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
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "checkpoint.json"}
    other = build(method)
    other.load(tmp_path)
    for mine, theirs in zip(segmenter.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    wrong = build(sam_med2d_tiny if isinstance(segmenter, SamB) else sam_b_tiny)
    with pytest.raises(UserError, match="expects"):
        wrong.load(tmp_path)


@METHODS
def test_training_draws_from_the_batch_generator_only(method: Method) -> None:
    segmenter = build(method)
    side = 2 * segmenter.side
    mask = ellipsoid((side, side, 5), (100, 90, 2), (20, 15, 2.4))
    stacked = np.stack([mask] * 2)

    def loss(seed: int, global_seed: int) -> float:
        torch.manual_seed(global_seed)
        return float(segmenter.loss(batch_of(stacked, stacked * 200.0, seed))[0].detach())

    assert loss(1, 1) == loss(1, 2)
    assert loss(1, 1) != loss(2, 1)


def test_drawn_prompts_fit_their_slices() -> None:
    label = torch.from_numpy(ellipsoid((40, 40, 5), (20, 15, 1), (8, 6, 1.2)))
    generator = torch.Generator().manual_seed(0)
    empty = 0
    for _ in range(50):
        clicked, boxed, followed = draw_tasks(0, label, generator)
        x, y, positive = clicked.prompt.points[0]
        assert label[x, y, clicked.z]
        assert positive == 1
        assert boxed.prompt.box is not None
        assert followed.prompt.box is not None
        x0, y0, x1, y1 = boxed.prompt.box
        assert 0 <= x0 < x1 <= 40
        assert 0 <= y0 < y1 <= 40
        empty += not label[..., followed.z].any()
    assert 0 < empty < 50  # following learns to stop, too
    assert draw_tasks(0, torch.zeros(8, 8, 3, dtype=torch.bool), generator) == []


def test_a_training_slice_is_framed_as_at_inference() -> None:
    """Of a crop around the target the frame keeps the whole body where it fits, wherever the target lies in it."""
    places = set()
    for seed in range(20):
        image, label = torch.zeros(1, 1, 80, 80, 5), torch.zeros(1, 1, 80, 80, 5)
        image[:, :, 20:50, 35:70] = 100  # fits into 40 voxels on both axes
        label[:, :, 40, 40, 2] = 1
        batch = Batch(image, label, [TARGET], torch.Generator().manual_seed(seed), 0.0)
        cut = framed(batch, 40)
        assert cut.image.shape == (1, 1, 40, 40, 5)
        assert cut.image.sum() == image.sum()
        assert cut.label.sum() == 1
        assert torch.equal(cut.image[cut.label > 0], image[label > 0])
        places.add(tuple(cut.label.nonzero()[0].tolist()))
    assert len(places) > 5
    image[:] = 100  # a body larger than the frame: a part of it that holds the target
    cut = framed(Batch(image, label, [TARGET], torch.Generator().manual_seed(0), 0.0), 40)
    assert (cut.image == 100).all()
    assert cut.label.sum() == 1


@METHODS
def test_a_crop_without_target_costs_nothing(method: Method) -> None:
    segmenter = build(method)
    side = 2 * segmenter.side
    empty = np.zeros((1, side, side, 5))
    loss, parts = segmenter.loss(batch_of(empty, empty))
    loss.backward()
    assert float(loss.detach()) == 0
    assert parts == {"mask": 0.0, "quality": 0.0}


@pytest.mark.parametrize(
    ("method", "text"),
    [(sam_b, "sam_vit_b_01ec64.pth .the model checkpoints"), (sam_med2d, "sam-med2d_b.pth .the checkpoints of")],
)
def test_official_size_says_which_file_it_needs(method: Method, text: str) -> None:
    with pytest.raises(UserError, match=text):
        method.build()


def test_wrong_official_file_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": Sam(SAM_MED2D["tiny"]).state_dict()}, path)
    with pytest.raises(UserError, match="this looks like SAM-Med2D, expected SAM-B"):
        sam_b.build({"checkpoint": str(path)})
    torch.save(Sam(SAM_B["tiny"]).state_dict(), path)
    with pytest.raises(UserError, match=r"does not fit SAM-B: .*missing: image_encoder.blocks.2"):
        sam_b.build({"checkpoint": str(path)})


def test_unknown_settings() -> None:
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        sam_b_tiny.build({"size": "tinny"})
    with pytest.raises(UserError, match="no precision 'half'"):
        sam_b_tiny.build({"precision": "half"})


def test_only_the_decoder_trains_if_asked() -> None:
    segmenter = sam_b_tiny.build({"train": "decoder"})
    assert isinstance(segmenter, SamB)
    trained = {id(parameter) for parameter in segmenter.trainable_parameters()}
    assert not any(id(parameter) in trained for parameter in segmenter.module.image_encoder.parameters())
    assert all(id(parameter) in trained for parameter in segmenter.module.mask_decoder.parameters())
    assert isinstance(build(sam_med2d_tiny), SamMed2D)
