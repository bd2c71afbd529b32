"""Records that several tests of the leaderboard look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.results.mlflow import default_uri
from tests.results.boards import study


@pytest.fixture(scope="package")
def large() -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Six methods on three datasets under three protocols, with 8 cases and a few failures."""
    return study(methods=6, cases=8)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with its tables made: that takes seconds, copying it does not."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    MlflowClient(tracking_uri=default_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def new_out(tmp_path: Path, empty_store: Path) -> Callable[[str], Path]:
    def made(name: str) -> Path:
        (tmp_path / name).mkdir()
        shutil.copy(empty_store, tmp_path / name / "mlflow.db")
        return tmp_path / name

    return made


@pytest.fixture
def out(new_out: Callable[[str], Path]) -> Path:
    return new_out("out")
