"""One stage: sizes, given frames, seeds, and what it is told."""

import pytest
import torch

from generator.cascade.stage import StageSampling, load_stage, pieces, save_stage, stage_input, stage_seeds
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.cascades import tiny_stage

PROMPTS = ["a red circle", "two small blue squares move left"]


@pytest.fixture(scope="module")
def codec():
    return tiny_generator()


def videos(frames=3, height=16, width=16):
    return torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size", [(1, 16, 16), (3, 14, 10), (18, 8, 8)])
def test_a_spatial_stage_doubles_the_sides_of_any_video(codec, size):
    stage = tiny_stage("spatial", codec)
    made = stage.upsample(videos(*size), 8.0, PROMPTS, [3, 4])
    assert made.shape == (2, 3, size[0], 2 * size[1], 2 * size[2])
    assert made.abs().max() <= 1
    assert stage.finer_size(*size) == tuple(made.shape[2:])
    assert stage.finer_rate(8.0) == 8.0


@pytest.mark.parametrize("frames", [2, 3, 7])
def test_a_temporal_stage_makes_three_frames_between_two_and_keeps_the_given_ones(codec, frames):
    stage = tiny_stage("temporal", codec)
    given = videos(frames)
    made = stage.upsample(given, 4.0, PROMPTS, [3, 4])
    assert made.shape == (2, 3, 4 * (frames - 1) + 1, 16, 16)
    assert torch.equal(made[:, :, ::4], given)
    assert stage.finer_rate(4.0) == 16.0


def test_a_temporal_stage_refuses_a_single_frame(codec):
    with pytest.raises(InputError, match="give at least two"):
        tiny_stage("temporal", codec).upsample(videos(1), 4.0, PROMPTS, [3, 4])


def test_a_video_depends_on_its_own_seed_and_prompt_alone(codec):
    stage = tiny_stage("spatial", codec)
    both = stage.upsample(videos(), 8.0, PROMPTS, [3, 4])
    alone = stage.upsample(videos()[1:], 8.0, PROMPTS[1:], [4])
    torch.testing.assert_close(alone, both[1:], atol=1e-4, rtol=1e-4)
    other = stage.upsample(videos()[1:], 8.0, PROMPTS[1:], [5])
    assert (other - alone).abs().max() > 1e-3
    said = stage.upsample(videos()[1:], 8.0, PROMPTS[:1], [4])
    assert (said - alone).abs().max() > 1e-4
    assert len({*stage_seeds([1, -1], 0), *stage_seeds([1], 1), *stage_seeds([1], 0, 1)}) == 4


def test_the_network_is_told_the_level_by_which_its_input_was_noised(codec, monkeypatch):
    stage = tiny_stage("spatial", codec)
    seen = []
    forward = stage.transformer.forward

    def spy(latents, timestep, condition, augmentation, *rest):
        seen.append((condition, augmentation))
        return forward(latents, timestep, condition, augmentation, *rest)

    monkeypatch.setattr(stage.transformer, "forward", spy)
    for level in (0.0, 0.3):
        stage.upsample(videos(5), 8.0, PROMPTS, [3, 4], StageSampling(augmentation=level))
    (clean, told_none), *_, (noised, told) = seen
    torch.testing.assert_close(clean, stage_input("spatial", codec, videos(5)))
    assert told_none.tolist() == [0, 0]
    assert told.tolist() == pytest.approx([0.3, 0.3])
    noise = (noised - 0.7 * clean) / 0.3
    assert noise.mean().abs() < 0.1
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    assert len(seen) == 4  # two steps each


def test_guidance_moves_away_from_the_empty_prompt(codec):
    stage = tiny_stage("spatial", codec)
    one, three = (
        stage.upsample(videos(), 8.0, PROMPTS, [3, 4], StageSampling(1, scale)) for scale in (1.0, 3.0)
    )
    empty = stage.upsample(videos(), 8.0, ["", ""], [3, 4], StageSampling(1, 1.0))
    assert (three - one).abs().max() > 1e-3
    assert ((three - one) * (one - empty)).sum() > 0


def test_pieces_share_one_frame():
    assert pieces(33, 33) == [slice(0, 33)]
    assert pieces(1, 33) == [slice(0, 33)]
    parts = pieces(70, 33)
    covered = [list(range(70))[part] for part in parts]
    assert covered[0][-1] == covered[1][0]
    assert sorted({frame for part in covered for frame in part}) == list(range(70))


def test_a_stage_survives_saving_and_belongs_to_its_codec(codec, tmp_path):
    stage = tiny_stage("spatial", codec)
    save_stage(tmp_path, stage.transformer, stage.settings)
    again = load_stage(tmp_path, codec)
    made = [each.upsample(videos(), 8.0, PROMPTS, [3, 4]) for each in (stage, again)]
    assert torch.equal(*made)
    with pytest.raises(InputError, match="was trained with the autoencoder and text encoder of nano"):
        load_stage(tmp_path, tiny_generator(seed=1))
    with pytest.raises(InputError, match="holds no model_index"):
        load_stage(tmp_path / "transformer", codec)
