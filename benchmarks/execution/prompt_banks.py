"""Which prompt bank a run of a suite replays, and where it lies."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common.identity import digest
from benchmarks.data.dataset import Dataset, fingerprint_cases
from benchmarks.execution.suite import Suite
from benchmarks.prompting.bank import PromptBank, file_name
from benchmarks.prompting.protocol import Protocol


def bank_folder(prompts_folder: Path, files: str, dataset: Dataset) -> Path:
    """Where the banks of these very files (their fingerprint) and targets lie: a run with another label value has its
    own."""
    targets = [[target.name, target.labels] for target in dataset.targets]
    return prompts_folder / digest([files, targets])


def bank_file(prompts_folder: Path, suite: Suite, dataset: Dataset, fold: int, protocol: Protocol) -> Path:
    """Where a run of the suite looks for the bank; `prompts_folder` is that of its `Folders`."""
    files = fingerprint_cases(dataset.split_cases(suite.part, fold))
    folder = bank_folder(prompts_folder, files, dataset)
    return folder / file_name(dataset.name, f"{suite.part}-{fold}", protocol, suite.seed)


def frozen_bank(prompts_folder: Path, suite: Suite, dataset: Dataset, fold: int, protocol: Protocol) -> PromptBank:
    """The bank that a run of the suite replays; made if there is none yet."""
    folder = bank_file(prompts_folder, suite, dataset, fold, protocol).parent
    return PromptBank.frozen(folder, dataset, suite.part, fold, protocol, suite.seed)
