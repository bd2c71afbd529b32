"""What the scheduler keeps of the items that have come to no end, of the workers, and of the groups of both."""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass, field

from benchmarks.execution.capacity import Place
from benchmarks.execution.orders import Item, Key

STRAGGLER, STRAGGLER_MIN_SECONDS, STRAGGLER_SAMPLE = 3.0, 5.0, 20
RATES_KEPT = 1000
USUAL_LOAD_SECONDS = 10.0


@dataclass
class ItemState:
    """Of an item that has come to no end yet."""

    group: Group
    copies: set[int] = field(default_factory=set)
    faults: int = 0
    deaths: int = 0
    avoid: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)  # nodes on which it ended a process
    patient_until: float = 0.0


@dataclass
class Worker:
    """A process, from its start to its end."""

    number: int
    group: Group
    place: Place
    started: float
    loading_since: float | None = None
    loaded: bool = False
    items: deque[Item] = field(default_factory=deque)  # the first one is being computed
    since: float = 0.0  # when it began
    withdrawing: Item | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.place.nodes


class Group:
    """The items and workers of one key."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.workers: dict[int, Worker] = {}
        self.loading = 0
        self.queues: dict[str, list[tuple[float, int, Item]]] = {}  # by the node that reads the case
        self.retried: deque[Item] = deque()
        self.waiting = 0  # in the queues
        self.outstanding = 0  # waiting, computed, or about to be retried
        self.length = 0.0  # of all that is outstanding
        self.load_seconds = USUAL_LOAD_SECONDS
        self.ever_loaded = False
        self.load_faults = self.load_timeouts = self.load_deaths = 0
        self.broken = ""  # why the method cannot be loaded
        self.not_before = 0.0  # no worker is started earlier: the last one met a fault while it was loaded
        self.rather_not: set[str] = set()  # nodes on which it did
        self.no_room_since: float | None = None
        self._seconds = self._lengths = 0.0
        self._rates: list[float] = []  # seconds per length, sorted

    def count(self, item: Item, change: int) -> None:
        self.outstanding += change
        self.length += change * item.length

    def note(self, item: Item, seconds: float) -> None:
        self._seconds += seconds
        self._lengths += item.length
        if len(self._rates) < RATES_KEPT:
            insort(self._rates, seconds / item.length)

    def remaining_seconds(self) -> float:
        return self.length * self._seconds / self._lengths if self._lengths else float("inf")

    def straggles_after(self, item: Item) -> float:
        """Seconds after which an item takes far longer than usual."""
        if len(self._rates) < STRAGGLER_SAMPLE:
            return float("inf")
        usual = self._rates[int(0.95 * (len(self._rates) - 1))] * item.length
        return max(STRAGGLER * usual, STRAGGLER_MIN_SECONDS)

    def wants_another(self, now: float) -> bool:
        """Whether one more worker would have something to do once it is ready."""
        if self.waiting <= self.loading or now < self.not_before:
            return False
        return not self.workers or self.remaining_seconds() / len(self.workers) > self.load_seconds

    def urgency(self) -> tuple[bool, bool, float, float]:
        """Sorts groups: trainings, then those without a worker, then the most work per worker."""
        share = len(self.workers) + 1
        return not self.key.first, bool(self.workers), -self.remaining_seconds() / share, -self.waiting / share

    def drain(self) -> list[Item]:
        items = [*self.retried, *(item for queue in self.queues.values() for _, _, item in queue)]
        self.retried.clear()
        self.queues.clear()
        self.waiting = 0
        return items
