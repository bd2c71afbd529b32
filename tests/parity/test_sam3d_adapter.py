"""3DSAM-adapter against the golden file: key layout, stem, shift mask, and every recorded tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.sam3d_adapter.encoder import SIZES, ImageEncoder, WindowAttention, shift_mask
from baselines.sam3d_adapter.network import PromptEncoder, Sam3dAdapter, load_official_file
from tests.parity.rule import Golden, constant_tensor, rule_tensor, unchecked

SIZE = SIZES["official"]


@pytest.fixture(scope="module")
def reference(golden: Callable[[str], Golden]) -> Golden:
    return golden("sam3d_adapter")


def test_keys_and_shapes(reference: Golden) -> None:
    with torch.device("meta"):
        network = Sam3dAdapter(SIZE)
    own = {f"encoder_dict.{key}": tuple(value.shape) for key, value in network.encoder.state_dict().items()}
    own |= {f"decoder_dict.{key}": tuple(value.shape) for key, value in network.decoder.state_dict().items()}
    for index in range(4):
        state = network.prompt_encoder.state_dict()
        own |= {f"feature_dict.{index}.{key}": tuple(value.shape) for key, value in state.items()}
    assert own == {row.key: row.shape for row in reference.rows if not row.key.endswith("attn_mask")}


def test_shift_mask_is_the_one_of_the_rule(reference: Golden) -> None:
    rows = [row for row in reference.rows if row.key.endswith("attn_mask")]
    assert [int(row.key.split(".")[2]) for row in rows] == [0, 2, 4, 6, 8, 10]
    assert np.array_equal(shift_mask(SIZE.grid, SIZE.window).numpy(), constant_tensor(rows[0]))


def test_stem_equals_enlargement_patch_embedding_and_slice_mixing() -> None:
    """Against the three steps of upstream carried out one after another, on a small crop."""
    torch.manual_seed(0)
    encoder = ImageEncoder(SIZES["tiny"])
    nn.init.normal_(encoder.pos_embed)
    crop = SIZES["tiny"].crop
    image = torch.randn(1, 1, crop, crop, crop)
    enlarged = F.interpolate(image, scale_factor=4, mode="trilinear", align_corners=False)
    slices = enlarged[0, 0, :, None].expand(-1, 3, -1, -1)
    embedded = encoder.patch_embed.proj(slices)  # (4D, C, H/4, W/4)
    tokens = encoder.slice_embed(embedded.permute(1, 2, 3, 0)[None]).permute(0, 2, 3, 4, 1)
    tokens = tokens + F.avg_pool2d(encoder.pos_embed.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)[:, :, :, None]
    tokens = tokens + encoder.depth_embed[:, None, None]
    torch.testing.assert_close(encoder.stem(image), tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shifted", [False, True])
def test_folded_attention_equals_the_explicit_one(shifted: bool) -> None:
    """Against a softmax over logits with bias and mask written out."""
    torch.manual_seed(1)
    size, n = SIZES["tiny"], SIZES["tiny"].window
    attention = WindowAttention(size, 27)
    for table in (attention.rel_pos_h, attention.rel_pos_w, attention.rel_pos_d):
        nn.init.normal_(table)
    attention.lr.fill_(0.7)
    x = torch.randn(1, size.grid, size.grid, size.grid, size.width)
    assert torch.allclose(attention(x, shifted), explicit_attention(attention, x, n, shifted), atol=1e-5)


def explicit_attention(attention: WindowAttention, x: Tensor, n: int, shifted: bool) -> Tensor:
    grid, heads = x.shape[1], attention.heads
    x = x.roll((-n // 2,) * 3, (1, 2, 3)) if shifted else x
    mask = shift_mask(grid, n) if shifted else torch.zeros(1, 1, 1)
    result = torch.empty_like(x)
    starts = range(0, grid, n)
    corners = [(i, j, k) for i in starts for j in starts for k in starts]
    tables = [
        F.interpolate(table.t()[None], size=2 * n - 1, mode="linear")[0].t()
        for table in (attention.rel_pos_h, attention.rel_pos_w, attention.rel_pos_d)
    ]
    place = torch.stack(torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = place[:, None] - place[None] + n - 1
    for index, (i, j, k) in enumerate(corners):
        part = (0, slice(i, i + n), slice(j, j + n), slice(k, k + n))
        q, key, v = attention.qkv(x[part].reshape(n**3, -1)).view(n**3, 3, heads, -1).permute(1, 2, 0, 3)
        logits = q @ key.transpose(1, 2) * q.shape[-1] ** -0.5 + mask[index % len(mask)]
        for axis, table in enumerate(tables):
            logits = logits + attention.lr * torch.einsum("hqc,qkc->hqk", q, table[distance[..., axis]])
        out = logits.softmax(-1) @ v
        result[part] = attention.proj(out.transpose(0, 1).reshape(n**3, -1)).view(n, n, n, -1)
    return result.roll((n // 2,) * 3, (1, 2, 3)) if shifted else result


def test_outputs_do_not_depend_on_the_unused_parts() -> None:
    torch.manual_seed(2)
    size = SIZES["tiny"]
    encoder = PromptEncoder(size)
    feature, points = torch.randn(1, size.feature, *[size.grid] * 3), torch.randint(0, size.crop, (1, 3, 3))
    before = encoder(feature, points)
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        if "token_to_image" in name or "gaussian" in name:
            nn.init.normal_(tensor)
    assert torch.equal(encoder(feature, points), before)


def test_unused_position_encoding(reference: Golden) -> None:
    with torch.device("meta"):
        encoder = PromptEncoder(SIZE)
    key = "feature_dict.3.positional_encoding_gaussian_matrix"
    row = next(row for row in reference.rows if row.key == key)
    encoder.positional_encoding_gaussian_matrix = rule_tensor(row, reference.meta["salt"])
    reference.check("prompt_encoder3.image_pe", encoder.position(SIZE.grid))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@torch.no_grad()
def test_every_recorded_tensor(reference: Golden, tmp_path: Path) -> None:
    path = tmp_path / "best.pth.tar"
    write_official_file(reference, path)
    network = load_official_file(path)
    path.unlink()
    image = reference.image()
    assert torch.equal(image[:, :1].expand_as(image), image), "the three channels of the input are one image"
    image = image[:, :1].contiguous()
    checked = {"stem.upsampled_512", "prompt_encoder3.image_pe", "image_resized_64"}
    check_enlarged_samples(reference, image)
    reference.check("prompt_encoder3.image_pe", network.prompt_encoder.position(SIZE.grid))

    encoded = network.encode(image)
    *features, half_image = encoded
    reference.check("image_resized_64", half_image)
    for index, feature in enumerate(features):
        reference.check(f"encoder.feature{index}", feature)
        checked.add(f"encoder.feature{index}")

    for case in (name.removesuffix(".points_dwh") for name in reference.prompts()):
        points = reference.prompt(f"{case}.points_dwh")
        assert points is not None
        logits = network.decode(encoded, points[None])
        for name, tensor in (
            ("prompted_feature3", network.prompt_encoder(features[-1], points[None])),
            ("logits", logits), ("prob_fg", logits.softmax(1)[:, 1]),
        ):  # fmt: skip
            reference.check(f"{case}.{name}", tensor)
            checked.add(f"{case}.{name}")
    assert list(unchecked(reference, checked)) == []


def check_enlarged_samples(reference: Golden, image: Tensor) -> None:
    """The fourfold enlarged crop at the recorded positions, without the 3 × 512³ array."""
    shape = tuple(int(n) for n in reference.arrays["stem.upsampled_512/shape"])
    index = np.unravel_index(reference.arrays["stem.upsampled_512/idx"], shape)
    matrix = linear_weights(image.shape[2], shape[2])
    d, h, w = (matrix[torch.from_numpy(axis)] for axis in index[2:])  # (samples, voxels of an axis) each
    lines = torch.einsum("nh,dhn->dn", h, image[0, 0].double() @ w.t())
    values = torch.einsum("nd,dn->n", d, lines)
    recorded = torch.from_numpy(reference.arrays["stem.upsampled_512/val"]).double()
    allowed = reference.tolerance * float(reference.arrays["stem.upsampled_512/stats"][1])
    assert (values - recorded).abs().max() <= allowed


def linear_weights(size: int, new_size: int) -> Tensor:
    """(new_size, size): linear enlargement as a matrix, by enlarging unit vectors."""
    return F.interpolate(torch.eye(size)[:, None], size=new_size, mode="linear", align_corners=False)[:, 0].t().double()


def write_official_file(reference: Golden, path: Path) -> None:
    torch.save(
        {
            "epoch": 1,
            "best_val_loss": np.float64(0.5),
            "encoder_dict": reference.state_dict("encoder_dict."),
            "feature_dict": [reference.state_dict(f"feature_dict.{i}.") for i in range(4)],
            "decoder_dict": reference.state_dict("decoder_dict."),
            "encoder_opt": {}, "feature_opt": {}, "decoder_opt": {},
        },
        path,
    )  # fmt: skip
