"""`mlflow`: MLflow's pages, on the right store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

from typer import Option

from benchmarks.commands.declare import OUTPUT, command, new_group
from benchmarks.commands.options import LAST_RUN, DebugOption, FinishedOptions
from benchmarks.common.errors import UserError
from benchmarks.common.paths import user_path

app = new_group()


@command(app, panel="Results")
def mlflow(
    *,
    run: FinishedOptions = LAST_RUN,
    port: Annotated[
        int, Option("--port", metavar="N", min=1, max=65535, help="Of 127.0.0.1.", rich_help_panel=OUTPUT)
    ] = 5000,
    opened: Annotated[bool, Option("--open", help="Open the page in a browser.", rich_help_panel=OUTPUT)] = False,
    debug: DebugOption = False,
) -> None:
    """Open MLflow's pages of an output folder, on 127.0.0.1 only.

    An output folder that was moved is put right first. Ctrl-C ends it.

    Example: `tags-bench mlflow --out tags-bench-out`
    """
    from benchmarks.results.mlflow.server import free_port, opened_store, server_command

    out = user_path(run.out).resolve()
    uri, page = opened_store(out, run.suite)
    if not free_port(port):
        raise UserError(f"port {port} of 127.0.0.1 is taken; try `--port {port + 1}`")
    address = f"http://127.0.0.1:{port}/{page}"
    print(f"{uri}\n{address}", flush=True)
    code = _served(server_command(uri, out, port), (lambda: _open_when_ready(port, address)) if opened else None)
    if code:
        raise UserError(f"MLflow's server ended with exit code {code}; what it said stands above")


def _served(command: list[str], ready: Callable[[], None] | None) -> int:
    """Run the server until it ends, or this process is told to: then it and its workers end, and that is no failure."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    server = subprocess.Popen(command, start_new_session=True)
    try:
        if ready is not None:
            ready()
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        with suppress(ProcessLookupError):  # they have ended by themselves
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _open_when_ready(port: int, address: str) -> None:
    """Open the page once somebody answers; MLflow takes some seconds for that."""
    import time
    import webbrowser

    from benchmarks.results.mlflow.server import free_port

    for _ in range(120):
        if not free_port(port):
            if not webbrowser.open(address):
                print("no browser can be opened here; open the address above", file=sys.stderr)
            return
        time.sleep(0.5)
