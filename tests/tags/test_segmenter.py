"""TAGS behind the bench's interface: whole volumes, sessions, checkpoints, learning."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks.common.errors import UserError
from benchmarks.contestants import Augmentation, Batch, Target, TrainingRecipe
from benchmarks.data.dataset import Case
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Click, PromptKind, Prompts
from tags import segmenter as segmenter_module
from tags.config import sized
from tags.image_encoder import CHUNK_TOKENS
from tags.losses import segmentation_loss
from tags.method import tags_tiny, tags_vit_b
from tags.model import TAGS
from tags.prompt_encoder import PromptTensors
from tags.sampling import Sampling
from tags.segmenter import TagsSegmenter
from tests.tags.shapes import ball

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


def test_prompt_kinds_are_those_of_the_contract(segmenter):
    assert segmenter.prompts == frozenset(PromptKind)


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

    def mask(segmenter):
        return segmenter.open(volume, TARGET).segment(click(20, 20, 20))

    before = mask(fresh)
    fresh.load(tmp_path)
    assert np.array_equal(mask(fresh), mask(trained))
    assert not np.array_equal(before, mask(trained))


@torch.no_grad()
def test_a_frozen_random_backbone_is_the_same_in_every_process(tmp_path):
    """A checkpoint does not hold it. What is trained starts as torch draws it, frozen backbone or not."""
    image, bounds = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([[-2.0, 2]])
    logits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        segmenter = tags_tiny.build({"freeze_backbone": True})
        if seed == 1:
            segmenter.save(tmp_path)
        else:
            segmenter.load(tmp_path)
        logits.append(segmenter.module.eval()(image, [("kidney", "tumor")], bounds, PromptTensors.empty(1)))
    assert torch.equal(*logits)
    for frozen in (True, False):
        torch.manual_seed(1)
        drawn = TAGS(sized("tiny", freeze_backbone=frozen)).named_parameters()
        torch.manual_seed(1)
        started = dict(tags_tiny.build({"freeze_backbone": frozen}).module.named_parameters())
        for name, parameter in drawn:
            assert torch.equal(started[name], parameter) or not parameter.requires_grad, name


@pytest.mark.parametrize(
    ("device", "gpu_has_bf16", "cpu_has_amx", "expected"),
    [
        ("cuda", True, False, torch.bfloat16),
        ("cuda:1", False, True, None),  # float16 does not hold its values
        ("cpu", True, True, torch.bfloat16),
        ("cpu", True, False, None),
    ],
)
def test_inference_computes_in_what_the_device_has(monkeypatch, device, gpu_has_bf16, cpu_has_amx, expected):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_has_bf16)
    monkeypatch.setattr(segmenter_module, "cpu_has_fast_bf16", lambda: cpu_has_amx)
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype: asked.append((kind, dtype)))
    for wanted in (True, False):
        TagsSegmenter({**tags_tiny.config, "mixed_precision": wanted}, device).autocast()
    assert asked == ([] if expected is None else [(device[:4].rstrip(":"), expected)])


def case_of(folder, side):
    """A case of 1 mm voxels with a cube of `side` voxels as tumour."""
    label = np.zeros((100, 100, 60), np.int16)
    label[10 : 10 + side, 20 : 20 + side, 5 : 5 + side] = 1
    affine = np.eye(4)
    nib.Nifti1Image(np.zeros(label.shape, np.float32), affine).to_filename(folder / "image.nii.gz")
    nib.Nifti1Image(label, affine).to_filename(folder / "label.nii.gz")
    return Case("d", "c", folder / "image.nii.gz", folder / "label.nii.gz")


def test_the_training_lesions_decide_the_spacing_and_the_checkpoint_keeps_it(tmp_path):
    """A cube of 48 mm in three quarters of 32 voxels: 2 mm."""
    planned = tags_tiny.build()
    assert planned.recipe(TARGET).preprocessing.spacing == (4.0, 4.0, 4.0), "128 mm in 32 voxels"
    planned.plan([(TARGET, [case_of(tmp_path, 48)])])
    assert planned.recipe(TARGET).preprocessing.spacing == (2.0, 2.0, 2.0)
    (tmp_path / "kept").mkdir()
    planned.save(tmp_path / "kept")
    fresh = tags_tiny.build()
    fresh.load(tmp_path / "kept")
    assert fresh.decided == planned.decided
    assert fresh.preprocessing(TARGET).spacing == (2.0, 2.0, 2.0)
    by_hand = tags_tiny.build({"spacing": 3.0})
    by_hand.plan([(TARGET, [case_of(tmp_path, 48)])])
    by_hand.load(tmp_path / "kept")
    assert by_hand.preprocessing(TARGET).spacing == (3.0, 3.0, 3.0)
    content = json.loads((tmp_path / "kept" / "tags.json").read_text())
    del content["plan"]
    (tmp_path / "kept" / "tags.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no readable plan"):
        fresh.load(tmp_path / "kept")


def test_the_recipe_says_what_the_settings_say():
    """Field by field, with values of which no two are alike; the widest view, 32 · 2.4 voxels, has room in a crop."""
    asked = {
        "batch_size": 3,
        "learning_rate": 2e-3,
        "final_learning_rate": 3e-5,
        "warm_up": 0.07,
        "weight_decay": 0.013,
        "gradient_clip": 1.7,
        "foreground": 0.61,
        "deep": 0.37,
        "mixed_precision": False,
    }
    recipe = tags_tiny.build({**asked, "ema": 0.95, "spacing": 3.0, "zoom": [0.7, 2.4]}).recipe(TARGET)
    preprocessing = Preprocessing((3.0, 3.0, 3.0), (-100.0, 200.0), 50.0, 75.0)
    turned_by_the_loss = Augmentation(flips=(0.0, 0.0, 0.0))
    assert recipe == TrainingRecipe(
        preprocessing, (78, 78, 78), ema_decay=0.95, augmentation=turned_by_the_loss, float16=False, **asked
    )


AS_IT_IS = {"zoom": [1.0, 1.0], "stretch": 0, "tilt": 0, "flips": [0.0, 0.0, 0.0]}


def spied(monkeypatch, name):
    """The arguments of every call of a function that `tags.segmenter` uses, and what it gave back."""
    calls, real = [], getattr(segmenter_module, name)

    def spy(*args):
        result = real(*args)
        calls.append((args, result))
        return result

    monkeypatch.setattr(segmenter_module, name, spy)
    return calls


def test_training_prompts_are_drawn_by_the_shares_that_were_set(monkeypatch):
    drawn = spied(monkeypatch, "sample_prompts")
    settings = {"clicks": 7, "prompt_dropout": 0.11, "dropout_elsewhere": 0.22, "single_click": 0.33}
    settings |= {"central_click": 0.44, "box_share": 0.55, "mask_share": 0.66}
    tags_tiny.build({**AS_IT_IS, **settings}).loss(batch_of(torch.zeros(1, 1, 32, 32, 32), ball(8)))
    ((_, _, how), _) = drawn[0]
    assert how == Sampling(clicks=7, none=0.11, none_elsewhere=0.22, single=0.33, central=0.44, box=0.55, mask=0.66)


def test_a_rare_target_weighs_more_in_unprompted_crops_alone(monkeypatch):
    """Of two crops with a ball, the one that holds the centre is told nothing, the other has a click."""
    compared = spied(monkeypatch, "segmentation_loss")
    shares = {"prompt_dropout": 1.0, "dropout_elsewhere": 0.0, "single_click": 1.0, "mask_share": 0.0, "corrections": 0}
    label = torch.cat((ball(5), ball(5, (8, 8, 8))))
    tags_tiny.build({**AS_IT_IS, **shares}).loss(batch_of(torch.zeros_like(label), label))
    (((_, _, dice_weight, weight), _),) = compared
    inside, voxels = label[0].sum().item(), 32**3
    assert dice_weight == tags_tiny.config["dice_weight"]
    assert weight[0][label[0] > 0].unique().item() == pytest.approx((voxels / inside) ** 0.5)
    assert (weight[0][label[0] == 0] == 1).all()
    assert (weight[1] == 1).all()


@pytest.mark.parametrize("coarse_weight", [0.0, 0.3])
def test_the_loss_is_the_mean_of_its_rounds_and_of_its_parts_as_weighed(monkeypatch, coarse_weight):
    """Against its formula, for logits that are the same everywhere and in every round: a fifth of it is Dice."""
    one_click = {"prompt_dropout": 0.0, "single_click": 1.0, "mask_share": 0.0}
    weights = {"dice_weight": 0.2, "coarse_weight": coarse_weight}
    segmenter = tags_tiny.build({**AS_IT_IS, **one_click, **weights, "corrections": 9})
    rounds, label = [], torch.zeros(1, 1, 32, 32, 32)
    label[..., 8:20, 8:20, 8:20] = 1  # of even numbers: half the resolution loses nothing
    full, coarse = torch.full((1, 1, 32, 32, 32), -1.0), torch.full((1, 1, 16, 16, 16), 0.5)
    monkeypatch.setattr(segmenter.module, "decode", lambda *told: rounds.append(told) or (full, coarse))
    loss, parts = segmenter.loss(batch_of(torch.zeros_like(label), label))
    assert len(rounds) > 1

    def formula(logit, voxels, inside):
        p = 1 / (1 + math.exp(-logit))
        dice = 1 - (2 * p * inside + 1) / (p * voxels + inside + 1)
        entropy = -(inside * math.log(p) + (voxels - inside) * math.log(1 - p)) / voxels
        return dice, entropy, 0.2 * dice + 0.8 * entropy

    dice, entropy, value = formula(-1.0, 32**3, 12**3)
    assert loss.item() == pytest.approx(value + coarse_weight * formula(0.5, 16**3, 6**3)[2], rel=1e-4)
    assert parts["dice_loss"].item() == pytest.approx(dice, rel=1e-4)
    assert parts["cross_entropy"].item() == pytest.approx(entropy, rel=1e-4)


def test_every_round_is_told_the_correction_of_the_one_before(monkeypatch):
    """Up to two rounds follow the first, as the generator draws; each has a further click and the logits as mask."""
    segmenter = tags_tiny.build({**AS_IT_IS, "corrections": 2})
    told, numbers, logits = [], set(), 2 * ball(5) - 1
    monkeypatch.setattr(segmenter.module, "decode", lambda _, prompts: told.append(prompts) or (logits, None))
    corrected = spied(monkeypatch, "correct")
    for seed in range(8):
        told.clear()
        corrected.clear()
        segmenter.loss(batch_of(torch.zeros(1, 1, 32, 32, 32), ball(8), seed=seed))
        numbers.add(len(told))
        assert [prompts for _, prompts in corrected] == told[1:]
        for before, after in itertools.pairwise(told):
            assert after.points.shape[1] == before.points.shape[1] + 1
            assert torch.equal(after.mask, logits.sigmoid())
    assert numbers == {1, 2, 3}


def test_clip_looks_before_the_flips(monkeypatch):
    segmenter = tags_tiny.build({"zoom": [1.0, 1.0], "stretch": 0, "tilt": 0, "flips": [1.0, 1.0, 0.0]})
    image = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    module, looked = segmenter.module, {}
    see, encode = module.see, module.encode
    monkeypatch.setattr(module, "see", lambda x, bounds: looked.setdefault("clip", x) is None or see(x, bounds))
    monkeypatch.setattr(
        module, "encode", lambda x, *rest: looked.setdefault("sam", (x, rest)) is None or encode(x, *rest)
    )
    segmenter.loss(batch_of(image, torch.zeros_like(image)))
    (shown, (_, bounds, handed)), upright = looked["sam"], looked["clip"]
    assert torch.allclose(upright, image, atol=1e-5)
    assert torch.equal(shown, upright.flip(2, 3))
    seen = see(upright, bounds)
    for mine, theirs in ((seen.patches, handed.patches), (seen.joint, handed.joint)):
        assert torch.equal(theirs, mine.flip(2, 3)), "what CLIP saw lies where the flipped crop has it"
        assert not torch.allclose(theirs, mine, atol=1e-3), "or the test could not fail"
    assert torch.equal(handed.pooled, seen.pooled)


def test_intensities_of_the_image_are_augmented_for_clip_too_and_the_label_is_not(monkeypatch):
    """What the network and CLIP are shown, and what the loss compares with."""
    image = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    label = ball(8).expand(2, -1, -1, -1, -1).contiguous()
    shown, looked, compared = [], [], []
    monkeypatch.setattr(
        segmenter_module,
        "segmentation_loss",
        lambda logits, label, *rest: compared.append(label) or segmentation_loss(logits, label, *rest),
    )
    for chance in (0.0, 1.0):
        fixed = {"zoom": [1.0, 1.0], "stretch": 0, "tilt": 0, "flips": [0.0, 0.0, 0.0], "corrections": 0}
        segmenter = tags_tiny.build({**fixed, "augment_intensity": chance})
        encode, see = segmenter.module.encode, segmenter.module.see
        monkeypatch.setattr(segmenter.module, "see", lambda x, bounds, see=see: looked.append(x) or see(x, bounds))
        monkeypatch.setattr(
            segmenter.module, "encode", lambda x, *rest, encode=encode: shown.append(x) or encode(x, *rest)
        )
        segmenter.loss(batch_of(image, label))
    assert torch.allclose(shown[0], image, atol=1e-5)
    assert (shown[1] - image).flatten(1).std(dim=1).min() > 0.05
    assert torch.equal(looked[1], shown[1])
    assert torch.equal(compared[1], label)


@pytest.mark.parametrize("chance", [-0.1, 30])
def test_a_chance_that_is_none_is_refused(chance):
    with pytest.raises(UserError, match="augment_intensity is a chance between 0 and 1"):
        tags_tiny.build({"augment_intensity": chance})


def test_crops_are_mirrored_only_where_the_anatomy_allows_it(monkeypatch):
    """By default left and right alone, crop by crop, and not for an organ on one side of the body."""
    assert tags_vit_b.config["flips"] is None
    segmenter = tags_tiny.build({"flips": None})
    drawn, real = [], segmenter_module.draw_flips
    monkeypatch.setattr(segmenter_module, "draw_flips", lambda chances, g: drawn.append(chances) or real(chances, g))
    image = torch.zeros(2, 1, 78, 78, 78)
    liver = Target("liver-tumor", "Liver", "tumor", (1,))
    segmenter.loss(Batch(image, image, [TARGET, liver], torch.Generator().manual_seed(0), 0.0))
    assert drawn == [[(0.5, 0.0, 0.0), (0.0, 0.0, 0.0)]]


def test_a_step_with_checkpointing_has_the_gradients_of_one_without(monkeypatch):
    """Correction rounds, guidance and windows a few at a time included."""
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 128)
    torch.manual_seed(0)
    plain, again = (tags_tiny.build({"checkpointing": on, "corrections": 2}) for on in (False, True))
    again.module.load_state_dict(plain.module.state_dict())
    image = torch.randn(2, 1, 78, 78, 78, generator=torch.Generator().manual_seed(0))
    label = torch.zeros_like(image)
    label[..., 30:50, 25:45, 35:55] = 1
    for seed in (1, 2):
        losses = []
        for one in (plain, again):
            one.module.zero_grad()
            losses.append(one.loss(Batch(image, label, [TARGET] * 2, torch.Generator().manual_seed(seed), 0.0))[0])
            losses[-1].backward()
        assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
        theirs = dict(again.module.named_parameters())
        for name, parameter in plain.module.named_parameters():
            if parameter.grad is None:
                assert theirs[name].grad is None, name
                continue
            scale = float(parameter.grad.abs().max())
            assert torch.allclose(theirs[name].grad, parameter.grad, atol=1e-3 * scale + 1e-7), name


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


@pytest.mark.parametrize("part", ["architecture", "towers", "plan"])
def test_half_a_checkpoint_is_refused(tmp_path, part):
    segmenter = tags_tiny.build()
    segmenter.save(tmp_path)
    whole = json.loads((tmp_path / "tags.json").read_text())
    for broken in ({name: value for name, value in whole.items() if name != part}, {**whole, part: None}, [whole]):
        (tmp_path / "tags.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match=f"no readable {part if isinstance(broken, dict) else 'architecture'};"):
            segmenter.load(tmp_path)


def test_user_mistakes_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path))
    for config, message in (
        ({"patch": 33}, "patch must be a multiple"),
        ({"sam_weights": "nowhere.pth"}, r"put it at .*nowhere\.pth"),
        ({"fusion": "sum"}, "gated, concat or none"),
        ({"overlap": 1}, "overlap is a share from 0 to below 1, not 1"),
        ({"overlap": -0.1}, "overlap is a share from 0 to below 1"),
        ({"gradient_clip": 0}, "gradient_clip is above 0, not 0"),
        ({"threshold": 50}, "threshold is a share from 0 to below 1, not 50"),
        ({"queries": 0, "semantic": False, "anatomy": False}, "queries must not be 0"),
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
    segmenter = tags_tiny.build(
        {"prompt_dropout": 0.0, "single_click": 1.0, "zoom": [1.0, 1.0], "corrections": 0, "mask_share": 0.0}
    )
    learn(segmenter, 40)
    images, labels, places = blobs(8, seed=2)
    found, balls = [], []
    axes = np.stack(np.meshgrid(*(np.arange(32),) * 3, indexing="ij"))
    for image, label, place in zip(images, labels, places, strict=True):
        volume = Volume(image[0] * TARGET.std + TARGET.mean, np.diag([4.0, 4.0, 4.0, 1.0]))
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
from benchmarks.data.dataset import Case
from benchmarks.data.volume import Volume
from tags.method import tags_tiny

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

target = Target("t", "kidney", "tumor", (1,), window=(-100.0, 200.0), mean=50.0, std=75.0)
segmenter = tags_tiny.build({"spacing": 1.0})
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
