"""Captioned scenes for pretraining."""

import itertools

import pytest
import torch

from generator.native.text_encoder import build_tokenizer, tokenize
from generator.pretraining.data import FPS, SIZES, ClipKind, SceneStream, training_mix
from generator.world import VOCABULARY, SceneBatch, render_scenes, training_batch


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(VOCABULARY)


def stream(tokenizer, start=0, **changes):
    arguments = {
        "budget": 600,
        "patch": (4, 8),
        "text_cost": 24,
        "wrong_share": 0.5,
        "caption_dropout": 0.3,
        "seed": 5,
        **changes,
    }
    return SceneStream(tokenizer, **arguments, start=start)


def test_packed_scenes_come_back_exactly_and_render_the_same():
    _, scenes, _ = training_batch(6, 3, "train", 5, 32, 32, fps=FPS)
    unpacked = SceneBatch.unpack(scenes.pack())
    for before, after in zip(scenes.tensors(), unpacked.tensors(), strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
    clips = [render_scenes(part, 5, 32, 32, fps=FPS) for part in (scenes, unpacked)]
    assert torch.equal(*clips)


def test_a_batch_is_of_one_training_size_within_its_budget(tokenizer):
    for index in range(4):
        batch = stream(tokenizer).batch(index)
        frames, height, width = batch.size
        assert batch.size in [size[:3] for size in SIZES]
        units = ((frames - 1) // 4 + 1) * (height // 8) * (width // 8) + 24
        count = len(batch.input_ids)
        assert count == len(batch.packed_scenes) == len(batch.attention_mask)
        assert count * units <= 600 < (count + 1) * units
        clips = batch.render(torch.device("cpu"))
        assert clips.shape == (count, 3, *batch.size)
        assert clips.abs().max() <= 1


def test_a_clip_dearer_than_the_budget_comes_alone(tokenizer):
    assert stream(tokenizer, budget=10).clips(ClipKind(17, 64, 64)) == 1


def test_captions_are_those_of_the_scenes(tokenizer):
    """Without dropout, the batch's ids are the ids of the prompts from which its scenes were drawn."""
    batch = stream(tokenizer, caption_dropout=0.0).batch(2)
    prompts, scenes, _ = training_batch(
        len(batch.input_ids), 5 * 1_000_003 + 2, "train", *batch.size, fps=FPS, wrong_share=0.5
    )
    assert torch.equal(tokenize(tokenizer, prompts)[0], batch.input_ids)
    assert torch.equal(scenes.pack(), batch.packed_scenes)


def test_caption_dropout_empties_captions(tokenizer):
    lengths = stream(tokenizer, caption_dropout=1.0).batch(0).attention_mask.sum(1)
    assert (lengths == 1).all()


def test_a_resumed_stream_goes_on_where_the_first_stopped(tokenizer):
    whole = list(itertools.islice(stream(tokenizer), 5))
    rest = list(itertools.islice(stream(tokenizer, start=3), 2))
    for before, after in zip(whole[3:], rest, strict=True):
        assert before.size == after.size
        assert torch.equal(before.input_ids, after.input_ids)
        assert torch.equal(before.packed_scenes, after.packed_scenes)


def test_the_mix_holds_key_frame_clips_in_the_share_asked_for():
    assert all(not kind.key_frames for kind in training_mix())
    mix = training_mix(0.2)
    assert sum(mix.values()) == pytest.approx(1)
    assert sum(share for kind, share in mix.items() if kind.key_frames) == pytest.approx(0.2)
    assert mix[ClipKind(9, 32, 32)] == pytest.approx(0.8 * 6 / sum(weight for *_, weight in SIZES))


def test_key_frame_clips_cost_every_frame_and_are_rendered_at_their_rate(tokenizer):
    batches = (stream(tokenizer, key_frame_share=1.0, budget=3000).batch(i) for i in range(20))
    batch = next(b for b in batches if b.kind == ClipKind(9, 32, 32, 4.0, True))
    assert len(batch.input_ids) == 3000 // (9 * 16 + 24)
    clips = batch.render(torch.device("cpu"))
    expected = render_scenes(SceneBatch.unpack(batch.packed_scenes), 9, 32, 32, fps=4.0)
    assert torch.equal(clips, expected)
