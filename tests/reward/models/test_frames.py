"""Decoded frames beside the trunk's tokens."""

import pytest
import torch

from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.stand_ins import ColourGenerator, coloured_video
from reward import load_reward
from reward.models.frames import FrameReader, decoded_frames
from reward.models.latent import LatentRewardConfig, LatentRewardModel
from reward.training.train import train_reward_model
from tests.reward.training.settings import config


def test_a_token_sees_its_neighbourhood_in_five_frames_alone():
    torch.manual_seed(0)
    reader = FrameReader(16)
    for layer in reader.layers:
        if isinstance(layer, torch.nn.GroupNorm):
            layer.forward = lambda x: x  # which would let every pixel reach every token a little
    video = torch.zeros(1, 3, 9, 32, 32, requires_grad=True)
    tokens = reader(video)
    assert tokens.shape == (1, 9 * 4 * 4, 16)
    tokens[0, 4 * 16 + 5].sum().backward()
    seen = video.grad[0].abs().sum(0) > 0
    assert seen.any(dim=(1, 2)).nonzero().flatten().tolist() == [2, 3, 4, 5, 6]
    rows = seen.any(dim=0).any(dim=1).nonzero().flatten()
    assert 12 <= len(rows) <= 15
    assert seen[:, 8, 8].any()


def test_frames_are_decoded_where_they_are_wanted_and_gradients_reach_the_latents():
    generator = tiny_generator()
    latents = torch.randn(2, *generator.latent_shape(5, 32, 32))
    assert decoded_frames(generator, latents, False).shape == (2, 3, 0, 1, 1)
    assert torch.equal(decoded_frames(generator, latents, True), generator.decode(latents))
    model = LatentRewardModel(LatentRewardConfig("tiny", decoded_frames=True), generator)
    torch.nn.init.normal_(model.head.mlp[-1].weight)
    with torch.no_grad():  # the scores come from the frames alone
        model.head.mlp[1].weight[:, : 3 * model.head.video_norm.normalized_shape[0]] = 0
    latents.requires_grad_()
    conditions = generator.encode_prompts(["a red circle", "a blue star"])
    model.score_latents(latents, conditions)["overall"].sum().backward()
    assert latents.grad.abs().sum() > 0


def test_a_model_that_looks_at_frames_is_trained_saved_and_loaded(tmp_path, colour_rankings):
    rankings, latents = colour_rankings
    arguments = config(tmp_path, decoded_frames=True, num_train_epochs=12)
    model, metrics = train_reward_model(ColourGenerator(), rankings, arguments, latents=latents)
    assert metrics["overall"]["held_out"]["accuracy"]["mean"] >= 0.9
    videos = torch.stack([coloured_video("red", 1), coloured_video("blue", 2)])
    loaded = load_reward(tmp_path, generator=ColourGenerator())
    scores = loaded.score(videos, ["red clip"] * 2)["overall"]
    torch.testing.assert_close(scores, model.score(videos, ["red clip"] * 2)["overall"])
    assert scores[0] > scores[1]


@pytest.mark.parametrize(
    "changes", [{"noise_levels": (0.5,)}, {"architecture": "matching"}, {"dimensions": ("visual",)}]
)
def test_heads_that_do_not_look_at_frames_are_named(changes):
    with pytest.raises(InputError, match="Decoded frames are read by the pooled head"):
        LatentRewardConfig("tiny", decoded_frames=True, **changes)
