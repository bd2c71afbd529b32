"""The GPU report runs where there is no GPU, and a section that fails costs no other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tags import model
from tests.performance.gpu import training
from tests.performance.gpu.__main__ import SECTIONS, main
from tests.performance.gpu.measuring import TimeLimitError, counted_tflop, time_limit
from tests.performance.gpu.report import Report

HERE = ["--device", "cpu", "--size", "tiny", "--quick", "--cpus", "1", "--cases", "1"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_section_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(report: Report) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setitem(SECTIONS, "step", (broken, 90.0))
    assert main([*HERE, "--sections", "matmul,step,inference", "--out", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["errors"]) == ["step"]
    assert "broken on purpose" in report["errors"]["step"]
    measured = {row["section"]: row for row in report["rows"]}
    assert set(measured) == {"matmul", "inference"}
    assert all(row["seconds"] > 0 for row in report["rows"])
    assert "broken" not in (tmp_path / "report.txt").read_text()


def test_a_training_step_is_timed_and_its_work_is_counted(tmp_path: Path) -> None:
    report = Report("tiny", "cpu", tmp_path, quick=True, cases=1, cpus=1)
    segmenter = report.segmenter
    segmenter.settings = replace(segmenter.settings, corrections=0)  # else their number is drawn, anew for each size
    training._step(report, "batch 1", 1, checkpointing=False)
    training._step(report, "batch 2", 2, checkpointing=True)
    one, two = report.rows
    assert one.seconds
    assert one.tflop
    assert two.tflop == pytest.approx(2 * one.tflop, rel=0.01)


def test_recomputation_is_switched_for_decoding_rounds_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both times: the FLOP of a step are those without, and a section that is cut off leaves it off."""
    report = Report("tiny", "cpu", tmp_path, quick=True, cases=1, cpus=1)
    module, again = report.module, []
    real = model.recomputed
    monkeypatch.setattr(model, "recomputed", lambda *given: again.append(module.encoder.checkpointing) or real(*given))
    training.recompute(module, True)
    training._step(report, "batch 1", 1, checkpointing=False)
    assert again == []
    training._step(report, "batch 1", 1, checkpointing=True)
    assert again
    assert all(again)
    monkeypatch.setattr(training, "_step", lambda *given: (_ for _ in ()).throw(TimeLimitError("too long")))
    with pytest.raises(TimeLimitError):
        training.measure_step(report)
    assert not module.config.checkpointing
    assert not module.encoder.checkpointing


def test_time_limit_ends_a_section_and_gives_the_timer_back() -> None:
    with pytest.raises(TimeLimitError, match=r"within 0\.05 s"), time_limit(0.05):
        time.sleep(2)
    with time_limit(5):
        pass


def test_depthwise_convolution_counts_as_what_it_is() -> None:
    x, weight = torch.randn(1, 6, 4, 4, 4, requires_grad=True), torch.randn(6, 1, 3, 3, 3, requires_grad=True)

    def both() -> None:
        torch.nn.functional.conv3d(x, weight, padding=1, groups=6).sum().backward()

    assert counted_tflop(both) * 1e12 == pytest.approx(3 * 2 * 4**3 * 6 * 27)


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*HERE, "--sections", "matmul,stairs"])
    assert "no section 'stairs'" in capsys.readouterr().err
