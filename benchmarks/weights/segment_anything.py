"""Facts of the files of Segment Anything, which several contestants read.

Sizes and SHA-256: Git LFS pointers of huggingface.co/mashb1t/misc (commit 78e1813, all three files); the same
SHA-256 stand in micro-sam's `util.py` (github.com/computational-cell-analytics/micro-sam).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.weight_file import WeightFile

PAGE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything/"

FILES = {
    "vit-b": (
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit-l": (
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit-h": (
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}
"""Size of SAM's encoder → name, bytes and SHA-256 of its file."""

GRID = (64, 64)  # rows and columns of a released encoder's table of positions
_WIDTHS = {768: "SAM-B", 1024: "SAM-L", 1280: "SAM-H"}


def sam_of(positions: Sequence[int]) -> str | None:
    """Which SAM an encoder is, by the channels in the shape of its table of positions (…, channels); None for none."""
    return _WIDTHS.get(positions[-1]) if positions else None


def sam_file(size: str, setting: str, check: str) -> WeightFile:
    """SAM's file of "vit-b", "vit-l" or "vit-h", announced by a method; `setting` and `check` as in `WeightFile`."""
    name, length, sha256 = FILES[size]
    return WeightFile(
        name=name,
        page=PAGE,
        licence="Apache-2.0",
        url=ADDRESS + name,
        bytes=length,
        checksum=f"sha256:{sha256}",
        setting=setting,
        system=f"SAM-{size[-1].upper()}",
        check=check,
        stand_in="benchmarks.weights.segment_anything:write_stand_in",
    )


def write_stand_in(path: Path, system: str) -> None:
    """A file in the layout of `system` ("SAM-B", "SAM-L" or "SAM-H") with weights by a rule: a bare state dict."""
    import torch
    from segment_anything.build_sam import sam_model_registry

    from benchmarks.weights.stand_ins import by_rule

    with torch.device("meta"):
        state = sam_model_registry[f"vit_{system[-1].lower()}"]().state_dict()
    torch.save(by_rule(state), path)
