"""An actor without a scheduler; in a module of its own, so that its process imports no more than a worker of ours."""

from __future__ import annotations

import time
from typing import Any

from mock_methods import MockSegmenter

from benchmarks.data.dataset import Case
from benchmarks.execution.evaluate import evaluate_case
from benchmarks.execution.worker import Evaluation, warm_up


class PlainActor:
    """What a case costs where nothing is scheduled and nothing is written."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._segmenter = MockSegmenter("second", "")

    def warm_up(self) -> None:
        warm_up()

    def sleep(self) -> None:
        time.sleep(1.0)

    def evaluate(self, case: Case) -> list[dict[str, Any]]:
        return evaluate_case(case, self._segmenter, self._evaluation)
