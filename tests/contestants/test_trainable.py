"""What a `Trainable` gets from the bench: its device, and a checkpoint that is whole, safe and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common.checkpoint import FACTS, WEIGHTS
from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Session, Target, Trainable, TrainingRecipe, Volume, method


class Small(Trainable):
    def __init__(self, width: int = 3, facts: dict[str, Any] | None = None) -> None:
        self.module = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.BatchNorm1d(width))
        self.facts = facts or {}

    def checkpoint_facts(self) -> dict[str, Any]:
        return self.facts

    def recipe(self, target: Target) -> TrainingRecipe:
        raise NotImplementedError

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        raise NotImplementedError

    def open(self, volume: Volume, target: Target) -> Session:
        raise NotImplementedError


def test_the_bench_moves_the_module_to_the_device() -> None:
    built = method("mock-network").build({}, device="meta")
    assert isinstance(built, Trainable)
    assert all(parameter.is_meta for parameter in built.module.parameters())


def test_the_prompts_of_a_segmenter_are_those_that_its_method_announces() -> None:
    assert method("ball").build().prompts == method("ball").prompts != method("mock-network").build().prompts


def test_a_checkpoint_gives_back_weights_and_buffers(tmp_path: Path) -> None:
    one, other = Small(facts={"scales": (1, 2)}), Small(facts={"scales": (1, 2)})
    one.module(torch.randn(5, 2))  # moves the running means
    one.save(tmp_path)
    other.load(tmp_path)
    assert one.module.state_dict().keys() == other.module.state_dict().keys()
    for key, value in one.module.state_dict().items():
        assert torch.equal(value, other.module.state_dict()[key]), key
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, FACTS}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Small(facts={"size": "big"}), "has size = 'small', Small expects 'big'"),
        (Small(4, {"size": "small"}), r"wrong shape: 0\.weight \(3, 2\) instead of \(4, 2\)"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, other: Small, message: str) -> None:
    Small(facts={"size": "small"}).save(tmp_path)
    with pytest.raises(UserError, match=message):
        other.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (WEIGHTS, b"\x80\x04pickle", "damaged checkpoint"),
        (FACTS, b"{", "damaged checkpoint"),
        (FACTS, b"[]", "holds no JSON object"),
        (FACTS, None, f"no {FACTS}"),
        (WEIGHTS, None, f"no {WEIGHTS}"),
    ],
)
def test_a_damaged_checkpoint_is_a_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    one = Small()
    one.save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        one.load(tmp_path)
    assert "\n" not in str(caught.value)
