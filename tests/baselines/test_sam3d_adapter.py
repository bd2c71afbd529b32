"""3DSAM-adapter's wrapper: geometry there and back, clicks in the network's frame, loading, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from baselines.sam3d_adapter.encoder import SIZES, shift_mask
from baselines.sam3d_adapter.method import sam3d_adapter, sam3d_adapter_tiny
from baselines.sam3d_adapter.network import Sam3dAdapter, load_official_file
from baselines.sam3d_adapter.segmenter import Sam3dAdapterSegmenter, centre_of, draw_points
from benchmarks.common.errors import UserError
from benchmarks.data.preprocessing import resize
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Box, Click, Prompts
from tests.baselines.sam_helpers import TARGET, affine, batch_of, dice, ellipsoid


def build(**config: Any) -> Sam3dAdapterSegmenter:
    segmenter = sam3d_adapter_tiny.build(config)
    assert isinstance(segmenter, Sam3dAdapterSegmenter)
    return segmenter


def perfect(monkeypatch: pytest.MonkeyPatch, side: int, **config: Any) -> tuple[Sam3dAdapterSegmenter, list]:
    """A network that sees the mask in the crop's intensities, and the points that it was given."""
    segmenter, seen = build(**config), []
    segmenter.crop = (side, side, side)
    low, high = ((bound - TARGET.mean) / TARGET.std for bound in TARGET.window)

    def decode(encoded: list, points: list) -> np.ndarray:
        seen.append((encoded[0], points))
        return np.asarray((encoded[0] - low) / (high - low))

    monkeypatch.setattr(segmenter, "encode", lambda image: [image])
    monkeypatch.setattr(segmenter, "decode", decode)
    return segmenter, seen


def shown(mask: np.ndarray, spacing: tuple[float, float, float], axes: str = "RAS") -> Volume:
    low, high = TARGET.window
    orientation = nib.orientations.axcodes2ornt(tuple(axes))
    return Volume(np.where(mask, high, low).astype(np.float32), affine(spacing, oblique=True), orientation)


def test_a_training_crop_shows_beyond_the_scan_what_one_at_inference_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, seen = perfect(monkeypatch, 48)
    scan = shown(np.zeros((20, 20, 20), bool), (1.0, 1.0, 1.0))
    segmenter.open(scan, TARGET).segment(Prompts((Click((10, 10, 10)),)))
    (crop, _), *_ = seen
    assert float(crop[0, 0, 0]) == segmenter.recipe(TARGET).fill


@pytest.mark.parametrize("axes", ["RAS", "LPS", "IPL"])
@pytest.mark.parametrize(
    ("shape", "spacing", "centre", "radii"),
    [
        ((140, 130, 40), (0.9, 0.8, 3.0), (80, 60, 20), (45, 50, 14)),
        ((40, 37, 9), (1.0, 1.1, 5.0), (20, 18, 4), (18, 16, 3.5)),  # smaller than the crop, thick slices
        ((100, 100, 90), (1.0, 1.0, 1.0), (8, 50, 85), (14, 30, 20)),  # at the volume's edge
    ],
)
def test_a_perfect_network_gives_the_mask_back(
    monkeypatch: pytest.MonkeyPatch, axes: str, shape: tuple, spacing: tuple, centre: tuple, radii: tuple
) -> None:
    segmenter, _ = perfect(monkeypatch, 128, spacing=1.0, orientation="file")
    mask = ellipsoid(shape, centre, radii)
    session = segmenter.open(shown(mask, spacing, axes), TARGET)
    prompts = Prompts(clicks=(Click(centre),))
    found = session.segment(prompts)
    grid = tuple(round(n * mm) for n, mm in zip(shape, spacing, strict=True))
    bound = dice(resize(resize(mask.astype(np.float32), grid), shape) > 0.5, mask)  # what resampling alone leaves
    assert dice(found, mask) >= bound - 1e-3
    assert dice(found, mask) > 0.97


@pytest.mark.parametrize("axes", ["RAS", "LPS", "IPL", "LAI"])
def test_a_click_is_at_its_own_voxel_of_the_crop(monkeypatch: pytest.MonkeyPatch, axes: str) -> None:
    segmenter, seen = perfect(monkeypatch, 48, spacing=1.0, orientation="file")
    mask = np.zeros((70, 66, 60), bool)
    marks = [(30, 40, 20), (44, 25, 33)]
    for mark in marks:
        mask[mark] = True
    session = segmenter.open(shown(mask, (1.0, 1.0, 1.0), axes), TARGET)
    session.segment(Prompts(clicks=tuple(Click(mark) for mark in marks)))
    image, points = seen[0]
    bright = {(d, w, h) for d, h, w in np.argwhere(image > image.min() + 1)}
    assert bright == set(points)


def test_array_order_is_z_y_x(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, seen = perfect(monkeypatch, 48, spacing=1.0)
    array = np.broadcast_to(np.linspace(-100, 300, 48, dtype=np.float32), (48, 48, 48)).copy()  # grows along z
    segmenter.open(Volume(array, np.eye(4)), TARGET).segment(Prompts(clicks=(Click((24, 24, 24)),)))
    assert (np.diff(seen[0][0], axis=0) > 0).all()
    assert not np.diff(seen[0][0], axis=1).any()


def test_the_crop_is_encoded_once_per_place(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = build()
    encoded = []
    original = segmenter.encode
    monkeypatch.setattr(segmenter, "encode", lambda image: encoded.append(1) or original(image))
    session = segmenter.open(Volume(np.zeros((60, 60, 40), np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), TARGET)
    one = Prompts(clicks=(Click((30, 30, 20)),))
    assert np.array_equal(session.segment(one), session.segment(one))
    assert len(encoded) == 1
    session.segment(Prompts(clicks=(Click((30, 30, 20)), Click((10, 10, 20)))))
    assert len(encoded) == 2


def test_centre_of_clicks() -> None:
    centre, kept = centre_of(np.array([[10, 10, 10], [30, 20, 10]]), (48, 48, 48))
    assert centre.tolist() == [20, 15, 10]
    assert len(kept) == 2
    centre, kept = centre_of(np.array([[0, 0, 0], [200, 0, 0]]), (48, 48, 48))  # too far apart for one crop
    assert centre.tolist() == [200, 0, 0]
    assert kept.tolist() == [[200, 0, 0]]
    centre, kept = centre_of(np.array([[0, 0, 0], [100, 0, 0], [200, 0, 0]]), (48, 48, 48))  # the middle holds one
    assert centre.tolist() == [100, 0, 0]
    assert kept.tolist() == [[100, 0, 0]]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (Prompts(), "does not understand prompts of kind none"),
        (Prompts(clicks=(Click((1, 1, 1)), Click((2, 2, 2), positive=False))), "negative-click"),
        (Prompts(box=Box((0, 0, 0), (3, 3, 3))), "does not understand"),
        (Prompts(clicks=(Click((1, 1, 99)),)), "outside the volume"),
    ],
)
def test_bad_prompts(prompts: Prompts, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build().open(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)), TARGET).segment(prompts)


def official_file() -> dict[str, Any]:
    """The official layout with tensors that take no room, but for the real shift masks."""
    with torch.device("meta"):
        network = Sam3dAdapter(SIZES["official"])

    def light(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {key: torch.zeros(()).expand(value.shape) for key, value in module.state_dict().items()}

    mask = shift_mask(32, 8)
    return {
        "encoder_dict": light(network.encoder) | {f"blocks.{i}.attn_mask": mask for i in range(0, 12, 2)},
        "feature_dict": [light(network.prompt_encoder) for _ in range(4)],
        "decoder_dict": light(network.decoder),
        "best_val_loss": np.float64(0.3),
        "epoch": 3,
    }


def test_loader_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path, full = tmp_path / "best.pth.tar", official_file()
    encoder, features = full["encoder_dict"], full["feature_dict"]
    no_mask = {key: value for key, value in encoder.items() if key != "blocks.4.attn_mask"}
    fewer = [*features[:1], {k: v for k, v in features[1].items() if "norm4" not in k}, *features[2:]]
    cases = {
        "missing decoder_dict": {key: value for key, value in full.items() if key != "decoder_dict"},
        "four prompt encoders": full | {"feature_dict": features[:3]},
        "feature_dict.1.: 4 missing: transformer.layers.0.norm4": full | {"feature_dict": fewer},
        "missing encoder_dict.blocks.4.attn_mask": full | {"encoder_dict": no_mask},
        "blocks.0.attn_mask is not the mask": full
        | {"encoder_dict": encoder | {"blocks.0.attn_mask": encoder["blocks.0.attn_mask"].flip(0)}},
        "unexpected: blocks.1.attn_mask": full
        | {"encoder_dict": encoder | {"blocks.1.attn_mask": encoder["blocks.0.attn_mask"]}},
        "wrong shape: cls.0.weight": full
        | {"decoder_dict": full["decoder_dict"] | {"cls.0.weight": torch.zeros(2, 2)}},
        "looks like SegVol": {"model": {"module.text_encoder.dim_align.weight": torch.zeros(1)}},
    }
    for words, content in cases.items():
        torch.save(content, path)
        with pytest.raises(UserError, match=words):
            load_official_file(path)


def test_official_size_names_the_file_it_needs() -> None:
    with pytest.raises(UserError, match=r"best\.pth\.tar"):
        sam3d_adapter.build()


def test_frozen_parts_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        network = Sam3dAdapter(SIZES["official"])
    network.freeze_backbone()
    trained = sum(p.numel() for p in network.encoder.parameters() if p.requires_grad)
    assert trained == 15_209_984  # counted on the released code


def test_training_clicks_lie_in_the_tumour_or_anywhere() -> None:
    inside = torch.zeros(20, 24, 28, dtype=torch.bool)
    inside[3:6, 7:9, 20:27] = True
    points = draw_points(inside, 10, 20, torch.Generator().manual_seed(1))
    d, w, h = points[:10].t()
    assert points.shape == (30, 3)
    assert inside[d, h, w].all()
    assert not inside[points[10:, 0], points[10:, 2], points[10:, 1]].all()
    assert draw_points(torch.zeros_like(inside), 10, 20, torch.Generator()).shape == (30, 3)


def test_training_learns_and_is_saved(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    segmenter = build()
    side = segmenter.crop[0]
    mask = ellipsoid((side, side, side), (16, 14, 18), (8, 7, 6))[None]
    optimiser = torch.optim.AdamW(segmenter.trainable_parameters(), lr=2e-3)
    values = []
    for step in range(12):
        noise = np.random.default_rng(step).normal(size=mask.shape)
        loss, _ = segmenter.loss(batch_of(mask, mask + 0.3 * noise, step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.8 * values[0]
    segmenter.save(tmp_path)
    other = build(seed=4)
    other.load(tmp_path)
    image, points = torch.randn(1, 1, side, side, side), torch.tensor([[[3, 4, 5]]])
    with torch.no_grad():
        assert torch.equal(segmenter.module.eval()(image, points), other.module.eval()(image, points))
    with pytest.raises(UserError, match="spacing"):
        build(spacing=1.0).load(tmp_path)


def test_the_loss_of_the_paper_gives_its_parts_as_detached_tensors() -> None:
    segmenter = build()
    segmenter.config["size"] = "official"  # which decides the loss
    mask = ellipsoid(segmenter.crop, (16, 14, 18), (8, 7, 6))[None]
    loss, parts = segmenter.loss(batch_of(mask, mask))
    assert loss.requires_grad
    assert set(parts) == {"dice", "entropy"}
    assert all(isinstance(part, torch.Tensor) and not part.requires_grad for part in parts.values())
