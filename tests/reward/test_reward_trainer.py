import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generator.output import InputError
from reward import load_reward
from reward.preferences import Ranking
from reward.reward_config import RewardConfig
from reward.reward_trainer import RewardTrainer, build_reward_model, split_rankings, train_reward_model
from tests.reward.conftest import ColourGenerator, coloured_video

Data = tuple[list[Ranking], dict[Path, Tensor]]


def config(folder: Path, **changes: object) -> RewardConfig:
    arguments = {
        "output_dir": str(folder),
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "num_train_epochs": 25,
        "learning_rate": 3e-3,
        "held_out_fraction": 0.25,
        "validation_fraction": 0.15,
        "sigmas": [0.05],
        "hidden_size": 32,
        **changes,
    }
    return RewardConfig(**arguments)


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
    generator.net.transformer_blocks[0].register_forward_hook(lambda m, a, o: trunk_calls.append(len(o[0])))
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
    reversed_order = [Ranking(r.prompt, r.videos, [1 - rank for rank in r.ranks], "visual") for r in rankings]
    model, metrics = train_reward_model(
        ColourGenerator(), [*rankings, *reversed_order], config(tmp_path), latents=latents
    )
    assert model.dimensions == ("overall", "visual")
    assert metrics["overall"]["held_out"]["accuracy"]["mean"] > 0.8
    assert metrics["visual"]["held_out"]["accuracy"]["mean"] > 0.8


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
