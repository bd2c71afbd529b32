"""The suites that come with the package, as text: their names must be at hand before anything heavy is loaded."""

from __future__ import annotations

from importlib.resources import files

SUITE_FOLDER = files("benchmarks") / "suites"


def embedded_suites() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in SUITE_FOLDER.iterdir() if entry.name.endswith(".yaml"))


def suite_text(name: str) -> str:
    """The YAML of an embedded suite."""
    return (SUITE_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
