"""Datasets: one file per official layout, splits, verification, and phantoms that imitate those layouts."""
