"""Fixtures of the parity tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.parity.rule import Golden, golden_folder


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Golden data by model name; skips, saying so, where the set under test lacks the model."""

    def read(name: str) -> Golden:
        if not (golden_folder() / f"{name}.npz").is_file():
            pytest.skip(f"{golden_folder()} has no {name}.npz")
        return Golden.read(name)

    return read
