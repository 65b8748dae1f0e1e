"""Guidance distillation: SFT with `distill_guidance`."""

import json

import pytest
import torch

from alignment import cli
from alignment.trainers.noise_levels import NoiseLevels
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import (
    GuidedTeacher,
    SFTTrainer,
    demonstration_error,
    packed_demonstration_error,
)
from generator import flow, load_generator
from generator.adapters.adapters import load_adapters
from generator.data.demonstrations import write_demonstrations
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline


@pytest.mark.parametrize("shown", [False, True], ids=["the model's own", "the demonstrations'"])
def test_the_loss_is_the_distance_to_the_guided_velocity_of_the_frozen_model(
    generator, latents, prompts, quiet, monkeypatch, shown
):
    config = SFTConfig(
        caption_dropout=0.0, max_steps=2, per_device_train_batch_size=3, learning_rate=0.1, distill_guidance=4.0,
        distill_demonstrations=shown, distill_negative_prompt="blurred", **quiet,
    )  # fmt: skip
    frozen = {name: value.clone() for name, value in generator.transformer.state_dict().items()}
    trainer = SFTTrainer(generator, config, latents, prompts)
    trainer.train()  # so that the policy is no longer the reference
    batch = next(iter(trainer.get_train_dataloader()))
    calls = []
    velocity = generator.velocity

    def spy(x, sigma, conditions, transformer=None):
        found = velocity(x, sigma, conditions, transformer)
        calls.append((x, sigma, conditions["text"], found))
        return found

    monkeypatch.setattr(generator, "velocity", spy)
    loss = trainer.compute_loss(trainer.model, batch)
    x, sigma, text, policy = calls[0]
    assert len(calls) == 3

    # The frozen model anew, in a network that never had an adapter.
    other = type(generator)()
    other.transformer.load_state_dict(frozen)
    blurred = other.encode_prompts(["blurred"])["text"].expand_as(text)
    v_c, v_u = other.velocity(x, sigma, {"text": text}), other.velocity(x, sigma, {"text": blurred})
    x0 = batch["latents"][:, 0]
    noise = (x - (1 - flow.expand(sigma, x)) * x0) / flow.expand(sigma, x)
    target = (noise - x0) + 3.0 * (v_c - v_u) if shown else -3.0 * v_u + 4.0 * v_c
    assert loss.item() == pytest.approx((policy - target).pow(2).mean().item(), rel=1e-4)
    assert not torch.allclose(policy, v_c, atol=1e-4)


def test_packed_rows_are_distilled_as_single_videos_are():
    generator = tiny_generator()
    model = generator.transformer
    prompts = ["a red ball", "a blue cube rolls"]
    conditions, negatives = generator.encode_prompts(prompts), generator.encode_prompts(["", ""])
    shape = generator.latent_shape(9, 32, 32)
    clips = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    levels = NoiseLevels(2.0)
    for shown in (False, True):
        teacher = GuidedTeacher(model, negatives, 3.0, shown)
        with torch.no_grad():
            single = demonstration_error(
                generator, model, torch.stack(clips), conditions, [5, 6], levels, teacher
            )
            packed = packed_demonstration_error(
                generator, model, clips, conditions, [5, 6], levels, teacher=teacher
            )
        assert torch.allclose(single, packed, rtol=1e-3)


def test_an_adapter_with_distilled_guidance_asks_for_none_and_so_do_those_trained_on_it(tmp_path):
    pipeline = tmp_path / "model"
    save_tiny_pipeline("wan", pipeline)
    assert load_generator(pipeline).defaults.guidance_scale == 5.0
    videos = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    write_demonstrations(tmp_path / "videos", videos, ["a ball", "a cube"], 8.0)
    common = [
        *("--model", str(pipeline), "--dataset", str(tmp_path / "videos"), "--max_steps", "1"),
        *("--num_frames", "5", "--height", "16", "--width", "16", "--report_to", "none"),
    ]
    first, second = tmp_path / "distilled", tmp_path / "further"
    assert cli.main(["sft", *common, "--distill_guidance", "5", "--output_dir", str(first)]) == 0
    assert cli.main(["sft", *common, "--adapter", str(first), "--output_dir", str(second)]) == 0
    for folder in (first, second):
        assert json.loads((folder / "training.json").read_text())["generation_defaults"] == {
            "guidance_scale": 1.0
        }
        assert load_generator(pipeline, adapter=folder).defaults.guidance_scale == 1.0
    assert load_generator(pipeline).defaults.guidance_scale == 5.0


def test_the_built_in_adapter_follows_prompts_better_without_guidance():
    from generator.world import sample_prompts, verify_batch

    prompts = sample_prompts(16, 77, "test")
    means = {}
    for adapter in (None, "nano-distilled"):
        generator = load_generator("nano", adapter=adapter)
        videos = generator.generate(
            prompts, num_frames=9, height=32, width=32, num_inference_steps=6, seed=list(range(16)),
            batch_size=16, guidance_scale=1.0,
        )  # fmt: skip
        judged = verify_batch(videos, prompts, fps=8.0)
        means[adapter] = sum(each.score for each in judged) / len(judged)
    assert means["nano-distilled"] > means[None] + 0.08


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"distill_guidance": 0.0}, "distill_guidance is 0.0, but must be above 0"),
        ({"distill_negative_prompt": "blurred"}, "pass --distill_guidance too"),
        ({"distill_demonstrations": True}, "pass --distill_guidance too"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, said, quiet):
    with pytest.raises(InputError, match=said):
        SFTConfig(**quiet, **settings)


def test_all_weights_cannot_be_distilled(generator, latents, prompts, quiet):
    from alignment.lora import LoraArguments

    with pytest.raises(InputError, match="set use_peft to true"):
        SFTTrainer(
            generator, SFTConfig(distill_guidance=3.0, **quiet), latents, prompts,
            lora=LoraArguments(use_peft=False),
        )  # fmt: skip


def test_an_adapter_of_another_model_changes_no_defaults(tmp_path):
    generator = load_generator(save_tiny_pipeline("wan", tmp_path / "model"))
    with pytest.raises(InputError, match="was trained for nano"):
        load_adapters(generator, "nano-distilled")
    assert generator.defaults.guidance_scale == 5.0
