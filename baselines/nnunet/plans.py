"""Which plans there are, and shrinking nnU-Net's to what a CPU can train in a minute or two.

nnU-Net plans for a GPU of 8 GB and 1000 epochs; on two cores one iteration of those plans takes seconds to a
minute. The small plans keep the method (U-Net with instance norm, deep supervision, CT normalisation, patch
sampling, augmentation, loss) and cut four sizes: the grid, the patch, the depth and the width. They
exist to demonstrate and to test; a number obtained with them says nothing about nnU-Net.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

PLANNERS = {
    "default": "ExperimentPlanner",
    "resenc-m": "nnUNetPlannerResEncM",
    "resenc-l": "nnUNetPlannerResEncL",
    "resenc-xl": "nnUNetPlannerResEncXL",
    "small": "ExperimentPlanner",
}
"""The class of nnU-Net that makes each kind of plans; small ones are its default ones, shrunk."""

FIRST_STAGE, CASCADE = "3d_lowres", "3d_cascade_fullres"
CONFIGURATIONS = ("3d_fullres", FIRST_STAGE, CASCADE)
AUGMENTERS = 12  # processes that keep one GPU busy, by nnU-Net's authors


def stages_of(configuration: str) -> tuple[str, ...]:
    """The configurations that are trained one after the other: one, or both of a cascade."""
    return (FIRST_STAGE, CASCADE) if configuration == CASCADE else (configuration,)


def augmenters(device: str, cpus: int, gpus: int) -> int:
    """Processes that augment for one GPU: its share of the processors. On a CPU one is left for the network."""
    return max(1, cpus // max(1, gpus)) if device == "cuda" else cpus - 1  # 0: training augments in its own process


@dataclass(frozen=True)
class SmallPlans:
    """Sizes of the small plans.

    Attributes:
        image_voxels: a coarser target spacing is taken until the median image has at most so many voxels.
        patch_voxels: upper bound of the patch.
        stages: of the encoder.
        features: of the first stage; doubled in each.
        convolutions: per stage (nnU-Net: 2).
        batch_size: nnU-Net's least.
        least_edge: of the deepest feature map, as in nnU-Net's planner.
    """

    image_voxels: int = 2**17
    patch_voxels: int = 24_000
    stages: int = 4
    features: int = 8
    convolutions: int = 1
    batch_size: int = 2
    least_edge: int = 4


def shrink(plans: dict[str, Any], small: SmallPlans, configuration: str = "3d_fullres") -> dict[str, Any]:
    """A copy of nnU-Net's plans with one, small configuration, or a small cascade. The input is left as it was.

    nnU-Net plans a cascade for large images only. The small one is made of 3d_fullres, whose first stage has an eighth
    of the voxels, and is linked as nnU-Net's planner links its own.
    """
    shrunk = copy.deepcopy(plans)
    full = shrunk_configuration(shrunk["configurations"]["3d_fullres"], small)
    if configuration != CASCADE:
        shrunk["configurations"] = {configuration: full}
        return shrunk
    voxels = min(small.image_voxels, int(np.prod(full["median_image_size_in_voxels"])))
    low = shrunk_configuration(full, replace(small, image_voxels=max(voxels // 8, 1)))
    low.update(data_identifier=f"{shrunk['plans_name']}_{FIRST_STAGE}", next_stage=CASCADE)
    second = {"inherits_from": "3d_fullres", "previous_stage": FIRST_STAGE}
    shrunk["configurations"] = {FIRST_STAGE: low, "3d_fullres": full, CASCADE: second}
    return shrunk


def shrunk_configuration(full: dict[str, Any], small: SmallPlans) -> dict[str, Any]:
    """A copy of one configuration with a coarser grid, a smaller patch and a smaller network."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    config = copy.deepcopy(full)
    spacing, shape = coarsen(config["spacing"], config["median_image_size_in_voxels"], small.image_voxels)
    patch = patch_for(shape, small.patch_voxels)
    _, strides, kernels, _, _ = get_pool_and_conv_props(spacing, patch, small.least_edge, 999999)
    stages = min(small.stages, len(strides))
    strides, kernels = strides[:stages], kernels[:stages]
    divisor = np.prod(np.array(strides), axis=0)
    patch = [int(np.ceil(size / d) * d) for size, d in zip(patch, divisor, strict=True)]
    config.update(
        spacing=spacing,
        median_image_size_in_voxels=shape,
        patch_size=patch,
        batch_size=small.batch_size,
        # nnU-Net's torch resampling: on a CPU it takes a fraction of the time of its cubic default
        resampling_fn_data="resample_torch_fornnunet",
        resampling_fn_seg="resample_torch_fornnunet",
        resampling_fn_probabilities="resample_torch_fornnunet",
        resampling_fn_data_kwargs={"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False},
        resampling_fn_seg_kwargs={"is_seg": True, "force_separate_z": False, "memefficient_seg_resampling": False},
        resampling_fn_probabilities_kwargs={
            "is_seg": False,
            "force_separate_z": False,
            "memefficient_seg_resampling": False,
        },
    )
    config["architecture"]["arch_kwargs"].update(
        n_stages=stages,
        features_per_stage=[small.features * 2**stage for stage in range(stages)],
        kernel_sizes=[[int(size) for size in kernel] for kernel in kernels],
        strides=[[int(step) for step in stride] for stride in strides],
        n_conv_per_stage=[small.convolutions] * stages,
        n_conv_per_stage_decoder=[small.convolutions] * (stages - 1),
    )
    return config


def coarsen(spacing: list[float], shape: list[float], voxels: int) -> tuple[list[float], list[float]]:
    """The least coarser spacing at which an image of `shape` has at most `voxels` voxels.

    Fine axes give way first, until all are alike; then all give way together.
    """
    extent = np.array(spacing) * np.array(shape)
    current = np.array(spacing, float)
    while np.prod(extent / current) > voxels:
        finest = current < 1.02 * current.min()
        surplus = np.prod(extent / current) / voxels
        step = min(1.02, surplus ** (1 / finest.sum()))
        current[finest] *= max(step, 1.0001)
    return [float(s) for s in current], [float(n) for n in np.maximum(np.round(extent / current), 1)]


def patch_for(shape: list[float], voxels: int) -> list[int]:
    """The image's own proportions, scaled down to at most `voxels`; no axis longer than the image."""
    scale = min(1.0, (voxels / float(np.prod(shape))) ** (1 / 3))
    return [max(1, round(size * scale)) for size in shape]
