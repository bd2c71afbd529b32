"""States and checkpoints of trainings beside the output folder: on a disk, on a store that is no folder, on none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from benchmarks.common.errors import MachineFault, UserError
from benchmarks.data.dataset import Case
from benchmarks.execution import loop as loop_module
from benchmarks.execution import training, training_storage
from benchmarks.execution.loop import TrainingLoop
from benchmarks.execution.state import load_state, save_state
from benchmarks.execution.suite import load_suite
from benchmarks.execution.training import run_job
from benchmarks.execution.training_job import TrainingJob, checkpoint_folder, storage_of
from benchmarks.execution.training_storage import BEST, CHECKPOINT, STATE, TrainingStorage, check_storage
from benchmarks.execution.worker_group import WorkerGroup
from tests.execution.training_cases import everything, in_two_processes, job_of, loop_of, watch_losses, write_cases

pytestmark = pytest.mark.usefixtures("one_thread")

MEMORY = "fsspec+memory://states"


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_storage, "PAUSES", (0.0, 0.0))
    MemoryFileSystem.store.clear()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    return write_cases(tmp_path_factory.mktemp("cases"))


def on_disk(folder: Path) -> TrainingStorage:
    return TrainingStorage(str(folder), "one")


def in_memory(folder: Path) -> TrainingStorage:
    return TrainingStorage(MEMORY, "one")


def in_a_subtree(folder: Path) -> TrainingStorage:
    """A bucket, as Ray's own documentation has it: paths in it begin where its place ends."""
    store = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(MemoryFileSystem()))
    store.create_dir("/bucket")
    return TrainingStorage("states", "one", pyarrow.fs.SubTreeFileSystem("/bucket", store))


STORES = [on_disk, in_memory, in_a_subtree]


@pytest.mark.parametrize("store", STORES)
def test_what_was_written_last_is_read_back_and_nothing_older_stays(
    store: Callable[[Path], TrainingStorage], tmp_path: Path
) -> None:
    one = store(tmp_path)
    assert one.read(STATE) is None
    one.write(STATE, b"first", ".pt")
    one.write(STATE, b"second", ".pt")
    one.write(STATE, b"second", ".pt")
    one.write(BEST, b"best", ".tar")
    assert (one.read(STATE), one.read(BEST), one.read(CHECKPOINT)) == (b"second", b"best", None)
    assert store(tmp_path).read(STATE) == b"second"  # another process, another day
    filesystem, folder = one._fs
    found = {Path(info.path).name for info in filesystem.get_file_info(pyarrow.fs.FileSelector(folder))}
    digests = {content: hashlib.sha256(content).hexdigest()[:16] for content in (b"second", b"best")}
    assert found == {
        f"state-{digests[b'second']}.pt", f"best-{digests[b'best']}.tar", "state.json", "best.json",
    }  # fmt: skip
    one.remove(STATE)
    one.remove(STATE)
    assert (one.read(STATE), one.read(BEST)) == (None, b"best")


@pytest.mark.parametrize("store", STORES)
def test_a_folder_comes_back_as_it_was(store: Callable[[Path], TrainingStorage], tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "checkpoint" / "deep").mkdir(parents=True)
    (source / "training.json").write_text("{}", encoding="utf-8")
    (source / "checkpoint" / "deep" / "weights").write_bytes(bytes(range(256)))
    one = store(tmp_path / "store")
    assert not one.read_folder(CHECKPOINT, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    one.write_folder(CHECKPOINT, source)
    assert one.read_folder(CHECKPOINT, tmp_path / "back")
    assert one.read_from_folder(CHECKPOINT, "training.json") == b"{}"
    assert one.read_from_folder(CHECKPOINT, "nothing") is None
    assert one.read_from_folder(BEST, "training.json") is None
    for path in source.rglob("*"):
        other = tmp_path / "back" / path.relative_to(source)
        assert other.is_dir() if path.is_dir() else other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("damage", ["cut off", "another content", "pointer cut off", "file gone"])
def test_what_is_damaged_counts_as_not_there(tmp_path: Path, damage: str) -> None:
    one = on_disk(tmp_path)
    one.write(STATE, b"a whole state", ".pt")
    (file,) = (tmp_path / "one").glob("state-*.pt")
    match damage:
        case "cut off":
            file.write_bytes(b"a whole")
        case "another content":
            file.write_bytes(b"A whole state")
        case "pointer cut off":
            (tmp_path / "one" / "state.json").write_text('{"file": "sta', encoding="utf-8")
        case "file gone":
            file.unlink()
    assert one.read(STATE) is None
    one.write(STATE, b"again", ".pt")
    assert one.read(STATE) == b"again"


def test_a_store_that_is_away_is_tried_again_and_is_then_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, calls = on_disk(tmp_path), []
    put = TrainingStorage._put

    def away(times: int) -> None:
        def fail(self: TrainingStorage, file: str, content: bytes) -> None:
            calls.append(file)
            if len(calls) <= times:
                raise OSError("When completing multiple part upload: NETWORK_CONNECTION")
            put(self, file, content)

        calls.clear()
        monkeypatch.setattr(TrainingStorage, "_put", fail)

    away(2)
    one.write(STATE, b"x", ".pt")
    assert one.read(STATE) == b"x"
    away(99)
    with pytest.raises(MachineFault, match=r"^storage .*: OSError: When completing multiple part upload"):
        one.write(STATE, b"y", ".pt")
    assert len(calls) == 3
    assert one.read(STATE) == b"x"  # what was there stays


def interrupted(job: TrainingJob, folder: Path, before: int) -> None:
    def seen(step: int, loss: torch.Tensor) -> torch.Tensor:
        if step == before:
            raise Interrupted
        return loss

    loop = loop_of(job, folder)
    watch_losses(loop, seen)
    with pytest.raises(Interrupted):
        loop.run()


@pytest.mark.parametrize("place", ["DISK", MEMORY])
def test_a_training_goes_on_from_the_storage_where_its_folder_is_gone(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """With the best validation before the cut, which has to come back, too."""
    monkeypatch.setattr(loop_module, "STATE_EVERY_SECONDS", -1.0)
    place = place.replace("DISK", f"file://{tmp_path}/store")
    job = job_of(cases, steps=12, validation=cases[:1], validate_at=(0.25, 0.5, 0.75, 1.0), keep_best=True)
    undisturbed = loop_of(job, tmp_path / "undisturbed")
    undisturbed.run()
    stored = replace(job, storage=place)
    assert stored.digest() == job.digest()
    interrupted(stored, tmp_path / "first", 7)
    assert not (tmp_path / "first" / "state.pt").exists()
    shutil.rmtree(tmp_path / "first")
    second, begun = loop_of(stored, tmp_path / "second"), []
    watch_losses(second, lambda step, loss: begun.append(step) or loss)  # type: ignore[func-returns-value]
    second.run()
    assert begun == list(range(7, 12))
    for name, value in everything(undisturbed).items():
        assert torch.equal(everything(second)[name], value), name
    ours, theirs = (tmp_path / name / "checkpoint" / "weights.safetensors" for name in ("second", "undisturbed"))
    assert ours.read_bytes() == theirs.read_bytes()
    kept = [json.loads((tmp_path / name / "loop.json").read_text())["kept_step"] for name in ("second", "undisturbed")]
    assert kept[0] == kept[1]


def validated_job(cases: tuple[Case, ...], dices: Mapping[int, float], monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    """Twelve steps with a state after each; of four validations, whose Dice are given, the best is kept."""
    monkeypatch.setattr(loop_module, "STATE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(TrainingLoop, "_validation_dice", lambda loop, case: dices[loop.step])
    return job_of(cases, steps=12, validation=cases[:1], validate_at=(0.25, 0.5, 0.75, 1.0), keep_best=True)


def undisturbed_and_stored(job: TrainingJob, folder: Path) -> tuple[Path, TrainingJob]:
    """Where the job was trained in one go, and the same job with a storage, which nobody has begun."""
    undisturbed = folder / "undisturbed"
    loop_of(job, undisturbed).run()
    return undisturbed, replace(job, storage=str(folder / "store"))


def test_the_best_checkpoint_is_the_storages_and_not_that_of_a_disk_which_comes_back(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine A is cut off with a best of its own, B goes on and finds a better one, A comes back with its disk."""
    job = validated_job(cases, {3: 0.2, 6: 0.6, 9: 0.4, 12: 0.5}, monkeypatch)
    undisturbed, stored = undisturbed_and_stored(job, tmp_path)
    interrupted(stored, tmp_path / "a", 5)
    stale = (tmp_path / "a" / BEST / "weights.safetensors").read_bytes()
    interrupted(stored, tmp_path / "b", 8)
    loop_of(stored, tmp_path / "a").run()
    ours, theirs = (folder / "checkpoint" / "weights.safetensors" for folder in (tmp_path / "a", undisturbed))
    assert ours.read_bytes() == theirs.read_bytes() != stale
    assert json.loads((tmp_path / "a" / "loop.json").read_text())["kept_step"] == 6


def test_the_best_checkpoint_of_a_disk_counts_where_the_storage_was_named_only_now(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off twice after the best validation: without a storage, and then with one that has had none since."""
    job = validated_job(cases, {3: 0.6, 6: 0.2, 9: 0.4, 12: 0.5}, monkeypatch)
    undisturbed, stored = undisturbed_and_stored(job, tmp_path)
    interrupted(job, tmp_path / "a", 5)
    interrupted(stored, tmp_path / "a", 8)
    loop_of(stored, tmp_path / "a").run()
    ours, theirs = (folder / "checkpoint" / "weights.safetensors" for folder in (tmp_path / "a", undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()
    assert json.loads((tmp_path / "a" / "loop.json").read_text())["kept_step"] == 3


def go_on(rank: int, job: TrainingJob, folder: Path) -> dict[str, torch.Tensor]:
    loop = loop_of(job, folder / str(rank), rank, 2)
    begun: list[int] = []
    watch_losses(loop, lambda step, loss: begun.append(step) or loss)  # type: ignore[func-returns-value]
    loop.run()
    return everything(loop) | {"begun": torch.tensor(begun)}


def receive_another_state(rank: int, folder: Path) -> str:
    """Worker 1 is given a byte that worker 0 has not."""
    group = WorkerGroup(rank, 2)
    inner = group.bytes_from_first
    asked: list[int] = []

    def changed(content: bytes) -> bytes:
        asked.append(1)
        found = inner(content)
        return found[:-1] + b"?" if rank == 1 and len(asked) == 1 else found

    group.bytes_from_first = changed  # type: ignore[method-assign]
    try:
        load_state(folder / "state.pt", group, TrainingStorage(str(folder), "one"))
    except RuntimeError as error:
        return str(error)
    return ""


def test_two_workers_go_on_from_the_state_of_one_and_its_digest_is_the_same_on_both(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker with a batch of 4 is two with 2 each; the folders of the two have no state."""
    monkeypatch.setattr(loop_module, "STATE_EVERY_SECONDS", -1.0)
    alone = job_of(cases, steps=10, config={"batch_size": 4}, storage=f"file://{tmp_path}/store")
    pair = replace(alone, workers=2, config={"batch_size": 2})
    undisturbed = loop_of(replace(alone, storage=""), tmp_path / "undisturbed")
    undisturbed.run()
    interrupted(alone, tmp_path / "first", 6)
    one, two = (storage_of(job) for job in (alone, pair))
    assert one is not None
    assert two is not None
    shutil.copytree(tmp_path / "store" / one.name, tmp_path / "store" / two.name)  # as if they were one training
    save_state(tmp_path / "no", {"step": 1}, TrainingStorage(str(tmp_path / "other"), "one"))
    found = in_two_processes(
        {"pair": (go_on, pair, tmp_path / "pair"), "other": (receive_another_state, tmp_path / "other")},
        tmp_path / "meeting",
    )
    for result in found["pair"]:
        assert result["begun"].tolist() == [6, 7, 8, 9]
        for name, value in everything(undisturbed).items():
            torch.testing.assert_close(result[name], value, rtol=1e-10, atol=1e-10)
    assert found["other"] == ("1 of 2 workers differ from worker 0 in the kept state",) * 2


def test_a_finished_training_is_taken_from_the_storage_and_is_not_made_again(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(cases, untrained=True, storage=str(tmp_path / "store"))
    first, other = (checkpoint_folder(tmp_path / name, job) for name in ("first", "other"))
    for folder in (first, other):
        folder.parent.mkdir()
    only_untrained_weights(monkeypatch)
    run_job(job, first)
    storage = storage_of(job)
    assert storage is not None
    assert storage.read(STATE) is None  # nobody needs it any more
    monkeypatch.setattr(training, "_train_on_ray", never)
    figures = run_job(job, other)
    assert figures == json.loads((first / "training.json").read_text(encoding="utf-8"))
    names = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (first, other)]
    assert names[0] == names[1]
    for path in names[0]:
        if (first / path).is_file():
            assert (first / path).read_bytes() == (other / path).read_bytes()
    with pytest.raises(AssertionError, match="trained again"):
        run_job(job, other, fresh="one")


def never(*arguments: Any) -> None:
    raise AssertionError("trained again")


def only_untrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_train_on_ray", lambda job, work, aside: _trained(job, work))


@pytest.mark.parametrize("fresh", ["", "one"], ids=["plain", "fresh"])
@pytest.mark.parametrize("fault", ["the store is away", "killed", "killed once it is there"])
def test_a_training_that_was_finished_and_not_stored_is_stored_and_not_made_again(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, fresh: str
) -> None:
    """The weights of the old training, which a fresh one replaces, are told from the new ones by their bytes."""
    job = job_of(cases, untrained=True, storage=str(tmp_path / "store"))
    folder = checkpoint_folder(tmp_path / "out", job)
    folder.parent.mkdir()
    storage = storage_of(job)
    assert storage is not None
    only_untrained_weights(monkeypatch)
    if fresh:
        run_job(job, folder)
        (folder / "checkpoint" / "weights.safetensors").write_bytes(b"of the training before")
        storage.write_folder(CHECKPOINT, folder)
    put = TrainingStorage._put

    def fail(self: TrainingStorage, file: str, content: bytes) -> None:
        if file.startswith(CHECKPOINT):
            raise OSError("away") if fault == "the store is away" else KeyboardInterrupt
        put(self, file, content)

    def end(self: TrainingStorage, kind: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        if fault == "killed once it is there":
            broken.setattr(TrainingStorage, "remove", end)
        else:
            broken.setattr(TrainingStorage, "_put", fail)
        if fresh:  # it has removed what an earlier call left before it trains
            storage.write(training.AFRESH, fresh.encode(), ".txt")
        with pytest.raises((MachineFault, KeyboardInterrupt)):
            run_job(job, folder, fresh=fresh)
    monkeypatch.setattr(training, "_train_on_ray", never)
    run_job(job, folder, fresh=fresh)
    assert run_job(job, folder) == run_job(job, checkpoint_folder(tmp_path, job))
    for path in (folder, checkpoint_folder(tmp_path, job)):
        assert sorted(one.name for one in path.iterdir()) == ["checkpoint", "stored", "training.json"]
        assert (path / "checkpoint" / "weights.safetensors").read_bytes() != b"of the training before"
    assert not list(folder.parent.glob(".*"))
    assert [storage.read(kind) for kind in (STATE, BEST, training.AFRESH)] == [None] * 3


def test_what_was_trained_before_a_storage_was_named_is_put_there(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(cases, untrained=True)
    stored = replace(job, storage=str(tmp_path / "store"))
    first, other = (checkpoint_folder(tmp_path / name, job) for name in ("first", "other"))
    for folder in (first, other):
        folder.parent.mkdir()
    only_untrained_weights(monkeypatch)
    figures = run_job(job, first)
    monkeypatch.setattr(training, "_train_on_ray", never)
    with monkeypatch.context() as broken:
        broken.setattr(TrainingStorage, "_put", never)  # the store is away: what is finished can be used all the same
        assert run_job(stored, first) == figures
    assert f"{first} is finished, and not in the storage yet" in caplog.text
    assert run_job(stored, first) == figures
    assert run_job(stored, other) == figures
    monkeypatch.setattr(TrainingStorage, "_tried", never)  # what is known to be there is not asked for again
    assert run_job(stored, first) == run_job(stored, other) == figures


def test_a_training_made_afresh_without_the_storage_replaces_what_lies_there(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of the output folder are by the new weights; an empty one elsewhere must find these."""
    job = job_of(cases, untrained=True)
    stored = replace(job, storage=str(tmp_path / "store"))
    folder, other = (checkpoint_folder(tmp_path / name, job) for name in ("out", "other"))
    for one in (folder, other):
        one.parent.mkdir()
    only_untrained_weights(monkeypatch)
    first = run_job(stored, folder)
    trained = training._train_on_ray

    def with_other_weights(job: TrainingJob, work: Path, aside: Any) -> dict[str, Any]:
        figures = trained(job, work, aside)
        (work / "checkpoint" / "weights.safetensors").write_bytes(b"of another training")
        return figures

    monkeypatch.setattr(training, "_train_on_ray", with_other_weights)
    second = run_job(job, folder, fresh="one")
    assert second["weights"] != first["weights"]
    assert run_job(stored, folder) == second
    monkeypatch.setattr(training, "_train_on_ray", never)
    assert run_job(stored, other) == second
    assert (other / "checkpoint" / "weights.safetensors").read_bytes() == b"of another training"


def test_a_damaged_checkpoint_in_the_storage_gives_way_to_the_one_that_is_made_again(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(cases, untrained=True, storage=str(tmp_path / "store"))
    only_untrained_weights(monkeypatch)
    for name in ("first", "second", "third"):
        folder = checkpoint_folder(tmp_path / name, job)
        folder.parent.mkdir()
        run_job(job, folder)
        if name == "first":
            (packed,) = (tmp_path / "store").glob("*/checkpoint-*.tar")
            packed.write_bytes(b"cut")
        else:
            monkeypatch.setattr(training, "_train_on_ray", never)


def _trained(job: TrainingJob, work: Path) -> dict[str, Any]:
    save_state(work / "state.pt", {"step": 0}, storage_of(job))
    loop_of(job, work).run()
    figures: dict[str, Any] = json.loads((work / "loop.json").read_text(encoding="utf-8"))
    (work / "loop.json").unlink()
    return figures


def test_a_place_is_known_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_storage("states") == str(tmp_path / "states")
    assert check_storage("") == ""
    assert check_storage(MEMORY) == MEMORY
    with pytest.raises(UserError, match=r"storage 'nowhere://x': ArrowInvalid: Unrecognized filesystem type"):
        check_storage("nowhere://x")
    assert load_suite("phantom").storage == ""
    assert load_suite("phantom").with_storage("states").storage == str(tmp_path / "states")
