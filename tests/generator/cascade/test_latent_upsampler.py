"""Latent upsamplers of LTX-Video and LTX-2 against diffusers' own pipelines."""

from fnmatch import fnmatch

import pytest
import torch
from diffusers import LTX2LatentUpsamplePipeline, LTXLatentUpsamplePipeline
from diffusers.pipelines.ltx import LTXLatentUpsamplerModel
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel

from generator import load_generator
from generator.cascade.stage import OWN_SAMPLING
from generator.cascade.upsamplers import find_upsampler, load_upsamplers, upsampled
from generator.output import InputError
from generator.sampling import generate_latents
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline

PROMPTS = ["a red circle moves"]


def save_upsampler(family, folder, channels):
    torch.manual_seed(0)
    if family == "ltx":
        model = LTXLatentUpsamplerModel(channels, 32, 1)
    else:
        model = LTX2LatentUpsamplerModel(channels, 32, 1, use_rational_resampler=False)
    model.save_pretrained(folder / "latent_upsampler")
    return model.eval()


@pytest.mark.parametrize("family", ["ltx", "ltx2"])
def test_the_videos_are_those_of_the_stock_pipeline_on_the_bases_latents(family, tmp_path):
    model = load_generator(save_tiny_pipeline(family, tmp_path / "model"), device="cpu")
    network = save_upsampler(family, tmp_path / "upsampler", model.latent_shape(9, 32, 32)[0])
    stages = load_upsamplers([str(tmp_path / "upsampler")], model, load_generator)
    generate, fps = upsampled(model.generate, model.defaults.fps, stages, OWN_SAMPLING, model)
    made = generate(PROMPTS, seed=[3], num_inference_steps=2)
    assert made.shape == (1, 3, 9, 64, 64)
    assert fps == model.defaults.fps
    latents = generate_latents(model, PROMPTS, seed=[3], num_inference_steps=2)
    kind = LTXLatentUpsamplePipeline if family == "ltx" else LTX2LatentUpsamplePipeline
    pipeline = kind(vae=model.pipeline.vae, latent_upsampler=network)
    pipeline.set_progress_bar_config(disable=True)
    more = {} if family == "ltx" else {"latents_normalized": True}
    side = pipeline.vae_spatial_compression_ratio
    stock = pipeline(
        latents=latents,
        height=side * latents.shape[3],
        width=side * latents.shape[4],
        output_type="pt",
        **more,
    ).frames
    expected = stock.permute(0, 2, 1, 3, 4) * 2 - 1
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    again, _ = upsampled(model.generate, 24.0, stages, OWN_SAMPLING)
    assert again(PROMPTS, seed=[3], num_inference_steps=2).shape == made.shape


def test_an_upsampler_of_another_family_is_refused(tmp_path):
    save_upsampler("ltx", tmp_path, 8)
    with pytest.raises(InputError, match="works on the latents of LTX, but the model is tiny"):
        load_upsamplers([str(tmp_path)], tiny_generator(), load_generator)


def test_what_is_neither_a_stage_nor_an_upsampler_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is neither temporal nor spatial"):
        load_upsamplers([str(tmp_path)], tiny_generator(), load_generator)
    monkeypatch.setattr("generator.cascade.upsamplers.PRETRAINED", tmp_path)
    with pytest.raises(InputError, match="names a stage of nano-cascade, which is not installed"):
        load_upsamplers(["spatial"], tiny_generator(), load_generator)


def test_of_a_hub_id_the_network_alone_is_fetched(tmp_path, monkeypatch):
    save_upsampler("ltx", tmp_path, 8)
    asked = []

    def fetched(name, allow_patterns, ignore_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert find_upsampler("Lightricks/upscaler") == tmp_path / "latent_upsampler"
    ((name, patterns),) = asked
    assert name == "Lightricks/upscaler"
    wanted = ("latent_upsampler/config.json", "config.json", "diffusion_pytorch_model.safetensors")
    assert all(any(fnmatch(file, each) for each in patterns) for file in wanted)
    unwanted = (
        "transformer/diffusion_pytorch_model.safetensors",
        "ltx-2-19b-dev.safetensors",
        "vae/config.json",
    )
    assert not any(fnmatch(file, each) for each in patterns for file in unwanted)
    with pytest.raises(InputError, match="is neither temporal nor spatial"):
        find_upsampler("./nowhere/upscaler")
