"""TAGS, 3D Tumor-Adaptive Guidance for SAM: an independent open implementation."""
