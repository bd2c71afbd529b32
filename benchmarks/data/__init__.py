"""Volumes, datasets in their official layouts, splits, phantoms, the cache of prepared volumes."""
