"""Environments of methods: built where that is due, checked, and given to the processes that Ray starts.

What is built is laid over the bench's own environment: a virtual environment that holds what differs and finds
everything else there. It is kept on the machine, below `TAGS_BENCH_ENVIRONMENTS` or `~/.cache/tags-bench/environments`,
and used again. A copy of the bench's whole environment for every run, as Ray's own `pip` makes it, would be gigabytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import site
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common.errors import one_line, shorten
from benchmarks.common.files import in_turn
from benchmarks.common.identity import digest
from benchmarks.common.paths import user_path
from benchmarks.contestants.environment import ACTIVE, Environment

if TYPE_CHECKING:
    from benchmarks.execution.observer import Observer
    from benchmarks.execution.plan import Unit

FOLDER_VARIABLE = "TAGS_BENCH_ENVIRONMENTS"
BUILD_SECONDS = 3600.0
CHECK_SECONDS = 120.0
ANSWER_SECONDS = BUILD_SECONDS + 2 * CHECK_SECONDS

# What the bench's own processes need of an environment, asked in that environment.
_QUESTION = """
import json, sys
from importlib.metadata import version
import benchmarks.contestants as contestants
contestants.method(sys.argv[1])
print(json.dumps({"python": list(sys.version_info[:2]), "ray": version("ray"), "bench": version("tags-bench")}))
"""


Wanted = tuple[str, Environment]
"""A method by name, and the environment that its processes are to run in."""


class EnvironmentFault(Exception):
    """An environment cannot be built or used; the message is one line."""


@dataclass(frozen=True)
class Environments:
    """What is known of the environments that a run needs.

    Attributes:
        commands: what is wanted → node → the command that starts Python there; "" means the bench's own.
        problems: what is wanted → why it cannot be had.
    """

    commands: Mapping[Wanted, Mapping[str, str]] = field(default_factory=dict)
    problems: Mapping[Wanted, str] = field(default_factory=dict)

    def problem(self, method: str, environment: Environment | None) -> str | None:
        """Why the method cannot be run, if so."""
        return None if environment is None else self.problems.get((method, environment))

    def options(self, method: str, environment: Environment | None, node: str) -> dict[str, Any]:
        """Options for a Ray actor or task of this method on a node; one that has joined since is taken to be alike."""
        known = {} if environment is None else self.commands.get((method, environment), {})
        command = known.get(node) or next(iter(known.values()), "")
        if not command:
            return {}
        return {"runtime_env": {"py_executable": command, "env_vars": {ACTIVE: method}}}


def prepare(units: Iterable[Unit], nodes: Mapping[str, str], observer: Observer) -> Environments:
    """Build and check the environments of the units' methods, on every node side by side.

    A method whose environment cannot be had on one of them is not run: that is not the method's failure.

    Args:
        nodes: name → Ray's id.
    """
    wanted: dict[Wanted, None] = {}
    for unit in units:
        if unit.environment is not None:
            wanted[unit.method.name, unit.environment] = None
            observer.stage(unit, "environment")
    commands: dict[Wanted, Mapping[str, str]] = {}
    problems: dict[Wanted, str] = {}
    for name, environment in wanted:
        found = _on_nodes(nodes, name, environment)
        faults = [one for one in found.values() if not isinstance(one, str)]
        if faults:
            problems[name, environment] = f"its environment ({environment}) cannot be used: {faults[0]}"
        commands[name, environment] = {node: one for node, one in found.items() if isinstance(one, str)}
    return Environments(commands, problems)


def _on_nodes(nodes: Mapping[str, str], method: str, environment: Environment) -> dict[str, str | Exception]:
    """For each node the command, or what is wrong. This machine alone needs no process of Ray for that."""
    import ray

    here = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
    if len(nodes) == 1 and here in (None, *nodes.values()):
        return {node: _attempt(partial(make_ready, environment, method)) for node in nodes}
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(make_ready)
    references = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(ray_id, soft=False)).remote(
            environment, method
        )
        for node, ray_id in nodes.items()
    }
    until = time.monotonic() + ANSWER_SECONDS
    return {
        node: _attempt(partial(ray.get, reference, timeout=max(0.1, until - time.monotonic())))
        for node, reference in references.items()
    }


def _attempt(work: Any) -> str | Exception:
    try:
        return str(work())
    except Exception as error:
        cause = getattr(error, "cause", None)  # of what was raised in a process of Ray
        error = cause if isinstance(cause, Exception) else error
        return error if isinstance(error, EnvironmentFault) else EnvironmentFault(one_line(error, 300))


def make_ready(environment: Environment, method: str) -> str:
    """The command that starts Python in an environment on this machine, which is built if need be.

    Returns:
        The command; "" if the bench's own environment meets the requirements.

    Raises:
        EnvironmentFault: it cannot be built, or the bench cannot work in it.
    """
    if environment.is_here():
        return ""
    if environment.requirements:
        return _laid_over(environment, method)
    command = _command(environment)
    _check(command, method)
    return command


def state_of(environment: Environment, method: str) -> str:
    """Whether an environment is ready or can be made, in a line for `tags-bench doctor`; nothing is built."""
    if environment.is_here():
        return f"met by the bench's own environment ({environment})"
    try:
        if not environment.requirements:
            _check(_command(environment), method)
            return f"ready ({environment})"
        folder = folder_of(environment)
        if (folder / "ready").is_file():
            return f"built in {folder}"
        _run(_installer(environment, Path(sys.executable), "--dry-run"), BUILD_SECONDS)
        return f"can be built ({environment})"
    except EnvironmentFault as fault:
        return f"CANNOT BE BUILT: {fault}" if environment.requirements else f"CANNOT BE USED: {fault}"


def folder_of(environment: Environment) -> Path:
    """Where what is built for these requirements lies; another one for another Python or bench below it."""
    home = user_path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/tags-bench/environments").absolute()
    below = [sys.version_info[:2], sys.prefix, *_packages_of_the_bench()]
    return home / digest([environment.identity, below])


def _laid_over(environment: Environment, method: str) -> str:
    folder = folder_of(environment)
    python = folder / "bin" / "python"
    with in_turn(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "ready").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                venv.EnvBuilder(symlinks=True).create(folder)
                _find_the_bench(folder)
                _run(_installer(environment, python), BUILD_SECONDS)
                _check(str(python), method)
                (folder / "ready").write_text(str(environment), encoding="utf-8")
            except OSError as error:
                raise EnvironmentFault(f"{folder}: {one_line(error, 200)} on {socket.gethostname()}") from error
    return str(python)


def _packages_of_the_bench() -> list[str]:
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [path for path in [*site.getsitepackages(), *user] if Path(path).is_dir()]


def _find_the_bench(folder: Path) -> None:
    """What is not installed in the environment is found in the bench's own, with its `.pth` files."""
    packages = next(folder.glob("lib/python*/site-packages"))
    lines = [f"import site; site.addsitedir({path!r})" for path in _packages_of_the_bench()]
    (packages / "tags_bench_below.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _installer(environment: Environment, python: Path, *options: str) -> list[str]:
    """The command that installs the requirements for an interpreter."""
    if environment.uv:
        uv = shutil.which("uv")
        if uv is None:
            raise EnvironmentFault(f"uv is not installed on {socket.gethostname()}")
        return [uv, "pip", "install", "--python", str(python), *options, *environment.uv]
    if importlib.util.find_spec("pip") is None:
        raise EnvironmentFault(f"pip is not installed beside tags-bench on {socket.gethostname()}")
    quiet = ["--disable-pip-version-check", "--no-input", "--quiet"]
    return [sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, *options, *environment.pip]


def _command(environment: Environment) -> str:
    """The command of an environment that is there already."""
    if environment.python:
        python = user_path(environment.python)
        if not os.access(python, os.X_OK) or python.is_dir():
            raise EnvironmentFault(f"{python} is no program on {socket.gethostname()}")
        return shlex.quote(str(python))
    if environment.apptainer:
        program = shutil.which("apptainer") or shutil.which("singularity")
        if program is None:
            raise EnvironmentFault(f"apptainer is not installed on {socket.gethostname()}")
        return shlex.join([program, "exec", "--nv", environment.apptainer, "python"])
    return shlex.quote(str(_conda_python(environment.conda)))


def _conda_python(name: str) -> Path:
    if "/" in name:
        python = user_path(name) / "bin" / "python"
        if not python.is_file():
            raise EnvironmentFault(f"{python} is not there on {socket.gethostname()}")
        return python
    program = next(filter(None, map(shutil.which, ("conda", "mamba", "micromamba"))), None)
    if program is None:
        raise EnvironmentFault(f"conda is not installed on {socket.gethostname()}")
    found = json.loads(_run([program, "env", "list", "--json"], CHECK_SECONDS) or "{}").get("envs", [])
    for prefix in map(Path, found):
        if prefix.name == name:
            return prefix / "bin" / "python"
    raise EnvironmentFault(f"conda has no environment '{name}' on {socket.gethostname()}")


def _check(command: str, method: str) -> None:
    """Whether the bench's processes can work there."""
    found = _run([*shlex.split(command), "-c", _QUESTION, method], CHECK_SECONDS)
    try:
        there = json.loads(found.splitlines()[-1])
    except (IndexError, ValueError):
        raise EnvironmentFault(f"{command}: no Python answers there ({shorten(found, 100)})") from None
    here = {"python": list(sys.version_info[:2]), "ray": version("ray"), "bench": version("tags-bench")}
    for name, wanted in here.items():
        if there[name] != wanted:
            words = [".".join(map(str, one)) if isinstance(one, list) else one for one in (there[name], wanted)]
            raise EnvironmentFault(f"{command}: {name} {words[0]}, and {words[1]} here; they must be the same")


def _run(command: list[str], seconds: float) -> str:
    """Standard output. Raises EnvironmentFault with what the program says last."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(f"{command[0]}: not finished within {seconds / 60:g} minutes") from None
    except OSError as error:
        raise EnvironmentFault(f"{command[0]}: {one_line(error, 200)}") from error
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith("error")] or said
        reason = shorten(errors[-1], 300) if errors else f"exit code {done.returncode}"
        raise EnvironmentFault(f"{reason} (on {socket.gethostname()})")
    return done.stdout
