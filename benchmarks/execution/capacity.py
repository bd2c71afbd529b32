"""What the machines of a cluster hold, and which of them are left alone. Without Ray and without a clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from benchmarks.execution.orders import Need, Node

NODE_STRIKES, STRIKE_PAUSE = 3, 5.0  # faults in a row; those of one moment count once
TINY = 1e-9


@dataclass(frozen=True)
class Place:
    """Where a worker sits: its nodes, and the share of each GPU of them that it has taken."""

    nodes: tuple[str, ...]
    devices: tuple[tuple[float, ...], ...]


class _Machine:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.cpus, self.gpus = node.cpus, [1.0] * int(node.gpus)  # free
        self.strikes, self.struck = 0, float("-inf")
        self.avoided = ""  # why it is left alone

    def holds(self, need: Need) -> bool:
        if self.cpus + TINY < need.cpus:
            return False
        if need.gpus < 1:
            return need.gpus == 0 or max(self.gpus, default=0.0) + TINY >= need.gpus
        return len(self._whole()) >= need.gpus

    def take(self, need: Need) -> tuple[float, ...]:
        """Occupy it; a share of a GPU goes to the fullest that holds it, so that whole ones stay whole."""
        self.cpus -= need.cpus
        taken = [0.0] * len(self.gpus)
        if 0 < need.gpus < 1:
            fitting = [device for device, free in enumerate(self.gpus) if free + TINY >= need.gpus]
            taken[min(fitting, key=lambda device: self.gpus[device])] = need.gpus
        else:
            for device in self._whole()[: int(need.gpus)]:
                taken[device] = 1.0
        self.gpus = [free - share for free, share in zip(self.gpus, taken, strict=True)]
        return tuple(taken)

    def give_back(self, need: Need, taken: tuple[float, ...]) -> None:
        self.cpus += need.cpus
        self.gpus = [free + share for free, share in zip(self.gpus, taken, strict=True)]

    def _whole(self) -> list[int]:
        return [device for device, free in enumerate(self.gpus) if free > 1 - TINY]


class Capacity:
    """The machines by name, with what is free on them."""

    def __init__(self) -> None:
        self._machines: dict[str, _Machine] = {}

    @property
    def names(self) -> list[str]:
        return sorted(self._machines)

    def add(self, node: Node) -> bool:
        """Use a node from now on; False if it is used already."""
        if node.name in self._machines:
            return False
        self._machines[node.name] = _Machine(node)
        return True

    def remove(self, name: str) -> bool:
        """The node is gone; False if it was not there."""
        return self._machines.pop(name, None) is not None

    def take(self, need: Need, rather_not: Collection[str] = ()) -> Place | None:
        """Room for one worker, on the emptiest node that has it; None if there is none now."""
        nodes: list[str] = []
        devices: list[tuple[float, ...]] = []
        for _ in range(need.workers):
            roomy = [one for one in self._usable() if one.holds(need)]
            if not roomy:
                self.give_back(need, Place(tuple(nodes), tuple(devices)))
                return None
            chosen = min(roomy, key=lambda one: (one.node.name in rather_not, -one.cpus))
            nodes.append(chosen.node.name)
            devices.append(chosen.take(need))
        return Place(tuple(nodes), tuple(devices))

    def give_back(self, need: Need, place: Place) -> None:
        """A worker is gone; nodes that are gone too are passed over."""
        for name, taken in zip(place.nodes, place.devices, strict=True):
            if name in self._machines:
                self._machines[name].give_back(need, taken)

    def could_hold(self, need: Need, without: Collection[str] = ()) -> bool:
        """Whether the usable nodes, were they empty, could hold a worker, all processes of it."""
        return fits((one.node for one in self._usable() if one.node.name not in without), need)

    def strike(self, name: str, now: float) -> bool:
        """Count a fault of a node; True if it is one too many in a row."""
        one = self._machines.get(name)
        if one is None or one.avoided or now - one.struck < STRIKE_PAUSE:
            return False
        one.struck, one.strikes = now, one.strikes + 1
        return one.strikes >= NODE_STRIKES

    def praise(self, name: str) -> None:
        """A result came from the node: its faults begin anew."""
        if name in self._machines:
            self._machines[name].strikes = 0

    def avoid(self, name: str, reason: str) -> bool:
        """Leave a node alone; False if it is not there or left alone already."""
        one = self._machines.get(name)
        if one is None or one.avoided:
            return False
        one.avoided = reason
        return True

    def avoided(self) -> list[str]:
        """Why nodes are left alone."""
        return sorted({one.avoided for one in self._machines.values() if one.avoided})

    def _usable(self) -> list[_Machine]:
        return [one for one in self._machines.values() if not one.avoided]


def fits(nodes: Iterable[Node], need: Need) -> bool:
    """Whether the nodes, all of them empty, could hold a worker."""
    whole = Capacity()
    for node in nodes:
        whole.add(node)
    return need.cpus * need.workers < float("inf") and need.workers < 1_000_000 and whole.take(need) is not None
