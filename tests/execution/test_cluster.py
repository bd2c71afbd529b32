"""Joining a cluster, or starting Ray here: right, or one line within seconds that says what to do."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks.common.errors import UserError
from benchmarks.execution import cluster
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _no_cluster_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster, "_is_running", lambda: False)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


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


@contextmanager
def head(folder: Path, **environment: str) -> Iterator[str]:
    """A cluster of one node, its address; only its own processes are ended."""
    port = free_port()
    words = ["--head", "--port", str(port), "--include-dashboard=false"]
    with node(folder, words, **environment):
        yield f"127.0.0.1:{port}"


@contextmanager
def node(folder: Path, words: list[str], **environment: str) -> Iterator[psutil.Popen]:
    """`ray start`, and the end of what it started."""
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
    command += ["--num-cpus", "1", "--disable-usage-stats", *words]
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("w") as stream:
        changed = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", **environment}
        one = psutil.Popen(command, env=changed, stdout=stream, stderr=stream, cwd=folder)
        try:
            for _ in range(120):
                time.sleep(0.5)
                if "Ray runtime started" in log.read_text():
                    break
            assert "Ray runtime started" in log.read_text(), log.read_text()
            yield one
        finally:
            family = [*one.children(recursive=True), one]
            for process in family:
                process.kill()
            psutil.wait_procs(family, timeout=20)


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


RUN = """
import logging, sys
from pathlib import Path
from benchmarks.execution.cluster import start_ray
from benchmarks.execution.plan import Folders, plan, resolve_dataset
from benchmarks.execution.observer import Nobody
from benchmarks.execution.pool import run
from benchmarks.execution.suite import parse_suite
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
suite = parse_suite(sys.argv[2], "test")
folders = Folders(Path(sys.argv[3]))
dataset = resolve_dataset(suite.datasets[0], suite.seed, folders)
units = plan(suite, [dataset], folders)
start_ray(sys.argv[1], print)
print("begins", flush=True)
outcome = run(units, folders, Nobody())
print(f"computed {outcome.computed}, not run {len(outcome.not_run)}", {one.reason for one in outcome.not_run})
"""

TWO_NODES = """
name: two
seed: 7
datasets: [{name: kits21, source: phantom, cases: 40}]
methods: [mock-threshold, mock-second]
protocols: [none, centre-click]
budget: {steps: 1}
"""


@pytest.mark.slow
def test_a_node_with_another_installation_is_left_out_and_a_lost_one_costs_no_case() -> None:
    import tempfile

    import pandas as pd

    from benchmarks.common.environment import revision
    from benchmarks.execution.plan import Folders
    from benchmarks.results.records import RecordStore

    if revision()[0] == "unknown":
        pytest.skip("no git repository here")
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        head_folder, second, empty, out, alone = (Path(short) / name for name in ("h", "s", "e", "out", "alone"))
        for one in (head_folder, second, empty, out, alone):
            one.mkdir(parents=True)

        def start(address: str, folder: Path) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", RUN, address, TWO_NODES, str(folder)]
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

        with head(head_folder) as address:
            with node(second, ["--address", address], PATH=str(empty)):
                told, _ = start(address, alone).communicate(timeout=300)
                assert "2 nodes" in told, told
                assert " cannot take part: tags-bench " in told, told  # without git no commit is known
                assert " at unknown, not " in told
                assert "computed 32, not run 0" in told
            time.sleep(20)  # until the cluster knows that it is gone
            with node(second, ["--address", address]) as other:
                going = start(address, out)
                assert going.stdout is not None
                while "begins" not in going.stdout.readline():
                    pass
                time.sleep(15)
                for process in other.children(recursive=True):
                    process.kill()
                told, _ = going.communicate(timeout=300)
                assert "computed 32, not run 0" in told, told
        rows = [RecordStore(Folders(folder).records).read_suite("two")[0] for folder in (alone, out)]
        same = ["method", "case", "protocol", "step", "status", "dice", "hd95_mm", "voxels_prediction", "clicks"]
        first, again = (one.sort_values(same[:4])[same].reset_index(drop=True) for one in rows)
        pd.testing.assert_frame_equal(first, again)
        assert set(first["status"]) == {"ok"}
