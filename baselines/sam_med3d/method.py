"""SAM-Med3D, announced to the bench (torch-free)."""

from __future__ import annotations

from baselines.announcement import TRAINING, TinySize, network_settings, network_space, official_file
from benchmarks.contestants import Card, Method, PromptKind

_PROMPTS = frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK})
_CONFIG = network_settings("decoder", 8e-5, spacing=1.5, clamp=True, training_rounds=2)
_KNOBS = {"training_rounds": ["randint", 1, 6]}

# SHA-256: the file's page on Hugging Face (version of September 2024); size: public records that give both.
_FILE = official_file(
    name="sam_med3d_turbo.pth",
    page="https://huggingface.co/blueyo0/SAM-Med3D/blob/main/sam_med3d_turbo.pth",
    licence="Apache-2.0",
    url="https://huggingface.co/blueyo0/SAM-Med3D/resolve/main/sam_med3d_turbo.pth",
    bytes=402_163_626,
    checksum="sha256:899a46d04d3b70f723282ceb489149373558bf0aaba389a346f5ab57da5cdd3c",
    system="SAM-Med3D",
    stand_in="baselines.sam_med3d.stand_in:write",
)

sam_med3d = Method(
    name="sam-med3d",
    summary="SAM-Med3D (turbo) on a crop around the click; needs the official file",
    factory="baselines.sam_med3d.segmenter:SamMed3D",
    prompts=_PROMPTS,
    training="bench",
    version="3",
    needs_checkpoint=True,
    files=(_FILE,),
    config=_CONFIG,
    inference_settings=("precision",),
    later_settings=(*TRAINING, "training_rounds"),
    search_space=network_space(_CONFIG, "decoder", **_KNOBS),
    card=Card(
        title="SAM-Med3D (turbo)",
        paper="Wang et al., SAM-Med3D, arXiv 2310.15161",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        parameters="100.5 M",
        training_data={"kits21": "superset", "lits17": "superset", "msd-pancreas": "superset", "msd-colon": "superset"},
        notes=(
            "The authors' list of the 44 public sets behind the turbo weights names KiTS, KiTS2021, LiTS, MSD "
            "Pancreas, MSD Colon and MSD Liver, split in a way of their own; the training cases are not stated. "
            "The crop is centred on the first click, as in one of upstream's training modes; upstream evaluates with "
            "crops centred on the label. See docs/methods/sam-med3d.md."
        ),
    ),
)

sam_med3d_tiny = TinySize(
    name="sam-med3d-tiny",
    system="SAM-Med3D",
    paper="arXiv 2310.15161",
    page="sam-med3d",
    parameters="0.3 M",
    knobs=_KNOBS,
    version="4",
    zoo_steps=3000,
    config={"spacing": 2.25, "train": "all", "learning_rate": 2e-3},
).of(sam_med3d)
