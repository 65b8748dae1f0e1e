"""HunyuanVideo (arXiv 2412.03603) and HunyuanVideo 1.5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import HunyuanVideo15ImageToVideoPipeline, HunyuanVideo15Pipeline, HunyuanVideoPipeline
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import HunyuanVideo15AttnBlock
from PIL import Image
from torch import Tensor, nn

from generator.families.pipeline_generator import PipelineGenerator, trim
from generator.inputs.conditions import Conditions, split_images
from generator.inputs.images import ImageConditions, Shapes
from generator.video_model import GenerationDefaults

ATTENTION_PROJECTIONS = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
)  # fmt: skip


def attention_layers(transformer: nn.Module) -> list[str]:
    """Full names of the attention's linear layers in the blocks; the plain names would also hit the token refiner."""
    return [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(("transformer_blocks.", "single_transformer_blocks."))
        and name.endswith(tuple(f".attn.{projection}" for projection in ATTENTION_PROJECTIONS))
    ]


def _cast_to_weights(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (arguments[0].to(next(module.parameters()).dtype), *arguments[1:])


def frame_causal_mask(
    frames: int, pixels: int, dtype: torch.dtype, device: torch.device, batch_size: int | None = None
) -> Tensor:
    """`[frames pixels, frames pixels]`, after `[batch_size]` if given: 0 where a pixel may look, at its own frame and
    those before it, else minus infinity. HunyuanVideo 1.5's autoencoder itself fills it row by row, 49,000 times for 5
    seconds at 480p."""
    length = frames * pixels
    mask = torch.full((length, length), float("-inf"), dtype=dtype, device=device)
    for end in range(pixels, length + 1, pixels):
        mask[end - pixels : end, :end] = 0
    return mask if batch_size is None else mask.expand(batch_size, -1, -1)


class HunyuanVideoGenerator(PipelineGenerator):
    """Adapter of `HunyuanVideoPipeline`.

    Attributes:
        embedded_guidance_scale: the guidance that the distilled transformer is told, in one call; classifier-free
            guidance with two calls is off by default.
    """

    pipeline_class = HunyuanVideoPipeline
    block_lists: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    text_encoders = ("text_encoder", "text_encoder_2")
    max_sequence_length = 256
    embedded_guidance_scale = 6.0

    def __init__(self, pipeline: Any, name: str) -> None:
        super().__init__(pipeline, name)
        self.lora_target_modules = attention_layers(pipeline.transformer)

    def _pipeline_defaults(self) -> GenerationDefaults:
        return GenerationDefaults(129, 720, 1280, 24.0, 50, 1.0, self.pipeline.scheduler.config.shift)

    def size_multiples(self) -> tuple[int, int]:
        space, time = self._compression()
        return space * self.pipeline.transformer.config.patch_size, time

    def _compression(self) -> tuple[int, int]:
        return self.pipeline.vae_scale_factor_spatial, self.pipeline.vae_scale_factor_temporal

    def normalise(self, latents: Tensor) -> Tensor:
        return latents * self.pipeline.vae.config.scaling_factor

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents / self.pipeline.vae.config.scaling_factor

    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        text, pooled, mask = self.pipeline.encode_prompt(
            prompts, device=self.text_device, max_sequence_length=self.max_sequence_length
        )
        text, mask = trim(text, mask)
        return {
            "encoder_hidden_states": text,
            "encoder_attention_mask": mask,
            "pooled_projections": pooled,
        }

    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        config = self.pipeline.transformer.config
        return {
            "encoder_hidden_states": ((self.max_sequence_length, config.text_embed_dim), self.dtype),
            "encoder_attention_mask": ((self.max_sequence_length,), torch.bool),
            "pooled_projections": ((config.pooled_projection_dim,), self.dtype),
        }

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        guidance = None
        if self.pipeline.transformer.config.guidance_embeds:
            guidance = sigma.new_full(sigma.shape, self.embedded_guidance_scale * 1000).to(self.dtype)
        return {
            "hidden_states": latents.to(self.dtype),
            "timestep": sigma.float() * 1000,
            "encoder_hidden_states": conditions["encoder_hidden_states"].to(self.dtype),
            "encoder_attention_mask": conditions["encoder_attention_mask"].to(self.dtype),
            "pooled_projections": conditions["pooled_projections"].to(self.dtype),
            "guidance": guidance,
        }


class HunyuanVideo15Generator(HunyuanVideoGenerator):
    """Adapter of `HunyuanVideo15Pipeline` for text to video."""

    pipeline_class = HunyuanVideo15Pipeline
    block_lists = ("transformer_blocks",)

    def __init__(self, pipeline: Any, name: str) -> None:
        super().__init__(pipeline, name)
        # Its mid-block attention cannot take more than one video at once.
        pipeline.vae.enable_slicing()
        for module in pipeline.vae.modules():
            if isinstance(module, HunyuanVideo15AttnBlock):
                module.prepare_causal_attention_mask = frame_causal_mask
        # The model casts the sinusoids of the timestep to the timestep's dtype, and a timestep in bfloat16 has steps
        # of 4 near 1000; so the timestep stays in float32 and its sinusoids are cast here.
        for embedder in (
            pipeline.transformer.time_embed.timestep_embedder,
            getattr(pipeline.transformer.time_embed, "timestep_embedder_r", None),
        ):
            if embedder is not None:
                embedder.register_forward_pre_hook(_cast_to_weights)

    def _pipeline_defaults(self) -> GenerationDefaults:
        pipeline = self.pipeline
        side, _ = self.size_multiples()
        sizes = pipeline.video_processor.calculate_default_height_width(9, 16, pipeline.target_size)
        height, width = (max(1, size // side) * side for size in sizes)
        scale = pipeline.guider.config.guidance_scale
        return GenerationDefaults(121, height, width, 24.0, 50, scale, pipeline.scheduler.config.shift)

    def _latent_channels(self) -> int:
        return self.pipeline.vae.config.latent_channels

    @property
    def idle_layers(self) -> str:  # type: ignore[override]
        """The layers of the last block after which nobody reads the text."""
        last = self.pipeline.transformer.config.num_layers - 1
        return rf"transformer_blocks\.{last}\.(attn\.to_add_out|ff_context|norm2_context)(\..*)?"

    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        text, mask, glyphs, glyph_mask = self.pipeline.encode_prompt(
            prompts, device=self.text_device, batch_size=len(prompts)
        )
        text, mask = trim(text, mask)
        glyphs, glyph_mask = trim(glyphs, glyph_mask)
        return {
            "encoder_hidden_states": text,
            "encoder_attention_mask": mask,
            "encoder_hidden_states_2": glyphs,
            "encoder_attention_mask_2": glyph_mask,
        }

    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        config, pipeline = self.pipeline.transformer.config, self.pipeline
        lengths = pipeline.tokenizer_max_length, pipeline.tokenizer_2_max_length
        return {
            "encoder_hidden_states": ((lengths[0], config.text_embed_dim), self.dtype),
            "encoder_attention_mask": ((lengths[0],), torch.bool),
            "encoder_hidden_states_2": ((lengths[1], config.text_embed_2_dim), self.dtype),
            "encoder_attention_mask_2": ((lengths[1],), torch.bool),
        }

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        pipeline, dtype = self.pipeline, self.dtype
        batch, channels = latents.shape[:2]
        # Text to video: no first frame is given, and its mask says so.
        no_frame = latents.new_zeros(batch, channels + 1, *latents.shape[2:])
        no_image = torch.zeros(
            batch,
            pipeline.vision_num_semantic_tokens,
            pipeline.vision_states_dim,
            dtype=dtype,
            device=latents.device,
        )
        return {
            "hidden_states": torch.cat([latents, no_frame], dim=1).to(dtype),
            "timestep": sigma.float() * 1000,
            "image_embeds": no_image,
            **{name: value.to(dtype) for name, value in conditions.items()},
        }


class HunyuanVideo15ImageToVideoGenerator(HunyuanVideo15Generator):
    """Adapter of `HunyuanVideo15ImageToVideoPipeline`.

    The image is seen as latents, with a mask of what is given, in further channels of the first latent frame, and as
    the tokens of a SigLIP encoder.
    """

    pipeline_class = HunyuanVideo15ImageToVideoPipeline

    @property
    def image(self) -> ImageConditions:
        return ImageConditions(self._image_conditions, self._image_condition_shapes)

    @torch.no_grad()
    def _image_conditions(self, images: Tensor, num_frames: int, _: Tensor | None) -> Conditions:
        latents = self.encode(images[:, :, None])
        first = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
        frames = self.latent_shape(num_frames, *images.shape[2:])[1]
        later = first.new_zeros(*first.shape[:2], frames - 1, *first.shape[3:])
        pictures = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
        embeds = self.pipeline._get_image_embeds(
            image_encoder=self.pipeline.image_encoder,
            feature_extractor=self.pipeline.feature_extractor,
            image=[Image.fromarray(picture.numpy()) for picture in pictures],
            device=latents.device,
        )
        return {"image_latents": torch.cat([first, later], dim=2), "image_embeds": embeds}

    def _image_condition_shapes(self, latent_shape: Sequence[int]) -> Shapes:
        embeds = self.pipeline.vision_num_semantic_tokens, self.pipeline.vision_states_dim
        return {
            "image_latents": ((latent_shape[0] + 1, *latent_shape[1:]), torch.float32),
            "image_embeds": (embeds, self.dtype),
        }

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        text, shown = split_images(conditions)
        arguments = super()._transformer_arguments(latents, sigma, text)
        with_image = torch.cat([latents, shown["image_latents"].to(latents)], dim=1)
        return {
            **arguments,
            "hidden_states": with_image.to(self.dtype),
            "image_embeds": shown["image_embeds"].to(self.dtype),
        }
