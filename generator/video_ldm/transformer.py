"""The denoiser of Video LDM: the built-in image transformer, frame by frame, and temporal layers between its blocks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor

from generator.native.blocks import linear_velocity, repeat_views
from generator.native.transformer import NativeVideoTransformer3DModel
from generator.video_ldm.config import TASKS
from generator.video_ldm.temporal import TemporalInputs, TemporalLayers


# `from_pretrained` of a pipeline looks for `ModelMixin` in the module of a component.
class VideoLDMTransformer3DModel(NativeVideoTransformer3DModel, ModelMixin):
    """Predicts the velocity of the frames of a video, each of which is an image in latent space.

    All layers of the image model have its names, so its weights and LoRA fit. Those that mix frames are in `temporal`.
    With every alpha at 1 the output is that of the image model for each frame alone, bit for bit.

    Args:
        image_seconds_per_frame: duration that the image model was told of its one latent frame.
        task: one of `TASKS`.
        others: of the image model, as `NativeVideoTransformer3DModel` takes them.
    """

    image_model_class: ClassVar[type] = NativeVideoTransformer3DModel
    _no_split_modules = ["Block", "TemporalLayer"]  # noqa: RUF012
    _repeated_blocks = ["Block", "TemporalLayer"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        hidden_size: int = 256,
        num_layers: int = 13,
        num_attention_heads: int = 4,
        text_dim: int = 256,
        mlp_ratio: float = 4.0,
        conditioning: str = "tokens",
        long_skips: bool = True,
        rope_axes_dim: tuple[int, int, int] = (16, 24, 24),
        rope_theta: float = 100.0,
        initialization: str = "normal",
        linear_velocity: bool = False,
        attention: str = "full",
        image_seconds_per_frame: float = 0.5,
        task: str = "generation",
    ) -> None:
        if attention != "full" or patch_size[0] != 1:
            raise ValueError(
                f"attention is {attention!r} and patch_size {tuple(patch_size)}, but frames are images here: they need "
                "full attention and patches of one frame."
            )
        if task not in TASKS:
            raise ValueError(f"task is {task!r}, but must be one of {', '.join(TASKS)}.")
        super().__init__(
            in_channels=in_channels,
            patch_size=patch_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_attention_heads=num_attention_heads,
            text_dim=text_dim,
            mlp_ratio=mlp_ratio,
            conditioning=conditioning,
            long_skips=long_skips,
            rope_axes_dim=rope_axes_dim,
            rope_theta=rope_theta,
            initialization=initialization,
            linear_velocity=linear_velocity,
            attention=attention,
        )
        patch_dim = in_channels * math.prod(patch_size)
        self.temporal = TemporalLayers(hidden_size, num_attention_heads, num_layers, patch_dim)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        seconds_per_frame: float = 0.125,
        key_frames: bool = True,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Any]:
        """Velocity of noisy latents.

        Args:
            hidden_states: `[batch, channels, frames, height, width]`.
            timestep: 1000 times the noise level sigma, float32: `[batch]`, or `[batch, frames]`, where frames at level
                0 are context: their latents and their mask are told to the temporal layers.
            encoder_hidden_states: text embeddings `[batch, length, text_dim]`.
            encoder_attention_mask: `[batch, length]`, 1 where a text token is real.
            seconds_per_frame: between frames; its inverse is the frame rate that the temporal layers are told.
            key_frames: not used; every latent frame is an image of its own.
            return_dict: give a `Transformer2DModelOutput` instead of a tuple.
        """
        frames = hidden_states.shape[2]
        x, embedded, shared = self._begin(
            hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, seconds_per_frame
        )
        x = self._through(embedded, shared, len(self.blocks))
        shape = self.clip_shape((1, *hidden_states.shape[3:]), self.config.image_seconds_per_frame)
        velocity = self.unpatchify(self.proj_out(self.norm_out(x[:, -shape.tokens :])), shape, 1)
        velocity = rearrange(velocity, "(b f) c 1 h w -> b c f h w", f=frames)
        if self.config.linear_velocity:
            sigma = timestep / 1000 if timestep.ndim == 1 else timestep[:, None, :, None, None] / 1000
            velocity = velocity + linear_velocity(hidden_states, sigma)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def _begin(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        mask: Tensor | None,
        seconds_per_frame: float,
    ) -> tuple[Tensor, tuple[Any, ...], TemporalInputs]:
        """Tokens of the frames as images `[batch x frames, tokens, dim]`, all that `_embed` gives of them, and the
        inputs of the temporal layers."""
        frames = latents.shape[2]
        levels = timestep[:, None].expand(-1, frames) if timestep.ndim == 1 else timestep
        context = torch.zeros_like(levels, dtype=torch.bool) if timestep.ndim == 1 else levels == 0
        images = rearrange(latents, "b c f h w -> (b f) c 1 h w")
        embedded = self._embed(
            images,
            levels.flatten(),
            repeat_views(text, frames, dim=0),
            None if mask is None else repeat_views(mask, frames, dim=0),
            self.config.image_seconds_per_frame,
            False,
        )
        patches = rearrange(self.patchify(images), "(b f) n p -> b f n p", f=frames)
        shared = self.temporal.shared_inputs(levels, 1 / seconds_per_frame, patches, context)
        return embedded[0], embedded, shared

    def _through(self, embedded: tuple[Any, ...], shared: TemporalInputs, num_blocks: int) -> Tensor:
        """Tokens `[batch x frames, tokens, dim]` after the first `num_blocks` blocks and their temporal layers."""
        x, modulation, cos, sin, mask, num_prefix = embedded
        pattern = None if mask is None else mask[:, None, None]
        frames = shared.modulation.shape[1]
        checkpointing = torch.is_grad_enabled() and self.gradient_checkpointing
        skips: list[Tensor] = []
        for i, (block, layer) in enumerate(zip(self.blocks[:num_blocks], self.temporal.layers)):
            skip = skips.pop() if block.skip_linear is not None else None
            arguments = (x, skip, modulation, cos, sin, pattern)
            x = self._gradient_checkpointing_func(block, *arguments) if checkpointing else block(*arguments)
            prefix, places = x[:, :num_prefix], rearrange(x[:, num_prefix:], "(b f) n d -> b f n d", f=frames)
            mixed = (
                self._gradient_checkpointing_func(layer, places, shared)
                if checkpointing
                else layer(places, shared)
            )
            x = torch.cat([prefix, rearrange(mixed, "b f n d -> (b f) n d")], dim=1)
            if i < len(self.blocks) // 2:
                skips.append(x)
        return x

    def features(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
        num_blocks: int,
        seconds_per_frame: float = 0.125,
        key_frames: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Tokens `[batch, frames x places, dim]` of the video after the first `num_blocks` blocks, all of them real."""
        x, embedded, shared = self._begin(
            hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, seconds_per_frame
        )
        x = self._through(embedded, shared, num_blocks)[:, embedded[5] :]
        tokens = rearrange(x, "(b f) n d -> b (f n) d", b=len(hidden_states))
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    def spatial_state(self) -> dict[str, Tensor]:
        """Weights that the image model has too, by its names."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("temporal.")}
