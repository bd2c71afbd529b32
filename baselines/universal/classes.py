"""Which of the Universal Model's 32 classes a target is (torch-free). Indices count from 0."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.lesion_words import CYST_WORDS, TUMOUR_WORDS
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


def wanted(target: Target) -> Wanted:
    """The classes of a target, by its organ and lesion in plain words.

    Raises:
        UserError: the model has no such class.
    """
    organ, lesion = target.organ.strip().lower(), target.lesion.strip().lower()
    table = ORGANS if not lesion else TUMOURS if lesion in TUMOUR_WORDS else CYSTS if lesion in CYST_WORDS else {}
    if organ not in table:
        asked = f"{organ} {lesion}".strip() or target.name
        known = [f"{name} tumor" for name in TUMOURS] + [f"{name} cyst" for name in CYSTS] + list(ORGANS)
        raise UserError(f"the Universal Model has no class for target '{asked}'; it knows: {', '.join(known)}")
    return table[organ]
