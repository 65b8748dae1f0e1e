"""Supervised fine-tuning."""

import pytest
import torch

from alignment.trainers.noise_levels import NoiseLevels
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer, draw_dropout
from generator import flow


def test_training_lowers_the_held_out_loss_and_its_noise_never_changes(generator, latents, prompts, quiet):
    config = SFTConfig(max_steps=60, per_device_train_batch_size=6, learning_rate=2e-2, **quiet)
    trainer = SFTTrainer(generator, config, latents, prompts, latents, prompts)
    before = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == before
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.9 * before


def test_the_loss_is_the_flow_matching_loss_of_the_drawn_noise(
    generator, latents, prompts, quiet, monkeypatch
):
    config = SFTConfig(caption_dropout=0.0, max_steps=1, per_device_train_batch_size=3, **quiet)
    trainer = SFTTrainer(generator, config, latents, prompts)
    seen = {}
    velocity = generator.velocity

    def spy(x, sigma, conditions, transformer=None):
        seen.update(x=x, sigma=sigma, conditions=conditions["text"])
        return velocity(x, sigma, conditions, transformer)

    monkeypatch.setattr(generator, "velocity", spy)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    x0 = batch["latents"][:, 0]
    sigma = flow.expand(seen["sigma"], x0)
    noise = (seen["x"] - (1 - sigma) * x0) / sigma
    predicted = velocity(seen["x"], seen["sigma"], {"text": seen["conditions"]})
    assert loss.item() == pytest.approx((predicted - (noise - x0)).pow(2).mean().item(), rel=1e-3)
    for row, condition in zip(batch["keys"][:, 0].tolist(), seen["conditions"]):
        assert torch.equal(condition, generator.encode_prompts([prompts[row]])["text"][0])


def test_caption_dropout_uses_the_empty_prompt_and_spares_evaluation(
    generator, latents, prompts, quiet, monkeypatch
):
    config = SFTConfig(caption_dropout=1.0, max_steps=1, per_device_train_batch_size=3, **quiet)
    trainer = SFTTrainer(generator, config, latents, prompts, latents[:2], prompts[:2])
    seen = []
    velocity = generator.velocity

    def spy(x, sigma, conditions, transformer=None):
        seen.append(conditions["text"])
        return velocity(x, sigma, conditions, transformer)

    monkeypatch.setattr(generator, "velocity", spy)
    empty = generator.encode_prompts([""])["text"][0]
    trainer.train()
    assert all(torch.equal(row, empty) for row in seen[0])
    seen.clear()
    trainer.evaluate()
    assert not any(torch.equal(row, empty) for row in seen[0])


def test_shares_and_medians_of_what_examples_draw():
    seeds = list(range(5_000))
    sigma = NoiseLevels(shift=3.0, mean=0.0, std=1.0, uniform_share=0.1).draw(seeds)
    assert sigma.median().item() == pytest.approx(0.75, abs=0.02)
    assert draw_dropout(seeds, 0.1).float().mean().item() == pytest.approx(0.1, abs=0.015)


def test_accumulated_micro_batches_give_the_update_of_one_large_batch(
    make_generator, latents, prompts, quiet
):
    results = []
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        config = SFTConfig(
            max_steps=1, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
            optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", **quiet,
        )  # fmt: skip
        trainer = SFTTrainer(make_generator(), config, latents, prompts)
        trainer.train()
        results.append(
            {n: p.detach().clone() for n, p in trainer.policy.named_parameters() if p.requires_grad}
        )
    for other in results[1:]:
        assert all(torch.allclose(results[0][name], other[name], atol=1e-6) for name in other)
    assert any(value.abs().max() > 1e-3 for name, value in results[0].items() if "lora_B" in name)


def test_videos_of_several_sizes_are_trained_in_one_run(generator, prompts, quiet):
    sizes = [(2, 2, 2), (2, 2, 2), (1, 4, 2), (3, 2, 2), (1, 4, 2), (1, 2, 2)]
    mixed = [torch.randn(4, *size) for size in sizes]
    config = SFTConfig(num_train_epochs=2, per_device_train_batch_size=2, **quiet)
    trainer = SFTTrainer(generator, config, mixed, prompts)
    trainer.train()
    assert trainer.state.global_step == 8
