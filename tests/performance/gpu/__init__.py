"""What TAGS costs on a GPU; run as `python -m tests.performance.gpu`."""
