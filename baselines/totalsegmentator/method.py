"""TotalSegmentator's tumour tasks, announced to the bench (torch-free)."""

from __future__ import annotations

from baselines.totalsegmentator.tasks import HEPATIC, LIVER, LUNG, Model, Task
from benchmarks.contestants import Card, Environment, Method, PromptKind, WeightFile

_LICENCE = "Apache-2.0, by its README"
_PAPER = "Wasserthal et al., TotalSegmentator, Radiology: Artificial Intelligence 5(5), doi:10.1148/ryai.230024"


def _file(model: Model, setting: str) -> WeightFile:
    """An archive of the project's releases; neither size nor checksum is published beside them."""
    return WeightFile(
        name=model.file,
        page=model.page,
        licence=_LICENCE,
        url=model.url,
        upstream=f"{model.dataset}.zip",
        setting=setting,
        system=model.dataset,
        check="baselines.totalsegmentator.archive:archive_problem",
        stand_in="baselines.totalsegmentator.stand_in:write",
    )


def _method(name: str, task: Task, title: str, learned_from: str, paper: str) -> Method:
    files = (_file(task.model, "checkpoint"), _file(task.organs, "organs"))
    return Method(
        name=name,
        summary=f"TotalSegmentator, task {task.name} (package TotalSegmentator); automatic; needs the official files",
        factory=f"baselines.totalsegmentator.segmenter:build_{task.name}",
        prompts=frozenset({PromptKind.NONE}),
        needs_checkpoint=True,
        files=files,
        environment=Environment(pip=("TotalSegmentator>=2.18,<3",)),
        config={"checkpoint": None, "organs": files[1].name},
        card=Card(
            title=title,
            paper=paper,
            code_licence="Apache-2.0 (package TotalSegmentator)",
            weights_licence=_LICENCE,
            parameters="not stated; an nnU-Net for the organ and one for the lesions",
            training_data={},
            notes=(
                f"Automatic: the lesions of the {task.organ}, in {task.modality}, which is not checked; any other "
                "target is refused. "
                f"{learned_from} No licence number is needed for this task. See docs/methods/totalsegmentator.md."
            ),
        ),
    )


totalsegmentator_liver = _method(
    "totalsegmentator-liver",
    LIVER,
    "TotalSegmentator, liver lesions",
    "Trained on 842 CT, by the name of its folder; whether scans of LiTS17 or MSD are among them is not known here.",
    f"{_PAPER}; the task: doi:10.1007/s10278-025-01716-y",
)

totalsegmentator_hepatic = _method(
    "totalsegmentator-hepatic",
    HEPATIC,
    "TotalSegmentator, tumours of the hepatic vessels' task",
    "Trained on MSD Task08 (hepatic vessels and tumours), by the name of its folder and what its README cites.",
    f"{_PAPER}; the data: Simpson et al., arXiv 1902.09063",
)

totalsegmentator_lung = _method(
    "totalsegmentator-lung",
    LUNG,
    "TotalSegmentator, lung nodules",
    "Trained on 1353 subjects, partly of LIDC-IDRI, by its README. Nodules are not all tumours.",
    f"{_PAPER}; the task: BLUEMIND AI (Fitzjalen, Aladin, Nanyan)",
)
