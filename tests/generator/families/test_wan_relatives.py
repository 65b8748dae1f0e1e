"""SkyReels V2 and Wan VACE, whose adapters build on Wan's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    WanVACEPipeline,
)
from PIL import Image
from torch import Tensor

from alignment.cli import main
from alignment.memory.forecast import Probe, Work, forecast
from generator.data.prompts import read_prompts
from generator.families.skyreels import SkyReelsV2Generator, SkyReelsV2ImageToVideoGenerator
from generator.families.wan_vace import CONTROL, WanVACEGenerator
from generator.first_frames import conditions_of_files
from generator.loading import load_generator
from generator.output import InputError
from generator.sampling import sample_latents
from generator.stock_pipelines import EulerWithExplicitSigmas
from generator.testing.image_pipelines import TINY_IMAGE_PIPELINES
from generator.testing.pipelines import build_tiny_pipeline, save_tiny_pipeline
from generator.testing.stock import PROMPTS, STEPS, noise_for, ours, stock_call
from generator.testing.text_pipelines import tiny_skyreels
from generator.video import read_clip, write_video
from generator.video_files.control_files import ControlFiles

vace = pytest.mark.parametrize("family", ["wan-vace"], indirect=True)


def test_a_shift_of_one_in_the_scheduler_stands_for_that_of_the_model_card() -> None:
    text = SkyReelsV2Generator(tiny_skyreels(), "tiny")
    assert (text.defaults.shift, text.defaults.guidance_scale) == (8.0, 6.0)
    image = SkyReelsV2ImageToVideoGenerator(TINY_IMAGE_PIPELINES["skyreels_v2-i2v"][0](), "tiny")
    assert (image.defaults.shift, image.defaults.guidance_scale) == (5.0, 5.0)
    pipeline = tiny_skyreels()
    pipeline.scheduler.register_to_config(flow_shift=3.0)
    assert SkyReelsV2Generator(pipeline, "tiny").defaults.shift == 3.0
    assert (text.defaults.num_frames, text.defaults.height, text.defaults.width) == (97, 544, 960)
    assert {SkyReelsV2Pipeline, SkyReelsV2ImageToVideoPipeline} == {
        type(text).pipeline_class, type(image).pipeline_class
    }  # fmt: skip


def test_models_that_know_the_frame_rate_are_told_it() -> None:
    """Their stock text-to-video pipeline fails, as it tells them none."""
    torch.manual_seed(0)
    pipeline = tiny_skyreels(transformer={"inject_sample_info": True})
    for part in (pipeline.text_encoder, pipeline.transformer):
        part.requires_grad_(False).eval()
    generator = SkyReelsV2Generator(pipeline, "tiny")
    latents, sigma = torch.randn(2, 16, 3, 2, 2), torch.tensor([0.9, 0.4])
    conditions = generator.encode_prompts(PROMPTS)
    fast = generator.velocity(latents, sigma, conditions)
    arguments = generator._transformer_arguments(latents, sigma, conditions)
    assert arguments["fps"] == [1, 1]
    generator.defaults = generator.defaults.replaced({"fps": 16.0})
    slow = generator.velocity(latents, sigma, conditions)
    assert (slow - fast).abs().max() > 1e-4
    with pytest.raises((TypeError, RuntimeError)):
        pipeline.transformer(**{**arguments, "fps": None})


def test_diffusion_forcing_pipelines_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": SkyReelsV2DiffusionForcingPipeline.__name__})
    )
    with pytest.raises(InputError, match=r"SkyReelsV2DiffusionForcingPipeline, but .* SkyReelsV2Pipeline"):
        load_generator(tmp_path)


def control_of(generator: Any, count: int) -> tuple[Tensor, Tensor]:
    """Videos `[count, 3, F, H, W]`, and masks with the first frame and a corner of the others kept."""
    size = generator.defaults
    random = torch.Generator().manual_seed(4)
    levels = torch.randint(0, 256, (count, 3, size.num_frames, size.height, size.width), generator=random)
    masks = torch.ones(count, 1, size.num_frames, size.height, size.width)
    masks[:, :, 0] = 0
    masks[..., :4, :4] = 0
    return levels / 127.5 - 1, masks


def pictures(video: Tensor) -> list[Image.Image]:
    frames = ((video + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
    return [Image.fromarray(frame.numpy()) for frame in frames]


@vace
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_control_video_and_its_mask_act_as_in_the_stock_pipeline(
    folder: Path, generator: Any, scale: float
) -> None:
    pipeline = WanVACEPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerWithExplicitSigmas(shift=generator.defaults.shift)
    videos, masks = control_of(generator, 1)
    noise, size = noise_for(generator, 1), generator.defaults
    expected = pipeline(
        prompt=PROMPTS[0], negative_prompt="", video=pictures(videos[0]),
        mask=pictures((masks[0] * 2 - 1).expand(3, -1, -1, -1)), height=size.height, width=size.width,
        num_frames=size.num_frames, num_inference_steps=STEPS, guidance_scale=scale, latents=noise,
        output_type="latent",
    ).frames  # fmt: skip
    control = generator.control(videos, masks)
    conditions, negative = ({**generator.encode_prompts([text]), **control} for text in (PROMPTS[0], ""))

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            found = generator.velocity(latents, sigma, conditions)
            other = generator.velocity(latents, sigma, negative)
        return other + scale * (found - other)

    found = sample_latents(velocity, noise, generator.sigma_schedule(STEPS))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)
    assert (found - ours(generator, scale, PROMPTS[:1])).abs().max() > 1e-3


@vace
def test_prompt_files_name_control_videos_and_masks(folder: Path, generator: Any, tmp_path: Path) -> None:
    size = generator.defaults
    videos, masks = control_of(generator, 1)
    write_video(tmp_path / "depth.mp4", videos[0], fps=size.fps)
    picture = Image.fromarray((masks[0, 0, -1] * 255).to(torch.uint8).numpy()).convert("RGB")
    picture.save(tmp_path / "mask.png")
    rows = [
        {"prompt": "a red circle", "control_video": "depth.mp4", "mask_file_name": "mask.png"},
        {"prompt": "a red circle", "control_video": "depth.mp4"},
        {"prompt": "a red circle"},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records = read_prompts(tmp_path / "prompts.jsonl")
    files = [record.images for record in records]
    assert [isinstance(each, ControlFiles) for each in files] == [True, True, False]
    shape = (size.num_frames, size.height, size.width)
    seen = conditions_of_files(generator, [each for each in files if each is not None], shape)[CONTROL]
    clip = read_clip(tmp_path / "depth.mp4", *shape)[None]
    still = masks[:, :, -1:].expand_as(masks)  # an image is the mask of every frame
    expected = [generator.control(clip, mask)[CONTROL] for mask in (still, torch.ones_like(masks))]
    torch.testing.assert_close(seen, torch.cat(expected), atol=1e-5, rtol=1e-5)

    words = ["generate", "--model", folder, "--prompts", tmp_path / "prompts.jsonl", "--output_dir",
             tmp_path / "o", "--num_inference_steps", 2, "--guidance_scale", 2, "--seed", 0]  # fmt: skip
    assert main([str(word) for word in words]) in (0, None)
    written = read_prompts(tmp_path / "o" / "metadata.jsonl")
    assert [[Path(str(file)).name for file in each.images or ()] for each in written] == [
        ["depth.mp4", "mask.png"], ["depth.mp4", "None"], []
    ]  # fmt: skip


@vace
def test_controls_of_a_batch_are_those_of_its_members_and_of_the_announced_size(generator: Any) -> None:
    videos, masks = control_of(generator, 2)
    together = generator.control(videos, masks)[CONTROL]
    alone = torch.cat([generator.control(videos[i : i + 1], masks[i : i + 1])[CONTROL] for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    ((shape, _),) = generator.control_shapes(noise_for(generator).shape[1:]).values()
    assert together.shape[1:] == shape


@vace
def test_an_adapter_of_vace_leaves_the_blocks_of_control_alone(generator: Any) -> None:
    """So it also fits the model without control; suffixes alone would match `vace_blocks` too."""
    from alignment.lora import LoraArguments, add_lora

    matched = add_lora(generator, LoraArguments(lora_r=2), seed=0)
    assert len(matched) == 16
    assert all(name.startswith("blocks.") for name in matched)


def test_vace_with_two_transformers_is_refused() -> None:
    pipeline = build_tiny_pipeline("wan-vace")
    pipeline.register_modules(transformer_2=pipeline.transformer)
    with pytest.raises(InputError, match="second transformer"):
        WanVACEGenerator(pipeline, "tiny")


def test_the_memory_of_the_blocks_of_control_is_forecast(tmp_path: Path) -> None:
    folder = save_tiny_pipeline("wan-vace", tmp_path)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    config |= {"num_layers": 5, "vace_layers": [0, 2, 4]}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    work = Work("sft", 9, 32, 32, batch=2, lora_r=4, checkpointed_share=0.0)
    whole = Probe(folder, work, {"blocks": 5, "vace_blocks": 3})
    assert whole.blocks_in_full == {"blocks": 5, "vace_blocks": 3}
    found = forecast(folder, work)
    assert found.resident["transformer"] == whole.weight_bytes()
    assert found.transient["update"] == pytest.approx(whole.kept_peak(), rel=0.05)


@pytest.mark.parametrize("family", ["skyreels_v2"], indirect=True)
def test_the_card_shift_is_what_the_stock_pipeline_is_compared_at(
    family: str, folder: Path, generator: Any
) -> None:
    pipeline = SkyReelsV2Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    latents = ours(generator, 1.0)
    torch.testing.assert_close(stock_call(family, pipeline, generator, 1.0), latents, atol=2e-4, rtol=2e-4)
    assert pipeline.scheduler.config.shift == 8.0
