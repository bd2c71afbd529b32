"""SAM-Med2D, slice by slice."""
