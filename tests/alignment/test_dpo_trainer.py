"""Direct preference optimisation."""

import math

import pytest
import torch

from alignment.dpo_config import DPOConfig
from alignment.dpo_trainer import DPOTrainer
from generator.output import InputError


def make(generator, latents, prompts, quiet, **arguments):
    config = DPOConfig(
        **{"max_steps": 30, "per_device_train_batch_size": 6, "learning_rate": 1e-2} | arguments, **quiet
    )
    return DPOTrainer(
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
    trainer = DPOTrainer(generator, config, chosen, latents, prompts)
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
    assert torch.equal(sigma[:6], sigma[6:])
    x0 = batch["latents"].transpose(0, 1).flatten(0, 1)
    scaled_noise = x - (1 - sigma)[:, None, None, None, None] * x0
    assert torch.allclose(scaled_noise[:6], scaled_noise[6:], atol=1e-5)


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


@pytest.mark.parametrize(("name", "value"), [("beta", 0.0), ("label_smoothing", 0.6)])
def test_impossible_settings_are_refused(quiet, name, value):
    with pytest.raises(InputError, match=f"{name} is {value}"):
        DPOConfig(**{name: value}, **quiet)
