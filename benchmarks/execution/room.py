"""What units ask of the cluster, and whether it can hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.common.errors import UserError
from benchmarks.execution.capacity import fits
from benchmarks.execution.crew import Machines
from benchmarks.execution.observer import Observer
from benchmarks.execution.orders import Need, Node
from benchmarks.execution.plan import Folders, Unit
from benchmarks.execution.preflight import Host, look_at_hosts
from benchmarks.execution.training import TrainingJob


def check_room(units: Iterable[Unit], machines: Machines | None = None, unfit: Mapping[str, str] | None = None) -> None:
    """Refuse what the cluster could never hold.

    Args:
        unfit: why which nodes cannot take part; see `unfit_nodes`.

    Raises:
        UserError: the unit, what it asks for, and what there is.
    """
    unfit = unfit or {}
    nodes = [node for node in (machines or Machines()).now() if node.name not in unfit]
    left_out = "".join(f"; {node} cannot take part: {why}" for node, why in unfit.items())
    for unit in units:
        for need in (training_need(unit.job) if unit.job else Need(), need_of(unit)):
            if not fits(nodes, need):
                times = f"{need.workers} workers with " if need.workers > 1 else ""
                here = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node("none", 0.0))
                raise UserError(
                    f"'{unit.title}' asks for {times}{need.cpus:g} CPU and {need.gpus:g} GPU; the cluster has "
                    f"{sum(node.cpus for node in nodes):g} CPU and {sum(node.gpus for node in nodes):g} GPU on "
                    f"{len(nodes)} node(s), the largest {here.cpus:g} CPU and {here.gpus:g} GPU; "
                    f"lower --cpus, --gpus or --workers{left_out}"
                )


def unfit_nodes(units: list[Unit], folders: Folders, machines: Machines, observer: Observer) -> dict[str, str]:
    """Why which nodes of a cluster cannot take part; one machine alone is not looked at. The observer is told all.

    Raises:
        UserError: no node can.
    """
    nodes = machines.nodes
    if len(nodes) < 2 or not units:
        return {}
    hosts = hosts_for(units, folders, nodes)
    observer.hosts([host.row() for host in hosts])
    unfit = {host.node: "; ".join(host.problems) for host in hosts if host.problems}
    if len(unfit) == len(nodes):
        reasons = " | ".join(f"{node}: {why}" for node, why in unfit.items())
        raise UserError(f"no node of the cluster can take part; {reasons}")
    return unfit


def hosts_for(units: Sequence[Unit], folders: Folders, nodes: Mapping[str, str]) -> list[Host]:
    """What is found on nodes (name → Ray's id) of all that these units need there."""
    data_file = next((unit.cases[0].image for unit in units if unit.cases), None)
    working = [unit for unit in units if unit.evaluation.given is None]
    names = sorted({unit.method.name for unit in working})
    files = sorted({name for unit in working for name in unit.weight_files})
    return look_at_hosts(nodes, folders.out, names, data_file, files)


def need_of(unit: Unit) -> Need:
    """Of one process that evaluates; floors never hold a GPU."""
    return Need(unit.cpus, 0.0 if unit.method.floor else unit.gpus)


def training_need(job: TrainingJob) -> Need:
    return Need(job.budget.cpus, job.budget.gpus, job.workers)
