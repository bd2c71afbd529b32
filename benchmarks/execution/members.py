"""What the methods of a suite stand for: installed ones, masks made elsewhere, and repeats of what learns."""

from __future__ import annotations

from benchmarks.contestants import Method
from benchmarks.contestants import method as find_method
from benchmarks.execution.datasets import learns
from benchmarks.execution.given_masks import masks_method
from benchmarks.execution.suite import MethodEntry, Suite


def method_of(entry: MethodEntry) -> Method:
    """What an entry of a suite stands for. Raises UserError for an unknown name or setting, or a wrong one."""
    if entry.kind == "masks":
        return masks_method(entry.name)
    method = find_method(entry.name)
    method.checked(entry.config)
    return method


def members(suite: Suite) -> list[MethodEntry]:
    """The methods of a suite; one that learns stands there once for each of its trainings. A floor draws no luck."""
    found = []
    for entry in suite.methods:
        again = learns(entry) and not entry.untrained and not method_of(entry).floor
        times = (entry.repeats or suite.repeats) if again else 1
        for turn in range(times):
            label = f"{entry.label or entry.name} (repeat {turn + 1})" if turn else entry.label
            found.append(entry.model_copy(update={"label": label, "repeat": entry.repeat + turn}))
    return found
