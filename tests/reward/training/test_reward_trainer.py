import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from generator.output import InputError
from generator.testing.stand_ins import ColourGenerator, coloured_video
from reward import load_reward
from reward.preferences import Ranking, split_rankings
from reward.tags import weighted_by_tags
from reward.training.reward_trainer import KeepBest, RewardTrainer
from reward.training.train import build_reward_model, train_reward_model
from tests.reward.training.settings import config

Data = tuple[list[Ranking], dict[Path, Tensor]]


@pytest.mark.parametrize("loss_type", ["plackett_luce", "bradley_terry", "rao_kupper", "davidson"])
def test_every_loss_learns_on_held_out_prompts(tmp_path, colour_rankings: Data, loss_type):
    rankings, latents = colour_rankings
    _, metrics = train_reward_model(
        ColourGenerator(), rankings, config(tmp_path, loss_type=loss_type), latents=latents
    )
    held_out = metrics["overall"]["held_out"]
    assert held_out["accuracy"]["mean"] >= 0.85
    assert held_out["tie_rate"] == pytest.approx(1 / 3)
    assert held_out["majority_baseline"] < held_out["accuracy_with_ties"]["mean"]
    assert held_out["prompts"] == 12


def test_the_saved_model_scores_as_the_trained_one_and_tells_what_made_it(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    source = tmp_path / "rankings.jsonl"
    source.write_text("{}")
    out = tmp_path / "out"
    model, metrics = train_reward_model(
        ColourGenerator(), rankings, config(out), latents=latents, source=source
    )
    videos = torch.stack([coloured_video("red", 1), coloured_video("blue", 2)])
    prompts = ["red clip", "red clip"]
    loaded = load_reward(out, generator=ColourGenerator())
    torch.testing.assert_close(
        loaded.score(videos, prompts)["overall"], model.score(videos, prompts)["overall"]
    )
    assert loaded.score(videos, prompts)["overall"][0] > loaded.score(videos, prompts)["overall"][1]
    assert json.loads((out / "metrics.json").read_text()) == metrics
    training = json.loads((out / "training.json").read_text())
    assert len(training["preferences"]["sha256"]) == 64
    assert training["arguments"]["loss_type"] == "plackett_luce"
    assert training["split"] == {"train": 29, "validation": 7, "held_out": 12}
    assert "torch" in training["versions"]


def test_scores_are_normalised_over_the_training_videos(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    model = build_reward_model(ColourGenerator(), config(tmp_path, num_train_epochs=3), rankings)
    trainer = RewardTrainer(model, config(tmp_path, num_train_epochs=3), rankings, latents=latents)
    trainer.train()
    trainer.finish()
    scores = model.normalise(trainer.raw_scores(torch.arange(len(latents))))
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_each_video_is_encoded_once(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    generator = ColourGenerator()
    trunk_calls = []
    generator.network.transformer_blocks[0].register_forward_hook(
        lambda m, a, o: trunk_calls.append(len(o[0]))
    )
    twice = [*rankings, *rankings]
    train_reward_model(generator, twice, config(tmp_path, num_train_epochs=4), latents=latents)
    assert sum(trunk_calls) == len(latents) + 1


def test_a_lora_on_the_trunk_is_trained_saved_and_loaded(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    arguments = config(
        tmp_path, lora_rank=2, num_train_epochs=4, warmup_steps=0, implicit_evidence=True, select_best=False
    )
    model, _ = train_reward_model(ColourGenerator(), rankings[:12], arguments, latents=latents)
    changed = [value for name, value in model.trunk_lora.items() if "lora_B" in name]
    assert changed
    assert all(value.abs().sum() > 0 for value in changed)
    loaded = load_reward(tmp_path, generator=ColourGenerator())
    videos, prompts = coloured_video("red", 1)[None], ["red clip"]
    torch.testing.assert_close(loaded.score(videos, prompts), model.score(videos, prompts))


def test_two_dimensions_are_learned_from_rankings_of_each(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    # What looks good must not depend on the prompt: here it is red in the video.
    redness = [
        Ranking(r.prompt, r.videos, [int(latents[video][0].mean() < 0) for video in r.videos], "visual")
        for r in rankings
    ]
    model, metrics = train_reward_model(
        ColourGenerator(), [*rankings, *redness], config(tmp_path), latents=latents
    )
    assert model.dimensions == ("overall", "visual")
    assert metrics["overall"]["held_out"]["accuracy"]["mean"] > 0.8
    assert metrics["visual"]["held_out"]["accuracy"]["mean"] > 0.8


def test_pairs_of_weight_0_teach_nothing(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    train, _, held_out = split_rankings(rankings, 0.25, 0.0, 0)
    clean = [replace(each, tags=(frozenset(),) * 3) for each in train]
    # The opposite of each order, by somebody who tagged the videos.
    opposite = [
        replace(each, ranks=[1 - rank for rank in each.ranks], tags=(frozenset({"odd"}),) * 3)
        for each in clean
    ]
    accuracies = []
    for weight in (1.0, 0.0):
        weighted = weighted_by_tags([*clean, *opposite], {"odd": weight})
        settings = config(tmp_path, num_train_epochs=15)
        model = build_reward_model(ColourGenerator(), settings, weighted)
        trainer = RewardTrainer(model, settings, weighted, test_dataset=held_out, latents=latents)
        trainer.train()
        accuracies.append(trainer.finish()["overall"]["held_out"]["accuracy"]["mean"])
    assert accuracies[0] < 0.75
    assert accuracies[1] >= 0.85


def test_same_seed_gives_the_same_model(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    weights = []
    for name in ("a", "b"):
        arguments = config(tmp_path / name, num_train_epochs=2)
        model, _ = train_reward_model(ColourGenerator(), rankings, arguments, latents=latents)
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_splits_share_no_prompt(colour_rankings: Data):
    parts = split_rankings(colour_rankings[0], 0.2, 0.1, seed=3)
    prompts = [{ranking.prompt for ranking in part} for part in parts]
    assert [len(part) for part in prompts] == [33, 5, 10]
    assert not prompts[0] & prompts[1]
    assert not prompts[0] & prompts[2]
    assert not prompts[1] & prompts[2]


def test_input_mistakes_are_named(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    with pytest.raises(InputError, match="loss 'hinge' is unknown"):
        config(tmp_path, loss_type="hinge")
    with pytest.raises(InputError, match="no dimension 'motion'"):
        build_reward_model(ColourGenerator(), config(tmp_path, dimensions=["motion"]), rankings)
    with pytest.raises(InputError, match="nearest is 8x8"):
        build_reward_model(ColourGenerator(), config(tmp_path, height=9), rankings)
    tied = [Ranking(r.prompt, r.videos, [1, 1, 1]) for r in rankings]
    with pytest.raises(InputError, match="has an order"):
        train_reward_model(ColourGenerator(), tied, config(tmp_path), latents=latents)


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    common = {"num_train_epochs": 4, "select_best": False, "save_strategy": "epoch"}
    whole, _ = train_reward_model(
        ColourGenerator(), rankings, config(tmp_path / "whole", **common), latents=latents
    )
    checkpoint = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[1]
    arguments = config(tmp_path / "resumed", **common, resume_from_checkpoint=str(checkpoint))
    resumed, _ = train_reward_model(ColourGenerator(), rankings, arguments, latents=latents)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("loss_type", ["gaussian_bradley_terry", "soft_bradley_terry"])
def test_losses_with_uncertainty_and_votes_learn_on_held_out_prompts(
    tmp_path, colour_rankings: Data, loss_type
):
    rankings, latents = colour_rankings
    voted = [
        Ranking(r.prompt, r.videos, r.ranks, votes=[8.0 if rank == 0 else 1.0 for rank in r.ranks])
        for r in rankings
    ]
    model, metrics = train_reward_model(
        ColourGenerator(), voted, config(tmp_path, loss_type=loss_type), latents=latents
    )
    assert metrics["overall"]["held_out"]["accuracy"]["mean"] >= 0.85
    doubt = model.uncertainty(coloured_video("red", 1)[None], ["red clip"])
    assert (doubt["overall"] > 0).all() if loss_type.startswith("gaussian") else not doubt


def test_an_annotator_who_answers_at_random_is_found_and_not_listened_to(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    said = []
    for number, ranking in enumerate(rankings):
        said.append(Ranking(ranking.prompt, ranking.videos, ranking.ranks, annotator="careful"))
        order = torch.randperm(3, generator=torch.Generator().manual_seed(1000 + number)).tolist()
        said.append(Ranking(ranking.prompt, ranking.videos, order, annotator="random"))
    arguments = config(tmp_path, annotator_reliability=True, select_best=False)
    _, metrics = train_reward_model(ColourGenerator(), said, arguments, latents=latents)
    assert metrics["annotators"]["careful"] > 2 * metrics["annotators"]["random"]
    with pytest.raises(InputError, match="0 annotators"):
        train_reward_model(ColourGenerator(), rankings, arguments, latents=latents)


def test_an_ensemble_is_trained_on_one_encoding_and_loaded_as_saved(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    generator = ColourGenerator()
    trunk_calls = []
    generator.network.transformer_blocks[0].register_forward_hook(
        lambda m, a, o: trunk_calls.append(len(o[0]))
    )
    model, metrics = train_reward_model(
        generator, rankings, config(tmp_path, ensemble=3, num_train_epochs=8), latents=latents
    )
    assert sum(trunk_calls) == len(latents) + 3
    assert len(metrics["overall"]["members"]) == 3
    assert metrics["overall"]["held_out"]["accuracy"]["mean"] >= min(metrics["overall"]["members"])
    loaded = load_reward(tmp_path, generator=ColourGenerator())
    videos, prompts = torch.stack([coloured_video("red", 1), coloured_video("blue", 2)]), ["red clip"] * 2
    scores = loaded.score(videos, prompts)["overall"]
    torch.testing.assert_close(scores, model.score(videos, prompts)["overall"])
    each = [load_reward(tmp_path / f"member-{n}", generator=ColourGenerator()) for n in range(3)]
    stacked = torch.stack([member.score(videos, prompts)["overall"] for member in each])
    torch.testing.assert_close(scores, stacked.mean(0))
    torch.testing.assert_close(loaded.uncertainty(videos, prompts)["overall"], stacked.std(0))
    assert stacked.std(0).min() > 0
    loaded.pessimism = 1.0
    torch.testing.assert_close(loaded.score(videos, prompts)["overall"], stacked.mean(0) - stacked.std(0))


def test_a_noise_conditioned_model_orders_noisy_latents_and_others_refuse_them(
    tmp_path, colour_rankings: Data
):
    rankings, latents = colour_rankings
    arguments = config(
        tmp_path,
        noise_conditioned=True,
        noise_levels=[0.3, 0.5, 0.7],
        num_train_epochs=30,
        learning_rate=5e-3,
    )
    model, metrics = train_reward_model(ColourGenerator(), rankings, arguments, latents=latents)
    assert metrics["overall"]["held_out"]["accuracy"]["mean"] >= 0.8
    generator = ColourGenerator()
    conditions = generator.encode_prompts(["red clip"])
    right, wrong = (
        generator.encode(torch.stack([coloured_video(colour, n) for n in range(32)]))
        for colour in ("red", "blue")
    )
    many = {name: value.expand(32, *value.shape[1:]) for name, value in conditions.items()}
    noise = torch.randn(right.shape, generator=torch.Generator().manual_seed(5))
    sigma = torch.full((32,), 0.5)
    won = [
        model.score_noisy_latents(0.5 * clean + 0.5 * noise, sigma, many)["overall"]
        for clean in (right, wrong)
    ]
    assert (won[0] > won[1]).float().mean() > 0.75
    loaded = load_reward(tmp_path, generator=ColourGenerator())
    torch.testing.assert_close(
        loaded.score_noisy_latents(0.5 * right + 0.5 * noise, sigma, many)["overall"], won[0]
    )
    noisy = (0.5 * right + 0.5 * noise).requires_grad_()
    (gradient,) = torch.autograd.grad(model.score_noisy_latents(noisy, sigma, many)["overall"].sum(), noisy)
    assert gradient.abs().sum() > 0
    plain, _ = train_reward_model(
        ColourGenerator(), rankings, config(tmp_path / "plain", num_train_epochs=1), latents=latents
    )
    with pytest.raises(InputError, match="clean latents only"):
        plain.score_noisy_latents(right, sigma, many)


def test_quality_heads_of_the_pooled_model_never_see_the_prompt(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    named = [
        Ranking(r.prompt, r.videos, r.ranks, dimension)
        for r in rankings[:12]
        for dimension in ("visual", "alignment")
    ]
    model, _ = train_reward_model(
        ColourGenerator(), named, config(tmp_path, num_train_epochs=3, select_best=False), latents=latents
    )
    video = coloured_video("red", 3)[None]
    red, blue = model.score(video, ["red clip"]), model.score(video, ["blue clip"])
    torch.testing.assert_close(red["visual"], blue["visual"])
    assert (red["alignment"] - blue["alignment"]).abs().item() > 1e-4


def test_evaluations_of_the_warm_up_are_not_kept_as_the_best():
    model = torch.nn.Linear(1, 1)
    keep = KeepBest(model, patience=0, first_step=10)
    control = SimpleNamespace(should_training_stop=False)
    for step, loss in ((4, 0.1), (12, 0.5), (20, 0.7)):
        model.weight.data.fill_(step)
        keep.on_evaluate(
            None, SimpleNamespace(global_step=step, max_steps=20, epoch=step), control, {"eval_loss": loss}
        )
    keep.on_train_end(None, None, control)
    assert keep.best_epoch == 12
    assert model.weight.item() == 12
    short = KeepBest(model, patience=0, first_step=10)
    short.on_evaluate(None, SimpleNamespace(global_step=3, max_steps=3, epoch=1), control, {"eval_loss": 0.1})
    assert short.best_epoch == 1


def test_what_an_engine_cannot_train_is_refused_in_one_sentence(tmp_path, colour_rankings: Data):
    rankings, latents = colour_rankings
    several = config(tmp_path, ensemble=2)
    several.deepspeed_plugin = SimpleNamespace(zero_stage=2)
    with pytest.raises(InputError, match="one by one"):
        train_reward_model(ColourGenerator(), rankings, several, latents=latents)
    divided = config(tmp_path, full_trunk=True)
    divided.deepspeed_plugin = SimpleNamespace(zero_stage=3)
    with pytest.raises(InputError, match="use ZeRO-2, or a LoRA"):
        train_reward_model(ColourGenerator(), rankings, divided, latents=latents)
