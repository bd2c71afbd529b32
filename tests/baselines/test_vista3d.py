"""VISTA3D against the transforms and the inferer of its MONAI bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.checkpoints import official_file_problem
from baselines.vista3d import stand_in
from baselines.vista3d.classes import Kind, kind_of
from baselines.vista3d.method import vista3d
from baselines.vista3d.segmenter import HIGH, LOW, MARGIN, SPACING, Vista3D, foreground
from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Click, Prompts
from tests.baselines.sam_helpers import TARGET as KIDNEY
from tests.baselines.sam_helpers import affine, dice, ellipsoid, volume_of

WINDOW = (32, 32, 32)
SHAPE = (48, 44, 40)
LIVER = Target("liver-tumor", "liver", "tumor", (2,))


pytestmark = pytest.mark.usefixtures("one_thread")


class Small(Vista3D):
    """The same classes, narrow, with a small window."""

    window = WINDOW  # type: ignore[assignment]

    def network(self) -> torch.nn.Module:
        from monai.networks.nets.vista3d import vista3d132

        torch.manual_seed(11)
        return vista3d132(encoder_embed_dim=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vista3d") / "model.pt"
    torch.save(Small.network(Small.__new__(Small)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def segmenter(weights: Path) -> Small:
    built = Small({**vista3d.config, "checkpoint": str(weights)}, "cpu")
    built.prompts = vista3d.prompts
    return built


def body(spacing: tuple[float, float, float], shape: tuple[int, int, int] = SHAPE) -> Volume:
    """Air around a body, so that the bundle's crop to the foreground cuts something off."""
    rng = np.random.default_rng(2)
    inside = ellipsoid(shape, tuple(n / 2 for n in shape), tuple(n / 5 for n in shape))
    array = np.where(inside, rng.normal(60, 80, shape), -1000)
    array[tuple(n // 2 for n in shape)] = 200.0
    return Volume(array.astype(np.float32), affine(spacing))


def by_the_bundle(
    segmenter: Small, volume: Volume, clicks: tuple[Click, ...], label_prompt: int | None = None
) -> tuple[Any, Any, Any]:
    """configs/inference.json of the bundle, with MONAI's own transforms: logits, mask and the cropped image.

    Without a label prompt the user marks the points as those on a tumour.
    """
    from monai.apps.vista3d.inferer import point_based_window_inferer
    from monai.apps.vista3d.transforms import VistaPostTransformd, VistaPreTransformd
    from monai.data import MetaTensor
    from monai.transforms import Compose, CropForegroundd, Orientationd, ScaleIntensityRanged, Spacingd

    image = MetaTensor(torch.from_numpy(volume.array)[None], affine=torch.from_numpy(volume.affine))
    steps = Compose(
        [
            Spacingd("image", pixdim=(SPACING,) * 3, mode="bilinear"),
            CropForegroundd("image", source_key="image", allow_smaller=True, margin=10),
            ScaleIntensityRanged(
                "image", a_min=-963.8247715525971, a_max=1053.678477684517, b_min=0, b_max=1, clip=True
            ),
            Orientationd("image", axcodes="RAS"),
        ]
    )
    prepared = steps({"image": image})["image"]
    world = volume.affine @ np.array([[*click.position, 1] for click in clicks], float).T
    points = (np.linalg.inv(prepared.affine.numpy()) @ world)[:3].T
    given: dict[str, Any] = {"point_labels": [2 + click.positive for click in clicks]}
    if label_prompt is not None:
        plain = {"label_prompt": [label_prompt], "point_labels": [int(click.positive) for click in clicks]}
        given = VistaPreTransformd("image")(plain)
        given["label_prompt"] = torch.tensor(given["label_prompt"])
        assert label_prompt > segmenter.module.point_head.last_supported  # so scripts/inferer.py gives no class vector
    labels = torch.tensor([given["point_labels"]])
    with torch.inference_mode():
        logits = point_based_window_inferer(
            prepared[None].float(), WINDOW, segmenter.module, torch.from_numpy(points).float()[None],
            labels, prompt_class=None if label_prompt is None else given["label_prompt"][:, None], transpose=True,
        )  # fmt: skip
        answer = {"pred": logits[0].clone(), "points": torch.from_numpy(points)[None], "point_labels": labels}
        mask = VistaPostTransformd("pred")({**given, **answer})["pred"]
    return logits[0, 0].numpy(), mask[0].numpy() == (label_prompt or 1), prepared


@pytest.mark.parametrize(("target", "label_prompt"), [(LIVER, None), (KIDNEY, 133)], ids=["known", "new"])
def test_logits_and_mask_are_those_of_the_bundle(segmenter: Small, target: Target, label_prompt: int | None) -> None:
    volume = body((SPACING,) * 3)
    clicks = (Click((24, 22, 20)), Click((20, 26, 22), False))
    expected, kept, prepared = by_the_bundle(segmenter, volume, clicks, label_prompt)
    opened = segmenter.open(volume, target)
    assert opened.image.shape == tuple(prepared.shape[1:])
    assert opened.image.shape != SHAPE
    np.testing.assert_allclose(opened.image, prepared[0].numpy(), atol=1e-5)
    found = segmenter.logits(opened.image, opened.points(clicks), np.array([True, False]), opened.kind)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    mask = opened.segment(Prompts(clicks))
    low = opened.low
    inside = mask[low[0] : opened.high[0], low[1] : opened.high[1], low[2] : opened.high[2]]
    assert kept.any()
    dropped = (np.nan_to_num(expected, nan=-1.0) > 0).sum() - kept.sum()
    assert (dropped > 0) == (target is LIVER)  # something holds no positive click
    assert np.array_equal(inside, kept)
    assert inside.sum() == mask.sum()


def test_parts_without_a_positive_click_are_dropped(segmenter: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that sees two lesions in one window; they are those of the clicks."""
    shape = (32, 32, 32)
    one, other = ellipsoid(shape, (9, 10, 16), (5, 6, 5)), ellipsoid(shape, (23, 20, 15), (4, 5, 6))
    volume = volume_of(one | other, (SPACING,) * 3, 20, 900)
    monkeypatch.setattr(segmenter, "module", bright)
    opened = segmenter.open(volume, LIVER)
    in_one, in_other = Click((9, 10, 16)), Click((23, 20, 15))
    assert np.array_equal(opened.segment(Prompts((in_one,))), one)
    assert np.array_equal(opened.segment(Prompts((in_one, Click(in_other.position, False)))), one)
    assert np.array_equal(opened.segment(Prompts((in_one, in_other))), one | other)
    assert not opened.segment(Prompts((Click((16, 2, 2)),))).any()  # on neither


def test_what_a_target_is_taken_for_is_logged_once(segmenter: Small, caplog: pytest.LogCaptureFixture) -> None:
    segmenter.said.clear()
    for _ in range(2):
        segmenter.open(body((SPACING,) * 3), KIDNEY)
    (record,) = [one for one in caplog.records if one.name == "baselines.vista3d.segmenter"]
    assert record.getMessage() == f"vista3d takes 'kidney tumor' for {Kind.NEW.value}"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_answer_that_is_not_finite_is_no_empty_mask(weights: Path, value: float) -> None:
    """Where there are windows: NaN elsewhere only says that there is none."""
    broken = Small({**vista3d.config, "checkpoint": str(weights)}, "cpu")
    broken.prompts = vista3d.prompts
    with torch.no_grad():
        broken.module.point_head.mask_tokens.weight[0, 0] = value
    with pytest.raises(ValueError, match="the network's answer is not finite"):
        broken.open(body((SPACING,) * 3), LIVER).segment(Prompts((Click((24, 22, 20)),)))


def bright(image: torch.Tensor, **_: Any) -> torch.Tensor:
    """A network that sees what is brighter than the middle between 20 and 900 HU."""
    return torch.as_tensor(image) * 20 - 10 * (900 + 20 - 2 * LOW) / (HIGH - LOW)


def test_round_trip(segmenter: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that sees the bright lesion gives it back through resampling, crop and windows."""
    shape = (60, 56, 24)
    lesion = ellipsoid(shape, (30, 25, 11), (12, 10, 5))
    volume = Volume(np.where(lesion, 900.0, 20.0).astype(np.float32), affine((0.9, 0.9, 2.5)))

    monkeypatch.setattr(segmenter, "module", bright)
    mask = segmenter.open(volume, LIVER).segment(Prompts((Click((30, 25, 11)),)))
    assert dice(mask, lesion) > 0.97


@pytest.mark.parametrize(
    ("organ", "lesion", "index"),  # of the classes in the bundle's configs/metadata.json; None for no class
    [
        ("lung", "tumor", 23),
        ("pancreas", "tumor", 24),
        ("liver", "tumor", 26),
        ("Colon", "cancer", 27),
        ("liver", "liver_tumor", 26),
        ("liver", "liver tumor", 26),
        ("Liver", "Liver-Metastases", 26),
        ("liver", "carcinoma", 26),
        ("bone", "lesion", 128),
        ("kidney", "cyst", 116),
        ("spleen", "", 3),
        ("kidney", "tumor", None),
        ("lung", "nodule", None),
        ("lung", "metastasis", None),  # nothing says that its class has learned them
        ("liver", "liver", None),
    ],
)
def test_points_are_labelled_as_monai_labels_them_for_the_class(
    segmenter: Small, monkeypatch: pytest.MonkeyPatch, organ: str, lesion: str, index: int | None
) -> None:
    asked = []
    volume = body((SPACING,) * 3)
    original = segmenter.module

    def watch(image: torch.Tensor, **given: Any) -> Any:
        asked.append((given["point_labels"].tolist(), given["prompt_class"]))
        return torch.full_like(torch.as_tensor(image), -1.0)

    monkeypatch.setattr(segmenter, "module", watch)
    prompts = Prompts((Click((24, 22, 20)), Click((20, 26, 22), False)))
    segmenter.open(volume, Target("t", organ, lesion, (1,))).segment(prompts)
    expected = original.convert_point_label(torch.tensor([[1, 0]]), None if index is None else [index]).tolist()
    assert [labels for labels, _ in asked] == [expected] * 2  # one window for each point
    assert [None if new is None else new.tolist() for _, new in asked] == [[[133]] if index is None else None] * 2


def test_marked_points_can_be_switched_off(segmenter: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watch(image: torch.Tensor, **given: Any) -> Any:
        asked.append((given["point_labels"].tolist(), given["prompt_class"]))
        return torch.full_like(torch.as_tensor(image), -1.0)

    monkeypatch.setattr(segmenter, "module", watch)
    monkeypatch.setattr(segmenter, "config", {**segmenter.config, "tumour_points": False})
    segmenter.open(body((SPACING,) * 3), LIVER).segment(Prompts((Click((24, 22, 20)),)))
    assert asked == [([[1]], None)]


def test_a_lesion_of_no_named_organ_may_be_a_tumour_that_it_knows() -> None:
    assert kind_of(Target("lesion", "", "lesion", (1,))) is Kind.TUMOUR


def test_the_box_of_the_body() -> None:
    array = np.full((30, 40, 50), -1000.0, np.float32)
    assert foreground(array) == ((0, 0, 0), (30, 40, 50))
    array[12:15, 3, 30] = 5.0
    assert foreground(array) == ((12 - MARGIN, 0, 20), (15 + MARGIN, 4 + MARGIN, 31 + MARGIN))


def test_a_file_of_something_else_is_told(weights: Path, tmp_path: Path) -> None:
    assert official_file_problem(weights, "VISTA3D") == ""
    other = tmp_path / "other.pt"
    torch.save({"model": {"weight": torch.zeros(3)}}, other)
    assert "not recognised as any known system, expected VISTA3D" in official_file_problem(other, "VISTA3D")
    torch.save({"point_head.x": torch.zeros(3)}, other)
    with pytest.raises(UserError, match="does not fit VISTA3D"):
        Small({**vista3d.config, "checkpoint": str(other)}, "cpu")


def test_a_stand_in_is_read_as_the_official_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that take no room in a file: 218 million by the rule take seventeen seconds."""

    def zeros(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}

    monkeypatch.setattr(stand_in, "by_rule", zeros)
    path = tmp_path / "vista3d-model.pt"
    stand_in.write(path, "VISTA3D")
    assert official_file_problem(path, "VISTA3D") == ""
    module = Vista3D({**vista3d.config, "checkpoint": str(path)}, "cpu").module
    assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(218e6, rel=0.01)
    assert not any(parameter.any() for parameter in module.parameters())
