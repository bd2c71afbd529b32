"""nnU-Net's files at a stated size with weights by a rule, for stand-ins of models that others trained with it.

The network is the one that nnU-Net builds from the plans; how often it pools follows from patch and spacing, by its own
planner. The weights carry no knowledge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from benchmarks.weights.stand_ins import by_rule

FEATURES = (32, 64, 128, 256, 320, 320)  # of 3D networks; nnU-Net doubles them up to 320
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6)  # of the ResEnc presets
LEAST_EDGE = 4  # of the deepest feature map
_IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")


@dataclass(frozen=True)
class Size:
    """Of a network and of what it sees, in nnU-Net's axes (z, y, x).

    Attributes:
        patch: voxels.
        spacing: mm.
        residual: an encoder of residual blocks, as in the ResEnc presets; else of plain convolutions.
    """

    patch: tuple[int, int, int]
    spacing: tuple[float, float, float]
    residual: bool = False


def architecture(size: Size) -> dict[str, Any]:
    """The part of the plans that says which network it is."""
    _, strides, kernels, *_ = get_pool_and_conv_props(size.spacing, size.patch, LEAST_EDGE, max_numpool=len(FEATURES))
    stages = len(strides)
    depth: dict[str, Any] = (
        {"n_blocks_per_stage": list(RESIDUAL_BLOCKS[:stages]), "n_conv_per_stage_decoder": [1] * (stages - 1)}
        if size.residual
        else {"n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1)}
    )
    family = "ResidualEncoderUNet" if size.residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{family}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(FEATURES[:stages]),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[int(edge) for edge in kernel] for kernel in kernels],
            "strides": [[int(step) for step in stride] for stride in strides],
            **depth,
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": list(_IMPORTED),
    }


def plans(dataset: str, name: str, configuration: str, size: Size, normalisation: str) -> dict[str, Any]:
    """The whole of plans.json. Statistics of intensities are round numbers, those of no data set."""
    resampling = "resample_data_or_seg_to_shape"
    sampled = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    smooth = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    intensities = {"max": 3000.0, "mean": 0.0, "median": 0.0, "min": -1000.0, "percentile_00_5": -1000.0,
                   "percentile_99_5": 1000.0, "std": 400.0}  # fmt: skip
    return {
        "dataset_name": dataset,
        "plans_name": name,
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {
            configuration: {
                "data_identifier": f"{name}_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "batch_dice": False,
                "patch_size": list(size.patch),
                "spacing": list(size.spacing),
                "normalization_schemes": [normalisation],
                "use_mask_for_norm": [False],
                "resampling_fn_data": resampling,
                "resampling_fn_data_kwargs": sampled,
                "resampling_fn_seg": resampling,
                "resampling_fn_seg_kwargs": {**smooth, "is_seg": True},
                "resampling_fn_probabilities": resampling,
                "resampling_fn_probabilities_kwargs": smooth,
                "architecture": architecture(size),
            }
        },
    }


def described(labels: Sequence[str], channel: str) -> dict[str, Any]:
    """The whole of dataset.json: one channel, the labels in their order after the background."""
    numbers = {name: number for number, name in enumerate(("background", *labels))}
    return {"channel_names": {"0": channel}, "labels": numbers, "numTraining": 1, "file_ending": ".nii.gz"}


def network_of(size: Size, inputs: int, outputs: int) -> torch.nn.Module:
    """The network as it is for prediction, with fresh weights."""
    content = architecture(size)
    made: torch.nn.Module = get_network_from_plans(
        content["network_class_name"], content["arch_kwargs"], _IMPORTED, inputs, outputs,
        allow_init=False, deep_supervision=False,
    )  # fmt: skip
    return made


def network_by_rule(size: Size, inputs: int, outputs: int) -> dict[str, torch.Tensor]:
    """The state dict. nnU-Net's modules know many of their tensors under several names: such a tensor is drawn once."""
    with torch.device("meta"):
        network = network_of(size, inputs, outputs)
    first: dict[int, str] = {}
    names = {key: first.setdefault(id(one), key) for key, one in network.named_parameters(remove_duplicate=False)}
    state = network.state_dict()
    drawn = by_rule({key: state[key] for key in first.values()})
    return {key: drawn[names[key]] for key in state}


def checkpoint(weights: Mapping[str, torch.Tensor], trainer: str, configuration: str) -> dict[str, Any]:
    """What checkpoint_final.pth holds for prediction; nothing of the optimiser, which a release may leave out."""
    return {
        "network_weights": dict(weights),
        "init_args": {"configuration": configuration, "fold": 0},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": None if "NoMirroring" in trainer else (0, 1, 2),
    }
