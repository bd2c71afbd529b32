"""`tags-bench zoo train`: the weights that come with the methods, trained on phantoms that no suite evaluates.

Every number follows from the seed and the steps. A training is kept in the output folder under its own digest, so an
interrupted call goes on where it was. What is put into the package is half its size: floating-point weights are rounded
to 16 bits, and the card holds the digest of these files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common.content import sha256_of_all
from benchmarks.common.environment import revision
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import read_json, write_json
from benchmarks.common.identity import digest_of_folder
from benchmarks.contestants import Budget, Method, methods
from benchmarks.contestants import method as find_method
from benchmarks.data.catalogue import load_dataset
from benchmarks.data.dataset import Dataset
from benchmarks.data.phantom import synthesise
from benchmarks.execution.apart import Tell, call_at_home
from benchmarks.execution.datasets import Folders
from benchmarks.execution.progress import Progress
from benchmarks.execution.training import run_job
from benchmarks.execution.training_job import TrainingJob, checkpoint_folder
from benchmarks.execution.training_watch import curve_file
from benchmarks.weights.zoo import CARD, CHECKPOINT, JOINT, MARK, zoo_folder

SEED = 71  # of phantoms and trainings; the suites have others
CASES = 96  # phantoms of each data set
DATASETS = ("kits21", "msd-pancreas", "lits17")
LINE_EVERY_SECONDS = 60.0
LEFT_OUT = (".log",)  # of a checkpoint; whatever else `save` has written `load` may ask for


@dataclass(frozen=True)
class ZooOrder:
    """What is to be trained, on what.

    Attributes:
        methods: names; none stand for all that bring weights.
        steps: of each training, in place of what the methods announce.
        cpus, gpus: of a training; more of them are only faster.
        zoo: folder that takes the weights in place of the methods' own packages.
    """

    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = DATASETS
    steps: int | None = None
    seed: int = SEED
    cases: int = CASES
    cpus: int = 1
    gpus: float = 0.0
    zoo: Path | None = None

    def chosen(self) -> list[Method]:
        """The methods by name. Raises UserError for one that does not exist or brings no weights."""
        bring = {name: method for name, method in methods().items() if method.zoo is not None}
        for name in self.methods:
            if find_method(name).zoo is None:
                raise UserError(f"method '{name}' brings no weights of its own; {nearest_name(name, bring)}")
        return [bring[name] for name in self.methods or bring]

    def command(self, method: Method) -> str:
        """The command that makes the weights of one method again."""
        steps = self.steps_of(method)
        sizes = f"--steps {steps} --seed {self.seed} --cases {self.cases}"
        return f"tags-bench zoo train --methods {method.name} --datasets {','.join(self.datasets)} {sizes}"

    def steps_of(self, method: Method) -> int:
        assert method.zoo is not None
        return self.steps or method.zoo.steps

    def place(self, method: Method) -> Path:
        """The folder that takes the weights of one method."""
        own = zoo_folder(method)
        assert own is not None
        return own if self.zoo is None else self.zoo / method.name


def train(order: ZooOrder, folders: Folders, progress: Progress) -> list[dict[str, Any]]:
    """Train one after another and put the weights into their place; the rows of `as_row`.

    Raises:
        UserError: an unknown method or data set, or a method that brings no weights.
    """
    chosen = order.chosen()
    datasets = []
    for name in order.datasets:
        with progress.step(f"drawing {order.cases} phantoms of {name}"):
            datasets.append(_phantoms(name, order, folders))
    rows = []
    for method in chosen:
        for part, members in _parts(method, datasets):
            what = f"{method.name} ({part})"
            job = _job(order, method, members)
            curve = curve_file(checkpoint_folder(folders.checkpoints, job))
            with progress.step(f"training {what}, {order.steps_of(method)} steps"), _followed(what, curve, progress):
                rows.append(as_row(_train(job, order, part, members, folders)))
    return rows


def as_row(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card in a line of a table."""
    return {
        "method": card["method"],
        "datasets": ", ".join(card["datasets"]),
        "steps": card["steps"],
        "training_s": round(card["seconds_training"]),
        "parameters": card["parameters"],
        "KB": round(card["bytes"] / 1000),
        "digest": card["digest"],
    }


def _phantoms(name: str, order: ZooOrder, folders: Folders) -> Dataset:
    root = synthesise(name, folders.data / "phantom", seed=order.seed, cases=order.cases)
    return load_dataset(name, root, seed=order.seed)


def _parts(method: Method, datasets: Sequence[Dataset]) -> list[tuple[str, list[Dataset]]]:
    """The trainings of a method: the folder's name and the data sets of each."""
    assert method.zoo is not None
    if method.zoo.joint and len(datasets) > 1:
        return [(JOINT, list(datasets))]
    return [(dataset.name, [dataset]) for dataset in datasets]


@contextmanager
def _followed(what: str, curve: Path, progress: Progress) -> Iterator[None]:
    """Say every minute how far the training is, and in the end how long it took."""
    began, over = time.monotonic(), threading.Event()

    def follow() -> None:
        while not over.wait(LINE_EVERY_SECONDS):
            progress.line(f"{what}: {_how_far(curve)}{(time.monotonic() - began) / 60:.0f} min")

    thread = threading.Thread(target=follow, name="zoo-progress", daemon=True)
    thread.start()
    try:
        yield
        progress.line(f"{what}: trained, {(time.monotonic() - began) / 60:.1f} min")
    finally:
        over.set()
        thread.join()


def _how_far(curve: Path) -> str:
    """Share of the budget and loss at the last point of the curve, if there is one."""
    try:
        last = read_json(curve)[-1]
        return f"{last['progress']:.0%}, loss {last['loss']:.3g}, "
    except (UserError, LookupError, TypeError):  # none yet, or a method with a loop of its own
        return ""


def _job(order: ZooOrder, method: Method, datasets: Sequence[Dataset]) -> TrainingJob:
    targets = [(dataset.targets[0], tuple(dataset.cases.values())) for dataset in datasets]
    budget = Budget(steps=order.steps_of(method), cpus=order.cpus, gpus=order.gpus)
    (target, cases), *further = targets
    return TrainingJob(method.name, {}, target, cases, budget, order.seed, further=tuple(further))


def _train(
    job: TrainingJob, order: ZooOrder, part: str, datasets: Sequence[Dataset], folders: Folders
) -> dict[str, Any]:
    method = find_method(job.method)
    kept = checkpoint_folder(folders.checkpoints, job)
    log = folders.logs / "zoo" / f"{method.name}-{part}.log"
    work = partial(_trained, job, kept, log, folders.cache)
    figures = call_at_home(method.name, method.environment, work, lambda told: None)
    place = order.place(method) / part
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{part}.", dir=place.parent) as unfinished:
        new = Path(unfinished) / part
        _put(kept / "checkpoint", new / CHECKPOINT)
        card = {
            **_origin(order, method, datasets),
            **_course(figures),
            "phantoms": _marks(order, datasets),
            "bytes": sum(file.stat().st_size for file in (new / CHECKPOINT).rglob("*") if file.is_file()),
            "digest": digest_of_folder(new / CHECKPOINT),
        }
        write_json(new / CARD, card)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(new, place)
    return card


def _trained(job: TrainingJob, folder: Path, log: Path, cache: Path, tell: Tell) -> dict[str, Any]:
    return run_job(job, folder, log=log, cache=cache)


def _origin(order: ZooOrder, method: Method, datasets: Sequence[Dataset]) -> dict[str, Any]:
    commit, dirty = revision()
    return {
        "method": method.name,
        "method_version": method.training_version,
        "datasets": [dataset.name for dataset in datasets],
        "command": order.command(method),
        "git_commit": commit,
        "git_dirty": dirty,
        "config": method.training_config(),
        "licence": "Apache-2.0",
        "precision": "float16",
    }


def _course(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What the card tells of the training, whoever's loop it was."""
    curve = [{key: round(point[key], 4) for key in ("step", "loss")} for point in figures.get("curve", ())]
    return {
        "steps": figures.get("steps", figures.get("iterations")),
        "seed": figures["seed"],
        "seconds_training": round(figures["seconds_training"], 1),
        "device": figures.get("device", "cpu"),
        "parameters": figures["parameters"],
        "curve": curve or figures.get("loss_curve", []),
    }


def _marks(order: ZooOrder, datasets: Sequence[Dataset]) -> dict[str, Any]:
    """The phantoms, so that no evaluation takes one of them."""
    images = sha256_of_all([case.image for dataset in datasets for case in dataset.cases.values()])
    return {
        "seed": order.seed,
        "cases": order.cases,
        "versions": [dataset.version for dataset in datasets],
        "images": [content[:MARK] for content in images],
    }


def _put(checkpoint: Path, place: Path) -> None:
    """Copy a checkpoint without its logs, floating-point weights of .safetensors and .pth rounded to 16 bits."""
    import torch
    from safetensors.torch import load_file, save_file

    for source in sorted(checkpoint.rglob("*")):
        if not source.is_file() or source.suffix in LEFT_OUT:
            continue
        target = place / source.relative_to(checkpoint)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".safetensors":
            save_file(_halved(load_file(source)), target)
        elif source.suffix == ".pth":
            torch.save(_halved(torch.load(source, map_location="cpu", weights_only=True)), target)
        elif source.suffix == ".json":
            target.write_text(json.dumps(json.loads(source.read_text("utf-8")), sort_keys=True) + "\n", "utf-8")
        else:
            shutil.copyfile(source, target)
        target.chmod(0o644)  # a package is read by anybody


def _halved(content: Any, known: dict[int, Any] | None = None) -> Any:
    """The same with every floating-point tensor in 16 bits; tensors that were one stay one."""
    import torch

    known = {} if known is None else known
    if isinstance(content, torch.Tensor):
        if content.data_ptr() not in known:
            kind = torch.float16 if content.is_floating_point() else content.dtype
            known[content.data_ptr()] = content.to(kind).contiguous()
        return known[content.data_ptr()].view(content.shape)
    if isinstance(content, dict):
        return {key: _halved(value, known) for key, value in content.items()}
    return content
