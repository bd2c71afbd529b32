"""The towers that come with the package know organs, tumours and cysts of phantoms that they never saw."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common.errors import UserError
from benchmarks.data.layouts.kits21 import ABDOMEN
from benchmarks.data.synthetic.scan import draw
from tags import contrast
from tags.anatomy import lesion_sentences, organ_sentences
from tags.config import defaults
from tags.contrast import NAMES, Contrast, Views, draw_views, named, recall, scenes
from tags.segmenter import TagsSegmenter
from tags.semantic import PHANTOM_CLIP, build_clip
from tags.weights import PHANTOMS, TOWERS_FILE, phantom_towers, read_state, seed_tower

OTHER_SEED = 31  # neither learned from nor in the card
TOWERS = {"clip": PHANTOM_CLIP, "clip_weights": PHANTOMS}


@pytest.fixture(scope="module")
def unseen() -> list[contrast.Scene]:
    return scenes(OTHER_SEED, 3)


def test_they_recognise_what_fills_a_patch_and_random_ones_do_not(unseen) -> None:
    clip = build_clip(PHANTOM_CLIP)
    clip.load_state_dict(read_state(phantom_towers() / TOWERS_FILE))
    found = recall(Contrast(clip).eval(), unseen, batches=12)
    seed_tower(clip, 1)
    by_chance = recall(Contrast(clip).eval(), unseen, batches=12)
    for organ in ("kidney", "pancreas", "liver"):
        assert found[organ] > 0.6, found
    assert np.mean(list(found.values())) > 0.6 > 0.3 > np.mean(list(by_chance.values()))


def test_the_card_is_that_of_the_file() -> None:
    card = json.loads((phantom_towers() / "card.json").read_text("utf-8"))
    assert card["sha256"] == hashlib.sha256((phantom_towers() / TOWERS_FILE).read_bytes()).hexdigest()
    assert not card["environment"]["git_dirty"]
    assert "SYNTHETIC" in card["what"]
    assert card["phantoms"]["seed"] != card["recall on unseen phantoms"]["seed"]
    assert {"kidney", "kidney tumor", "kidney cyst"} < card["recall on unseen phantoms"].keys()


def test_the_scenes_are_the_phantoms_that_the_suites_draw(unseen) -> None:
    """The same image as `scan.draw` gives; the label map differs in that a cyst has a value of its own."""
    phantom = draw(ABDOMEN, OTHER_SEED, 0)
    scene = unseen[0]
    extent = np.multiply(phantom.image.shape, phantom.spacing)
    assert np.allclose(np.multiply(scene.label.shape, contrast.SOURCE_MM), extent, atol=contrast.SOURCE_MM)
    voxel = np.prod(phantom.spacing) / contrast.SOURCE_MM**3
    for value in np.unique(phantom.label):
        assert np.isclose((scene.label == value).sum(), (phantom.label == value).sum() * voxel, rtol=0.1, atol=5)
    hu = scene.levels[0][0].astype(float)
    for value in (1, 2):
        assert abs(hu[scene.label == value].mean() - phantom.image[phantom.label == value].mean()) < 6
    layers = scene.levels[0][1:]
    assert np.array_equal(layers, [scene.label == layer for layer in (1, 2, 3)])
    coarse = scene.levels[1][1:].astype(float)
    assert np.allclose(coarse.sum() * 8, layers.astype(float).sum(), rtol=0.05)


def test_views_show_the_label_where_the_image_shows_the_organ(unseen) -> None:
    views = draw_views(unseen, 24, np.random.default_rng(0), torch.device("cpu"))
    assert views.image.shape == (24, 1, 32, 32, 32)
    assert views.shares.shape == (24, 3, 8, 8, 4)
    assert views.image.min() >= 0
    assert views.image.max() <= 1 + 1e-5
    again = draw_views(unseen, 24, np.random.default_rng(0), torch.device("cpu"))
    assert torch.equal(views.image, again.image)
    assert torch.equal(views.shares, again.shares)
    slices = views.image[:, 0, :, :, [4, 12, 20, 28]]  # the middles of four quarters, rounded to even
    means = torch.nn.functional.avg_pool3d(slices, (4, 4, 1))
    organ = views.shares.sum(dim=1) > 0.9
    assert means[organ].mean() > means[views.shares.sum(dim=1) < 0.05].mean() + 0.1, "organs are brighter than fat"


def test_what_is_known_of_a_patch() -> None:
    shares = torch.zeros(1, 3, 8, 8, 4)
    shares[0, 1, 0, 0, 0] = 0.8  # tumour
    shares[0, 0, 1, 0, 0] = 0.4  # a little of the organ
    wanted, known = named(Views(torch.zeros(1, 1, 32, 32, 32), shares, torch.tensor([1])))
    names = {name: index for index, name in enumerate(NAMES)}
    tumour = names["pancreas", "tumor"]
    assert wanted.nonzero().tolist() == [[0, tumour, 0, 0, 0]]
    assert known[0, :, 0, 0, 0].tolist() == [1.0] * 9, "a patch with a name has no other one"
    assert known[0, :, 1, 0, 0].tolist() == [0.0] * 9, "nothing is sure where less than half is filled"
    unnamed = [float(name[0] == "pancreas") for name in NAMES]
    assert known[0, :, 5, 5, 2].tolist() == unnamed, "what has no name may be an organ of another data set"


def test_a_training_is_written_as_it_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(contrast, "UNSEEN_CASES", 1)
    monkeypatch.setattr(contrast, "recall", lambda *_: {"kidney": 0.5})
    contrast.main(["--steps", "2", "--cases", "1", "--out", str(tmp_path)])
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    state = read_state(tmp_path / TOWERS_FILE)
    build_clip(PHANTOM_CLIP).load_state_dict(state)
    assert card["sha256"] == hashlib.sha256((tmp_path / TOWERS_FILE).read_bytes()).hexdigest()
    assert "--steps 2 --cases 1" in card["command"]
    assert card["phantoms"]["cases of each data set"] == 1
    start = build_clip(PHANTOM_CLIP)
    seed_tower(start, 0)
    assert not torch.allclose(state["text_projection"].float(), start.text_projection, atol=1e-4), "it has learned"


def test_tags_reads_with_them_and_tells_a_cyst_from_a_tumour() -> None:
    segmenter = TagsSegmenter({**defaults("tiny"), **TOWERS})
    anatomy = segmenter.module.anatomy
    assert anatomy is not None
    tumour, cyst = anatomy.text(("kidney", "tumor"))[1], anatomy.text(("kidney", "cyst"))[1]
    assert float(tumour @ cyst) < 0.9
    assert segmenter.digests()["clip"] != TagsSegmenter({**defaults("tiny"), "clip": PHANTOM_CLIP}).digests()["clip"]


def test_they_fit_no_other_architecture() -> None:
    with pytest.raises(UserError, match="CLIP weights 'phantoms' do not fit 'tiny'") as caught:
        TagsSegmenter({**defaults("tiny"), "clip_weights": PHANTOMS})
    assert "\n" not in str(caught.value)


def test_sentences_about_a_cyst_speak_of_fluid() -> None:
    described = lesion_sentences(("kidney", "cyst"))[-1]
    assert described.startswith("kidney cyst: ")
    assert "fluid" in described
    assert lesion_sentences(("kidney", "tumor"))[-1] != described.replace("cyst", "tumor")
    assert organ_sentences(("kidney", "cyst")) == organ_sentences(("kidney", "tumor"))


def test_cysts_have_a_value_of_their_own_in_every_family(unseen) -> None:
    found = {(s.family, int(v)) for s in [*unseen, *scenes(OTHER_SEED + 1, 4)] for v in np.unique(s.label)}
    assert found == {(family, value) for family in range(3) for value in range(4)}
