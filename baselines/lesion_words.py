"""Plain words for the lesion of a target, for systems that have classes for lesions (torch-free)."""

from __future__ import annotations

TUMOUR_WORDS = frozenset({"tumor", "tumour", "tumors", "tumours", "cancer", "lesion", "lesions", "carcinoma"})
CYST_WORDS = frozenset({"cyst", "cysts"})
