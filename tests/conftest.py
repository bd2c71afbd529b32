"""What several test modules share: the real data beside the checkout, and one local Ray per session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Worker processes and subprocesses find the mock methods the way they find a third party's: on the path.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT / "tests" / "plugin"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)


def shared_folder() -> Path:
    """Real scans and label maps for tests: `TAGS_BENCH_SHARED`, or `shared` beside the checkout."""
    return Path(os.environ.get("TAGS_BENCH_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True)
def _own_data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or changes the datasets and the cache of whoever runs it."""
    monkeypatch.setenv("TAGS_BENCH_DATA", str(tmp_path / "data-home"))
    monkeypatch.setenv("TAGS_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TAGS_BENCH_SHARED")
    return folder


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on this machine, started once for the whole session."""
    import ray

    from benchmarks.runner import start_ray

    started = start_ray(None)
    yield
    if started:
        ray.shutdown()
