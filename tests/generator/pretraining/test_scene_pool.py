"""Captioned scenes that are used several times."""

from __future__ import annotations

import itertools

import pytest
import torch

from generator.native.text_encoder import build_tokenizer, tokenize
from generator.pretraining.data import ClipKind, ScenePool, SceneStream
from generator.world import VOCABULARY, SceneBatch, training_batch


def stream(**changes: object) -> SceneStream:
    options = {
        "tokenizer": build_tokenizer(VOCABULARY),
        "budget": 1500,
        "patch": (4, 8),
        "text_cost": 24,
        "wrong_share": 0.5,
        "caption_dropout": 0.0,
        "seed": 3,
        "reuse": 8,
    }
    return SceneStream(**{**options, **changes})  # type: ignore[arg-type]


def test_two_streams_of_one_seed_give_the_same_batches() -> None:
    first, second = stream(), stream()
    for index in range(12):
        a, b = first.batch(index), second.batch(index)
        assert a.size == b.size
        assert torch.equal(a.packed_scenes, b.packed_scenes)
        assert torch.equal(a.input_ids, b.input_ids)


def test_no_scene_appears_twice_in_a_batch_and_one_part_in_reuse_is_new() -> None:
    scenes = stream(reuse=4)
    served: dict[ClipKind, int] = {}
    for index in range(30):
        batch = scenes.batch(index)
        assert len({tuple(row) for row in batch.packed_scenes.tolist()}) == scenes.clips(batch.kind)
        served[batch.kind] = served.get(batch.kind, 0) + 1
    assert served[ClipKind(9, 32, 32)] > 4
    for kind, pool in scenes.pools.items():
        count = scenes.clips(kind)
        assert pool.capacity == 4 * count
        assert pool.added == count + (served[kind] - 1) * -(-count // 4)


def test_reuse_of_one_makes_every_clip_new() -> None:
    scenes = stream(reuse=1)
    batches = [batch for batch in map(scenes.batch, range(20)) if batch.size == (9, 32, 32)]
    assert len(batches) > 1
    for first, second in itertools.pairwise(batches):
        assert not {tuple(row) for row in first.packed_scenes.tolist()} & {
            tuple(row) for row in second.packed_scenes.tolist()
        }


def test_the_pool_drops_the_oldest_scenes_and_keeps_captions_with_scenes() -> None:
    pool = ScenePool(5)
    for value in range(8):
        pool.add(torch.full((1, 2), float(value)), torch.full((1, 1 + value % 3), value + 1))
    packed, ids = pool.draw(5, torch.Generator().manual_seed(0))
    assert sorted(packed[:, 0].tolist()) == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert torch.equal(ids[:, 0], packed[:, 0].long() + 1)
    assert torch.equal((ids != 0).sum(1), 1 + packed[:, 0].long() % 3)


def test_a_dropped_caption_is_the_tokenised_empty_prompt() -> None:
    scenes = stream(caption_dropout=1.0)
    batch = scenes.batch(0)
    ids, mask = tokenize(scenes.tokenizer, [""])
    assert torch.equal(batch.input_ids, ids.expand(len(batch.input_ids), -1))
    assert torch.equal(batch.attention_mask, mask.expand(len(batch.input_ids), -1))


def test_captions_are_those_of_training_batch_and_lie_in_one_row_with_their_scene() -> None:
    scenes = stream(wrong_share=0.0)
    batch = scenes.batch(5)
    prompts, sampled, _ = training_batch(
        scenes.clips(batch.kind), 3 * 1_000_003 + 5, "train", *batch.size, fps=8.0, wrong_share=0.0
    )
    caption = {tuple(row): prompt for row, prompt in zip(sampled.pack().tolist(), prompts, strict=True)}
    matched = [caption[tuple(row)] for row in batch.packed_scenes.tolist()]
    ids, mask = tokenize(scenes.tokenizer, matched)
    assert torch.equal(batch.input_ids, ids)
    assert torch.equal(batch.attention_mask, mask)


@pytest.mark.parametrize("size", [(9, 32, 32), (17, 64, 64), (1, 32, 32)])
def test_training_batch_gives_exactly_as_many_clips_as_asked(size: tuple[int, int, int]) -> None:
    for seed, count in ((0, 1), (1, 60)):
        prompts, scenes, wrong = training_batch(count, seed, "train", *size)
        assert len(prompts) == len(scenes) == len(wrong) == count
        assert isinstance(scenes, SceneBatch)


def test_the_loader_serves_batches_from_worker_processes() -> None:
    batches = list(itertools.islice(stream().loader(1), 3))
    alone = list(itertools.islice(stream(), 3))
    for a, b in zip(batches, alone, strict=True):
        assert a.size == b.size
        assert torch.equal(a.packed_scenes, b.packed_scenes)
