"""Pretraining on rankings that no one judged, and trunks that are trained whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from generator.output import InputError
from generator.provenance import fingerprint
from generator.testing.stand_ins import COLOURS, ColourGenerator, coloured_video
from reward import load_reward
from reward.models.latent import LatentRewardConfig, LatentRewardModel
from reward.preferences import Ranking
from reward.training.near_miss_pretraining import RankingPretraining, pair_accuracy
from reward.training.reward_trainer import RewardTrainer
from reward.training.train import train_reward_model
from tests.reward.training.settings import config


def whole(**changes: object) -> LatentRewardModel:
    made = LatentRewardConfig("colours", sigmas=(0.05,), full_trunk=True, num_blocks=2, **changes)
    return LatentRewardModel(made, ColourGenerator())


def test_pretraining_teaches_what_a_prompt_asks_for(colour_rankings):
    rankings, latents = colour_rankings
    torch.manual_seed(0)
    model = whole()
    learner = RankingPretraining(model, rankings, latents=latents)
    before = {name: value.clone() for name, value in model.trunk_weights.items()}
    figures = learner.train(60, 16, 1e-2, 2e-3, progress=False)
    assert figures["accuracy"] > 0.9
    assert figures["rankings_seen"] == 60 * 16
    assert any((value != before[name]).any() for name, value in model.trunk_weights.items())
    for asked in COLOURS:
        videos = torch.stack([coloured_video(colour, 7) for colour in COLOURS])
        scores = model.score(videos, [f"{asked} clip"] * 4)["overall"]
        assert scores.argmax().item() == COLOURS.index(asked)


def test_the_loss_of_the_pretraining_is_that_of_the_trainer(tmp_path, colour_rankings):
    rankings, latents = colour_rankings
    model = whole(dropout=0.0)
    torch.nn.init.normal_(model.head.mlp[-1].weight)
    mixed = [*rankings[:3], Ranking("red clip", rankings[0].videos[:2], [1, 0])]
    learner = RankingPretraining(model, mixed, latents=latents)
    trainer = RewardTrainer(model, config(tmp_path), mixed, latents=latents)
    batch = trainer.data_collator([trainer.train_rankings[row] for row in range(4)])
    expected, _ = trainer.ranking_model(**batch)
    _, loss = learner.scores_and_loss(torch.arange(4))
    torch.testing.assert_close(loss, expected)


def test_replayed_rankings_add_their_weighted_loss_and_the_same_ones_at_the_same_step(
    tmp_path, colour_rankings
):
    rankings, latents = colour_rankings
    model = whole(dropout=0.0)
    torch.nn.init.normal_(model.head.mlp[-1].weight)
    learner = RankingPretraining(model, rankings[8:], latents=latents)
    arguments = config(tmp_path, replay_weight=0.5, replay_batch_size=4)
    trainer = RewardTrainer(model, arguments, rankings[:8], latents=latents, replay=learner)
    batch = trainer.data_collator([trainer.train_rankings[row] for row in range(4)])
    trainer.ranking_model.train()
    alone, _ = trainer.ranking_model(**batch)
    rows = torch.randint(
        len(learner), (4,), generator=torch.Generator().manual_seed(arguments.seed * 1_000_003)
    )
    expected = alone + 0.5 * learner.scores_and_loss(rows)[1]
    for _ in range(2):
        torch.testing.assert_close(trainer.compute_loss(trainer.ranking_model, batch), expected)
    trainer.ranking_model.eval()
    torch.testing.assert_close(trainer.compute_loss(trainer.ranking_model, batch), alone)


@pytest.mark.parametrize("wrong", [{"replay_weight": -1.0}, {"replay_batch_size": 0}])
def test_replay_without_sense_is_an_input_error(tmp_path, wrong):
    with pytest.raises(InputError, match="a weight of at least 0 and at least 1 ranking are needed"):
        config(tmp_path, **wrong)


def test_a_time_limit_ends_the_pretraining(colour_rankings):
    rankings, latents = colour_rankings
    learner = RankingPretraining(whole(), rankings[:4], latents=latents)
    assert learner.train(10**6, 2, 1e-3, 1e-3, max_seconds=0.2, progress=False)["seconds"] < 5


def test_a_whole_trunk_is_trained_after_pretraining_and_loaded_as_saved(tmp_path, colour_rankings):
    rankings, latents = colour_rankings
    arguments = config(
        tmp_path, full_trunk=True, num_blocks=2, num_train_epochs=2, pretraining_steps=40,
        pretraining_batch_size=16, pretraining_learning_rate=5e-3, replay_weight=1.0, replay_batch_size=4,
    )  # fmt: skip
    bare = ColourGenerator()
    model, metrics = train_reward_model(
        ColourGenerator(), rankings[24:], arguments, latents=latents, pretraining=rankings[:24]
    )
    assert metrics["overall"]["held_out"]["accuracy"]["mean"] >= 0.9
    name, value = next(iter(model.trunk_weights.items()))
    assert (value != dict(bare.transformer.named_parameters())[name.replace("/", ".")]).any()
    videos = torch.stack([coloured_video("red", 1), coloured_video("blue", 2)])
    loaded = load_reward(tmp_path, generator=ColourGenerator())
    torch.testing.assert_close(loaded.score(videos, ["red clip"] * 2), model.score(videos, ["red clip"] * 2))


def test_a_reward_model_learns_on_from_its_weights(tmp_path, colour_rankings):
    rankings, latents = colour_rankings
    first = config(
        tmp_path / "first", full_trunk=True, num_blocks=2, num_train_epochs=3, learning_rate=5e-3, lora_rank=0
    )
    before, _ = train_reward_model(ColourGenerator(), rankings[:24], first, latents=latents)
    # A learning rate of nothing keeps the weights: what comes out is what went in, however the settings differ.
    second = config(tmp_path / "second", num_blocks=1, hidden_size=8, learning_rate=0.0, num_train_epochs=1)
    after, _ = train_reward_model(
        ColourGenerator(), rankings[24:], second, latents=latents, weights_from=tmp_path / "first"
    )
    assert after.config.full_trunk
    # What a user set stays as it is.
    assert (second.full_trunk, second.num_blocks, second.eval_on_start) == (False, 1, False)
    assert after.config.num_blocks == 2
    normalisation = {"score_mean", "score_std"}
    for name, value in before.state_dict().items():
        if name not in normalisation:
            torch.testing.assert_close(after.state_dict()[name], value)
    training = json.loads((tmp_path / "second" / "training.json").read_text())
    assert training["weights_from"] == str(tmp_path / "first")
    third = config(tmp_path / "third", num_train_epochs=2, learning_rate=1e-3, select_best=False)
    learned, _ = train_reward_model(
        ColourGenerator(), rankings[24:], third, latents=latents, weights_from=tmp_path / "first"
    )
    assert any(
        not torch.equal(value, before.state_dict()[name])
        for name, value in learned.state_dict().items()
        if name not in normalisation
    )
    for wrong, said in (
        ({"ensemble": 2}, "only single latent models learn on"),
        ({"loss_type": "gaussian_bradley_terry"}, "has no variances"),
    ):
        with pytest.raises(InputError, match=said):
            train_reward_model(
                ColourGenerator(), rankings, config(tmp_path / "wrong", **wrong), latents=latents,
                weights_from=tmp_path / "first",
            )  # fmt: skip
    visual = [replace(ranking, dimension="visual") for ranking in rankings]
    with pytest.raises(InputError, match="judges overall, but the rankings have only visual"):
        train_reward_model(
            ColourGenerator(), visual, config(tmp_path / "wrong"), latents=latents, weights_from=tmp_path / "first"
        )  # fmt: skip


def test_later_blocks_are_not_trained_and_the_trunk_has_its_own_learning_rate(tmp_path, colour_rankings):
    rankings, latents = colour_rankings
    model = whole()
    assert any(name.startswith("transformer_blocks/1/") for name in model.trunk_weights)
    assert not any(name.startswith(("transformer_blocks/2/", "out/")) for name in model.trunk_weights)
    arguments = config(tmp_path, full_trunk=True, num_blocks=2, learning_rate=1e-3, trunk_learning_rate=2e-5)
    trainer = RewardTrainer(model, arguments, rankings[:4], latents=latents)
    trunk = {id(parameter) for parameter in model.trunk_parameters()}
    rates = {group["lr"]: group["params"] for group in trainer.create_optimizer().param_groups}
    assert set(rates) == {1e-3, 2e-5}
    assert {id(parameter) for parameter in rates[2e-5]} <= trunk
    assert not {id(parameter) for parameter in rates[1e-3]} & trunk


def test_weights_have_one_fingerprint_in_float32_and_in_bfloat16():
    stored = torch.nn.Linear(7, 5).half()
    on_cpu, on_gpu = torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)
    on_cpu.load_state_dict(stored.state_dict())
    on_gpu.load_state_dict(stored.state_dict())
    assert fingerprint(on_cpu) == fingerprint(on_gpu.bfloat16())
    on_cpu.weight.data[0, 0] += 1
    assert fingerprint(on_cpu) != fingerprint(on_gpu)


def test_pair_accuracy_leaves_ties_and_missing_videos_out():
    scores = torch.tensor([[3.0, 2.0, 1.0, 9.0]])
    assert pair_accuracy(scores, torch.tensor([[0, 1, 1, -1]])).item() == 1.0
    assert pair_accuracy(scores, torch.tensor([[1, 1, 0, -1]])).item() == 0.0
    assert pair_accuracy(scores, torch.tensor([[1, 0, 2, -1]])).item() == pytest.approx(2 / 3)


def test_mistakes_are_named(tmp_path, colour_rankings):
    _rankings, latents = colour_rankings
    with pytest.raises(InputError, match="either whole or by a LoRA"):
        LatentRewardConfig("colours", full_trunk=True, lora_rank=2)
    with pytest.raises(InputError, match="Implicit evidence needs"):
        LatentRewardConfig("colours", full_trunk=True, implicit_evidence=True)
    with pytest.raises(InputError, match="--full_trunk or --ensemble off"):
        config(tmp_path, full_trunk=True, ensemble=2)
    tied = Ranking("red clip", [Path("a.mp4"), Path("b.mp4")], [0, 0])
    with pytest.raises(InputError, match="None of the 1 rankings of the pretraining has an order"):
        RankingPretraining(whole(), [tied], latents=latents)
