"""nnInteractive: what reaches the official session, what comes back, and how its files are read."""

from __future__ import annotations

import filecmp
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from baselines.checkpoints import official_file_problem
from baselines.nninteractive.method import FILES, nninteractive
from baselines.nninteractive.model import json_problem
from baselines.nninteractive.segmenter import NnInteractive, flat_box
from benchmarks.common.errors import UserError
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Box, Click, Prompts
from benchmarks.weights.official_files import official_files
from benchmarks.weights.stand_ins import folder_for_rehearsal
from tests.baselines.sam_helpers import TARGET, affine

pytest.importorskip("nnInteractive.inference", reason="pip install tags-bench[nninteractive]")
SHAPE = (40, 34, 30)
PLANS = {
    "dataset_name": "Dataset001_Test",
    "plans_name": "plans",
    "label_manager": "LabelManager",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "3d_fullres": {
            "patch_size": [32, 32, 32],
            "batch_size": 2,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 2,
                    "features_per_stage": [4, 8],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
                    "strides": [[1, 1, 1], [2, 2, 2]],
                    "n_conv_per_stage": [1, 1],
                    "n_conv_per_stage_decoder": [1],
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
        }
    },
}
DATASET = {"channel_names": {"0": "image"}, "labels": {"background": 0, "object": 1}, "file_ending": ".nii.gz"}


pytestmark = pytest.mark.usefixtures("one_thread")


class Opened(RuntimeError):
    """What a pickle of a stranger would do."""


class Stranger:
    def __reduce__(self) -> Any:
        return (_explode, ())


def _explode() -> None:
    raise Opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The released layout with random weights and a small network of the same class."""
    from nnInteractive.trainer.nnInteractiveTrainer import nnInteractiveTrainer_stub
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = tmp_path_factory.mktemp("nninteractive")
    manager = PlansManager(json.loads(json.dumps(PLANS)))
    torch.manual_seed(5)
    network = nnInteractiveTrainer_stub.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 1 + 7, 2, False
    )
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnInteractiveTrainer_stub",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "best": np.float64(0.5),
    }
    torch.save(checkpoint, folder / "checkpoint_final.pth")
    for name, content in (("plans", PLANS), ("dataset", DATASET), ("inference_session_class", {"point_radius": 4})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {
        "checkpoint": str(folder / "checkpoint_final.pth"),
        "plans": str(folder / "plans.json"),
        "dataset": str(folder / "dataset.json"),
        "session": str(folder / "inference_session_class.json"),
    }


class Echo(nn.Module):
    """In place of the network: the object is where a positive click (3), a box (1) or the last mask (0) is, and no
    negative click (4)."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        mask, box, positive, negative = (given[:, 1 + channel] for channel in (0, 1, 3, 4))
        wanted = (torch.maximum(torch.maximum(mask, box), positive) > 0.1) & (negative < 0.1)
        return torch.stack([(~wanted).float(), wanted.float()], 1)


def scan() -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.normal(40, 100, SHAPE).astype(np.float32), affine((0.8, 0.8, 2.5)))


@pytest.fixture
def segmenter(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> NnInteractive:
    monkeypatch.setenv("TAGS_BENCH_ENVIRONMENT", "nninteractive")
    threads = torch.get_num_threads()
    built = nninteractive.build({**files, "autozoom": False})
    assert isinstance(built, NnInteractive)
    assert torch.get_num_threads() == threads
    return built


def test_clicks_boxes_and_masks_reach_the_voxels_that_were_meant(segmenter: NnInteractive) -> None:
    segmenter.session.network = Echo()
    opened = segmenter.open(scan(), TARGET)
    mask = opened.segment(Prompts((Click((20, 9, 12)),)))
    assert mask.shape == SHAPE
    assert mask.dtype == np.bool_
    found = np.argwhere(mask)
    assert np.allclose(found.mean(0), (20, 9, 12), atol=0.5)  # the ball that the package draws at a point
    assert np.ptp(found, axis=0).max() <= 9
    both = opened.segment(Prompts((Click((20, 9, 12)), Click((28, 22, 15)))))
    assert both[20, 9, 12]
    assert both[28, 22, 15]
    flat = segmenter.open(scan(), TARGET).segment(Prompts(box=Box((5, 8, 6), (17, 20, 13))))
    where = np.argwhere(flat)
    assert (where.min(0).tolist(), where.max(0).tolist()) == ([5, 8, 9], [16, 19, 9])  # the middle of 6 … 12
    segmenter.session.supported_interactions["bbox3d"] = True
    whole = segmenter.open(scan(), TARGET).segment(Prompts(box=Box((5, 8, 6), (17, 20, 13))))
    where = np.argwhere(whole)
    assert (where.min(0).tolist(), where.max(0).tolist()) == ([5, 8, 6], [16, 19, 12])
    given = np.zeros(SHAPE, bool)
    given[10:20, 12:18, 5:9] = True
    assert np.array_equal(segmenter.open(scan(), TARGET).segment(Prompts(mask=given)), given)
    corrected = segmenter.open(scan(), TARGET).segment(
        Prompts((Click((24, 20, 10)), Click((12, 14, 6), False)), mask=given)
    )
    assert corrected[24, 20, 10]  # in view of the last click, which the package predicts around
    assert not corrected[12, 14, 6]
    assert corrected[19, 17, 8]


def test_rounds_give_what_a_fresh_session_gives(segmenter: NnInteractive) -> None:
    """The random network; and a session that another one was opened beside finds its own scan again."""
    clicks = (Click((20, 9, 12)), Click((10, 20, 20), False), Click((22, 12, 12)))
    opened = segmenter.open(scan(), TARGET)
    step_by_step = [opened.segment(Prompts(clicks[:count])) for count in (1, 2, 3)]
    assert any(not np.array_equal(step_by_step[0], later) for later in step_by_step[1:])
    assert np.array_equal(segmenter.open(scan(), TARGET).segment(Prompts(clicks)), step_by_step[2])
    assert np.array_equal(opened.segment(Prompts(clicks[:2])), step_by_step[1])  # fewer clicks: it begins anew
    kept = step_by_step[2].copy()
    opened.segment(Prompts((Click((3, 3, 3)),)))
    assert np.array_equal(step_by_step[2], kept)


def test_a_mask_that_was_given_back_is_not_changed_by_the_next_round(segmenter: NnInteractive) -> None:
    segmenter.session.network = Echo()
    opened = segmenter.open(scan(), TARGET)
    first = opened.segment(Prompts((Click((20, 9, 12)),)))
    before = first.copy()
    opened.segment(Prompts((Click((20, 9, 12)), Click((5, 5, 5)))))
    assert np.array_equal(first, before)


def test_an_answer_of_nan_is_an_error_and_no_empty_mask(segmenter: NnInteractive) -> None:
    opened = segmenter.open(scan(), TARGET)
    opened.segment(Prompts((Click((20, 9, 12)),)))
    with torch.no_grad():
        next(segmenter.session.network.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        segmenter.open(scan(), TARGET).segment(Prompts((Click((20, 9, 12)),)))


def test_nothing_of_a_file_is_run(files: dict[str, str], tmp_path: Path, segmenter: NnInteractive) -> None:
    assert official_file_problem(Path(files["checkpoint"]), "nnU-Net") == ""
    assert json_problem(Path(files["plans"]), "nnInteractive") == ""
    assert "not a JSON file" in json_problem(Path(files["checkpoint"]), "nnInteractive")
    bad = tmp_path / "bad.pth"
    torch.save({"network_weights": {}, "init_args": {}, "trainer_name": "x", "surprise": Stranger()}, bad)
    with pytest.raises(UserError, match=r"bad\.pth: cannot be loaded as nnInteractive \(KeyError: 'configuration'\)"):
        nninteractive.build({**files, "checkpoint": str(bad)})


def test_what_is_missing_is_one_line(files: dict[str, str], segmenter: NnInteractive) -> None:
    with pytest.raises(UserError, match=r"no file nninteractive-1\.0-plans\.json; `tags-bench weights fetch"):
        nninteractive.build({**files, "plans": FILES[1].name})
    with pytest.raises(UserError, match="needs at least one positive click or a box"):
        segmenter.open(scan(), TARGET).segment(Prompts((Click((1, 1, 1), False),)))


@pytest.mark.slow
def test_stand_ins_are_read_as_the_official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wrapper and the package, at the published size; the same bytes twice."""
    monkeypatch.setenv("TAGS_BENCH_ENVIRONMENT", "nninteractive")
    folders = (tmp_path / "one", tmp_path / "two")
    announced = official_files([nninteractive]).values()
    placed = [folder_for_rehearsal(announced, folder) for folder in folders]
    assert [one.real for one in placed[0]] == [False] * len(FILES)
    for file in FILES:
        assert filecmp.cmp(*(folder / file.name for folder in folders), shallow=False)
        module, _, check = file.check.partition(":")
        assert getattr(importlib.import_module(module), check)(folders[0] / file.name, file.system) == ""
    built = nninteractive.build({file.setting: str(folders[0] / file.name) for file in FILES})
    session = built.session
    assert sum(one.numel() for one in session.network.parameters()) / 1e6 == pytest.approx(102, abs=0.5)
    assert list(session.configuration_manager.patch_size) == [192, 192, 192]
    assert session.license == "CC BY-NC-SA 4.0"  # the package takes plans and configuration for those of the release
    assert not built.takes_3d_boxes


def test_the_middle_of_a_box() -> None:
    assert flat_box(Box((1, 2, 3), (5, 6, 4))) == Box((1, 2, 3), (5, 6, 4))
    assert flat_box(Box((1, 2, 3), (5, 6, 7))) == Box((1, 2, 4), (5, 6, 5))
