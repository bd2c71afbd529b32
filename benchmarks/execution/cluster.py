"""Ray: started on this machine, or a running cluster joined, and it is said which.

A cluster is joined only where `--address` or RAY_ADDRESS names it. What keeps it from being joined is found out in
seconds, before Ray tries, whose own attempts take minutes.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.errors import MachineFault, UserError, one_line

logger = logging.getLogger(__name__)

DEFAULT_PORT = 6379
PROBE_SECONDS = 2.0
CHECK_SECONDS = 25.0
LONGEST_TEMPORARY = 40  # characters; Ray adds up to 65, and the path of a socket may have 107
TOKEN_FILE = Path("~/.ray/auth_token")


def start_ray(address: str | None = None, say: Callable[[str], None] = lambda line: None) -> bool:
    """Join the cluster that `address`, or else RAY_ADDRESS, names; or start Ray on this machine alone.

    Args:
        address: host:port, "auto" (the cluster that runs on this machine), or None.
        say: is told in a line which Ray it is.

    Returns:
        Whether it was started or joined now; False if this process uses a Ray already.

    Raises:
        UserError: no cluster answers there, it wants a token, or its version is another one.
        MachineFault: Ray's own processes on this machine died twice while they were starting.
    """
    named = address or os.environ.get("RAY_ADDRESS", "").strip()
    origin = "--address" if address else "RAY_ADDRESS"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths must keep their meaning in workers
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if is_running():
        return False
    if named and named != "local":
        _join(named, origin)
        say(f"Ray: the cluster at {named} (from {origin}), {size_of_ray()}")
    else:
        _start_here()
        say(f"Ray: started on this machine, {size_of_ray()}")
    return True


def is_running() -> bool:
    """Whether this process has Ray already."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def size_of_ray() -> str:
    """What the running Ray has, for a line."""
    import ray

    total, nodes = ray.cluster_resources(), sum(bool(node["Alive"]) for node in ray.nodes())
    return f"{nodes} node{'s' * (nodes > 1)}, {total.get('CPU', 0):g} CPU, {total.get('GPU', 0):g} GPU"


def _start_here() -> None:
    """A Ray of our own that listens on the loopback interface alone."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's word for: never another address
    options: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    temporary = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(temporary) > LONGEST_TEMPORARY:
        options["_temp_dir"] = _short_folder(temporary)
    problem = f"Ray does not start on this machine (temporary folder {temporary})"
    try:
        _initialise("local", problem, options)
    except MachineFault as error:
        logger.warning("%s; once more", error)
        _initialise("local", problem, options)


def _short_folder(temporary: str) -> str:
    """A folder for Ray's sockets whose path is short enough.

    Raises:
        UserError: there is none.
    """
    folder = Path("/tmp") / f"ray-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        usable = folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        raise UserError(
            f"the temporary folder {temporary} is too long for Ray's sockets, and {folder} cannot be used; "
            f"set RAY_TMPDIR to a folder with at most {LONGEST_TEMPORARY} characters"
        )
    return str(folder)


def _join(address: str, origin: str) -> None:
    if address.startswith("ray://"):
        raise UserError(f"{origin} {address}: run on a machine of the cluster, with host:port or 'auto'")
    if address != "auto":
        _probe(address, origin)
    _agree_on_authentication(address, origin)
    _initialise(address, f"the Ray cluster at '{address}' ({origin}) cannot be joined", {})


def _probe(address: str, origin: str) -> None:
    """Whether anything listens there."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", str(DEFAULT_PORT))
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{origin} '{address}': the form is HOST:PORT, such as 10.0.0.1:{DEFAULT_PORT}, or 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at '{address}' ({origin}): {error}") from error


def _agree_on_authentication(address: str, origin: str) -> None:
    """Use a token where the cluster asks for one, and only there: its workers could not answer one that does.

    Raises:
        UserError: nothing answers, or RAY_AUTH_MODE or the token do not fit the cluster.
    """
    wanted = os.environ.get("RAY_AUTH_MODE", "").lower()
    problem = _problem(address, origin, "disabled")
    if problem is None:
        if wanted == "token":
            raise UserError(f"the Ray cluster at '{address}' ({origin}) uses no token: set RAY_AUTH_MODE=disabled")
        os.environ["RAY_AUTH_MODE"] = "disabled"
        return
    if "InvalidAuthToken" not in problem and "AuthenticationError" not in problem:
        raise UserError(f"no Ray cluster answers at '{address}' ({origin}): {problem.splitlines()[-1][:300]}")
    if wanted == "disabled" or _problem(address, origin, "token") is not None:
        raise UserError(
            f"the Ray cluster at '{address}' ({origin}) wants a token: copy its {TOKEN_FILE} to this machine, or name "
            "the file in RAY_AUTH_TOKEN_PATH, and set RAY_AUTH_MODE=token, here and on every node"
        )
    os.environ["RAY_AUTH_MODE"] = "token"


def _problem(address: str, origin: str, mode: str) -> str | None:
    """Ask the cluster whether it is well, in a process that can be ended when it does not answer.

    Returns:
        None if it is well, or what Ray says.
    """
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "health-check"]
    command += [] if address == "auto" else ["--address", address]
    environment = os.environ | {"RAY_AUTH_MODE": mode}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"what listens at '{address}' ({origin}) is no Ray cluster, or does not answer within {CHECK_SECONDS:g} s"
        ) from None
    return None if done.returncode == 0 else done.stderr.strip() or done.stdout.strip() or "no reason given"


def _initialise(address: str, problem: str, options: dict[str, Any]) -> None:
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # ConnectionError is an OSError
        raise UserError(f"{problem}: {one_line(error)[:300]}") from error
    except Exception as error:  # Ray's own word, a bare Exception, for processes of its own that died while starting
        raise MachineFault(f"{problem}: {one_line(error)[:300]}") from error
    _keep_standard_output_free()


def _keep_standard_output_free() -> None:
    """Ray tells on standard output that a worker has died; that stream is for results, so let it be standard error.

    There is no setting for it. Where a later Ray has another function, its words stay where it puts them.
    """
    from ray._private import worker

    told: Any = getattr(worker, "print_to_stdstream", None)
    if told is None or hasattr(told, "to_standard_error"):
        return

    def to_standard_error(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        told({**data, "is_err": True}, *arguments, **options)

    to_standard_error.to_standard_error = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = to_standard_error
