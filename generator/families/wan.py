"""Wan 2.1 and 2.2 (arXiv 2503.20314): one transformer (1.3B, 14B, TI2V-5B) or two (A14B)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from diffusers.loaders import PeftAdapterMixin
from PIL import Image
from torch import Tensor, nn

from generator.families.pipeline_generator import PipelineGenerator, trim, zero_pad
from generator.inputs.conditions import Conditions
from generator.inputs.frames import FrameVelocity
from generator.inputs.images import ImageConditions, LastImage, Shapes
from generator.video_model import GenerationDefaults

CLIP_TOKENS = 257
"""Tokens of the image encoder of Wan 2.1 I2V: 16 x 16 patches and one of the whole image."""


class WanExperts(nn.Module, PeftAdapterMixin):
    """The two transformers of Wan 2.2 A14B as one: noise levels from `boundary` on go to the first.

    Its children have the names of the pipeline's components, so a layer is `transformer.…` or `transformer_2.…`.
    """

    def __init__(self, transformer: nn.Module, transformer_2: nn.Module, boundary: float) -> None:
        super().__init__()
        self.transformer = transformer
        self.transformer_2 = transformer_2
        self.boundary = boundary
        self.runs_all = False, False
        """Passes with gradients, and without, that run both experts: with a row of no weight where one has none."""

    @property
    def config(self) -> dict[str, Any]:
        """Both configurations and where one hands over to the other."""
        first, second = (
            {name: value for name, value in dict(expert.config).items() if not name.startswith("_")}
            for expert in self.experts()
        )
        return {"transformer": first, "transformer_2": second, "boundary": self.boundary}

    @property
    def _keep_in_fp32_modules(self) -> list[str]:
        return self.transformer._keep_in_fp32_modules  # type: ignore[return-value]

    def experts(self) -> tuple[Any, Any]:
        """The transformer of high noise levels and that of low ones."""
        return self.transformer, self.transformer_2

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Any = None) -> None:
        for expert in self.experts():
            expert.enable_gradient_checkpointing(gradient_checkpointing_func)

    def disable_gradient_checkpointing(self) -> None:
        for expert in self.experts():
            expert.disable_gradient_checkpointing()

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """The velocity `[batch, channels, frames, height, width]`, each row from the expert of its noise level."""
        noisy = timestep >= self.boundary * 1000
        alone = not self.runs_all[0 if torch.is_grad_enabled() else 1]
        if alone and bool(noisy.all()):
            return self.transformer(hidden_states, timestep, encoder_hidden_states, return_dict=False)
        if alone and not bool(noisy.any()):
            return self.transformer_2(hidden_states, timestep, encoder_hidden_states, return_dict=False)
        # An image that is given stands in further channels of the input.
        velocity = torch.empty_like(hidden_states[:, : self.experts()[0].config.out_channels])
        for rows, expert in ((noisy, self.transformer), (~noisy, self.transformer_2)):
            own = rows.nonzero()[:, 0]
            shown = own if len(own) else own.new_zeros(1)
            part = expert(
                hidden_states[shown], timestep[shown], encoder_hidden_states[shown], return_dict=False
            )[0]
            velocity = velocity.to(part.dtype)
            velocity = velocity.index_put((own,), part) if len(own) else velocity + 0 * part.sum()
        return (velocity,)


class WanGenerator(PipelineGenerator):
    """Adapter of `WanPipeline`."""

    pipeline_class = WanPipeline
    block_lists = ("blocks",)
    shares_tokens = True
    max_sequence_length = 512
    """Length that the pipeline's own call uses; its `encode_prompt` alone would use 226."""
    expert_guidance_scales = 4.0, 3.0
    """Guidance of the transformers of high and low noise, by the model card."""

    def __init__(self, pipeline: WanPipeline, name: str) -> None:
        self._experts: WanExperts | None = None
        second, boundary = getattr(pipeline, "transformer_2", None), pipeline.config.get("boundary_ratio")
        if second is not None and boundary is not None:
            self._experts = WanExperts(pipeline.transformer, second, boundary)
        super().__init__(pipeline, name)

    @property
    def transformer(self) -> nn.Module:
        return self.pipeline.transformer if self._experts is None else self._experts

    @property
    def boundary(self) -> float | None:
        return None if self._experts is None else self._experts.boundary

    def _latent_channels(self) -> int:
        return self.pipeline.vae.config.z_dim

    def _pipeline_defaults(self) -> GenerationDefaults:
        scheduler = self.pipeline.scheduler.config
        # UniPC calls it flow_shift; FlowMatchEuler, shift.
        shift = scheduler.get("flow_shift", scheduler.get("shift", 3.0))
        if self.pipeline.config.get("expand_timesteps"):
            return GenerationDefaults(121, 704, 1280, 24.0, 50, 5.0, shift)
        if self._experts is not None:
            high, low = self.expert_guidance_scales
            return GenerationDefaults(81, 480, 832, 16.0, 40, high, shift, low)
        return GenerationDefaults(81, 480, 832, 16.0, 50, 5.0, shift)

    def size_multiples(self) -> tuple[int, int]:
        space, time = self._compression()
        return space * self.pipeline.transformer.config.patch_size[1], time

    def _compression(self) -> tuple[int, int]:
        return self.pipeline.vae_scale_factor_spatial, self.pipeline.vae_scale_factor_temporal

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.pipeline.vae.config
        mean, std = (torch.tensor(values).to(like) for values in (config.latents_mean, config.latents_std))
        return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)

    def normalise(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return latents * std + mean

    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        text, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            device=self.text_device,
        )
        # What is past the end of a prompt is exactly zero and is put back when the transformer is called.
        return {"encoder_hidden_states": trim(text, (text != 0).any(dim=2))[0]}

    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        width = self.pipeline.transformer.config.text_dim
        return {"encoder_hidden_states": ((self.max_sequence_length, width), self.dtype)}

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        text = zero_pad(conditions["encoder_hidden_states"], self.max_sequence_length)
        return {
            "hidden_states": latents.to(self.dtype),
            "timestep": sigma.float() * 1000,
            "encoder_hidden_states": text.to(self.dtype),
        }

    @property
    def frames(self) -> FrameVelocity | None:
        # TI2V-5B has a noise level for each token.
        expands = bool(self.pipeline.config.get("expand_timesteps"))
        return FrameVelocity(self._frame_velocity, self.name) if expands else None

    def _frame_velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        _: float | None,
        __: bool,
        transformer: nn.Module | None,
    ) -> Tensor:
        arguments = self._transformer_arguments(latents, sigma[:, 0], conditions)
        _, height, width = self.pipeline.transformer.config.patch_size
        tokens = (latents.shape[3] // height) * (latents.shape[4] // width)
        arguments["timestep"] = (sigma.float() * 1000).repeat_interleave(tokens, dim=1)
        module = self.transformer if transformer is None else transformer
        return module(**arguments, return_dict=False)[0].float()

    def run_all_experts(self, when_sampling: bool) -> None:
        if self._experts is not None:
            self._experts.runs_all = True, when_sampling

    def blocks(self) -> list[nn.Module]:
        if self._experts is None:
            return super().blocks()
        return [block for expert in self._experts.experts() for block in expert.blocks]

    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        if self._experts is None:
            return super().features(latents, sigma, conditions, num_blocks)
        # A reward model looks at nearly clean latents, which the low-noise expert knows, so it is the trunk.
        return self._low_noise_trunk().features(latents, sigma, conditions, num_blocks)

    def _low_noise_trunk(self) -> WanGenerator:
        return _LowNoiseTrunk(self)


class _LowNoiseTrunk(WanGenerator):
    """A generator whose transformer is the low-noise expert alone."""

    def __init__(self, generator: WanGenerator) -> None:
        vars(self).update(vars(generator))
        self._experts = None

    @property
    def transformer(self) -> nn.Module:
        return self.pipeline.transformer_2


class WanImageToVideoGenerator(WanGenerator):
    """Adapter of `WanImageToVideoPipeline`: Wan 2.1 I2V 14B, Wan 2.2 I2V A14B, and TI2V-5B saved as that class.

    The image is seen as the latents of a video that is grey after its first frame, with a mask of what is given, in
    further channels of the input; Wan 2.1 also has its CLIP embedding.
    """

    pipeline_class = WanImageToVideoPipeline
    expert_guidance_scales = 3.5, 3.5

    @property
    def image(self) -> ImageConditions | None:
        if self.frames is not None:
            return None
        config = self.pipeline.transformer.config
        last: LastImage = "optional"
        if config.image_dim is not None:  # FLF2V has an embedding of the place of each token of two images
            last = "never" if config.pos_embed_seq_len is None else "always"
        return ImageConditions(self._image_conditions, self._image_condition_shapes, last)

    @torch.no_grad()
    def _image_conditions(self, images: Tensor, num_frames: int, last_images: Tensor | None) -> Conditions:
        _, time = self._compression()
        grey = images.new_zeros(*images.shape[:2], num_frames - 1, *images.shape[2:])
        video = torch.cat([images[:, :, None], grey], dim=2)
        if last_images is not None:
            video[:, :, -1] = last_images
        latents = self.encode(video)
        # One channel a frame of a latent frame; the first latent frame is the first frame alone.
        given = latents.new_zeros(len(latents), time, *latents.shape[2:])
        given[:, :, 0] = 1
        if last_images is not None:
            given[:, -1, -1] = 1
        conditions = {"image_latents": torch.cat([given, latents], dim=1)}
        if self.pipeline.transformer.config.image_dim is not None:
            embeds = self._image_embeds(images, latents.device)
            if last_images is not None:
                embeds = torch.stack([embeds, self._image_embeds(last_images, latents.device)], dim=1)
            conditions["image_embeds"] = embeds
        return conditions

    def _image_embeds(self, images: Tensor, device: torch.device) -> Tensor:
        """CLIP's tokens `[batch, tokens, dim]` of images `[batch, 3, height, width]` in [-1, 1]."""
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
        return self.pipeline.encode_image([Image.fromarray(picture.numpy()) for picture in pixels], device)

    def _image_condition_shapes(self, latent_shape: Sequence[int]) -> Shapes:
        _, time = self._compression()
        shapes: Shapes = {"image_latents": ((time + latent_shape[0], *latent_shape[1:]), torch.float32)}
        config = self.pipeline.transformer.config
        if config.image_dim is not None:
            images = () if config.pos_embed_seq_len is None else (2,)
            shapes["image_embeds"] = ((*images, CLIP_TOKENS, config.image_dim), self.dtype)
        return shapes

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        arguments = super()._transformer_arguments(latents, sigma, conditions)
        if self.image is not None:
            with_image = torch.cat([latents, conditions["image_latents"].to(latents)], dim=1)
            arguments["hidden_states"] = with_image.to(self.dtype)
        if "image_embeds" in conditions:
            embeds = conditions["image_embeds"].to(self.dtype)
            # The transformer takes two images as two rows, those of one video next to each other.
            arguments["encoder_hidden_states_image"] = embeds.flatten(0, 1) if embeds.ndim == 4 else embeds
        return arguments

    def _low_noise_trunk(self) -> WanGenerator:
        return _LowNoiseImageTrunk(self)


class _LowNoiseImageTrunk(_LowNoiseTrunk, WanImageToVideoGenerator):
    """The low-noise expert of a model that sees an image."""
