"""The weights that come with the methods: whole, small, readable without unpickling code, kept from what they know."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.contestants import Method, ZooTraining, method, methods
from benchmarks.data.dataset import Case
from benchmarks.execution.suite import load_suite
from benchmarks.weights import zoo
from benchmarks.weights.zoo import all_weights, read_weights, zoo_weights

MOST_BYTES = 25_000_000


def entries() -> list[tuple[str, str]]:
    """(method, dataset) of every unit of the default suite that takes weights of the zoo."""
    suite = load_suite("phantom")
    return [
        (entry.name, name)
        for entry in suite.methods
        if entry.zoo
        for name in entry.datasets or [one.name for one in suite.datasets]
    ]


@pytest.mark.parametrize(("name", "dataset"), entries())
def test_the_default_suite_finds_its_weights(name: str, dataset: str) -> None:
    weights = zoo_weights(method(name), dataset)
    assert weights is not None
    assert weights.card["method"] == name
    assert weights.card["phantoms"]["seed"] != load_suite("phantom").seed
    now = json.loads(json.dumps(method(name).training_config()))
    assert weights.card["config"].items() <= now.items()  # a setting that came later has its default in the weights
    assert f"--steps {weights.card['steps']}" in weights.card["command"]
    assert f"--seed {weights.card['phantoms']['seed']}" in weights.card["command"]


def test_all_weights_together_are_small() -> None:
    sizes = [file.stat().st_size for one in all_weights(methods().values()) for file in one.folder.rglob("*")]
    assert 0 < sum(sizes) < MOST_BYTES


def test_weights_are_half_precision_and_no_code() -> None:
    import torch
    from safetensors.torch import load_file

    for one in all_weights(methods().values()):
        for file in one.folder.rglob("*"):
            assert file.suffix in ("", ".json", ".safetensors", ".pth"), file
            state = load_file(file) if file.suffix == ".safetensors" else {}
            if file.suffix == ".pth":
                state = torch.load(file, weights_only=True)["network_weights"]
            kinds = {value.dtype for value in state.values() if value.is_floating_point()}
            assert kinds <= {torch.float16}, file


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Method:
    """A method in a package of its own, whose zoo holds one set of weights, for one image of one data set."""
    package = tmp_path / "my_package"
    folder = package / "zoo" / "mine" / "joint"
    (folder / "checkpoint" / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a look at the zoo imports no method')")
    (folder / "checkpoint" / "deep" / "weights.safetensors").write_bytes(b"weights")
    card = {
        "method": "mine",
        "method_version": "1",
        "datasets": ["kits21"],
        "config": {},
        "phantoms": {"seed": 71, "images": [hashlib.sha256(b"seen").hexdigest()[:16]]},
        "digest": zoo.digest_of_folder(folder / "checkpoint"),
    }
    (folder / "card.json").write_text(json.dumps(card))
    monkeypatch.syspath_prepend(str(tmp_path))
    return Method("mine", "", "nowhere:at_all", frozenset(), zoo=ZooTraining("my_package", 10))


def folder_of(own: Method, tmp_path: Path) -> Path:
    return tmp_path / "my_package" / "zoo" / own.name / "joint"


def test_weights_are_found_in_the_package_of_the_method(own: Method, tmp_path: Path) -> None:
    weights = zoo_weights(own, "kits21")
    assert weights is not None
    assert weights.folder == folder_of(own, tmp_path)
    assert zoo_weights(own, "lits17") is None
    assert zoo_weights(replace(own, zoo=None), "kits21") is None


def test_weights_of_one_data_set_go_before_joint_ones(own: Method, tmp_path: Path) -> None:
    joint = folder_of(own, tmp_path)
    shutil.copytree(joint, joint.with_name("kits21"))
    weights = zoo_weights(own, "kits21")
    assert weights is not None
    assert weights.folder.name == "kits21"


@pytest.mark.parametrize("change", ["content", "name", "more"])
def test_changed_weights_are_refused(own: Method, tmp_path: Path, change: str) -> None:
    file = folder_of(own, tmp_path) / "checkpoint" / "deep" / "weights.safetensors"
    if change == "content":
        file.write_bytes(b"weightz")
    elif change == "name":
        file.rename(file.with_name("other.safetensors"))
    else:
        (file.parent / "more.json").write_text("{}")
    with pytest.raises(UserError, match="not those of their card"):
        zoo_weights(own, "kits21")


def test_a_damaged_card_and_another_version_of_the_method_are_named(own: Method, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"version 1 of 'mine', which trains as version 2 now; train them again"):
        zoo_weights(replace(own, version="2"), "kits21")
    assert zoo_weights(replace(own, version="2", trained_as="1"), "kits21") is not None
    (folder_of(own, tmp_path) / "card.json").write_text("{")
    with pytest.raises(UserError, match="not a readable card"):
        read_weights(folder_of(own, tmp_path))


def test_no_case_is_evaluated_that_the_weights_were_trained_on(own: Method, tmp_path: Path) -> None:
    weights = zoo_weights(own, "kits21")
    assert weights is not None
    cases = []
    for content in (b"new", b"seen"):
        image = tmp_path / f"{content.decode()}.nii"
        image.write_bytes(content)
        cases.append(Case("kits21", content.decode(), image, image))
    weights.refuse_seen(cases[:1], "mine")
    with pytest.raises(UserError, match="case 'kits21/seen' is among those that its weights of the zoo were"):
        weights.refuse_seen(cases, "mine")
