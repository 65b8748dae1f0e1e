"""AnimateDiff (arXiv 2307.04725): Stable Diffusion 1.5 with motion modules, brought to rectified flow.

The U-Net takes every frame as an image, and after each spatial layer a motion module attends to one place in all
frames. It predicts the noise ε of z_t = α x₀ + s ε with α² + s² = 1. Divided by α + s this is x_σ = (1 − σ) x₀ + σ ε
with σ = s / (α + s), so each integer timestep is a noise level, and a DDIM step without noise is exactly an Euler step.
The last timestep still holds some of the video (σ is 0.94 to 0.96), so schedules begin below 1: `flow.initial_state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    DDIMScheduler,
    UNetMotionModel,
)
from einops import rearrange
from torch import Tensor, nn

from generator import flow
from generator.families.motion_adapters import (
    animation_scheduler,
    motion_adapter,
    motion_weights_file,
    read_motion_adapter,
    read_weights,
)
from generator.families.pipeline_generator import ATTENTION_LAYERS, PipelineGenerator, own_precision
from generator.families.variance_preserving import nearest_timestep, sigma_of
from generator.inputs.conditions import Conditions
from generator.output import InputError, read_json
from generator.provenance import file_hash
from generator.video_model import GenerationDefaults

MOTION_MODULES = "motion_modules"
"""In the names of all layers of motion modules, and of no others."""
TEXT_TOKENS = 77


class AnimateDiffGenerator(PipelineGenerator):
    """Adapter of `AnimateDiffPipeline`: any Stable Diffusion 1.5 with any motion adapter.

    LoRA adapts the attention of the motion modules by default, and training without LoRA trains the motion modules
    alone: the image model stays as it is.

    Raises:
        InputError: the scheduler is not of a model that predicts noise.
    """

    pipeline_class = AnimateDiffPipeline
    component: ClassVar[str] = "unet"
    block_lists = ()
    idle_components = ("motion_adapter", "image_encoder")
    # PEFT's layers take no `input=`, by which diffusers calls these two of each motion module.
    idle_layers = rf".*\.{MOTION_MODULES}\.\d+\.proj_(in|out)"
    trained_weights = rf".*\.{MOTION_MODULES}\..*"

    def __init__(self, pipeline: AnimateDiffPipeline, name: str) -> None:
        config = pipeline.scheduler.config
        if config.get("prediction_type", "epsilon") != "epsilon" or config.get("rescale_betas_zero_snr"):
            raise InputError(
                f"The scheduler of {name} has prediction_type {config.get('prediction_type')!r} and "
                f"rescale_betas_zero_snr {config.get('rescale_betas_zero_snr')}, but AnimateDiff predicts noise: save "
                "the pipeline with a DDIMScheduler of prediction_type 'epsilon' and without the rescaling."
            )
        self.timestep_sigmas = sigma_of(pipeline.scheduler.alphas_cumprod)
        """Noise level of each integer timestep, rising."""
        # The U-Net has its own copy of these weights, which training changes.
        pipeline.register_modules(motion_adapter=None)
        super().__init__(pipeline, name)
        self.lora_target_modules = [
            layer
            for layer, module in self.transformer.named_modules()
            if isinstance(module, nn.Linear)
            and MOTION_MODULES in layer
            and layer.endswith(tuple(f".{leaf}" for leaf in ATTENTION_LAYERS))
        ]

    @classmethod
    def animated(
        cls, folder: Path, adapter: str | Path, dtype: torch.dtype, options: Mapping[str, Any]
    ) -> tuple[Any, dict[str, dict[str, str]]]:
        """The pipeline of an image model with a motion adapter, and name and SHA-256 of the adapter's file.

        Args:
            folder: of a Stable Diffusion pipeline, or of AnimateDiff's, whose motion modules are then replaced.
            adapter: folder or file of the motion adapter.
            options: of `from_pretrained`.

        Raises:
            InputError: the adapter cannot be read, or is of another image model.
        """
        motion = read_motion_adapter(adapter, dtype)
        file = motion_weights_file(adapter)
        is_image_model = (folder / "unet" / "config.json").is_file() and (
            read_json(folder / "unet" / "config.json").get("_class_name") != UNetMotionModel.__name__
        )
        try:
            if is_image_model:
                pipeline = cls.pipeline_class.from_pretrained(
                    folder, motion_adapter=motion, dtype=dtype, **options
                )
                pipeline.scheduler = animation_scheduler(pipeline.scheduler)
                cls._complete(pipeline, folder)
            else:
                pipeline = cls.pipeline_class.from_pretrained(folder, dtype=dtype, **options)
                pipeline.unet.load_motion_modules(motion)
        except (ValueError, RuntimeError, AttributeError) as error:
            raise InputError(
                f"The motion adapter {adapter} does not fit the image model in {folder} ({error}): give one for the "
                "same version of Stable Diffusion."
            ) from error
        return pipeline, {"motion_adapter": {"name": file.name, "sha256": file_hash(file)}}

    @classmethod
    def _complete(cls, pipeline: Any, folder: Path) -> None:
        """Gives the U-Net what diffusers leaves out when it joins an image model with a motion adapter."""

    @property
    def sigma_max(self) -> float:  # type: ignore[override]
        """Noise level of the last timestep."""
        return float(self.timestep_sigmas[-1])

    def _pipeline_defaults(self) -> GenerationDefaults:
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        frames = min(16, self.pipeline.unet.config.motion_max_seq_length)
        return GenerationDefaults(frames, side, side, 8.0, 50, 7.5, 1.0)

    # Sizes

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        super().check_size(num_frames, height, width)
        longest = self.pipeline.unet.config.motion_max_seq_length
        if num_frames > longest:
            raise InputError(
                f"{self.name} cannot make {num_frames} frames, as its motion modules have positions for {longest}: "
                f"ask for 1 to {longest} frames."
            )

    def size_multiples(self) -> tuple[int, int]:
        return self._compression()

    def _compression(self) -> tuple[int, int]:
        return self.pipeline.vae_scale_factor, 1

    def _latent_channels(self) -> int:
        return self.pipeline.unet.config.in_channels

    # Videos and latents: the autoencoder is of images, and takes the frames one by one.

    def _encode(self, videos: Tensor) -> Tensor:
        vae = self.pipeline.vae
        with own_precision(vae):
            frames = videos.to(vae.device, vae.dtype).unbind(2)
            return torch.stack([vae.encode(frame).latent_dist.mode() for frame in frames], dim=2)

    def _decode(self, latents: Tensor) -> Tensor:
        return torch.stack([self.pipeline.vae.decode(frame).sample for frame in latents.unbind(2)], dim=2)

    def normalise(self, latents: Tensor) -> Tensor:
        return latents * self.pipeline.vae.config.scaling_factor

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents / self.pipeline.vae.config.scaling_factor

    # Prompts

    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        text, _ = self.pipeline.encode_prompt(prompts, self.text_device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": text}

    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        width = self.pipeline.unet.config.cross_attention_dim
        return {"encoder_hidden_states": ((TEXT_TOKENS, width), self.dtype)}

    # The U-Net

    def sigma_schedule(self, num_inference_steps: int, latent_shape: Sequence[int] | None = None) -> Tensor:
        scheduler = ddim_scheduler(self.pipeline.scheduler)
        scheduler.set_timesteps(num_inference_steps)
        return torch.cat([self.timestep_sigmas[scheduler.timesteps.cpu().long()], torch.zeros(1)])

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        text = conditions["encoder_hidden_states"].to(self.dtype)
        scaled = latents / flow.expand(flow.weights_norm(sigma), latents)
        return {
            "sample": scaled.to(self.dtype),
            "timestep": nearest_timestep(self.timestep_sigmas, sigma),
            "encoder_hidden_states": text.repeat_interleave(latents.shape[2], dim=0),
        }

    def _to_velocity(self, output: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        known = torch.minimum(sigma, self.timestep_sigmas[-1].to(sigma))
        return velocity_from_noise(output, latents, known)

    def blocks(self) -> list[nn.Module]:
        unet = self.pipeline.unet
        return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]

    def block_shares(self) -> list[float]:
        down = [0.25**level for level in range(len(self.pipeline.unet.down_blocks))]
        return [*down, down[-1], *reversed(down)]

    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        """As `VideoModel.features`; a token is a place of a frame, of which later blocks have fewer."""
        images, _ = super().features(latents, sigma, conditions, num_blocks)
        tokens = rearrange(images, "(b f) c h w -> b (f h w) c", b=len(latents))
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    def set_attention_backend(self, backend: str) -> None:
        raise InputError(f"{self.name} has one attention kernel only: leave attention_backend unset.")

    def save_pretrained(self, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Saves the pipeline, and beside it the motion modules as a `MotionAdapter` in `motion_adapter/`."""
        super().save_pretrained(folder, state_dict)
        weights = self.transformer.state_dict() if state_dict is None else state_dict
        motion_adapter(self.pipeline.unet.config, weights).save_pretrained(folder / "motion_adapter")


class AnimateDiffSDXLGenerator(AnimateDiffGenerator):
    """Adapter of `AnimateDiffSDXLPipeline`: two text encoders, and the size of the video as a further condition."""

    pipeline_class = AnimateDiffSDXLPipeline
    text_encoders = ("text_encoder", "text_encoder_2")

    @classmethod
    def _complete(cls, pipeline: Any, folder: Path) -> None:
        """Gives the U-Net the image model's embedding of the size, whose weights diffusers leaves random."""
        prefix = "add_embedding."
        weights = read_weights(folder / "unet", prefix)
        pipeline.unet.add_embedding.load_state_dict(
            {name.removeprefix(prefix): value for name, value in weights.items()}
        )

    def _pipeline_defaults(self) -> GenerationDefaults:
        return super()._pipeline_defaults().replaced({"guidance_scale": 5.0})

    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        text, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.text_device, do_classifier_free_guidance=False
        )
        if self.pipeline.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(prompt) for prompt in prompts], device=text.device)
            text, pooled = text * said[:, None, None], pooled * said[:, None]
        return {"encoder_hidden_states": text, "text_embeds": pooled}

    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        config = self.pipeline.unet.config  # beside the pooled text stand six numbers of sizes
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return {**super().condition_shapes(), "text_embeds": ((pooled,), self.dtype)}

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        side = self.pipeline.vae_scale_factor
        size = (latents.shape[3] * side, latents.shape[4] * side)
        times = torch.tensor([*size, 0, 0, *size], dtype=self.dtype, device=latents.device)
        added = {
            "text_embeds": conditions["text_embeds"].to(self.dtype),
            "time_ids": times.expand(len(latents), -1),
        }
        return {
            **super()._transformer_arguments(latents, sigma, conditions),
            "added_cond_kwargs": added,
        }


def ddim_scheduler(scheduler: Any) -> DDIMScheduler:
    """DDIM with the noise levels and the spacing of timesteps of `scheduler`, from AnimateDiff's steps to no noise.

    The result of the last step is free of noise, and no prediction is clipped, whatever `scheduler` says.
    """
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, set_alpha_to_one=True)


def velocity_from_noise(prediction: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Velocity ε̂ − x̂₀ from predicted noise (Ho et al. 2020, arXiv 2006.11239): with x̂₀ = (x − σ ε̂) / (1 − σ) it is
    (ε̂ − x) / (1 − σ).

    Args:
        prediction: ε̂, `[batch, ...]`.
        x: x_σ = (1 − σ) x₀ + σ ε.
        sigma: `[batch]`, below 1.
    """
    return (prediction - x) / (1 - flow.expand(sigma, x))
