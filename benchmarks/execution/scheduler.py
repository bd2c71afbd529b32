"""Who computes what, where and when: a state machine without Ray and without a clock.

Events go in as calls with the time, actions come out as a list. `pool` carries the actions out on Ray; the tests
play the same code with recorded durations. The rules:

- **Workers** of one key (method, configuration, checkpoint, resources) serve all units of that key. Another one is
  started where the cluster has room and it will be ready before those at work are done.
- **Items** go to the worker on whose node the case was read before, the longest first, then to any. A worker is given
  its next item while it computes one; what it has not begun is taken over by a worker that has nothing to do.
- **Stragglers**: where nothing waits and an item takes over three times the 95th percentile, it is computed a second
  time beside it. The first result counts.
- **Faults** are the machine's: the item is tried again up to three times, elsewhere and in a fresh process, and is then
  set aside: it has no result. A death is held against the method only if the same item ends two processes.
- **Nodes** with three faults in a row are given no more work.

A training is an item with a key of its own, so that it waits for room like everything else.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from benchmarks.execution.capacity import Capacity
from benchmarks.execution.orders import (
    Action,
    Assign,
    AvoidNode,
    Commit,
    Fail,
    Item,
    Key,
    Node,
    SetAside,
    StartWorker,
    StopWorker,
    Withdraw,
)
from benchmarks.execution.scheduler_state import Group, ItemState, Worker

MAX_RETRIES = 3
RETRY_PAUSES = (1.0, 5.0, 25.0)  # seconds before each retry: a file server comes back
PATIENCE = 30.0  # seconds that a retried item waits for another node than the one that failed it
DEATHS_OF_METHOD = 2
LOAD_TRIES = 2  # of a method that does not load within its limit
ROOM_GRACE = 60.0  # seconds without any node that could ever hold a key


class Scheduler:
    """See the module. Every event returns the actions that follow from it, in order."""

    def __init__(self, nodes: Iterable[Node], now: float = 0.0) -> None:
        self._groups: dict[Key, Group] = {}
        self._workers: dict[int, Worker] = {}
        self._states: dict[Item, ItemState] = {}
        self._capacity = Capacity()
        self._delayed: list[tuple[float, int, Item]] = []
        self._numbers = itertools.count()
        self._starving: list[Group] = []
        self._look_for_room = True
        self._actions: list[Action] = []
        self.set_nodes(nodes, now)

    @property
    def outstanding(self) -> int:
        """Items that have come to no end yet."""
        return len(self._states)

    # Events ---------------------------------------------------------------------------------------------------------

    def set_nodes(self, nodes: Iterable[Node], now: float) -> list[Action]:
        """These are the machines now; who is missing is lost, who is new is used."""
        present = {node.name: node for node in nodes}
        for name in self._capacity.names:
            if name not in present:
                self._lose(name, f"the node {name} is gone", now)
        for node in present.values():
            self._look_for_room |= self._capacity.add(node)
        return self._settle(now)

    def submit(self, items: Iterable[Item], now: float) -> list[Action]:
        """More work."""
        for item in items:
            group = self._groups.setdefault(item.key, Group(item.key))
            self._states[item] = ItemState(group)
            group.count(item, 1)
            self._enqueue(item)
        return self._settle(now)

    def loading(self, worker: int, now: float) -> list[Action]:
        """The worker's process is up: its limit counts from now on."""
        if worker in self._workers:
            self._workers[worker].loading_since = now
        return self._flush()

    def loaded(self, worker: int, now: float) -> list[Action]:
        """The worker is ready."""
        one = self._workers.get(worker)
        if one is None or one.loaded:
            return self._flush()
        group = one.group
        one.loaded = group.ever_loaded = True
        group.loading -= 1
        group.load_faults = 0
        group.load_seconds = min(group.load_seconds, now - one.started)
        self._feed(one, now)
        return self._settle(now, one)

    def load_failed(self, worker: int, reason: str, now: float) -> list[Action]:
        """The method's own code failed while it was loaded. Where it has loaded before, that is the node's fault."""
        one = self._workers.get(worker)
        if one is None:
            return self._flush()
        if one.group.ever_loaded:
            return self.fault(worker, reason, now)
        self._stop(one)
        self._break(one.group, reason)
        return self._settle(now)

    def finished(self, worker: int, item: Item, now: float) -> list[Action]:
        """The worker gave a result."""
        one = self._workers.get(worker)
        if one is None or item not in one.items:
            return self._flush()
        seconds = now - one.since
        self._drop(one, item, now)
        state = self._states.get(item)
        if state is not None:
            one.group.note(item, seconds)
            for name in one.nodes:
                self._capacity.praise(name)
            self._end(item, Commit(worker, item))
            for other in [self._workers[number] for number in state.copies]:
                if other.items[0] is item and other.withdrawing is not item:
                    self._stop(other)
            for name in state.suspects.difference(one.nodes):  # last: a node that is given up hands back its items
                self._strike(name, "a process died there", now)
        if one.number in self._workers:  # its node may have been given up just now
            self._feed(one, now)
        return self._settle(now, one)

    def withdrawn(self, worker: int, item: Item, now: float) -> list[Action]:
        """The item had not been begun and is off the worker."""
        one = self._workers.get(worker)
        if one is None or item not in one.items:
            return self._flush()
        self._drop(one, item, now)
        if item in self._states and not self._states[item].copies:
            self._enqueue(item)
        self._feed(one, now)
        return self._settle(now, one)

    def out_of_memory(self, worker: int, item: Item, reason: str, now: float) -> list[Action]:
        """Not even an emptied cache was enough: a fresh process, a whole GPU; the second time it has failed."""
        one = self._workers.get(worker)
        if one is None or item not in one.items:
            return self._flush()
        self._stop(one, blamed=item)
        state = self._states.get(item)
        if state is not None and not state.copies:
            if state.group.key.alone:
                self._end(item, Fail(item, f"out of memory, in a process of its own too: {reason}"))
            else:
                state.group.count(item, -1)
                roomier = item.key.roomier()
                state.group = self._groups.setdefault(roomier, Group(roomier))
                state.group.count(item, 1)
                self._enqueue(item)
        return self._settle(now)

    def fault(self, worker: int, reason: str, now: float, item: Item | None = None, died: bool = False) -> list[Action]:
        """The machine failed a worker: its process died, its disk is full, a folder is missing.

        Args:
            item: which item met the fault; by default the one that the worker was computing.
            died: the process ended by itself.
        """
        one = self._workers.get(worker)
        if one is None:
            return self._flush()
        node = one.nodes[0]
        if not one.loaded:
            self._stop(one)
            one.group.load_deaths += died and one.loading_since is not None
            if one.group.load_deaths >= DEATHS_OF_METHOD and not one.group.ever_loaded:
                self._break(one.group, f"{reason} while it was loaded; it ended {one.group.load_deaths} processes")
            else:
                self._load_fault(one.group, node, reason, now)
            return self._settle(now)
        blamed = item if item in one.items else one.items[0] if one.items else None
        self._stop(one, blamed)
        if blamed is not None:
            self._blame(blamed, one.nodes, reason, now, died)
        if not died and len(set(one.nodes)) == 1:  # of a group on several it is not known which one failed
            self._strike(node, reason, now)
        return self._settle(now)

    def node_lost(self, node: str, reason: str, now: float) -> list[Action]:
        """A machine is gone, with all workers on it."""
        self._lose(node, reason, now)
        return self._settle(now)

    def avoid(self, node: str, reason: str, now: float) -> list[Action]:
        """Give a node no more work."""
        self._avoid(node, reason)
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        """Limits, retries that are due, stragglers. To be called every second or so."""
        for one in list(self._workers.values()):
            if one.number in self._workers:
                self._check_limits(one, now)
        while self._delayed and self._delayed[0][0] <= now:
            item = heapq.heappop(self._delayed)[-1]
            if item in self._states:
                self._enqueue(item)
        for one in list(self._workers.values()):
            self._feed(one, now)
        self._look_for_room = True
        return self._settle(now, *self._workers.values())

    def abandon(self, reason: str) -> list[Action]:
        """There is no cluster any more: everything that has come to no end is set aside."""
        self._workers.clear()
        for item in list(self._states):
            self._end(item, SetAside(item, reason))
        return self._flush()

    # Items ----------------------------------------------------------------------------------------------------------

    def _enqueue(self, item: Item) -> None:
        state = self._states[item]
        group = state.group
        if group.broken:
            self._end(item, Fail(item, group.broken))
            return
        if state.faults:
            group.retried.append(item)
        else:
            names = self._capacity.names or [""]
            queue = group.queues.setdefault(names[item.place % len(names)], [])
            heapq.heappush(queue, (-item.length, next(self._numbers), item))
        group.waiting += 1
        self._look_for_room = True

    def _feed(self, one: Worker, now: float) -> None:
        """Something to compute, and the next one to load meanwhile."""
        if not one.loaded:
            return
        group = one.group
        if not one.items:
            item = self._take(one, now) or self._steal(one) or self._straggler(group, now)
            if item is not None:
                self._assign(one, item, now)
        while 1 <= len(one.items) <= group.key.ahead and group.waiting > len(group.workers):
            item = self._take(one, now)
            if item is None:
                break
            self._assign(one, item, now)

    def _take(self, one: Worker, now: float) -> Item | None:
        """The next item for a worker, off the queue."""
        group = one.group
        for _ in range(len(group.retried)):
            item = group.retried.popleft()
            if self._may_go(item, one, now):
                group.waiting -= 1
                return item
            group.retried.append(item)
        queue = group.queues.get(one.nodes[0]) or max(group.queues.values(), key=len, default=[])
        if not queue:
            return None
        group.waiting -= 1
        return heapq.heappop(queue)[-1]

    def _may_go(self, item: Item, one: Worker, now: float) -> bool:
        """Whether a retried item may go to this worker: not where it failed, as long as there is hope of another."""
        state = self._states[item]
        if state.avoid.isdisjoint(one.nodes) or now >= state.patient_until:
            return True
        return not self._capacity.could_hold(one.group.key.need, without=state.avoid)

    def _steal(self, thief: Worker) -> Item | None:
        """What another worker has not begun."""
        for other in thief.group.workers.values():
            if len(other.items) > 1 and other.withdrawing is None:
                item = other.items[-1]
                if item in self._states:
                    other.withdrawing = item
                    self._actions.append(Withdraw(other.number, item))
                    return item
        return None

    def _straggler(self, group: Group, now: float) -> Item | None:
        """What takes far longer than usual and is computed once so far."""
        if group.key.resumes or group.waiting:
            return None
        for other in group.workers.values():
            if other.items and now - other.since > group.straggles_after(other.items[0]):
                state = self._states.get(other.items[0])
                if state is not None and len(state.copies) == 1:
                    return other.items[0]
        return None

    def _assign(self, one: Worker, item: Item, now: float) -> None:
        if not one.items:
            one.since = now
        one.items.append(item)
        self._states[item].copies.add(one.number)
        self._actions.append(Assign(one.number, item, one.group.key.alone))

    def _drop(self, one: Worker, item: Item, now: float) -> None:
        """The worker has the item no more."""
        if one.items[0] is item:
            one.since = now
        one.items.remove(item)
        if one.withdrawing is item:
            one.withdrawing = None
        if item in self._states:
            self._states[item].copies.discard(one.number)

    def _end(self, item: Item, action: Commit | Fail | SetAside) -> None:
        self._states.pop(item).group.count(item, -1)
        self._actions.append(action)

    # Faults ---------------------------------------------------------------------------------------------------------

    def _blame(self, item: Item, nodes: tuple[str, ...], reason: str, now: float, died: bool) -> None:
        """The item met a fault and is off the worker that met it."""
        state = self._states.get(item)
        if state is None or state.copies:
            return  # finished, or computed elsewhere at this moment
        if died and not item.key.resumes:
            state.deaths += 1
            state.suspects.update(nodes)
            if state.deaths >= DEATHS_OF_METHOD:
                self._end(item, Fail(item, f"{reason}; it ended {state.deaths} processes"))
                return
        state.faults += 1
        if state.faults > MAX_RETRIES:
            self._end(item, SetAside(item, f"{reason}; tried {state.faults} times"))
            return
        state.avoid.update(nodes)
        pause = RETRY_PAUSES[state.faults - 1]
        state.patient_until = now + pause + PATIENCE
        heapq.heappush(self._delayed, (now + pause, next(self._numbers), item))

    def _load_fault(self, group: Group, node: str, reason: str, now: float) -> None:
        self._strike(node, reason, now)
        group.rather_not.add(node)
        group.load_faults += 1
        group.not_before = now + RETRY_PAUSES[min(group.load_faults, MAX_RETRIES) - 1]
        if group.load_faults > MAX_RETRIES and not any(one.loaded for one in group.workers.values()):
            group.load_faults = 0
            for item in group.drain():
                self._end(item, SetAside(item, f"{reason}; tried {MAX_RETRIES + 1} times"))

    def _strike(self, node: str, reason: str, now: float) -> None:
        if self._capacity.strike(node, now):
            self._avoid(node, reason)

    def _avoid(self, node: str, reason: str) -> None:
        if self._capacity.avoid(node, reason):
            self._actions.append(AvoidNode(node, reason))
            for one in [one for one in self._workers.values() if node in one.nodes]:
                self._stop(one)

    def _lose(self, node: str, reason: str, now: float) -> None:
        if not self._capacity.remove(node):
            return
        for one in [one for one in self._workers.values() if node in one.nodes]:
            blamed = one.items[0] if one.items else None
            self._stop(one, blamed)
            if blamed is not None:
                self._blame(blamed, (node,), reason, now, died=False)

    def _break(self, group: Group, reason: str) -> None:
        """The method cannot be loaded: all its items have failed, those to come too."""
        group.broken = reason
        delayed = [item for _, _, item in self._delayed if item in self._states and self._states[item].group is group]
        for item in [*group.drain(), *delayed]:
            self._end(item, Fail(item, reason))

    def _check_limits(self, one: Worker, now: float) -> None:
        group = one.group
        if not one.loaded:
            limit = group.key.load_limit
            if one.loading_since is not None and now - one.loading_since > limit:
                self._stop(one)
                group.load_timeouts += 1
                reason = f"not ready within {_minutes(limit)}; the process was ended"
                if group.load_timeouts >= LOAD_TRIES and not group.ever_loaded:
                    self._break(group, reason)
                else:
                    self._load_fault(group, one.nodes[0], reason, now)
        elif one.items and now - one.since > one.items[0].limit:
            item = one.items[0]
            self._stop(one, blamed=item)
            if item in self._states and not self._states[item].copies:
                self._end(item, Fail(item, f"no result within {_minutes(item.limit)}; the process was ended"))

    # Workers --------------------------------------------------------------------------------------------------------

    def _stop(self, one: Worker, blamed: Item | None = None) -> None:
        """End a worker; what it had goes back to the queue, except the blamed item."""
        del self._workers[one.number]
        del one.group.workers[one.number]
        one.group.loading -= not one.loaded
        self._capacity.give_back(one.group.key.need, one.place)
        self._look_for_room = True
        self._actions.append(StopWorker(one.number))
        for item in one.items:
            state = self._states.get(item)
            if state is not None:
                state.copies.discard(one.number)
                if item is not blamed and not state.copies:
                    self._enqueue(item)

    def _settle(self, now: float, *looked_at: Worker) -> list[Action]:
        """Start workers where there is room, and end those that nobody needs."""
        self._fill(now)
        for one in looked_at:
            if one.number not in self._workers:
                continue
            if not one.group.outstanding:
                for idle in [other for other in one.group.workers.values() if not other.items]:
                    self._stop(idle)
            elif one.loaded and not one.items and any(group is not one.group for group in self._starving):
                self._stop(one)
        self._fill(now)
        return self._flush()

    def _fill(self, now: float) -> None:
        if not self._look_for_room:
            return
        self._look_for_room = False
        wanting = [group for group in self._groups.values() if group.wants_another(now)]
        while wanting:
            wanting.sort(key=Group.urgency)
            if not any(self._start(group, now) for group in wanting):
                break
            wanting = [group for group in wanting if group.wants_another(now)]
        self._starving = wanting
        for group in wanting:
            self._check_room(group, now)

    def _start(self, group: Group, now: float) -> bool:
        rather_not = group.rather_not | (self._states[group.retried[0]].avoid if group.retried else set())
        place = self._capacity.take(group.key.need, rather_not)
        if place is None:
            return False
        one = Worker(next(self._numbers), group, place, now)
        self._workers[one.number] = group.workers[one.number] = one
        group.loading += 1
        group.no_room_since = None
        self._actions.append(StartWorker(one.number, group.key, one.nodes))
        return True

    def _check_room(self, group: Group, now: float) -> None:
        """What the nodes could never hold waits a while for others, and is then set aside."""
        need = group.key.need
        if group.workers or self._capacity.could_hold(need):
            group.no_room_since = None
            return
        since = group.no_room_since = now if group.no_room_since is None else group.no_room_since
        avoided = self._capacity.avoided()
        if avoided or now - since > ROOM_GRACE:
            lack = "no node is left with" if need.workers == 1 else f"no nodes are left for {need.workers} workers with"
            reason = "; ".join([f"{lack} {need.cpus:g} CPU and {need.gpus:g} GPU", *avoided])
            for item in group.drain():
                self._end(item, SetAside(item, reason))

    def _flush(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} minutes"
