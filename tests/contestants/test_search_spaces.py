"""Every method that the bench trains has a space that a sweep can search: typed, conditional, with its own setting."""

from __future__ import annotations

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
PROMPTS = {
    "tags": {"single_click", "central_click", "box_share", "mask_share", "corrections", "prompt_dropout"},
    "sam-b": {"box_jitter", "corrections"},
    "sam-med2d": {"box_jitter", "corrections"},
    "sam-med3d": {"training_rounds"},
    "segvol": {"training_clicks", "negative_click", "box_jitter", "zoomed_out"},
    "3dsam-adapter": {"tumour_points", "stray_points"},
    "universal": set(),  # takes no prompt
}

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
    (system,) = [name for name in PROMPTS if one.name.startswith(name)]
    assert knobs.keys() >= PROMPTS[system]
    own = one.config["learning_rate"]
    assert knobs["learning_rate"].low < own / 4 < own * 4 < knobs["learning_rate"].high
    if one.needs_checkpoint:  # the encoder of an official file may stay as it is, and then a batch may be larger
        assert one.config["train"] in knobs["train"].choices
        assert len(knobs["train"].choices) == 2
        (frozen,) = knobs["training_batch"].when["train"]
        assert frozen in set(knobs["train"].choices) - {"all"}


@pytest.mark.parametrize("one", BY_THE_BENCH, ids=lambda one: one.name)
def test_every_end_of_every_knob_is_a_setting_that_trains(one: Method) -> None:
    """A crop goes through the loss with each of them, and what a knob says arrives in the recipe or in the loss."""
    silent = {"reach", "ema", "zoom", "warm_up", "weight_decay", "learning_rate", "foreground", "batch_size"}
    plain = loss_of(one, {})
    for knob in SweepSpace.of(one, {}).knobs:
        values = [value for value in ends(knob) if value != one.config[knob.name]]
        changed = [loss_of(one, {knob.name: value}) for value in values[-1:]] if knob.name not in silent else []
        for value in values:
            assert recipe_of(one, {knob.name: value}).batch_size >= 1
        if knob.name in DICE:
            assert changed != [plain], knob.name


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

    from baselines.losses import mask_losses

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
