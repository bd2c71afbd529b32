"""SAM-B computes what the public code computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from baselines.sam_b.method import sam_b
from tests.parity.rule import Golden
from tests.parity.sam_parity import check_all, write_official


@pytest.mark.slow
def test_sam_b(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    data = golden("sam_b")
    path = write_official(data.state_dict(), tmp_path, "sam_vit_b_01ec64.pth")
    segmenter = sam_b.build({"checkpoint": str(path)})
    path.unlink()
    check_all(data, segmenter.module, {"c": "a"})
