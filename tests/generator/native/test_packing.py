"""Patch n' pack: rows, layouts, attention within segments, and packed results equal to single ones."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from generator.inputs.packing import dropped_share, pack_rows, sample_kept_tokens
from generator.native import blocks, packing
from generator.native.packing import ClipShape, Segments, pack_layout, segment_attention
from generator.native.transformer import NativeVideoTransformer3DModel

TINY = {
    "in_channels": 4,
    "hidden_size": 32,
    "num_layers": 3,
    "num_attention_heads": 2,
    "text_dim": 12,
    "rope_axes_dim": (4, 6, 6),
}
SHAPES = [(3, 4, 6), (1, 4, 4), (3, 4, 6), (2, 8, 4), (5, 4, 4)]
TEXTS = [3, 5, 1, 2, 4]


def build(**changes):
    torch.manual_seed(0)
    model = NativeVideoTransformer3DModel(**{**TINY, **changes})
    for parameter in model.parameters():  # nothing is left at zero, which would hide differences
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def clips():
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": [torch.randn(4, *shape, generator=generator) for shape in SHAPES],
        "timestep": 1000 * torch.rand(len(SHAPES), generator=generator),
        "text": torch.randn(len(SHAPES), max(TEXTS), 12, generator=generator),
        "mask": (torch.arange(max(TEXTS)) < torch.tensor(TEXTS)[:, None]).long(),
    }


def alone(model, inputs, timestep):
    """The velocities of the clips, one by one."""
    return [
        model(latents[None], timestep[i][None], inputs["text"][i : i + 1, : TEXTS[i]], return_dict=False)[0][
            0
        ]
        for i, latents in enumerate(inputs["latents"])
    ]


def gradients(model, velocities):
    model.zero_grad()
    sum(velocity.square().sum() for velocity in velocities).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


VARIANTS = [
    {"conditioning": "tokens"},
    {"conditioning": "adaln", "linear_velocity": True},
    {"conditioning": "tokens", "patch_size": (1, 1, 2), "long_skips": False},
    {"attention": "separable"},
    {"attention": "separable", "conditioning": "adaln"},
    {"patch_size": (2, 2, 2)},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("per_frame", [False, True], ids=["level a clip", "level a frame"])
def test_packed_clips_have_the_velocities_and_gradients_of_single_ones(changes, per_frame):
    model, inputs = build(**changes), clips()
    timestep = inputs["timestep"]
    if per_frame and changes.get("patch_size") == (2, 2, 2):
        pytest.skip("levels of frames must be equal within a patch")
    if per_frame:
        known = [torch.arange(shape[0]) % 2 == 1 for shape in SHAPES]
        timestep = [torch.where(k, 0.0, level) for k, level in zip(known, timestep, strict=True)]
    single = alone(model, inputs, timestep)
    expected = gradients(model, single)
    for row_length in (None, 400):
        packed = model(
            inputs["latents"],
            timestep,
            inputs["text"],
            inputs["mask"],
            return_dict=False,
            row_length=row_length,
        )[0]
        for one, other in zip(single, packed, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
        for name, gradient in gradients(model, packed).items():
            scale = max(float(expected[name].abs().max()), 1.0)
            torch.testing.assert_close(gradient / scale, expected[name] / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"attention": "separable"}], ids=str)
def test_dropping_no_token_changes_nothing_and_a_dropped_one_has_no_influence(changes):
    model, inputs = build(**changes), clips()
    arguments = (inputs["timestep"], inputs["text"], inputs["mask"])
    tokens = [model.clip_shape(latents.shape, 0.5).tokens for latents in inputs["latents"]]
    whole = model(inputs["latents"], *arguments).sample
    everything = model(inputs["latents"], *arguments, kept=[np.arange(n) for n in tokens]).sample
    for one, other in zip(whole, everything, strict=True):
        assert torch.equal(one, other)
    kept = sample_kept_tokens(tokens, 0.5, np.random.default_rng(0))
    assert [len(k) for k in kept] == [max(1, round(n / 2)) for n in tokens]
    fewer = model(inputs["latents"], *arguments, kept=kept).sample
    changed = []
    for latents, keep in zip(inputs["latents"], kept, strict=True):
        patches = model.patchify(latents[None]).clone()
        dropped = np.setdiff1d(np.arange(patches.shape[1]), keep)
        patches[:, dropped] += 100.0
        changed.append(model.unpatchify(patches, model.clip_shape(latents.shape, 0.5), latents.shape[1])[0])
    again = model(changed, *arguments, kept=kept).sample
    for one, other, keep in zip(fewer, again, kept, strict=True):
        torch.testing.assert_close(other, one)
        patches = model.patchify(one[None])[0]
        dropped = np.setdiff1d(np.arange(len(patches)), keep)
        assert not patches[dropped].any()
        assert patches[keep].any(dim=1).all()


def influenced(model, place):
    """Patches `[3, 2, 2]` of a video whose velocity changes with the patch at `place`."""
    generator = torch.Generator().manual_seed(4)
    latents, text = (
        torch.randn(1, 4, 3, 4, 4, generator=generator),
        torch.randn(1, 2, 12, generator=generator),
    )
    changed = latents.clone()
    changed[0, :, place[0], 2 * place[1], 2 * place[2]] += 1.0
    before, after = (model(x, torch.tensor([500.0]), text).sample for x in (latents, changed))
    return (after - before).abs().amax(dim=1)[0, :, ::2, ::2] > 1e-6


def test_separable_attention_sees_its_frame_and_its_place_in_time_and_together_everything():
    frame, place = torch.zeros(3, 2, 2, dtype=torch.bool), torch.zeros(3, 2, 2, dtype=torch.bool)
    frame[1], place[:, 0, 1] = True, True
    model = build(attention="separable")
    assert influenced(model, (1, 0, 1)).all()
    for block in model.blocks:
        block.temporal_attn.start_at_zero()
    assert torch.equal(influenced(model, (1, 0, 1)), frame)
    model = build(attention="separable")
    for block in model.blocks:
        block.attn.start_at_zero()
    assert torch.equal(influenced(model, (1, 0, 1)), place)


def test_a_model_of_separable_attention_survives_saving_and_an_old_config_means_full_attention(tmp_path):
    model, inputs = build(attention="separable"), clips()
    model.save_pretrained(tmp_path)
    loaded = NativeVideoTransformer3DModel.from_pretrained(tmp_path)
    arguments = (inputs["latents"][0][None], inputs["timestep"][:1], inputs["text"][:1])
    torch.testing.assert_close(loaded(*arguments).sample, model(*arguments).sample)
    old = {name: value for name, value in build().config.items() if name != "attention"}
    assert NativeVideoTransformer3DModel.from_config(old).config.attention == "full"
    with pytest.raises(ValueError, match="must be 'full' or 'separable'"):
        NativeVideoTransformer3DModel(**TINY, attention="sparse")


def random_segments(lengths, device="cpu"):
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
    return Segments(tuple((n, n) for n in lengths), ends, ends, (max(lengths), max(lengths)))


def reference_attention(query, key, value, lengths):
    """Attention over the whole row under a block mask, in float64."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    q, k, v = (x.double().transpose(0, 1) for x in (query, key, value))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(owner[:, None] != owner[None], float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1)


LENGTHS = [5, 7, 7, 1, 30, 12]


def test_attention_within_segments_is_attention_under_a_block_mask():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(sum(LENGTHS), 3, 8, generator=generator) for _ in range(3)]
    found = segment_attention(*rows, random_segments(LENGTHS))
    torch.testing.assert_close(found.double(), reference_attention(*rows, LENGTHS), atol=1e-6, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_back_ends_of_attention_agree():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(sum(LENGTHS), 3, 64, generator=generator).bfloat16() for _ in range(3)]
    on_gpu = [row.cuda().requires_grad_() for row in rows]
    found = segment_attention(*on_gpu, random_segments(LENGTHS, "cuda"))
    found.float().square().sum().backward()
    exact = [row.float().requires_grad_() for row in rows]
    expected = segment_attention(*exact, random_segments(LENGTHS))
    expected.square().sum().backward()
    torch.testing.assert_close(found.float().cpu(), expected, atol=2e-2, rtol=2e-2)
    for one, other in zip(on_gpu, exact, strict=True):
        assert F.cosine_similarity(one.grad.float().cpu().flatten(), other.grad.flatten(), dim=0) > 0.999


def mixed_lengths(count, seed=0):
    """Token counts of the kind that training meets: few long clips, many short ones."""
    random = np.random.default_rng(seed)
    return random.choice(
        [40, 76, 92, 156, 332, 420, 744], size=count, p=[0.3, 0.25, 0.15, 0.1, 0.1, 0.06, 0.04]
    )


@pytest.mark.parametrize("with_membership", [False, True])
def test_rows_gathered_from_a_table_of_levels_have_the_gradients_of_indexing(with_membership):
    table = torch.randn(5, 6, 3, dtype=torch.double, requires_grad=True)
    level = torch.tensor([4, 0, 0, 2, 2, 2, 1])  # level 3 has no token
    membership = (torch.arange(5)[:, None] == level).double() if with_membership else torch.empty(0)
    weight = torch.randn(7, 6, 3, dtype=torch.double)
    found = blocks._GatherRows.apply(table, level, membership)
    assert torch.equal(found, table[level])
    (found * weight).sum().backward()
    expected = torch.autograd.grad((table[level] * weight).sum(), table)[0]
    torch.testing.assert_close(table.grad, expected)


@pytest.mark.parametrize("row_length", [1024, 2048])
def test_rows_hold_every_item_once_and_are_nearly_full(row_length):
    lengths = mixed_lengths(4000)
    rows = list(pack_rows(((i, int(n)) for i, n in enumerate(lengths)), row_length))
    assert sorted(i for row in rows for i in row) == list(range(4000))
    filled = [int(lengths[row].sum()) for row in rows]
    assert max(filled) <= row_length
    assert sum(filled[:-5]) / (row_length * len(filled[:-5])) > 0.97


def test_no_item_waits_for_more_rows_than_the_pool_has_places():
    def endless():
        for i, n in enumerate(mixed_lengths(6000, seed=1)):
            yield i, int(n)

    seen, next_arrival, worst = {}, 0, 0
    for number, row in enumerate(pack_rows(endless(), 1024, pool_size=32)):
        for i in row:
            seen[i] = number
        while next_arrival in seen:
            next_arrival += 1
        worst = max(worst, len(seen) - next_arrival)
    arrived = np.array([seen[i] for i in range(6000)])
    # An item enters the pool at the latest when all before it are in rows; it then waits for at most 32 of them.
    latest_before = np.maximum.accumulate(np.concatenate([[0], arrived[:-1]]))
    assert (arrived - latest_before).max() <= 32
    assert worst < 32 * 30


def test_an_item_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="30 tokens does not fit into a row of 20"):
        list(pack_rows([("a", 10), ("b", 30)], 20))


def test_the_remainder_of_a_row_and_empty_places_do_not_change_shapes():
    shapes = [ClipShape(3, 2, 3, 0.5), ClipShape(1, 2, 2, 0.5)]
    one = pack_layout(shapes, [3, 2], [0, 3], 5, True, length=64, num_clips=8)
    other = pack_layout(shapes[:1], [3], [0], 5, True, length=64, num_clips=8)
    assert one.fill == (18 + 4 + 5 + 2) / 64
    assert {n: t.shape for n, t in one.tensors().items()} == {n: t.shape for n, t in other.tensors().items()}
    swapped = one.with_tensors(other.tensors())
    for name, tensor in swapped.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])
    with pytest.raises(ValueError, match="do not fit into a row of 20"):
        pack_layout(shapes, [3, 2], [0, 3], 5, True, length=20)


def test_token_dropping_ends_before_training_does():
    assert dropped_share(0.0, 0.5) == 0.5
    assert dropped_share(0.4, 0.5) == pytest.approx(0.25)
    assert dropped_share(0.8, 0.5) == dropped_share(1.0, 0.5) == 0.0


@pytest.mark.parametrize("changes", [{}, {"attention": "separable"}], ids=str)
def test_both_back_ends_are_told_the_same_segments(changes, monkeypatch):
    """The one for CUDA reads where segments end; here a loop over those ends stands in for it."""
    model, inputs = build(**changes), clips()
    arguments = (inputs["latents"], inputs["timestep"], inputs["text"], inputs["mask"])
    expected = model(*arguments, row_length=400).sample
    longest = []

    def by_ends(query, key, value, segments):
        q_ends, k_ends = segments.query_ends.tolist(), segments.key_ends.tolist()
        assert segments.query_ends.dtype == segments.key_ends.dtype == torch.int32
        assert (q_ends[-1], k_ends[-1]) == (len(query), len(key))
        outputs = []
        for i in range(len(q_ends) - 1):
            q, k, v = query[q_ends[i] : q_ends[i + 1]], *(x[k_ends[i] : k_ends[i + 1]] for x in (key, value))
            longest.append((len(q) <= segments.longest[0], len(k) <= segments.longest[1]))
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
            outputs.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr(packing, "_by_segment", by_ends)
    found = model(*arguments, row_length=400).sample
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    assert all(q and k for q, k in longest)
