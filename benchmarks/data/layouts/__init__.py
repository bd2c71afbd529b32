"""One module per layout in which datasets are published."""
