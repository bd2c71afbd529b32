"""VISTA3D, announced to the bench (torch-free)."""

from __future__ import annotations

from baselines.announcement import official_file
from benchmarks.contestants import Card, Method, PromptKind

_LICENCE = "NVIDIA OneWay Noncommercial (NCLS v1): no commercial use"

_FILE = official_file(
    name="vista3d-model.pt",
    page="https://huggingface.co/MONAI/vista3d",
    licence=_LICENCE,
    upstream="models/model.pt",
    note=(
        "VISTA3D: model.pt of the MONAI bundle vista3d; `python -m monai.bundle download vista3d` brings the bundle, "
        "models/model.pt in it is the file."
    ),
    restricted=True,
    system="VISTA3D",
    stand_in="baselines.vista3d.stand_in:write",
)

vista3d = Method(
    name="vista3d",
    summary="VISTA3D with clicks, in windows around them (MONAI's classes and inferer); needs the official file",
    factory="baselines.vista3d.segmenter:Vista3D",
    prompts=frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK}),
    needs_checkpoint=True,
    files=(_FILE,),
    version="4",
    config={"checkpoint": None, "tumour_points": True, "precision": "auto"},
    card=Card(
        title="VISTA3D",
        paper="He et al., VISTA3D: A Unified Segmentation Foundation Model For 3D Medical Imaging, arXiv 2406.05285",
        code_licence="Apache-2.0 (MONAI)",
        weights_licence=_LICENCE,
        parameters="218 M",
        training_data={"kits21": "superset", "lits17": "superset", "msd-pancreas": "superset", "msd-colon": "superset"},
        notes=(
            "Trained on 11,454 scans of public and private sets; hepatic, pancreatic, colon and lung tumours are "
            "classes of its own, kidney tumours are not and are asked for as a new class. Its class prompts are not "
            "used here. See docs/methods/vista3d.md."
        ),
    ),
)
