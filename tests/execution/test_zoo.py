"""Weights for several targets, weights to begin with, and what a suite does with those that come with a method."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.common.errors import UserError
from benchmarks.contestants import TrainingRecipe
from benchmarks.data.cache import Cache
from benchmarks.data.dataset import Case, Dataset
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.execution import zoo
from benchmarks.execution.crops import CropSource, JointCrops, WorkerPlace
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.predict import of_run
from benchmarks.execution.progress import Progress
from benchmarks.execution.suite import BudgetChanges, Suite, load_suite, parse_suite
from benchmarks.execution.zoo import ZooOrder, train
from tests.execution.training_cases import TARGET, everything, job_of, loop_of, write_cases

RECIPE = TrainingRecipe(Preprocessing(None, (-200.0, 300.0), 0.0, 100.0), (8, 8, 4), batch_size=3)
OTHER = replace(TARGET, name="kidney-tumor", organ="kidney")
SUITE = """
name: small
seed: 7
datasets: [{name: kits21, source: phantom, cases: 5}]
methods:
  - {name: sam-med3d-tiny, zoo: true}
  - {name: sam-med3d-tiny, label: fine-tuned, zoo: true, fine_tune: true, datasets: [kits21]}
  - {name: sam-med3d-tiny, label: trained}
  - ball
protocols: [centre-click]
budget: {steps: 4}
"""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return resolve_dataset(parse_suite(SUITE, "test").datasets[0], 7, Folders(tmp_path_factory.mktemp("phantoms")))


def units_of(suite: Suite, dataset: Dataset, out: Path) -> dict[str, Unit]:
    return {unit.entry.title: unit for unit in plan(suite, [dataset], Folders(out))}


# Several targets


def joint(cases: tuple[Case, ...], cache: Cache, recipe: TrainingRecipe, place: WorkerPlace) -> JointCrops:
    targets = (TARGET, OTHER)
    return JointCrops([CropSource(cases, t, recipe, 1, worker=place, cache=cache) for t in targets])


def test_targets_take_turns_through_the_joined_batch(cases: tuple[Case, ...], tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    source = joint(cases, cache, RECIPE, WorkerPlace())
    named = [target.name for step in range(4) for (batch,) in [source.step(step)] for target in batch.targets]
    assert named == [TARGET.name, OTHER.name] * 6
    whole = source.step(2)[0].image
    one = replace(RECIPE, batch_size=1)
    shares = [joint(cases, cache, one, WorkerPlace(rank, 3)).step(2)[0].image for rank in range(3)]
    assert torch.equal(whole, torch.cat(shares))


def test_targets_with_other_crops_are_refused(cases: tuple[Case, ...], tmp_path: Path) -> None:
    parts = [CropSource(cases, TARGET, r, 1, cache=Cache(tmp_path)) for r in (RECIPE, replace(RECIPE, batch_size=2))]
    with pytest.raises(UserError, match="ask for other crops"):
        JointCrops(parts)


def test_further_targets_and_weights_to_begin_with_are_part_of_a_jobs_identity(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights").write_bytes(b"one")
    jobs = [
        job_of(cases),
        job_of(cases, further=((OTHER, cases[:2]),)),
        job_of(cases, further=((OTHER, cases[:1]),)),
        job_of(cases, start=tmp_path),
    ]
    digests = [job.digest() for job in jobs]
    (tmp_path / "checkpoint" / "weights").write_bytes(b"two")
    digests.append(job_of(cases, start=tmp_path).digest())
    assert len(set(digests)) == 5


def test_a_training_begins_with_the_weights_that_it_is_given(cases: tuple[Case, ...], tmp_path: Path) -> None:
    first = loop_of(job_of(cases, steps=3), tmp_path / "first")
    first.run()
    second = loop_of(job_of(cases, start=tmp_path / "first"), tmp_path / "second")
    ended, begun = everything(first), everything(second)
    weights = [name for name in begun if name.startswith("weight")]
    assert weights
    assert all(torch.equal(begun[name], ended[name]) for name in weights)
    assert not torch.equal(everything(loop_of(job_of(cases), tmp_path / "third"))["weight0"], ended["weight0"])


# What a suite does with the zoo


def test_the_zoo_is_evaluated_trained_from_and_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    units = units_of(parse_suite(SUITE, "test"), dataset, tmp_path)
    taken, tuned, trained = (units[name] for name in ("sam-med3d-tiny", "fine-tuned", "trained"))
    assert taken.job is None
    assert taken.zoo is not None
    assert taken.description()["zoo"] == taken.zoo.digest
    assert taken.description()["budget"] == {}
    assert tuned.job is not None
    assert tuned.job.start == taken.zoo.folder
    assert tuned.job.budget.steps == 4
    assert trained.job is not None
    assert trained.job.start is None
    assert trained.zoo is None
    assert len({unit.digest for unit in units.values()}) == 4
    segmenter = of_run(taken.description(), tmp_path / "none").segmenter
    assert segmenter.trained_here  # type: ignore[attr-defined]


def test_other_weights_are_another_unit(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.execution import plan as planning

    before = units_of(parse_suite(SUITE, "test"), dataset, tmp_path)
    found = planning.zoo_weights
    monkeypatch.setattr(planning, "zoo_weights", lambda *a: (one := found(*a)) and replace(one, digest="other"))
    after = units_of(parse_suite(SUITE, "test"), dataset, tmp_path)
    assert before["sam-med3d-tiny"].digest != after["sam-med3d-tiny"].digest
    assert before["ball"].digest == after["ball"].digest


def test_on_real_scans_a_method_of_the_zoo_is_trained(dataset: Dataset, tmp_path: Path) -> None:
    real = replace(dataset, synthetic=False)
    assert units_of(parse_suite(SUITE, "test"), real, tmp_path)["sam-med3d-tiny"].job is not None


def test_a_budget_means_training_and_what_is_fine_tuned_falls_away() -> None:
    suite = parse_suite(SUITE, "test").with_budget(BudgetChanges(steps=9))
    assert [(entry.title, entry.zoo) for entry in suite.methods] == [
        ("sam-med3d-tiny", False),
        ("trained", False),
        ("ball", False),
    ]
    assert parse_suite(SUITE, "test").with_budget(BudgetChanges(gpus=1)).methods[0].zoo


@pytest.mark.parametrize(
    ("entry", "refusal"),
    [
        ("sam-med3d-tiny, zoo: true, config: {spacing: 3.0}", "trained with spacing = 2.25, not 3.0; leave `zoo` out"),
        ("tags-tiny, zoo: true, config: {augment_intensity: 0.3}", "trained with augment_intensity = 0.0, not 0.3"),
    ],
)
def test_a_setting_that_the_weights_do_not_have_is_refused(
    dataset: Dataset, tmp_path: Path, entry: str, refusal: str
) -> None:
    """One that joined after the training, and that its card does not name, had its default."""
    with pytest.raises(UserError, match=refusal):
        units_of(parse_suite(SUITE.replace("sam-med3d-tiny, zoo: true", entry, 1), "test"), dataset, tmp_path)


def test_phantoms_that_the_weights_know_are_refused(tmp_path: Path) -> None:
    suite = parse_suite(SUITE.replace("seed: 7", "seed: 71"), "test")
    known = resolve_dataset(suite.datasets[0], 71, Folders(tmp_path))
    with pytest.raises(UserError, match="trained on"):
        units_of(suite, known, tmp_path)


def test_a_method_may_be_run_on_some_of_the_data_sets(dataset: Dataset, tmp_path: Path) -> None:
    elsewhere = replace(dataset, name="lits17")
    suite = parse_suite(SUITE.replace("ball", "{name: ball, datasets: [kits21]}"), "test")
    assert "ball" in units_of(suite, dataset, tmp_path)
    assert "ball" not in units_of(suite, elsewhere, tmp_path)
    with pytest.raises(UserError, match="did you mean 'kits21'"):
        parse_suite(SUITE.replace("ball", "{name: ball, datasets: [kits]}"), "test")


def test_untrained_twins_stand_beside_the_zoo(dataset: Dataset, tmp_path: Path) -> None:
    """One that the suite lists as well is not there twice."""
    text = SUITE.replace("  - ball", "  - ball\n  - {name: sam-med3d-tiny, untrained: true}")
    units = units_of(parse_suite(text, "test").with_untrained(), dataset, tmp_path)
    twin = units["sam-med3d-tiny (untrained)"]
    assert twin.zoo is None
    assert twin.job is not None
    assert twin.job.untrained


# Making the weights


def test_the_zoo_is_trained_once_and_written_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = ZooOrder(("sam-med3d-tiny",), ("kits21", "lits17"), steps=2, seed=3, cases=3, zoo=tmp_path / "zoo")
    monkeypatch.setattr(zoo, "LINE_EVERY_SECONDS", 0.01)
    lines: list[str] = []
    progress = Progress()
    progress.line = lines.append  # type: ignore[method-assign]
    (row,) = train(order, Folders(tmp_path), progress)
    assert any(re.fullmatch(r"sam-med3d-tiny \(joint\): (\d+%, loss [\d.]+, )?0 min", line) for line in lines)
    assert re.fullmatch(r"sam-med3d-tiny \(joint\): trained, \d+\.\d min", lines[-1])
    folder = tmp_path / "zoo" / "sam-med3d-tiny" / "joint"
    card = json.loads((folder / "card.json").read_text())
    assert (card["steps"], card["datasets"], row["digest"]) == (2, ["kits21", "lits17"], card["digest"])
    assert len(card["phantoms"]["images"]) == 6
    assert [point["step"] for point in card["curve"]] == [1, 2]
    (kept,) = (tmp_path / "checkpoints").glob("*/training.json")
    trained = kept.stat().st_mtime_ns
    (again,) = train(order, Folders(tmp_path), Progress())
    assert again["digest"] == row["digest"]
    assert kept.stat().st_mtime_ns == trained


def test_a_checkpoint_is_put_whole_without_its_logs_and_its_weights_in_16_bits(tmp_path: Path) -> None:
    """An own `save` may write any file. How a number is rounded is asked of NumPy."""
    checkpoint, place = tmp_path / "checkpoint", tmp_path / "place"
    (checkpoint / "fold_0").mkdir(parents=True)
    values = np.array([1 / 3, 65504.0, 1e-7], np.float32)
    weights, count = torch.from_numpy(values), torch.tensor([2**40, 3])
    save_file({"weights": weights, "count": count}, checkpoint / "weights.safetensors")
    torch.save(
        {"network_weights": {"one": weights, "tied": weights, "count": count}, "trainer": "plain"},
        checkpoint / "fold_0" / "final.pth",
    )
    torch.save(weights, checkpoint / "own.pt")
    np.save(checkpoint / "plan.npy", values)
    (checkpoint / "facts.json").write_text('{"b": 1, "a": [2]}')
    (checkpoint / "labels").write_bytes(b"\x00\xff")
    (checkpoint / "fold_0" / "train.log").write_text("step 1")
    zoo._put(checkpoint, place)
    found = {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}
    assert found == {"weights.safetensors", "fold_0/final.pth", "own.pt", "plan.npy", "facts.json", "labels"}
    for name in ("own.pt", "plan.npy", "labels"):
        assert (place / name).read_bytes() == (checkpoint / name).read_bytes()
    assert json.loads((place / "facts.json").read_text()) == {"a": [2], "b": 1}
    whole = torch.load(place / "fold_0" / "final.pth", weights_only=True)
    assert whole["trainer"] == "plain"
    assert whole["network_weights"]["one"].data_ptr() == whole["network_weights"]["tied"].data_ptr()
    for state in (load_file(place / "weights.safetensors"), whole["network_weights"]):
        for name, value in state.items():
            wanted = count.numpy() if name == "count" else values.astype(np.float16)
            assert value.numpy().dtype == wanted.dtype
            assert (value.numpy() == wanted).all()


def test_what_brings_no_weights_cannot_be_trained_for_the_zoo(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="method 'ball' brings no weights of its own"):
        train(ZooOrder(("ball",)), Folders(tmp_path), Progress())


def test_the_default_suite_trains_one_unit_only() -> None:
    suite = load_suite("phantom")
    trained = [e for e in suite.methods if not e.untrained and (e.fine_tune or not e.zoo)]
    assert [entry.name for entry in trained if entry.name not in ("ball", "region-growing")] == ["sam-med3d-tiny"]
