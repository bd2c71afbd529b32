"""What is installed and reachable, for `tags-bench doctor`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common.environment import manifest


def examine(out: Path, tracking_uri: str | None, address: str | None) -> dict[str, Any]:
    """Findings by section: "software", "machine", "services", "checkpoints", "plug-ins"; of a cluster also "hosts", a
    row for each node.
    """
    about = manifest()
    software = {
        "python": about["python"],
        "code": about["git_commit"] + (" (changed)" if about["git_dirty"] else ""),
    }
    ray, hosts = _ray(address, out)
    return {
        "software": {**software, **about["packages"]},
        "machine": _machine(out),
        "services": {"Ray": ray, "MLflow": _mlflow(tracking_uri, out)},
        **({"hosts": hosts} if hosts else {}),
        "checkpoints": _checkpoints(out),
        "plug-ins": plugins(),
        "environments": environments(),
    }


def plugins() -> dict[str, Any]:
    """The methods and datasets of installed packages that cannot be used."""
    from benchmarks.contestants import broken_methods
    from benchmarks.data.catalogue import broken_datasets

    broken = [*broken_methods(), *broken_datasets()]
    return {f"{one.name} of {one.distribution}": f"broken: {one.reason}" for one in broken} or {"broken": "none"}


def environments() -> dict[str, Any]:
    """Whether the environments of the installed methods are ready, or can be made; none is made."""
    from benchmarks.contestants import methods
    from benchmarks.execution.environments import state_of

    apart = {name: one.environment for name, one in methods().items() if one.environment is not None}
    return {name: state_of(one, name) for name, one in apart.items()} or {"of their own": "none"}


def _machine(out: Path) -> dict[str, Any]:
    import psutil

    place = out if out.exists() else Path.cwd()
    return {
        "processors": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "free disk": f"{shutil.disk_usage(place).free / 1e9:.0f} GB at {place}",
        "GPU": gpu_line(),
    }


def gpu_line() -> str:
    """The GPUs that torch sees, in a line."""
    if importlib.util.find_spec("torch") is None:
        return "unknown, torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return "none visible to torch"
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{one.name} ({one.total_memory / 1e9:.0f} GB)" for one in names)


def _ray(address: str | None, out: Path) -> tuple[str, list[dict[str, str]]]:
    """Which Ray answers, and what is found on each of its nodes if it is a cluster."""
    from benchmarks.common.errors import UserError
    from benchmarks.execution.cluster import size_of_ray, start_ray

    lines: list[str] = []
    try:
        started = start_ray(address, lines.append)
    except UserError as error:
        return f"not reachable: {error}", []
    import ray

    from benchmarks.execution.crew import Machines
    from benchmarks.execution.preflight import look_at_hosts

    machines = Machines()
    line = lines[0].removeprefix("Ray: ") if lines else f"runs in this process already, {size_of_ray()}"
    joined = "cluster at" in line
    hosts = [host.row() for host in look_at_hosts(machines.nodes, out)] if joined else []
    machines.close()
    if started:
        ray.shutdown()
    return line, hosts


def _mlflow(tracking_uri: str | None, out: Path) -> str:
    from benchmarks.common.addresses import without_password
    from benchmarks.results.mlflow import default_uri, quiet_mlflow

    uri = tracking_uri or default_uri(out)
    if tracking_uri is None and not (out / "mlflow.db").exists():
        return f"{uri} (no store yet; the first run makes it)"
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    try:
        experiments = MlflowClient(tracking_uri=uri).search_experiments()
    except Exception as error:  # any failure to reach the store is the finding itself
        return without_password(f"{uri}: not reachable ({' '.join(str(error).split())[:120]})")
    return without_password(f"{uri}: {len(experiments)} experiment(s)")


def _checkpoints(out: Path) -> dict[str, Any]:
    from benchmarks.common.weight_file import weights_folder
    from benchmarks.contestants import methods
    from benchmarks.weights.official_files import official_files, state_of

    known = official_files()
    official = [f"{name} ({state_of(one.file)})" for name, one in known.items() if one.file.path.is_file()]
    others = sorted(p.name for p in weights_folder().glob("*") if p.name not in known and not p.name.startswith("."))
    found: dict[str, Any] = {f"official files in {weights_folder()}": ", ".join(official) or "none"}
    if others:
        found["other files there"] = ", ".join(others)
    trained = Counter(map(_trained_method, (out / "checkpoints").glob("[!.]*/training.json")))
    for method in methods():
        if trained[method]:
            found[method] = f"{trained[method]} trained here"
    return found


def _trained_method(figures: Path) -> str:
    """Whose checkpoint it is, as its figures say; the names of folders are ambiguous."""
    try:
        return str(json.loads(figures.read_text(encoding="utf-8"))["method"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
