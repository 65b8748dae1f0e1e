"""LTX-Video (arXiv 2501.00103): packed latents, a shift that grows with the number of tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from torch import Tensor, nn

from generator.families.pipeline_generator import PipelineGenerator, trim
from generator.inputs.conditions import Conditions
from generator.inputs.frames import FrameVelocity
from generator.video_model import GenerationDefaults


class LTXGenerator(PipelineGenerator):
    """Adapter of `LTXPipeline`.

    Attributes:
        decode_timestep: noise level at which an autoencoder with `timestep_conditioning` (0.9.1 and later) decodes.
    """

    pipeline_class = LTXPipeline
    max_sequence_length = 128
    decode_timestep = 0.0

    def _pipeline_defaults(self) -> GenerationDefaults:
        size = (161, 512, 704)
        return GenerationDefaults(*size, 25.0, 50, 3.0, self._training_shift(size))

    def _training_shift(self, size: tuple[int, int, int]) -> float:
        """Shift for videos of `(frames, height, width)`: the sampler's grows with the size without bound, and training
        takes the largest that the scheduler names."""
        largest = self.pipeline.scheduler.config.get("max_shift", 1.15)
        return float(np.exp(min(self._mu(self.latent_shape(*size)), largest)))

    def size_multiples(self) -> tuple[int, int]:
        space, time = self._compression()
        return space * self.pipeline.transformer_spatial_patch_size, time

    def _compression(self) -> tuple[int, int]:
        return self.pipeline.vae_spatial_compression_ratio, self.pipeline.vae_temporal_compression_ratio

    def _latent_channels(self) -> int:
        return self.pipeline.vae.config.latent_channels

    def _mu(self, latent_shape: Sequence[int]) -> float:
        """Logarithm of the shift for latents `[channels, frames, height, width]`."""
        config = self.pipeline.scheduler.config
        return calculate_shift(
            latent_shape[1] * latent_shape[2] * latent_shape[3],
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )

    def sigma_schedule(self, num_inference_steps: int, latent_shape: Sequence[int] | None = None) -> Tensor:
        if latent_shape is None:
            defaults = self.defaults
            latent_shape = self.latent_shape(defaults.num_frames, defaults.height, defaults.width)
        if num_inference_steps == 1:
            return torch.tensor([1.0, 0.0])  # the scheduler's stretch to its terminal level divides by zero
        scheduler = copy.deepcopy(self.pipeline.scheduler)  # schedulers keep the state of the last trajectory
        scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps), mu=self._mu(latent_shape)
        )
        return scheduler.sigmas.float().cpu()

    def normalise(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return LTXPipeline._normalize_latents(
            latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )

    def denormalise(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return LTXPipeline._denormalize_latents(
            latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        timestep = None
        if vae.config.timestep_conditioning:
            timestep = latents.new_full((len(latents),), self.decode_timestep)
        return vae.decode(latents, timestep).sample

    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask, _, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            device=self.text_device,
        )
        text, mask = trim(text, mask)
        return {"encoder_hidden_states": text, "encoder_attention_mask": mask}

    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        length, width = self.max_sequence_length, self.pipeline.transformer.config.caption_channels
        return {
            "encoder_hidden_states": ((length, width), self.dtype),
            "encoder_attention_mask": ((length,), torch.bool),
        }

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        space, time = self._compression()
        frames, height, width = latents.shape[2:]
        return {
            "hidden_states": self._pack(latents).to(self.dtype),
            "encoder_hidden_states": conditions["encoder_hidden_states"].to(self.dtype),
            "timestep": sigma.float() * 1000,
            "encoder_attention_mask": conditions["encoder_attention_mask"],
            "num_frames": frames,
            "height": height,
            "width": width,
            "rope_interpolation_scale": (time / self.defaults.fps, space, space),
        }

    @property
    def frames(self) -> FrameVelocity:
        return FrameVelocity(self._frame_velocity, self.name)

    def _frame_velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        _: float | None,
        __: bool,
        transformer: nn.Module | None,
    ) -> Tensor:
        arguments = self._transformer_arguments(latents, sigma.amax(dim=1), conditions)
        space, time = self._patch()
        tokens = latents.shape[3] * latents.shape[4] // space**2
        arguments["timestep"] = (sigma.float() * 1000)[:, ::time].repeat_interleave(tokens, dim=1)
        module = self.transformer if transformer is None else transformer
        output = module(**arguments, return_dict=False)[0].float()
        return self._to_velocity(output, latents, sigma)

    def _to_velocity(self, output: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        return LTXPipeline._unpack_latents(output, *latents.shape[2:], *self._patch())

    def _pack(self, latents: Tensor) -> Tensor:
        return LTXPipeline._pack_latents(latents, *self._patch())

    def _patch(self) -> tuple[int, int]:
        return self.pipeline.transformer_spatial_patch_size, self.pipeline.transformer_temporal_patch_size
