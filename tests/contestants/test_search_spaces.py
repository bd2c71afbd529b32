"""Every method that the bench trains has a space that a sweep can search: typed, conditional, with its own setting."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest

from benchmarks.contestants import Budget, Method, Target, Trainable, TrainingRecipe, method, methods
from benchmarks.contestants.search_space import Knob, knobs_of
from benchmarks.execution.sweep_space import SweepSpace
from benchmarks.execution.training_job import TrainingJob
from tests.contestants.test_inference_settings import BY_THE_BENCH, TARGET, loss_of

TRAINED = [
    one for one in methods().values() if one.training == "bench" and one.factory.startswith(("baselines.", "tags."))
]
OPTIMISATION = {"learning_rate", "warm_up", "weight_decay"}
BATCH, DICE = {"batch_size", "training_batch"}, {"dice_weight", "dice_share"}
RECIPE = {  # knob → where the training's recipe has it
    "learning_rate": "learning_rate", "warm_up": "warm_up", "weight_decay": "weight_decay", "foreground": "foreground",
    "batch_size": "batch_size", "training_batch": "batch_size", "ema": "ema_decay",
}  # fmt: skip

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]
SLICES = {
    "box_jitter": ("baselines.sam.slices:draw_tasks", lambda calls: calls[0][0][3]),
    "corrections": ("baselines.sam.slice_training:_corrected", len),  # of the one slice that is clicked
    "dice_share": ("baselines.sam.slice_training:mask_losses", lambda calls: calls[0][0][2]),
}
ARRIVES: dict[str, dict[str, tuple[str, Callable[[Calls], Any]]]] = {  # knob → what a step calls with it
    "tags": {
        "prompt_dropout": ("tags.segmenter:Sampling", lambda calls: calls[0][1]["none"]),
        "dropout_elsewhere": ("tags.segmenter:Sampling", lambda calls: calls[0][1]["none_elsewhere"]),
        "single_click": ("tags.segmenter:Sampling", lambda calls: calls[0][1]["single"]),
        "central_click": ("tags.segmenter:Sampling", lambda calls: calls[0][1]["central"]),
        "box_share": ("tags.segmenter:Sampling", lambda calls: calls[0][1]["box"]),
        "mask_share": ("tags.segmenter:Sampling", lambda calls: calls[0][1]["mask"]),
        "dice_weight": ("tags.segmenter:segmentation_loss", lambda calls: calls[0][0][2]),
        "zoom": ("tags.segmenter:random_views", lambda calls: list(calls[0][0][3])),
        "augment_intensity": ("tags.segmenter:intensity_augmented", lambda calls: calls[0][0][1]),
    },
    "sam-b": SLICES,
    "sam-med2d": SLICES,
    "sam-med3d": {
        "training_rounds": ("baselines.sam_med3d.segmenter:mask_losses", len),
        "dice_share": ("baselines.sam_med3d.segmenter:mask_losses", lambda calls: calls[0][0][2]),
    },
    "segvol": {
        "training_clicks": ("baselines.segvol.segmenter:draw_prompts", lambda calls: calls[0][0][3].clicks),
        "negative_click": ("baselines.segvol.segmenter:draw_prompts", lambda calls: calls[0][0][3].negative),
        "box_jitter": ("baselines.segvol.segmenter:draw_prompts", lambda calls: calls[0][0][3].jitter),
        "dice_share": ("baselines.segvol.segmenter:mask_losses", lambda calls: calls[0][0][2]),
    },
    "3dsam-adapter": {
        "tumour_points": ("baselines.sam3d_adapter.segmenter:draw_points", lambda calls: calls[0][0][1]),
        "stray_points": ("baselines.sam3d_adapter.segmenter:draw_points", lambda calls: calls[0][0][2]),
        "dice_share": ("baselines.sam3d_adapter.segmenter:mask_losses", lambda calls: calls[0][0][2]),
    },
    "universal": {"dice_share": ("baselines.universal.segmenter:mask_losses", lambda calls: calls[0][0][2])},
}
SEEN_OTHERWISE = {"segvol": {"zoomed_out"}}  # a chance that is drawn: below

optuna.logging.set_verbosity(optuna.logging.WARNING)


def ends(knob: Knob) -> list[Any]:
    """Every choice, or the two ends."""
    if knob.choices:
        return list(knob.choices)
    return [int(knob.low), int(knob.high) - 1] if knob.whole else [knob.low, knob.high]


@pytest.mark.parametrize("one", TRAINED, ids=lambda one: one.name)
def test_the_methods_own_setting_is_in_its_space_and_is_the_first_trial(one: Method) -> None:
    announced = knobs_of(one.search_space)  # raises for a condition that names no knob before it
    for knob in announced:
        assert knob.holds(one.config[knob.name]), f"{knob.name} = {one.config[knob.name]}"
        for other, values in knob.when.items():
            (named,) = [before for before in announced if before.name == other]
            assert all(named.holds(value) for value in values), f"{knob.name}: {other} is never in {values}"
    space = SweepSpace.of(one, {})
    assert space.knobs == tuple(announced)  # nothing had to be widened for it
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial(space.first_point())
    first = space(study.ask())
    assert first == {name: one.config[name] for name in first}
    for _ in range(20):
        one.configured(space(study.ask()))


@pytest.mark.parametrize("one", TRAINED, ids=lambda one: one.name)
def test_every_method_searches_optimisation_loss_prompts_and_what_it_has_of_architecture(one: Method) -> None:
    knobs = {knob.name: knob for knob in knobs_of(one.search_space)}
    assert knobs.keys() >= OPTIMISATION
    assert knobs.keys() & BATCH
    assert knobs.keys() & DICE
    assert knobs.keys() >= ARRIVES[system_of(one)].keys() | SEEN_OTHERWISE.get(system_of(one), set())
    own = one.config["learning_rate"]
    assert knobs["learning_rate"].low < own / 4 < own * 4 < knobs["learning_rate"].high
    if one.needs_checkpoint:  # the encoder of an official file may stay as it is, and then a batch may be larger
        assert one.config["train"] in knobs["train"].choices
        assert len(knobs["train"].choices) == 2
        (frozen,) = knobs["training_batch"].when["train"]
        assert frozen in set(knobs["train"].choices) - {"all"}


def system_of(one: Method) -> str:
    (system,) = [name for name in ARRIVES if one.name.startswith(name)]
    return system


@pytest.mark.parametrize("one", BY_THE_BENCH, ids=lambda one: one.name)
def test_every_end_of_every_knob_trains_and_arrives(one: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop goes through the loss with each of them, and what a knob says is what the recipe, the network or a step of
    the training has; a knob of which nobody knows that fails."""
    left = SEEN_OTHERWISE.get(system_of(one), set()) | set(one.inference_settings)
    for knob in knobs_of(one.search_space):
        for value in ends(knob):
            with monkeypatch.context() as patch:
                arrived = arrival(one, knob.name, value, patch)
            assert arrived == value or knob.name in left, f"{knob.name} = {value}: {arrived}"


def arrival(one: Method, name: str, value: Any, patch: pytest.MonkeyPatch) -> Any:
    """What the training has in the place of a knob with that value; the step has a finite loss."""
    if name in RECIPE:
        return getattr(recipe_of(one, {name: value}), RECIPE[name])
    place, read = ARRIVES[system_of(one)].get(name, ("", None))
    calls = spied(place, patch) if place else []
    assert math.isfinite(loss_of(one, {name: value}))
    if read is not None:
        return read(calls)
    segmenter = one.build({name: value})
    for part in ("settings", "config"):  # of TAGS; tests/tags says what each part of its network does
        if hasattr(getattr(segmenter, part, None), name):
            return getattr(getattr(segmenter, part), name)
    return "nowhere"


def spied(place: str, patch: pytest.MonkeyPatch) -> Calls:
    """The arguments of every call of a function, where a step looks it up."""
    module, _, name = place.partition(":")
    calls: Calls = []
    real = getattr(importlib.import_module(module), name)

    def called(*args: Any, **named: Any) -> Any:
        calls.append((args, named))
        return real(*args, **named)

    patch.setattr(f"{module}.{name}", called)
    return calls


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_so_many_crops_of_segvol_are_zoomed_out(share: float) -> None:
    """Zoomed out, a crop of three windows along each axis has a 27th of the target's voxels."""
    import numpy as np
    import torch

    segmenter: Any = method("segvol-tiny").build({"zoomed_out": share})
    shape, random = [3 * n for n in segmenter.module.size.image], torch.Generator().manual_seed(0)
    image, label = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    label[tuple(slice(n // 2 - 6, n // 2 + 6) for n in shape)] = 1
    voxels = [float(segmenter._view(image, label, random)[1].sum()) for _ in range(200)]
    assert {bool(count < 12**3 / 20) for count in voxels} == {True, False}
    assert sum(count < 12**3 / 20 for count in voxels) / 200 == pytest.approx(share, abs=0.09)  # 3 standard deviations


def recipe_of(one: Method, config: dict[str, Any]) -> TrainingRecipe:
    segmenter = one.build(config)
    assert isinstance(segmenter, Trainable)
    return segmenter.recipe(TARGET)


def test_the_knobs_of_optimisation_arrive_in_the_recipe() -> None:
    chosen = {"learning_rate": 0.5, "warm_up": 0.25, "weight_decay": 0.125, "foreground": 0.75, "training_batch": 3}
    for one in BY_THE_BENCH:
        if one.name.startswith("tags"):
            continue
        recipe = recipe_of(one, chosen)
        found = recipe.learning_rate, recipe.warm_up, recipe.weight_decay, recipe.foreground, recipe.batch_size
        assert found == (0.5, 0.25, 0.125, 0.75, 3), one.name
        assert recipe.final_learning_rate == 0.005


def test_a_share_of_dice_alone_or_none_is_the_one_loss_or_the_other() -> None:
    import torch
    import torch.nn.functional as F

    from baselines.sam.training import mask_losses

    logits = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    label = (torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(2)) < 0.3).float()
    truth = label.expand_as(logits)
    share = label.mean((2, 3), keepdim=True)
    weight = torch.where(truth > 0.5, share**-0.5, 1.0)
    entropy = (weight * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")).mean((2, 3))
    overlap = (2 * (logits.sigmoid() * truth).sum((2, 3)) + 1) / ((logits.sigmoid() + truth).sum((2, 3)) + 1)
    torch.testing.assert_close(mask_losses(logits, label, 0.0), 2 * entropy)
    torch.testing.assert_close(mask_losses(logits, label, 1.0), 2 * (1 - overlap))
    torch.testing.assert_close(mask_losses(logits, label), entropy + 1 - overlap)


def test_a_setting_that_joined_later_leaves_the_digest_as_it_was_until_it_is_set() -> None:
    """What a checkpoint of sam-b-tiny (version 4) is called without these settings; at version 3, when they joined, it
    was b06ba6e768f5304f before and after."""
    one = method("sam-b-tiny")

    def digest(config: dict[str, Any], chosen: Method = one) -> str:
        target = Target("lesion", "liver", "tumor", (2,), (1,), (-50.0, 150.0), 50.0, 40.0)
        return TrainingJob(chosen.name, config, target, (), Budget(steps=3), seed=1).digest()

    assert digest({}) == "8976d857493aad71" == digest({"box_jitter": 2, "dice_share": 0.5})
    assert digest({"box_jitter": 3}) != digest({})
    assert one.identifying({**one.config, "box_jitter": 3})["box_jitter"] == 3
    assert "box_jitter" not in one.identifying(one.config)
    with pytest.raises(ValueError, match="'jitter' of later_settings is no setting of it"):
        replace(one, later_settings=("jitter",))
