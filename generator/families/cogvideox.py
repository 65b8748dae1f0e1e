"""CogVideoX (arXiv 2408.06072): a variance-preserving process with v-prediction, brought to rectified flow.

CogVideoX noises as z_t = α x₀ + s ε with α² + s² = 1 and predicts α ε − s x₀. Divided by α + s this is
x_σ = (1 − σ) x₀ + σ ε with σ = s / (α + s), so each integer timestep is a noise level. In these coordinates a DDIM
step without noise is exactly an Euler step (both keep x̂₀ and ε̂ and change their weights).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from torch import Tensor

from generator import flow
from generator.families.pipeline_generator import PipelineGenerator
from generator.families.variance_preserving import nearest_timestep, sigma_of
from generator.inputs.conditions import Conditions
from generator.inputs.images import ImageConditions, Shapes
from generator.video_model import GenerationDefaults


class CogVideoXGenerator(PipelineGenerator):
    """Adapter of `CogVideoXPipeline` (2B, 5B and 1.5)."""

    pipeline_class = CogVideoXPipeline

    def __init__(self, pipeline: CogVideoXPipeline, name: str) -> None:
        self.timestep_sigmas = sigma_of(pipeline.scheduler.alphas_cumprod)
        """Noise level of each integer timestep, rising."""
        super().__init__(pipeline, name)

    def _pipeline_defaults(self) -> GenerationDefaults:
        config = self.pipeline.transformer.config
        space, _ = self._compression()
        height, width = config.sample_height * space, config.sample_width * space
        fps = 8.0 if config.patch_size_t is None else 16.0
        return GenerationDefaults(config.sample_frames, height, width, fps, 50, 6.0, 1.0)

    @property
    def _padding(self) -> int:
        """Latent frames in front of the video: 1.5 patches time in twos, and its latent frames are odd in number."""
        return (self.pipeline.transformer.config.patch_size_t or 1) - 1

    def size_multiples(self) -> tuple[int, int]:
        space, time = self._compression()
        return space * self.pipeline.transformer.config.patch_size, time * (1 + self._padding)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        channels, frames, height, width = super().latent_shape(num_frames, height, width)
        return channels, frames + self._padding, height, width

    def encode(self, videos: Tensor) -> Tensor:
        latents = super().encode(videos)
        return torch.cat([latents[:, :, :1]] * self._padding + [latents], dim=2)

    def _compression(self) -> tuple[int, int]:
        return self.pipeline.vae_scale_factor_spatial, self.pipeline.vae_scale_factor_temporal

    def sigma_schedule(self, num_inference_steps: int, latent_shape: Sequence[int] | None = None) -> Tensor:
        scheduler = copy.deepcopy(self.pipeline.scheduler)  # schedulers keep the state of the last trajectory
        scheduler.set_timesteps(num_inference_steps)
        return torch.cat([self.timestep_sigmas[scheduler.timesteps.cpu().long()], torch.zeros(1)])

    def timesteps(self, sigma: Tensor) -> Tensor:
        """The integer timestep `[batch]` whose noise level is nearest to `sigma` `[batch]`."""
        return nearest_timestep(self.timestep_sigmas, sigma)

    def _decode(self, latents: Tensor) -> Tensor:
        return super()._decode(latents[:, :, self._padding :])

    def normalise(self, latents: Tensor) -> Tensor:
        return latents * self.pipeline.vae.config.scaling_factor

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents / self.pipeline.vae.config.scaling_factor

    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        # There is no mask: padding takes part in the attention and must stay.
        text, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.pipeline.transformer.config.max_text_seq_length,
            device=self.text_device,
        )
        return {"encoder_hidden_states": text}

    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        config = self.pipeline.transformer.config
        return {"encoder_hidden_states": ((config.max_text_seq_length, config.text_embed_dim), self.dtype)}

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        scaled = latents / flow.expand(flow.weights_norm(sigma), latents)
        config = self.pipeline.transformer.config
        space, _ = self._compression()
        rotary = None
        if config.use_rotary_positional_embeddings:
            rotary = self.pipeline._prepare_rotary_positional_embeddings(
                latents.shape[3] * space, latents.shape[4] * space, scaled.shape[2], latents.device
            )
        ofs = sigma.new_full((1,), 2.0).to(self.dtype) if config.ofs_embed_dim is not None else None
        return {
            "hidden_states": scaled.transpose(1, 2).to(self.dtype),
            "encoder_hidden_states": conditions["encoder_hidden_states"].to(self.dtype),
            "timestep": self.timesteps(sigma),
            "image_rotary_emb": rotary,
            **({} if ofs is None else {"ofs": ofs}),
        }

    def _to_velocity(self, output: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        return velocity_from_v_prediction(output.transpose(1, 2), latents, sigma)


class CogVideoXImageToVideoGenerator(CogVideoXGenerator):
    """Adapter of `CogVideoXImageToVideoPipeline` (5B-I2V and 1.5-5B-I2V).

    The image is seen as latents in further channels of the input: in the first latent frame, zero in the others.
    """

    pipeline_class = CogVideoXImageToVideoPipeline

    @property
    def image(self) -> ImageConditions:
        return ImageConditions(self._image_conditions, self._image_condition_shapes)

    def _latent_channels(self) -> int:
        return self.pipeline.transformer.config.in_channels // 2

    @torch.no_grad()
    def _image_conditions(self, images: Tensor, num_frames: int, _: Tensor | None) -> Conditions:
        config = self.pipeline.vae.config
        latents = self._encode(images[:, :, None]).float()
        # The authors of 1.5 trained on latents divided by the factor that all others multiply by.
        factor = 1 / config.scaling_factor if config.invert_scale_latents else config.scaling_factor
        frames = self.latent_shape(num_frames, *images.shape[2:])[1]
        later = latents.new_zeros(*latents.shape[:2], frames - 1, *latents.shape[3:])
        return {"image_latents": torch.cat([factor * latents, later], dim=2)}

    def _image_condition_shapes(self, latent_shape: Sequence[int]) -> Shapes:
        return {"image_latents": (tuple(latent_shape), torch.float32)}

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        arguments = super()._transformer_arguments(latents, sigma, conditions)
        image = conditions["image_latents"].transpose(1, 2).to(arguments["hidden_states"])
        arguments["hidden_states"] = torch.cat([arguments["hidden_states"], image], dim=2)
        return arguments


def velocity_from_v_prediction(prediction: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Velocity ε̂ − x̂₀ from a v-prediction (Salimans & Ho 2022, arXiv 2202.00512).

    With z = α x₀ + s ε and p = α ε − s x₀: x̂₀ = α z − s p and ε̂ = s z + α p.

    Args:
        prediction: p, `[batch, ...]`.
        x: x_σ = (1 − σ) x₀ + σ ε.
        sigma: `[batch]`.
    """
    norm = flow.expand(flow.weights_norm(sigma), x)
    level = flow.expand(sigma, x)
    signal, noise = (1 - level) / norm, level / norm
    z = x / norm
    return (noise * z + signal * prediction) - (signal * z - noise * prediction)
