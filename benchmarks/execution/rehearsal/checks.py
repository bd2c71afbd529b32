"""What a suite needs and whether it is here: data, official files, licences, machine. Nothing is fetched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
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
from benchmarks.execution.rehearsal.costs import Cost
from benchmarks.execution.rehearsal.road import Passage
from benchmarks.execution.suite import Suite
from benchmarks.weights.official_files import (
    Announced,
    by_hand,
    licence_accepted,
    official_files,
    size_words,
    verify,
)

AUGMENTERS = 12  # processes that keep one GPU busy under nnU-Net
ROOM = 0.9  # of the memory that a process may take, so that the machine lives
Found = Literal["ok", "missing", "wrong", "not accepted", "too little", "not measured", "phantoms"]


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
    size = size_words(file.bytes) if file.bytes is not None else "size unknown"
    about = f"{size}, {file.licence}, for {', '.join(one.methods)}"
    row = verify(one)
    if row["state"] == "absent":
        how = f"`tags-bench weights fetch {file.name}`" if file.url else by_hand(file)
        kind = file.checksum.partition(":")[0]
        return Check(
            file.name, "missing", f"{about}; {f'{kind.upper()} published' if kind else 'no checksum published'}", how
        )
    if file.restricted and not licence_accepted(file):
        return Check(file.name, "not accepted", f"its licence restricts the use; {about}",
                     f"`tags-bench weights fetch {file.name} --accept-licence`")  # fmt: skip
    if row["problem"]:
        return Check(file.name, "wrong", f"{row['problem']}; {about}", f"remove {file.path} and get it again")
    checked = "checksum as published" if row["state"] == "verified" else f"no checksum published, {row['sha256'][:12]}…"
    return Check(file.name, "ok", f"{checked}; {about}")


def licence_rows(entries: Iterable[MethodEntry], datasets: Iterable[str]) -> list[dict[str, str]]:
    """What is accepted by running these methods: licences of code and weights, and what the weights have seen."""
    cards = {entry.name: find_method(entry.name).card for entry in entries}
    names = list(dict.fromkeys(datasets))
    return [
        {
            "method": name,
            "code": card.code_licence,
            "weights": card.weights_licence,
            "has seen": _seen(
                {data: card.training_data.get(data, card.training_data.get("*", "unknown")) for data in names}
            ),
        }
        for name, card in cards.items()
    ]


def _seen(datasets: Mapping[str, str]) -> str:
    """One word where it holds for all."""
    words = set(datasets.values())
    return words.pop() if len(words) == 1 else ", ".join(f"{name}: {word}" for name, word in datasets.items())


def machine_checks(suite: Suite, address: str | None = None) -> list[Check]:
    """Processors and GPUs of the largest machine against what a worker asks for.

    Raises:
        UserError: no Ray cluster at the address.
    """
    from benchmarks.execution.doctor import gpu_line

    wanted = suite.budget
    cpus, gpus, seen = _largest_node(address) if address else (os.cpu_count() or 1, _gpus(), gpu_line())
    checks = [
        _enough("processors", cpus, wanted.cpus, f"{cpus:g}; {wanted.cpus} for each worker", "--cpus"),
        _enough("GPUs", gpus, wanted.gpus, f"{seen}; {wanted.gpus:g} for each worker", "--address or --gpus 0"),
    ]
    nnunet = any(entry.name.startswith("nnunet") for entry in suite.methods)
    if nnunet and wanted.gpus and wanted.cpus < AUGMENTERS:
        said = f"{wanted.cpus} for each worker; nnU-Net's authors augment with {AUGMENTERS} or more for a GPU"
        checks.append(Check("augmentation", "too little", said, f"--cpus {AUGMENTERS}"))
    return checks


def room_checks(out: Path, passages: Sequence[Passage], whole: Cost) -> list[Check]:
    """Memory and disk of this machine against what the road took and the whole will take."""
    import psutil

    memory, free = psutil.virtual_memory().total / 1e9, shutil.disk_usage(out).free / 1e9
    largest = max(passages, key=lambda one: one.largest_gb, default=None)
    used = "" if largest is None else f"{largest.largest_gb:.1f} GB ({largest.method} on {largest.dataset})"
    on_gpu = max((one.gpu_gb for one in passages), default=0.0)
    disk = (
        f"{free:.0f} GB free at {out}; the whole: {whole.disk_gb:.1f} GB of masks and checkpoints, "
        f"{whole.working_gb:.0f} GB of copies for each training of nnU-Net that runs; data and files not counted"
    )
    return [
        _enough("memory", ROOM * memory, largest.largest_gb, f"{memory:.0f} GB; the largest process took {used}", "")
        if largest is not None
        else Check("memory", "ok", f"{memory:.0f} GB; nothing was rehearsed"),
        Check("GPU memory", "ok", f"at most {on_gpu:.1f} GB in use on all GPUs")
        if on_gpu
        else Check("GPU memory", "not measured", "no GPU was used"),
        _enough("disk", free, whole.disk_gb + whole.working_gb, disk, "--out elsewhere"),
    ]


def _enough(what: str, found: float, wanted: float, detail: str, option: str) -> Check:
    if found >= wanted:
        return Check(what, "ok", detail)
    return Check(what, "too little", detail, f"another machine, or {option}" if option else "another machine")


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
