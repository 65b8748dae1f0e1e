"""The built-in generator as a diffusers pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from generator.native.autoencoder import NativeVideoAutoencoder
from generator.native.text_encoder import encode_text
from generator.native.transformer import NativeVideoTransformer3DModel
from generator.output import InputError


@dataclass
class NativeVideoPipelineOutput(BaseOutput):
    """Videos: a tensor or array `[batch, frames, channels, height, width]` in [0, 1], or normalised latents."""

    frames: Tensor | np.ndarray


def nearest_valid_size(
    num_frames: int, height: int, width: int, side: int, time: int
) -> tuple[int, int, int]:
    """The closest `(frames, height, width)` with `time * k + 1` frames and sides that are multiples of `side`."""
    return (
        max(round((num_frames - 1) / time), 0) * time + 1,
        max(round(height / side), 1) * side,
        max(round(width / side), 1) * side,
    )


class NativeVideoPipeline(DiffusionPipeline, CogVideoXLoraLoaderMixin):
    """Text to video: prompt -> T5 -> U-ViT on spacetime latent patches (rectified flow) -> causal autoencoder.

    The LoRA mixin is CogVideoX's because it converts no keys and serves any transformer with PEFT adapters.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self,
        tokenizer: T5Tokenizer,
        text_encoder: T5EncoderModel,
        vae: NativeVideoAutoencoder,
        transformer: NativeVideoTransformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        fps: float = 8.0,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            transformer=transformer,
            scheduler=scheduler,
        )
        self.register_to_config(fps=fps)

    @property
    def seconds_per_latent_frame(self) -> float:
        return self.vae.temporal_compression_ratio / self.config.fps

    def size_multiples(self) -> tuple[int, int]:
        """`(side, time)`: sides are multiples of `side` pixels, and frames are `time * k + 1`."""
        patch = self.transformer.config.patch_size[1]
        return self.vae.spatial_compression_ratio * patch, self.vae.temporal_compression_ratio

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        """Raises `InputError` with the nearest valid size if this one cannot be made."""
        side, time = self.size_multiples()
        valid = nearest_valid_size(num_frames, height, width, side, time)
        if valid != (num_frames, height, width):
            raise InputError(
                f"The size {num_frames} frames of {height}x{width} pixels was asked for, but this model makes "
                f"{time}k+1 frames and sides that are multiples of {side}: the nearest is --num_frames {valid[0]} "
                f"--height {valid[1]} --width {valid[2]}."
            )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """`(channels, frames, height, width)` of the latents of a video of this size."""
        space, time = self.vae.spatial_compression_ratio, self.vae.temporal_compression_ratio
        return (
            self.transformer.config.in_channels,
            (num_frames - 1) // time + 1,
            height // space,
            width // space,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str = "",
        num_frames: int = 9,
        height: int = 32,
        width: int = 32,
        num_inference_steps: int = 10,
        guidance_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
    ) -> NativeVideoPipelineOutput | tuple[Any]:
        """Generates one video a prompt.

        Args:
            prompt: one text or several.
            negative_prompt: text of the unconditional branch, used when `guidance_scale` is above 1.
            num_frames, height, width: size of the videos in frames and pixels.
            num_inference_steps: Euler steps.
            guidance_scale: classifier-free guidance weight; 1 means none.
            generator: one random generator, or one a prompt.
            latents: initial noise `[batch, channels, frames, height, width]` instead of `generator`.
            output_type: `"pt"` or `"np"` for `[batch, frames, channels, height, width]` in [0, 1], or `"latent"`.
            return_dict: give a `NativeVideoPipelineOutput` instead of a tuple.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self.check_size(num_frames, height, width)
        device, dtype = self._execution_device, self.transformer.dtype
        guided = guidance_scale > 1.0
        texts = [negative_prompt] * len(prompts) + prompts if guided else prompts
        text, mask = encode_text(self.text_encoder, self.tokenizer, texts)
        if latents is None:
            shape = (len(prompts), *self.latent_shape(num_frames, height, width))
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        # Explicit sigmas: without them the scheduler shifts its smallest sigma twice and wastes the last step.
        self.scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps), device=device
        )
        with self.progress_bar(total=num_inference_steps) as progress:
            for timestep in self.scheduler.timesteps:
                model_input = torch.cat([latents] * 2) if guided else latents
                velocity = self.transformer(
                    model_input.to(dtype),
                    timestep.float().expand(len(model_input)),
                    text.to(dtype),
                    mask,
                    seconds_per_frame=self.seconds_per_latent_frame,
                ).sample.float()
                if guided:
                    unconditional, conditional = velocity.chunk(2)
                    velocity = unconditional + guidance_scale * (conditional - unconditional)
                latents = self.scheduler.step(velocity, timestep, latents).prev_sample
                progress.update()
        if output_type == "latent":
            frames: Tensor | np.ndarray = latents
        else:
            video = self.vae.decode(self.vae.denormalise(latents).to(self.vae.dtype)).sample.float()
            video = (video.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 1, 3, 4).cpu()
            frames = video.numpy() if output_type == "np" else video
        self.maybe_free_model_hooks()
        return NativeVideoPipelineOutput(frames=frames) if return_dict else (frames,)
