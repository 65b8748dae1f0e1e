"""Direct preference optimisation."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from generator.output import InputError


def make(generator, latents, prompts, quiet, **arguments):
    config = DPOConfig(
        **{"max_steps": 30, "per_device_train_batch_size": 6, "learning_rate": 1e-2} | arguments, **quiet
    )
    return DPOTrainer.from_pairs(
        generator, config, latents, latents[::-1], prompts, latents[:2], latents[2:4], prompts[:2]
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_training_raises_margin_and_accuracy(generator, latents, prompts, quiet, loss_type):
    chosen = [value + 1 for value in latents]
    config = DPOConfig(
        max_steps=40,
        per_device_train_batch_size=6,
        learning_rate=1e-2,
        loss_type=loss_type,
        beta=50.0,
        **quiet,
    )
    trainer = DPOTrainer.from_pairs(generator, config, chosen, latents, prompts)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert history[0]["rewards/margins"] == 0
    last = [entry["rewards/margins"] for entry in history[-10:]]
    if loss_type == "ipo":  # pulls the margin to one half and no further
        assert 0.2 < sum(last) / 10 < 0.8
    else:
        assert min(last) > 1
        assert history[-1]["rewards/accuracies"] == 1


def test_the_first_loss_is_log_two_and_both_sides_share_noise(
    generator, latents, prompts, quiet, monkeypatch
):
    trainer = make(generator, latents, prompts, quiet, max_steps=1)
    calls = []
    velocity = generator.velocity

    def spy(x, sigma, conditions, transformer=None):
        calls.append((x, sigma))
        return velocity(x, sigma, conditions, transformer)

    monkeypatch.setattr(generator, "velocity", spy)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(math.log(2))
    assert len(calls) == 2
    x, sigma = calls[1]
    assert torch.equal(sigma[::2], sigma[1::2])
    x0 = batch["latents"].flatten(0, 1)
    scaled_noise = x - (1 - sigma)[:, None, None, None, None] * x0
    assert torch.allclose(scaled_noise[::2], scaled_noise[1::2], atol=1e-5)


def test_the_sft_term_adds_the_chosen_loss(make_generator, latents, prompts, quiet):
    losses = []
    for weight in (0.0, 0.5):
        trainer = make(make_generator(), latents, prompts, quiet, max_steps=1, sft_weight=weight)
        trainer.train()
        losses.append(next(entry for entry in trainer.state.log_history if "loss" in entry))
    assert losses[1]["loss"] - losses[0]["loss"] == pytest.approx(0.5 * losses[0]["loss/chosen"], rel=1e-4)


def test_held_out_pairs_are_measured_apart(generator, latents, prompts, quiet):
    trainer = make(generator, latents, prompts, quiet, max_steps=2)
    trainer.train()
    trainer.evaluate()
    last = trainer.state.log_history[-1]
    assert {"eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"} <= set(last)
    assert "rewards/margins" not in last


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 0.0),
        ("beta", float("nan")),
        ("label_smoothing", 0.6),
        ("tie_theta", 1.0),
        ("num_noise_draws", 0),
        ("sft_weight", -1.0),
        ("shift", 0.0),
        ("logit_std", -1.0),
        ("uniform_share", 2.0),
        ("gradient_accumulation_steps", 0),
    ],
)
def test_impossible_settings_are_refused(quiet, name, value):
    with pytest.raises(InputError, match=f"{name} is {value}"):
        DPOConfig(**{name: value}, **quiet)


@pytest.mark.parametrize("config", [DPOConfig, OnlineDPOConfig])
def test_label_smoothing_is_refused_where_the_loss_has_none(quiet, config):
    with pytest.raises(
        InputError, match=r"label_smoothing is 0\.1, but must be 0 with loss_type plackett_luce"
    ):
        config(loss_type="plackett_luce", label_smoothing=0.1, **quiet)


def brightness_rankings(latents, tied=False):
    """Three or four videos of each prompt: the brighter, the better; the last two are tied where asked."""
    videos, ranks = [], []
    for index, latent in enumerate(latents):
        size = 3 + index % 2
        videos.append([latent + level for level in range(size)])
        order = list(range(size))[::-1]
        videos[-1] = videos[-1] if not tied else [*videos[-1][:-1], videos[-1][-2] + 0.01]
        ranks.append(order if not tied else [*[rank + 1 for rank in order[:-2]], 0, 0])
    return videos, ranks


@pytest.mark.parametrize("loss_type", ["plackett_luce", "rao_kupper", "sigmoid"])
@pytest.mark.parametrize("tied", [False, True])
def test_rankings_of_different_length_are_learnt_from_as_a_whole(
    generator, latents, prompts, quiet, loss_type, tied
):
    config = DPOConfig(max_steps=40, per_device_train_batch_size=3, learning_rate=1e-2, loss_type=loss_type,
                       beta=50.0, **quiet)  # fmt: skip
    trainer = DPOTrainer(generator, config, *brightness_rankings(latents, tied), prompts)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert history[0]["rewards/margins"] == history[0]["kl"] == 0
    assert min(entry["rewards/accuracies"] for entry in history[-5:]) > 0.8
    assert min(entry["rewards/margins"] for entry in history[-5:]) > 0.3
    assert history[-1]["kl"] > 0


def test_a_precomputed_reference_gives_the_training_of_a_computed_one(
    make_generator, latents, prompts, quiet
):
    """Of a run that draws from the same fixed noise but runs the reference each time."""
    results = []
    for computed in (False, True):
        generator = make_generator()
        trainer = make(generator, latents, prompts, quiet, max_steps=6, precompute_ref_log_probs=True,
                       num_noise_draws=2, per_device_train_batch_size=4)  # fmt: skip
        passes = []
        if computed:
            table = trainer._precompute()
            trainer._reference_errors = table
            fixed = trainer._seeds
            trainer._seeds = lambda keys, fixed=fixed: (fixed(keys)[0], None)
        velocity = generator.velocity
        generator.velocity = lambda *a, v=velocity, p=passes: p.append(len(a[0])) or v(*a)
        trainer.train()
        results.append({n: p.detach() for n, p in trainer.policy.named_parameters() if p.requires_grad})
        if not computed:
            # A batch of four and one of two pairs with 2 draws each; then one pass a step.
            assert passes == [8, 8, 4, 4] + [8, 4] * 3
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-5) for name in results[0])
    assert any(value.abs().max() > 1e-3 for name, value in results[0].items() if "lora_B" in name)


def test_a_precomputed_run_resumes_bit_for_bit(make_generator, latents, prompts, quiet, tmp_path):
    quiet |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    arguments = {"max_steps": 4, "precompute_ref_log_probs": True, "loss_type": "ipo"}
    whole = make(make_generator(), latents, prompts, quiet, **arguments)
    whole.train()
    resumed = make(
        make_generator(), latents, prompts, quiet | {"output_dir": str(tmp_path / "b")}, **arguments
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    found = dict(resumed.policy.named_parameters())
    assert all(torch.equal(p, found[name]) for name, p in whole.policy.named_parameters())


@pytest.mark.parametrize("own", [1.0, 5.0])
def test_a_model_that_is_sampled_with_guidance_is_to_be_measured_with_it(
    generator, latents, prompts, quiet, caplog, own
):
    generator.defaults = replace(generator.defaults, guidance_scale=own)
    with caplog.at_level(logging.WARNING):
        make(generator, latents, prompts, quiet)
    assert ("DPO learns without guidance, but" in caplog.text) == (own > 1)
    assert ("--guidance_scale 1, or --guidance_scale 5" in caplog.text) == (own > 1)
