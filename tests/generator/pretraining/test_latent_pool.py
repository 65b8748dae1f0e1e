"""The pool of encoded clips, and which frames are given."""

import pytest
import torch

from generator.pretraining.data import ClipKind
from generator.pretraining.latent_pool import LatentPool, sample_known_frames
from generator.pretraining.packed_pool import RowsFromPool
from generator.testing import tiny_generator

KIND = ClipKind(9, 32, 32)


def pool(gigabytes=1.0, **changes):
    return LatentPool(gigabytes, pad_token_id=0, eos_token_id=1, **changes)


def clips(first, count, length=5):
    """Latents whose every element is the clip's number, and captions that spell the number."""
    number = torch.arange(first, first + count)
    latents = number.float()[:, None, None, None, None].expand(count, 2, 3, 4, 4).clone()
    ids = torch.zeros(count, length, dtype=torch.long)
    ids[:, 0] = number + 10
    ids[:, 1] = 1
    return latents, ids


def test_drawn_captions_belong_to_their_clips_and_every_clip_is_drawn_about_equally_often():
    filled = pool()
    filled.add(KIND, 1.0, *clips(0, 4))
    filled.add(KIND, 1.0, *clips(4, 12))
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(16)
    for _ in range(200):
        batch = filled.draw(KIND, 16, generator)
        assert batch.input_ids.shape == (16, 8)
        assert torch.equal(batch.latents[:, 0, 0, 0, 0] + 10, batch.input_ids[:, 0].float())
        counts += torch.bincount(batch.latents[:, 0, 0, 0, 0].long(), minlength=16)
    assert counts.sum() == 3200
    assert (counts - 200).abs().max() < 70


def test_captions_of_a_batch_are_of_similar_length_without_bias():
    filled = pool()
    latents, _ = clips(0, 40)
    ids = torch.zeros(40, 20, dtype=torch.long)
    for row in range(40):
        ids[row, : 1 + row // 2] = 5
    filled.add(KIND, 1.0, latents, ids)
    generator = torch.Generator().manual_seed(1)
    widths, drawn = [], []
    for _ in range(400):
        batch = filled.draw(KIND, 20, generator)
        widths.append(batch.input_ids.shape[1])
        drawn.append(batch.attention_mask.sum(1).float().mean())
    assert set(widths) == {8, 16, 32}
    assert torch.stack(drawn).mean() == pytest.approx(10.5, abs=0.6)


def test_a_full_pool_forgets_the_oldest():
    row = 2 * 3 * 4 * 4 * 4
    filled = pool(gigabytes=10 * row / 1e9)
    for start in range(0, 40, 4):
        filled.add(KIND, 1.0, *clips(start, 4))
    batch = filled.draw(KIND, 64, torch.Generator().manual_seed(0))
    assert batch.latents.min() >= 30
    assert batch.latents.max() == 39


def test_dropped_captions_are_the_end_token_alone():
    filled = pool(caption_dropout=1.0)
    filled.add(KIND, 1.0, *clips(0, 8))
    batch = filled.draw(KIND, 8, torch.Generator().manual_seed(0))
    assert (batch.input_ids[:, 0] == 1).all()
    assert (batch.attention_mask.sum(1) == 1).all()


def test_known_frames_come_in_their_share_of_batches():
    filled = pool(known_share=0.5)
    filled.add(KIND, 1.0, *clips(0, 8))
    generator = torch.Generator().manual_seed(0)
    known = [filled.draw(KIND, 4, generator).known for _ in range(200)]
    assert 70 < sum(mask is not None for mask in known) < 130
    assert {tuple(mask.shape) for mask in known if mask is not None} == {(4, 3)}


def test_known_frames_are_never_all_and_hold_every_pattern_of_use():
    masks = sample_known_frames(4000, 5, torch.Generator().manual_seed(0))
    assert not masks.all(1).any()
    seen = {tuple(row) for row in masks.int().tolist()}
    animate, extend, backward = (1, 0, 0, 0, 0), (1, 1, 1, 0, 0), (0, 0, 0, 1, 1)
    connect, interpolate, coarse = (1, 0, 0, 0, 1), (1, 0, 1, 0, 1), (0, 1, 0, 1, 0)
    assert {animate, extend, backward, connect, interpolate, coarse} <= seen
    assert not sample_known_frames(10, 1, torch.Generator().manual_seed(0)).any()


def packed_rows(filled, pipeline, length=600, dropped=lambda: 0.0):
    return RowsFromPool(
        filled, pipeline.transformer, length, lambda kind: 1.0, lambda kind: 0.5, dropped, seed=0
    )


KINDS = {
    ClipKind(9, 32, 32): (3, 8, 8),
    ClipKind(1, 32, 48): (1, 8, 12),
    ClipKind(9, 32, 32, 4.0, True): (9, 8, 8),
}


def filled_pool(**changes):
    """A pool with clips of three kinds whose every element, and first token, is the clip's number."""
    filled = pool(**changes)
    for offset, (kind, shape) in enumerate(KINDS.items()):
        number = torch.arange(20) + 20 * offset
        latents = number.float()[:, None, None, None, None].expand(20, 4, *shape).clone()
        ids = torch.zeros(20, 5 + offset, dtype=torch.long)
        ids[:, 0], ids[:, 1:] = number + 10, 1
        filled.add(kind, 1.0, latents, ids)
    return filled


def test_packed_rows_hold_clips_with_their_captions_and_are_nearly_full():
    pipeline = tiny_generator().pipeline
    rows = packed_rows(filled_pool(), pipeline)
    fills, kinds = [], set()
    for _ in range(30):
        batch = rows.draw()
        layout = batch.layout
        assert batch.patches.shape == (600, 4 * 4)
        table = torch.cat([ids.flatten() for ids in batch.captions])
        assert not batch.patches[~layout.is_video].any()
        for clip in range(batch.clips):
            tokens = layout.clip[: round(600 * layout.fill)] == clip
            tokens = torch.nn.functional.pad(tokens, (0, 600 - len(tokens)))
            values = batch.patches[tokens & layout.is_video]
            assert len(values.unique()) == 1
            text = layout.prefix_source[tokens & ~layout.is_video & (layout.prefix_source < len(table))]
            assert table[text][0] == values.flatten()[0] + 10
            assert (table[text][1:] == 1).all()
            kinds.add(int(values.flatten()[0]) // 20)
        fills.append(layout.fill)
    assert kinds == {0, 1, 2}
    assert sum(fills) / len(fills) > 0.9  # rows are short here: nine clips


def test_dropped_tokens_make_room_for_more_clips_and_captions_are_dropped_and_frames_known():
    pipeline = tiny_generator().pipeline
    whole = packed_rows(filled_pool(), pipeline)
    half = packed_rows(filled_pool(), pipeline, dropped=lambda: 0.5)
    count = {
        name: sum(rows.draw().clips for _ in range(80)) for name, rows in (("whole", whole), ("half", half))
    }
    assert count["half"] > 1.5 * count["whole"]
    batch = packed_rows(filled_pool(caption_dropout=1.0, known_share=1.0), pipeline).draw()
    assert all((ids[:, 0] == 1).all() and not ids[:, 1:].any() for ids in batch.captions)
    assert 0 < batch.known.sum() < batch.layout.is_video.sum()
    assert not (batch.known & ~batch.layout.is_video).any()


def test_clips_that_made_room_for_newer_ones_are_not_used():
    pipeline = tiny_generator().pipeline
    filled = filled_pool(gigabytes=1e-9)
    rows = packed_rows(filled, pipeline)
    rows.draw()
    kind = ClipKind(9, 32, 32)
    ids = torch.full((20, 5), 99)
    filled.add(kind, 1.0, torch.full((20, 4, 3, 8, 8), 99.0), ids)
    for _ in range(20):
        batch = rows.draw()
        table = torch.cat([group.flatten() for group in batch.captions])
        values = batch.patches[batch.layout.is_video].unique().tolist()
        assert (99.0 in values) == bool((table == 99).any())
        assert not {*range(20)} & {int(value) for value in values}
