"""The learner, where an old version of a package is; whoever imports it must be in its environment."""

from __future__ import annotations

import einops
from learner import build

if einops.__version__ != "0.0.1":
    raise ImportError(f"einops 0.0.1 is needed, this is {einops.__version__}")

__all__ = ["build"]
