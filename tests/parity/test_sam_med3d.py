"""SAM-Med3D computes what the public code computes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from baselines.sam_med3d.method import sam_med3d
from tests.parity.rule import Golden
from tests.parity.sam_parity import ZEROS, check_all, write_official


@pytest.mark.slow
def test_sam_med3d(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    data = golden("sam_med3d")
    content = {
        "model_state_dict": data.state_dict(),
        "epoch": 1,
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "lr_scheduler_state_dict": {},
        "losses": [0.5],
        "dices": [0.5],
        "best_loss": 0.5,
        "best_dice": 0.5,
        "args": argparse.Namespace(img_size=128),
        "used_datas": "a collection",
    }
    path = write_official(content, tmp_path, "sam_med3d_turbo.pth")
    segmenter = sam_med3d.build({"checkpoint": str(path)})
    path.unlink()
    check_all(data, segmenter.module, {"a": ZEROS, "b": "a"})
