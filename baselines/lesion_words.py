"""What the plain words of a target mean, for systems that have classes for lesions (torch-free)."""

from __future__ import annotations

import re
from enum import Enum

from benchmarks.contestants import Target

TUMOUR_WORDS = frozenset({"tumor", "tumour", "tumors", "tumours", "cancer", "lesion", "lesions", "carcinoma"})
CYST_WORDS = frozenset({"cyst", "cysts"})
METASTASIS_WORDS = frozenset({"metastasis", "metastases"})
WITH_METASTASES = frozenset({"liver"})
"""Organs whose class for tumours has learned secondary ones, too: LiTS holds both (arXiv 1901.04056, abstract)."""


class Lesion(Enum):
    """What a target is of its organ."""

    NONE = "the organ itself"
    TUMOUR = "its tumours"
    CYST = "its cysts"
    OTHER = "something else"


def organ_of(target: Target) -> str:
    """The organ in small letters."""
    return target.organ.strip().lower()


def lesion_of(target: Target) -> Lesion:
    """By the lesion in plain words, however spelt: "tumor", "liver_tumor" and "liver tumor" of a liver are one."""
    organ, said = set(_words(target.organ)), _words(target.lesion)
    words = {word for word in said if word not in organ} or set(said)
    if not words:
        return Lesion.NONE
    tumours = TUMOUR_WORDS | METASTASIS_WORDS if organ_of(target) in WITH_METASTASES else TUMOUR_WORDS
    if words <= tumours:
        return Lesion.TUMOUR
    return Lesion.CYST if words <= CYST_WORDS else Lesion.OTHER


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s_-]+", text.lower()) if word]
