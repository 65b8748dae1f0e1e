"""Batches of one shape, splits by prompt, noise of one's own."""

from collections import Counter

import pytest
import torch

from alignment.data.latent_dataset import (
    BucketBatchSampler,
    LatentDataset,
    PromptTable,
    collate,
    split_prompts,
)
from generator.data import latent_cache
from generator.data.latent_cache import encode_files, nearest_size, training_size
from generator.output import InputError
from generator.seeds import example_seeds
from generator.testing import tiny_generator
from generator.video import write_video

SHAPES = [(4, 1, 2, 2)] * 5 + [(4, 3, 2, 2)] * 3 + [(4, 1, 4, 2)]


def test_every_batch_is_full_and_of_one_shape_and_every_example_is_seen():
    sampler = BucketBatchSampler(SHAPES, batch_size=2, seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3 + 2 + 1
    assert all(len(batch) == 2 for batch in batches)
    assert all(len({SHAPES[index] for index in batch}) == 1 for batch in batches)
    assert set(Counter(index for batch in batches for index in batch)) == set(range(len(SHAPES)))


def test_the_order_depends_on_seed_and_epoch_alone():
    first, second = (BucketBatchSampler(SHAPES, 2, seed=0) for _ in range(2))
    assert list(first) == list(second)
    first.set_epoch(1)
    assert list(first) != list(second)
    second.set_epoch(1)
    assert list(first) == list(second)


def test_an_example_twice_in_a_batch_gets_two_noises():
    dataset = LatentDataset([[torch.zeros(4, 1, 2, 2)]] * 2, torch.tensor([1, 2]))
    batch = collate([dataset[1], dataset[0], dataset[1]])
    assert batch["keys"].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert batch["rows"].tolist() == [2, 1, 2]
    seeds = example_seeds(3, 7, rows=batch["keys"])
    assert len(set(seeds)) == 3
    assert example_seeds(3, 7, rows=batch["keys"][1:2]) == seeds[1:2]
    assert example_seeds(3, 8, rows=batch["keys"]) != seeds


def test_prompts_never_straddle_the_split():
    prompts = [f"prompt {number % 10}" for number in range(37)]
    train, held_out = split_prompts(prompts, 0.3, seed=1)
    assert sorted(train + held_out) == list(range(37))
    assert not {prompts[i] for i in train} & {prompts[i] for i in held_out}
    assert len({prompts[i] for i in held_out}) == 3
    with pytest.raises(InputError, match="leaves none to train on"):
        split_prompts(["a", "a"], 0.5, seed=0)


def test_the_prompt_table_has_the_empty_prompt_in_row_zero(generator):
    table = PromptTable.encode(generator, ["b", "a", "b", ""])
    assert table.rows.tolist() == [1, 2, 1, 0]
    assert torch.equal(table.conditions["text"][2], generator.encode_prompts(["a"])["text"][0])


def test_sizes_are_reduced_to_what_the_family_can_make(generator):
    assert nearest_size(generator, (10, 31, 18)) == (9, 28, 16)
    with pytest.raises(InputError, match="smaller than anything"):
        nearest_size(generator, (3, 2, 8))


@pytest.mark.parametrize("size", [(None, None, None), (None, 16, 16), (9, 16, 16)])
@pytest.mark.parametrize("fps", [4, 8, 16])
def test_a_clip_keeps_its_speed_at_any_frame_rate(generator, tmp_path, monkeypatch, fps, size):
    seconds = torch.arange(16) / fps
    write_video(tmp_path / "clip.mp4", (seconds / 4)[None, :, None, None].expand(3, 16, 16, 16), fps)
    seen = []
    encode = generator.encode
    monkeypatch.setattr(generator, "encode", lambda videos: seen.append(videos[0]) or encode(videos))
    encode_files(generator, [tmp_path / "clip.mp4"], *size, progress=False, native_size=True)
    (video,) = seen
    shown = torch.arange(video.shape[1]) / generator.defaults.fps
    assert video.shape[1] == (size[0] or (16 * 8 // fps - 1) // 2 * 2 + 1)
    assert torch.allclose(4 * video.mean((0, 2, 3)), shown.clamp(max=15 / fps), atol=1 / fps)


def test_a_size_below_one_is_refused(generator):
    with pytest.raises(InputError, match="num_frames is 0, but must be at least 1"):
        encode_files(generator, [], num_frames=0)


def test_a_video_that_is_too_small_is_named(generator, tmp_path):
    write_video(tmp_path / "dot.mp4", torch.zeros(3, 5, 2, 2), 8)
    with pytest.raises(InputError, match=r"dot\.mp4 of 5 frames of 2x2 is smaller"):
        training_size(generator, tmp_path / "dot.mp4", None, None, None)


def test_pairs_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="different shapes"):
        LatentDataset([[torch.zeros(4, 1, 2, 2), torch.zeros(4, 2, 2, 2)]], torch.tensor([0]))


def test_embeddings_of_large_text_encoders_are_kept_by_text_and_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path))
    prompts = ["a red ball", "a blue cube rolls slowly to the left", "a red ball"]
    generator = tiny_generator()
    plain = PromptTable.encode(generator, prompts)
    assert not list(tmp_path.rglob("*.safetensors"))  # small encoders are faster than the disk

    monkeypatch.setattr(latent_cache, "CACHED_ENCODER_SIZE", 1)
    first = PromptTable.encode(generator, prompts)
    assert len(list((tmp_path / "prompts").iterdir())) == 3
    encoded = []
    encode = generator.encode_prompts
    monkeypatch.setattr(generator, "encode_prompts", lambda texts: encoded.extend(texts) or encode(texts))
    again = PromptTable.encode(generator, ["a star", *prompts])
    assert encoded == ["a star"]
    for table in (first, plain):
        for name, value in table.conditions.items():
            found = again.conditions[name][again.rows[1:]]
            expected = value[table.rows]
            assert torch.allclose(found[:, : expected.shape[1]].float(), expected.float(), atol=1e-6)

    other = tiny_generator(seed=1)
    assert latent_cache.text_encoder_hash(other) != latent_cache.text_encoder_hash(generator)
