"""Blocks of the built-in transformer: windows, operations along time, and a whole separable block."""

import pytest
import torch
from torch.nn import functional as F

from generator.native.blocks import AlongTime, Block, TemporalConvolution, WithinWindows

FRAMES, HEIGHT, WIDTH, PREFIX = 3, 5, 4, 2


def window_of(row, column, window, shifted):
    start = window // 2 if shifted else 0
    return (row + start) // window, (column + start) // window


def allowed(window, shifted, text_mask):
    """Queries and keys that may meet `[batch, tokens, tokens]`, by looking at each pair of tokens."""
    places = [None] * PREFIX + [
        (f, *window_of(r, c, window, shifted))
        for f in range(FRAMES)
        for r in range(HEIGHT)
        for c in range(WIDTH)
    ]
    meet = torch.tensor(
        [[(p is None or p == q) if q is not None else p is None for p in places] for q in places]
    )
    meet = meet[None].repeat(len(text_mask), 1, 1)
    meet[:, :, :PREFIX] &= text_mask[:, None]
    return meet


def tokens(batch=2, dim=8):
    return torch.randn(
        batch, 2, PREFIX + FRAMES * HEIGHT * WIDTH, dim, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("window", [2, 3, 4])
def test_windows_are_masked_attention_over_all_tokens(window, shifted):
    query, key, value = tokens(), tokens().flip(2), tokens().flip(3)
    mask = torch.tensor([[True, True], [True, False]])
    found = WithinWindows(FRAMES, PREFIX, mask, HEIGHT, WIDTH, window, shifted)(query, key, value)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~allowed(window, shifted, mask)[:, None], float("-inf"))
    expected = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if window == 2:
        without = WithinWindows(FRAMES, PREFIX, None, HEIGHT, WIDTH, window, shifted)(query, key, value)
        torch.testing.assert_close(without[0], found[0], atol=1e-5, rtol=1e-5)


def test_the_convolution_along_time_is_that_of_each_place_with_repeated_ends():
    torch.manual_seed(0)
    layer, dim = TemporalConvolution(6), 6
    x = torch.randn(2, PREFIX + FRAMES * HEIGHT * WIDTH, dim)
    found = layer(x, x, x, AlongTime(FRAMES, PREFIX, None))
    assert not found[:, :PREFIX].any()
    weight = layer.mix.weight.unflatten(1, (3, dim)).permute(0, 2, 1)
    lines = x[:, PREFIX:].unflatten(1, (FRAMES, -1)).permute(0, 2, 3, 1).flatten(0, 1)
    expected = F.conv1d(F.pad(lines, (1, 1), mode="replicate"), weight, layer.mix.bias)
    expected = expected.unflatten(0, (2, -1)).permute(0, 3, 1, 2).flatten(1, 2)
    torch.testing.assert_close(found[:, PREFIX:], expected, atol=1e-5, rtol=1e-5)


def attention(layer, x, meet):
    """Attention without rotation by einsum, of the tokens that may meet `[tokens, tokens]`."""
    heads = layer.num_heads
    query, key, value = (
        torch.einsum("bnd,ed->bne", x, p.weight) + p.bias for p in (layer.to_q, layer.to_k, layer.to_v)
    )
    query, key, value = (t.unflatten(2, (heads, -1)) for t in (query, key, value))
    query, key = (
        t / (t.square().mean(-1, keepdim=True) + torch.finfo(t.dtype).eps).sqrt() for t in (query, key)
    )
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~meet, float("-inf"))
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).flatten(2)
    return torch.einsum("bnd,ed->bne", out, layer.to_out[0].weight) + layer.to_out[0].bias


@pytest.mark.parametrize("temporal", ["attention", "convolution"])
def test_a_separable_block_works_within_windows_then_along_time_then_on_each_token(temporal):
    torch.manual_seed(0)
    dim = 8
    block = Block(dim, 2, 2.0, False, False, True, temporal).double()
    x = torch.randn(1, PREFIX + FRAMES * HEIGHT * WIDTH, dim, dtype=torch.float64)
    cos, sin = torch.ones(x.shape[1], 2, dtype=x.dtype), torch.zeros(x.shape[1], 2, dtype=x.dtype)
    along = AlongTime(FRAMES, PREFIX, None)
    found = block(x, None, None, cos, sin, WithinWindows(FRAMES, PREFIX, None, HEIGHT, WIDTH, 2), along)
    meet = allowed(2, False, torch.ones(1, PREFIX, dtype=torch.bool))[0]
    expected = x + attention(block.attn, F.layer_norm(x, (dim,)), meet)
    normed = F.layer_norm(expected, (dim,))
    if temporal == "attention":
        place = torch.arange(x.shape[1] - PREFIX) % (HEIGHT * WIDTH)
        meet = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
        meet[PREFIX:, PREFIX:] = place[:, None] == place
        meet[:PREFIX, :PREFIX] = True
        expected = expected + attention(block.temporal_attn, normed, meet)
    else:
        expected = expected + block.temporal_attn(normed, cos, sin, along)
    expected = expected + block.mlp(F.layer_norm(expected, (dim,)))
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)
