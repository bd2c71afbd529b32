"""The scripts of docs/, which are no package: read as they are run, from their own folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    """docs/NAME.py as a module."""
    with patch.object(sys, "path", [str(ROOT / "docs"), *sys.path]):
        return importlib.import_module(name)
