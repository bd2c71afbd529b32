"""What one session is for: a target, or one lesion of it, with the user who prompts for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.prompting.components import BoolArray, split_lesions
from benchmarks.prompting.protocol import Protocol
from benchmarks.prompting.simulated_user import SimulatedUser


@dataclass(frozen=True)
class Task:
    """What one session is for: the whole target, or one lesion of it, and the user who prompts for it.

    Attributes:
        lesion: None for the whole target, otherwise 0 for the largest lesion, and so on.
        voxels: how many the task's mask has.
    """

    user: SimulatedUser
    lesion: int | None
    voxels: int
    mask: Callable[[], BoolArray] = field(repr=False)


def tasks_of(protocol: Protocol, seed_parts: tuple[object, ...], target_mask: BoolArray) -> list[Task]:
    """The tasks that a protocol makes of a target: one, or one for each lesion; none if there is no lesion then.

    Args:
        seed_parts: (suite seed, dataset, case, target). Each lesion's user draws from (…, "lesion", number, round),
            so its clicks do not depend on how the method fared at another lesion.
    """
    if protocol.per != "each-lesion":
        whole = SimulatedUser(protocol, seed_parts)
        return [Task(whole, None, int(np.count_nonzero(target_mask)), lambda: target_mask)]
    return [
        Task(SimulatedUser(protocol, (*seed_parts, "lesion", number)), number, lesion.voxels, lesion.whole)
        for number, lesion in enumerate(split_lesions(target_mask))
    ]
