"""What VISTA3D has learned of a target (torch-free): its point head is told whether a class, and not which one.

Classes: `channel_def` in the bundle's configs/metadata.json. Its docs/README.md lists those that it does not support,
the kidney mass among them, and how a new one is asked for. Marked clicks: `special_index` in MONAI's
networks/nets/vista3d.py.
"""

from __future__ import annotations

from enum import Enum

from baselines.lesion_words import Lesion, lesion_of, organ_of
from benchmarks.contestants import Target

TUMOURS = frozenset({"liver", "pancreas", "colon", "lung", "bone"})  # organs whose tumours or lesions are a class
CYSTS = frozenset({"kidney"})


class Kind(Enum):
    """How the clicks on a target are to be understood."""

    TUMOUR = "a class whose clicks are marked, since it lies within another"
    PLAIN = "any other class"
    NEW = "no class: what it is follows from the clicks alone"


def kind_of(target: Target) -> Kind:
    """By organ and lesion in plain words. Without an organ nothing says that it is no tumour that VISTA3D knows."""
    organ, lesion = organ_of(target), lesion_of(target)
    if not organ or (organ in TUMOURS and lesion is Lesion.TUMOUR):
        return Kind.TUMOUR
    if lesion is Lesion.NONE or (organ in CYSTS and lesion is Lesion.CYST):
        return Kind.PLAIN
    return Kind.NEW
