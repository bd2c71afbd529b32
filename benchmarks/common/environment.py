"""Where and with what a number was made: code revision, packages, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("tags-bench", "torch", "ray", "mlflow", "monai", "nnunetv2", "segment-anything", "open_clip_torch",
            "optuna", "numpy", "scipy", "pandas", "SimpleITK", "nibabel")  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of what results depend on; "missing" where a package is not installed. Imports none of them."""
    return {name: _version(name) for name in PACKAGES}


@lru_cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


@lru_cache(maxsize=1)
def revision() -> tuple[str, bool]:
    """Git commit of this code and whether the tree had uncommitted changes; ("unknown", False) outside git.

    Where there is no repository, as in a container, TAGS_BENCH_COMMIT may name the commit.
    """
    here = Path(__file__).resolve().parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        dirty = bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        # An installed wheel has no repository around it.
        return os.environ.get("TAGS_BENCH_COMMIT", "").strip() or "unknown", False
    return commit, dirty


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def manifest() -> dict[str, Any]:
    """The environment as one JSON-like mapping, stored with every run."""
    commit, dirty = revision()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "created_at": now(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": package_versions(),
    }


def now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
