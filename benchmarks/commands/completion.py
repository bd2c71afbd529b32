"""Names for the completion of the shell. It waits for them at every key: nothing heavy is loaded."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import typer

from benchmarks.execution.embedded import embedded_suites, suite_text

METHODS = "tags_bench.methods"
"""Group of entry points; the same as `benchmarks.contestants` reads."""


def suite_names(incomplete: str) -> list[str]:
    """Embedded suites."""
    return [name for name in embedded_suites() if name.startswith(incomplete)]


def method_names(incomplete: str) -> list[str]:
    """Installed methods; after a comma, those that are not in the list yet."""
    before, comma, begun = incomplete.rpartition(",")
    installed = sorted(entry.name for entry in entry_points(group=METHODS))
    fresh = [name for name in installed if name.startswith(begun) and name not in before.split(",")]
    return [f"{before}{comma}{name}" for name in fresh]


def dataset_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Datasets of the suite that the line names, or of the default one."""
    import yaml

    suite = str(ctx.params.get("suite") or "phantom")
    if suite in embedded_suites():
        text = suite_text(suite)
    elif Path(suite).is_file():
        text = Path(suite).read_text(encoding="utf-8")
    else:
        return []
    try:
        names = [str(entry["name"]) for entry in yaml.safe_load(text)["datasets"]]
    except (yaml.YAMLError, KeyError, TypeError):
        return []  # the command itself says what is wrong with the file
    return [name for name in names if name.startswith(incomplete)]


def added_names(incomplete: str) -> list[str]:
    """Datasets of this machine."""
    from benchmarks.data.registry import registrations

    return [name for name in registrations() if name.startswith(incomplete)]
