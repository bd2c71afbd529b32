"""One optimiser step against closed forms: AdamW by hand in NumPy, schedule, clip, skipped steps, moving average."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.contestants import TrainingRecipe
from benchmarks.contestants.precision import half_precision
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.execution import optimisation
from benchmarks.execution.optimisation import Optimisation, learning_rate

PREPROCESSING = Preprocessing(None, (-200.0, 300.0), 0.0, 100.0)


def recipe(**changes: Any) -> TrainingRecipe:
    return TrainingRecipe(PREPROCESSING, (8, 8, 4), **changes)


class ByHand:
    """AdamW (Loshchilov & Hutter, algorithm 2) with clipped gradients, in NumPy and float64."""

    def __init__(self, weights: np.ndarray, rate: float, decay: float, clip: float) -> None:
        self.weights, self.rate, self.decay, self.clip = weights.copy(), rate, decay, clip
        self.first, self.second, self.steps = np.zeros_like(weights), np.zeros_like(weights), 0

    def step(self, gradient: np.ndarray, rate: float | None = None) -> None:
        rate = self.rate if rate is None else rate
        gradient = gradient * min(1.0, self.clip / (np.linalg.norm(gradient) + 1e-6))
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first = self.first / (1 - 0.9**self.steps)
        second = self.second / (1 - 0.999**self.steps)
        self.weights = self.weights * (1 - rate * self.decay) - rate * first / (np.sqrt(second) + 1e-8)


def parameter(values: np.ndarray) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.from_numpy(values.copy()))


def take(chosen: Optimisation, gradient: np.ndarray, progress: float) -> None:
    """A step on a loss that is linear, so that its gradient is the one given."""
    chosen.backward((chosen.parameters[0] * torch.from_numpy(gradient)).sum())
    chosen.step(progress)


@pytest.mark.parametrize(
    ("progress", "rate"),
    [
        (0.0, 1.0 * 1e-3 / 0.2),  # a first step that is not of length zero
        (0.05, 0.25),
        (0.1, 0.5),
        (0.2, 1.0),
        (0.6, 0.1 + 0.9 * 0.5),
        (0.9, 0.1 + 0.9 * 0.125),
        (1.0, 0.1),
        (1.3, 0.1),
    ],
)
def test_the_rate_rises_and_falls_linearly(progress: float, rate: float) -> None:
    chosen = recipe(learning_rate=1.0, final_learning_rate=0.1, warm_up=0.2)
    assert learning_rate(chosen, progress) == pytest.approx(rate, rel=1e-12)


def test_without_warm_up_the_rate_only_falls() -> None:
    chosen = recipe(learning_rate=2.0, final_learning_rate=0.0, warm_up=0.0)
    assert [learning_rate(chosen, progress) for progress in (0.0, 0.25, 1.0)] == [2.0, 1.5, 0.0]


def test_steps_are_those_of_adamw_by_hand() -> None:
    random = np.random.default_rng(3)
    start = random.normal(size=300)
    chosen = recipe(learning_rate=0.02, final_learning_rate=0.002, warm_up=0.3, weight_decay=0.1, gradient_clip=5.0)
    weights = parameter(start)
    ours, hand = Optimisation([weights], chosen, "cpu", None), ByHand(start, 0, 0.1, 5.0)
    for number in range(10):
        progress = number / 10
        gradient = random.normal(size=300) * (10 if number % 3 == 0 else 0.01)  # some clipped, some not
        rate = 0.02 * max(progress, 1e-3) / 0.3 if progress < 0.3 else 0.002 + 0.018 * (1 - progress) / 0.7
        take(ours, gradient, progress)
        hand.step(gradient, rate)
        np.testing.assert_allclose(weights.detach().numpy(), hand.weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("length", "kept"), [(100.0, 0.5), (0.5 + 1e-9, 0.5), (0.3, 0.3)])
def test_the_clip_bounds_the_gradient_that_the_moments_take(length: float, kept: float) -> None:
    """The first moment after one step is a tenth of the gradient as it was used."""
    gradient = np.random.default_rng(0).normal(size=50)
    gradient *= length / np.linalg.norm(gradient)
    chosen = Optimisation([parameter(np.zeros(50))], recipe(gradient_clip=0.5), "cpu", None)
    take(chosen, gradient, 0.5)
    (state,) = chosen.adamw.state_dict()["state"].values()
    assert float(state["exp_avg"].norm()) == pytest.approx(0.1 * kept, rel=1e-4)


@pytest.mark.parametrize("clip", [0, -1.0, float("nan")])
def test_a_clip_that_lets_no_gradient_pass_is_no_recipe(clip: float) -> None:
    """torch scales every gradient by clip / norm: with 0 nothing would ever be learned, and nobody told."""
    with pytest.raises(ValueError, match="gradient_clip is a norm above 0"):
        recipe(gradient_clip=clip)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(bad: float, where: str) -> None:
    weights = parameter(np.arange(5.0))
    ours = Optimisation([weights], recipe(learning_rate=0.1, weight_decay=0.5, ema_decay=0.0), "cpu", None)
    clean = Optimisation([other := parameter(np.arange(5.0))], ours.recipe, "cpu", None)
    gradients = np.random.default_rng(1).normal(size=(4, 5))
    for number, gradient in enumerate(gradients):
        take(ours, gradient, number / 4)
        take(clean, gradient, number / 4)
        if number == 1:
            assert ours.skips() == (0, 0)
            before = weights.detach().clone()
            for _ in range(3):
                loss = (weights * torch.from_numpy(gradient)).sum()
                # A constant added to the loss leaves its gradient finite: the loss itself must be looked at.
                ours.backward(loss + bad if where == "loss" else loss * bad)
                ours.step(0.9)
            assert torch.equal(weights.detach(), before)
            assert ours.skips() == (3, 3)
    assert ours.skips() == (3, 0)
    assert torch.equal(weights.detach(), other.detach())
    assert str(ours.adamw.state_dict()["state"]) == str(clean.adamw.state_dict()["state"])


def test_accumulated_batches_make_the_step_of_their_mean() -> None:
    start, gradients = np.arange(6.0), np.random.default_rng(2).normal(size=(3, 6))
    ours = Optimisation([weights := parameter(start)], recipe(accumulate=3, gradient_clip=1e9), "cpu", None)
    for gradient in gradients:
        ours.backward((weights * torch.from_numpy(gradient)).sum())
    ours.step(0.0)
    hand = ByHand(start, learning_rate(ours.recipe, 0.0), 0.0, 1e9)
    hand.step(gradients.mean(0))
    np.testing.assert_allclose(weights.detach().numpy(), hand.weights, rtol=1e-12)


def test_the_moving_average_follows_the_weights_and_stands_in_for_them() -> None:
    ours = Optimisation([weights := parameter(np.arange(4.0))], recipe(ema_decay=0.3, learning_rate=0.5), "cpu", None)
    expected = np.arange(4.0)
    for number in range(1, 6):
        take(ours, np.ones(4), 0.1)
        decay = min(0.3, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weights.detach().numpy()
    own = weights.detach().clone()
    with ours.averaged():
        np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-12)
        assert not torch.equal(weights.detach(), own)
    assert torch.equal(weights.detach(), own)


def test_the_state_is_enough_to_go_on() -> None:
    chosen = recipe(learning_rate=0.1, ema_decay=0.5)
    ours = Optimisation([weights := parameter(np.arange(4.0))], chosen, "cpu", None)
    take(ours, np.ones(4), 0.1)
    copy = Optimisation([other := parameter(weights.detach().numpy())], chosen, "cpu", None)
    file = io.BytesIO()
    torch.save(ours.state(), file)
    file.seek(0)
    copy.load(torch.load(file, weights_only=True), skipped=2)
    for one in (ours, copy):
        take(one, np.arange(4.0), 0.5)
    assert torch.equal(weights.detach(), other.detach())
    with ours.averaged(), copy.averaged():
        assert torch.equal(weights.detach(), other.detach())
    assert copy.skips() == (2, 0)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bf16_computes_in_fp16(
    has_bf16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert half_precision("cuda", True) is expected
    assert half_precision("cuda", True, float16=False) is (torch.bfloat16 if has_bf16 else None)
    assert half_precision("cuda", False) is None
    assert half_precision("cpu", True) is None


def test_a_loss_in_fp16_is_scaled_and_an_overflow_halves_the_scale() -> None:
    """On the CPU, where torch has the same scaler. A gradient of 1e-6 would be 0 in float16 after squaring."""
    ours = Optimisation([weights := parameter(np.ones(3, np.float32))], recipe(learning_rate=0.1), "cpu", torch.float16)
    with ours.autocast():
        assert torch.nn.functional.linear(weights[None], weights[None]).dtype is torch.float16
    hand = ByHand(np.ones(3), 0, 0.0, 1.0)
    scale = ours._scaler.get_scale()
    assert scale == optimisation.FIRST_SCALE
    for gradient in ([1e-3, 2e-3, 3e-3], [np.nan, 0, 0], [3e-3, 1e-3, 2e-3]):
        ours.backward((weights * torch.tensor(gradient)).sum())
        ours.step(0.5)
        if np.isfinite(gradient).all():
            hand.step(np.array(gradient), learning_rate(ours.recipe, 0.5))
    np.testing.assert_allclose(weights.detach().numpy(), hand.weights, rtol=1e-5)
    assert ours.skips() == (1, 0)
    assert ours._scaler.get_scale() == scale / 2
