"""AnimateDiff: noise that is predicted, motion modules that are trained, files of Stable Diffusion's users."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter
from safetensors.torch import save_file

from alignment.cli import main
from alignment.lora import LoraArguments, add_lora
from alignment.trainers.noise_levels import NoiseLevels
from generator import flow
from generator.adapters.adapters import load_adapters, read_adapter
from generator.adapters.export import layer_names
from generator.families.animatediff import AnimateDiffGenerator, velocity_from_noise
from generator.families.variance_preserving import sigma_of
from generator.hardware.compute import video_work
from generator.loading import load_generator
from generator.output import InputError
from generator.testing.pipelines import build_tiny_pipeline
from generator.testing.stock import noise_for, ours, stock_call
from generator.video import write_video
from generator.weight_files.release_names import flat


@pytest.fixture
def family() -> str:
    return "animatediff"


def random_pairs(unet: Any, layers: list[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    random = torch.Generator().manual_seed(3)
    modules = dict(unet.named_modules())
    return {
        name: (
            torch.randn(2, *modules[name].weight.shape[1:], generator=random),
            torch.randn(
                modules[name].weight.shape[0], 2, *[1] * (modules[name].weight.ndim - 2), generator=random
            ),
        )
        for name in layers
    }


def test_predicted_noise_is_a_velocity_by_way_of_the_schedulers_own_clean_sample() -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    z, noise = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).unbind()
    scheduler.set_timesteps(1000)
    for timestep in (1, 250, 999):
        product = scheduler.alphas_cumprod[timestep].double()
        signal, level = product.sqrt(), (1 - product).sqrt()
        clean = scheduler.step(noise, timestep, z).pred_original_sample
        sigma = sigma_of(scheduler.alphas_cumprod)[timestep]
        assert float(sigma) == pytest.approx(float(level / (signal + level)), rel=1e-6)
        found = velocity_from_noise(noise[None], z[None] / (signal + level).float(), sigma[None])[0]
        torch.testing.assert_close(found, noise - clean, atol=1e-4, rtol=1e-4)


def test_the_state_that_sampling_begins_with_is_the_pipelines_noise_in_rectified_flow() -> None:
    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(flow.initial_state(noise, 1.0), noise)
    signal, level = 0.28, 0.96
    found = flow.initial_state(noise, level / (signal + level)) * (signal + level)
    torch.testing.assert_close(found, noise)


def test_noise_levels_of_training_are_those_that_the_network_knows(generator: Any) -> None:
    drawn = NoiseLevels(1.0, mean=4.0, sigma_max=generator.sigma_max).draw(list(range(50)))
    assert 0.93 < generator.sigma_max < 0.94
    assert float(drawn.max()) == pytest.approx(generator.sigma_max)
    assert float(drawn.min()) < generator.sigma_max


def test_more_frames_than_the_motion_modules_have_positions_for_are_refused(generator: Any) -> None:
    generator.check_size(32, 16, 16)
    with pytest.raises(InputError, match="33 frames, as its motion modules have positions for 32"):
        generator.check_size(33, 16, 16)


def test_lora_adapts_motion_modules_by_default_and_the_image_model_by_plain_names(
    generator: Any, folder: Path
) -> None:
    matched = add_lora(generator, LoraArguments(lora_r=2), seed=0)
    assert len(matched) == 7 * 8  # motion modules; two attentions of four layers each
    assert all("motion_modules" in name for name in matched)
    plain = LoraArguments(lora_r=2, lora_target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    both = add_lora(load_generator(folder, device="cpu"), plain, seed=0)
    assert set(matched) < set(both)
    assert any(".attentions." in name for name in both)
    everything = load_generator(folder, device="cpu")
    add_lora(everything, LoraArguments(lora_r=2, lora_target_modules=["all-linear"]), seed=0)
    assert torch.isfinite(ours(everything, 1.0)).all()


def test_every_lora_parameter_gets_a_gradient(generator: Any) -> None:
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    trained = {n: p for n, p in generator.transformer.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    noise = noise_for(generator)
    conditions = generator.encode_prompts(["a red circle", "the blue square"])
    generator.velocity(noise, torch.tensor([0.9, 0.4]), conditions).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained.values())


def test_motion_modules_trained_without_lora_are_read_by_stock_diffusers(
    folder: Path, generator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        video = torch.rand(3, 4, 16, 16, generator=torch.Generator().manual_seed(ord(name[0]))) * 2 - 1
        write_video(tmp_path / "videos" / name, video, fps=8.0)
    rows = [{"file_name": name, "prompt": "a red circle"} for name in ("a.mp4", "b.mp4")]
    (tmp_path / "videos" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main([
        "sft", "--model", str(folder), "--dataset", str(tmp_path / "videos"), "--output_dir", str(tmp_path / "sft"),
        "--use_peft", "false", "--max_steps", "1", "--learning_rate", "1e-2", "--report_to", "none",
        "--use_cpu", "true", "--disable_tqdm", "true",
    ])  # fmt: skip

    trained: Any = load_generator(tmp_path / "sft", device="cpu")
    before, after = generator.transformer.state_dict(), trained.transformer.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".motion_modules." in name for name in changed)
    stock = AnimateDiffPipeline.from_pretrained(tmp_path / "sft")
    again = AnimateDiffPipeline.from_pretrained(tmp_path / "sft")
    again.unet.load_motion_modules(build_tiny_pipeline("animatediff", seed=1).motion_adapter)
    again.unet.load_motion_modules(MotionAdapter.from_pretrained(tmp_path / "sft" / "motion_adapter"))
    for pipeline in (stock, again):
        pipeline.set_progress_bar_config(disable=True)
        found = stock_call("animatediff", pipeline, trained, 3.0)
        torch.testing.assert_close(ours(trained, 3.0), found, atol=2e-4, rtol=2e-4)


def test_a_kohya_file_of_stable_diffusion_changes_the_image_model_as_in_stock_diffusers(
    folder: Path, generator: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    block = "down_blocks.0.attentions.0"
    layers = [f"{block}.transformer_blocks.0.attn1.to_q", f"{block}.transformer_blocks.0.attn2.to_out.0",
              f"{block}.transformer_blocks.0.ff.net.0.proj", f"{block}.proj_in"]  # fmt: skip
    tensors = {}
    for name, (down, up) in random_pairs(generator.transformer, layers).items():
        key = f"lora_unet_{flat(name)}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "style.safetensors")
    pipeline = AnimateDiffPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(tmp_path / "style.safetensors")
    before = ours(generator, 3.0)

    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    more = {f"{text}.lora_down.weight": torch.randn(2, 8), f"{text}.lora_up.weight": torch.randn(16, 2)}
    save_file({**tensors, **more}, tmp_path / "style_and_text.safetensors")
    with caplog.at_level(logging.WARNING):
        load_adapters(generator, tmp_path / "style_and_text.safetensors")

    assert "the text encoder" in caplog.text
    changed = ours(generator, 3.0)
    assert (changed - before).abs().max() > 1e-3
    expected = stock_call("animatediff", pipeline, generator, 3.0)
    torch.testing.assert_close(changed, expected, atol=5e-4, rtol=5e-4)


def test_motion_lora_is_read_by_its_authors_names_and_by_those_of_diffusers(
    generator: Any, tmp_path: Path
) -> None:
    stem, block = "down_blocks.0.motion_modules.0", "transformer_blocks.0"
    layers = [f"{stem}.{block}.attn1.to_q", f"{stem}.{block}.attn2.to_out.0"]
    pairs = random_pairs(generator.transformer, layers)
    authors = [f"{stem}.temporal_transformer.{block}.attention_blocks.0.processor.to_q_lora",
               f"{stem}.temporal_transformer.{block}.attention_blocks.1.processor.to_out_lora"]  # fmt: skip
    diffusers = [
        f"unet.{stem}.{block}.attn1.processor.to_q_lora",
        f"unet.{stem}.{block}.attn2.processor.to_out_lora",
    ]
    for names in (authors, diffusers):
        tensors = {}
        for name, (down, up) in zip(names, pairs.values()):
            tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
        save_file(tensors, tmp_path / "pan.safetensors")
        found = read_adapter(tmp_path / "pan.safetensors", generator.transformer)
        assert found.pairs.keys() == pairs.keys()
        for name, (down, up) in pairs.items():
            assert torch.equal(found.pairs[name][0], down)
            assert torch.equal(found.pairs[name][1], up)


def test_the_names_of_comfyui_are_refused_with_the_formats_that_there_are(generator: Any) -> None:
    with pytest.raises(InputError, match="--format kohya, or diffusers"):
        layer_names(generator.transformer, "comfyui")


@pytest.mark.parametrize("changes", [{"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}])
def test_a_scheduler_of_another_prediction_is_refused(changes: dict[str, Any]) -> None:
    pipeline = build_tiny_pipeline("animatediff")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **changes)
    with pytest.raises(InputError, match="AnimateDiff predicts noise"):
        AnimateDiffGenerator(pipeline, "tiny")


def test_an_image_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match="--motion_adapter FOLDER"):
        load_generator(tmp_path, device="cpu")


def test_weights_of_a_file_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="whose unet is read from its folder alone"):
        load_generator(folder, device="cpu", transformer="other.safetensors")


def test_work_of_a_video_counts_fewer_places_in_the_middle_of_the_unet(generator: Any) -> None:
    blocks, shares = generator.blocks(), [1, 1 / 4, 1 / 4, 1 / 4, 1]
    weights = [sum(p.numel() for p in block.parameters()) for block in blocks]
    places = 4 * 2 * 2
    expected = places * sum(share * count for share, count in zip(shares, weights, strict=True)) / len(blocks)
    assert video_work(generator, (4, 4, 2, 2)) == pytest.approx(expected)
