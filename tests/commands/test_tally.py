"""How long the rest of a run may take, against runs whose length is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.commands.tally import Tally

A, B, C, D = (Path(name) for name in "abcd")


def test_the_time_left_counts_only_what_this_run_has_done() -> None:
    tally = Tally({A: 100, B: 100}, now=0.0)
    tally.advanced(A, 60)  # of an earlier run
    tally.advanced(B, 0)
    assert tally.seconds_left(50.0) is None
    tally.stage(B, "loading", 10.0)
    tally.stage(B, "evaluating", 100.0)
    tally.advanced(B, 20)
    assert tally.seconds_left(140.0) == pytest.approx(120 * 40 / 20)  # 120 are left, 20 took 40 s
    tally.failed = 3
    assert tally.line(140.0) == "2 min: 80 of 200 cases, 3 failed, evaluating 1 unit, about 4 min left"


def test_trainings_and_cases_have_a_cost_of_their_own() -> None:
    """Four trainings of 300 s, two at a time, then 10 cases each of 2 s, two units at a time: 600 s and 40 s.

    At the pace of the cases alone, 20 of 40 after 620 s would leave another 620 s.
    """
    tally = Tally(dict.fromkeys((A, B, C, D), 10), now=0.0)
    for unit in (A, B, C, D):
        tally.advanced(unit, 0)
        tally.stage(unit, "to be trained", 0.0)
    assert tally.time_left(0.0) == ""
    for unit in (A, B):
        tally.stage(unit, "training", 0.0)
    for unit in (A, B):
        tally.trained(unit, 0.25, 75.0)
    assert tally.time_left(75.0) == ""
    for unit in (A, B):
        tally.trained(unit, 0.5, 150.0)
    assert tally.seconds_left(150.0) is None  # nobody knows what a case costs
    assert tally.line(150.0) == "2 min: 0 of 40 cases, training 2 units, about 8 min of training left"  # 450 s
    for unit, after in ((A, C), (B, D)):
        tally.stage(unit, "waiting", 300.0)
        tally.stage(after, "training", 300.0)
    assert tally.time_left(300.0) == "about 5 min of training left"
    for unit in (C, D):
        tally.stage(unit, "waiting", 600.0)
    for unit in (A, B):
        tally.stage(unit, "evaluating", 600.0)
        tally.advanced(unit, 5)
    assert tally.seconds_left(610.0) == pytest.approx(30.0, abs=1.0)
    for unit in (A, B):
        tally.advanced(unit, 10)
        tally.stage(unit, "done", 620.0)
    assert tally.seconds_left(620.0) == pytest.approx(20.0, abs=1.0)


def test_a_training_that_goes_on_counts_from_where_it_was() -> None:
    tally = Tally({A: 1}, now=0.0, counted="trainings")
    tally.advanced(A, 0)
    tally.stage(A, "training", 0.0)
    tally.trained(A, 0.0, 10.0)  # prepares its cases
    tally.trained(A, 0.8, 20.0)
    tally.trained(A, 0.9, 40.0)
    assert tally.seconds_left(40.0) == pytest.approx(20.0)
    tally.advanced(A, 1)
    tally.stage(A, "done", 60.0)
    assert tally.line(60.0) == "60 s: 1 of 1 trainings"


def test_a_training_that_failed_says_nothing_of_the_others() -> None:
    tally = Tally({A: 1, B: 1}, now=0.0, counted="trainings")
    for unit in (A, B):
        tally.advanced(unit, 0)
        tally.stage(unit, "to be trained", 0.0)
    tally.stage(A, "training", 0.0)
    tally.stage(A, "failed", 1.0)
    assert tally.seconds_left(2.0) is None


def test_a_training_of_two_units_is_named_once() -> None:
    """As of a method that is listed twice, with another setting of inference."""
    tally = Tally({A: 1, B: 1, C: 1}, now=0.0)
    for unit, training, text in ((A, "x", "plain 7%"), (B, "x", "mirrored 7%"), (C, "y", "other 3%")):
        tally.stage(unit, "training", 0.0)
        tally.trainings[unit] = training, text
    assert (
        tally.line(60.0)
        == "60 s: 0 of 3 cases, training 3 units, trained so far: plain 7%; other 3%, time left not known yet"
    )
