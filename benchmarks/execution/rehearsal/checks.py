"""What a suite needs and whether it is here: data, official files, licences, machine. Nothing is fetched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.common.errors import UserError
from benchmarks.contestants import method as find_method
from benchmarks.data import registry
from benchmarks.data.catalogue import datasets as known_datasets
from benchmarks.data.catalogue import sources
from benchmarks.data.splits import split_rows
from benchmarks.execution.entries import DatasetEntry, MethodEntry
from benchmarks.execution.suite import Suite
from benchmarks.weights.official_files import Announced, by_hand, official_files, readable, verify

AUGMENTERS = 12  # processes that keep one GPU busy under nnU-Net
Found = Literal["ok", "missing", "wrong", "too little", "phantoms"]


@dataclass(frozen=True)
class Check:
    """One thing that the suite needs.

    Attributes:
        what: a dataset, a file or a part of the machine.
        state: "phantoms": data that the suite makes itself.
        detail: what was found.
        remedy: how to get it; empty where nothing is to be done.
    """

    what: str
    state: Found
    detail: str
    remedy: str = ""


def data_checks(suite: Suite) -> list[Check]:
    """The datasets of the suite and those that it trains on, each once."""
    entries = {entry.name: entry for entry in _with_training(suite.datasets)}
    return [_data_check(entry) for entry in entries.values()]


def _with_training(entries: Iterable[DatasetEntry]) -> list[DatasetEntry]:
    return [one for entry in entries for one in (entry, entry.train_on) if one is not None]


def _data_check(entry: DatasetEntry) -> Check:
    if entry.source == "phantom":
        return Check(entry.name, "phantoms", f"{entry.cases} synthetic cases, made by the suite itself")
    if entry.source:
        there = Path(entry.source).expanduser().exists()
        detail = entry.source if there else f"{entry.source} is not there"
        return Check(entry.name, "ok" if there else "missing", detail, "" if there else "mend `source` in the suite")
    info = known_datasets().get(entry.name)
    source = sources().get(entry.name)
    fetched = source is not None and source.fetch is not None
    fetch = f"`tags-bench data fetch {entry.name}`, or " if fetched else ""
    remedy = f"{fetch}`tags-bench data add {entry.name} --from DIR`"
    licence = f"; licence {info.licence}" if info else ""
    if entry.name not in registry.registrations():
        expected = f"{info.cases} cases, {info.title}" if info else "not on this machine"
        return Check(entry.name, "missing", expected + licence, remedy)
    try:
        dataset = registry.load(entry.name, splits=entry.splits)
    except UserError as error:
        return Check(entry.name, "wrong", str(error), f"`tags-bench data verify {entry.name}`")
    found = registry.registration(entry.name)
    fold = split_rows(dataset.splits)[min(entry.fold_number, len(dataset.splits) - 1)]
    detail = (
        f"{found.cases} cases, {len(found.excluded)} left out; {dataset.split_source}: {fold['train']} train, "
        f"{fold['test']} test, split {fold['sha256']}{licence}"
    )
    partial = next((note for note in found.notes if note.startswith("partial")), "")
    return Check(entry.name, "too little" if partial else "ok", f"{partial}; {detail}" if partial else detail,
                 remedy if partial else "")  # fmt: skip


def files_of(suite: Suite) -> list[Announced]:
    """The official files that the methods of the suite use on its datasets."""
    names = {entry.name for entry in _with_training(suite.datasets)}
    used = {method.name: method for method in (find_method(entry.name) for entry in suite.methods)}
    found = official_files(used.values()).values()
    return [one for one in found if any(not use.datasets or names & set(use.datasets) for use in one.uses)]


def file_checks(suite: Suite) -> list[Check]:
    """Every official file: read to its end, with its checksum where one is published."""
    return [_file_check(one) for one in files_of(suite)]


def _file_check(one: Announced) -> Check:
    file = one.file
    about = f"{readable(file.bytes)}, {file.licence}, for {', '.join(one.methods)}"
    row = verify(one)
    if row["state"] == "absent":
        how = f"`tags-bench weights fetch {file.name}`" if file.url else by_hand(file)
        return Check(file.name, "missing", about, how)
    if row["problem"]:
        return Check(file.name, "wrong", f"{row['problem']}; {about}", f"remove {file.path} and get it again")
    checked = "checksum as published" if row["state"] == "verified" else f"no checksum published, {row['sha256'][:12]}…"
    return Check(file.name, "ok", f"{checked}; {about}")


def licence_rows(entries: Iterable[MethodEntry]) -> list[dict[str, str]]:
    """What is accepted by running these methods: licences of code and weights, and what the weights have seen."""
    cards = {entry.name: find_method(entry.name).card for entry in entries}
    return [
        {
            "method": name,
            "code": card.code_licence,
            "weights": card.weights_licence,
            "has seen": ", ".join(f"{data}: {seen}" for data, seen in card.training_data.items()),
        }
        for name, card in cards.items()
    ]


def machine_checks(suite: Suite, out: Path, address: str | None = None) -> list[Check]:
    """Processors and GPUs of the largest machine against what a worker asks for; memory and disk as they are.

    Raises:
        UserError: no Ray cluster at the address.
    """
    import psutil

    from benchmarks.execution.doctor import gpu_line

    wanted = suite.budget
    cpus, gpus, seen = _largest_node(address) if address else (os.cpu_count() or 1, _gpus(), gpu_line())
    memory, disk = psutil.virtual_memory().total / 1e9, shutil.disk_usage(out).free / 1e9
    checks = [
        _enough("processors", cpus, wanted.cpus, f"{cpus:g}; {wanted.cpus} for each worker", "--cpus"),
        _enough("GPUs", gpus, wanted.gpus, f"{seen}; {wanted.gpus:g} for each worker", "--address or --gpus 0"),
        Check("memory", "ok", f"{memory:.0f} GB; see the largest process of the road below"),
        Check("disk", "ok", f"{disk:.0f} GB free at {out}; see what the whole takes below"),
    ]
    nnunet = any(entry.name.startswith("nnunet") for entry in suite.methods)
    if nnunet and wanted.gpus and wanted.cpus < AUGMENTERS:
        said = f"{wanted.cpus} for each worker; nnU-Net's authors augment with {AUGMENTERS} or more for a GPU"
        checks.append(Check("augmentation", "too little", said, f"--cpus {AUGMENTERS}"))
    return checks


def _enough(what: str, found: float, wanted: float, detail: str, option: str) -> Check:
    if found >= wanted:
        return Check(what, "ok", detail)
    return Check(what, "too little", detail, f"another machine, or {option}")


def _largest_node(address: str) -> tuple[float, float, str]:
    """Processors and GPUs of the largest node of a cluster, and a line about all of them."""
    from benchmarks.execution.cluster import size_of_ray, start_ray
    from benchmarks.execution.crew import Machines

    start_ray(address)
    machines = Machines()
    try:
        largest = max(machines.now(), key=lambda node: (node.gpus, node.cpus))
    finally:
        machines.close()
    return largest.cpus, largest.gpus, f"{largest.gpus:g} on the largest of {size_of_ray()}"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
