"""nnInteractive, run by its authors' package."""
