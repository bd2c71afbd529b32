"""SAM 2 and MedSAM2, announced to the bench (torch-free)."""

from __future__ import annotations

from dataclasses import replace

from baselines.announcement import official_file
from benchmarks.contestants import Card, Environment, Method, PromptKind

_PROMPTS = frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.BOX})

# The package is a copy of the authors' code by somebody else; the version is pinned because its Python files and the
# configurations of SAM 2.1 were compared with commit 2b90b9f of github.com/facebookresearch/sam2: they are the same.
# It is built from source; isolated, pip would fetch another torch for that, where the bench's own does.
_ENVIRONMENT = Environment(pip=("--no-build-isolation", "sam2==1.1.0"))

# Address: the table in the README of github.com/facebookresearch/sam2. No checksum is published there.
_SAM2_FILE = official_file(
    name="sam2.1_hiera_large.pt",
    page="https://github.com/facebookresearch/sam2#sam-21-checkpoints",
    licence="Apache-2.0",
    url="https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_large.pt",
    system="SAM 2",
    stand_in="baselines.sam2.stand_in:write_sam2",
)

# Address: checkpoints/download_medsam2_models.py of github.com/bowang-lab/MedSAM2.
_MEDSAM2_FILE = official_file(
    name="MedSAM2_latest.pt",
    page="https://huggingface.co/wanglab/MedSAM2",
    licence="CC BY-SA 4.0; by its authors for research and education only",
    url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_latest.pt",
    system="SAM 2",
    restricted=True,
    stand_in="baselines.sam2.stand_in:write_medsam2",
)

sam2 = Method(
    name="sam2",
    summary="SAM 2.1 (large): the lesion is followed through the slices from a click or a box; needs the official file",
    factory="baselines.sam2.segmenter:Sam2",
    prompts=_PROMPTS,
    needs_checkpoint=True,
    files=(_SAM2_FILE,),
    environment=_ENVIRONMENT,
    config={"checkpoint": None, "size": "large", "image_size": 1024, "reach": 150.0, "precision": "auto"},
    card=Card(
        title="SAM 2.1, large",
        paper="Ravi et al., SAM 2: Segment Anything in Images and Videos, arXiv 2408.00714",
        code_licence="Apache-2.0 (package sam2)",
        weights_licence="Apache-2.0",
        parameters="224.4 M",
        training_data={"*": "unseen"},
        notes="Trained on photographs and films, not on scans. See docs/methods/sam2.md.",
    ),
)

medsam2 = replace(
    sam2,
    name="medsam2",
    summary="MedSAM2: SAM 2.1 (tiny, 512²) trained on medical scans, used like sam2; needs the official file",
    files=(_MEDSAM2_FILE,),
    config={**sam2.config, "size": "tiny", "image_size": 512},
    card=Card(
        title="MedSAM2",
        paper="Ma et al., MedSAM2: Segment Anything in 3D Medical Images and Videos, arXiv 2504.03600",
        code_licence="Apache-2.0 (package sam2)",
        weights_licence="CC BY-SA 4.0; by its authors for research and education only",
        parameters="38.9 M",
        training_data={"kits21": "superset", "lits17": "superset", "msd-pancreas": "superset", "msd-colon": "superset"},
        notes=(
            "Trained with boxes on more than 455,000 pairs of scans and masks from public sets, CT lesions among "
            "them; which cases is not stated in a form that can be checked here, so every public set counts as "
            "superset. A click as its only prompt is not what it was trained with. See docs/methods/sam2.md."
        ),
    ),
)
