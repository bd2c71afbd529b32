"""What a sweep searches and where it begins, without Ray running."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.contestants import Budget, Method, Target, method, methods
from benchmarks.execution.training_job import TrainingJob
from benchmarks.execution.tuning import default_point, search_space, write_best
from benchmarks.results.sweep import Trial

SPACE = {
    "rate": ["loguniform", 1e-3, 1e-1],
    "share": ["uniform", 0.0, 0.5],
    "layers": ["randint", 1, 4],
    "form": ["choice", ["a", "b"]],
}


def method_with(**settings: object) -> Method:
    return replace(method("mock-noop"), config=settings, search_space=SPACE)


def test_a_sweep_begins_with_the_setting_it_is_given() -> None:
    chosen = method_with(rate=0.01, share=0.2, layers=2, form="a", other=1)
    assert default_point(chosen, {"share": 0.3}) == {"rate": 0.01, "share": 0.3, "layers": 2, "form": "a"}


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ((0.01, 0.2, 2, "a"), ((1e-3, 1e-1), (0.0, 0.5), (1, 4), ["a", "b"])),
        ((0.5, 0.7, 4, "c"), ((1e-3, 0.5), (0.0, 0.7), (1, 5), ["c", "a", "b"])),
        ((1e-4, -1.0, 0, "b"), ((1e-4, 1e-1), (-1.0, 0.5), (0, 4), ["a", "b"])),
    ],
)
def test_a_domain_reaches_to_where_the_sweep_begins(
    settings: tuple[float, float, int, str], ends: tuple[object, ...]
) -> None:
    start = dict(zip(SPACE, settings, strict=True))
    space = search_space(method_with(**start), start)
    assert [(space[knob].lower, space[knob].upper) for knob in ("rate", "share", "layers")] == list(ends[:3])
    assert space["form"].categories == ends[3]


def test_every_installed_method_can_begin_a_sweep_with_its_own_setting() -> None:
    for one in methods().values():
        if one.search_space:
            start = default_point(one, {})
            for knob, domain in search_space(one, start).items():
                assert domain.is_valid(start[knob]), f"{one.name}: {knob} = {start[knob]}"


def test_the_best_setting_keeps_what_the_sweep_had_fixed(tmp_path: Path) -> None:
    job = TrainingJob("mock-learner", {"dropout": 0.5, "batch_size": 1}, Target("t", "", "", (1,)), (), Budget(), 1)
    write_best(tmp_path / "best.yaml", job, Trial(3, {"batch_size": 2, "learning_rate": 0.02}, 0.5, 4, 1.0, "", None))
    assert yaml.safe_load((tmp_path / "best.yaml").read_text(encoding="utf-8")) == {
        "name": "mock-learner",
        "label": "mock-learner-tuned",
        "config": {"dropout": 0.5, "batch_size": 2, "learning_rate": 0.02},
    }
