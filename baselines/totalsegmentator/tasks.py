"""TotalSegmentator's openly available tasks that segment tumours, and the files each of them needs (torch-free).

Names, numbers and crops are those of `totalsegmentator/map_tasks_config.py`, version 2.18. Every task first finds an
organ with a coarse model of the whole body, and then looks for lesions in the box around that organ.
"""

from __future__ import annotations

from dataclasses import dataclass

RELEASES = "https://github.com/wasserth/TotalSegmentator/releases"


@dataclass(frozen=True)
class Model:
    """A released nnU-Net folder, as an archive of that name.

    Attributes:
        dataset: the folder's name, which holds nnU-Net's number.
        release: tag of the release that it is part of.
    """

    dataset: str
    release: str

    @property
    def file(self) -> str:
        return f"totalsegmentator-{self.dataset}.zip"

    @property
    def url(self) -> str:
        return f"{RELEASES}/download/{self.release}/{self.dataset}.zip"

    @property
    def page(self) -> str:
        return f"{RELEASES}/tag/{self.release}"


@dataclass(frozen=True)
class Task:
    """One of the package's tasks.

    Attributes:
        name: what the package calls it.
        lesion: the class that is the target.
        organ: whose lesions these are, in the words of a target.
        model: finds the lesions.
        organs: finds the organ.
        modality: "CT" or "MR".
    """

    name: str
    lesion: str
    organ: str
    model: Model
    organs: Model
    modality: str = "CT"


_BODY_3MM = Model("Dataset297_TotalSegmentator_total_3mm_1559subj", "v2.0.0-weights")
_BODY_6MM = Model("Dataset298_TotalSegmentator_total_6mm_1559subj", "v2.0.0-weights")

LIVER = Task(
    "liver_lesions", "liver_lesions", "liver",
    Model("Dataset591_ct_liver_lesions_842subj", "v2.5.0-weights"), _BODY_3MM,
)  # fmt: skip
HEPATIC = Task("liver_vessels", "liver_tumor", "liver", Model("Dataset008_HepaticVessel", "v2.4.0-weights"), _BODY_6MM)
LUNG = Task("lung_nodules", "lung_nodules", "lung", Model("Dataset913_lung_nodules", "v2.5.0-weights"), _BODY_6MM)
