"""The video model against its image model: equal with closed gates, one video with open ones; fps, context, LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor

from generator.adapters.adapters import LoraAdapter, load_adapters, model_fingerprint, write_adapter
from generator.base import VideoGenerator
from generator.loading import load_generator
from generator.native.building import build_pipeline, save_pipeline
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.stock import ours, stock_call
from generator.video_ldm.family import VideoLDMGenerator
from generator.video_ldm.model_card import set_alphas
from generator.video_ldm.pipeline import insert_temporal_layers
from tests.generator.video_ldm.models import image_adapter, tiny_video_generator

PROMPTS = ["a red circle", "a blue square moves left"]
SIGMA = torch.tensor([0.3, 0.8])


def latents(frames: int = 5) -> Tensor:
    return torch.randn(2, 4, frames, 8, 8, generator=torch.Generator().manual_seed(0))


def images_velocity(generator: VideoGenerator, x: Tensor) -> Tensor:
    """Velocity of every frame by an image model, all frames of all videos as one batch."""
    frames = x.shape[2]
    conditions = generator.encode_prompts(PROMPTS)
    repeated = {name: value.repeat_interleave(frames, 0) for name, value in conditions.items()}
    images = rearrange(x, "b c f h w -> (b f) c 1 h w")
    found = generator.velocity(images, SIGMA.repeat_interleave(frames), repeated)
    return rearrange(found, "(b f) c 1 h w -> b c f h w", f=frames)


def velocity(generator: VideoGenerator, x: Tensor, transformer: torch.nn.Module | None = None) -> Tensor:
    return generator.velocity(x, SIGMA, generator.encode_prompts(PROMPTS), transformer)


def test_with_alpha_one_the_frames_are_those_of_the_image_model_bit_for_bit() -> None:
    video = tiny_video_generator(alpha=1.0)
    assert torch.equal(velocity(video, latents()), images_velocity(tiny_generator(), latents()))
    pixels = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    encoded = video.encode(pixels)
    image = tiny_generator()
    for frame in range(4):
        one = image.encode(pixels[:, :, frame : frame + 1])
        torch.testing.assert_close(encoded[:, :, frame : frame + 1], one, atol=1e-5, rtol=1e-5)
    images = rearrange(encoded, "b c f h w -> (b f) c 1 h w")
    expected = rearrange(image.decode(images), "(b f) c 1 h w -> b c f h w", b=2)
    assert torch.equal(video.decode(encoded), expected)


def test_open_gates_let_a_frame_depend_on_the_others() -> None:
    x = latents()
    other = x.clone()
    other[:, :, 0] += 1
    for alpha, connected in ((1.0, False), (0.5, True)):
        video = tiny_video_generator(alpha=alpha)
        change = (velocity(video, other) - velocity(video, x)).abs().amax((0, 1, 3, 4))
        assert change[0] > 1e-3
        assert bool((change[1:] > 1e-5).all()) == connected
        decoded = (video.decode(other) - video.decode(x)).abs().amax((0, 1, 3, 4))
        assert bool(decoded[1] > 1e-6) == connected


def test_the_frame_rate_and_the_context_mask_change_the_velocity() -> None:
    video = tiny_video_generator()
    conditions = video.encode_prompts(PROMPTS)
    levels = SIGMA[:, None].repeat(1, 5)
    slow, fast = (video.frames(latents(), levels, conditions, 1 / fps, True) for fps in (8.0, 32.0))
    assert (slow - fast).abs().max() > 1e-3
    # A level of 0 makes a frame context; one just above it does not.
    levels[:, 0] = 0
    given = video.frames(latents(), levels, conditions, 1 / 8, True)
    levels[:, 0] = 1e-7
    hidden = video.frames(latents(), levels, conditions, 1 / 8, True)
    assert (given - hidden)[:, :, 1:].abs().max() > 1e-4


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_sampler_without_noise_equals_the_call_of_the_pipeline(guidance_scale: float) -> None:
    video = tiny_video_generator()
    expected = stock_call("video_ldm", video.pipeline, video, guidance_scale)
    torch.testing.assert_close(ours(video, guidance_scale), expected, atol=2e-4, rtol=2e-4)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        video = tiny_video_generator()
        layers = video.pipeline.transformer.temporal.requires_grad_(True)
        video.pipeline.transformer.gradient_checkpointing = False
        if checkpointing:
            video.pipeline.transformer.enable_gradient_checkpointing()
        video.pipeline.transformer.train()
        levels = SIGMA[:, None].repeat(1, 5)
        levels[:, 0] = 0  # a context frame, without which its embedding has no gradient
        conditions = video.encode_prompts(PROMPTS)
        video.frames(latents(), levels, conditions, 1 / 8, True).square().mean().backward()
        found.append([p.grad for p in layers.parameters()])
    assert all(grad is not None and grad.any() for grad in found[0])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


def test_a_saved_video_model_is_loaded_and_generates(tmp_path: Path) -> None:
    video = tiny_video_generator()
    expected = velocity(video, latents())
    save_pipeline(video.pipeline, tmp_path / "video", torch.float32)
    loaded = load_generator(tmp_path / "video", device="cpu")
    assert isinstance(loaded, VideoLDMGenerator)
    saved = video.transformer.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in loaded.transformer.state_dict().items())
    torch.testing.assert_close(velocity(loaded, latents()), expected, atol=1e-5, rtol=1e-5)
    assert loaded.generate(PROMPTS, num_frames=6, height=16, width=16).shape == (2, 3, 6, 16, 16)
    features, mask = loaded.features(latents(), SIGMA, loaded.encode_prompts(PROMPTS), 2)
    assert features.shape == (2, 5 * 16, 48)
    assert mask.all()


def test_a_lora_of_the_image_model_shows_in_the_videos(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, video = tiny_generator(), tiny_video_generator(alpha=1.0)
    folder = image_adapter(tmp_path / "adapter", image)
    before = velocity(video, latents())
    load_adapters(image, folder)
    load_adapters(video, folder)
    assert "was trained on the weights" not in caplog.text
    with_lora = velocity(video, latents())
    assert (with_lora - before).abs().max() > 1e-2
    assert torch.equal(with_lora, images_velocity(image, latents()))
    set_alphas(video.transformer, 0.5)
    assert not torch.equal(velocity(video, latents()), with_lora)


def test_an_adapter_of_another_image_model_is_refused(tmp_path: Path) -> None:
    other = build_pipeline(transformer={"num_layers": 3}).transformer
    pairs = {"blocks.0.attn.to_q": (torch.zeros(2, 48), torch.zeros(48, 2))}
    write_adapter(tmp_path, LoraAdapter(pairs), {"model_fingerprint": model_fingerprint(other)})
    with pytest.raises(InputError, match="was trained for another model"):
        load_adapters(tiny_video_generator(), tmp_path)


def test_models_whose_frames_are_no_images_are_refused() -> None:
    pipeline = build_pipeline(transformer={"num_layers": 1, "attention": "separable"})
    with pytest.raises(InputError, match="--images_only"):
        insert_temporal_layers(pipeline, "separable")
