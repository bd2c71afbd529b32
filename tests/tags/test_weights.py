"""Official layouts under TAGS: every key used or named as unused; digests; seeded towers."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.common.weight_file import WeightFile
from tags import weights
from tags.config import defaults, sized
from tags.model import TAGS
from tags.official import files_of
from tags.weights import (
    WeightsError,
    clip_file_problem,
    find_file,
    load_clip,
    load_sam,
    read_clip_file,
    read_state,
    sam_file_problem,
    sam_key,
    seed_tower,
    tower_digests,
)

KEYS = Path(__file__).parents[1] / "golden" / "sam_b.keys.tsv"
# no CLIP: these tests are about SAM's layout
BARE = {"semantic": False, "anatomy": False}


def small_sam_state(window=7, depth=4, dim=32, neck=32):
    """A state dict in SAM's layout from SAM's own classes, with small numbers."""
    from segment_anything.modeling import ImageEncoderViT

    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=128, patch_size=16, embed_dim=dim, depth=depth, num_heads=4, out_chans=neck, use_rel_pos=True,
        qkv_bias=True, window_size=window, global_attn_indexes=(1, 3),
    )  # fmt: skip
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, neck)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, neck)
    return encoder, state


def small_tags(**overrides):
    small = {"embed_dim": 32, "heads": 4, "mlp_ratio": 4.0, "sam_grid": 8, "sam_window": 7, "sam_global": (1, 3),
             "window": 8, "shift": False, "freeze_backbone": True}  # fmt: skip
    return TAGS(sized("tiny", **{**small, **BARE, **overrides}))


def test_every_key_is_used_or_named_as_unused():
    _, state = small_sam_state()
    loaded = load_sam(small_tags(), state)
    assert set(loaded.used) | set(loaded.unused) == set(state)
    assert all(key.startswith("image_encoder.") for key in loaded.used)
    assert set(loaded.unused) == {"prompt_encoder.no_mask_embed.weight", "mask_decoder.iou_token.weight"}


def test_untrained_tags_is_sams_encoder_on_a_slice():
    """All blocks and the neck: the loaded encoder with closed adapters gives SAM's own features of a 2D image."""
    sam, state = small_sam_state(window=0)
    state = {k: v for k, v in state.items() if not k.startswith("image_encoder.pos_embed")}
    model = small_tags(sam_window=8).eval()
    full = {**state, "image_encoder.pos_embed": sam.pos_embed.detach()}
    load_sam(model, full)
    tokens = torch.randn(1, 8, 8, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = tokens
        for block in sam.blocks:
            expected = block(expected)
        expected = sam.neck(expected.permute(0, 3, 1, 2))
        ours = model.encoder(tokens[:, :, :, None])[-1][..., 0]
    assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())


def test_the_depth_axis_starts_at_the_mean_of_sams_two():
    _, state = small_sam_state()
    model = small_tags()
    load_sam(model, state)
    attention = model.encoder.blocks[2].attn
    assert torch.equal(attention.rel_pos_d, (attention.rel_pos_h + attention.rel_pos_w) / 2)
    assert torch.equal(attention.rel_pos_h, state["image_encoder.blocks.2.attn.rel_pos_h"])


def test_necks_start_as_sams_neck_in_the_middle_slice():
    _, state = small_sam_state()
    model = small_tags()
    load_sam(model, state)
    for neck in model.encoder.necks:
        assert torch.equal(neck[2].weight[..., 1], state["image_encoder.neck.2.weight"])
        assert not neck[2].weight[..., 0].any()
        assert torch.equal(neck[3].bias, state["image_encoder.neck.3.bias"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("image_encoder.blocks.1.mlp.lin1.bias"), "missing.*blocks.1.mlp.lin1.bias"),
        (lambda s: s.pop("image_encoder.neck.1.weight"), "missing.*necks.0.1.weight"),
        (lambda s: s.update({"image_encoder.blocks.9.norm1.bias": torch.zeros(32)}), "fit nothing.*blocks.9"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "fit nothing.*extra"),
        (lambda s: s.update({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 32)}), "shape"),
    ],
)
def test_a_layout_that_differs_is_refused(spoil, message):
    _, state = small_sam_state()
    spoil(state)
    with pytest.raises(WeightsError, match=message):
        load_sam(small_tags(), state, "file.pth")


def official_shapes(size):
    """Names and shapes of the official file, from segment_anything's own builders, without memory."""
    from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l

    with torch.device("meta"):
        sam = {"vit-b": build_sam_vit_b, "vit-l": build_sam_vit_l,
               "vit-h": build_sam_vit_h}[size]()  # fmt: skip
    return {key: tuple(value.shape) for key, value in sam.state_dict().items()}


@pytest.mark.parametrize("size", ["vit-b", "vit-l", "vit-h"])
def test_official_layouts_fit_key_by_key(size):
    """B, L and H on the meta device: each image-encoder key has its place, of the same shape, and no place is left."""
    with torch.device("meta"):
        model = TAGS(sized(size, **BARE))
    places = {name: tuple(p.shape) for name, p in model.named_parameters()}
    filled = set()
    for key, shape in official_shapes(size).items():
        name = sam_key(key)
        if name is not None:
            assert places[name] == shape, key
            filled.add(name)
        elif key.startswith("image_encoder.neck."):
            for tap in range(4):
                filled.add(f"encoder.necks.{tap}.{key.split('neck.')[1]}")
        else:
            assert key.startswith(("prompt_encoder.", "mask_decoder.")), key
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen <= filled
    assert all(name in places for name in filled)


def test_the_key_table_of_vit_b_is_that_of_the_builder():
    with KEYS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    table = {row["key"]: tuple(int(n) for n in row["shape"].split(",")) for row in rows}
    assert table == official_shapes("vit-b")


@pytest.mark.parametrize("size", ["vit-b", "vit-l", "vit-h"])
def test_less_than_a_quarter_is_trained(size):
    """Of SAM and TAGS alone, and so of SAM, CLIP and TAGS together."""
    with torch.device("meta"):
        model = TAGS(sized(size))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    without_clip = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("clip."))
    assert trained / without_clip < 0.25


def test_files_are_found_read_and_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=f"put it at {tmp_path}/sam.pth"):
        find_file("sam.pth")
    _, state = small_sam_state()
    torch.save(state, tmp_path / "sam.pth")
    assert read_state(find_file("sam.pth")).keys() == state.keys()
    (tmp_path / "broken.pth").write_bytes((tmp_path / "sam.pth").read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"broken\.pth: not a readable"):
        read_state(tmp_path / "broken.pth")
    torch.save({"model": state}, tmp_path / "wrapped.pth")
    with pytest.raises(WeightsError, match="not a flat state dict"):
        read_state(tmp_path / "wrapped.pth")


def test_a_missing_sam_file_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"tags-bench weights fetch sam_vit_l_0b3195\.pth"):
        find_file("sam_vit_l_0b3195.pth")
    with pytest.raises(WeightsError) as caught:
        find_file("mine.pth")
    assert "weights fetch" not in str(caught.value)


def test_sam_files_are_told_apart_by_their_width(tmp_path):
    path = tmp_path / "sam.pth"

    def problem(state, system="SAM-B"):
        torch.save(state, path)
        return sam_file_problem(path, system)

    sam = {f"image_encoder.{key}": torch.zeros(1) for key in ("a", "b")} | {"mask_decoder.c": torch.zeros(1)}
    for width, system in ((768, "SAM-B"), (1024, "SAM-L"), (1280, "SAM-H")):
        state = {**sam, "image_encoder.pos_embed": torch.zeros(1).expand(1, 64, 64, width)}
        assert problem(state, system) == ""
        assert problem(state, "another") == f"this looks like {system}, expected another"
    base = {**sam, "image_encoder.pos_embed": torch.zeros(1).expand(1, 64, 64, 768)}
    assert "a relative of SAM" in problem({**sam, "image_encoder.pos_embed": torch.zeros(1, 8, 8, 8, 768)})
    assert "SAM with adapters" in problem({**base, "image_encoder.blocks.0.Adapter.x": torch.zeros(1)})
    assert "not a SAM file" in problem(sam)
    assert "it holds 'text.x'" in problem({**base, "text.x": torch.zeros(1)})
    assert "not a flat state dict" in problem({"model": base})
    path.write_bytes(path.read_bytes()[:100])
    assert "not a readable weights file" in sam_file_problem(path, "SAM-B")


def test_clip_files_must_fit_their_architecture(tmp_path, build):
    state = build().clip.state_dict()
    save_file(state, tmp_path / "clip.safetensors")
    assert clip_file_problem(tmp_path / "clip.safetensors", "tiny") == ""
    assert "does not fit the CLIP ViT-B-16-quickgelu" in clip_file_problem(
        tmp_path / "clip.safetensors", "ViT-B-16-quickgelu"
    )
    state.pop("ln_final.weight")
    save_file(state, tmp_path / "clip.safetensors")
    assert "the first difference is 'ln_final.weight'" in clip_file_problem(tmp_path / "clip.safetensors", "tiny")
    (tmp_path / "clip.safetensors").write_bytes(b"broken")
    assert "not a readable weights file" in clip_file_problem(tmp_path / "clip.safetensors", "tiny")


def test_a_tag_is_read_from_the_weights_folder_where_its_file_is(tmp_path, monkeypatch, build):
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(tmp_path))
    file = WeightFile("clip_tiny.safetensors", "https://example.org", "MIT")
    monkeypatch.setitem(weights.CLIP_FILES, ("tiny", "openai"), file)
    model = build()
    save_file({key: value + 1 for key, value in model.clip.state_dict().items()}, file.path)
    before = model.clip.ln_final.weight.clone()
    load_clip(model, "openai")
    assert torch.equal(model.clip.ln_final.weight, before + 1)


def test_the_towers_of_every_size_are_announced():
    for size in ("vit-b", "vit-l", "vit-h"):
        config = defaults(size)
        sam, clip = files_of(size, config["clip"], config["clip_weights"])
        assert sam.name == config["sam_weights"]
        assert clip.system == config["clip"]
        assert config["clip_weights"] in open_clip.list_pretrained_tags_by_model(config["clip"])
        known = open_clip.get_pretrained_cfg(config["clip"], config["clip_weights"])["hf_hub"].strip("/")
        assert f"huggingface.co/{known}/resolve/" in clip.url
    assert files_of("tiny", "tiny", "random") == ()


def test_clip_from_a_local_file(tmp_path, build):
    model = build()
    state = {f"module.{key}": value + 1 for key, value in model.clip.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "clip.pt")
    before = model.clip.ln_final.weight.clone()
    load_clip(model, str(tmp_path / "clip.pt"))
    assert torch.equal(model.clip.ln_final.weight, before + 1)
    state.pop("module.ln_final.weight")
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match="do not fit 'tiny'"):
        load_clip(model, str(tmp_path / "clip.pt"))


def test_an_empty_file_is_refused_in_a_line(tmp_path):
    """torch has no message for it."""
    (tmp_path / "empty.pt").touch()
    for read in (read_state, read_clip_file):
        with pytest.raises(WeightsError, match=r"empty\.pt: not a readable weights file \(\w"):
            read(tmp_path / "empty.pt")


def test_seeded_towers_are_the_same_everywhere(build):
    model = build()
    projection = model.clip.text_projection.detach().flatten()[:3]
    seed_tower(model.clip, seed=2025)
    assert torch.equal(projection, model.clip.text_projection.detach().flatten()[:3])
    assert torch.isfinite(model.clip.encode_text(torch.ones(1, 77, dtype=torch.long))).all()


def test_digests_change_with_one_bit_of_a_frozen_tower_only():
    model = small_tags(anatomy=True)
    first = tower_digests(model)
    assert set(first) == {"sam", "clip"}
    with torch.no_grad():
        model.encoder.blocks[0].norm1.weight.add_(1)
        assert tower_digests(model) == first
        model.encoder.blocks[0].attn.qkv.weight[0, 0] += 1e-3
    changed = tower_digests(model)
    assert changed["clip"] == first["clip"]
    assert changed["sam"] != first["sam"]


@pytest.mark.slow
def test_vit_b_loads_from_a_file_in_the_official_layout_and_runs(tmp_path):
    shapes = official_shapes("vit-b")
    generator = torch.Generator().manual_seed(0)
    state = {k: torch.randn(s, generator=generator) * 0.02 for k, s in shapes.items()}
    torch.save(state, tmp_path / "sam_vit_b_01ec64.pth")
    config = dataclasses.replace(sized("vit-b", **BARE), patch=32)
    model = TAGS(config).eval()
    loaded = load_sam(model, read_state(tmp_path / "sam_vit_b_01ec64.pth"))
    assert len(loaded.used) + len(loaded.unused) == 314
    from tags.prompt_encoder import PromptTensors

    with torch.no_grad():
        image, ends = torch.randn(1, 1, 32, 32, 32), torch.tensor([[-2.0, 2.0]])
        logits = model(image, [("liver", "tumor")], ends, PromptTensors.empty(1))
    assert torch.isfinite(logits).all()
