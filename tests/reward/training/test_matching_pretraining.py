"""Text–video matching: the interaction, and learning it from demonstrations."""

from pathlib import Path

import pytest
import torch

from generator.data.demonstrations import Demonstration
from generator.output import InputError
from generator.testing.stand_ins import COLOURS, ColourGenerator, coloured_video
from reward import load_reward
from reward.models.latent import LatentRewardConfig, LatentRewardModel
from reward.models.matching import TextVideoMatching, contrastive_loss
from reward.training.matching_pretraining import DemonstrationMatching
from reward.training.train import train_reward_model
from tests.reward.training.settings import config


def matching(size: int = 8) -> TextVideoMatching:
    torch.manual_seed(0)
    module = TextVideoMatching(6, 5, size, 2, 0.0).eval()
    torch.nn.init.normal_(module.score.weight)
    return module


def test_all_pairs_hold_the_scores_of_each_pair_on_its_own():
    module = matching()
    video, text = torch.randn(3, 7, 6), torch.randn(4, 5, 5)
    table = module.all_pairs(video, text)
    assert table.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(module(video[i : i + 1], text[j : j + 1])[0], table[i, j])


def test_padded_words_and_tokens_change_no_score():
    module = matching()
    video, text = torch.randn(2, 7, 6), torch.randn(2, 5, 5)
    padded_video = torch.cat([video, torch.zeros(2, 3, 6)], dim=1)
    padded_text = torch.cat([text, torch.zeros(2, 4, 5)], dim=1)
    torch.testing.assert_close(module(padded_video, padded_text), module(video, text))


def test_the_contrastive_loss_is_that_of_its_definition_and_zero_for_certain_matches():
    scores = torch.randn(4, 4, dtype=torch.float64)
    rows = -sum(scores[i, i] - scores[i].exp().sum().log() for i in range(4)) / 4
    columns = -sum(scores[i, i] - scores[:, i].exp().sum().log() for i in range(4)) / 4
    torch.testing.assert_close(contrastive_loss(scores), (rows + columns) / 2)
    assert contrastive_loss(100 * torch.eye(4)).item() < 1e-6


def demonstrations(count: int = 32) -> tuple[list[Demonstration], dict[Path, torch.Tensor]]:
    generator = ColourGenerator()
    latents, found = {}, []
    for number in range(count):
        path, colour = Path(f"demonstration-{number}.mp4"), COLOURS[number % 4]
        latents[path] = generator.encode(coloured_video(colour, 1000 + number)[None])[0]
        found.append(Demonstration(path, f"{colour} clip"))
    return found, latents


def test_demonstrations_alone_teach_which_video_shows_a_prompt():
    generator = ColourGenerator()
    model = LatentRewardModel(
        LatentRewardConfig("colours", architecture="matching", sigmas=(0.05,)), generator
    )
    shown, latents = demonstrations()
    learner = DemonstrationMatching(model, shown, batch_size=4, latents=latents)
    start = learner.loss().item()
    assert learner.pretrain(150, 3e-3, progress=False) < 0.5 * start
    for asked in COLOURS:
        videos = torch.stack([coloured_video(colour, 7) for colour in COLOURS])
        scores = model.score(videos, [f"{asked} clip"] * 4)["overall"]
        assert scores.argmax().item() == COLOURS.index(asked)


def test_a_model_with_demonstrations_learns_from_few_rankings_and_is_loaded_as_saved(
    tmp_path, colour_rankings
):
    rankings, latents = colour_rankings
    shown, more = demonstrations()
    arguments = config(tmp_path, num_train_epochs=3, matching_steps=150, matching_batch_size=4)
    model, metrics = train_reward_model(
        ColourGenerator(), rankings[:16], arguments, latents={**latents, **more}, demonstrations=shown
    )
    assert model.config.architecture == "matching"
    assert metrics["overall"]["held_out"]["accuracy"]["mean"] >= 0.9
    videos = torch.stack([coloured_video("red", 1), coloured_video("blue", 2)])
    loaded = load_reward(tmp_path, generator=ColourGenerator())
    torch.testing.assert_close(loaded.score(videos, ["red clip"] * 2), model.score(videos, ["red clip"] * 2))


def test_a_lora_of_the_trunk_learns_with_the_matching_head(tmp_path, colour_rankings):
    rankings, latents = colour_rankings
    shown, more = demonstrations(8)
    arguments = config(
        tmp_path, num_train_epochs=1, matching_steps=4, lora_rank=2, warmup_steps=0, select_best=False
    )
    model, _ = train_reward_model(
        ColourGenerator(), rankings[:8], arguments, latents={**latents, **more}, demonstrations=shown
    )
    assert all(value.abs().sum() > 0 for name, value in model.trunk_lora.items() if "lora_B" in name)


def test_quality_dimensions_do_not_see_the_prompt():
    torch.manual_seed(0)
    made = LatentRewardConfig(
        "colours",
        dimensions=("visual", "motion", "alignment"),
        architecture="matching",
        implicit_evidence=True,
    )
    model = LatentRewardModel(made, ColourGenerator()).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    video = coloured_video("red", 3)[None]
    red, blue = model.score(video, ["red clip"]), model.score(video, ["blue clip"])
    torch.testing.assert_close(red["visual"], blue["visual"])
    torch.testing.assert_close(red["motion"], blue["motion"])
    assert (red["alignment"] - blue["alignment"]).abs().item() > 1e-3


def test_mistakes_are_named(tmp_path):
    shown, latents = demonstrations(4)
    model = LatentRewardModel(LatentRewardConfig("colours"), ColourGenerator())
    with pytest.raises(InputError, match="matching head only"):
        DemonstrationMatching(model, shown, latents=latents)
    model = LatentRewardModel(LatentRewardConfig("colours", architecture="matching"), ColourGenerator())
    with pytest.raises(InputError, match="at least 2"):
        DemonstrationMatching(model, shown[:1], latents=latents)
    with pytest.raises(InputError, match="architecture 'deep' is unknown"):
        config(tmp_path, architecture="deep")
