"""TotalSegmentator's tumour tasks: the official package on nnU-Net folders of the official layout.

The networks are nnU-Net's own class with weights that make them thresholds, so that what comes back is known. Tests
that run the package are skipped where it is not installed; `pip install tags-bench[totalsegmentator]` brings it.
"""

from __future__ import annotations

import dataclasses
import filecmp
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from baselines.checkpoints import read_checkpoint
from baselines.nnunet_stand_in import network_of
from baselines.totalsegmentator.archive import archive_problem, unpack
from baselines.totalsegmentator.method import totalsegmentator_hepatic, totalsegmentator_liver, totalsegmentator_lung
from baselines.totalsegmentator.segmenter import TotalSegmentator, _one_after_the_other
from baselines.totalsegmentator.stand_in import LIVER_CLASS, LUNG_CLASSES, RELEASED, write
from baselines.totalsegmentator.tasks import HEPATIC, LIVER, LUNG
from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.data.volume import Volume, write_nifti
from benchmarks.prompting.prompts import Click, Prompts
from tests.baselines.sam_helpers import affine, dice, ellipsoid

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (44, 40, 26)
TUMOUR = Target("liver-tumor", "liver", "tumor", (2,), organ_labels=(1,))
TOTAL_CLASSES = 117  # of the package's task `total`
ROOT = Path(__file__).parents[2]
ORGANS_FOLDER = "nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"
LESIONS_FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres_high"


def threshold_model(classes: int, wanted: int, above: float, spacing: tuple[float, ...], configuration: str) -> Any:
    """Plans and weights of an nnU-Net whose class `wanted` is whatever is brighter than `above` HU."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    arguments = {
        "n_stages": 2, "features_per_stage": [2, 2], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 1, 1]] * 2, "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1], "conv_bias": True, "norm_op": None, "norm_op_kwargs": {}, "dropout_op": None,
        "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    network_class = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    imports = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    network: Any = get_network_from_plans(network_class, arguments, imports, 1, classes + 1, deep_supervision=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.encoder.stages[0][0].convs[0].conv.weight[0, 0] = 0.01
        network.decoder.stages[0].convs[0].conv.weight[0, 2] = 1.0  # after the two channels from below
        head = network.decoder.seg_layers[0]
        head.bias[1:] = -1000.0
        head.weight[wanted, 0], head.bias[wanted] = 1.0, -0.01 * above
    sampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    one = {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [32, 32, 32], "spacing": list(spacing), "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False], "batch_dice": False,
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": sampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_seg_kwargs": {**sampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape", "resampling_fn_probabilities_kwargs": sampling,
        "architecture": {"network_class_name": network_class, "arch_kwargs": arguments, "_kw_requires_import": imports},
    }  # fmt: skip
    plain = {"max": 1e4, "mean": 0.0, "median": 0.0, "min": -1e4, "percentile_00_5": -1e4, "percentile_99_5": 1e4,
             "std": 1.0}  # fmt: skip
    plans = {
        "dataset_name": "Dataset000", "plans_name": "nnUNetPlans", "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner", "foreground_intensity_properties_per_channel": {"0": plain},
        "configurations": {configuration: one},
    }  # fmt: skip
    return plans, network.state_dict()


@dataclasses.dataclass(frozen=True)
class Released:
    """What is in an archive: the folder's name, its trainer folder, classes, the class that fires and above what."""

    dataset: str
    folder: str
    classes: int
    wanted: int
    above: float
    spacing: tuple[float, float, float]

    def write(self, path: Path) -> Path:
        trainer, _, configuration = self.folder.split("__")
        plans, weights = threshold_model(self.classes, self.wanted, self.above, self.spacing, configuration)
        names = {"background": 0} | {f"class_{n}": n for n in range(1, self.classes + 1)}
        described = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": 1, "file_ending": ".nii.gz"}
        checkpoint = {
            "network_weights": weights,
            "optimizer_state": {"step": np.float64(1)},  # what a plain reading refuses
            "init_args": {"configuration": configuration, "fold": 0},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": None,
        }
        weights_file = path.with_suffix(".pth")
        torch.save(checkpoint, weights_file)
        root = f"{self.dataset}/{self.folder}"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{root}/plans.json", json.dumps(plans))
            archive.writestr(f"{root}/dataset.json", json.dumps(described))
            archive.write(weights_file, f"{root}/fold_0/checkpoint_final.pth")
        return path


LESIONS = Released(LIVER.model.dataset, LESIONS_FOLDER, 1, 1, 500.0, (1.0, 0.75, 0.75))
ORGANS = Released(LIVER.organs.dataset, ORGANS_FOLDER, TOTAL_CLASSES, LIVER_CLASS, 50.0, (3.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("totalsegmentator")
    return {
        "checkpoint": str(LESIONS.write(folder / "lesions.zip")),
        "organs": str(ORGANS.write(folder / "organs.zip")),
        "no organ": str(dataclasses.replace(ORGANS, above=5000.0).write(folder / "none.zip")),
    }


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The package, a home folder of its own, and a list of what was asked of the network."""
    pytest.importorskip("totalsegmentator", reason="TotalSegmentator is not installed here")
    import requests

    asked: list[Any] = []
    for verb in ("get", "post"):
        monkeypatch.setattr(requests, verb, lambda *given, **_: asked.append(given))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return asked


def body() -> tuple[Volume, np.ndarray]:
    """A liver of 100 HU with a lesion of 900 HU, nowhere symmetric, on an oblique and anisotropic grid."""
    organ = ellipsoid(SHAPE, (24, 18, 13), (14, 12, 9))
    lesion = ellipsoid(SHAPE, (28, 15, 10), (5, 4, 3))
    array = np.where(lesion, 900.0, np.where(organ, 100.0, -200.0))
    return Volume(array.astype(np.float32), affine((1.5, 1.4, 3.0), oblique=True)), lesion


def build(archives: dict[str, str], organs: str = "organs") -> Any:
    return totalsegmentator_liver.build({"checkpoint": archives["checkpoint"], "organs": archives[organs]})


def test_the_lesion_comes_back_on_its_own_voxels_and_nothing_else_is_touched(
    package: list[Any], archives: dict[str, str], tmp_path: Path
) -> None:
    volume, lesion = body()
    places = {key: value for key, value in os.environ.items() if key.lower().startswith(("nnunet", "totalseg"))}
    load = torch.load
    segmenter = build(archives)
    session = segmenter.open(volume, TUMOUR)
    mask = session.segment(Prompts())
    assert mask.shape == SHAPE
    assert dice(mask, lesion) > 0.9
    mask[:] = False  # the caller's own copy
    assert dice(session.segment(Prompts()), lesion) > 0.9
    assert package == []  # neither models nor statistics
    assert not (tmp_path / "home" / ".totalsegmentator").exists()
    after = {key: value for key, value in os.environ.items() if key.lower().startswith(("nnunet", "totalseg"))}
    assert (after, torch.load, torch.get_num_threads()) == (places, load, 1)
    with pytest.raises(UserError, match="takes no prompt"):
        session.segment(Prompts(clicks=(Click((0, 0, 0)),)))


@pytest.mark.slow
def test_no_process_is_started(package: list[Any], archives: dict[str, str]) -> None:
    """The package replaces functions of nnU-Net when it is first imported, so this asks a process that has not yet."""
    code = (
        "import multiprocessing.pool\n"
        "def refuse(*_, **__):\n"
        "    raise AssertionError('a pool')\n"
        "multiprocessing.pool.Pool.__init__ = refuse\n"
        "from tests.baselines.test_totalsegmentator import body, build, dice, TUMOUR, Prompts\n"
        "volume, lesion = body()\n"
        f"assert dice(build({archives!r}).open(volume, TUMOUR).segment(Prompts()), lesion) > 0.9\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_logits_of_nan_are_an_error_and_no_empty_mask(value: float, tmp_path: Path) -> None:
    """nnU-Net's own prediction looks for infinite values only."""

    class Predictor:
        def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
            return torch.cat([data, data * value])

        def predict_from_files_sequential(self, cases: Any, *_: Any) -> list[torch.Tensor]:
            return [self.predict_logits_from_preprocessed_data(torch.ones(1, 2, 2, 2)) for _ in cases]

    (tmp_path / "scan_0000.nii.gz").touch()
    if value == 0.5:
        (logits,) = _one_after_the_other(Predictor(), tmp_path, tmp_path)
        assert logits[1].eq(0.5).all()
    else:
        with pytest.raises(ValueError, match="not finite"):
            _one_after_the_other(Predictor(), tmp_path, tmp_path)


def test_no_organ_no_lesion(package: list[Any], archives: dict[str, str]) -> None:
    volume, _ = body()
    assert not build(archives, "no organ").open(volume, TUMOUR).segment(Prompts()).any()


@pytest.mark.slow
def test_masks_are_those_of_the_package_alone(package: list[Any], archives: dict[str, str], tmp_path: Path) -> None:
    """The official function in a process of its own, on files, with its own reading of checkpoints and its pools."""
    volume, _ = body()
    write_nifti(volume.array, volume.affine, tmp_path / "ct.nii.gz")
    results = tmp_path / "results"
    results.mkdir()
    unpack(archives["checkpoint"], LIVER.model.dataset, "test", results)
    unpack(archives["organs"], LIVER.organs.dataset, "test", results)
    (tmp_path / "config.json").write_text(json.dumps({"send_usage_stats": False, "prediction_counter": 0}))
    code = (
        "from totalsegmentator.python_api import totalsegmentator\n"
        "if __name__ == '__main__':\n"
        f"    totalsegmentator({str(tmp_path / 'ct.nii.gz')!r}, {str(tmp_path / 'out.nii.gz')!r}, ml=True,\n"
        "                     task='liver_lesions', device='cpu')\n"
    )
    (tmp_path / "alone.py").write_text(code)
    places = {"TOTALSEG_HOME_DIR": str(tmp_path), "TOTALSEG_WEIGHTS_PATH": str(results)}
    subprocess.run([sys.executable, str(tmp_path / "alone.py")], env={**os.environ, **places}, check=True)
    import nibabel as nib

    alone = np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj) == 1
    assert alone.any()
    assert np.array_equal(build(archives).open(volume, TUMOUR).segment(Prompts()), alone)


@pytest.mark.parametrize(("organ", "lesion"), [("kidney", "tumor"), ("liver", ""), ("liver", "liver_cysts")])
def test_another_target_is_refused(organ: str, lesion: str) -> None:
    segmenter = object.__new__(TotalSegmentator)
    segmenter.task, segmenter.method = LIVER, "totalsegmentator-liver"
    with pytest.raises(UserError, match="segments lesions of the liver"):
        segmenter.open(body()[0], Target("t", organ, lesion, (2,)))
    assert segmenter.open(body()[0], Target("t", "Liver", "metastasis", (2,)))


def test_an_archive_is_looked_into_before_it_is_used(archives: dict[str, str], tmp_path: Path) -> None:
    assert archive_problem(Path(archives["checkpoint"]), LIVER.model.dataset) == ""
    assert "expected Dataset297_" in archive_problem(Path(archives["checkpoint"]), LIVER.organs.dataset)
    whole = Path(archives["checkpoint"]).read_bytes()
    broken = tmp_path / "broken.zip"
    broken.write_bytes(whole[: len(whole) // 2])
    assert "truncated, or not a zip archive" in archive_problem(broken, LIVER.model.dataset)
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr(f"{LIVER.model.dataset}/a__b__c/plans.json", "{}")
        archive.writestr(f"{LIVER.model.dataset}/a__b__c/dataset.json", "{}")
    assert "fold_N/checkpoint_final.pth" in archive_problem(empty, LIVER.model.dataset)
    with pytest.raises(UserError, match="weights fetch totalsegmentator-liver"):
        unpack("nowhere.zip", LIVER.model.dataset, "totalsegmentator-liver", tmp_path)


def test_an_archive_never_writes_outside_of_its_folder(archives: dict[str, str], tmp_path: Path) -> None:
    evil = tmp_path / "evil.zip"
    evil.write_bytes(Path(archives["checkpoint"]).read_bytes())
    with zipfile.ZipFile(evil, "a") as archive:
        archive.writestr("../escaped.txt", "")
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match=r"evil\.zip"):
        unpack(evil, LIVER.model.dataset, "test", tmp_path / "results")
    assert not list((tmp_path / "results").iterdir())
    assert not (tmp_path / "escaped.txt").exists()


def test_what_a_reader_must_know_is_on_the_card() -> None:
    for method in (totalsegmentator_liver, totalsegmentator_hepatic, totalsegmentator_lung):
        assert {kind.name for kind in method.prompts} == {"NONE"}
        assert method.environment is not None
        assert "TotalSegmentator" in method.environment.pip[0]
        assert all(file.url.startswith("https://github.com/wasserth/") for file in method.files)
        assert "Apache-2.0" in method.card.weights_licence
        assert not method.card.training_data  # what the models have seen of our data sets is not known
    assert {file.system for file in totalsegmentator_liver.files} == {LIVER.model.dataset, LIVER.organs.dataset}


MILLIONS = {
    LIVER.organs.dataset: 16.60, HEPATIC.organs.dataset: 16.60,  # five stages, 118 classes
    LIVER.model.dataset: 31.20, HEPATIC.model.dataset: 30.79,  # one halving of the slices less
    LUNG.model.dataset: 102.35,
}  # fmt: skip
"""Parameters of nnU-Net's networks of these depths; the sizes of the released archives fit them."""


@pytest.mark.slow
@pytest.mark.parametrize("system", list(RELEASED))
def test_a_stand_in_is_read_as_the_official_archive(system: str, tmp_path: Path) -> None:
    """By the wrapper's check and unpacking and by nnU-Net's own loader, at the released size; the same bytes twice."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    one, two = tmp_path / "one.zip", tmp_path / "two.zip"
    write(one, system)
    write(two, system)
    assert filecmp.cmp(one, two, shallow=False)
    assert archive_problem(one, system) == ""
    (folder,) = unpack(one, system, "test", tmp_path).iterdir()
    saved = read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    trainer = saved["trainer_name"]
    assert folder.name == f"{trainer}__nnUNetPlans__{saved['init_args']['configuration']}"
    saved["trainer_name"] = "nnUNetTrainer"  # the package's own ones are asked for in the next test
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    with mock.patch.object(torch, "load", return_value=saved):
        predictor.initialize_from_trained_model_folder(str(folder), (0,))
    network = predictor.network
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(MILLIONS[system], abs=0.05)
    assert tuple(predictor.configuration_manager.patch_size) == RELEASED[system].size.patch


@pytest.mark.slow
def test_a_stand_in_finds_its_organs_everywhere(tmp_path: Path) -> None:
    """Else no lesion would be looked for, and the time of a case would be that of the first half."""
    system = HEPATIC.organs.dataset
    write(tmp_path / "one.zip", system)
    (folder,) = unpack(tmp_path / "one.zip", system, "test", tmp_path).iterdir()
    network = network_of(RELEASED[system].size, 1, 1 + TOTAL_CLASSES)
    network.load_state_dict(read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")["network_weights"])
    noise = torch.randn((1, 1, 64, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = network.eval()(noise).argmax(1).unique().tolist()
    assert found == [LIVER_CLASS, *LUNG_CLASSES]


def test_stand_ins_have_the_names_of_the_packages_tables(package: list[Any]) -> None:
    from totalsegmentator.map_tasks_config import TASK_CONFIGS
    from totalsegmentator.map_to_binary import class_map

    total = TASK_CONFIGS["total"]["sub_modes"]
    known = {model.dataset: total[mode] for model, mode in ((LIVER.organs, "fast"), (HEPATIC.organs, "fastest"))}
    known |= {task.model.dataset: TASK_CONFIGS[task.name] for task in (LIVER, HEPATIC, LUNG)}
    for system, facts in known.items():
        one = RELEASED[system]
        assert (one.trainer, one.configuration) == (facts["trainer"], facts.get("model", "3d_fullres"))
        spacing = np.broadcast_to(facts.get("resample", one.size.spacing[::-1]), 3)
        assert tuple(spacing[::-1]) == one.size.spacing  # nnU-Net's axes are the package's, reversed
    for task in (LIVER, HEPATIC, LUNG):
        assert tuple(class_map[task.name].values()) == RELEASED[task.model.dataset].labels
    organs = {class_map["total"][number] for number in LUNG_CLASSES}
    assert organs == set(TASK_CONFIGS[LUNG.name]["crop"])
    assert class_map["total"][LIVER_CLASS] == "liver"


def test_tasks_are_the_packages_own(package: list[Any]) -> None:
    from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS
    from totalsegmentator.map_to_binary import class_map

    for task in (LIVER, HEPATIC, LUNG):
        known = TASK_CONFIGS[task.name]
        assert not known.get("commercial")
        assert task.lesion in class_map[task.name].values()
        models = {known["task_id"]: task.model, (297 if known.get("robust_crop") else 298): task.organs}
        for number, model in models.items():
            facts = TASK_ID_WEIGHTS_CONFIGS[number]
            assert (facts["foldername"], facts["version"]) == (model.dataset, model.release)
    assert class_map["total"][LIVER_CLASS] == "liver"
    assert len(class_map["total"]) == TOTAL_CLASSES
