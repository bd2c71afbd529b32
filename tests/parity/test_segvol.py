"""SegVol against the golden file: key layout, tokenisation, position quirks, and every recorded tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baselines.sam.prompt_encoder import FourierPosition
from baselines.segvol.network import SIZES, SegVol, load_official_file, token_ids
from tests.parity.rule import Golden, Row, rule_tensor, unchecked

POSITION_IDS = "module.text_encoder.clip_text_model.text_model.embeddings.position_ids"


@pytest.fixture(scope="module")
def reference(golden: Callable[[str], Golden]) -> Golden:
    return golden("segvol")


def test_keys_and_shapes(reference: Golden) -> None:
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in SegVol(SIZES["official"]).state_dict().items()}
    assert own == {row.key.removeprefix("module."): row.shape for row in reference.rows}


def test_token_ids(reference: Golden) -> None:
    for case in text_cases(reference):
        sentence = str(reference.arrays[f"prompt/{case}.prompt_sentence"])
        assert token_ids(sentence) == reference.arrays[f"prompt/{case}.input_ids"][0].tolist()


def test_dense_position(reference: Golden) -> None:
    width = SIZES["official"].width
    layer = FourierPosition(3, width // 2, width)
    key = "module.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    layer.positional_encoding_gaussian_matrix = rule_tensor(row(reference, key), reference.meta["salt"])
    reference.check("dense_pe", layer.of_grid(SIZES["official"].grid))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@torch.no_grad()
def test_every_recorded_tensor(reference: Golden, tmp_path: Path) -> None:
    path = tmp_path / "SegVol_v1.pth"
    state = reference.state_dict()
    state[POSITION_IDS] = torch.arange(77)[None]
    torch.save({"model": state, "optimizer": {"state": {}}, "scheduler": {}, "epoch": 1}, path)
    del state
    network = load_official_file(path)
    tokens = network.encode(reference.image())
    grid = network.size.grid
    checked = {"encoder_tokens", "embedding", "dense_pe"}
    reference.check("encoder_tokens", tokens)
    reference.check("embedding", tokens.transpose(1, 2).unflatten(2, grid))
    reference.check("dense_pe", network.prompt_encoder.pe_layer.of_grid(grid))

    texts: dict[str, Tensor] = {}
    for case in text_cases(reference):
        ids = reference.prompt(f"{case}.input_ids")
        assert ids is not None
        states, pooled = network.text_encoder.states(ids)
        texts[case] = network.encode_text(ids)
        for name, tensor in (
            ("clip_last_hidden_state", states), ("clip_pooler_output", pooled), ("text_embedding", texts[case])
        ):  # fmt: skip
            reference.check(f"{case}.{name}", tensor)
            checked.add(f"{case}.{name}")

    for case in reference.cases():
        prompts = case_prompts(reference, case, texts)
        low, iou = network.decode(tokens, **prompts)
        logits = network.enlarge(low)
        for name, tensor in (
            ("sparse", network.prompt_encoder(**prompts)), ("low_res_logits", low), ("iou", iou), ("logits", logits),
            ("logits_full_forward", logits),
        ):  # fmt: skip
            if f"{case}.{name}" in reference.tensors():
                reference.check(f"{case}.{name}", tensor)
                checked.add(f"{case}.{name}")
    assert list(unchecked(reference, checked)) == []


def case_prompts(reference: Golden, case: str, texts: dict[str, Tensor]) -> dict:
    """The prompts that a case's name announces: "d_text_box" has text and box, "a2_text" the second text."""
    letter, *kinds = case.split("_")
    points, labels = reference.prompt("points_dhw"), reference.prompt("labels")
    assert points is not None
    assert labels is not None
    return {
        "points": (points, labels) if "point" in kinds else None,
        "box": reference.prompt("box_dhw") if "box" in kinds else None,
        "text": texts[f"text{letter[1:]}"] if "text" in kinds else None,
    }


def text_cases(reference: Golden) -> list[str]:
    return [name.removesuffix(".input_ids") for name in reference.prompts() if name.endswith(".input_ids")]


def row(reference: Golden, key: str) -> Row:
    return next(row for row in reference.rows if row.key == key)
