"""The network of one stage: space-time separable blocks on latents, beside those of the upsampled input.

Every block works on each frame with shared weights, within windows or on the whole frame, and then along time
(arXiv 2210.02303). The text is a prefix of every sequence; noise level and augmentation level modulate
every block (adaLN-single, arXiv 2310.00426).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from generator.cascade.conditioning import network_input, residual, velocity
from generator.native.blocks import (
    AlongTime,
    Block,
    WithinFrames,
    WithinWindows,
    patch_coordinates,
    repeat_views,
    rotary_angles,
    sinusoidal_embedding,
)

PATCH = 2
"""Rows and columns of latents that make one token."""


class StageTransformer3DModel(ModelMixin, ConfigMixin):
    """Predicts the velocity of rectified flow of the latents of a finer video from those of its upsampled input.

    Args:
        in_channels: channels of the latents.
        condition_channels: channels of the input: the latents of the upsampled video first, then any others.
        hidden_size: width of the tokens.
        num_layers: blocks.
        num_attention_heads: heads of a block.
        text_dim: width of the text embeddings.
        mlp_ratio: width of the blocks' inner layers over `hidden_size`.
        window: rows and columns of tokens that attend to each other, in turn shifted by half a window; 0 for whole
            frames.
        temporal: `"attention"` or `"convolution"` along time.
        rope_axes_dim: channels of a head that are rotated by time, row and column.
        rope_theta: base of the rotary frequencies.
        gain: for each latent channel, how much of the upsampled input is in the finer video (`conditioning.residual`).
        residual_std: for each latent channel, the standard deviation of the rest.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _repeated_blocks = ["Block"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        condition_channels: int = 8,
        hidden_size: int = 192,
        num_layers: int = 6,
        num_attention_heads: int = 3,
        text_dim: int = 256,
        mlp_ratio: float = 4.0,
        window: int = 0,
        temporal: str = "attention",
        rope_axes_dim: tuple[int, int, int] = (16, 24, 24),
        rope_theta: float = 100.0,
        gain: list[float] | None = None,
        residual_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if temporal not in ("attention", "convolution"):
            raise ValueError(f"temporal is {temporal!r}, but must be 'attention' or 'convolution'.")
        if sum(rope_axes_dim) != hidden_size // num_attention_heads:
            raise ValueError(
                f"rope_axes_dim {tuple(rope_axes_dim)} sums to {sum(rope_axes_dim)}, but a head has "
                f"{hidden_size // num_attention_heads} channels."
            )
        # Overlapping patches: an edge between two of them is seen whole by both.
        self.patch_embed = nn.Conv2d(
            in_channels + condition_channels, hidden_size, 2 * PATCH, stride=PATCH, padding=PATCH // 2
        )
        self.frame_kind_embed = nn.Parameter(torch.zeros(2, hidden_size))
        self.text_embed = nn.Linear(text_dim, hidden_size)
        self.level_embed = nn.Sequential(
            nn.Linear(2 * 256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.level_modulation = nn.Linear(hidden_size, 6 * hidden_size)
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_attention_heads, mlp_ratio, False, True, True, temporal)
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(hidden_size)
        self.proj_out = nn.Linear(hidden_size, in_channels * PATCH**2)
        self.gradient_checkpointing = False
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            assert block.temporal_attn is not None
            assert block.scale_shift_table is not None
            with torch.no_grad():
                block.scale_shift_table[[2, 5]] = 1.0
            block.temporal_attn.start_at_zero()
        nn.init.zeros_(self.level_modulation.weight)
        nn.init.zeros_(self.proj_out.weight)

    def _channel_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """`gain` and `residual_std`, 1 where they were not measured."""
        ones = [1.0] * self.config.in_channels
        found = (self.config.gain or ones, self.config.residual_std or ones)
        return like.new_tensor(found[0]), like.new_tensor(found[1])

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        condition: Tensor,
        augmentation: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        seconds_per_frame: float = 0.25,
    ) -> Tensor:
        """Velocity `[batch, in_channels, frames, height, width]` in float32.

        Args:
            hidden_states: noisy latents `[batch, in_channels, frames, height, width]`, float32; sides are even.
            timestep: 1000 times the noise level sigma, `[batch]`, float32.
            condition: noised input `[batch, condition_channels, frames, height, width]`, float32.
            augmentation: noise level of the input in [0, 1], `[batch]`, float32.
            encoder_hidden_states: text embeddings `[batch, length, text_dim]`.
            encoder_attention_mask: `[batch, length]`, 1 where a text token is real.
            seconds_per_frame: duration of one latent frame in seconds.
        """
        sigma = timestep / 1000
        upsampled = condition[:, : hidden_states.shape[1]]
        known = residual(upsampled, sigma, augmentation, *self._channel_statistics(hidden_states))
        noised = network_input(hidden_states, sigma, known)
        output = self.predict(
            noised,
            condition,
            sigma,
            augmentation,
            encoder_hidden_states,
            encoder_attention_mask,
            seconds_per_frame,
        )
        return velocity(noised, output, sigma, known)

    def predict(
        self,
        noised: Tensor,
        condition: Tensor,
        sigma: Tensor,
        augmentation: Tensor,
        text: Tensor,
        text_mask: Tensor,
        seconds_per_frame: float,
    ) -> Tensor:
        """The network's own output in float32, an estimate of `conditioning.network_target`; `noised` is from
        `conditioning.network_input`."""
        dtype = self.dtype
        frames = noised.shape[2]
        grid = torch.cat([noised, condition], dim=1).to(dtype)
        tokens = self.patch_embed(rearrange(grid, "b c f h w -> (b f) c h w"))
        height, width = tokens.shape[2:]
        kind = torch.cat([self.frame_kind_embed[:1], self.frame_kind_embed[1:].expand(frames - 1, -1)])
        video = rearrange(tokens, "(b f) d h w -> b (f h w) d", f=frames)
        video = video + repeat_views(kind, height * width, dim=0)
        x = torch.cat([self.text_embed(text.to(dtype)), video], dim=1)
        num_prefix = text.shape[1]
        coordinates = patch_coordinates(frames, height, width, seconds_per_frame, x.device)
        cos, sin = rotary_angles(
            F.pad(coordinates, (0, 0, num_prefix, 0)),
            tuple(self.config.rope_axes_dim),
            self.config.rope_theta,
        )
        levels = torch.stack([sigma, augmentation], dim=1).float() * 1000
        level = self.level_embed(sinusoidal_embedding(levels, 256).flatten(1).to(dtype))
        modulation = rearrange(self.level_modulation(F.silu(level)), "b (k d) -> b 1 k d", k=6)
        mask = None if text_mask.device.type == "cpu" and bool(text_mask.all()) else text_mask.bool()
        spatial, temporal = self._patterns(frames, num_prefix, mask, height, width)
        for number, block in enumerate(self.blocks):
            pattern = spatial[number % len(spatial)]
            arguments = (x, None, modulation, cos.to(dtype), sin.to(dtype), pattern, temporal)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *arguments)
            else:
                x = block(*arguments)
        patches = self.proj_out(self.norm_out(x[:, num_prefix:]))
        return rearrange(
            patches,
            "b (f h w) (c p q) -> b c f (h p) (w q)",
            f=frames,
            h=height,
            w=width,
            p=PATCH,
            q=PATCH,
        ).float()

    def _patterns(
        self, frames: int, num_prefix: int, mask: Tensor | None, height: int, width: int
    ) -> tuple[list[Any], AlongTime]:
        """Attention of the blocks within frames, in turn, and along time."""
        layout = (frames, num_prefix, mask)
        window = self.config.window
        if not window or (height <= window and width <= window):
            return [WithinFrames(*layout)], AlongTime(*layout)
        windows = [WithinWindows(*layout, height, width, window, shifted) for shifted in (False, True)]
        return windows, AlongTime(*layout)
