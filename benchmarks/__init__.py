"""The bench: volumes, prompts, metrics, Ray and MLflow. Knows no model.

    import benchmarks
    suite = benchmarks.load_suite("phantom", datasets=["lits17"], methods=["ball", "region-growing"])
    benchmarks.run(suite)

The names below are loaded when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.api import (
        BudgetChanges,
        GivenPrompts,
        InstalledMethod,
        MethodOfCheckpoint,
        MethodOfRun,
        OwnData,
        PredictOptions,
        ReportChoice,
        Suite,
        ablate,
        compare,
        load_results,
        load_suite,
        predict,
        predict_table,
        rehearse,
        report,
        run,
        score,
        show,
        train,
        tune,
    )

__all__ = [
    "BudgetChanges",
    "GivenPrompts",
    "InstalledMethod",
    "MethodOfCheckpoint",
    "MethodOfRun",
    "OwnData",
    "PredictOptions",
    "ReportChoice",
    "Suite",
    "ablate",
    "compare",
    "load_results",
    "load_suite",
    "predict",
    "predict_table",
    "rehearse",
    "report",
    "run",
    "score",
    "show",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'benchmarks' has no attribute '{name}'")
    return getattr(import_module("benchmarks.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
