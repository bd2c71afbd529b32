"""Datasets: one file per official layout, splits, verification, and the phantoms that imitate those layouts."""
