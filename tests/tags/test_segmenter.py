"""TAGS behind the bench's interface: whole volumes, sessions, checkpoints, learning."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Target
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Box, Click, PromptKind, Prompts
from tags.method import tags_tiny, tags_vit_b

TARGET = Target("kidney-tumor", "kidney", "tumor", (1,), window=(-100.0, 200.0), mean=50.0, std=75.0)


def volume_of(shape, spacing=(2.5, 2.5, 2.5), seed=0):
    array = np.random.default_rng(seed).normal(50, 20, shape).astype(np.float32)
    return Volume(array, np.diag([*spacing, 1.0]))


def click(*position, positive=True):
    return Prompts(clicks=(Click(position, positive),))


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return tags_tiny.build()


class Marked:
    """Stands in for the network: says where it looks by painting what it is told to."""

    def __init__(self, session, paint):
        self.seen = []
        self.session, self.paint = session, paint
        session._crop_probability = self.probability

    def probability(self, origin, asked, inherited, keep):
        self.seen.append(origin)
        return self.paint(origin).astype(np.float32)


def test_announced_methods_import_no_torch():
    code = (
        "import sys, tags.method as m; assert 'torch' not in sys.modules and 'open_clip' not in sys.modules; "
        "print(sorted(x.name for x in (m.tags_tiny, m.tags_vit_b, m.tags_vit_l, m.tags_vit_h)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['tags-tiny', 'tags-vit-b', 'tags-vit-h', 'tags-vit-l']"


def test_defaults_are_plain_and_the_search_space_names_them():
    for method in (tags_tiny, tags_vit_b):
        assert json.loads(json.dumps(dict(method.config))) == dict(method.config)
        assert set(method.search_space) <= set(method.config)


def test_announced_and_real_prompts_are_the_same(segmenter):
    assert segmenter.prompts == tags_tiny.prompts


@pytest.mark.parametrize("shape", [(40, 45, 50), (10, 9, 7), (70, 20, 33), (1, 1, 1)])
def test_masks_lie_on_the_volumes_own_grid(segmenter, shape):
    session = segmenter.open(volume_of(shape, (2.0, 3.0, 1.7)), TARGET)
    for position in ((0, 0, 0), tuple(n - 1 for n in shape), tuple(n // 2 for n in shape)):
        mask = session.segment(click(*position))
        assert mask.shape == shape
        assert mask.dtype == bool
    probabilities = session._predict(click(0, 0, 0))
    assert probabilities.shape == session.prepared.shape
    assert (probabilities >= 0).all()
    assert (probabilities <= 1).all()


def test_the_first_crop_is_centred_on_the_click_on_the_models_grid(segmenter):
    session = segmenter.open(volume_of((60, 60, 60), (5.0, 2.5, 1.25)), TARGET)
    marked = Marked(session, lambda origin: np.zeros((32, 32, 32)))
    session.segment(click(20, 30, 40))
    # 5 mm → 2.5 mm: voxel 20 is centred at 40.5; 1.25 → 2.5: voxel 40 at 19.75
    assert marked.seen == [(40 - 16, 30 - 16, 20 - 16)]


def test_a_mask_that_touches_the_crops_face_calls_its_neighbours(segmenter):
    """A bar of 100 voxels along x is found whole from one click in its middle, and the growth stops there."""
    session = tags_tiny.build({"max_grown": 26}).open(volume_of((140, 40, 40)), TARGET)
    bar = np.zeros((200, 100, 100), bool)  # in voxels of the volume, shifted by 30
    bar[50:150, 45:55, 45:55] = True

    def paint(origin):
        x, y, z = (o + 30 for o in origin)
        return bar[x : x + 32, y : y + 32, z : z + 32]

    marked = Marked(session, paint)
    mask = session.segment(click(70, 20, 20))
    expected = bar[30:170, 30:70, 30:70]
    assert np.array_equal(mask, expected)
    assert len(marked.seen) == len(set(marked.seen))
    assert all(0 < x <= 110 for x, _, _ in marked.seen), "nothing far beyond the bar was looked at"


def test_growth_is_capped(segmenter):
    small = tags_tiny.build({"max_grown": 4})
    session = small.open(volume_of((200, 200, 200)), TARGET)
    marked = Marked(session, lambda origin: np.ones((32, 32, 32)))
    session.segment(click(100, 100, 100))
    assert len(marked.seen) == 5


def test_without_prompts_every_voxel_of_the_body_is_looked_at(segmenter):
    volume = volume_of((80, 70, 60))
    volume.array[:10] = volume.array[:, :, 50:] = -1000.0  # air
    session = segmenter.open(volume, TARGET)
    marked = Marked(session, lambda origin: np.full((32, 32, 32), 0.9))
    mask = session.segment(Prompts())
    assert mask[10:, :, :50].all()
    assert len(marked.seen) == len(set(marked.seen))
    assert segmenter.open(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)), TARGET).segment(Prompts()).sum() == 0


def test_overlapping_crops_are_blended_not_overwritten(segmenter):
    session = segmenter.open(volume_of((48, 32, 32)), TARGET)
    Marked(session, lambda origin: np.full((32, 32, 32), 0.2 if origin[0] <= 4 else 0.8))
    values = session._predict(Prompts())[:, 16, 16]
    assert values[0] == pytest.approx(0.2)
    assert values[-1] == pytest.approx(0.8)
    assert (np.diff(values) >= -1e-6).all()
    assert ((values > 0.3) & (values < 0.7)).any()


def test_a_second_click_reuses_the_encoding_and_forgets_nothing(segmenter, monkeypatch):
    session = segmenter.open(volume_of((60, 60, 60)), TARGET)
    calls = []
    real = segmenter.module.encode
    monkeypatch.setattr(segmenter.module, "encode", lambda *a, **k: calls.append(1) or real(*a, **k))
    one = Prompts(clicks=(Click((30, 30, 30)),))
    two = Prompts(clicks=(*one.clicks, Click((33, 31, 29), positive=False)))
    first = session._predict(one)
    encoded = len(calls)
    second = session._predict(two)
    extra = len(calls) - encoded
    assert extra == 0 or encoded > 1, "the crop at the first click is encoded once"
    assert not np.allclose(first, second)
    fresh = segmenter.open(volume_of((60, 60, 60)), TARGET)
    assert np.allclose(fresh._predict(two), second, atol=1e-6), "a session gives what a fresh one gives"


def test_a_box_is_covered_and_a_mask_prompt_is_used(segmenter):
    session = segmenter.open(volume_of((100, 40, 40)), TARGET)
    marked = Marked(session, lambda origin: np.zeros((32, 32, 32)))
    session.segment(Prompts(box=Box((10, 10, 10), (90, 30, 30))))
    starts = sorted(x for x, _, _ in marked.seen)
    assert starts[0] <= 10
    assert starts[-1] + 32 >= 90
    session = segmenter.open(volume_of((40, 40, 40)), TARGET)
    mask = np.zeros((40, 40, 40), bool)
    mask[15:25, 15:25, 15:25] = True
    boxed = session._predict(Prompts(box=Box((15, 15, 15), (25, 25, 25))))
    masked = session._predict(Prompts(mask=mask))
    clicked = session._predict(Prompts(clicks=(Click((20, 20, 20)),)))
    both = session._predict(Prompts(clicks=(Click((20, 20, 20)),), mask=mask))
    assert not np.allclose(boxed, masked, atol=1e-4)
    assert not np.allclose(clicked, both, atol=1e-4)


def test_a_text_prompt_is_refused_not_ignored(segmenter):
    with pytest.raises(UserError, match="text"):
        segmenter.open(volume_of((20, 20, 20)), TARGET).segment(Prompts(text="kidney tumor"))


def test_prompt_kinds_are_those_of_the_contract(segmenter):
    assert PromptKind.TEXT not in segmenter.prompts


def batch_of(image, label, progress=0.0, seed=0):
    return Batch(image, label, [TARGET] * len(image), torch.Generator().manual_seed(seed), progress)


def test_checkpoint_round_trip_and_its_size(tmp_path):
    torch.manual_seed(1)
    trained = tags_tiny.build()
    with torch.no_grad():
        for parameter in trained.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    trained.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"trained.safetensors", "tags.json"}
    number = sum(p.numel() for p in trained.trainable_parameters())
    assert (tmp_path / "trained.safetensors").stat().st_size < 4.2 * number + 50_000
    torch.manual_seed(2)
    fresh = tags_tiny.build()
    volume = volume_of((40, 40, 40))
    before = fresh.open(volume, TARGET)._predict(click(20, 20, 20))
    fresh.load(tmp_path)
    expected = trained.open(volume, TARGET)._predict(click(20, 20, 20))
    assert np.array_equal(fresh.open(volume, TARGET)._predict(click(20, 20, 20)), expected)
    assert not np.allclose(before, expected)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    tags_tiny.build().save(tmp_path)
    with pytest.raises(UserError, match="fusion = gated"):
        tags_tiny.build({"fusion": "concat"}).load(tmp_path)
    other = tags_tiny.build()
    with torch.no_grad():
        other.module.clip.ln_final.weight.add_(1)
    with pytest.raises(UserError, match="another frozen CLIP tower"):
        other.load(tmp_path)
    with pytest.raises(UserError, match="not a readable TAGS checkpoint"):
        tags_tiny.build().load(tmp_path / "nowhere")
    (tmp_path / "trained.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="not a readable TAGS checkpoint"):
        tags_tiny.build().load(tmp_path)


def test_user_mistakes_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path))
    for config, message in (
        ({"patch": 33}, "patch must be a multiple"),
        ({"sam_weights": "nowhere.pth"}, r"put it at .*nowhere\.pth"),
        ({"fusion": "sum"}, "gated, concat or none"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            tags_tiny.build(config)
        assert "\n" not in str(caught.value)


def test_loss_is_reproducible_finite_and_survives_empty_crops():
    segmenter = tags_tiny.build({"corrections": 2})
    image = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    label = torch.zeros_like(image)
    label[1, :, 8:20, 8:20, 8:20] = 1
    values = []
    for _ in range(2):
        loss, parts = segmenter.loss(batch_of(image, label, seed=3))
        values.append(loss.item())
        assert set(parts) == {"dice_loss", "cross_entropy"}
    assert values[0] == values[1]
    for seed in range(4):
        loss, _ = segmenter.loss(batch_of(image, torch.zeros_like(label), seed=seed))
        loss.backward()
        assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in segmenter.trainable_parameters() if p.grad is not None)


def blobs(number, seed):
    """Crops with a bright irregular blob near the middle and a decoy of the same kind elsewhere."""
    random = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*(np.arange(32),) * 3, indexing="ij"))
    images, labels, places = [], [], []
    for _ in range(number):
        noise = random.normal(0, 0.4, (32, 32, 32))
        centre, radii = random.uniform(11, 21, 3), random.uniform(3, 8, 3)
        inside = (((axes - centre[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(0) < 1
        images.append(noise + 1.2 * inside)
        labels.append(inside)
        places.append(centre)
    return np.array(images, np.float32)[:, None], np.array(labels, np.float32)[:, None], np.array(places)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def learn(segmenter, steps):
    images, labels, _ = blobs(40, seed=1)
    parameters = segmenter.trainable_parameters()
    optimiser = torch.optim.AdamW(parameters, lr=3e-3)
    random = np.random.default_rng(0)
    segmenter.module.train()
    for step in range(steps):
        chosen = random.integers(0, len(images), 2)
        batch = batch_of(torch.tensor(images[chosen]), torch.tensor(labels[chosen]), step / steps, seed=step)
        loss, _ = segmenter.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()


def test_a_few_steps_beat_every_mask_that_ignores_the_image():
    """Unseen blobs, one click: better than a ball of the best single radius round the click."""
    torch.manual_seed(0)
    segmenter = tags_tiny.build({"prompt_dropout": 0.0, "single_click": 1.0})
    learn(segmenter, 40)
    images, labels, places = blobs(8, seed=2)
    found, balls = [], []
    axes = np.stack(np.meshgrid(*(np.arange(32),) * 3, indexing="ij"))
    for image, label, place in zip(images, labels, places, strict=True):
        volume = Volume(image[0] * TARGET.std + TARGET.mean, np.diag([2.5, 2.5, 2.5, 1.0]))
        position = tuple(round(p) for p in place)
        found.append(dice(segmenter.open(volume, TARGET).segment(click(*position)), label[0] > 0.5))
        distance = ((axes - np.array(position)[:, None, None, None]) ** 2).sum(0)
        balls.append([dice(distance <= r * r, label[0] > 0.5) for r in np.arange(2, 9, 0.5)])
    best_ball = np.mean(balls, axis=0).max()
    assert np.mean(found) > best_ball + 0.05


@pytest.mark.slow
def test_a_volume_of_700_slices_takes_bounded_memory():
    """Peak memory of opening and clicking grows by a few volumes, not with the number of crops."""
    code = """
import resource, numpy as np, torch
torch.set_num_threads(1)
from benchmarks.prompting.prompts import Click, Prompts
from benchmarks.contestants import Target
from benchmarks.data.volume import Volume
from tags.method import tags_tiny

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

target = Target("t", "kidney", "tumor", (1,), window=(-100.0, 200.0), mean=50.0, std=75.0)
segmenter = tags_tiny.build({"spacing": 1.0, "max_grown": 60})
warm = Volume(np.zeros((40, 40, 40), np.float32), np.eye(4))
segmenter.open(warm, target).segment(Prompts(clicks=(Click((9, 9, 9)),)))
array = np.random.default_rng(0).standard_normal((256, 256, 700), np.float32)
before = peak()
session = segmenter.open(Volume(array, np.eye(4)), target)
session.segment(Prompts(clicks=(Click((128, 128, 350)), Click((20, 20, 690)))))
print((peak() - before) * 2**20 / array.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5.0, "peak memory in volumes"
