"""SAM-Med2D computes what the public code computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baselines.sam_med2d.method import sam_med2d
from tests.parity.rule import Golden
from tests.parity.sam_parity import check_all, write_official


@pytest.mark.slow
def test_sam_med2d(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    data = golden("sam_med2d")
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])  # the official file holds the object itself
    content = {"model": data.state_dict(), "optimizer": optimiser}
    path = write_official(content, tmp_path, "sam-med2d_b.pth")
    segmenter = sam_med2d.build({"checkpoint": str(path)})
    path.unlink()
    check_all(data, segmenter.module, {"c": "a"})
