"""Two nodes with separate working directories: the numbers of one machine, and a node that is killed costs none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

from benchmarks.common.environment import revision
from benchmarks.execution.datasets import Folders
from benchmarks.results.records import RecordStore
from tests.conftest import ROOT
from tests.execution.clusters import head, kill, node, short_folder
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = """
import logging, sys
from pathlib import Path
import ray
from benchmarks.execution.cluster import start_ray
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.plan import plan
from benchmarks.execution.observer import Nobody
from benchmarks.execution.pool import run
from benchmarks.execution.suite import parse_suite

class Watch(Nobody):
    def hosts(self, rows):
        print("hosts", [(row["--out"], row["fit"] == "yes", len(row["data"])) for row in rows])

logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
suite = parse_suite(sys.argv[2], "test")
folders = Folders(Path(sys.argv[3]))
dataset = resolve_dataset(suite.datasets[0], suite.seed, folders)
units = plan(suite, [dataset], folders)
if sys.argv[1].isdecimal():
    ray.init(address="local", num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False)
else:
    start_ray(sys.argv[1], print)
print("begins", flush=True)
outcome = run(units, folders, Watch())
print(f"computed {outcome.computed}, not run {len(outcome.not_run)}", {one.reason for one in outcome.not_run})
"""

SUITE = """
name: two
seed: 7
datasets: [{name: kits21, source: phantom, cases: 15}]
methods: [mock-threshold, mock-tenth, mock-learner]
protocols: [none, {kind: iterative, rounds: 2}]
budget: {steps: 6}
"""
SAME = ["method", "case", "protocol", "step", "status", "dice", "hd95_mm", "voxels_prediction", "clicks"]


def start(where: str, folder: Path, suite: str = SUITE) -> psutil.Popen:
    """`run` on a cluster, or on so many processors of this machine."""
    command = [sys.executable, "-c", RUN, where, suite, str(folder)]
    return psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def cli(*words: str) -> psutil.Popen:
    command = [sys.executable, "-m", "cli", *words, "--json"]
    return psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows_of(folder: Path) -> pd.DataFrame:
    rows = RecordStore(Folders(folder).records).read_suite("two")[0]
    return rows.sort_values(SAME[:4])[SAME].reset_index(drop=True)


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[str, psutil.Popen]]:
    """The address, and the second node."""
    first, second = folder / "h", folder / "s"
    for one in (first, second):
        one.mkdir()
    with head(first) as address, node(second, ["--address", address]) as other:
        yield address, other


def both_train(out: Path, going: psutil.Popen) -> bool:
    """Whether two trainings are at work; a command that has ended says why."""
    assert going.poll() is None, going.communicate()
    return stages(out).count("training") == 2


def test_records_are_equal_for_one_two_and_four_workers_and_for_two_nodes_one_of_them_killed() -> None:
    if revision()[0] == "unknown":
        pytest.skip("no git repository here")
    with short_folder() as folder:
        frames = {}
        for workers in (1, 2, 4):
            told, _ = start(str(workers), folder / str(workers)).communicate(timeout=400)
            assert ", not run 0" in told, told
            frames[str(workers)] = rows_of(folder / str(workers))
        with two_nodes(folder) as (address, other):
            going = start(address, folder / "killed")
            masks = folder / "killed" / "predictions"
            wait_for(lambda: len(list(masks.rglob("*.nii.gz"))) > 3, 180)
            kill(other)
            told, _ = going.communicate(timeout=400)
            assert "hosts [('shared', True, 12), ('shared', True, 12)]" in told, told
            assert ", not run 0" in told, told
            frames["two nodes"] = rows_of(folder / "killed")
        assert set(frames["1"]["status"]) == {"ok"}
        assert len(frames["1"]) > 30
        for name, frame in frames.items():
            pd.testing.assert_frame_equal(frame, frames["1"], obj=name)


def test_a_node_with_another_installation_is_left_out() -> None:
    if revision()[0] == "unknown":
        pytest.skip("no git repository here")
    suite = SUITE.replace(", mock-tenth, mock-learner", "")
    with short_folder() as folder:
        for name in ("h", "s", "e"):
            (folder / name).mkdir()
        with head(folder / "h") as address, node(folder / "s", ["--address", address], PATH=str(folder / "e")):
            told, _ = start(address, folder / "out", suite).communicate(timeout=300)
            assert "2 nodes" in told, told
            assert " cannot take part: tags-bench " in told, told  # without git no commit is known
            assert " at unknown, not " in told
            assert ", not run 0" in told
            doctor = cli("doctor", "--address", address, "--out", str(folder / "out"))
            out, err = doctor.communicate(timeout=200)
            assert doctor.returncode == 0, err
            hosts = json.loads(out)["hosts"]
            assert [row["--out"] for row in hosts] == ["shared", "shared"]
            assert sorted(row["fit"] == "yes" for row in hosts) == [False, True]
            assert {row["methods"] for row in hosts} == {hosts[0]["methods"]}


TRAININGS = """
name: trainings
seed: 7
datasets: [{name: kits21, source: phantom, cases: 6}]
methods:
  - {name: mock-learner, label: a, config: {learning_rate: 0.01, pause: PAUSE}}
  - {name: mock-learner, label: b, config: {learning_rate: 0.02, pause: PAUSE}}
protocols: [centre-click]
budget: {steps: 60}
"""


def test_a_training_whose_node_is_killed_ends_with_the_same_weights(tmp_path: Path) -> None:
    def suite(pause: float) -> str:
        path = tmp_path / f"{pause}.yaml"
        path.write_text(TRAININGS.replace("PAUSE", str(pause)), encoding="utf-8")
        return str(path)

    def train(pause: float, out: Path, *more: str) -> psutil.Popen:
        return cli("train", "--suite", suite(pause), "--methods", "a,b", "--out", str(out), *more)

    def weights(told: str) -> list[dict[str, Any]]:
        places = [Path(one["checkpoint"]) / "checkpoint" / "weights.safetensors" for one in json.loads(told)]
        return [load_file(place) for place in places]

    with short_folder() as folder:
        undisturbed, _ = train(0.0, folder / "alone").communicate(timeout=300)
        with two_nodes(folder) as (address, other):
            going = train(0.4, folder / "out", "--address", address)
            wait_for(lambda: both_train(folder / "out", going), 180)
            kill(other)
            told, errors = going.communicate(timeout=400)
            assert going.returncode == 0, errors
        logs = "".join(path.read_text(encoding="utf-8") for path in (folder / "out" / "logs").rglob("*.log"))
        assert logs.count("going on from the state of step") == 1
        for one, same in zip(weights(told), weights(undisturbed), strict=True):
            assert one.keys() == same.keys()
            assert all((one[name] == same[name]).all() for name in one)


PLACED = """
import sys, threading
from pathlib import Path
import ray
from ray.util import placement_group_table
from benchmarks.execution.cluster import start_ray
from benchmarks.execution.training import run_job
from benchmarks.execution.training_job import checkpoint_folder
from tests.execution.training_cases import job_of, write_cases

start_ray(sys.argv[1])
out = Path(sys.argv[2])
cases = write_cases(out / "cases")
one, other = sorted(node["NodeID"] for node in ray.nodes())
for steps, wanted in enumerate([(one, one), (other, other), (other, one)], start=2):
    job, over, found, before = job_of(cases, steps=steps, workers=2), threading.Event(), set(), placement_group_table()

    def look():
        while not over.wait(0.1):
            for name, group in placement_group_table().items():
                if name not in before and group["state"] == "CREATED":
                    found.add(tuple(node for _, node in sorted(group["bundles_to_node_id"].items())))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        run_job(job, checkpoint_folder(out, job), cache=out / "cache", nodes=wanted)
    finally:
        over.set()
        thread.join()
    print("placed", found == {wanted}, flush=True)
"""


def test_the_workers_of_a_training_sit_on_the_nodes_that_it_was_given() -> None:
    """By Ray's own table of its placement groups: both on one node, both on the other, and one on each."""
    with short_folder() as folder:
        for name in ("h", "s"):
            (folder / name).mkdir()
        with head(folder / "h", cpus=2) as address, node(folder / "s", ["--address", address, "--num-cpus", "2"]):
            command = [sys.executable, "-c", PLACED, address, str(folder / "out")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
            assert done.stdout.count("placed True") == 3, done.stdout + done.stderr


def stages(out: Path) -> list[str]:
    """What the trainings at work are doing."""
    return [json.loads(path.read_text(encoding="utf-8")).get("stage") for path in out.rglob(".*.partial/alive.json")]


def test_a_sweep_whose_node_is_killed_has_all_its_trials(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(TRAININGS.replace("PAUSE", "0.4"), encoding="utf-8")  # 24 s, so that two meet
    with short_folder() as folder, two_nodes(folder) as (address, other):
        words = ("--methods", "a", "--trials", "3", "--concurrent", "2", "--out", str(folder / "out"))
        going = cli("tune", "--suite", str(tmp_path / "sweep.yaml"), *words, "--address", address)
        wait_for(lambda: both_train(folder / "out", going), 180)
        kill(other)
        told, errors = going.communicate(timeout=600)
        assert going.returncode == 0, errors
        trials = json.loads(told)["trials"]
        assert sorted(one["trial"] for one in trials) == [0, 1, 2]
        assert {one["status"] for one in trials} <= {"finished", "stopped early"}
        assert trials[0]["status"] == "finished"
