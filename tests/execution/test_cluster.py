"""Joining a cluster, or starting Ray here: right, or one line within seconds that says what to do."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.execution import cluster
from tests.conftest import ROOT
from tests.execution.clusters import free_port, head


@pytest.fixture(autouse=True)
def _no_cluster_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster, "is_running", lambda: False)


@pytest.mark.parametrize("named_by", ["--address", "RAY_ADDRESS"])
def test_a_cluster_that_is_gone_is_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch, named_by: str) -> None:
    dead = f"127.0.0.1:{free_port()}"
    if named_by == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", dead)
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"no Ray cluster answers at '{dead}' \({named_by}\): .*refused") as error:
        cluster.start_ray(dead if named_by == "--address" else None)
    assert time.monotonic() - started < 5
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "address", ["nonsense", "10.0.0.1:", ":6379", "host:99999", "host:port", "ray://10.0.0.1:10001"]
)
def test_an_address_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(
        socket, "create_connection", lambda *a, **k: pytest.fail("asked") if ":" in address else _gone()
    )
    with pytest.raises(UserError, match=r"HOST:PORT|run on a machine of the cluster|no Ray cluster answers at"):
        cluster.start_ray(address)


def _gone() -> None:
    raise socket.gaierror("Name or service not known")


def test_something_that_listens_and_is_no_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CHECK_SECONDS", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(UserError, match=r"is no Ray cluster, or does not answer within 1 s"):
            cluster.start_ray(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(
    ("mode", "asks", "has", "expected"),
    [
        ("", False, True, "disabled"),  # a token at hand is not used where nobody asks: workers could not answer
        ("", True, True, "token"),
        ("", True, False, "wants a token"),
        ("disabled", True, True, "wants a token"),
        ("token", False, True, "uses no token: set RAY_AUTH_MODE=disabled"),
        ("token", True, True, "token"),
    ],
)
def test_the_token_is_used_where_the_cluster_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, mode: str, asks: bool, has: bool, expected: str
) -> None:
    def problem(address: str, origin: str, used: str) -> str | None:
        return None if not asks or (used == "token" and has) else "AuthenticationError: missing or incorrect"

    monkeypatch.setattr(cluster, "_problem", problem)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if " " in expected:
        with pytest.raises(UserError, match=expected):
            cluster._agree_on_authentication("host:1", "--address")
    else:
        cluster._agree_on_authentication("host:1", "--address")
        assert os.environ["RAY_AUTH_MODE"] == expected


class DiesWhileStarting:
    """`ray.init` whose processes are killed the first times: Ray then raises a bare Exception."""

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, 0

    def __call__(self, **options: object) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise Exception("The current node timed out during startup.")


def test_ray_that_dies_while_it_starts_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "init", once := DiesWhileStarting(1))
    cluster._start_here()
    assert once.calls == 2


def test_ray_that_never_starts_is_the_machines_fault(call, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    import ray

    monkeypatch.setattr(ray, "init", DiesWhileStarting(9))
    ended = call("run", "--suite", "quick", "--methods", "ball", "--out", "out")
    assert ended.code == 3
    assert len(ended.errors) == 1
    assert "Ray does not start on this machine" in ended.errors[0]
    assert "the same command goes on" in ended.errors[0]


START = """
import os, sys
from benchmarks.execution.cluster import start_ray
start_ray(None, print)
import psutil, ray
me = psutil.Process()
mine = {me.pid, *(one.pid for one in me.children(recursive=True))}
print(sorted({one.laddr.ip for one in psutil.net_connections() if one.status == "LISTEN" and one.pid in mine}))
print(ray.get(ray.remote(lambda: 42).remote()))
"""


@pytest.mark.slow
def test_ray_of_our_own_listens_on_the_loopback_alone_and_bears_a_long_tmpdir(tmp_path: Path) -> None:
    long = tmp_path / "a-rather-long-scratch-folder-as-a-job-scheduler-makes-it" / "job-1355700" / "tmp.t0016"
    long.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", START],
        env=os.environ | {"TMPDIR": str(long), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith("Ray: started on this machine, 1 node, ")
    assert set(ast.literal_eval(lines[1])) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert lines[2] == "42"


JOIN = """
import sys
from benchmarks.common.errors import UserError
from benchmarks.execution.cluster import start_ray
try:
    start_ray(sys.argv[1], print)
except UserError as error:
    print("error:", error)
"""


@pytest.mark.slow
def test_clusters_with_and_without_a_token() -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        folder, home, stranger = (Path(short) / name for name in ("t", "home", "stranger"))
        for one in (folder, home / ".ray", stranger):
            one.mkdir(parents=True)
        (home / ".ray" / "auth_token").write_text("0123456789abcdef0123456789abcdef")

        def join(address: str, where: Path) -> tuple[str, float]:
            started = time.monotonic()
            environment = os.environ | {"HOME": str(where), "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [sys.executable, "-c", JOIN, address], env=environment, capture_output=True, text=True, check=False
            )
            return done.stdout.strip() + done.stderr[-500:] * (done.returncode != 0), time.monotonic() - started

        with head(folder, HOME=str(home), RAY_AUTH_MODE="token") as address:
            told, _ = join(address, home)
            assert told.startswith(f"Ray: the cluster at {address} (from --address), 1 node, 1 CPU"), told
            told, seconds = join(address, stranger)
            assert told.startswith(f"error: the Ray cluster at '{address}' (--address) wants a token"), told
            assert "RAY_AUTH_MODE=token" in told
            assert seconds < 30
        with head(folder, HOME=str(stranger), RAY_AUTH_MODE="disabled") as address:
            for where in (home, stranger):
                told, _ = join(address, where)
                assert told.startswith(f"Ray: the cluster at {address} (from --address), 1 node"), told
