"""One scale of guidance, or one for each of two transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.cli import main
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.trainers.ppo_config import PPOConfig
from generator.adapters.adapters import DEFAULTS_KEY, LoraAdapter, take_defaults
from generator.guidance import guidance_scales
from generator.inputs.conditions import select
from generator.loading import load_generator
from generator.output import InputError
from generator.sampling import guided_velocity
from generator.testing import tiny_generator
from generator.testing.pipelines import build_tiny_pipeline, save_tiny_pipeline
from generator.testing.stock import PROMPTS, noise_for, ours, stock_call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline("wan2.2-a14b", tmp_path_factory.mktemp("a14b") / "model")


def test_two_scales_sample_what_the_stock_pipeline_samples(folder: Path) -> None:
    generator: Any = load_generator(folder, device="cpu")
    pipeline = build_tiny_pipeline("wan2.2-a14b")
    found = ours(generator, 4.0, guidance_scale_2=2.0)
    stock = stock_call("wan2.2-a14b", pipeline, generator, 4.0, guidance_scale_2=2.0).float()
    torch.testing.assert_close(found, stock, atol=5e-4, rtol=5e-4)
    assert (found - ours(generator, 4.0)).abs().max() > 3e-3
    levels = generator.sigma_schedule(4)[:-1]
    assert (levels >= generator.boundary).any()
    assert (levels < generator.boundary).any()


@pytest.mark.parametrize("scales", [(4.0, 2.0), (1.0, 3.0), (3.0, 1.0)])
def test_each_row_has_the_scale_of_its_noise_level(scales: tuple[float, float], folder: Path) -> None:
    generator = load_generator(folder, device="cpu")
    latents, sigma = noise_for(generator), torch.tensor([0.95, 0.5])
    conditions, negative = generator.encode_prompts(PROMPTS), generator.encode_prompts([""])
    both = guided_velocity(generator, conditions, negative, scales[0], guidance_scale_2=scales[1])(
        latents, sigma
    )
    for row, scale in enumerate(scales):
        one = guided_velocity(generator, conditions, negative, scale)(latents, sigma)
        torch.testing.assert_close(both[row], one[row], atol=1e-5, rtol=1e-5)


def test_rollouts_and_log_probabilities_have_both_scales(folder: Path) -> None:
    generator = load_generator(folder, device="cpu")
    settings = PPOConfig(
        output_dir="unused", use_cpu=True, bf16=False, report_to="none", guidance_scale_2=2.0
    )
    plan = SamplingPlan.for_training(generator, settings, PROMPTS, None, 2, select)
    assert (plan.guidance_scale, plan.guidance_scale_2, plan.guidance) == (4.0, 2.0, "4 and 2")
    assert plan.guidance_settings() == {"guidance_scale": 4.0, "guidance_scale_2": 2.0}
    once = SamplingPlan.for_prompts(generator, PROMPTS, guidance_scale=4.0, guidance_scale_2=2.0)
    latents, sigma = noise_for(generator), torch.tensor([0.95, 0.5])
    conditions, negative = generator.encode_prompts(PROMPTS), generator.encode_prompts([""])
    expected = guided_velocity(generator, conditions, negative, 4.0, guidance_scale_2=2.0)(latents, sigma)
    for each in (plan, once):
        noted: list[torch.Tensor] = []
        found = each.velocity(torch.arange(2), None, noted=noted.append)(latents, sigma)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        apart = each.unconditional_velocity(torch.arange(2), generator.transformer)(latents, sigma)
        torch.testing.assert_close(noted[0], apart, atol=1e-5, rtol=1e-5)
        found = each.velocity(torch.arange(2), None, apart)(latents, sigma)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_scales_that_are_not_given_are_the_models_own(folder: Path) -> None:
    generator = load_generator(folder, device="cpu")
    assert guidance_scales(generator) == (4.0, 3.0)
    assert guidance_scales(generator, 5.0) == (5.0, 5.0)
    assert guidance_scales(generator, None, 2.0) == (4.0, 2.0)
    assert guidance_scales(generator, 5.0, 1.0) == (5.0, 1.0)
    one = tiny_generator()
    assert guidance_scales(one, 2.0) == (2.0, 2.0)
    assert SamplingPlan.for_prompts(one, PROMPTS).guidance_settings().keys() == {"guidance_scale"}
    with pytest.raises(InputError, match="has one transformer for all noise levels"):
        guidance_scales(one, 2.0, 3.0)


def test_a_scale_that_a_folder_or_an_adapter_asks_for_alone_is_that_of_both(tmp_path: Path) -> None:
    folder = save_tiny_pipeline("wan2.2-a14b", tmp_path / "model")
    defaults = load_generator(folder, device="cpu").defaults
    assert (defaults.guidance_scale, defaults.guidance_scale_2) == (4.0, 3.0)
    (folder / "generation_defaults.json").write_text('{"guidance_scale": 1.0, "shift": 5.0}')
    assert guidance_scales(load_generator(folder, device="cpu")) == (1.0, 1.0)
    adapter = LoraAdapter({}, {DEFAULTS_KEY: {"guidance_scale": 2.0, "shift": 4.0}})
    generator = load_generator(folder, device="cpu", flow_shift=7.0)
    take_defaults(generator, adapter)
    assert guidance_scales(generator) == (2.0, 2.0)
    adapter.training[DEFAULTS_KEY] |= {"guidance_scale_2": 3.0}
    take_defaults(generator, adapter)
    assert guidance_scales(generator) == (2.0, 3.0)


def test_commands_take_a_second_scale_and_refuse_it_for_one_transformer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    words = ["--prompts", str(prompts), "--num_inference_steps", "2", "--guidance_scale_2", "2"]
    out = tmp_path / "videos"
    assert main(["generate", "--model", str(folder), *words, "--output_dir", str(out)]) == 0
    stored = json.loads((out / "generation.json").read_text())
    assert (stored["guidance_scale"], stored["guidance_scale_2"]) == (4.0, 2.0)
    assert main(["generate", "--model", str(folder), *words, "--output_dir", str(out)]) == 0
    for command in ("generate", "evaluate"):
        assert main([command, "--model", "nano", *words, "--output_dir", str(tmp_path / "none")]) == 2
        assert "guidance_scale_2 is 2, but" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "none").exists()
