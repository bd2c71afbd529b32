"""A real `mlflow server`, on SQLite and on PostgreSQL: the leaderboard that is read from it is that of the records."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from benchmarks.common.errors import UserError
from benchmarks.results.leaderboard import leaderboard_of, overall_of
from benchmarks.results.mlflow import records_from_mlflow
from benchmarks.results.mlflow.server import opened_store
from tests.results.mlflow_runs import a_run, description_of, rows_of
from tests.waiting import wait_for

NAME = """Bob's "50 %" scans_\\"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(store: str, folder: Path) -> Iterator[str]:
    """MLflow's server on a store; its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: server.poll() is not None or socket.socket().connect_ex(("127.0.0.1", port)) == 0, 300)
        assert server.poll() is None, (folder / "server.log").read_text(encoding="utf-8")
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):  # it ended by itself, and the test has said so
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def check(address: str, out: Path) -> None:
    """What is sent to a server, twice, is read back as it was, whatever the suite is called."""
    for _ in range(2):
        assert a_run(out, address, suite=NAME, patience=200.0) == 0
    rows, units = records_from_mlflow(address, NAME)
    descriptions = [description_of(method, NAME) for method in ("ball", "net")]
    expected = pd.concat(map(rows_of, descriptions), ignore_index=True)
    assert_frame_equal(rows, expected)
    board, own = leaderboard_of(rows, units), leaderboard_of(expected, descriptions)
    assert_frame_equal(board, own)
    assert_frame_equal(overall_of(board, rows), overall_of(own, expected))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(f"tags-bench/{NAME}")
    assert len(client.search_runs([experiment.experiment_id])) == 4
    (version,) = client.search_model_versions("name = 'net on kits21'")
    assert version.tags["tagsbench.checkpoint"] == "c0ffee"


def test_a_server_on_sqlite(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "server.db")
    with serving(f"sqlite:///{tmp_path / 'server.db'}", tmp_path) as address:
        check(address, tmp_path / "out")


def test_a_store_opens_on_a_suite_that_it_has_and_names_those_for_another(out: Path) -> None:
    assert a_run(out) == 0
    assert opened_store(out, "suite")[1].startswith("#/experiments/")
    with pytest.raises(UserError, match=r"mlflow\.db: no run of suite 'siute' \(have: suite\)"):
        opened_store(out, "siute")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_store_is_named_in_a_line(out: Path, share: float) -> None:
    file = out / "mlflow.db"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))] or b"no database at all")
    (out / "mlflow-artifacts").mkdir()
    with pytest.raises(UserError, match=r"mlflow\.db: MLflow cannot read this store \(.*\); move it away"):
        opened_store(out, "suite")


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of a database of a PostgreSQL of our own; one that is installed here, as another user than root."""
    pytest.importorskip("psycopg2")
    initdb = shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed (initdb)")
    programs, user = Path(initdb).resolve().parent, []
    with tempfile.TemporaryDirectory(prefix="pg") as name:  # short: the path of a socket has a limit
        if os.getuid() == 0:
            user = ["runuser", "-u", "postgres", "--"]
            if shutil.which("runuser") is None:
                pytest.skip("PostgreSQL does not run as root")
            shutil.chown(name, "postgres")
        data, port = Path(name) / "data", free_port()
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        subprocess.run([*user, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "bench"], **quiet)
        options = f"-p {port} -k {name} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [*user, str(programs / "pg_ctl"), "-D", str(data), "-w"]
        subprocess.run([*control, "-o", options, "-l", f"{name}/log", "start"], **quiet)
        try:
            yield f"postgresql+psycopg2://bench@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)


@pytest.mark.slow
def test_a_server_on_postgresql(postgres: str, tmp_path: Path) -> None:
    with serving(postgres, tmp_path) as address:
        check(address, tmp_path / "out")


@pytest.mark.slow
def test_postgresql_without_a_server_keeps_artifacts_in_the_output_folder(postgres: str, tmp_path: Path) -> None:
    check(postgres, tmp_path / "out")
    assert list((tmp_path / "out" / "mlflow-artifacts").rglob("records.parquet"))


@pytest.mark.slow
def test_the_command_serves_the_store_of_a_folder_and_ends_with_its_server(out: Path) -> None:
    assert a_run(out) == 0
    port = free_port()
    command = [sys.executable, "-m", "cli", "mlflow", "--out", str(out), "--suite", "suite", "--port", str(port)]
    root = Path(__file__).resolve().parents[2]
    one = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert one.stdout is not None
        lines = [one.stdout.readline().strip() for _ in range(2)]
        assert lines[0] == f"sqlite:///{out / 'mlflow.db'}"
        assert lines[1].startswith(f"http://127.0.0.1:{port}/#/experiments/")
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 300)
        with urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
        taken = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert (taken.returncode, f"port {port} of 127.0.0.1 is taken" in taken.stderr) == (2, True)
    finally:
        one.terminate()
        assert one.wait(30) == 0
    wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) != 0, 20)
