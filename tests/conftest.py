"""What several test modules share: the real data beside the checkout, and one local Ray per session."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.file_server import Server, serving
from tests.plain_user import open_place  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]

# Worker processes and subprocesses find the mock methods the way they find a third party's: on the path.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT / "tests" / "plugin"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)


if "PYTEST_XDIST_WORKER" in os.environ:  # several processes test at once: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one process of `pytest -n` runs: all that needs Ray, which is started once; else a module at a time."""
    for item in items:
        with_ray = item.get_closest_marker("ray") is not None
        item.add_marker(pytest.mark.xdist_group("ray" if with_ray else str(item.path)))


def shared_folder() -> Path:
    """Real scans and label maps for tests: `TAGS_BENCH_SHARED`, or `shared` beside the checkout."""
    return Path(os.environ.get("TAGS_BENCH_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True)
def _own_data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or changes the datasets, the cache and the weights of whoever runs it."""
    monkeypatch.setenv("TAGS_BENCH_DATA", str(tmp_path / "data-home"))
    monkeypatch.setenv("TAGS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Networks that a test builds without a seed are the same whatever ran before it, and in whichever process."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks so small are slower on many threads, above all where the processors are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A file server on this machine, and downloads that do not wait long for it."""
    from benchmarks.common import download

    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.001)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as one:
        yield one


class Outcome:
    """What a command left: exit code, standard output, standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """Run `tags-bench …` in this process, in an empty folder."""
    import cli

    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["tags-bench", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


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

    from benchmarks.execution.cluster import start_ray

    started = start_ray(None)
    yield
    if started:
        ray.shutdown()
