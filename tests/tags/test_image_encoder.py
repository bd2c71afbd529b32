"""The encoder against plain arithmetic and against SAM's own blocks."""

from __future__ import annotations

import itertools

import pytest
import torch

from tags.config import TagsConfig
from tags.image_encoder import (
    CHUNK_TOKENS,
    Block,
    ImageEncoder,
    Reordered,
    WindowAttention,
    axis_mask,
    window_order,
)
from tags.recompute import recomputed_block


def randomised(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module.eval()


def plain_attention(attention: WindowAttention, x, shift):
    """Window attention voxel pair by voxel pair, with an explicit bias and an explicit mask."""
    _, nx, ny, nz, channels = x.shape
    window, heads = attention.window, attention.heads
    depth = channels // heads
    sizes = (nx, ny, nz)
    used = [min(window, n) for n in sizes]
    moved = [w // 2 if shift and n > w else 0 for n, w in zip(sizes, used, strict=True)]

    def cell(place):
        """Which window a voxel falls into: windows are shifted, and those cut by the edge stay cut."""
        return tuple((p - s) // w for p, s, w in zip(place, moved, used, strict=True))

    q, k, v = attention.qkv(x).view(-1, 3, heads, depth).permute(1, 2, 0, 3)
    places = list(itertools.product(*(range(n) for n in sizes)))
    tables = []
    for table, w in zip((attention.rel_pos_h, attention.rel_pos_w, attention.rel_pos_d), used, strict=True):
        rows = torch.nn.functional.interpolate(table.T[None], 2 * w - 1, mode="linear")[0].T
        tables.append(rows)
    scores = torch.full((heads, len(places), len(places)), -torch.inf)
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            if cell(a) != cell(b):
                continue
            relative = sum((q[:, i] @ tables[axis][a[axis] - b[axis] + used[axis] - 1]) for axis in range(3))
            scores[:, i, j] = (q[:, i] * k[:, j]).sum(-1) * depth**-0.5 + relative
    out = scores.softmax(-1) @ v
    return attention.proj(out.transpose(0, 1).reshape(x.shape))


@pytest.mark.parametrize(
    ("size", "shift"),
    [((4, 4, 4), False), ((4, 4, 4), True), ((6, 5, 3), False), ((6, 5, 3), True), ((2, 7, 1), True)],
)
def test_folded_attention_equals_pairwise_arithmetic(noise, size, shift):
    torch.manual_seed(1)
    attention = randomised(WindowAttention(dim=8, heads=2, window=4, shift=shift, table=7))
    if size == (4, 4, 4):
        attention.window = 2
    x = noise(1, *size, 8)
    with torch.no_grad():
        assert torch.allclose(attention(x), plain_attention(attention, x, shift), atol=1e-4)


def test_padding_and_the_far_edge_are_never_seen():
    mask = axis_mask(5, 4, 2)  # padded to 8, rolled by 2: windows hold (2 3 4 pad) and (pad pad 0 1)
    assert (mask[0, :3, :3] == 0).all()
    assert (mask[0, :, 3] < -1e3).all()
    assert (mask[1, 2:, 2:] == 0).all()
    assert (mask[1, 2:, :2] < -1e3).all()


def test_one_gather_is_a_roll_and_a_partition(noise):
    size, window, shift = (4, 6, 2), (2, 3, 2), (1, 1, 0)
    order, back = window_order(size, window, shift, torch.device("cpu"))
    x = noise(2, *size, 5).requires_grad_()
    rolled = torch.roll(x, [-s for s in shift], dims=(1, 2, 3)).view(2, 2, 2, 2, 3, 1, 2, 5)
    wanted = rolled.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(2, -1, 5)
    tokens = Reordered.apply(x.flatten(1, 3), order, back)
    assert torch.equal(tokens, wanted)
    assert torch.equal(Reordered.apply(tokens, back, order), x.flatten(1, 3))
    weight = noise(*wanted.shape, seed=1)
    (ours,) = torch.autograd.grad((tokens * weight).sum(), x, retain_graph=True)
    (theirs,) = torch.autograd.grad((wanted * weight).sum(), x)
    assert torch.equal(ours, theirs)


def block_of(size, shift=True):
    """A block of random weights, some of them frozen as SAM's are, and tokens for it."""
    from tags.adapters import SpatialAdapter

    torch.manual_seed(2)
    block = randomised(Block(8, 2, 2.0, 2, shift, 3, SpatialAdapter(8)))
    for name, parameter in block.named_parameters():
        parameter.requires_grad_("adapter" in name or "norm" in name or name.endswith("rel_pos_d"))
    return block, torch.randn(2, *size, 8)


# Shifted windows three by three, padded ones, one window for each of two crops, a short axis.
SIZES = {(4, 4, 4): 24, (4, 3, 5): 24, (2, 2, 2): 8, (2, 1, 2): 4}


@pytest.mark.parametrize(("size", "tokens"), SIZES.items())
def test_windows_by_turns_give_what_all_at_once_give(monkeypatch, size, tokens):
    block, x = block_of(size)
    whole = block(x).detach()
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", tokens)
    assert len(block.parts(x)[1]) > 1
    kept = x.clone()
    with torch.no_grad():
        assert torch.allclose(block(x), whole, atol=1e-5)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("tokens", [24, 10**6])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_stream_is_not_rounded_under_autocast(noise, monkeypatch, tokens, gradients):
    """A change of 2⁻¹⁰, which bf16 holds and 1 + 2⁻¹⁰ it does not, reaches the float32 stream; so does its gradient."""
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", tokens)
    block, _ = block_of((4, 4, 4))
    with torch.no_grad():
        for layer in (block.adapter.up, block.attn.proj, block.mlp.lin2):
            layer.weight.zero_()
            layer.bias.fill_(0 if layer is block.adapter.up else 2**-10)
    x = noise(2, 4, 4, 4, 8).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(gradients):
        for run in (block, lambda x: recomputed_block(block, x)):
            out = run(x)
            assert out.dtype == torch.float32
            assert torch.allclose(out, x + 2**-9, rtol=0, atol=1e-6)
            if gradients:
                weight = noise(*x.shape, seed=1)
                (gradient,) = torch.autograd.grad((out * weight).sum(), x)
                assert torch.equal(gradient, weight)


@pytest.mark.parametrize(("size", "tokens"), [*SIZES.items(), ((4, 3, 5), 10**6)])
def test_a_recomputed_block_has_the_gradients_of_the_block(noise, monkeypatch, size, tokens):
    block, x = block_of(size)
    weight = noise(*x.shape, seed=3)
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", tokens)

    def gradients(function):
        tokens = x.clone().requires_grad_()
        trained = {name: p for name, p in block.named_parameters() if p.requires_grad}
        found = torch.autograd.grad((function(tokens) * weight).sum(), [tokens, *trained.values()])
        return dict(zip(["x", *trained], found, strict=True))

    plain, again = gradients(block), gradients(lambda x: recomputed_block(block, x))
    assert plain.keys() >= {"x", "adapter.down.weight", "norm1.weight", "norm2.bias", "attn.rel_pos_d"}
    for name, gradient in plain.items():
        assert gradient.any() or name == "attn.rel_pos_d", name
        assert torch.allclose(again[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max())), name


def test_a_recomputed_block_keeps_its_input_alone(monkeypatch):
    block, x = block_of((4, 4, 4))
    kept = []
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 24)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        recomputed_block(block, x.requires_grad_()).sum()
    trained = sum(p.numel() for p in block.parameters() if p.requires_grad)
    assert sum(kept) == x.numel() + trained


@pytest.mark.parametrize(("window", "sam_window", "grid"), [(7, 7, 14), (8, 0, 8)])
def test_untrained_block_is_sams_block_on_a_slice(noise, window, sam_window, grid):
    """Adapters at zero, one slice deep: SAM's windowed (7) and global (0) blocks, value for value."""
    from segment_anything.modeling.image_encoder import Block as SamBlock

    from tags.adapters import SpatialAdapter

    torch.manual_seed(4)
    sam = SamBlock(32, 4, use_rel_pos=True, window_size=sam_window, input_size=(grid, grid))
    sam = randomised(sam)
    sam.norm1.eps = sam.norm2.eps = 1e-6
    block = Block(32, 4, 4.0, window, False, 2 * window - 1, SpatialAdapter(32)).eval()
    missing, unexpected = block.load_state_dict(sam.state_dict(), strict=False)
    assert not unexpected
    assert all("adapter" in key or key == "attn.rel_pos_d" for key in missing)
    with torch.no_grad():
        block.attn.rel_pos_d.normal_()  # one slice: the depth axis must not matter
        x = noise(2, grid, grid, 32)
        assert torch.allclose(block(x[:, :, :, None])[:, :, :, 0], sam(x), rtol=1e-3, atol=1e-3)


def test_checkpointing_changes_no_gradient(noise):
    def gradients(checkpointing):
        torch.manual_seed(5)
        config = TagsConfig(
            embed_dim=16, depth=4, heads=2, mlp_ratio=2.0, dim=8, fusion_heads=4, window=2, sam_window=2, sam_global=(),
            adapter_every=2, checkpointing=checkpointing,
        )  # fmt: skip
        assert (config.tables, config.taps, config.adapter_blocks) == ((3,) * 4, (1, 2, 3, 4), (0, 2))
        encoder = ImageEncoder(config)
        torch.stack(encoder(noise(1, 4, 4, 4, 16))).square().sum().backward()
        return [p.grad for p in encoder.parameters()]

    for a, b in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
