"""Settings that act at inference only: a change of them asks for no training, and truly does not touch it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Budget, Method, Target, Trainable, method, methods
from benchmarks.execution import training_job
from benchmarks.execution.training import TrainingJob

TARGET = Target("lesion", "liver", "tumor", (2,), (1,), (-50.0, 150.0), 50.0, 40.0)
TRAINED = [
    one for one in methods().values() if one.training != "none" and one.factory.startswith(("baselines.", "tags."))
]
BY_THE_BENCH = [one for one in TRAINED if one.training == "bench" and one.name.endswith("-tiny")]
OTHER_WORDS = {
    "mirroring": True,
    "orientation": "file",
    "postprocess": "official",
    "precision": "bfloat16",
}


def changed(key: str, value: Any) -> Any:
    """Another value of the same kind."""
    if key in OTHER_WORDS:
        return OTHER_WORDS[key] if value != OTHER_WORDS[key] else "auto"
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) else 0.5 * value + 0.17
    return [*value, 1] if isinstance(value, list) else f"{value}-other"


def job(one: Method, config: dict[str, Any]) -> TrainingJob:
    return TrainingJob(one.name, config, TARGET, (), Budget(steps=3), seed=1)


@pytest.mark.parametrize("one", TRAINED, ids=lambda one: one.name)
def test_only_settings_of_training_name_the_checkpoint(one: Method) -> None:
    plain = job(one, {}).digest()
    same = {key for key, value in one.config.items() if job(one, {key: changed(key, value)}).digest() == plain}
    assert same == set(one.inference_settings)


def test_every_kind_of_method_names_what_it_has() -> None:
    expected = {
        "tags-tiny": {
            "threshold",
            "search_view",
            "overlap",
            "part_share",
            "box_prior",
            "widest",
            "mirror",
            "cached_views",
        },
        "nnunet": {"mirroring", "tile_step_size", "keep_workdir"},
        "sam-b": {"precision", "batch_size", "least_quality", "reach"},
        "sam-med2d-tiny": {"precision", "batch_size", "least_quality", "reach"},
        "sam-med3d": {"precision"},
        "segvol": {"precision", "zoom_in", "zoom_to_clicks", "orientation"},
        "3dsam-adapter": {"precision", "orientation"},
        "universal-unet": {"precision", "postprocess"},
    }
    assert {name: set(method(name).inference_settings) for name in expected} == expected


def test_a_sweep_tells_them_apart_since_they_change_its_validation() -> None:
    sweep = replace(job(method("sam-b-tiny"), {}), validate_at=(1.0,))
    assert sweep.digest() != replace(sweep, config={"reach": 2.0}).digest()


def test_a_version_of_the_inference_alone_asks_for_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    one = method("tags-tiny")
    plain, validated = job(one, {}), replace(job(one, {}), validate_at=(1.0,))
    before = (plain.digest(), validated.digest())
    later = replace(one, version="later", trained_as=one.training_version)
    monkeypatch.setattr(training_job, "find_method", lambda name: later)
    assert replace(plain).digest() == before[0]
    assert replace(validated).digest() != before[1]  # its figures are those of another inference
    monkeypatch.setattr(training_job, "find_method", lambda name: replace(later, trained_as=""))
    assert replace(plain).digest() != before[0]


def test_processors_name_the_checkpoint_only_where_minutes_are_the_budget() -> None:
    one = job(method("tags-tiny"), {})
    assert one.digest() == replace(one, budget=Budget(steps=3, cpus=4)).digest()
    assert one.digest() != replace(one, budget=Budget(steps=3, gpus=1)).digest()
    minutes = replace(one, budget=Budget(minutes=3))
    assert minutes.digest() != replace(minutes, budget=Budget(minutes=3, cpus=4)).digest()


def test_a_setting_that_the_method_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="'treshold' of inference_settings is no setting"):
        Method("x", "", "m:f", frozenset(), config={"threshold": 0.5}, inference_settings=("treshold",))
    with pytest.raises(UserError, match="has no setting 'treshold'"):
        method("tags-tiny").training_config({"treshold": 1})


@pytest.mark.parametrize("one", BY_THE_BENCH, ids=lambda one: one.name)
def test_they_do_not_touch_a_step_of_training(one: Method) -> None:
    """The same crop, prompts and fresh weights give the same loss whatever these settings are."""
    assert loss_of(one, {key: changed(key, one.config[key]) for key in one.inference_settings}) == loss_of(one, {})


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("one", BY_THE_BENCH, ids=lambda one: one.name)
def test_the_parts_of_a_loss_let_no_step_wait(one: Method, filled: bool) -> None:
    """Numbers would have to be fetched from the GPU at every step, and a graph would stay in memory."""
    import torch

    _, parts = step_of(one, {}, filled)
    assert parts
    assert all(isinstance(part, torch.Tensor) and not part.requires_grad for part in parts.values())


def loss_of(one: Method, config: dict[str, Any]) -> float:
    return float(step_of(one, config)[0].detach())


def step_of(one: Method, config: dict[str, Any], filled: bool = True) -> tuple[Any, Any]:
    """The loss of fresh weights and its parts, on a crop with a target in its middle or without one."""
    import torch

    torch.manual_seed(0)
    segmenter = one.build(config)
    assert isinstance(segmenter, Trainable)
    segmenter.module.train()
    torch.manual_seed(1)
    recipe = segmenter.recipe(TARGET)
    label = torch.zeros(1, 1, *recipe.patch)
    middle = [slice(n // 2 - 2, n // 2 + 2) for n in recipe.patch]
    label[(0, 0, *middle)] = float(filled)
    image = 2 * label + torch.rand(label.shape, generator=torch.Generator().manual_seed(2))
    batch = Batch(image, label, [TARGET], torch.Generator().manual_seed(3), 0.5)
    return segmenter.loss(batch)
