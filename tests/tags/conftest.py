"""What the tests of TAGS share: a tiny model, deterministic inputs, a rule for SAM-like state dicts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tags.config import sized
from tags.model import TAGS
from tags.weights import load_clip

KIDNEY = ("kidney", "tumor")


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture(scope="session")
def build() -> Callable[..., TAGS]:
    """Builds a seeded tiny model; keywords override its configuration."""

    def make(**overrides: object) -> TAGS:
        torch.manual_seed(7)
        model = TAGS(sized("tiny", **overrides))
        load_clip(model, "random")
        return model.eval()

    return make


@pytest.fixture(scope="session")
def noise() -> Callable[..., Tensor]:
    """Seeded normal noise of a shape."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def bounds() -> Tensor:
    return torch.tensor([[-2.0, 2.0]])
