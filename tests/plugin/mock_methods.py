"""A third party's methods, found by entry point like any other; they misbehave in every way that a method can."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants import (
    Batch,
    Budget,
    Environment,
    Method,
    OwnTraining,
    Segmenter,
    Session,
    Target,
    Trainable,
    TrainingRecipe,
)
from benchmarks.data.dataset import Case
from benchmarks.data.preprocessing import Preprocessing, prepare
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.prompting.prompts import PromptKind, Prompts

CLICKS = frozenset({PromptKind.NONE, PromptKind.CLICK, PromptKind.NEGATIVE_CLICK})


class MockSession(Session):
    spoilt = False  # of all sessions in a process

    def __init__(self, volume: Volume, behaviour: str, folder: str) -> None:
        self.volume, self.behaviour, self.folder, self.calls = volume, behaviour, folder, 0

    def segment(self, prompts: Prompts) -> BoolArray:
        self.calls += 1
        shape = self.volume.shape
        match self.behaviour:
            case "crash":
                raise RuntimeError("this method\nalways crashes")
            case "die":
                os._exit(3)
            case "die-once":
                if _first_time(self.folder):
                    os._exit(3)
            case "spoil-once":
                MockSession.spoilt |= _first_time(self.folder)
                if MockSession.spoilt:
                    import torch

                    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            case "memory-once":
                if _first_time(self.folder):
                    raise MemoryError("too little")
            case "memory":
                raise MemoryError("too little")
            case "second":
                time.sleep(1.0)
            case "tenth":
                time.sleep(0.1)
                return np.asarray(self.volume.array > 100 - 10 * self.calls)
            case "sleep":
                time.sleep(60)
            case "wrong-shape":
                return np.zeros((3, 3, 3), bool)
            case "threshold":  # grows with each round, so that a test can see the steps
                return np.asarray(self.volume.array > 100 - 10 * self.calls)
        return np.zeros(shape, bool)


def _first_time(folder: str) -> bool:
    """Whether nobody has asked before, in any process: a file in the folder that the test has named says so."""
    try:
        os.close(os.open(os.path.join(folder, "asked"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class MockSegmenter(Segmenter):
    def __init__(self, behaviour: str, folder: str) -> None:
        self.behaviour, self.folder = behaviour, folder

    def open(self, volume: Volume, target: Target) -> Session:
        return MockSession(volume, self.behaviour, self.folder)


class Network(Trainable):
    """One convolution that learns a threshold."""

    def __init__(self, config: dict[str, Any], device: str) -> None:
        import torch

        self.config, self.device = config, device
        self.module = torch.nn.Conv3d(1, 1, 1)

    def recipe(self, target: Target) -> TrainingRecipe:
        rate = self.config["learning_rate"]
        return TrainingRecipe(Preprocessing(None, (-200.0, 300.0), 0.0, 100.0), (16, 16, 8), 2, learning_rate=rate)

    def loss(self, batch: Batch) -> tuple[Any, dict[str, float]]:
        import torch

        loss = torch.nn.functional.binary_cross_entropy_with_logits(self.module(batch.image), batch.label)
        return loss, {"bce": float(loss.detach())}

    def open(self, volume: Volume, target: Target) -> Session:
        return NetworkSession(self, volume, target)


class NetworkSession(Session):
    def __init__(self, segmenter: Network, volume: Volume, target: Target) -> None:
        self.segmenter = segmenter
        self.prepared = prepare(volume, segmenter.recipe(target).preprocessing)

    def segment(self, prompts: Prompts) -> BoolArray:
        import torch

        with torch.no_grad():
            logits = self.segmenter.module(torch.from_numpy(self.prepared.array)[None, None])
        return self.prepared.to_native_mask(torch.sigmoid(logits)[0, 0].numpy())


class BadFit(OwnTraining):
    def fit(self, cases: Sequence[Case], target: Target, budget: Budget, folder: Path, seed: int) -> dict[str, Any]:
        raise ValueError("the tool ended with exit code 9")

    def load(self, folder: Path) -> None:
        raise AssertionError("never trained")

    def open(self, volume: Volume, target: Target) -> Session:
        raise AssertionError("never trained")


class DyingFit(OwnTraining):
    """A training that is killed: the first time, if it is given a folder to remember that in, or every time."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def fit(self, cases: Sequence[Case], target: Target, budget: Budget, folder: Path, seed: int) -> dict[str, Any]:
        if not self.folder or _first_time(self.folder):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"steps": 1}

    def load(self, folder: Path) -> None:
        pass

    def open(self, volume: Volume, target: Target) -> Session:
        return MockSession(volume, "noop", "")


def build_dying_fit(config: dict[str, Any], device: str) -> DyingFit:
    return DyingFit(config["folder"])


def build_network(config: dict[str, Any], device: str) -> Network:
    return Network(config, device)


def build_bad_fit(config: dict[str, Any], device: str) -> BadFit:
    return BadFit()


def build(config: dict[str, Any], device: str) -> MockSegmenter:
    match config["behaviour"]:
        case "load-sleep":
            time.sleep(600)
        case "load-die":
            os._exit(3)
        case "load-crash":
            raise RuntimeError("no weights in the file")
        case "together":
            _wait_for_all(Path(config["folder"]), config["number"])
            return MockSegmenter("second", "")
    return MockSegmenter(config["behaviour"], config.get("folder", ""))


def _wait_for_all(folder: Path, number: int) -> None:
    """Until so many processes are here; the last one tells the others, so that all go on within 10 ms."""
    (folder / str(os.getpid())).touch()
    everybody = folder.with_name(f"{folder.name}-all")
    if len(os.listdir(folder)) >= number:
        everybody.touch()
    while not everybody.exists():
        time.sleep(0.01)


def weights_problem(path: Path, system: str) -> str:
    """A third party's own look into its file."""
    content = path.read_bytes()
    return "" if content.startswith(system.encode()) else f"begins with {content[:4]!r}, expected {system}"


def _mock(behaviour: str) -> Method:
    return Method(
        f"mock-{behaviour}", "for tests", "mock_methods:build", CLICKS, config={"behaviour": behaviour, "folder": ""}
    )


noop, threshold, crash, die = _mock("noop"), _mock("threshold"), _mock("crash"), _mock("die")
sleep, wrong_shape = _mock("sleep"), _mock("wrong-shape")
die_once, memory_once, memory, second = (_mock(name) for name in ("die-once", "memory-once", "memory", "second"))
tenth, spoil_once = _mock("tenth"), _mock("spoil-once")
together = replace(_mock("together"), config={"behaviour": "together", "folder": "", "number": 1})
load_sleep, load_die, load_crash = (_mock(name) for name in ("load-sleep", "load-die", "load-crash"))
network = Method(
    "mock-network",
    "for tests",
    "mock_methods:build_network",
    CLICKS,
    training="bench",
    config={"learning_rate": 0.01},
    search_space={"learning_rate": ["loguniform", 1e-3, 1e-1]},
    ablations={"learning": {"learning_rate": 1e-12}},
)
bad_fit = Method("mock-bad-fit", "for tests", "mock_methods:build_bad_fit", CLICKS, training="own")
dying_fit = Method(
    "mock-dying-fit", "for tests", "mock_methods:build_dying_fit", CLICKS, training="own", config={"folder": ""}
)


learner = Method(
    "mock-learner",
    "for tests",
    "learner:build",
    frozenset({PromptKind.NONE, PromptKind.CLICK}),
    training="bench",
    config={
        "batch_size": 2, "learning_rate": 0.01, "final_learning_rate": 0.001, "warm_up": 0.25, "weight_decay": 0.1,
        "gradient_clip": 0.5, "accumulate": 1, "ema_decay": 0.0, "dropout": 0.0,
        "compile": "", "marker": "", "die_in_loss": 0, "hang_in_loss": 0, "pause": 0.0,
    },
    search_space={"learning_rate": ["loguniform", 1e-3, 1e-1], "batch_size": ["choice", [1, 2]]},
)  # fmt: skip
official = Method(
    "mock-official",
    "for tests",
    "mock_methods:build",
    CLICKS,
    config={"behaviour": "noop", "checkpoint": None},
    needs_checkpoint=True,
    files=(
        WeightFile(
            name="mock-official.bin",
            page="https://example.org/mock",
            licence="CC0-1.0",
            url="http://127.0.0.1:9/mock-official.bin",
            system="MOCK",
            check="mock_methods:weights_problem",
        ),
    ),
)
apart = Method(
    "mock-apart",
    "for tests",
    "apart:build",
    CLICKS,
    training="own",
    config={"checkpoint": None, "trained": False},
    environment=Environment(pip=("einops==0.0.1",)),
)
apart_learner = replace(
    learner,
    name="mock-apart-learner",
    factory="apart_learner:build",
    search_space={"learning_rate": ["loguniform", 1e-3, 1e-1]},
    ablations={"learning": {"learning_rate": 1e-12}},
    environment=Environment(pip=("einops==0.0.1",)),
)
