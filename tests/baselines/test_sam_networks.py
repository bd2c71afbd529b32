"""The networks against the public package, against plain arithmetic, and against the official layouts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as PublicSam
from torch import Tensor, nn

from baselines.sam.attention import GridAttention, MixedAxesAttention
from baselines.sam.encoder import Adapter, EncoderSize, ImageEncoder
from baselines.sam.network import Sam, SamSize
from baselines.sam_b.segmenter import SIZES as SAM_B
from baselines.sam_med2d.segmenter import SIZES as SAM_MED2D
from baselines.sam_med3d.segmenter import SIZES as SAM_MED3D
from tests.parity.rule import SHIPPED, Golden

SMALL = SamSize(
    EncoderSize(axes=2, image=96, patch=8, channels=3, dim=32, depth=3, heads=2, window=5, global_blocks=(1,), out=256),
    features=128,
)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that are nowhere zero: position tables start at zero, and would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return network.eval()


def public(size: SamSize) -> PublicSam:
    encoder = size.encoder
    grid = (encoder.grid, encoder.grid)
    return PublicSam(
        ImageEncoderViT(
            img_size=encoder.image,
            patch_size=encoder.patch,
            embed_dim=encoder.dim,
            depth=encoder.depth,
            num_heads=encoder.heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=encoder.window,
            global_attn_indexes=encoder.global_blocks,
            out_chans=encoder.out,
        ),
        PromptEncoder(encoder.out, grid, (encoder.image, encoder.image), 16),
        MaskDecoder(
            transformer_dim=encoder.out,
            transformer=TwoWayTransformer(2, encoder.out, size.decoder_heads, size.decoder_hidden),
            iou_head_hidden_dim=size.iou_hidden,
        ),
    )


@pytest.fixture(scope="module")
def pair() -> tuple[Sam, PublicSam]:
    ours, theirs = Sam(SMALL), public(SMALL)
    randomised(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs.eval()


@pytest.mark.parametrize("batch", [1, 3])
def test_image_encoder_is_the_public_one(pair: tuple[Sam, PublicSam], batch: int) -> None:
    ours, theirs = pair
    image = torch.randn(batch, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.image_encoder(image)
        torch.testing.assert_close(ours.image_encoder(image), expected, rtol=1e-4, atol=1e-4)


def test_training_gives_the_public_gradients(pair: tuple[Sam, PublicSam]) -> None:
    """With gradients the other arrangement of attention runs: terms folded into the channels."""
    ours, theirs = pair
    image = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    gradients = []
    for network in (ours, theirs):
        network.zero_grad()
        network.image_encoder(image).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in network.image_encoder.named_parameters()})
        network.zero_grad()
    for name, expected in gradients[1].items():
        scale = float(expected.abs().max())
        assert float((gradients[0][name] - expected).abs().max()) <= 1e-3 * scale + 1e-7, name


def test_bfloat16_stays_close(pair: tuple[Sam, PublicSam]) -> None:
    ours, _ = pair
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        exact = ours.image_encoder(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = ours.image_encoder(image).float()
    assert float((rough - exact).std() / exact.std()) < 0.05


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompt", ["points", "box", "both", "mask"])
def test_prompts_and_decoder_are_the_public_ones(pair: tuple[Sam, PublicSam], prompt: str, multimask: bool) -> None:
    ours, theirs = pair
    generator = torch.Generator().manual_seed(4)
    embedding = torch.randn(1, 256, 12, 12, generator=generator)
    points = (torch.tensor([[[10.0, 20.0], [70.0, 33.0]]]), torch.tensor([[1, 0]]))
    box = torch.tensor([[5.0, 8.0, 60.0, 90.0]])
    mask = torch.randn(1, 1, 48, 48, generator=generator)
    given = {"points": (points, None, None), "box": (None, box, None), "both": (points, box, None)}
    arguments = given.get(prompt, (points, None, mask))
    with torch.no_grad():
        sparse, dense = theirs.prompt_encoder(*arguments)
        expected = theirs.mask_decoder(embedding, theirs.prompt_encoder.get_dense_pe(), sparse, dense, multimask)
        got = ours.decode(embedding, *arguments, multimask=multimask)
    for mine, public_value in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, public_value, rtol=1e-3, atol=1e-3)


def test_many_slices_decode_as_one_by_one(pair: tuple[Sam, PublicSam]) -> None:
    ours, _ = pair
    embedding = torch.randn(3, 256, 12, 12, generator=torch.Generator().manual_seed(5))
    boxes = torch.tensor([[5.0, 8.0, 60.0, 90.0], [1.0, 2.0, 30.0, 40.0], [50.0, 50.0, 90.0, 90.0]])
    with torch.no_grad():
        together = ours.decode(embedding, boxes=boxes)[0]
        alone = [ours.decode(embedding[i : i + 1], boxes=boxes[i : i + 1])[0] for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-3)


def plain_mixed_attention(attention: MixedAxesAttention, x: Tensor, window: int) -> Tensor:
    """SAM-Med3D's arithmetic in full: padded windows, all 2744 × 2744 products, the bias on its mixed axes."""
    batch, *grid, dim = x.shape
    count = [-(-size // window) for size in grid]
    pads = [n * window - size for n, size in zip(count, grid, strict=True)]
    padded = F.pad(x, (0, 0, 0, pads[2], 0, pads[1], 0, pads[0]))
    a, b, c = count
    cut = padded.reshape(batch, a, window, b, window, c, window, dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
    tokens, heads = window**3, attention.heads
    qkv = attention.qkv(cut.reshape(-1, tokens, dim)).reshape(-1, tokens, 3, heads, dim // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    index = torch.arange(window)[:, None] - torch.arange(window) + window - 1
    placed = q.reshape(*q.shape[:2], window, window, window, -1)
    d = torch.einsum("nhxyzc,xkc->nhxyzk", placed, attention.rel_pos_d[index])
    h = torch.einsum("nhxyzc,ykc->nhxyzk", placed, attention.rel_pos_h[index])
    w = torch.einsum("nhxyzc,zkc->nhxyzk", placed, attention.rel_pos_w[index])
    # the query's own axis z is read as a key axis in the second and third term
    bias = d[:, :, :, :, :, None, None, :] + h[:, :, :, :, None, :, None, :] + w[:, :, :, :, None, None, :, :]
    scores = q @ k.transpose(-1, -2) * (dim // heads) ** -0.5 + bias.reshape(*q.shape[:2], tokens, tokens)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, a, b, c, window, window, window, dim)
    whole = mixed.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(padded.shape)
    return attention.proj(whole[:, : grid[0], : grid[1], : grid[2]])


@pytest.mark.parametrize(("grid", "window"), [(4, 7), (6, 4), (6, 3), (5, 5)])
def test_mixed_axes_attention_is_the_plain_arithmetic(grid: int, window: int) -> None:
    attention = MixedAxesAttention(24, 2, 3, window, (grid,) * 3)
    randomised(attention)
    x = torch.randn(2, grid, grid, grid, 24, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        torch.testing.assert_close(attention(x), plain_mixed_attention(attention, x, window), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 9), (12, 5), (3, 4)])
@pytest.mark.parametrize("gradients", [False, True])
def test_windows_of_any_rectangle(shape: tuple[int, int], gradients: bool) -> None:
    """Both arrangements against the public attention, with padding on one axis, on both, on none."""
    from segment_anything.modeling.image_encoder import Attention, window_partition, window_unpartition

    window = 4
    ours = GridAttention(16, 2, 2, window, shape)
    randomised(ours)
    theirs = Attention(16, 2, use_rel_pos=True, input_size=(window, window))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, *shape, 16, generator=torch.Generator().manual_seed(7))
    parts, padded = window_partition(x, window)
    expected = window_unpartition(theirs(parts), window, padded, shape)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "keys"),
    [("sam_b", SAM_B, 314), ("sam_med2d", SAM_MED2D, 386), ("sam_med3d", SAM_MED3D, 324)],
)
def test_official_layout(name: str, size: dict[str, SamSize], keys: int) -> None:
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in Sam(size["official"]).state_dict().items()}
    assert own == {row.key: row.shape for row in Golden(name, SHIPPED).rows}
    assert len(own) == keys


def test_adapter_has_its_own_epsilon() -> None:
    """Blocks use 1e-6; the adapter's norm was left at torch's 1e-5."""
    assert Adapter(8).norm.eps == 1e-5
    assert ImageEncoder(SMALL.encoder).blocks[0].norm2.eps == 1e-6


def test_positions_of_points_and_grid_disagree_in_3d() -> None:
    """Upstream's quirk: the grid stacks (axis 1, axis 0, axis 2), points come as (axis 0, axis 1, axis 2)."""
    at, position = placed(aligned=False)
    torch.testing.assert_close(at, position[:, 4, 1, 2])
    assert not torch.allclose(at, position[:, 1, 4, 2], atol=1e-2)


def test_positions_agree_where_a_network_is_trained_from_scratch() -> None:
    at, position = placed(aligned=True)
    torch.testing.assert_close(at, position[:, 1, 4, 2])


def placed(aligned: bool) -> tuple[Tensor, Tensor]:
    """The encoding of a point in the middle of cell (1, 4, 2), and those of all cells."""
    encoder = Sam(replace(SAM_MED3D["tiny"], aligned=aligned)).prompt_encoder
    cell = torch.tensor([[[1.0, 4.0, 2.0]]])
    step = encoder.image[0] / encoder.grid[0]
    at = encoder.pe_layer.of_points((cell + 0.5) * step, encoder.image)[0, 0]
    return at, encoder.dense_position()[0]


def test_zero_mask_is_not_no_mask() -> None:
    encoder = randomised(Sam(SAM_MED3D["tiny"])).prompt_encoder
    points = (torch.zeros(1, 1, 3), torch.ones(1, 1))
    with torch.no_grad():
        zeros = encoder(points, None, torch.zeros(1, 1, *encoder.mask_size))[1]
        none = encoder(points)[1]
    assert not torch.allclose(zeros, none, atol=1e-2)
