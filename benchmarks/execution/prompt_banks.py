"""Which prompt bank a run of a suite replays, and where it lies."""

from __future__ import annotations

from pathlib import Path

from benchmarks.data.dataset import Dataset, fingerprint_cases
from benchmarks.execution.suite import Suite
from benchmarks.prompting.bank import PromptBank, file_name
from benchmarks.prompting.protocol import Protocol


def bank_file(prompts_folder: Path, suite: Suite, dataset: Dataset, fold: int, protocol: Protocol) -> Path:
    """Where a run of the suite looks for the bank; `prompts_folder` is that of `benchmarks.execution.plan.Folders`."""
    files = fingerprint_cases(dataset.split_cases(suite.part, fold))
    return prompts_folder / files / file_name(dataset.name, f"{suite.part}-{fold}", protocol, suite.seed)


def frozen_bank(prompts_folder: Path, suite: Suite, dataset: Dataset, fold: int, protocol: Protocol) -> PromptBank:
    """The bank that a run of the suite replays; made if there is none yet."""
    folder = bank_file(prompts_folder, suite, dataset, fold, protocol).parent
    return PromptBank.frozen(folder, dataset, suite.part, fold, protocol, suite.seed)
