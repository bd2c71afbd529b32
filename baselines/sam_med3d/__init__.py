"""SAM-Med3D on one crop."""
