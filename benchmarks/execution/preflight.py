"""Is every machine of a cluster fit for the run? Looked at before the work starts, on the machine itself.

A node with another version of the code, without the methods, their weights, the data or the shared output folder would
give failed cases, or other numbers. It is named and left out.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common.content import sha256_of
from benchmarks.common.environment import package_versions, revision
from benchmarks.common.errors import UserError, one_line
from benchmarks.common.weight_file import missing_file
from benchmarks.contestants import methods

ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Expected:
    """What every node must agree on.

    Attributes:
        version, commit: of tags-bench.
        methods: name → version, of those that the run needs.
        nonce_file, nonce: a word that the driver has written into the output folder.
        data_file, data_digest: one scan and the fingerprint that it has on the driver; empty without data.
        weight_files: that the methods of the run name and the driver has.
    """

    version: str
    commit: str
    methods: Mapping[str, str]
    nonce_file: Path
    nonce: str
    data_file: Path | None = None
    data_digest: str = ""
    weight_files: Sequence[str] = ()


@dataclass(frozen=True)
class Host:
    """What was found on one node; fit for the run if there is no problem.

    Attributes:
        methods: how many are installed.
        out: whether the output folder is the driver's; None if nobody could look.
        data: fingerprint of the scan that was asked for; empty if it is not there, or none was.
    """

    node: str
    version: str = ""
    commit: str = ""
    methods: int = 0
    out: bool | None = None
    data: str = ""
    gpu: str = ""
    driver: str = ""
    free_gb: float = 0.0
    problems: tuple[str, ...] = ()

    def row(self) -> dict[str, str]:
        """For tables."""
        shared = {True: "shared", False: "NOT shared", None: ""}[self.out]
        looked = self.out is not None
        return {
            "node": self.node,
            "tags-bench": self.version,
            "commit": self.commit[:10],
            "methods": str(self.methods) if looked else "",
            "--out": shared,
            "data": self.data[:12] or ("none" if looked else ""),
            "GPU": self.gpu or ("none" if looked else ""),
            "driver": self.driver,
            "free GB": f"{self.free_gb:.0f}" if looked else "",
            "fit": "; ".join(self.problems) or "yes",
        }


def look_at_hosts(
    nodes: Mapping[str, str],
    out: Path,
    needed: Sequence[str] | None = None,
    data_file: Path | None = None,
    weight_files: Sequence[str] = (),
) -> list[Host]:
    """What is found on every node of the running Ray, in their order.

    Args:
        nodes: name → Ray's id.
        out: the output folder, which all must see.
        needed: names of the methods of the run; all that are installed if None.
        data_file: one scan, which all must see.
        weight_files: by path or by name in the weights folder; all must have them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    installed = methods()
    names = list(installed) if needed is None else list(needed)
    nonce_file = out / f".seen-{secrets.token_hex(8)}"
    expected = Expected(
        package_versions()["tags-bench"],
        revision()[0],
        {name: installed[name].version for name in names},
        nonce_file,
        secrets.token_hex(16),
        data_file,
        sha256_of(data_file) if data_file else "",
        weight_files,
    )
    out.mkdir(parents=True, exist_ok=True)
    nonce_file.write_text(expected.nonce, encoding="utf-8")
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(look_here)
        answers = {
            name: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(ray_id, soft=False)).remote(expected)
            for name, ray_id in nodes.items()
        }
        until = time.monotonic() + ANSWER_SECONDS
        return [_answer(name, reference, until) for name, reference in answers.items()]
    finally:
        nonce_file.unlink(missing_ok=True)


def look_here(expected: Expected) -> Host:
    """What is found on this machine."""
    problems = []
    found, commit = package_versions()["tags-bench"], revision()[0]
    if (found, commit) != (expected.version, expected.commit):
        problems.append(f"tags-bench {found} at {commit[:10]}, not {expected.version} at {expected.commit[:10]}")
    installed = methods()
    for name, version in expected.methods.items():
        if name not in installed:
            problems.append(f"method '{name}' is not installed")
        elif installed[name].version != version:
            problems.append(f"method '{name}' {installed[name].version}, not {version}")
    no_out, (data, no_data) = _problem_of_out(expected), _data(expected)
    gpu, driver = _gpu()
    folder = expected.nonce_file.parent
    return Host(
        node=socket.gethostname(),
        version=found,
        commit=commit,
        methods=len(installed),
        out=not no_out,
        data=data,
        gpu=gpu,
        driver=driver,
        free_gb=shutil.disk_usage(folder).free / 1e9 if folder.is_dir() else 0.0,
        problems=tuple(filter(None, (*problems, no_out, no_data, missing_file(expected.weight_files)))),
    )


def _problem_of_out(expected: Expected) -> str:
    folder = expected.nonce_file.parent
    try:
        same = expected.nonce_file.read_text(encoding="utf-8") == expected.nonce
    except OSError:
        return f"{folder} (--out) is not shared with it"
    return "" if same else f"{folder} is another folder there"


def _data(expected: Expected) -> tuple[str, str]:
    """The fingerprint of the scan, and what is wrong with it."""
    if expected.data_file is None:
        return "", ""
    try:
        found = sha256_of(expected.data_file)
    except (OSError, UserError):
        return "", f"{expected.data_file} is not there"
    return found, "" if found == expected.data_digest else f"{expected.data_file} has another content there"


def _gpu() -> tuple[str, str]:
    """Names of the GPUs and the version of the driver; empty without any."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "", ""
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if "," in line]
    return ", ".join(row[0] for row in rows), rows[0][1] if rows else ""


def _answer(name: str, reference: Any, until: float) -> Host:
    import ray

    try:
        found: Host = ray.get(reference, timeout=max(0.1, until - time.monotonic()))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        return Host(name, problems=(f"no answer within {ANSWER_SECONDS:g} s",))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        return Host(name, problems=(f"tags-bench does not work there: {one_line(cause)[:200]}",))
    except ray.exceptions.RayError as error:
        return Host(name, problems=(f"does not answer: {one_line(error)[:200]}",))
    return replace(found, node=name)
