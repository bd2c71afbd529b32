"""`score` as it is typed, on two folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """Label maps of an organ, 1, with a tumour, 2; predictions that hold the organ alone."""
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[2:9, 2:9, 2:9] = 1
    truth[4:7, 4:7, 4:7] = 2
    for folder, values in (("labels", truth), ("masks", (truth == 1).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        for case in ("a", "b"):
            nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / folder / f"{case}.nii.gz")
    return str(tmp_path / "masks"), str(tmp_path / "labels")


def test_masks_that_may_be_label_maps_are_noted_once(call: Callable[..., Any], folders: tuple[str, str]) -> None:
    done = call("score", *folders, "--label", "2", "--tolerance", "3")
    (note,) = [line for line in done.out.splitlines() if line.startswith("note: ")]
    assert note.endswith("label maps hold 1, too: --prediction-label 2 if these are label maps")
    assert "nsd@3mm" in done.out
    assert done.out.count("binary") == 1


def test_the_value_in_the_masks_can_be_said(call: Callable[..., Any], folders: tuple[str, str]) -> None:
    for value, of_label, dice in ((2, 2, 0.0), (1, 1, 1.0)):
        words = ("--label", str(of_label), "--prediction-label", str(value), "--json")
        assert [row["dice"] for row in json.loads(call("score", *folders, *words).out)] == [dice, dice]
