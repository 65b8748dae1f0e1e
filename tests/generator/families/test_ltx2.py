"""LTX-2 and LTX-2.3: the video without its sound, guidance, text, LoRA of the video's own layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers.pipelines.ltx2.utils import (
    DISTILLED_SIGMA_VALUES,
    apply_image_conditioning_crf,
    resolve_default_image_crf,
)
from torch import Tensor

from alignment.lora import LoraArguments, add_lora, train_all_weights
from alignment.memory.forecast import text_encoder_bytes
from generator.base import VideoGenerator
from generator.data import latent_cache
from generator.data.latent_cache import text_encoder_hash
from generator.editing import video_prompts
from generator.editing.video_prompts import Sampling
from generator.families.ltx2 import LTX2Generator
from generator.loading import load_generator
from generator.stock_pipelines import isolated_modalities
from generator.testing.pipelines import save_tiny_pipeline
from generator.testing.stock import PROMPTS, noise_for, ours, stock_call
from generator.testing.text_pipelines import tiny_ltx2

both = pytest.mark.parametrize("family", ["ltx2", "ltx2.3"], indirect=True)
newest = pytest.mark.parametrize("family", ["ltx2.3"], indirect=True)


def call(generator: Any, **changes: Any) -> Tensor:
    """The transformer's prediction for the video, with changes to what it is called with."""
    arguments = generator._transformer_arguments(
        noise_for(generator), torch.tensor([0.9, 0.4]), generator.encode_prompts(PROMPTS)
    )
    with torch.no_grad():
        return generator.transformer(**{**arguments, **changes}, return_dict=False)[0]


@both
def test_the_video_is_the_same_whatever_stands_in_the_place_of_its_sound(generator: Any) -> None:
    silent = call(generator)
    config = generator.transformer.config
    noise = torch.randn(2, 7, config.audio_in_channels)
    words = torch.randn(2, 5, generator._text_width("audio_"))
    loud = {"audio_hidden_states": noise, "audio_num_frames": 7, "audio_encoder_hidden_states": words}
    levels = {"audio_timestep": torch.full((2,), 30.0)}
    assert torch.equal(call(generator, **loud, **levels), silent)
    heard = call(generator, **loud, isolate_modalities=False)
    assert (heard - silent).abs().max() > 1e-2


@both
def test_the_isolated_video_is_what_the_pipelines_guidance_by_modality_starts_from(
    family: str, folder: Path, generator: VideoGenerator
) -> None:
    """The pipeline's own arguments, without any hook: v + (0 − 1) (v − isolated) is the isolated prediction."""
    pipeline: Any = LTX2Generator.pipeline_class.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    with mock.patch("generator.stock_pipelines.isolated_modalities"):
        expected = stock_call(family, pipeline, generator, 1.0, modality_scale=0.0, audio_modality_scale=2.0)
        heard = stock_call(family, pipeline, generator, 1.0)
    torch.testing.assert_close(ours(generator, 1.0), expected, atol=1e-4, rtol=1e-4)
    assert (heard - expected).abs().max() > 1e-3


@newest
def test_the_stock_transformer_of_ltx_23_fails_without_the_noise_level_of_the_whole_video(
    generator: Any,
) -> None:
    with pytest.raises(AttributeError):
        call(generator, sigma=None)
    moved = call(generator, sigma=torch.tensor([100.0, 900.0]))
    assert (moved - call(generator)).abs().max() > 1e-4


@newest
def test_known_frames_leave_the_noise_level_of_the_whole_video_as_it_is(generator: Any) -> None:
    seen: dict[str, Any] = {}
    generator.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    latents = noise_for(generator)
    levels = torch.tensor([[0.0, 0.9, 0.9], [0.0, 0.4, 0.4]])
    generator.frames(latents, levels, generator.encode_prompts(PROMPTS))
    torch.testing.assert_close(seen["sigma"], torch.tensor([900.0, 400.0]))
    assert seen["timestep"].shape == (2, 48)
    assert not seen["timestep"][:, :16].any()


@both
def test_plain_names_would_put_lora_on_layers_without_a_gradient_and_here_do_not(generator: Any) -> None:
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    layers = [
        name for name, module in generator.transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(names))
    ]  # fmt: skip
    matched = add_lora(generator, LoraArguments(lora_r=2, lora_target_modules=names), seed=0)
    assert len(layers) == 3 * len(matched) == 48
    assert all(".attn1." in name or ".attn2." in name for name in matched)


@both
def test_without_lora_all_weights_of_the_video_and_no_others_are_trained(generator: Any) -> None:
    train_all_weights(generator)
    velocity = generator.velocity(
        noise_for(generator), torch.tensor([0.9, 0.4]), generator.encode_prompts(PROMPTS)
    )
    velocity.square().mean().backward()
    for name, parameter in generator.transformer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@newest
def test_latents_that_are_given_or_returned_in_five_dimensions_are_those_of_the_autoencoder(
    family: str, folder: Path, generator: Any
) -> None:
    """Its pipeline normalises latents of five dimensions that it is given, and undoes that in those that it returns."""
    pipeline: Any = LTX2Generator.pipeline_class.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    raw = generator.denormalise(noise_for(generator))
    with isolated_modalities(pipeline.transformer):
        five = stock_call(family, pipeline, generator, 1.0, latents=raw)
    torch.testing.assert_close(five, ours(generator, 1.0), atol=1e-4, rtol=1e-4)
    assert (generator.denormalise(five) - five).abs().max() > 0.05


@newest
def test_prompts_go_through_the_text_encoder_one_by_one(generator: Any) -> None:
    """The hidden states of 64 prompts in all 49 layers of Gemma 3 would take 25 GB."""
    sizes: list[int] = []
    generator.pipeline.text_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    generator.encode_prompts(PROMPTS)
    assert sizes == [1, 1]


@newest
def test_embeddings_on_disk_belong_to_the_connectors_too(
    generator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_cache, "CACHED_ENCODER_SIZE", 1)
    before = text_encoder_hash(generator)
    weight = generator.pipeline.connectors.video_text_proj_in.weight
    weight.data = weight + 1
    assert before is not None
    assert text_encoder_hash(generator) != before


@newest
def test_the_connectors_count_as_a_text_encoder(folder: Path, generator: Any) -> None:
    assert set(text_encoder_bytes(folder)) == {"text_encoder", "connectors"}
    generator.release_text_encoder()
    assert {p.device.type for p in generator.pipeline.connectors.parameters()} == {"meta"}


@newest
def test_the_mask_of_the_connectors_hides_nothing(generator: Any) -> None:
    """So attention needs none, and may use kernels that take none."""
    pipeline = generator.pipeline
    text, mask, _, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    assert mask.sum(dim=1).tolist() == [5, 11]
    assert pipeline.connectors(text, mask)[2].all()


def test_distilled_models_have_the_noise_levels_that_they_were_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tiny_ltx2(distilled=True)
    generator = LTX2Generator(pipeline, "distilled")
    assert generator.sigma_schedule(8).tolist() == pytest.approx([*DISTILLED_SIGMA_VALUES, 0.0])
    torch.testing.assert_close(generator.sigma_schedule(4), torch.tensor([1, 0.75, 0.5, 0.25, 0]))
    # As the pipeline has them where it is told so.
    pipeline.scheduler.set_timesteps(sigmas=DISTILLED_SIGMA_VALUES, mu=0.5)
    torch.testing.assert_close(generator.sigma_schedule(8), pipeline.scheduler.sigmas)
    assert generator.defaults.guidance_scale == 3.0


def test_an_image_to_video_pipeline_is_served_by_the_same_adapter(tmp_path: Path) -> None:
    folder = save_tiny_pipeline("ltx2", tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "LTX2ImageToVideoPipeline"}))
    generator = load_generator(folder, device="cpu")
    assert isinstance(generator, LTX2Generator)
    assert generator.image is None
    assert generator.frames is not None


@newest
def test_the_image_is_not_compressed_before_it_is_encoded(generator: Any) -> None:
    """Its pipeline compresses it by default, as H.264 at a constant rate factor of 33."""
    random = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (32, 32, 3), generator=random, dtype=torch.uint8)
    compressed = apply_image_conditioning_crf(levels.numpy(), resolve_default_image_crf(None))
    image, lost = (torch.as_tensor(each).permute(2, 0, 1)[None] / 127.5 - 1 for each in (levels, compressed))
    first, other = (generator.encode(each[:, :, None]) for each in (image, lost))
    assert (first - other).abs().max() > 0.05
    with mock.patch.object(generator, "decode", wraps=generator.decode) as decode:
        video_prompts.animate(generator, image, PROMPTS[:1], sampling=Sampling(1, 1.0, 0))
    torch.testing.assert_close(decode.call_args.args[0][:, :, :1], first, atol=1e-5, rtol=1e-5)
