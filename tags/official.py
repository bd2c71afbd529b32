"""The official files under TAGS: SAM's encoders and CLIP's towers. Importing this loads no torch."""

from __future__ import annotations

from benchmarks.common.weight_file import WeightFile

SAM_PAGE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
CLIP_NOTE = (
    "CLIP: without the file, open_clip fetches the same weights by itself at the first use, into the cache of "
    "huggingface_hub; with it no network is needed. The licence is that of openai/CLIP."
)


def _sam(name: str, system: str, size: int, sha256: str) -> WeightFile:
    return WeightFile(
        name=name,
        page=SAM_PAGE,
        licence="Apache-2.0",
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{name}",
        bytes=size,
        checksum=f"sha256:{sha256}",
        setting="sam_weights",
        system=system,
        check="tags.weights:sam_file_problem",
    )


# Sizes and SHA-256: Git LFS pointers of huggingface.co/mashb1t/misc (commit 78e1813, all three files); the same
# SHA-256 stand in micro-sam's `util.py` (github.com/computational-cell-analytics/micro-sam).
SAM_FILES = {
    "vit-b": _sam(
        "sam_vit_b_01ec64.pth", "SAM-B", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit-l": _sam(
        "sam_vit_l_0b3195.pth",
        "SAM-L",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit-h": _sam(
        "sam_vit_h_4b8939.pth",
        "SAM-H",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}


def _clip(name: str, system: str, repository: str, revision: str, size: int | None, sha256: str) -> WeightFile:
    return WeightFile(
        name=name,
        page=f"https://huggingface.co/{repository}",
        licence="MIT",
        url=f"https://huggingface.co/{repository}/resolve/{revision}/open_clip_model.safetensors",
        bytes=size,
        checksum=f"sha256:{sha256}",
        upstream="open_clip_model.safetensors",
        note=CLIP_NOTE,
        setting="clip_weights",
        optional=True,
        system=system,
        check="tags.weights:clip_file_problem",
    )


# (open_clip name, pre-trained tag) → the file that open_clip itself takes for them (`open_clip/pretrained.py`), in
# safetensors and not as OpenAI's TorchScript archive, which cannot be read without running it. Size and SHA-256:
# public records of experiments that name this repository and file, several for each and all in agreement.
CLIP_FILES = {
    ("ViT-B-16-quickgelu", "openai"): _clip(
        "clip_vit_b_16_openai.safetensors",
        "ViT-B-16-quickgelu",
        "timm/vit_base_patch16_clip_224.openai",
        "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
        598_516_980,
        "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
    ),
    ("ViT-L-14-quickgelu", "openai"): _clip(
        "clip_vit_l_14_openai.safetensors",
        "ViT-L-14-quickgelu",
        "timm/vit_large_patch14_clip_224.openai",
        "main",
        None,
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
    ),
}


def files_of(size: str, clip: str, clip_weights: str) -> tuple[WeightFile, ...]:
    """The official files of a size of TAGS; none for a size whose towers are made here."""
    known = (SAM_FILES.get(size), CLIP_FILES.get((clip, clip_weights)))
    return tuple(file for file in known if file is not None)
