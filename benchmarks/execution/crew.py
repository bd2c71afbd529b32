"""The scheduler's orders carried out on Ray: processes started and ended, cases handed out, what became of them.

Whatever Ray reports is one of three things: a result, an error of the method's own code, or a fault of the machine.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.errors import MachineFault, ProcessSpoilt, one_line
from benchmarks.data.dataset import Case
from benchmarks.execution.environments import Environments
from benchmarks.execution.orders import Action, Assign, Item, Node, StartWorker, StopWorker, Withdraw, WorkerOrder
from benchmarks.execution.scheduler import Scheduler
from benchmarks.execution.training_job import TrainingJob
from benchmarks.execution.training_watch import TrainingOverdue, TrainingProcessDied, TrainingWatch
from benchmarks.execution.worker import Loading, Order, OutOfMemory, actor_class, outcome_of, training_task

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks at the machines of the cluster
SILENCE_SECONDS = 25.0  # without any answer of the cluster: it is gone
REASON_LENGTH = 400
NOBODY = "0" * 56  # has the form of a node's id, without which Ray raises a ValueError, and is none's


@dataclass(frozen=True)
class CaseWork:
    """An item: one case of one unit, to be predicted and scored, or scored alone."""

    unit: int
    case: Case
    score_only: bool
    evaluation: Callable[[], Any]  # reference to the unit's `Evaluation`, made when it is first needed
    log: Path
    masks: Path | None = None  # folder in which the unit keeps them


@dataclass(frozen=True)
class TrainingWork:
    """An item: one training; `fresh` names the call that wants it afresh."""

    job: TrainingJob
    folder: Path
    log: Path
    cache: Path
    fresh: str


class ClusterLost(Exception):
    """Ray has gone."""


class Machines:
    """Looks at the machines of the running Ray now and then, from a thread of its own, for Ray may never answer."""

    def __init__(self) -> None:
        import ray

        self._here = ray.get_runtime_context().get_node_id()
        self._seen = _alive_nodes()
        self._answered = time.monotonic()
        self._closed = False
        self._wake, self._looked = threading.Event(), threading.Event()
        threading.Thread(target=self._look_on, name="machines", daemon=True).start()

    @property
    def nodes(self) -> dict[str, str]:
        """Name → Ray's id, of the machines that are up."""
        return {node.name: ray_id for node, ray_id in self._seen}

    def now(self) -> list[Node]:
        """The machines that are up.

        Raises:
            ClusterLost: this machine's own part of Ray is down, or nothing has answered for a while.
        """
        if time.monotonic() - self._answered > SILENCE_SECONDS:
            raise ClusterLost(f"Ray has not answered for {SILENCE_SECONDS:.0f} s")
        if self._here not in self.nodes.values():
            raise ClusterLost("Ray's process on this machine (raylet) is gone")
        return [node for node, _ in self._seen]

    def look(self) -> None:
        """Look now, as far as Ray answers at once."""
        self._looked.clear()
        self._wake.set()
        self._looked.wait(LOOK_SECONDS)

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def _look_on(self) -> None:
        while not self._closed:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            try:
                self._seen = _alive_nodes()
            except Exception:  # whatever Ray raises without a cluster; `now` tells after a while
                continue
            self._answered = time.monotonic()
            self._looked.set()


class NoMachines(Machines):
    """In place of machines where nothing is due: no Ray is needed, and none is asked."""

    def __init__(self) -> None:
        pass

    @property
    def nodes(self) -> dict[str, str]:
        return {}

    def now(self) -> list[Node]:
        return []

    def look(self) -> None:
        pass

    def close(self) -> None:
        pass


def _alive_nodes() -> list[tuple[Node, str]]:
    import ray

    found = []
    for node in ray.nodes():
        if node["Alive"]:
            resources, ray_id = node["Resources"], node["NodeID"]
            name = f"{node['NodeManagerHostname']} ({ray_id[:8]})"
            found.append((Node(name, resources.get("CPU", 0.0), resources.get("GPU", 0.0)), ray_id))
    return found


class Crew:
    """The workers of one run.

    Args:
        scheduler: is told what happens.
        machines: where the nodes are looked up.
        loadings: what the workers of a kind hold, by the name of the kind's key. A kind that is not here trains.
    """

    def __init__(self, scheduler: Scheduler, machines: Machines, loadings: Mapping[Any, Loading]) -> None:
        self._scheduler, self._machines, self._loadings = scheduler, machines, loadings
        self._actors: dict[int, Any] = {}
        self._nodes: dict[int, tuple[str, ...]] = {}
        self._references: dict[Any, tuple[int, Item | str]] = {}
        self._numbers: dict[Item, int] = {}
        self._next_number = itertools.count()  # an item that is given out again has another one
        self._at_once: list[int] = []
        self._results: dict[tuple[int, Item], Any] = {}
        self._aside: dict[tuple[int, Item], Path] = {}  # masks of what is computed a second time beside the first
        self._watches: dict[Any, TrainingWatch] = {}
        self.environments = Environments()
        self._watched = 0.0

    def carry_out(self, action: WorkerOrder) -> None:
        """One order of the scheduler."""
        match action:
            case StartWorker():
                self._start(action)
            case StopWorker(worker):
                self._stop(worker)
            case Assign(worker, item, last_try):
                self._assign(worker, item, last_try)
            case Withdraw(worker, item):
                self._actors[worker].withdraw.remote(self._numbers[item])

    def result(self, worker: int, item: Item) -> Any:
        """What the worker gave for the item; only once. Whoever else computed it is ended."""
        aside = self._aside.pop((worker, item), None)
        if aside is not None:
            _put_in_place(aside)
        return self._results.pop((worker, item))

    def wait(self, seconds: float) -> list[Action]:
        """Wait until something has happened, tell it to the scheduler, and return what it orders."""
        import ray

        actions: list[Action] = []
        for worker in self._at_once:
            actions += self._scheduler.loaded(worker, time.monotonic())
        self._at_once.clear()
        if actions:
            return actions
        if not self._references:
            time.sleep(seconds)
            return []
        references = list(self._references)
        ready, _ = ray.wait(references, num_returns=1, timeout=seconds, fetch_local=False)
        if ready:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        for reference in ready:
            if reference in self._references:  # else its worker was ended by what happened before
                worker, what = self._references.pop(reference)
                self._watches.pop(reference, None)
                actions += self._tell(worker, what, outcome_of(reference))
        return actions + self._end_overdue()

    def _end_overdue(self) -> list[Action]:
        """End the trainings that give no sign of life; the method has hung, so that is its failure."""
        import ray

        actions: list[Action] = []
        now = time.monotonic()
        if now - self._watched < LOOK_SECONDS:
            return actions
        self._watched = now
        for reference, watch in list(self._watches.items()):
            reason = watch.overdue()
            if reason:
                del self._watches[reference]
                worker, what = self._references.pop(reference)
                ray.cancel(reference, force=True)
                actions += self._tell(worker, what, TrainingOverdue(f"{reason}; the process was ended"))
        return actions

    def trainings(self) -> list[tuple[TrainingWork, dict[str, Any]]]:
        """The trainings at work with their latest signs of life; see `TrainingWatch.progress`."""
        found = []
        for reference, watch in self._watches.items():
            _, item = self._references[reference]
            if isinstance(item, Item) and isinstance(item.work, TrainingWork) and watch.progress():
                found.append((item.work, watch.progress()))
        return found

    def stop_all(self) -> None:
        """End every process."""
        for worker in list(self._nodes):
            self._stop(worker)

    def _start(self, order: StartWorker) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._nodes[order.worker] = order.nodes
        if order.key.name not in self._loadings:  # a training is a task: nothing to load beforehand
            self._at_once.append(order.worker)
            return
        need = order.key.need
        there = NodeAffinitySchedulingStrategy(self._ray_id(order.nodes[0]), soft=False)
        loading = self._loadings[order.key.name]
        kind = actor_class().options(
            **self.environments.options(loading.method, loading.environment, order.nodes[0]),
            num_cpus=need.cpus,
            num_gpus=need.gpus,
            max_concurrency=order.key.ahead + 1 if order.key.ahead > 1 else 1,
            scheduling_strategy=there,
        )
        actor = kind.remote(loading)
        self._actors[order.worker] = actor
        self._references[actor.where.remote()] = order.worker, "where"
        self._references[actor.ready.remote()] = order.worker, "ready"

    def _assign(self, worker: int, item: Item, last_try: bool) -> None:
        work = item.work
        if isinstance(work, TrainingWork):
            reference = self._train(worker, work)
            self._watches[reference] = TrainingWatch(work.job, work.folder)
        else:
            assert isinstance(work, CaseWork)
            again = any(other is item for _, other in self._references.values())
            self._numbers[item] = number = next(self._next_number)
            aside = None
            if again and work.masks is not None and not work.score_only:
                aside = self._aside[worker, item] = work.masks / f".second-{number}"
            order = Order(number, work.case, [work.evaluation()], work.log, last_try, aside)
            actor = self._actors[worker]
            reference = actor.rescore.remote(order) if work.score_only else actor.evaluate.remote(order)
        self._references[reference] = worker, item

    def _train(self, worker: int, work: TrainingWork) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        names = self._nodes[worker]
        nodes = tuple(self._ray_id(name) for name in names)
        options = self.environments.options(work.job.method, work.job.environment, names[0])
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(nodes[0], soft=False)
        task = training_task(work.job).options(**options)
        return task.remote(work.job, work.folder, work.log, work.cache, work.fresh, None, nodes)

    def _ray_id(self, node: str) -> str:
        """Ray's id of a node; for one that has gone since the order was given `NOBODY`, which Ray reports as a loss."""
        return self._machines.nodes.get(node, NOBODY)

    def _stop(self, worker: int) -> None:
        import ray

        actor = self._actors.pop(worker, None)
        mine = [reference for reference, (number, _) in self._references.items() if number == worker]
        if actor is not None:
            ray.kill(actor)
        else:
            for reference in mine:
                ray.cancel(reference, force=True)
        for reference in mine:
            del self._references[reference]
            self._watches.pop(reference, None)
        self._nodes.pop(worker, None)
        for number, item in list(self._aside):
            if number == worker and (number, item) not in self._results:
                self._forget_aside(number, item)

    def _forget_aside(self, worker: int, item: Item) -> None:
        aside = self._aside.pop((worker, item), None)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)  # a hidden folder, in which nobody looks

    def _tell(self, worker: int, what: Item | str, outcome: Any) -> list[Action]:
        """Tell the scheduler what became of a call."""
        import ray

        now, tell = time.monotonic(), self._scheduler
        item = what if isinstance(what, Item) else None
        match outcome:
            case OutOfMemory() if item is not None:
                return tell.out_of_memory(worker, item, str(outcome), now)
            # a process of a group: as little held against the node as where it is alone; or one without its GPU
            case TrainingProcessDied() | ProcessSpoilt():
                return tell.fault(worker, str(outcome)[:REASON_LENGTH], now, item, died=True)
            case MachineFault():
                return tell.fault(worker, str(outcome)[:REASON_LENGTH], now, item)
            case ray.exceptions.OutOfMemoryError() if item is not None and item.key.resumes:
                # Ray ends the largest process of a machine that is full, whoever filled it
                return tell.fault(worker, "Ray ended the process: the machine was out of memory", now, item, died=True)
            case ray.exceptions.OutOfMemoryError() if item is not None:
                return tell.out_of_memory(worker, item, "Ray ended the process", now)
            case ray.exceptions.RayError() if not isinstance(outcome, ray.exceptions.RayTaskError):
                return self._tell_of_loss(worker, outcome)
        if what == "where":
            return [] if isinstance(outcome, Exception) else tell.loading(worker, now)
        if what == "ready":
            if isinstance(outcome, Exception):
                return tell.load_failed(worker, f"cannot be loaded: {one_line(outcome)[:REASON_LENGTH]}", now)
            return tell.loaded(worker, now)
        assert item is not None
        if outcome is None:
            return tell.withdrawn(worker, item, now)
        self._results[worker, item] = outcome
        actions = tell.finished(worker, item, now)
        if not any(getattr(action, "item", None) is item for action in actions):
            self._results.pop((worker, item), None)  # another worker was faster
            self._forget_aside(worker, item)
        return actions

    def _tell_of_loss(self, worker: int, error: Exception) -> list[Action]:
        """A process is gone: with its machine, or alone."""
        import ray

        now, node = time.monotonic(), self._nodes[worker][0]
        self._machines.look()
        if node not in self._machines.nodes:
            return self._scheduler.node_lost(node, f"{node} is gone", now)
        died = isinstance(error, (ray.exceptions.ActorDiedError, ray.exceptions.WorkerCrashedError))
        reason = f"the process died on {node}" if died else f"{type(error).__name__} on {node}"
        return self._scheduler.fault(worker, f"{reason} ({_in_rays_words(error)})", now, died=died)


def _put_in_place(aside: Path) -> None:
    """The masks of the second computation, which was faster, instead of what the first has left."""
    try:
        for case in aside.iterdir() if aside.is_dir() else ():
            shutil.rmtree(aside.with_name(case.name), ignore_errors=True)
            case.replace(aside.with_name(case.name))
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        logger.warning("%s: masks could not be put in place and are left out: %s", aside, one_line(error))


def _in_rays_words(error: Exception) -> str:
    """Why it happened: what comes after the names and numbers of the actor."""
    text = " ".join(str(error).split())
    for mark in ("Worker exit type: ", "The actor is dead because ", "The actor died because of "):
        _, found, detail = text.partition(mark)
        if found:
            return detail[:REASON_LENGTH]
    return text[:REASON_LENGTH]
