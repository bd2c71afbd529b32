"""Nodes that join while the work goes on, a node that was left out and comes back under another name among them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import SimpleQueue

from benchmarks.common.errors import one_line
from benchmarks.execution.orders import Node
from benchmarks.execution.preflight import Host

logger = logging.getLogger("tags_bench")


class Newcomers:
    """Looks at them as at the nodes that were there before the work, and lets in those that are fit.

    A node may need a minute to answer: each look has a thread of its own, and the work goes on meanwhile.

    Args:
        known: names of the nodes of before the work, about which it is decided elsewhere.
        look: what is found on nodes, name → Ray's id.
    """

    def __init__(self, known: Iterable[str], look: Callable[[Mapping[str, str]], Sequence[Host]]) -> None:
        self._look = look
        self._admitted = set(known)
        self._seen = set(self._admitted)
        self._answers: SimpleQueue[Host] = SimpleQueue()

    def admitted(self, nodes: Iterable[Node], ids: Mapping[str, str]) -> list[Node]:
        """The nodes that may be used; a look at those that were never seen is begun.

        Args:
            ids: name → Ray's id.
        """
        nodes = list(nodes)
        self._take_answers()
        new = {node.name: ids[node.name] for node in nodes if node.name in ids and node.name not in self._seen}
        if new:
            self._seen.update(new)
            threading.Thread(target=self._ask, args=(new,), name="newcomers", daemon=True).start()
        return [node for node in nodes if node.name in self._admitted]

    def _take_answers(self) -> None:
        while not self._answers.empty():
            host = self._answers.get()
            if host.problems:
                logger.warning("%s has joined and is left alone: %s", host.node, "; ".join(host.problems))
            else:
                self._admitted.add(host.node)

    def _ask(self, new: Mapping[str, str]) -> None:
        try:
            hosts = self._look(new)
        except Exception as error:  # whatever Ray and the disk raise; nobody waits for this thread
            hosts = [Host(name, problems=(f"cannot be looked at: {one_line(error, 200)}",)) for name in new]
        for host in hosts:
            self._answers.put(host)
