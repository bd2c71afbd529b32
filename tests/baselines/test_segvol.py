"""SegVol's wrapper: geometry there and back, prompts in the network's frame, loading, training."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from baselines.frames import file_flips
from baselines.segvol.frame import normalised, prepared
from baselines.segvol.method import segvol, segvol_tiny
from baselines.segvol.network import SIZES, SegVol, load_official_file
from baselines.segvol.segmenter import NO_BOX, SegVolSegmenter, SegVolSession, draw_prompts, window_origins
from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Target
from benchmarks.data.preprocessing import prepare
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Box, Click, Prompts

TARGET = Target("kidney-tumor", "kidney", "tumor", (2,))
TEXT = Prompts(text="kidney tumor")


def scan(shape: tuple[int, int, int], axes: str = "RAS") -> tuple[Volume, np.ndarray]:
    """Tissue with a bright block in air, from a file whose axes run as `axes`; and the block."""
    array = np.full(shape, -1000.0, np.float32)
    body = tuple(slice(n // 8, n - n // 8) for n in shape)
    array[body] = np.random.default_rng(0).uniform(0, 40, array[body].shape)
    block = np.zeros(shape, bool)
    block[tuple(slice(n // 3, n // 3 + max(2, n // 5)) for n in shape)] = True
    array[block] = 200
    affine = np.diag([0.9, 0.8, 5.0, 1.0])
    return Volume(array, affine, nib.orientations.axcodes2ornt(tuple(axes))), block


def upstream_like() -> SegVolSegmenter:
    """The small network, fed and driven as the official one."""
    segmenter = segvol_tiny.build({"window": None, "zoom_to_clicks": False})
    assert isinstance(segmenter, SegVolSegmenter)
    return segmenter


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> SegVolSegmenter:
    """A network that sees the block by its brightness, wherever its window lies."""
    segmenter = segvol_tiny.build({"orientation": "file", "window": None})
    assert isinstance(segmenter, SegVolSegmenter)
    monkeypatch.setattr(segmenter, "encode", lambda images: images)
    monkeypatch.setattr(segmenter, "logits", lambda tokens, points, box, text: (tokens[0, 0] - 0.9) * 10)
    return segmenter


@pytest.mark.parametrize("shape", [(40, 37, 9), (150, 130, 70), (64, 64, 16)])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "IPL", "SAR"])
def test_a_perfect_network_gives_the_mask_back(
    perfect: SegVolSegmenter, shape: tuple[int, int, int], axes: str
) -> None:
    volume, block = scan(shape, axes)
    assert dice(perfect.open(volume, TARGET).segment(TEXT), block) > 0.99


def test_zoom_out_alone_keeps_to_its_resolution(perfect: SegVolSegmenter) -> None:
    perfect.config["zoom_in"] = False
    volume, block = scan((150, 130, 70))
    found = np.argwhere(perfect.open(volume, TARGET).segment(TEXT))
    truth = np.argwhere(block)
    coarse = np.ceil(np.array(volume.shape) / np.array(SIZES["tiny"].image[::-1]))  # voxels that one sample stands for
    assert (np.abs(found.min(0) - truth.min(0)) <= coarse).all()
    assert (np.abs(found.max(0) - truth.max(0)) <= coarse).all()
    assert perfect.open(volume, TARGET).segment(TEXT).shape == volume.shape


@pytest.mark.parametrize("axes", ["RAS", "LPI", "IPL"])
@pytest.mark.parametrize("shape", [(40, 37, 9), (100, 90, 40)])
def test_a_place_of_the_volume_is_that_place_of_the_array(shape: tuple[int, int, int], axes: str) -> None:
    volume, _ = scan(shape, axes)
    array, frame = prepared(volume, file_flips(volume), SIZES["tiny"].image)
    values = normalised(volume.array)
    for place in [(20, 18, 6), (shape[0] // 2, 12, shape[2] // 2), (15, 20, 6)]:
        assert array[frame.place(place)] == values[place]
    assert np.array_equal(frame.restore(array, 0.0), values)


def test_flips_are_those_of_the_file() -> None:
    assert file_flips(scan((9, 9, 9), "RAS")[0]) == ()
    assert file_flips(scan((9, 9, 9), "LPS")[0]) == (0, 1)
    assert file_flips(scan((9, 9, 9), "IPL")[0]) == (0, 1, 2)


def test_normalisation_uses_the_foreground_only() -> None:
    array = np.concatenate([np.full(5000, -1000.0), np.linspace(0, 100, 5000), [3000.0]]).astype(np.float32)
    foreground = array[array > array.mean()]
    low, high = np.percentile(foreground, (0.05, 99.95))
    expected = (np.clip(array, low, high) - low) / (high - low)
    np.testing.assert_allclose(normalised(array), expected, atol=1e-6)
    assert not normalised(np.full((4, 4, 4), 7.0, np.float32)).any()


def test_window_origins_cover_a_region_with_half_overlap() -> None:
    origins = list(window_origins((2, 0, -3), (16, 100, 64), (16, 64, 64)))
    assert origins == [(2, 0, -3), (2, 32, -3), (2, 36, -3)]


def calls_of(segmenter: SegVolSegmenter, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    calls: list[tuple] = []

    def logits(tokens: torch.Tensor, points: list, box: tuple | None, text: object) -> torch.Tensor:
        calls.append((points, box, text))
        return (tokens[0, 0] - 0.9) * 10

    monkeypatch.setattr(segmenter, "encode", lambda images: images)
    monkeypatch.setattr(segmenter, "logits", logits)
    return calls


def test_a_click_is_at_its_own_voxel_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = upstream_like()
    assert isinstance(segmenter, SegVolSegmenter)
    calls = calls_of(segmenter, monkeypatch)
    volume, block = scan((150, 130, 70))
    inside = tuple(int(n) for n in np.argwhere(block).mean(0))
    session = segmenter.open(volume, TARGET)
    assert isinstance(session, SegVolSession)
    session.segment(Prompts(clicks=(Click((inside[0], inside[1], inside[2])), Click((20, 20, 10), positive=False))))
    (small_inside, sign), (small_outside, other_sign) = calls[0][0]
    assert (sign, other_sign) == (True, False)
    tokens = session._zoomed_out[0, 0]
    assert tokens[small_inside] > 0.9
    assert tokens[small_outside] < 0.9
    seen = 0
    for points, box, _ in calls[1:]:
        assert box is not None  # with clicks each window has the predicted box too
        for place, positive in points:
            seen += positive
            assert all(0 <= at < n for at, n in zip(place, session.window, strict=True))
    assert seen > 0


def test_the_users_box_in_a_single_window_and_the_predicted_one_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = upstream_like()
    assert isinstance(segmenter, SegVolSegmenter)
    calls = calls_of(segmenter, monkeypatch)
    volume, block = scan((64, 64, 16))
    low, high = np.argwhere(block).min(0), np.argwhere(block).max(0) + 1
    segmenter.open(volume, TARGET).segment(Prompts(box=Box(tuple(low.tolist()), tuple(high.tolist()))))
    size = np.array(calls[1][1][3:]) - np.array(calls[1][1][:3]) + 1
    assert len(calls) == 2
    assert size.tolist() == (high - low)[::-1].tolist()

    calls.clear()
    volume, block = scan((150, 130, 70))
    segmenter.open(volume, TARGET).segment(Prompts(box=Box((50, 43, 23), (52, 45, 25))))
    boxes = [box for _, box, _ in calls[1:]]
    assert len(boxes) > 1
    assert all(box == NO_BOX or max(np.array(box[3:]) - np.array(box[:3])) > 2 for box in boxes)


@pytest.mark.parametrize("zoom_to_clicks", [False, True])
def test_where_zoom_out_misses_the_click_the_window_around_it_decides(
    monkeypatch: pytest.MonkeyPatch, zoom_to_clicks: bool
) -> None:
    """Zoom-out sees a corner far from the click only; a window sees the block under it."""
    segmenter = segvol_tiny.build({"window": None, "zoom_to_clicks": zoom_to_clicks})
    assert isinstance(segmenter, SegVolSegmenter)
    volume, block = scan((150, 130, 70))
    seen: list[tuple] = []

    def logits(tokens: torch.Tensor, points: list, box: tuple | None, text: object) -> torch.Tensor:
        seen.append((points, box))
        if len(seen) > 1:
            return (tokens[0, 0] - 0.9) * 10
        wrong = torch.full(segmenter.module.size.image, -1.0)
        wrong[-3:, -3:, -3:] = 1.0
        return wrong

    monkeypatch.setattr(segmenter, "encode", lambda images: images)
    monkeypatch.setattr(segmenter, "logits", logits)
    inside = [int(n) for n in np.argwhere(block).mean(0)]
    found = segmenter.open(volume, TARGET).segment(Prompts(clicks=(Click((inside[0], inside[1], inside[2])),)))
    assert found[block].any() == zoom_to_clicks
    if zoom_to_clicks:
        (points, box), *others = seen[1:]
        assert not others
        assert len(points) == 1
        assert box is None  # zoom-out predicted none that is believed
        assert not (found & ~block).any()


def test_a_window_between_clicks_that_are_far_apart_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No click lies in it and zoom-out has found nothing: what the windows of the clicks say stands alone."""
    segmenter = segvol_tiny.build({"window": None, "zoom_to_clicks": True})
    assert isinstance(segmenter, SegVolSegmenter)
    seen: list[list] = []

    def logits(tokens: torch.Tensor, points: list, box: tuple | None, text: object) -> torch.Tensor:
        seen.append(points)
        return torch.full(segmenter.module.size.image, -1.0 if len(seen) == 1 else 1.0)

    monkeypatch.setattr(segmenter, "logits", logits)
    volume = Volume(np.random.default_rng(0).normal(0, 1, (240, 60, 40)).astype(np.float32), np.eye(4))
    found = segmenter.open(volume, TARGET).segment(Prompts(clicks=(Click((10, 30, 20)), Click((230, 30, 20)))))
    assert all(seen[1:])
    along = found[:, 30, 20]
    assert along[[10, 230]].all()
    assert not along[110:130].any()
    assert np.maximum(np.diff(along.astype(int)), 0).sum() == 2  # two parts: no hole where windows overlap


def test_a_window_of_hu_is_what_training_and_inference_see() -> None:
    segmenter = segvol_tiny.build({"window": [-100.0, 300.0]})
    assert isinstance(segmenter, SegVolSegmenter)
    volume, _ = scan((64, 64, 16))
    values = np.unique(segmenter.open(volume, TARGET).array)
    assert (values.min(), values.max()) == (pytest.approx(0.25, abs=1e-3), pytest.approx(0.75))  # 0 and 200 HU
    recipe = segmenter.recipe(TARGET)
    trained = prepare(volume, recipe.preprocessing).array
    assert (trained.min(), trained.max()) == (0.0, pytest.approx(0.75))
    assert recipe.augmentation.intensity_shift == 0.0


def test_drawn_boxes_hold_their_mask_but_for_a_voxel() -> None:
    inside = torch.zeros(1, 16, 48, 48, dtype=torch.bool)
    inside[0, 4:9, 20:31, 40:48] = True
    texts = torch.zeros(1, 4)
    mixtures, corners = set(), set()
    for seed in range(120):
        points, box, text = draw_prompts(inside, texts, torch.Generator().manual_seed(seed))
        mixtures.add((points is not None, box is not None, text is not None))
        if box is not None:
            assert (box - torch.tensor([[4.0, 20, 40, 8, 30, 47]])).abs().max() <= 1
            assert box[0, 5] <= 47
            corners.add(tuple(box[0].tolist()))
    # text, clicks, box, and each two of them; never all three
    assert mixtures == {(0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0)}
    assert len(corners) > 10


def test_text_alone_has_neither_points_nor_box(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = upstream_like()
    assert isinstance(segmenter, SegVolSegmenter)
    calls = calls_of(segmenter, monkeypatch)
    segmenter.open(scan((100, 90, 40))[0], TARGET).segment(TEXT)
    assert all(points == [] and box is None and text is not None for points, box, text in calls)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (Prompts(), "does not understand prompts of kind none"),
        (Prompts(clicks=(Click((400, 1, 1)),)), "outside the volume"),
        (Prompts(box=Box((0, 0, 0), (41, 3, 3))), "leaves the volume"),
        (Prompts(mask=np.zeros((40, 37, 9), bool)), "does not understand"),
        (Prompts(text="very " * 80), "too long"),
    ],
)
def test_bad_prompts(prompts: Prompts, words: str) -> None:
    with pytest.raises(UserError, match=words):
        upstream_like().open(scan((40, 37, 9))[0], TARGET).segment(prompts)


def official_state() -> dict[str, torch.Tensor]:
    """The official keys with tensors that take no room."""
    with torch.device("meta"):
        network = SegVol(SIZES["official"])
    return {f"module.{key}": torch.zeros(()).expand(value.shape) for key, value in network.state_dict().items()}


def test_loader_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path, full = tmp_path / "SegVol_v1.pth", official_state()
    first = next(iter(full))
    cases = {
        "missing: .*" + first.removeprefix("module."): {k: v for k, v in full.items() if k != first},
        "unexpected: extra.weight": {**full, "module.extra.weight": torch.zeros(1)},
        "wrong shape: .*position_embeddings": {**full, first: torch.zeros(1, 4, 768)},
        "looks like Universal Model": {"module.backbone.down_tr64.ops.0.conv1.weight": torch.zeros(1)},
    }
    for words, state in cases.items():
        torch.save({"model": state, "epoch": 1}, path)
        with pytest.raises(UserError, match=words):
            load_official_file(path)
    torch.save({"model": full}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated"):
        load_official_file(path)


def test_official_size_names_the_file_it_needs() -> None:
    with pytest.raises(UserError, match=r"SegVol_v1\.pth"):
        segvol.build()


def test_unknown_setting_value() -> None:
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        segvol_tiny.build({"size": "tyni"})


def batch(seed: int) -> Batch:
    volume, block = scan((96, 96, 32))
    image = torch.from_numpy(np.stack([volume.array] * 2))[:, None]
    label = torch.from_numpy(np.stack([block] * 2))[:, None].float()
    label[1] = 0  # a crop without the target
    return Batch(image, label, [TARGET, TARGET], torch.Generator().manual_seed(seed), 0.0)


def test_loss_depends_on_the_batchs_generator_only() -> None:
    segmenter = upstream_like()
    assert isinstance(segmenter, SegVolSegmenter)
    losses = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        losses.append(float(segmenter.loss(batch(3))[0].detach()))
    assert losses[0] == losses[1]


def test_training_learns_and_the_text_tower_stays(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    segmenter = upstream_like()
    assert isinstance(segmenter, SegVolSegmenter)
    tower = segmenter.module.text_encoder.clip_text_model
    before = [p.clone() for p in tower.parameters()]
    optimiser = torch.optim.AdamW(segmenter.trainable_parameters(), lr=2e-3)
    values = []
    for step in range(24):
        loss, _ = segmenter.loss(batch(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert np.mean(values[-6:]) < 0.9 * np.mean(values[:6])
    assert all(torch.equal(a, b) for a, b in zip(before, tower.parameters(), strict=True))

    segmenter.save(tmp_path)
    other = segvol_tiny.build({"seed": 5, "window": None, "zoom_to_clicks": False})
    assert isinstance(other, SegVolSegmenter)
    other.load(tmp_path)
    volume, _ = scan((70, 60, 20))
    for each in (segmenter, other):
        each.module.eval()
    segmenter._texts.clear()
    one, two = (each.open(volume, TARGET)._logits(TEXT) for each in (segmenter, other))
    assert np.array_equal(one, two)
    with pytest.raises(UserError, match="no checkpoint"):
        other.load(tmp_path / "nowhere")
