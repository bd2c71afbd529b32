"""Official weights files: listed, fetched, verified."""
