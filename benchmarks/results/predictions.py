"""Where the masks of a run lie: one folder for each unit, in it one for each case, in it a file for each step.

    predictions/<suite>/<dataset>/<method>-<digest>/<case>/<target>.<protocol>.<step>.nii.gz    the mask
    …/<target>.<protocol>.<step>.json    its prompts and facts; the only file of a step that kept the mask before it

A unit's description says which folder is its own ("predictions", from the output folder on).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.common.files import safe_name


def step_stem(folder: Path, case_id: str, target: str, protocol: str, step: int) -> Path:
    """Where mask and facts of a step are kept, without suffix; `folder` is that of the unit."""
    return folder / safe_name(case_id) / f"{safe_name(f'{target}.{protocol}')}.{step}"


def mask_file(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.nii.gz")


def facts_file(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")
