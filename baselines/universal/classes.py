"""Which of the Universal Model's 32 classes a target is (torch-free). Indices count from 0."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.lesion_words import Lesion, lesion_of, organ_of
from benchmarks.common.errors import UserError
from benchmarks.contestants import Target


@dataclass(frozen=True)
class Wanted:
    """Classes that make up a target.

    Attributes:
        classes: their union is the target.
        organ: classes of the organ that the official post-processing confines the target to; empty for none.
        organs: how many connected components of the organ count there.
    """

    classes: tuple[int, ...]
    organ: tuple[int, ...] = ()
    organs: int = 0


KIDNEYS, LIVER = (1, 2), (5,)
ORGANS = {
    "spleen": Wanted((0,), organs=1),
    "kidney": Wanted(KIDNEYS, organs=2),
    "liver": Wanted(LIVER, organs=1),
    "pancreas": Wanted((10,), organs=1),
    "colon": Wanted((17,), organs=1),
}
TUMOURS = {
    "kidney": Wanted((25,), KIDNEYS, 2),
    "liver": Wanted((26,), LIVER, 1),
    "pancreas": Wanted((27,)),
    "hepatic vessel": Wanted((28,)),
    "lung": Wanted((29,)),
    "colon": Wanted((30,)),
}
CYSTS = {"kidney": Wanted((31,))}
TABLES = {Lesion.NONE: ORGANS, Lesion.TUMOUR: TUMOURS, Lesion.CYST: CYSTS}


def wanted(target: Target) -> Wanted:
    """The classes of a target, by its organ and lesion in plain words.

    Raises:
        UserError: the model has no such class.
    """
    organ, table = organ_of(target), TABLES.get(lesion_of(target), {})
    if organ not in table:
        asked = target.text
        known = [f"{name} tumor" for name in TUMOURS] + [f"{name} cyst" for name in CYSTS] + list(ORGANS)
        raise UserError(f"the Universal Model has no class for target '{asked}'; it knows: {', '.join(known)}")
    return table[organ]
