"""Archives in the layout of TotalSegmentator's releases with weights by a rule; they carry no knowledge.

Trainers, configurations and spacings are those of the package's tables. The networks are of the released sizes: the
models of the whole body have five stages (16.6 million parameters), those of liver lesions and hepatic vessels six
(31.2 million), that of lung nodules has a residual encoder (102 million). The patches of 3 mm and of the hepatic
vessels are known; where none is published, 6 mm has half the patch of 3 mm and lesions have 128³, as many voxels as
nnU-Net plans by default.

With random weights an organ may be found nowhere, and then no lesion is looked for. In a stand-in every voxel belongs
to the organs of the tasks instead: lesions are looked for in the whole scan, the longest that a case can take.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from baselines.nnunet_stand_in import Size, checkpoint, described, network_by_rule, plans
from baselines.totalsegmentator.tasks import HEPATIC, LIVER, LUNG

BODY = tuple(f"class_{number}" for number in range(1, 118))  # of the package's task `total`
LIVER_CLASS, LUNG_CLASSES = 5, (10, 11, 12, 13, 14)
FOUND = 100.0  # added to the logit of an organ: no other class wins
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # an archive has dates, a stand-in the same bytes on every day


@dataclass(frozen=True)
class Released:
    """What an archive holds.

    Attributes:
        labels: after the background, in order.
        organs: numbers of the classes that are found everywhere.
    """

    size: Size
    labels: tuple[str, ...]
    trainer: str
    configuration: str = "3d_fullres"
    organs: tuple[int, ...] = ()


_LONG = "nnUNetTrainer_4000epochs_NoMirroring"
RELEASED = {
    LIVER.organs.dataset: Released(Size((112, 112, 128), (3.0, 3.0, 3.0)), BODY, _LONG, organs=(LIVER_CLASS,)),
    HEPATIC.organs.dataset: Released(
        Size((64, 64, 64), (6.0, 6.0, 6.0)), BODY, _LONG, organs=(LIVER_CLASS, *LUNG_CLASSES)
    ),
    LIVER.model.dataset: Released(
        Size((128, 128, 128), (1.0, 0.75, 0.75)), ("liver_lesions",), "nnUNetTrainer", "3d_fullres_high"
    ),
    HEPATIC.model.dataset: Released(
        Size((64, 192, 192), (1.5, 0.8, 0.8)), ("liver_vessels", "liver_tumor"), "nnUNetTrainer"
    ),
    LUNG.model.dataset: Released(
        Size((128, 128, 128), (1.5, 1.5, 1.5), residual=True),
        ("lung", "lung_nodules"),
        "nnUNetTrainer_MOSAIC_1k_QuarterLR_NoMirroring",
    ),
}
"""By the name of the nnU-Net folder."""


def write(path: Path, system: str) -> None:
    """The archive of the nnU-Net folder `system`."""
    one = RELEASED[system]
    folder = f"{system}/{one.trainer}__nnUNetPlans__{one.configuration}"
    content = {
        "plans.json": json.dumps(plans(system, "nnUNetPlans", one.configuration, one.size, "CTNormalization")).encode(),
        "dataset.json": json.dumps(described(one.labels, "CT")).encode(),
        "fold_0/checkpoint_final.pth": _saved(one),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}", LONG_AGO), data)


def _saved(one: Released) -> bytes:
    weights = network_by_rule(one.size, inputs=1, outputs=1 + len(one.labels))
    last = max(key for key in weights if key.startswith("decoder.seg_layers.") and key.endswith(".bias"))
    for organ in one.organs:
        weights[last][organ] += FOUND
    buffer = io.BytesIO()
    torch.save(checkpoint(weights, one.trainer, one.configuration), buffer)
    return buffer.getvalue()
