"""A small suite disturbed at random moments and gone on with: nothing lost, doubled or computed again, and no number
that differs from those of the same suite left in peace.

Every run is the real command in a process of its own. Processes are found below the driver's and ended by SIGKILL;
the MLflow server is a real one; a disk that is full is a small tmpfs, which needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from benchmarks.common.errors import UserError
from benchmarks.results.records import RecordStore

ROOT = Path(__file__).resolve().parents[2]
NAME = "crashes"
SUITE = f"""
name: {NAME}
seed: 7
datasets: [{{name: kits21, source: phantom, cases: 30}}]
methods:
  - mock-tenth
  - {{name: mock-tenth, label: mock-tenth-2, config: {{folder: other}}}}
  - {{name: mock-learner, config: {{pause: 0.2}}}}
protocols: [none, centre-click]
budget: {{steps: 16}}
"""
COSTS = ["seconds_open", "seconds_segment", "joules", "peak_memory_mb"]
MAY_DIFFER = [*COSTS, "git_commit", "git_dirty", "predicted_commit"]
IDENTITY = ["unit", "method", "dataset", "case", "target", "protocol", "step"]
LIMIT_SECONDS = 600.0
MOST_CALLS = 3  # of the same command, after a disturbance
OK, NOT_RUN = 0, 3
WELL = (OK, NOT_RUN)
ENDED_BY_RAY = 1  # Ray's library ends the driver, without a word, when it misses its object store

# How the title of a process begins; the driver is the process that was started.
ROLES = {"training": "ray::_train_task", "evaluator": "ray::Actor", "raylet": "raylet"}


class Call:
    """`tags-bench run` in a process of its own.

    Args:
        out: output folder; its log is kept beside it.
        options: further words for the command.
    """

    def __init__(self, suite: Path, out: Path, options: Sequence[str] = ()) -> None:
        number = len(list(out.parent.glob(f"{out.name}.*.log")))
        self.log = out.with_name(f"{out.name}.{number}.log")
        self.answer = self.log.with_suffix(".json")
        command = [sys.executable, "-m", "cli", "run", "--suite", str(suite), "--out", str(out), "--json", *options]
        path = os.pathsep.join([str(ROOT / "tests" / "plugin"), str(ROOT)])
        home = {name: str(suite.parent / name.lower()) for name in ("TAGS_BENCH_DATA", "TAGS_BENCH_CACHE")}
        with self.log.open("w") as errors, self.answer.open("w") as answer:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=answer, stderr=errors, env=os.environ | home | {"PYTHONPATH": path},
                start_new_session=True,
            )  # fmt: skip
        self.began = time.monotonic()
        self._family: set[psutil.Process] = set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def members(self) -> list[psutil.Process]:
        """The processes below the driver."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._family |= set(found)
        return found

    def of_role(self, role: str) -> list[psutil.Process]:
        """The processes of a role that are alive: those of `ROLES`, or the driver."""
        if role == "driver":
            return [psutil.Process(self.pid)] if self.running else []
        return [member for member in self.members() if _title(member).startswith(ROLES[role])]

    def wait(self) -> int:
        """The exit code, once the process and all below it are gone."""
        try:
            while self.running:
                if self.seconds > LIMIT_SECONDS:
                    self._process.kill()
                    raise AssertionError(f"the run hangs; see {self.log}")
                self.members()
                time.sleep(0.1)
            return self._process.returncode
        finally:
            self.sweep()

    def interrupt(self) -> None:
        """Ctrl-C: a terminal sends it to the driver and to all that are of its group."""
        os.killpg(self.pid, signal.SIGINT)

    def sweep(self) -> None:
        """End what is left below the driver: what a kill -9 of it cannot take along."""
        _, alive = psutil.wait_procs(list(self._family), timeout=5)
        for member in alive:
            member.kill()
        psutil.wait_procs(alive, timeout=5)

    def computed(self) -> int:
        """Cases that it says to have computed."""
        try:
            return int(json.loads(self.answer.read_text())["computed_cases"])
        except (ValueError, KeyError):
            return -1

    def internal_error(self) -> bool:
        text = self.log.read_text()
        return "internal error" in text or "Traceback" in text


def _title(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    return Path(words[0]).name if words and "/" in words[0] else " ".join(words)


@dataclass(frozen=True)
class Finished:
    """What is finished in an output folder."""

    rows: pd.DataFrame
    files: dict[str, int]  # masks, side-cars and checkpoints of what is finished, and when they were written

    @property
    def cases(self) -> int:
        return len(self.rows[["unit", "case"]].drop_duplicates()) if len(self.rows) else 0

    @staticmethod
    def of(out: Path) -> Finished:
        try:
            rows = RecordStore(out / "records").read_suite(NAME)[0]
        except UserError:
            rows = pd.DataFrame()
        files = list((out / "checkpoints").glob("[!.]*/training.json"))
        pairs = rows[["method", "case"]].drop_duplicates().itertuples(index=False) if len(rows) else ()
        for method, case in pairs:
            files += (out / "predictions" / NAME / "kits21").glob(f"{method}-[0-9a-f]*/{case}/**/*")
        return Finished(rows, {str(path): path.stat().st_mtime_ns for path in files if path.is_file()})


@dataclass
class Reference:
    """The suite left in peace."""

    rows: pd.DataFrame
    seconds: float
    windows: dict[str, tuple[float, float]]  # when processes of a role live, in seconds since the start


@dataclass
class Verdict:
    """What became of one disturbance."""

    kind: str
    hit: bool = True
    codes: list[int] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    recomputed: int = 0
    differing: int = 0
    mlflow: int = 0  # units that are missing, twice or different in MLflow
    problems: list[str] = field(default_factory=list)
    where: str = ""

    @property
    def well(self) -> bool:
        figures = (self.lost, self.doubled, self.recomputed, self.differing, self.mlflow)
        return not any(figures) and not self.problems


Disturb = Callable[[Call], bool]


class Campaign:
    """Disturbances of one suite; several may go on side by side.

    Args:
        root: a folder of its own.
        seed: decides the moments.
    """

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root, self.seed = root, seed
        root.mkdir(parents=True, exist_ok=True)
        self.suite = root / "suite.yaml"
        self.suite.write_text(SUITE)
        self._numbers = iter(range(10_000))
        self._turn = threading.Lock()
        self.reference = self._in_peace()

    def _in_peace(self) -> Reference:
        out = self.root / "reference"
        assert Call(self.suite, out).wait() == OK  # phantoms, prompts and the cache are there from now on
        for folder in ("records", "checkpoints", "predictions", "mlflow-artifacts", "mlflow-outbox"):
            shutil.rmtree(out / folder)
        (out / "mlflow.db").unlink()
        call = Call(self.suite, out)
        seen: dict[str, list[float]] = {role: [] for role in ROLES}
        while call.running:
            for role in ROLES:
                if call.of_role(role):
                    seen[role].append(call.seconds)
            time.sleep(0.1)
        seconds = call.seconds
        assert call.wait() == OK
        windows = {role: (times[0], times[-1]) for role, times in seen.items()}
        assert not mlflow_faults(out)
        return Reference(comparable(Finished.of(out).rows), seconds, windows | {"driver": (0.5, seconds)})

    def new_out(self) -> Path:
        """An output folder with the phantoms and prompts of the reference, and nothing else."""
        with self._turn:
            out = self.root / f"out-{next(self._numbers):03d}"
        for name in ("data", "prompts"):
            shutil.copytree(self.root / "reference" / name, out / name)
        return out

    def kill(self, role: str, number: int) -> Verdict:
        """SIGKILL for a process of a role, at a random moment of its life."""
        first, last = self.reference.windows[role]
        chance = np.random.default_rng([self.seed, sorted(self.reference.windows).index(role), number])
        moment = float(chance.uniform(first, last))

        def disturb(call: Call) -> bool:
            while call.running:
                if call.seconds >= moment and (found := call.of_role(role)):
                    call.members()
                    found[int(chance.integers(len(found)))].kill()
                    return True
                time.sleep(0.02)
            return False

        codes = {"driver": (-signal.SIGKILL,), "raylet": (OK, NOT_RUN, ENDED_BY_RAY)}
        return self.disturbed(f"kill -9 {role}", disturb, codes.get(role, WELL))

    def disturbed(
        self,
        kind: str,
        disturb: Disturb,
        allowed: Sequence[int] = WELL,
        options: Sequence[str] = (),
        out: Path | None = None,
        mend: Callable[[], None] = lambda: None,
        once_more: bool = False,
    ) -> Verdict:
        """One run that is disturbed, and the same command until it ends well.

        Args:
            disturb: does it; whether it could.
            allowed: exit codes of the disturbed run, if it was hit.
            mend: ends the cause, before the command is given again.
            once_more: give the command again even after a good end.
        """
        out = out or self.new_out()
        verdict = Verdict(kind, where=str(out))
        call = Call(self.suite, out, options)
        verdict.hit = disturb(call)
        verdict.codes.append(call.wait())
        if verdict.codes[0] not in (allowed if verdict.hit else WELL) or call.internal_error():
            verdict.problems.append(f"exit code {verdict.codes[0]}, see {call.log}")
        mend()
        before = Finished.of(out)
        once_more |= bool(_unsent(out))  # a busy machine may not have sent everything in its patience
        while (verdict.codes[-1] != OK or once_more) and len(verdict.codes) <= MOST_CALLS:
            call = Call(self.suite, out, options)
            verdict.codes.append(call.wait())
            once_more = bool(_unsent(out))
            if call.internal_error():
                verdict.problems.append(f"internal error, see {call.log}")
            after = Finished.of(out)
            if call.computed() != after.cases - before.cases:
                verdict.recomputed += abs(call.computed() - (after.cases - before.cases))
            verdict.recomputed += changed(before, after)
            before = after
        if verdict.codes[-1] != OK:
            verdict.problems.append(f"never ended well, see {call.log}")
        self._compare(verdict, out, options)
        return verdict

    def _compare(self, verdict: Verdict, out: Path, options: Sequence[str]) -> None:
        rows = comparable(Finished.of(out).rows)
        verdict.lost, verdict.doubled, verdict.differing = compared(rows, self.reference.rows)
        uri = options[options.index("--tracking-uri") + 1] if "--tracking-uri" in options else None
        faults = mlflow_faults(out, uri)
        verdict.mlflow = len(faults)
        verdict.problems += faults


def _each(rows: pd.DataFrame, index: pd.Index) -> Iterator[pd.Series]:
    return (row for _, row in rows.loc[index].iterrows())


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows by what they are, without what the time of the day decides."""
    if rows.empty:
        return pd.DataFrame(index=pd.MultiIndex.from_tuples([], names=IDENTITY))
    return rows.drop(columns=MAY_DIFFER).set_index(IDENTITY).sort_index()


def compared(rows: pd.DataFrame, reference: pd.DataFrame) -> tuple[int, int, int]:
    """Rows that are lost, doubled, and different from those of the reference."""
    lost, doubled = len(reference.index.difference(rows.index)), int(rows.index.duplicated().sum())
    rows = rows[~rows.index.duplicated()]
    both = reference.index.intersection(rows.index)
    same = [a.equals(b) for a, b in zip(_each(rows, both), _each(reference, both), strict=True)]
    return lost, doubled, same.count(False) + len(rows.index.difference(reference.index))


def changed(before: Finished, after: Finished) -> int:
    """Cases whose record, timings included, or whose files are not those of before."""
    if before.rows.empty:
        return sum(after.files.get(path) != written for path, written in before.files.items())
    old, new = (one.rows.set_index(IDENTITY).sort_index() for one in (before, after))
    there = old.index.intersection(new.index)
    count = sum(not a.equals(b) for a, b in zip(_each(old, there), _each(new, there), strict=True))
    count += len(old.index.difference(new.index))
    return count + sum(after.files.get(path) != written for path, written in before.files.items())


def _unsent(out: Path) -> list[Path]:
    """Messages to MLflow that wait."""
    return list((out / "mlflow-outbox").glob("*/*.json"))


def mlflow_faults(out: Path, uri: str | None = None) -> list[str]:
    """What is wrong in MLflow: each unit must be there once for each protocol, finished, with the rows on the disk."""
    from mlflow.tracking import MlflowClient

    from benchmarks.results.mlflow import default_uri, records_from_mlflow
    from benchmarks.results.mlflow.values import KEY_TAG, PLAN_TAG, protocols_of, result_key

    rows, units = RecordStore(out / "records").read_suite(NAME)
    address = uri or default_uri(out)
    client = MlflowClient(tracking_uri=address)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = list(client.search_runs(experiments)) if experiments else []
    identity = (out / "mlflow-outbox" / "identity").read_text().strip()
    parents = [run for run in runs if PLAN_TAG in run.data.tags and identity in run.data.tags.values()]
    ids = {run.info.run_id for run in parents}
    children = [run for run in runs if ids & set(run.data.tags.values()) and KEY_TAG in run.data.tags]
    children = [run for run in children if run.info.run_id not in ids]
    faults = []
    if len(parents) != 1:
        faults.append(f"{len(parents)} MLflow runs of the suite")
    keys = [run.data.tags[KEY_TAG] for run in children]
    for unit in units:
        for key in (result_key(unit["key"], protocol) for protocol in protocols_of(unit)):
            if keys.count(key) != 1:
                faults.append(f"{key} is {keys.count(key)} times in MLflow")
    faults += [f"an MLflow run is {run.info.status}" for run in [*parents, *children] if run.info.status != "FINISHED"]
    if not faults:
        told = records_from_mlflow(address, NAME)[0]
        if not comparable(told).equals(comparable(rows)[comparable(told).columns]):
            faults.append("the rows in MLflow are not those on the disk")
    return faults


# -- MLflow that is away --


class MlflowServer:
    """A real server on this machine, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        for _ in range(1800):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=0.5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"no MLflow server; see {self.folder}/log")

    def stop(self) -> None:
        if self._process is None:
            return
        family = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=10)
        self._process.wait()
        self._process = None


SERVER_MOMENTS = {"start": 0.0, "middle": 0.5, "end": 0.85}


def without_server(campaign: Campaign, moment: str) -> Verdict:
    """The MLflow server is stopped, before or during a run, and started again after it."""
    server = MlflowServer(campaign.root / f"server-{moment}")
    if moment != "start":
        server.start()

    def disturb(call: Call) -> bool:
        while call.running and call.seconds < SERVER_MOMENTS[moment] * campaign.reference.seconds:
            time.sleep(0.05)
        server.stop()
        return call.running

    try:
        options = ("--tracking-uri", server.uri)
        kind = f"MLflow away, {moment}"
        return campaign.disturbed(kind, disturb, options=options, mend=server.start, once_more=True)
    finally:
        server.stop()


# -- a disk that is full --


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[], None]]:
    """A disk of so many kB at a folder; what is given back makes it large."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder))
    try:
        yield lambda: _mount("-o", "remount,size=64m", str(folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    try:
        with small_disk(folder, 64):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


FULL_DISKS = {"records": 16, "predictions": 100, "checkpoints": 4, "mlflow-outbox": 8, "mlflow-store": 1300}
"""Folder → kB: room for the beginning, and not for the rest."""


def full_disk(campaign: Campaign, place: str) -> Verdict:
    """One folder of the output has no room left; then it has."""
    out = campaign.new_out()
    with small_disk(out / place, FULL_DISKS[place]) as enlarge:
        options = ("--tracking-uri", f"sqlite:///{out}/{place}/mlflow.db") if place == "mlflow-store" else ()
        return campaign.disturbed(
            f"disk full: {place}", lambda call: True, options=options, out=out, mend=enlarge, once_more=True
        )


def table(verdicts: Sequence[Verdict]) -> str:
    """Counts by kind of disturbance."""
    names = ("times", "hit", "calls", "lost", "doubled", "recomputed", "differing", "MLflow", "problems")
    lines = [f"{'disturbance':<26}" + "".join(f"{name:>11}" for name in names) + "  exit codes"]
    for kind in dict.fromkeys(one.kind for one in verdicts):
        mine = [one for one in verdicts if one.kind == kind]
        figures = [len(mine), sum(one.hit for one in mine), max(len(one.codes) for one in mine)]
        for name in ("lost", "doubled", "recomputed", "differing", "mlflow"):
            figures.append(sum(getattr(one, name) for one in mine))
        figures.append(sum(bool(one.problems) for one in mine))
        codes = sorted({one.codes[0] for one in mine})
        lines.append(f"{kind:<26}" + "".join(f"{figure:>11}" for figure in figures) + f"  {codes}")
    return "\n".join(lines)
