"""The Universal Model's wrapper: classes, geometry there and back, post-processing, loading, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from baselines.universal.classes import wanted
from baselines.universal.method import universal_swin, universal_tiny, universal_unet
from baselines.universal.network import SIZES, UniversalModel, class_head, load_official_file
from baselines.universal.segmenter import UniversalSegmenter, confinement, largest_components
from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Target
from benchmarks.data.preprocessing import resize
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Click, Prompts
from tests.baselines.sam_helpers import affine, dice, ellipsoid

KIDNEY = Target("kidney-tumor", "kidney", "tumor", (2,))


def build(**config: object) -> UniversalSegmenter:
    segmenter = universal_tiny.build(config)
    assert isinstance(segmenter, UniversalSegmenter)
    return segmenter


@pytest.mark.parametrize(
    ("organ", "lesion", "classes"),
    [
        ("kidney", "tumor", (25,)),
        ("Liver", "tumour", (26,)),
        ("pancreas", "cancer", (27,)),
        ("liver", "liver_tumor", (26,)),
        ("liver", "metastasis", (26,)),
        ("hepatic vessel", "hepatic-vessel tumor", (28,)),
        ("colon", "tumor", (30,)),
        ("kidney", "cyst", (31,)),
        ("kidney", "", (1, 2)),
        ("spleen", "", (0,)),
    ],
)
def test_class_of_a_target(organ: str, lesion: str, classes: tuple[int, ...]) -> None:
    assert wanted(Target("t", organ, lesion, (1,))).classes == classes


@pytest.mark.parametrize(
    ("organ", "lesion"),
    [("thigh", "sarcoma"), ("brain", "tumor"), ("spleen", "tumor"), ("", ""), ("kidney", "metastasis")],
)
def test_a_target_that_is_no_class(organ: str, lesion: str) -> None:
    volume = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(UserError, match="no class for target"):
        build().open(volume, Target("some-target", organ, lesion, (1,)))


@pytest.mark.parametrize(
    ("shape", "spacing", "centre", "radii"),
    [
        ((80, 74, 18), (0.9, 0.8, 5.0), (40, 35, 9), (30, 28, 7)),  # oblique, thick slices
        ((40, 37, 9), (0.7, 0.7, 5.0), (20, 18, 4), (16, 15, 3.5)),  # smaller than a window
        ((60, 60, 90), (2.0, 2.1, 1.5), (30, 30, 45), (20, 20, 40)),
    ],
)
@pytest.mark.parametrize("postprocess", ["none", "official"])
def test_a_perfect_network_gives_the_mask_back(
    monkeypatch: pytest.MonkeyPatch, postprocess: str, shape: tuple, spacing: tuple, centre: tuple, radii: tuple
) -> None:
    """The stand-in sees the mask in the intensities: 250 HU inside, −175 outside, so [0, 1] after the window."""
    mask = ellipsoid(shape, centre, radii)
    array = np.where(mask, 250, -175).astype(np.float32)
    segmenter = build(spacing=1.5, postprocess=postprocess)
    seen: list[tuple[int, ...]] = []

    class Perfect(torch.nn.Module):
        def forward(self, windows: torch.Tensor, classes: tuple[int, ...]) -> torch.Tensor:
            seen.append(tuple(windows.shape))
            return torch.logit(windows.clamp(1e-4, 1 - 1e-4)).repeat(1, len(classes), 1, 1, 1)

    segmenter.module = Perfect()  # type: ignore[assignment]
    session = segmenter.open(Volume(array, affine(spacing, oblique=True)), KIDNEY)
    found = session.segment(Prompts())
    grid = tuple(round(n * mm / 1.5) for n, mm in zip(shape, spacing, strict=True))
    bound = dice(resize(resize(mask.astype(np.float32), grid), shape) > 0.5, mask)  # what resampling alone leaves
    assert dice(found, mask) >= bound - 1e-3
    assert dice(found, mask) > 0.97
    assert set(seen) == {(1, 1, 32, 32, 32)}


def test_nothing_above_the_window_is_an_empty_mask() -> None:
    volume = Volume(np.full((20, 20, 20), -1000, np.float32), np.eye(4))
    assert not build().open(volume, KIDNEY).segment(Prompts()).any()


def test_prompts_are_refused() -> None:
    volume = Volume(np.full((20, 20, 20), -1000, np.float32), np.eye(4))
    with pytest.raises(UserError, match="does not understand"):
        build().open(volume, KIDNEY).segment(Prompts(clicks=(Click((1, 1, 1)),)))


def test_text_may_be_the_targets_own_words_and_no_others() -> None:
    session = build().open(Volume(np.full((20, 20, 20), 100, np.float32), np.eye(4)), KIDNEY)
    assert np.array_equal(session.segment(Prompts(text=" Kidney Tumor ")), session.segment(Prompts()))
    with pytest.raises(UserError, match="has a class for 'kidney tumor', not for 'liver tumor'"):
        session.segment(Prompts(text="liver tumor"))


def test_largest_components_are_26_connected() -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[0:3, 0:3, 0:3] = mask[3:5, 3:5, 3:5] = True  # touch at a corner only: one component
    mask[8:10, 8:10, 8:10] = True
    mask[11, 11, 0] = True
    one, two = largest_components(mask, 1), largest_components(mask, 2)
    assert one.sum() == 35
    assert two.sum() == 43
    assert np.array_equal(largest_components(mask, 9), mask)
    assert not largest_components(np.zeros((3, 3, 3), bool), 2).any()


def test_a_kidney_tumour_must_lie_in_the_closed_and_dilated_kidneys() -> None:
    organ = np.zeros((2, 40, 40, 40), np.float32)
    organ[0, 5:15, 5:15, 5:15] = organ[1, 25:35, 5:15, 5:15] = 1
    organ[0, 10, 10, 10] = 0  # a hole that closing fills
    organ[1, 38:40, 38:40, 38:40] = 1  # a third component, too small to count
    allowed = confinement(np.zeros((40, 40, 40), np.float32), organ, wanted(KIDNEY))
    cube = np.ones((5, 5, 5))
    expected = ndimage.binary_dilation(ndimage.binary_closing(organ.max(0) > 0, cube), cube)
    expected[35:, 35:, 35:] = False
    assert np.array_equal(allowed, expected)
    pancreas = wanted(Target("p", "pancreas", "tumor", (2,)))
    assert confinement(np.zeros((4, 4, 4), np.float32), organ, pancreas).all()


def test_heads_of_chosen_classes_are_those_of_all() -> None:
    torch.manual_seed(0)
    network = UniversalModel("unet", SIZES["tiny"]).eval()
    with torch.no_grad():
        bottleneck, features = network.backbone(torch.rand(2, 1, 16, 16, 16))
        every = network.heads(bottleneck, features)
        assert every.shape == (2, 32, 16, 16, 16)
        assert torch.equal(network.heads(bottleneck, features, [31, 5]), every[:, [31, 5]])


def test_class_head_is_three_convolutions() -> None:
    torch.manual_seed(0)
    x, parameters = torch.randn(8, 50), torch.randn(153)
    w1, w2, w3, b1, b2, b3 = parameters.split([64, 64, 8, 8, 8, 1])
    out = x[None, :, :, None]
    for weight, bias in ((w1.view(8, 8), b1), (w2.view(8, 8), b2), (w3.view(1, 8), b3)):
        out = torch.nn.functional.conv2d(out, weight[:, :, None, None], bias)
        out = out.relu() if bias is not b3 else out
    torch.testing.assert_close(class_head(x, parameters), out[0, 0, :, 0])


def official_state() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        state = UniversalModel("unet", SIZES["official"]).state_dict()
    return {f"module.{key}": torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}


def test_loader_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path, full = tmp_path / "clip_driven_universal_unet.pth", official_state()
    cases = {
        "missing: organ_embedding": {k: v for k, v in full.items() if k != "module.organ_embedding"},
        "unexpected: backbone.down_tr1024": {**full, "module.down_tr1024.weight": torch.zeros(1)},
        "wrong shape: controller.bias": {**full, "module.controller.bias": torch.zeros(3)},
        "looks like Universal Model .Swin UNETR.": {"module.swinViT.layers1.0.x": torch.zeros(1)},
        "looks like SegVol": {"module.text_encoder.dim_align.weight": torch.zeros(1)},
    }
    for words, state in cases.items():
        torch.save({"net": state, "epoch": 1}, path)
        with pytest.raises(UserError, match=words):
            load_official_file(path, "unet")


@pytest.mark.parametrize("prefix", ["module.", "module.backbone."])
def test_backbone_keys_with_and_without_their_prefix(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "clip_driven_universal_unet.pth"
    state = {key.replace("module.backbone.", prefix): value for key, value in official_state().items()}
    torch.save({"net": state}, path)
    assert not load_official_file(path, "unet").controller.weight.any()


@pytest.mark.parametrize(("method", "words"), [(universal_swin, "swin_unetr.pth"), (universal_unet, "unet.pth")])
def test_official_size_names_the_file_it_needs(method: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        method.build()  # type: ignore[attr-defined]


def test_training_learns_and_is_saved(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    segmenter = build()
    mask = ellipsoid((32, 32, 32), (16, 16, 16), (9, 8, 7))
    label = torch.from_numpy(np.stack([mask, mask]))[:, None].float()
    optimiser = torch.optim.AdamW(segmenter.trainable_parameters(), lr=2e-3)
    values = []
    for step in range(8):
        noise = torch.rand(label.shape, generator=torch.Generator().manual_seed(step))
        loss, _ = segmenter.loss(Batch(label * 0.5 + noise * 0.5, label, [KIDNEY] * 2, torch.Generator(), 0.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.7 * values[0]
    segmenter.save(tmp_path)
    other = build(seed=3)
    other.load(tmp_path)
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(segmenter.module.eval()(x, [25]), other.module.eval()(x, [25]))
    with pytest.raises(UserError, match="spacing"):
        build(spacing=2.0).load(tmp_path)
