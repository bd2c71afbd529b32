"""The user of the CVPR 2025 challenge against clicks that its own evaluation script gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.metrics.challenges import cvpr25_figures
from benchmarks.prompting import cvpr25
from benchmarks.prompting.prompts import Click, Prompts
from benchmarks.prompting.protocol import Protocol
from benchmarks.prompting.simulated_user import SimulatedUser

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cvpr25_clicks.json").read_text(encoding="utf-8"))
TARGET = Target("tumor", "", "tumor", (1,))
ROUNDS = Protocol("iterative", rounds=6, start="box", corrections="cvpr25")


def mask_of(case: dict[str, Any], key: str) -> np.ndarray:
    """A mask of the golden file, axes turned from (z, y, x) to the bench's."""
    flat = np.zeros(np.prod(case["shape"]), bool)
    runs = case[key]
    for start, length in zip(runs[0::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    return flat.reshape(case["shape"]).transpose(2, 1, 0)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_the_click_is_that_of_the_challenge(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cvpr25, "COARSE_VOXELS", case["coarse_voxels"])
    found = cvpr25.correction(mask_of(case, "label"), mask_of(case, "predicted"))
    if case["click"] is None:
        assert found is None
    else:
        assert found == (tuple(reversed(case["click"])), case["positive"])


def test_halved_axes_matter_to_the_golden_clicks() -> None:
    """Else the cases above would not notice that the coarse depth is missing."""
    coarse = [case for case in GOLDEN["cases"] if case["coarse_voxels"] != cvpr25.COARSE_VOXELS]
    exact = [cvpr25.correction(mask_of(case, "label"), mask_of(case, "predicted")) for case in coarse]
    assert any(
        found is not None and list(reversed(found[0])) != case["click"]
        for found, case in zip(exact, coarse, strict=True)
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 5.0)])
def test_the_session_begins_with_a_box_and_clicks_whatever_the_spacing_until_all_is_right(
    spacing: tuple[float, float, float],
) -> None:
    case = next(case for case in GOLDEN["cases"] if case["name"] == "blobs 0")
    label, predicted = mask_of(case, "label"), mask_of(case, "predicted")
    user = SimulatedUser(ROUNDS, (1,))
    prompts = user.first(label, spacing, TARGET)
    assert prompts.clicks == ()
    assert prompts.box is not None
    z, y, x = case["click"]
    following = user.next(label, predicted, prompts, spacing)
    assert following == Prompts(clicks=(Click((x, y, z), case["positive"]),), box=prompts.box)
    assert user.next(label, label, following, spacing) is None


def test_six_rounds_are_a_box_and_five_clicks() -> None:
    label = np.zeros((12, 12, 12), bool)
    label[3:8, 3:8, 3:8] = True
    user, counts = SimulatedUser(ROUNDS, (1,)), []
    prompts: Prompts | None = user.first(label, (1, 1, 1), TARGET)
    while prompts is not None:
        counts.append(len(prompts.clicks))
        prompts = user.next(label, np.zeros_like(label), prompts, (1, 1, 1))
    assert counts == [0, 1, 2, 3, 4, 5]


def test_the_rule_is_part_of_the_name_and_has_an_effect_only_where_there_are_corrections() -> None:
    assert ROUNDS.name == "iterative-6-from-box-cvpr25"
    assert Protocol.from_mapping(ROUNDS.to_mapping()) == ROUNDS
    assert "corrections" not in Protocol("iterative", rounds=6, start="box").to_mapping()
    for wrong in ({"kind": "box"}, {"kind": "iterative", "rounds": 1}):
        with pytest.raises(UserError, match="'corrections' has no effect"):
            Protocol.from_mapping(wrong | {"corrections": "cvpr25"})
    with pytest.raises(UserError, match="did you mean 'cvpr25'"):
        Protocol.from_mapping({"kind": "iterative", "rounds": 2, "corrections": "cvpr24"})


@pytest.mark.parametrize("curve", GOLDEN["curves"])
def test_area_and_final_value_are_those_of_the_challenge(curve: dict[str, Any]) -> None:
    """The script sets the surface Dice of a mask with Dice 0.2 or less to 0 before it takes the area."""
    good = [0.9] * 6
    figures = cvpr25_figures(good, curve["steps"])
    assert figures["nsd_auc"] == pytest.approx(curve["auc"], abs=1e-12)
    assert figures["nsd_final"] == curve["final"]
    figures = cvpr25_figures(curve["steps"], good)
    assert figures["dsc_auc"] == pytest.approx(curve["auc"], abs=1e-12)
    assert figures["dsc_final"] == curve["final"]


def test_a_bad_mask_has_no_surface_dice_and_a_curve_has_six_steps() -> None:
    figures = cvpr25_figures([0.9, 0.2, 0.21, 0.2, 0.9, 0.1], [0.5] * 6)
    assert figures["nsd_auc"] == pytest.approx((0 + 0.5) / 2 + (0.5 + 0) / 2 + (0 + 0.5) / 2 + (0.5 + 0) / 2)
    assert figures["nsd_final"] == 0
    for wrong in ([0.5] * 5, [0.5] * 7, [0.5] * 5 + [float("nan")]):
        with pytest.raises(ValueError, match="six"):
            cvpr25_figures(wrong, [0.5] * 6)
