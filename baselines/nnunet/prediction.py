"""Prediction with trained nnU-Nets in this process: reading the model, one volume through one or two stages.

Axes: the bench's arrays are (x, y, z); nnU-Net's are (z, y, x). `raw_data` holds the two conversions.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.nnunet.raw_data import from_nnunet_axes, to_nnunet_axes
from benchmarks.common.errors import UserError
from benchmarks.contestants.convolutions import by_onednn
from benchmarks.contestants.precision import finite_by_channel
from benchmarks.data.volume import BoolArray, FloatArray, Volume

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def predict(stages: Sequence[nnUNetPredictor], volume: Volume, lesion: int) -> BoolArray:
    """The mask of the lesion on the volume's own grid, without worker processes.

    Args:
        stages: one predictor, or those of a cascade in their order: each sees the segmentation of the one before.
    """
    image, properties = to_nnunet_axes(volume)
    segmentation: NDArray[Any] | None = None
    for predictor in stages:
        segmentation = segmented(predictor, image, properties, segmentation)
    assert segmentation is not None
    return from_nnunet_axes(segmentation == lesion)


def segmented(
    predictor: nnUNetPredictor, image: FloatArray, properties: dict[str, Any], before: NDArray[Any] | None
) -> NDArray[Any]:
    """Label map (z, y, x) of an image (1, z, y, x) on its own grid.

    nnU-Net's own preprocessing, sliding window and inverse resampling, called one after the other: its
    convenience function would set the number of threads to its own default. The label map of the stage before goes
    through the same preprocessing and follows the image as one channel for each label, as nnU-Net does it.

    Raises:
        ValueError: the logits are not finite; nnU-Net itself looks for infinite ones only, NaN is background to it.
    """
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

    config, labels = predictor.configuration_manager, predictor.label_manager
    data, seen, properties = config.preprocessor_class(verbose=False).run_case_npy(
        image,
        None if before is None else before[None].astype(np.int16),  # as its reader gives it: −1 marks what is cut off
        dict(properties),
        predictor.plans_manager,
        config,
        predictor.dataset_json,
    )
    if before is not None:
        data = np.vstack((data, convert_labelmap_to_one_hot(seen[0], labels.foreground_labels, data.dtype)))
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.ascontiguousarray(data)))
    finite_by_channel(logits)
    found: NDArray[Any] = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        predictor.plans_manager,
        config,
        labels,
        properties,
        return_probabilities=False,
        num_threads_torch=torch.get_num_threads(),
    )
    return found


def load_predictor(
    folder: Path, device: torch.device, tile_step_size: float, use_mirroring: bool, folds: int = 1
) -> nnUNetPredictor:
    """nnU-Net's predictor with the weights of every fold, whose logits it averages.

    nnU-Net's own loader unpickles whatever the file holds; this one accepts tensors and plain types only.

    Raises:
        UserError: a file is missing, unreadable, or does not fit the plans.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset_json = read_json(folder / "dataset.json")
    plans = PlansManager(read_json(folder / "plans.json"))
    checkpoints = [_read_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth") for fold in range(folds)]
    checkpoint = checkpoints[0]
    config = plans.get_configuration(checkpoint["init_args"]["configuration"])
    network = get_network_from_plans(
        config.network_arch_class_name,
        config.network_arch_init_kwargs,
        config.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans, config, dataset_json),
        plans.get_label_manager(dataset_json).num_segmentation_heads,
        deep_supervision=False,
    )
    try:
        for one in reversed(checkpoints):
            network.load_state_dict(one["network_weights"])
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{folder}: the weights do not fit the plans ({first}); train it again") from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a remark about CPUs whatever it is told
        predictor = nnUNetPredictor(
            tile_step_size=tile_step_size,
            use_gaussian=True,
            use_mirroring=use_mirroring,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
    if device.type == "cpu":
        by_onednn(network)
    predictor.manual_initialization(
        network.to(device).eval(),
        plans,
        config,
        [one["network_weights"] for one in checkpoints],
        dataset_json,
        checkpoint["trainer_name"],
        tuple(checkpoint["inference_allowed_mirroring_axes"]),
    )
    return predictor


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; train 'nnunet' first") from error
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error}); train 'nnunet' again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not the JSON object expected here; train 'nnunet' again")
    return content


def _read_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; train 'nnunet' first")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: truncated, or holds more than weights ({type(error).__name__})") from error
    return checkpoint
