"""The scheduler on clusters of 8 to 512 workers that exist on paper: a table and a figure for docs/scheduler.md.

    python -m tests.performance.scheduler_simulation --out docs/images/scheduler.svg
    python -m tests.performance.scheduler_simulation --largest          # a million cases, minutes of processor

The scheduler's code is the real one; Ray, the methods and the records are not there, and time is simulated. Durations
of cases are recorded: 264 cases of eleven methods on the embedded phantoms, each divided by the mean of its method, as
66 quantiles; they are scaled to a mean of five seconds. A worker loads in twenty.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.execution.orders import Commit, Item, Key, Need, Node
from tests.execution.simulation import Cluster

RECORDED = (
    0.09, 0.36, 0.42, 0.45, 0.5, 0.51, 0.51, 0.52, 0.53, 0.54, 0.55, 0.6, 0.68, 0.7, 0.73, 0.76, 0.76, 0.78,
    0.78, 0.79, 0.8, 0.8, 0.81, 0.82, 0.82, 0.83, 0.84, 0.85, 0.85, 0.86, 0.87, 0.88, 0.89, 0.9, 0.91, 0.92,
    0.92, 0.94, 0.95, 0.96, 1.0, 1.01, 1.04, 1.08, 1.12, 1.16, 1.17, 1.19, 1.19, 1.19, 1.2, 1.21, 1.23, 1.24,
    1.27, 1.32, 1.36, 1.37, 1.41, 1.49, 1.54, 1.62, 1.65, 1.69, 1.82, 2.96,
)  # fmt: skip
MEAN_SECONDS, LOAD_SECONDS = 5.0, 20.0
SLOTS_OF_A_NODE = 4
SCENES = ("undisturbed", "a node lost", "stragglers")
STRAGGLERS, SLOWER = 0.01, 10.0  # share of first attempts, and by how much
EVENTS = ("submit", "loading", "loaded", "finished", "withdrawn", "fault", "node_lost", "tick")


@dataclass(frozen=True)
class Outcome:
    """What came of one simulation.

    Attributes:
        hours: of simulated time, from the start to the last result.
        busy: share of the time of the slots that was work that counts, from the first worker that is ready on; of a
            lost node, until it was lost.
        driver_us: time of the scheduler's own code for each case, microseconds.
        memory_mb: most memory of this process so far.
    """

    scene: str
    slots: int
    cases: int
    keys: int
    hours: float
    busy: float
    driver_us: float
    memory_mb: float


def simulate(scene: str, slots: int, cases: int, keys: int = 1) -> Outcome:
    """Play one scene to its end."""
    dice = random.Random(slots + cases)
    lengths = [MEAN_SECONDS * dice.choice(RECORDED) for _ in range(cases)]
    slow = {number for number in range(cases) if scene == "stragglers" and dice.random() < STRAGGLERS}
    tried: set[int] = set()

    def seconds(item: Item, node: str) -> float:
        number: Any = item.work
        first = number not in tried
        tried.add(number)
        return lengths[number] * (SLOWER if first and number in slow else 1.0)

    nodes = [Node(f"n{place}", SLOTS_OF_A_NODE) for place in range(slots // SLOTS_OF_A_NODE)]
    cluster = Cluster(nodes, seconds=seconds, load_seconds=lambda key, node: LOAD_SECONDS)
    cluster.check_room = lambda: None  # type: ignore[attr-defined]
    spent = timed(cluster.scheduler)
    kinds = [Key(number, Need(1)) for number in range(keys)]
    # What is expected of a case is its size on disk, which tells the duration roughly.
    items = [
        Item(kinds[number % keys], number, length=lengths[number] * dice.uniform(0.7, 1.3), place=dice.getrandbits(32))
        for number in range(cases)
    ]
    lost_at = 0.0
    if scene == "a node lost":
        lost_at = LOAD_SECONDS + sum(lengths) / slots / 2
        cluster.lose(nodes[0].name, lost_at)
    cluster.submit(items)
    cluster.play()
    assert sum(isinstance(action, Commit) for action in cluster.ended.values()) == cases
    end = max(cluster.ended_at.values())
    capacity = slots * (end - LOAD_SECONDS) - (SLOTS_OF_A_NODE * (end - lost_at) if lost_at else 0.0)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    busy = sum(lengths) / capacity
    return Outcome(scene, slots, cases, keys, end / 3600, busy, 1e6 * spent[0] / cases, memory)


def timed(scheduler: Any) -> list[float]:
    """Count the seconds inside the scheduler from now on."""
    spent = [0.0]
    for name in EVENTS:
        event = getattr(scheduler, name)

        def counted(*arguments: Any, event: Any = event, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return event(*arguments, **options)
            finally:
                spent[0] += time.perf_counter() - started

        setattr(scheduler, name, counted)
    return spent


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""
    lines = ["| scene | workers | cases | keys | simulated time | slots busy | driver, µs a case | memory, MB |"]
    lines.append("| --- " * 8 + "|")
    for one in outcomes:
        lines.append(
            f"| {one.scene} | {one.slots} | {one.cases} | {one.keys} | {one.hours:.2f} h | {one.busy:.1%} | "
            f"{one.driver_us:.0f} | {one.memory_mb:.0f} |"
        )
    return "\n".join(lines)


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Share of busy slots over the number of workers, a line for each scene and number of cases."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for scene, style in zip(SCENES, ("-", "--", ":"), strict=True):
        for cases, colour in zip(sorted({one.cases for one in outcomes}), ("tab:orange", "tab:blue"), strict=False):
            line = [one for one in outcomes if (one.scene, one.cases) == (scene, cases)]
            if line:
                label = f"{cases} cases, {scene}"
                points = [one.slots for one in line], [100 * one.busy for one in line]
                axes.plot(*points, style, color=colour, marker="o", ms=3, label=label)
    axes.set_xscale("log", base=2)
    slots = sorted({one.slots for one in outcomes})
    axes.set_xticks(slots, [str(number) for number in slots])
    axes.set_xlabel("workers")
    axes.set_ylabel("slots busy (%)")
    axes.set_ylim(0, 102)
    axes.set_title("simulated: real scheduler, recorded durations of 5 s on average, no Ray", fontsize="small")
    axes.legend(fontsize="x-small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tags-bench"}):
        figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=None, help="SVG file of the figure")
    parser.add_argument("--largest", action="store_true", help="a million cases on 512 workers, too")
    options = parser.parse_args(arguments)
    sizes = [8, 16, 32, 64, 128, 256, 512]
    curves = [simulate(scene, slots, cases) for cases in (1_000, 10_000) for scene in SCENES for slots in sizes]
    large = [simulate("undisturbed", 64, 100_000), simulate("undisturbed", 512, 100_000, keys=64)]
    if options.largest:
        large.append(simulate("undisturbed", 512, 1_000_000, keys=64))
    print(table([*curves, *large]))
    if options.out:
        draw(curves, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
