"""Results of diffusers' pipelines in their own call, to compare a family with: same prompts, same noise, no SDE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from generator.base import VideoGenerator
from generator.sampling import guided_velocity, sample_latents, seeded_noise

PROMPTS = ["a red circle moves left", "the dark blue square on the right moves left and right"]
STEPS = 4  # of 1000: CogVideoX's scheduler ends above zero noise where the number of steps does not divide it


def noise_for(generator: VideoGenerator, count: int = 2) -> Tensor:
    """Noise `[count, C, F, H, W]` for videos of the generator's default size."""
    size = generator.defaults
    return seeded_noise(range(count), generator.latent_shape(size.num_frames, size.height, size.width))


def ours(
    generator: VideoGenerator,
    guidance_scale: float,
    prompts: Sequence[str] = PROMPTS,
    guidance_scale_2: float | None = None,
) -> Tensor:
    """Latents `[batch, C, F, H, W]` that our sampler makes of `noise_for`."""
    noise = noise_for(generator, len(prompts))
    conditions = generator.encode_prompts(prompts)
    negative = generator.encode_prompts([""]) if guidance_scale != 1 else None
    velocity = guided_velocity(
        generator, conditions, negative, guidance_scale, guidance_scale_2=guidance_scale_2
    )
    return sample_latents(velocity, noise, generator.sigma_schedule(STEPS, noise.shape[1:]))


class EulerWithExplicitSigmas(FlowMatchEulerDiscreteScheduler):
    """WanPipeline passes no sigmas, for which this scheduler's last step is wasted."""

    def set_timesteps(self, num_inference_steps: Any = None, device: Any = None, **_: Any) -> None:
        count = num_inference_steps
        super().set_timesteps(sigmas=np.linspace(1, 1 / count, count).tolist(), device=device)


def stock_call(
    family: str, pipeline: Any, generator: VideoGenerator, guidance_scale: float, **more: Any
) -> Tensor:
    """Latents `[batch, C, F, H, W]` of the pipeline's own call, which `more` goes to, from the same noise."""
    noise = noise_for(generator)
    size = generator.defaults
    arguments: dict[str, Any] = {
        "prompt": PROMPTS, "height": size.height, "width": size.width, "num_frames": size.num_frames,
        "num_inference_steps": STEPS, "output_type": "latent", "guidance_scale": guidance_scale,
        **more,
    }  # fmt: skip
    if family.startswith("wan"):
        pipeline.scheduler = EulerWithExplicitSigmas(shift=pipeline.scheduler.config.flow_shift)
    if family == "ltx":
        frames, height, width = noise.shape[2:]
        packed = noise.permute(0, 2, 3, 4, 1).flatten(1, 3)
        latents = pipeline(**arguments, latents=packed, frame_rate=25).frames
        return latents.unflatten(1, (frames, height, width)).permute(0, 4, 1, 2, 3)
    if family.startswith("cogvideox"):
        seen: list[Tensor] = []

        def keep(_: Any, __: int, ___: int, values: dict[str, Any]) -> dict[str, Any]:
            seen.append(values["latents"])
            return values

        pipeline(
            **{**arguments, "output_type": "pt"},
            max_sequence_length=pipeline.transformer.config.max_text_seq_length,
            latents=noise.transpose(1, 2),
            callback_on_step_end=keep,
        )
        return seen[-1].transpose(1, 2)
    if family == "hunyuan_video":
        arguments |= {"guidance_scale": 6.0, "true_cfg_scale": guidance_scale, "negative_prompt": ["", ""]}
    if family == "hunyuan_video1.5":
        del arguments["guidance_scale"]
        pipeline.guider = type(pipeline.guider)(guidance_scale=guidance_scale)
        arguments["negative_prompt"] = ["", ""]
    return pipeline(**arguments, latents=noise).frames
