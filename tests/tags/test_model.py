"""The assembled model: what each part does, what trains, what each switch changes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from tags.anatomy import lesion_sentences, organ_sentences
from tags.config import TagsConfig, sized
from tags.losses import dice_loss, rarity, segmentation_loss
from tags.model import TAGS, as_pictures
from tags.prompt_encoder import PromptTensors

KIDNEY = [("kidney", "tumor")]


def one_click(x=16, y=16, z=16):
    return PromptTensors.empty(1).with_points(torch.tensor([[[x, y, z]]]).float(), torch.tensor([[1]]))


def opened(model):
    """Random values in every part that starts at zero, so that a test cannot pass because nothing flows."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if name.endswith(".gate"):
                parameter.fill_(1.0)
    return model


def test_closed_gates_leave_the_sam_stream_bit_for_bit(build, noise, bounds):
    model, image = build(), noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        guided = model.encode(image, KIDNEY, bounds)
        tokens = model.stem(as_pictures(image))
        for plain, used in zip(model.encoder(tokens), model.encoder(tokens, lambda _, x: x), strict=True):
            assert torch.equal(plain, used)
        semantic, guidance = model.semantic, model.semantic.guidance(model.see(image, bounds), (8, 8, 8))
        closed = model.encoder(tokens, lambda tap, x: semantic(tap, x, guidance))
        assert all(torch.equal(a, b) for a, b in zip(model.encoder(tokens), closed, strict=True))
        for gate in model.semantic.gates:
            gate.gate.fill_(0.5)
        assert not torch.allclose(model.encode(image, KIDNEY, bounds).feature, guided.feature)


@pytest.mark.parametrize("form", ["film", "attention"])
def test_guidance_acts_at_every_tap(build, noise, bounds, form):
    model, image = build(semantic_gate=form), noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        tokens = model.stem(image)
        guidance = model.semantic.guidance(model.see(image, bounds), (8, 8, 8))
        for tap in range(4):
            assert torch.equal(model.semantic(tap, tokens, guidance), tokens)
            model.semantic.gates[tap].gate.fill_(0.5)
            assert not torch.allclose(model.semantic(tap, tokens, guidance), tokens)


def test_untrained_adapters_are_the_identity(build, noise, bounds):
    with_adapters, without = build(), build(adapters=False)
    shared = {k: v for k, v in with_adapters.state_dict().items() if ".adapter." not in k}
    without.load_state_dict(shared)
    image = noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(
            with_adapters(image, KIDNEY, bounds, one_click()), without(image, KIDNEY, bounds, one_click())
        )


def test_slices_and_clip_features_lie_where_the_crop_has_them(build, noise, bounds):
    """Only the CLIP tokens of the part of the crop that changed may change most."""
    model = build()
    image = noise(1, 1, 32, 32, 32) * 0.2
    for corner in itertools.product((False, True), repeat=3):  # low or high end of each axis
        changed = image.clone()
        changed[:, :, *(slice(24, None) if high else slice(8) for high in corner)] += 3
        with torch.no_grad():
            difference = (model.see(changed, bounds).patches - model.see(image, bounds).patches).abs().sum(dim=1)[0]
        most = torch.unravel_index(difference.argmax(), difference.shape)
        ends = [size - 1 if high else 0 for size, high in zip(difference.shape, corner, strict=True)]
        assert [int(place) for place in most] == ends


def test_pictures_are_upright(build, bounds):
    """First row is the front (high y), first column the patient's right (high x, as RAS+ runs to the right)."""
    model = build()
    image = torch.full((1, 1, 32, 32, 32), -2.0)
    image[:, :, 24:, 24:, :] = 2.0
    picture = model.vision.pictures(image, bounds)[0, 0]
    assert picture[:8, :8].mean() > 1
    assert picture[8:, :].max() < 0
    assert picture[:, 8:].max() < 0


def test_sam_sees_the_picture_that_clip_sees(build, noise, bounds, monkeypatch):
    """Rows from front to back, columns from the patient's right to left; its features come back in (x, y, z)."""
    model = build(semantic=False, anatomy=False)
    image = torch.full((1, 1, 32, 32, 32), -2.0)
    image[:, :, 24:, 24:, :] = 2.0
    shown, real = [], model.stem.embed
    monkeypatch.setattr(model.stem, "embed", lambda x: shown.append(x) or real(x))
    model.encode(image, KIDNEY, bounds)
    assert shown[0][0, 0, :8, :8].min() == 2
    assert shown[0][0, 0, 8:].max() == shown[0][0, 0, :, 8:].max() == -2
    assert torch.equal(as_pictures(as_pictures(image)), image)


def test_sam_features_lie_where_the_crop_has_them(build, noise, bounds):
    model, image = build(semantic=False, anatomy=False), noise(1, 1, 32, 32, 32) * 0.2
    for corner in itertools.product((False, True), repeat=3):
        changed = image.clone()
        changed[:, :, *(slice(24, None) if high else slice(8) for high in corner)] += 3
        with torch.no_grad():
            features = [model.encode(one, KIDNEY, bounds).feature for one in (changed, image)]
        difference = (features[0] - features[1]).abs().sum(dim=1)[0]
        quarters = torch.nn.functional.avg_pool3d(difference[None, None], 2)[0, 0]
        most = torch.unravel_index(quarters.argmax(), quarters.shape)
        assert [int(place) > 1 for place in most] == list(corner)


def test_guidance_of_flipped_views_is_the_flipped_guidance(build, noise, bounds):
    """CLIP looks at the upright crop, the rest at the flipped one; what CLIP saw must lie where the flipped crop is."""
    from tags.augment import flipped, flipped_features

    model, image = build(), noise(1, 1, 32, 32, 32)
    seen = model.see(image, bounds)
    for axes in ([0], [1], [2], [0, 2]):
        straight = model.semantic.guidance(seen, (8, 8, 8)).permute(0, 4, 1, 2, 3)
        turned = model.semantic.guidance(flipped_features(seen, [axes]), (8, 8, 8)).permute(0, 4, 1, 2, 3)
        assert torch.allclose(flipped(straight, [axes]), turned, atol=1e-5)
        assert not torch.allclose(straight, turned, atol=1e-3)


@pytest.mark.parametrize("corner", list(itertools.product((False, True), repeat=3)))
def test_guidance_enters_where_clip_saw_it(build, noise, bounds, corner):
    """SAM's blocks have axes of their own: a corner of CLIP's patches alone moves that corner of the feature most."""
    model, image = build(anatomy=False), noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        for gate in model.semantic.gates:
            gate.gate.fill_(1.0)
        seen = model.see(image, bounds)
        patches = seen.patches.clone()
        place = (..., *(slice(2, None) if high else slice(2) for high in corner))
        patches[place] = noise(*patches[place].shape, seed=1)
        features = [
            model.encode(image, KIDNEY, bounds, replace(seen, patches=one)).feature for one in (patches, seen.patches)
        ]
    moved = torch.nn.functional.avg_pool3d((features[0] - features[1]).abs().sum(dim=1), 4)[0]
    most = torch.unravel_index(moved.argmax(), moved.shape)
    assert [bool(end) for end in most] == list(corner)
    assert moved.max() > 1.5 * moved.flatten().sort().values[-2]


def test_the_map_of_each_name_lies_where_clip_sees_it(build, noise, bounds):
    """The organ's cosine enters by the first channel, the lesion's by the second; interpolated as SciPy does."""
    model, image = build(), noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        model.similarity_in.weight.zero_()
        model.similarity_in.bias.zero_()
        model.similarity_in.weight[0, 0] = model.similarity_in.weight[1, 1] = 1
        seen = replace(model.see(image, bounds), joint=noise(1, 32, 4, 4, 4, seed=1))
        shown, nothing = (
            model.encode(image, KIDNEY, bounds, replace(seen, joint=joint)).feature[0]
            for joint in (seen.joint, 0 * seen.joint)
        )
        said = [model.anatomy.embed_sentences(of(KIDNEY[0])).mean(dim=0) for of in (organ_sentences, lesion_sentences)]
    joint = seen.joint[0].numpy()
    places = np.meshgrid(*[(np.arange(8) + 0.5) / 2 - 0.5] * 3, indexing="ij")
    for channel, words in enumerate(said):
        cosine = np.tensordot((words / words.norm()).numpy(), joint / np.linalg.norm(joint, axis=0), 1)
        expected = 10 * ndimage.map_coordinates(cosine, places, order=1, mode="nearest")
        np.testing.assert_allclose((shown - nothing)[channel].numpy(), expected, atol=1e-4)
    assert (said[0] - said[1]).abs().max() > 1e-2, "or their order would not matter"
    assert torch.equal(shown[2:], nothing[2:])


def test_only_what_is_declared_trains(build, noise, bounds):
    model = build(freeze_backbone=True, context=2, refine=16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    frozen = {name for name, _ in model.frozen_parameters()}
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)  # which would move what no gradient reaches
    image, label = noise(1, 1, 32, 32, 32), torch.zeros(1, 1, 32, 32, 32)
    label[..., 10:20, 10:20, 10:20] = 1
    prompts = one_click()
    prompts.mask, prompts.has_mask = label * 0.7, torch.tensor([True])
    prompts.box, prompts.has_box = torch.tensor([[[9.0] * 3, [20.0] * 3]]), torch.tensor([True])
    model.train()
    for _ in range(2):  # the second step reaches what lies behind the zero starts
        optimiser.zero_grad()
        segmentation_loss(model(image, KIDNEY, bounds, prompts), label)[0].backward()
        optimiser.step()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), name
        elif not name.endswith("k_proj.bias"):  # adds the same to all scores of a query: no softmax sees it
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-9, name  # more than rounding
            assert not torch.equal(parameter, before[name]), name


def test_what_is_frozen_is_sam_and_clip_less_norms_and_depth_axis(build):
    frozen = {name for name, _ in build(freeze_backbone=True).frozen_parameters()}
    assert any(name.startswith("clip.visual") for name in frozen)
    assert {"stem.patch_weight", "stem.patch_bias", "stem.pos_embed"} <= frozen
    assert not [n for n in frozen if "norm1" in n or "norm2" in n or "adapter" in n or n.endswith("rel_pos_d")
                if not n.startswith("clip.")]  # fmt: skip
    assert {"encoder.blocks.0.attn.rel_pos_h", "encoder.blocks.3.mlp.lin2.weight"} <= frozen


SWITCHES = {
    "adapters": False,
    "semantic": False,
    "anatomy": False,
    "fusion": "none",
    "refine": 0,
    "pyramid": False,
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_removes_parameters_and_changes_the_output(build, noise, bounds, switch):
    whole, ablated = opened(build(refine=16)), opened(build(**{"refine": 16, switch: SWITCHES[switch]}))
    shared = {k: v for k, v in whole.state_dict().items() if k in ablated.state_dict()}
    ablated.load_state_dict({**ablated.state_dict(), **{
        k: v for k, v in shared.items() if v.shape == ablated.state_dict()[k].shape}})  # fmt: skip
    count = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (whole, ablated)]
    assert count[1] < count[0]
    image = noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        outputs = [m(image, KIDNEY, bounds, one_click()) for m in (whole, ablated)]
    assert outputs[0].shape == outputs[1].shape == image.shape
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4


def test_fusion_forms_and_their_sizes(build):
    sizes = {f: sum(p.numel() for p in build(fusion=f).fusion.parameters()) for f in ("gated", "concat", "none")}
    assert sizes["none"] == 0
    assert 0 < sizes["concat"] < sizes["gated"]


def test_without_clip_there_is_no_clip(build):
    model = build(semantic=False, anatomy=False)
    assert model.clip is None
    assert not [name for name, _ in model.named_parameters() if name.startswith("clip")]


def test_organ_and_lesion_names_reach_the_logits(build, noise, bounds):
    model, image = opened(build()), noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        kidney, liver, unknown = (
            model(image, [names], bounds, PromptTensors.empty(1))
            for names in (("kidney", "tumor"), ("liver", "tumor"), ("thymus", "carcinoid"))
        )
    assert (kidney - liver).abs().max() > 1e-4
    assert torch.isfinite(unknown).all()
    assert (kidney - unknown).abs().max() > 1e-4


def test_text_tower_with_context_at_zero_length_is_open_clips(build):
    from open_clip import tokenize

    model = build(context=0)
    sentences = ["a computerized tomography of a kidney tumor.", "liver", "a " * 60]
    with torch.no_grad():
        ours = model.anatomy.embed_sentences(sentences)
        theirs = model.clip.encode_text(tokenize(sentences), normalize=True)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_context_vectors_train_through_the_frozen_text_tower(build):
    model = build(context=2)
    _, text = model.anatomy([("kidney", "tumor"), ("liver", "tumor")])
    text[:, :, 0].sum().backward()
    assert model.anatomy.context.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.clip.parameters())


def test_cached_text_follows_the_context(build):
    model = build(context=2)
    with torch.no_grad():
        first = model.anatomy.text(("kidney", "tumor"))
        assert model.anatomy.text(("kidney", "tumor")) is first
        model.anatomy.context.normal_()
        assert not torch.allclose(model.anatomy.text(("kidney", "tumor")), first)


def test_gates_turn_a_prompt_type_down(build, noise, bounds):
    """With the clicks' gate shut, moving the click changes nothing in the fused feature."""
    model, image = build(), noise(1, 1, 32, 32, 32)
    fusion = model.fusion
    positions = model.prompts.position.grid((8, 8, 8))

    def fused(encoding, place):
        encoded = model.prompts(one_click(*place), encoding.feature, image)
        return fusion(
            encoding.feature, positions, (encoded.clicks, encoded.clicks_valid),
            (encoded.box, encoded.box_valid), encoding.anatomy, encoding.clip,
        )  # fmt: skip

    with torch.no_grad():
        encoding = model.encode(image, KIDNEY, bounds)
        assert not torch.allclose(fused(encoding, (3, 3, 3)), fused(encoding, (28, 20, 9)), atol=1e-4)
        fusion.fuse.gate[2].bias[0] = -1e4
        assert torch.allclose(fused(encoding, (3, 3, 3)), fused(encoding, (28, 20, 9)), atol=1e-5)


def test_a_crop_moved_by_one_token_moves_its_logits(build, bounds, noise):
    """Windows, positions and instance norms tie the model to its crop; away from borders it must agree closely."""
    volume = torch.nn.functional.avg_pool3d(noise(1, 1, 44, 44, 44), 5, stride=1) * 11
    model = build()
    with torch.no_grad():
        here = model(volume[..., :32, :32, :32], KIDNEY, bounds, one_click(18, 18, 18))[0, 0]
        there = model(volume[..., 4:36, 4:36, 4:36], KIDNEY, bounds, one_click(14, 14, 14))[0, 0]
    a, b = here[10:28, 10:28, 10:28].flatten(), there[6:24, 6:24, 6:24].flatten()
    unmoved = there[10:28, 10:28, 10:28].flatten()
    agreement = torch.corrcoef(torch.stack((a, b)))[0, 1]
    assert agreement > 0.75
    assert agreement > torch.corrcoef(torch.stack((a, unmoved)))[0, 1] + 0.6


def test_same_seed_same_model_same_logits(build, noise, bounds):
    image = noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        first, second = (build()(image, KIDNEY, bounds, one_click()) for _ in range(2))
    assert torch.equal(first, second)


def test_bf16_agrees_with_float32(build, noise, bounds):
    model, image = opened(build()), noise(1, 1, 32, 32, 32)
    with torch.no_grad():
        exact = model(image, KIDNEY, bounds, one_click())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(image, KIDNEY, bounds, one_click())
    assert rough.dtype != torch.float64
    assert (exact - rough.float()).abs().mean() < 0.05 * exact.std()
    assert torch.corrcoef(torch.stack((exact.flatten(), rough.float().flatten())))[0, 1] > 0.995


def test_impossible_configurations_are_refused():
    for wrong in ({"patch": 30}, {"depth": 6}, {"dim": 20}, {"fusion": "sum"}, {"decoder_norm": "batch"},
                  {"semantic_gate": "add"}, {"refine": 4}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TAGS(sized("tiny", **wrong))
    with pytest.raises(ValueError, match="no plain ViT"):
        TAGS(sized("tiny", clip="RN50"))


def test_config_from_plain_values_is_the_same_config():
    from tags.config import defaults

    assert TagsConfig.from_mapping(defaults("tiny")) == sized("tiny")
    assert TagsConfig.from_mapping(defaults("vit-h")).taps == (8, 16, 24, 32)


def test_dice_loss_against_its_formula():
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0]).view(1, 1, 2, 2, 1)
    label = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(1, 1, 2, 2, 1)
    p = [1 / (1 + 2.718281828459045**-v) for v in (2.0, -1.0, 0.5, -3.0)]
    expected = 1 - (2 * (p[0] + p[2] + p[3]) + 1) / (sum(p) + 3 + 1)
    assert dice_loss(logits, label).item() == pytest.approx(expected, abs=1e-5)
    assert dice_loss(logits * 0 - 50, label * 0).item() == pytest.approx(0, abs=1e-6)


def test_a_rare_target_weighs_more_where_nobody_says_where_it_is():
    """16 of 4096 voxels are target: a share of 1/256, so each weighs 16; by hand, entropy = −Σ w log p / n."""
    label = torch.zeros(2, 1, 16, 16, 16)
    label[:, 0, :4, :4, 0] = 1
    weight = rarity(label, torch.tensor([True, False]))
    assert weight[0, 0, 0, 0, 0].item() == pytest.approx(16)
    assert weight[0].sum().item() == pytest.approx(16 * 16 + 4080)
    assert (weight[1] == 1).all()
    assert (rarity(0 * label, torch.tensor([True, True])) == 1).all()
    logits = torch.full_like(label, -2.0)
    _, parts = segmentation_loss(logits, label, weight=weight)
    inside, outside = math.log(1 + math.exp(2.0)), math.log(1 + math.exp(-2.0))
    expected = ((16 * 16 + 16) * inside + 2 * 4080 * outside) / (2 * 4096)
    assert parts["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
