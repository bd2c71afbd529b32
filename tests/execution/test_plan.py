"""Where a run writes, and what names and identifies a unit."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.contestants import Method, PromptKind, WeightFile, installed
from benchmarks.data.cache import default_cache
from benchmarks.data.dataset import Dataset
from benchmarks.data.volume import read_label
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.plan import Unit, plan, without_repeats
from benchmarks.execution.suite import parse_suite
from benchmarks.results.records import key_of

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
name: small
seed: 7
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-noop, {name: mock-noop, label: twin}, mock-threshold]
protocols: [none, {kind: iterative, rounds: 2}]
budget: {steps: 4}
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folders = Folders(tmp_path_factory.mktemp("phantoms"))
    return resolve_dataset(parse_suite(SUITE, "test").datasets[0], 7, folders)


def units_of(dataset: Dataset, out: Path, text: str = SUITE) -> list[Unit]:
    return plan(parse_suite(text, "test"), [dataset], Folders(out))


def test_a_key_names_a_place_and_a_digest_what_decides_the_numbers(dataset: Dataset, tmp_path: Path) -> None:
    one, twin, other = units_of(dataset, tmp_path)
    assert one.digest == twin.digest != other.digest
    assert len({one.key, twin.key, other.key}) == 3
    assert [key_of(unit.description()) for unit in (one, twin, other)] == [one.key, twin.key, other.key]
    assert one.folder != twin.folder
    assert [(first.key, [same.key for same in rest]) for first, rest in without_repeats([one, twin, other])] == [
        (one.key, [twin.key]),
        (other.key, []),
    ]


def test_interpreters_have_no_identity_and_are_no_twins(dataset: Dataset, tmp_path: Path) -> None:
    """Equal requirements give equal numbers wherever they lie; what another interpreter holds nobody knows."""
    other = f"{{name: mock-noop, label: twin, environment: {{python: {sys.executable}}}}}"
    units = units_of(dataset, tmp_path, SUITE.replace("{name: mock-noop, label: twin}", other))
    assert units[0].digest == units[1].digest
    assert [rest for _, rest in without_repeats(units)] == [(), (), ()]


def test_a_case_that_two_folds_test_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    twice = replace(dataset, splits=(dataset.splits[0], dataset.splits[0]))
    text = SUITE.replace("cases: 6}", "cases: 6, fold: 0}, {name: kits21, source: phantom, cases: 6, fold: 1}")
    with pytest.raises(UserError, match="the folds 0 and 1 both test"):
        plan(parse_suite(text, "test"), [twice, twice], Folders(tmp_path))


def test_titles_name_the_fold_and_the_target_where_a_suite_has_several(dataset: Dataset, tmp_path: Path) -> None:
    """Lines of a run, of failures and of what was not run would not say which is meant."""
    (split,) = dataset.splits
    turned = replace(split, test=split.validation, validation=split.test)
    (tumour,) = dataset.targets
    several = replace(dataset, splits=(split, turned), targets=(tumour, replace(tumour, name="cyst", labels=(3,))))
    text = SUITE.replace("cases: 6}", "cases: 6, folds: [0, 1]}").replace(", {name: mock-noop, label: twin}", "")
    suite = parse_suite(text, "test")
    titles = [unit.title for unit in plan(suite, [several, several], Folders(tmp_path))]
    assert titles == [
        f"{method} · kits21, {target}, fold {fold}"
        for fold in (0, 1)
        for target in ("kidney-tumor", "cyst")
        for method in ("mock-noop", "mock-threshold")
    ]
    assert [unit.title for unit in units_of(dataset, tmp_path)] == [
        f"{method} · kits21" for method in ("mock-noop", "twin", "mock-threshold")
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{name: mock-noop, label: twin}", "mock-noop"), "lists 'mock-noop' twice; give one of them a `label`"),
        (("cases: 6}", "cases: 6}, {name: kits21, source: phantom, cases: 6}"), "lists dataset 'kits21', fold 0,"),
        (("cases: 6}", "cases: 6, folds: [0, 0]}"), "lists dataset 'kits21', fold 0, target 'kidney-tumor', twice"),
    ],
)
def test_what_a_suite_lists_twice_is_named(
    change: tuple[str, str], message: str, dataset: Dataset, tmp_path: Path
) -> None:
    suite = parse_suite(SUITE.replace(*change), "test")
    with pytest.raises(UserError, match=message):
        plan(suite, [dataset] * len(suite.datasets), Folders(tmp_path))


def test_a_method_with_a_file_as_the_page_on_weights_shows_it_is_planned(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the file lies in the weights folder; before that the run says which one is missing."""
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(Method\(.*?)```", page, re.DOTALL)
    announced = eval(shown, {"Method": Method, "PromptKind": PromptKind, "WeightFile": WeightFile})
    monkeypatch.setattr(installed, "_installed", lambda: ({announced.name: announced}, ()))
    text = re.sub("methods: .*", "methods: [my-method]", SUITE)
    with pytest.raises(UserError, match=r"my_method_v1\.pth"):
        units_of(dataset, tmp_path, text)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "my_method_v1.pth").write_bytes(b"weights")
    (unit,) = units_of(dataset, tmp_path, text)
    assert unit.description()["config"] == {"checkpoint": str(tmp_path / "weights" / "my_method_v1.pth")}


def test_equal_prompts_have_one_digest_whatever_the_protocols(dataset: Dataset, tmp_path: Path) -> None:
    one = units_of(dataset, tmp_path)[0].description()
    fewer = units_of(dataset, tmp_path, SUITE.replace("none, ", ""))[0].description()
    seed = units_of(dataset, tmp_path, SUITE.replace("seed: 7", "seed: 8"))[0].description()
    assert one["unit"] != fewer["unit"] != seed["unit"]
    assert one["prompts_digest"] == fewer["prompts_digest"] != seed["prompts_digest"]
    assert one["cases_digest"] == seed["cases_digest"]
    assert one["lesion_rule"]


def test_another_label_value_of_the_same_files_has_prompts_of_its_own(dataset: Dataset, tmp_path: Path) -> None:
    """One output folder, one dataset, first the tumours, then the cysts under the very words of the tumours."""
    (tumour,) = dataset.targets
    cysts = replace(dataset, targets=(replace(tumour, labels=(3,)),))
    text = SUITE.replace("[none, {kind: iterative, rounds: 2}]", "[centre-click]")
    banks = [units_of(one, tmp_path, text)[0].evaluation.banks["centre-click"] for one in (dataset, cysts)]
    for case in dataset.split_cases("test"):
        label = read_label(case.label)
        for bank, value in zip(banks, (2, 3), strict=True):
            if not bank.has_target(case.case_id, tumour.name):
                assert not (label == value).any()
                continue
            (click,) = bank.prompts(case.case_id, tumour.name).clicks
            assert label[tuple(click.position)] == value


def test_the_cache_settings_count(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAGS_BENCH_CACHE")
    assert Folders(tmp_path).cache == tmp_path / "cache"
    assert default_cache(tmp_path).limit_bytes is None, "as before: a cache of one output folder has no limit"
    monkeypatch.setenv("TAGS_BENCH_CACHE", str(tmp_path / "fast"))
    monkeypatch.setenv("TAGS_BENCH_CACHE_GB", "0.5")
    assert Folders(tmp_path).cache == tmp_path / "fast"
    assert default_cache(Folders(tmp_path).cache).limit_bytes == 500_000_000
    monkeypatch.setenv("TAGS_BENCH_CACHE_GB", "much")
    with pytest.raises(UserError, match="TAGS_BENCH_CACHE_GB=much: a number of gigabytes above 0"):
        units_of(dataset, tmp_path)


@pytest.mark.ray
def test_a_training_uses_the_cache_that_was_set(
    local_ray: None, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.execution.observer import Nobody
    from benchmarks.execution.pool import train_units

    monkeypatch.setenv("TAGS_BENCH_CACHE", str(tmp_path / "fast"))
    text = SUITE.replace("mock-noop, {name: mock-noop, label: twin}, mock-threshold", "mock-network")
    (unit,) = units_of(dataset, tmp_path / "out", text)
    assert train_units([unit], Folders(tmp_path / "out"), Nobody()).figures
    assert list((tmp_path / "fast").glob("*/entry.json"))
    assert not (tmp_path / "out" / "cache").exists()


def test_a_unit_knows_the_weights_files_that_it_needs(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official file of the weights folder, and one by its path; a method without any needs none."""
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path))
    for name in ("mock-official.bin", "own.bin"):
        (tmp_path / name).write_bytes(b"MOCK")
    own = f"{{name: mock-official, label: own, config: {{checkpoint: {tmp_path / 'own.bin'}}}}}"
    text = SUITE.replace("{name: mock-noop, label: twin}, mock-threshold", f"mock-official, {own}")
    units = units_of(dataset, tmp_path, text)
    assert [unit.weight_files for unit in units] == [
        (),
        (str(tmp_path / "mock-official.bin"),),
        (str(tmp_path / "own.bin"),),
    ]
