"""Stand-ins follow the rule of the golden files, value by value, and have the layout of the official files."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.checkpoints import official_file_problem, read_checkpoint
from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants import methods
from benchmarks.execution.suite import load_suite
from benchmarks.weights import stand_ins
from benchmarks.weights.official_files import Announced, official_files
from benchmarks.weights.stand_ins import by_rule, folder_for_rehearsal
from tests.parity.rule import Golden, rule_tensor

MODELS = {
    "sam_vit_b_01ec64.pth": ("sam_b", ""),
    "sam-med2d_b.pth": ("sam_med2d", "model."),
    "sam_med3d_turbo.pth": ("sam_med3d", "model_state_dict."),
    "SegVol_v1.pth": ("segvol", "model."),
    "clip_driven_universal_swin_unetr.pth": ("universal_swinunetr", "net."),
    "clip_driven_universal_unet.pth": ("universal_unet", "net."),
    "3dsam-adapter_kits21.pth.tar": ("sam3d_adapter", ""),
}
SMALL = 200_000
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("model", [model for model, _ in MODELS.values()])
def test_every_value_is_the_one_of_the_rule(model: str) -> None:
    """Against the tests' own reading of the rule, which is told the kind of a tensor and does not guess it."""
    rows = [row for row in Golden.read(model).rows if row.kind != "keep" and int(np.prod(row.shape)) <= SMALL]
    shapes = {row.key: torch.empty(row.shape, device="meta") for row in rows}
    ours = by_rule(shapes)
    assert len(ours) > 50
    for row in rows:
        assert torch.equal(ours[row.key], rule_tensor(row, "")), row.key


def same_shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In place of the rule: tensors that take no room in a file."""
    return {k: v if stand_ins._constant(k, v) else torch.zeros(()).expand(v.shape) for k, v in state.items()}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_stand_in_has_every_key_and_shape_of_the_official_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, container = MODELS[name]
    path = tmp_path / name
    use = use_of(name)
    module, _, function = use.stand_in.partition(":")
    loaded = importlib.import_module(module)
    monkeypatch.setattr(stand_ins, "by_rule", same_shapes)
    monkeypatch.setattr(loaded, "by_rule", same_shapes, raising=False)
    getattr(loaded, function)(path, use.system)
    found = shapes_of(read_checkpoint(path), "")
    expected = {f"{container}{row.key}": row.shape for row in Golden.read(model).rows}
    found.pop("model.module.text_encoder.clip_text_model.text_model.embeddings.position_ids", None)
    assert found == expected
    assert official_file_problem(path, use.system) == ""


def shapes_of(content: Any, prefix: str) -> dict[str, tuple[int, ...]]:
    if isinstance(content, torch.Tensor):
        return {prefix.rstrip("."): tuple(content.shape)}
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return {key: shape for name, value in items for key, shape in shapes_of(value, f"{prefix}{name}.").items()}


def use_of(name: str) -> WeightFile:
    return next(use for use in official_files()[name].uses if use.stand_in)


def test_every_official_file_of_the_suite_paper_has_a_stand_in() -> None:
    rehearsed = {entry.name for entry in load_suite("paper").methods}
    files = official_files(one for one in methods().values() if one.name in rehearsed)
    assert len(files) >= 7
    assert [name for name, one in files.items() if not any(use.stand_in for use in one.uses)] == []


def test_every_released_contestant_has_a_stand_in_for_each_of_its_files() -> None:
    files = official_files(one for one in methods().values() if one.factory.startswith("baselines."))
    without = [name for name, one in files.items() if not any(use.stand_in for use in one.uses)]
    assert without == []
    for use in (use for one in files.values() for use in one.uses):
        module, _, function = use.stand_in.partition(":")
        assert importlib.util.find_spec(module) is not None, use.name
        assert f"def {function}(" in Path(ROOT, *module.split(".")).with_suffix(".py").read_text("utf-8"), use.name


def write_elsewhere(path: Path, system: str) -> None:
    raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")


def test_a_stand_in_that_cannot_be_made_here_is_left_out_and_named(tmp_path: Path) -> None:
    """Its package lies in the environment of the method; the rehearsal of the others goes on."""
    name = "sam-med2d_b.pth"
    makers = [WeightFile(name, "p", "l", stand_in=f"{__name__}:write_elsewhere"),
              WeightFile("other.pth", "p", "l", system="S", stand_in=f"{__name__}:write_word")]  # fmt: skip
    notes: list[str] = []
    placed = folder_for_rehearsal([Announced(one, ("m",), (one,)) for one in makers], tmp_path, notes.append)
    assert [one.file.name for one in placed] == ["other.pth"]
    assert notes == [f"no stand-in for {name}: it is made with elsewhere, which is not installed here"]
    assert [path.name for path in tmp_path.iterdir()] == ["other.pth"]


def write_word(path: Path, system: str) -> None:
    path.write_text(f"stand-in of {system}")


def test_an_official_file_is_linked_and_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rehearsal"
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path / "weights"))
    name = "sam-med2d_b.pth"
    one = official_files()[name]
    maker = WeightFile(name, "p", "l", system="S", stand_in=f"{__name__}:write_word")
    announced = [type(one)(maker, ("m",), (maker,))]
    assert [placed.real for placed in folder_for_rehearsal(announced, folder)] == [False]
    assert (folder / name).read_text() == "stand-in of S"
    assert not maker.path.exists()
    maker.path.parent.mkdir()
    maker.path.write_text("official")
    assert [placed.real for placed in folder_for_rehearsal(announced, folder)] == [True]
    assert (folder / name).read_text() == "official"
    assert maker.path.read_text() == "official"
    maker.path.unlink()
    assert [placed.real for placed in folder_for_rehearsal(announced, folder)] == [False]
    assert (folder / name).read_text() == "stand-in of S"
