"""nnU-Net's wrapper: conversion, plans, geometry, safety; the real training is marked slow."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from baselines.nnunet import plans as plans_module
from baselines.nnunet import prediction, segmenter, train_process
from baselines.nnunet.method import nnunet, nnunet_organ, nnunet_organ_small, nnunet_small
from baselines.nnunet.plans import SmallPlans, coarsen, patch_for, shrink
from baselines.nnunet.raw_data import from_nnunet_axes, remap, to_nnunet_axes, write_raw_dataset
from benchmarks.common.errors import UserError
from benchmarks.contestants import Budget, Target
from benchmarks.data.dataset import Case
from benchmarks.data.volume import Volume, read_volume
from benchmarks.prompting.prompts import Click, Prompts

TARGET = Target(name="toy", organ="kidney", lesion="tumor", labels=(2, 4), organ_labels=(1,))
SPACING = (1.5, 1.5, 3.0)
SHAPE = (40, 32, 20)

FAKE_PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_Bench",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [3.0, 1.5, 1.5],
    "original_median_shape_after_transp": [20, 32, 40],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {
            "max": 1e6,
            "mean": 0.0,
            "median": 0.0,
            "min": -1e6,
            "percentile_00_5": -1e6,
            "percentile_99_5": 1e6,
            "std": 1.0,
        }
    },
    "configurations": {
        "2d": {"patch_size": [256, 256]},
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [64, 160, 192],
            "median_image_size_in_voxels": [100.0, 512.0, 512.0],
            "spacing": [3.0, 0.8, 0.8],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {},
            "resampling_fn_seg_kwargs": {},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 6,
                    "features_per_stage": [32, 64, 128, 256, 320, 320],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[1, 3, 3]] + [[3, 3, 3]] * 5,
                    "strides": [[1, 1, 1], [1, 2, 2]] + [[2, 2, 2]] * 4,
                    "n_conv_per_stage": [2] * 6,
                    "n_conv_per_stage_decoder": [2] * 5,
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": False,
        },
    },
}
DATASET_JSON = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 1,
    "file_ending": ".nii",
}


def write_case(folder: Path, index: int, axes: str = "LPS") -> Case:
    """A body with an organ and a bright lesion, stored in an axis order of its own."""
    rng = np.random.default_rng(index)
    mm = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij"))
    centre = np.array([20.0, 22.0, 26.0]) + rng.uniform(-4, 4, 3)
    distance = np.linalg.norm((mm.T - centre).T, axis=0)
    label = np.where(distance < 10, 2, np.where(distance < 17, 1, 0)).astype(np.uint8)
    image = np.choose(label, [0.0, 60.0, 160.0]) + rng.normal(0, 5, SHAPE)
    image[:3, :3, :3] = 900.0  # a marker in the corner x = y = z = 0
    paths = folder / f"image{index}.nii.gz", folder / f"label{index}.nii.gz"
    orientation = nib.orientations.axcodes2ornt(axes)
    to_file = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
    for array, path in zip((np.rint(image).astype(np.int16), label), paths, strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])).as_reoriented(to_file), path)
    return Case("toy", f"case-{index}", *paths)


def test_methods_are_announced_without_prompts_and_refuse_bad_settings() -> None:
    assert nnunet.build().prompts == nnunet.prompts == nnunet_organ.prompts
    small = {"plans": "small", "configuration": "3d_lowres"}
    for bad in (
        {"plans": "huge"},
        {"mirroring": "often"},
        {"tile_step_size": 0.0},
        {"folds": 0},
        {"folds": True},
        {"configuration": "2d"},
        {"configuration": "3d_cascade_fullres"},  # its second stage needs cases that a network did not learn from
        small,
    ):
        with pytest.raises(UserError, match="nnunet"):
            nnunet.build(bad)


def test_labels_are_merged_and_numbered_from_one() -> None:
    label = np.array([0, 1, 2, 3, 4], np.int16).reshape(5, 1, 1)
    assert remap(label, TARGET, with_organ=False).ravel().tolist() == [0, 0, 1, 0, 1]
    assert remap(label, TARGET, with_organ=True).ravel().tolist() == [0, 1, 2, 0, 2]


def test_raw_dataset_holds_the_arrays_that_the_bench_sees(tmp_path: Path) -> None:
    cases = [write_case(tmp_path, 0, "LPS"), write_case(tmp_path, 1, "SAL")]
    folder, names = write_raw_dataset(cases, TARGET, True, tmp_path / "raw")
    assert list(names.values()) == ["case-0", "case-1"]
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CT"}
    assert description["labels"] == {"background": 0, "organ": 1, "lesion": 2}
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    for name, case in zip(names, cases, strict=True):
        files = description["dataset"][name]
        read, properties = SimpleITKIO().read_images([str(folder / files["images"][0])])
        segmentation, _ = SimpleITKIO().read_seg(str(folder / files["label"]))
        volume, label = case.load()
        at_prediction, spacing = to_nnunet_axes(volume)
        assert np.array_equal(read, at_prediction)
        assert properties["spacing"] == pytest.approx(spacing["spacing"])
        assert np.array_equal(from_nnunet_axes(segmentation[0] == 2), label == 2)


def test_fractional_intensities_survive(tmp_path: Path) -> None:
    case = write_case(tmp_path, 0)
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(values, nib.load(case.label).affine), case.image)
    folder, _ = write_raw_dataset([case], TARGET, False, tmp_path / "raw")
    written = read_volume(folder / "imagesTr" / "case_0000_0000.nii").array
    assert np.array_equal(written, case.load()[0].array)


def test_missing_labels_are_user_errors(tmp_path: Path) -> None:
    case = write_case(tmp_path, 0)
    no_organ = Target(name="toy", organ="", lesion="tumor", labels=(2,))
    with pytest.raises(UserError, match="no organ label"):
        nnunet_organ.build().fit([case], no_organ, Budget(), tmp_path, 0)  # type: ignore[attr-defined]
    absent = Target(name="other", organ="", lesion="tumor", labels=(9,))
    with pytest.raises(UserError, match="holds the target 'other'"):
        nnunet.build().fit([case], absent, Budget(), tmp_path, 0)  # type: ignore[attr-defined]
    assert not (tmp_path / "work").exists()


def test_shrunk_plans_fit_the_limits_and_leave_the_input_alone() -> None:
    before = copy.deepcopy(FAKE_PLANS)
    small = SmallPlans()
    plans = shrink(FAKE_PLANS, small)
    assert before == FAKE_PLANS
    assert list(plans["configurations"]) == ["3d_fullres"]
    config = plans["configurations"]["3d_fullres"]
    kwargs = config["architecture"]["arch_kwargs"]
    assert np.prod(config["median_image_size_in_voxels"]) <= 1.05 * small.image_voxels
    assert np.prod(config["patch_size"]) <= 1.5 * small.patch_voxels  # rounded up to what the strides divide
    assert kwargs["n_stages"] == len(kwargs["strides"]) == len(kwargs["kernel_sizes"]) <= small.stages
    assert kwargs["features_per_stage"][0] == small.features
    divisor = np.prod(kwargs["strides"], axis=0)
    assert not np.any(np.array(config["patch_size"]) % divisor)
    json.dumps(plans)  # plain types only


def test_coarsening_keeps_the_extent_and_gives_way_along_the_finest_axes() -> None:
    spacing, shape = coarsen([3.0, 0.8, 0.8], [100.0, 512.0, 512.0], 2**19)
    assert np.prod(shape) <= 1.05 * 2**19
    assert np.array(spacing) * np.array(shape) == pytest.approx([300.0, 409.6, 409.6], rel=0.05)
    assert min(spacing) > 0.97 * max(spacing)
    assert coarsen([4.0, 2.0, 2.0], [36.0, 80.0, 80.0], 2**19) == ([4.0, 2.0, 2.0], [36.0, 80.0, 80.0])
    partly, _ = coarsen([5.0, 1.0, 1.0], [20.0, 200.0, 200.0], 400_000)
    assert partly[0] == 5.0
    assert partly[1] == pytest.approx(2**0.5, rel=0.02)


def test_patch_never_exceeds_the_image() -> None:
    assert patch_for([10.0, 20.0, 30.0], 10**6) == [10, 20, 30]
    assert np.prod(patch_for([36.0, 80.0, 80.0], 2**15)) <= 1.1 * 2**15


class Threshold(torch.nn.Module):
    """Stands in for the network: the logit of the lesion is the intensity less 800 HU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), (x - 800.0) / 10], dim=1)


def stub_predictor(spacing: list[float], **changes: Any) -> Any:
    """nnU-Net's real predictor around the stub, on a grid coarser or finer than the volume's."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = shrink(FAKE_PLANS, SmallPlans())
    plans["configurations"]["3d_fullres"].update(spacing=spacing, patch_size=[8, 16, 16])
    plans.update(changes)
    manager = PlansManager(plans)
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    network = Threshold()
    predictor.manual_initialization(
        network, manager, manager.get_configuration("3d_fullres"), [network.state_dict()], DATASET_JSON, "stub", None
    )
    return predictor


@pytest.mark.parametrize(
    ("spacing", "transpose"),
    [([3.0, 1.5, 1.5], [0, 1, 2]), ([3.0, 1.5, 1.5], [2, 0, 1]), ([2.0, 2.0, 2.0], [0, 1, 2])],
)
def test_prediction_lands_on_the_voxels_it_comes_from(spacing: list[float], transpose: list[int]) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[30:38, 2:9, 12:17] = 1800.0  # nowhere symmetric, so that a flip or a swap of axes shows
    volume = Volume(array, np.diag([*SPACING, 1.0]))
    changes = {
        "transpose_forward": transpose,
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
    }
    predictor = stub_predictor([spacing[i] for i in transpose], **changes)
    session = segmenter.NnUNetSession((predictor,), volume, lesion=1)
    mask = session.segment(Prompts())
    truth = array > 900
    assert mask.shape == SHAPE
    same_grid = spacing == [3.0, 1.5, 1.5]
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert dice == 1.0 if same_grid else dice > 0.85


def test_session_predicts_once_and_refuses_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def predict(*_: object) -> np.ndarray:
        calls.append(1)
        return np.ones((2, 2, 2), bool)

    monkeypatch.setattr(segmenter, "predict", predict)
    session = segmenter.NnUNetSession((), None, 1)  # type: ignore[arg-type]
    session.segment(Prompts())[:] = False  # the caller's own copy
    assert session.segment(Prompts()).all()
    assert len(calls) == 1
    with pytest.raises(UserError, match="takes no prompt"):
        session.segment(Prompts(clicks=(Click((0, 0, 0)),)))


def test_failed_training_names_the_last_line_and_the_log(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "job.json").write_text("{broken")
    log = tmp_path / "train.log"
    with pytest.raises(segmenter.TrainingFailed, match=r"exit code 1: json.*Error.*log: .*train\.log"):
        segmenter.run_training_process(work, log, 1, torch.device("cpu"))
    assert "nnUNet_raw" not in os.environ  # set for the subprocess only


def write_model(folder: Path, configuration: str = "3d_fullres") -> None:
    """A model as a training leaves it, with random weights; a stage of a cascade if that is the configuration."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    staged = configuration != "3d_fullres"
    plans = shrink(FAKE_PLANS, SmallPlans(), "3d_cascade_fullres" if staged else "3d_fullres")
    own = plans["configurations"][configuration]
    arch = plans["configurations"][own.get("inherits_from", configuration)]["architecture"]
    torch.manual_seed(len(configuration))
    network = get_network_from_plans(
        arch["network_class_name"], arch["arch_kwargs"], arch["_kw_requires_import"],
        2 if "previous_stage" in own else 1, 2, deep_supervision=False,
    )  # fmt: skip
    for head in network.decoder.seg_layers if staged else ():  # both classes are to be found everywhere
        head.weight.data -= head.weight.data.mean(1, keepdim=True)
        head.bias.data.zero_()
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    model = {"method": "nnunet", "plans": "small", "configuration": configuration}
    (folder / "model.json").write_text(json.dumps(model))
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": configuration, "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": [0, 1, 2],
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_loading_refuses_pickles_truncated_and_foreign_models(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_model(folder)
    nnunet.build().load(folder)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="expected 'nnunet-organ'"):
        nnunet_organ.build().load(folder)  # type: ignore[attr-defined]
    path = folder / "fold_0" / "checkpoint_final.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        nnunet.build().load(folder)  # type: ignore[attr-defined]
    torch.save({"network_weights": Evil(tmp_path / "harm")}, path)
    with pytest.raises(UserError, match="more than weights"):
        nnunet.build().load(folder)  # type: ignore[attr-defined]
    assert not (tmp_path / "harm").exists()
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        nnunet.build().load(folder)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="train it"):
        nnunet.build().open(Volume(np.zeros(SHAPE, np.float32), np.eye(4)), TARGET)


@pytest.mark.slow
@pytest.mark.parametrize("method", [nnunet_small, nnunet_organ_small], ids=lambda m: m.name)
def test_plan_train_predict(tmp_path: Path, method: Any) -> None:
    """The real package on bright lesions: a few seconds of training must find them, in the right place."""
    cases = [write_case(tmp_path, index, axes) for index, axes in enumerate(["LPS", "RAS", "SAL", "LPS"])]
    folder = tmp_path / "model"
    folder.mkdir()
    trained = method.build()
    figures = trained.fit(cases[:3], TARGET, Budget(steps=60), folder, seed=3)
    assert figures["iterations"] == 60
    assert figures["plans"] == "small"
    assert not (folder / "work").exists()
    assert (folder / "train.log").stat().st_size > 0
    fresh = method.build()
    fresh.load(folder)
    volume, label = cases[3].load()
    mask = fresh.open(volume, TARGET).segment(Prompts())
    truth = label == 2
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.6
    assert np.array_equal(mask, trained.open(volume, TARGET).segment(Prompts()))


def test_small_plans_are_never_called_nnunet() -> None:
    assert nnunet.config["plans"] == nnunet_organ.config["plans"] == "default"
    assert nnunet_small.config["plans"] == nnunet_organ_small.config["plans"] == "small"
    assert "small" in nnunet_small.card.title


def test_one_network_learns_from_all_cases_and_folds_leave_each_out_once() -> None:
    names = [f"case_{number:04d}" for number in range(11)]
    (alone,) = train_process.splits(names, 1)
    assert alone["train"] == names
    folds = train_process.splits(names, 5)
    assert sorted(name for fold in folds for name in fold["val"]) == names
    for fold in folds:
        assert not set(fold["train"]) & set(fold["val"])
        assert sorted(fold["train"] + fold["val"]) == names


@pytest.mark.parametrize(
    ("device", "cpus", "gpus", "expected"),
    [
        ("cpu", 1, 0, 0),
        ("cpu", 4, 0, 3),
        ("cuda", 12, 1, 12),
        ("cuda", 8, 1, 8),
        ("cuda", 24, 2, 12),
        ("cuda", 1, 2, 1),
    ],
)
def test_a_gpu_gets_all_processors_for_augmentation(device: str, cpus: int, gpus: int, expected: int) -> None:
    assert plans_module.augmenters(device, cpus, gpus) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [(("cuda", "default", 11, 1), "11 processes"), (("cuda", "default", 12, 1), ""),
     (("cuda", "resenc-l", 12, 2), "6 processes"), (("cuda", "small", 2, 1), ""), (("cpu", "default", 2, 0), "")],
)  # fmt: skip
def test_too_few_processors_for_a_gpu_are_said_before_the_training_and_in_its_log(
    given: tuple[str, str, int, int],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device, plans, cpus, gpus = given

    def no_training(*_: object) -> None:
        raise segmenter.TrainingFailed("not here")

    monkeypatch.setattr(segmenter, "run_training_process", no_training)
    method = segmenter.NnUNet(segmenter.Settings(**{**nnunet.config, "plans": plans}), device, with_organ=False)
    with pytest.raises(segmenter.TrainingFailed):
        method.fit([write_case(tmp_path, 0)], TARGET, Budget(steps=1, cpus=cpus, gpus=gpus), tmp_path, 0)
    assert (said in caplog.text) if said else ("augment" not in caplog.text)

    caplog.clear()
    monkeypatch.setattr(train_process, "batch_size", lambda _: 2)
    monkeypatch.setattr(train_process, "train_here", lambda *_: {})
    monkeypatch.setattr(torch.multiprocessing, "spawn", lambda *_, **__: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "figures.json").write_text("{}")
    train_process.train({"device": device, "cpus": cpus, "gpus": gpus, "plans": plans}, 0, tmp_path)
    assert (said in caplog.text) if said else ("augment" not in caplog.text)
    assert os.environ["nnUNet_n_proc_DA"] == str(plans_module.augmenters(device, cpus, gpus))  # noqa: SIM112


def test_a_training_counts_how_long_it_waited_for_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from baselines.nnunet import trainer as module

    monkeypatch.setattr(module, "seconds_queued", iter([5.0, 7.5]).__next__)
    trainer = object.__new__(module.BudgetTrainer)
    trainer.clock, trainer.network = module.Clock(None, 3), torch.nn.Identity()
    trainer.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    trainer.initial_lr, trainer.report_every, trainer.is_ddp = 0.1, 50, False
    trainer.seconds_waited, trainer.losses, trainer.dataloader_train = 0.0, [], iter(range(9))
    trainer.on_train_start = trainer.on_train_end = lambda: None
    trainer.train_step = lambda batch: {"loss": float(batch)}
    trainer.run_training()
    assert trainer.losses == [0.0, 1.0, 2.0]
    assert trainer.seconds_queued == 2.5


def small_trainer(state_file: Path, steps: int | None, minutes: float | None = None) -> Any:
    """nnU-Net's trainer with a network of one number, which batch n draws to n."""
    from baselines.nnunet import trainer as module

    trainer = object.__new__(module.BudgetTrainer)
    trainer.clock, trainer.network = module.Clock(minutes, steps), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(trainer.network.weight)
    trainer.optimizer = torch.optim.SGD(trainer.network.parameters(), 0.1, momentum=0.9)
    trainer.initial_lr, trainer.report_every, trainer.is_ddp, trainer.local_rank = 0.1, 50, False, 0
    trainer.grad_scaler, trainer.plans_manager, trainer.rates = None, SimpleNamespace(plans={"patch": [8]}), []
    trainer.seconds_waited, trainer.losses, trainer.dataloader_train = 0.0, [], iter(range(99))
    trainer.state_file, trainer.state_every = state_file, 0.0
    trainer.on_train_start = trainer.on_train_end = lambda: None
    trainer.print_to_log_file = lambda text: None

    def train_step(batch: int) -> dict[str, float]:
        trainer.rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.zero_grad()
        loss = (trainer.network.weight - batch).square().sum()
        loss.backward()
        trainer.optimizer.step()
        return {"loss": float(loss.detach())}

    trainer.train_step = train_step
    return trainer


def cut_off(trainer: Any, step: int) -> None:
    """Run the training up to this step."""

    class CutOff(Exception):
        pass

    def batches() -> Iterator[int]:
        yield from range(step)
        raise CutOff

    trainer.dataloader_train = batches()
    with pytest.raises(CutOff):
        trainer.run_training()


def test_a_training_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Weight, momentum and learning rate are those of an undisturbed one that sees the same batches."""
    from baselines.nnunet.trainer import read_state

    undisturbed = small_trainer(tmp_path / "other.pth", steps=8)
    undisturbed.run_training()
    assert undisturbed.rates == [0.1 * (1 - step / 8) ** 0.9 for step in range(8)]
    cut_off(small_trainer(tmp_path / "state.pth", steps=8), step=5)
    again = small_trainer(tmp_path / "state.pth", steps=8)
    again.dataloader_train = iter(range(5, 99))
    again.run_training(read_state(tmp_path / "state.pth"))
    assert again.rates == undisturbed.rates[5:]
    assert again.losses == undisturbed.losses
    assert torch.equal(again.network.weight, undisturbed.network.weight)
    finished = small_trainer(tmp_path / "state.pth", steps=8)  # killed while its model was written
    finished.run_training(read_state(tmp_path / "state.pth"))
    assert finished.rates == []
    assert torch.equal(finished.network.weight, undisturbed.network.weight)


def test_minutes_that_were_spent_before_a_training_was_cut_off_count(tmp_path: Path) -> None:
    from baselines.nnunet.trainer import read_state

    cut_off(small_trainer(tmp_path / "state.pth", steps=None, minutes=1.0), step=3)
    state = read_state(tmp_path / "state.pth")
    assert state is not None
    assert 0 < state["seconds"] < 60
    again = small_trainer(tmp_path / "state.pth", steps=None, minutes=1.0)
    again.run_training({**state, "seconds": 61.0, "queued": 4.0, "waited": 3.0})
    assert (again.rates, again.losses) == ([], state["losses"])
    assert 60.9 < again.seconds_training < 120
    assert again.seconds_queued > 3.9
    assert again.seconds_waited == 3.0


def test_a_state_of_other_plans_or_of_nobody_is_left(tmp_path: Path) -> None:
    from baselines.nnunet.trainer import read_state

    assert read_state(tmp_path / "state.pth") is None
    cut_off(small_trainer(tmp_path / "state.pth", steps=8), step=5)
    again = small_trainer(tmp_path / "state.pth", steps=8)
    again.plans_manager.plans = {"patch": [16]}
    again.run_training(read_state(tmp_path / "state.pth"))
    assert len(again.rates) == len(again.losses) == 8
    (tmp_path / "state.pth").write_bytes(b"cut")
    assert read_state(tmp_path / "state.pth") is None
    torch.save({"network": Evil(tmp_path / "harm")}, tmp_path / "state.pth")
    assert read_state(tmp_path / "state.pth") is None
    assert not (tmp_path / "harm").exists()


def test_a_training_that_diverges_ends_with_its_reason_and_keeps_its_last_good_state(tmp_path: Path) -> None:
    """A batch of NaN makes the weight NaN, and with it every loss from then on."""
    from baselines.nnunet.trainer import read_state

    diverging = small_trainer(tmp_path / "state.pth", steps=50)
    diverging.dataloader_train = iter([1, 2, float("nan"), *range(99)])
    with pytest.raises(FloatingPointError, match="not finite in 10 steps in a row up to step 12"):
        diverging.run_training()
    state = read_state(tmp_path / "state.pth")
    assert state is not None
    assert len(state["losses"]) == 2
    assert torch.isfinite(state["network"]["weight"]).all()
    short = small_trainer(tmp_path / "short.pth", steps=3)
    short.dataloader_train = iter([float("nan"), 1, 2])
    with pytest.raises(FloatingPointError, match="not finite in 3 steps in a row up to step 3"):
        short.run_training()


def test_a_few_losses_that_are_not_finite_end_no_training(tmp_path: Path) -> None:
    """As on a GPU, where nnU-Net's GradScaler leaves such steps out."""
    trainer = small_trainer(tmp_path / "state.pth", steps=40)
    losses = [1.0, *[float("nan")] * 9, 1.0, *[float("inf")] * 9] * 2
    trainer.dataloader_train, trainer.train_step = iter(losses), lambda loss: {"loss": loss}
    trainer.run_training()
    assert len(trainer.losses) == 40


def test_a_disk_that_takes_no_state_ends_no_training(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path / "nowhere" / "state.pth", steps=3)
    trainer.run_training()
    assert len(trainer.losses) == 3


@pytest.mark.slow
def test_a_real_training_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its second network: the first one is not trained again."""
    from baselines.nnunet.trainer import read_state

    steps = 30
    monkeypatch.setattr(segmenter, "STATE_EVERY_SECONDS", 0.0)
    popen = segmenter.subprocess.Popen
    cases = [write_case(tmp_path, index) for index in range(3)]
    folder = tmp_path / "model"
    folder.mkdir()

    class Killed(popen):  # type: ignore[misc, valid-type]
        def wait(self, timeout: float | None = None) -> int:
            while self.poll() is None and not (folder / "states" / "3d_fullres-1.pth").exists():
                time.sleep(0.05)
            self.kill()
            return int(super().wait(timeout))

    method = segmenter.NnUNet(segmenter.Settings(**{**nnunet_small.config, "folds": 2}), "cpu", with_organ=False)
    with monkeypatch.context() as killing:
        killing.setattr(segmenter.subprocess, "Popen", Killed)
        with pytest.raises(segmenter.TrainingFailed, match="exit code -9"):
            method.fit(cases, TARGET, Budget(steps=2 * steps), folder, seed=3)
    first, second = (read_state(folder / "states" / f"3d_fullres-{fold}.pth") for fold in range(2))
    assert first is not None
    assert second is not None
    assert len(first["losses"]) == steps > len(second["losses"]) > 0
    figures = method.fit(cases, TARGET, Budget(steps=2 * steps), folder, seed=3)
    assert figures["iterations"] == 2 * steps
    log = (folder / "train.log").read_text()
    assert f"going on from step {steps}," in log
    assert f"going on from step {len(second['losses'])}," in log
    weights = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert all(torch.equal(weights[name], value) for name, value in first["network"].items())
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["fold_0", "fold_1"]


def test_figures_of_folds_add_up() -> None:
    folds = [{"seconds_training": 2.0, "iterations": n, "epochs": n / 250, "final_loss": -n, "batch_size": 2}
             for n in (250, 500)]  # fmt: skip
    figures = train_process.together(folds)
    assert (figures["seconds_training"], figures["iterations"], figures["epochs"]) == (4.0, 750, 3.0)
    assert figures["loss_of_folds"] == [-250, -500]
    assert figures["batch_size"] == 2


def test_figures_of_a_cascade_are_those_of_its_second_stage_with_the_work_of_both() -> None:
    low, high = ([{"seconds_training": 2.0, "iterations": 5, "epochs": 0.02, "final_loss": loss, "batch_size": size}]
                 for loss, size in ((0.5, 4), (0.25, 2)))  # fmt: skip
    figures = train_process.in_order([low, high])
    assert (figures["seconds_training"], figures["iterations"]) == (4.0, 10)
    assert (figures["final_loss"], figures["batch_size"]) == (0.25, 2)
    assert (figures["first_stage"]["final_loss"], figures["first_stage"]["batch_size"]) == (0.5, 4)
    assert train_process.in_order([high]) == train_process.together(high)


def test_small_plans_of_a_cascade_are_linked_as_its_planner_links_them() -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    before = copy.deepcopy(FAKE_PLANS)
    plans = PlansManager(shrink(FAKE_PLANS, SmallPlans(), "3d_cascade_fullres"))
    assert before == FAKE_PLANS
    low, high = plans.get_configuration("3d_lowres"), plans.get_configuration("3d_cascade_fullres")
    assert (high.previous_stage_name, low.next_stage_names) == ("3d_lowres", ["3d_cascade_fullres"])
    assert high.data_identifier == plans.get_configuration("3d_fullres").data_identifier != low.data_identifier
    full = shrink(FAKE_PLANS, SmallPlans())["configurations"]["3d_fullres"]
    assert (high.spacing, high.patch_size) == (full["spacing"], full["patch_size"])
    eighth = np.prod(full["median_image_size_in_voxels"]) / 8
    assert 0.8 * eighth < np.prod(low.median_image_size_in_voxels) < 1.1 * eighth


def test_the_second_stage_sees_the_segmentation_of_the_first_as_nnunet_itself_gives_it(tmp_path: Path) -> None:
    """Two networks with random weights against nnU-Net's own function for one image with a stage before it."""
    folder = tmp_path / "model"
    write_model(folder / "3d_lowres", "3d_lowres")
    write_model(folder, "3d_cascade_fullres")
    cascade = nnunet.build({"configuration": "3d_cascade_fullres", "folds": 2})
    cascade.load(folder)  # type: ignore[attr-defined]
    low, high = cascade.stages  # type: ignore[attr-defined]
    array = np.random.default_rng(0).normal(0, 300, SHAPE).astype(np.float32)
    volume = Volume(array, np.diag([*SPACING, 1.0]))
    image, properties = to_nnunet_axes(volume)
    first = low.predict_single_npy_array(image, dict(properties))
    assert 0.05 < (first == 1).mean() < 0.95
    expected = high.predict_single_npy_array(image, dict(properties), first[None].astype(np.int16))
    found = cascade.open(volume, TARGET).segment(Prompts())
    assert np.array_equal(found, from_nnunet_axes(expected == 1))
    blind = high.predict_single_npy_array(image, dict(properties), np.zeros(first.shape, np.int16)[None])
    assert not np.array_equal(blind, expected)


def test_an_answer_of_nan_is_an_error_and_no_empty_mask(tmp_path: Path) -> None:
    write_model(tmp_path)
    file = tmp_path / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=True)
    next(iter(checkpoint["network_weights"].values())).fill_(float("nan"))
    torch.save(checkpoint, file)
    broken = nnunet.build()
    broken.load(tmp_path)  # type: ignore[attr-defined]
    volume = Volume(np.zeros(SHAPE, np.float32), np.diag([*SPACING, 1.0]))
    with pytest.raises(ValueError, match="not finite"):
        broken.open(volume, TARGET).segment(Prompts())


@pytest.mark.slow
def test_a_cascade_on_the_real_package(tmp_path: Path) -> None:
    """Two folds in two stages: what the second learns from comes from networks that had not seen the case."""
    cases = [write_case(tmp_path, index) for index in range(4)]
    folder = tmp_path / "model"
    folder.mkdir()
    settings = {"configuration": "3d_cascade_fullres", "folds": 2, "keep_workdir": True}
    trained = nnunet_small.build(settings)
    figures = trained.fit(cases, TARGET, Budget(steps=160), folder, seed=3)  # type: ignore[attr-defined]
    assert (figures["iterations"], figures["configuration"], figures["folds"]) == (160, "3d_cascade_fullres", 2)
    assert figures["first_stage"]["iterations"] == 80
    assert np.prod(figures["first_stage"]["spacing"]) > 2 * np.prod(figures["spacing"])
    low = folder / "work" / "results" / "Dataset001_Bench" / "BudgetTrainer__nnUNetPlans__3d_lowres"
    given = low / "predicted_next_stage" / "3d_cascade_fullres"
    assert sorted(path.stem for path in given.iterdir()) == [f"case_{n:04d}" for n in range(4)]
    splits = json.loads((folder / "work" / "preprocessed" / "Dataset001_Bench" / "splits_final.json").read_text())
    for fold, split in enumerate(splits):
        predicted = {path.name.partition(".")[0] for path in (low / f"fold_{fold}" / "validation").glob("case_*.nii")}
        assert predicted == set(split["val"])
    fresh = nnunet_small.build(settings)
    fresh.load(folder)  # type: ignore[attr-defined]
    volume, label = write_case(tmp_path, 9).load()
    mask = fresh.open(volume, TARGET).segment(Prompts())
    truth = label == 2
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.5
    assert np.array_equal(mask, trained.open(volume, TARGET).segment(Prompts()))


def test_an_ensemble_averages_the_logits_of_its_folds(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    first = tmp_path / "model" / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(first, weights_only=True)
    other = {key: value + 0.05 for key, value in checkpoint["network_weights"].items()}
    (tmp_path / "model" / "fold_1").mkdir()
    torch.save({**checkpoint, "network_weights": other}, tmp_path / "model" / "fold_1" / "checkpoint_final.pth")
    image = torch.rand(1, 8, 24, 24, generator=torch.Generator().manual_seed(0))

    def logits(folds: int, weights: dict | None = None) -> torch.Tensor:
        predictor = prediction.load_predictor(tmp_path / "model", torch.device("cpu"), 0.5, False, folds)
        if weights is not None:
            predictor.list_of_parameters = [weights]
        return predictor.predict_logits_from_preprocessed_data(image).float()

    expected = (logits(1) + logits(1, other)) / 2
    assert torch.allclose(logits(2), expected, atol=2e-2)  # nnU-Net adds up in half precision
    assert not torch.allclose(logits(1), expected, atol=2e-2)


@pytest.mark.slow
def test_residual_presets_and_folds_on_the_real_package(tmp_path: Path) -> None:
    """Planner, folds and what the figures say of them; a step each is enough."""
    cases = [write_case(tmp_path, index) for index in range(3)]
    folder = tmp_path / "model"
    folder.mkdir()
    trained = nnunet.build({"plans": "resenc-m", "folds": 2, "mirroring": False})
    figures = trained.fit(cases, TARGET, Budget(steps=2), folder, seed=3)  # type: ignore[attr-defined]
    assert figures["planner"] == "nnUNetPlannerResEncM"
    assert (figures["folds"], figures["iterations"], len(figures["loss_of_folds"])) == (2, 2, 2)
    plans = json.loads((folder / "plans.json").read_text())
    assert plans["plans_name"] == "nnUNetResEncUNetMPlans"
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"].endswith("ResidualEncoderUNet")
    weights = [torch.load(folder / f"fold_{n}" / "checkpoint_final.pth", weights_only=True) for n in range(2)]
    assert any(
        not torch.equal(a, b) for a, b in zip(*(one["network_weights"].values() for one in weights), strict=True)
    )
    volume, label = cases[0].load()
    assert trained.open(volume, TARGET).segment(Prompts()).shape == label.shape


@pytest.mark.slow
def test_same_seed_same_weights(tmp_path: Path) -> None:
    cases = [write_case(tmp_path, index) for index in range(2)]
    weights = []
    for run in range(2):
        folder = tmp_path / f"model{run}"
        folder.mkdir()
        nnunet_small.build().fit(cases, TARGET, Budget(steps=3), folder, seed=7)  # type: ignore[attr-defined]
        weights.append(torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"])
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
