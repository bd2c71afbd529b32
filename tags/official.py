"""The official files under TAGS: SAM's encoders and CLIP's towers. Importing this loads no torch."""

from __future__ import annotations

from benchmarks.common.weight_file import WeightFile
from benchmarks.weights.segment_anything import FILES, sam_file

SAM_CHECK = "tags.weights:sam_file_problem"
CLIP_NOTE = (
    "CLIP: without the file, open_clip fetches the same weights by itself at the first use, into the cache of "
    "huggingface_hub; with it no network is needed. The licence is that of openai/CLIP."
)


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
        stand_in="tags.stand_in:write_clip",
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
    sam = sam_file(size, "sam_weights", SAM_CHECK) if size in FILES else None
    known = (sam, CLIP_FILES.get((clip, clip_weights)))
    return tuple(file for file in known if file is not None)
