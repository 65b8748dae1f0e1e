"""The built-in video diffusion transformer: every input is a token, with long skips.

After U-ViT (Bao et al., arXiv 2209.12152): the noise level, the text and the spacetime latent patches stand in one
sequence `[time | text | patches]`, every token attends to every other, and block i of the first half is joined to
block -i of the second half by a long skip. Positions are rotary (arXiv 2104.09864) in three axes, measured from the
centre of the clip, so that sizes and durations outside training degrade gently. `conditioning="adaln"` replaces the
time token by adaLN-single (PixArt-alpha, arXiv 2310.00426).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from generator.native.blocks import (
    AlongTime,
    AttentionPattern,
    Block,
    LevelModulation,
    WithinFrames,
    linear_velocity,
    patch_coordinates,
    repeat_views,
    rotary_angles,
    sinusoidal_embedding,
)
from generator.native.packed_forward import PackedForward
from generator.native.packing import ClipShape


class NativeVideoTransformer3DModel(PackedForward, ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):
    """Predicts the velocity `noise - latents` of rectified flow from noisy latents, noise level and text.

    Args:
        in_channels: channels of the latents.
        patch_size: `(frames, rows, columns)` of latents that make one token: `(1, 2, 2)` are spatial patches, `(2, 2,
            2)` spacetime patches.
        hidden_size: width of the tokens.
        num_layers: number of blocks; odd with long skips (one block in the middle).
        num_attention_heads: heads of the self-attention.
        text_dim: width of the text encoder's output.
        mlp_ratio: hidden width of the MLP over `hidden_size`.
        conditioning: `"tokens"` gives the noise level as a token, `"adaln"` as modulation of every block.
        long_skips: join the blocks of the two halves.
        rope_axes_dim: channels of a head for time, rows and columns.
        rope_theta: base of the rotary frequencies.
        initialization: `"normal"` draws matrices with standard deviation 0.02, `"xavier"` scales them by their
            sides (Glorot and Bengio 2010), which learns faster at these widths.
        attention: `"full"`: every token attends to every other. `"separable"`: each block attends within frames, then
            along time, which costs less for many frames.
        linear_velocity: adds `linear_velocity(x, sigma)` to the output, so that the blocks learn what remains.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _repeated_blocks = ["Block"]  # noqa: RUF012

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
    ) -> None:
        super().__init__()
        if attention not in ("full", "separable"):
            raise ValueError(f"attention is {attention!r}, but must be 'full' or 'separable'.")
        if initialization not in ("normal", "xavier"):
            raise ValueError(f"initialization is {initialization!r}, but must be 'normal' or 'xavier'.")
        if conditioning not in ("tokens", "adaln"):
            raise ValueError(f"conditioning is {conditioning!r}, but must be 'tokens' or 'adaln'.")
        if sum(rope_axes_dim) != hidden_size // num_attention_heads:
            raise ValueError(
                f"rope_axes_dim {tuple(rope_axes_dim)} sums to {sum(rope_axes_dim)}, but a head has "
                f"{hidden_size // num_attention_heads} channels."
            )
        patch_dim = in_channels * math.prod(patch_size)
        modulated = conditioning == "adaln"
        self.patch_embed = nn.Linear(patch_dim, hidden_size)
        self.frame_kind_embed = nn.Parameter(torch.zeros(2, hidden_size))
        self.position_embed = nn.Linear(6 * 16, hidden_size)
        self.text_embed = nn.Linear(text_dim, hidden_size)
        self.time_embed = nn.Sequential(
            nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.time_modulation = nn.Linear(hidden_size, 6 * hidden_size) if modulated else None
        half = num_layers // 2
        self.blocks = nn.ModuleList(
            Block(
                hidden_size,
                num_attention_heads,
                mlp_ratio,
                skip=long_skips and i >= num_layers - half,
                modulated=modulated,
                separable=attention == "separable",
            )
            for i in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(hidden_size)
        self.proj_out = nn.Linear(hidden_size, patch_dim)
        self.gradient_checkpointing = False
        self._initialise(initialization)

    def _initialise(self, initialization: str) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if initialization == "xavier":
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            if block.skip_linear is not None:
                dim = block.skip_linear.out_features
                with torch.no_grad():
                    block.skip_linear.weight.copy_(torch.cat([torch.eye(dim), torch.zeros(dim, dim)], dim=1))
            if block.scale_shift_table is not None:
                with torch.no_grad():
                    block.scale_shift_table[[2, 5]] = 1.0
            if block.temporal_attn is not None:
                block.temporal_attn.start_at_zero()
        if self.time_modulation is not None:
            nn.init.zeros_(self.time_modulation.weight)
        nn.init.zeros_(self.proj_out.weight)

    def _embed(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor | None,
        seconds_per_frame: float,
        key_frames: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None, int]:
        """Tokens `[batch, tokens, dim]`, modulation, rotary cosine and sine, mask of real tokens, prefix tokens."""
        p_t = self.config.patch_size[0]
        frames, height, width, seconds_per_patch, _ = self.clip_shape(latents.shape, seconds_per_frame)
        patches = self.patchify(latents)
        coordinates = patch_coordinates(frames, height, width, seconds_per_patch, latents.device)
        extent = [
            torch.full_like(coordinates[:, :1], value)
            for value in (frames * seconds_per_patch * 2, height, width)
        ]
        place = sinusoidal_embedding(torch.cat([coordinates, *extent], dim=1), 16, max_period=100.0).flatten(
            1
        )
        video = self.patch_embed(patches) + self.position_embed(place.to(latents.dtype))
        single = frames if key_frames else 1
        latent_frames, image_frames = self.frame_kind_embed.split(1)
        kind = torch.cat([image_frames.expand(single, -1), latent_frames.expand(frames - single, -1)])
        video = video + repeat_views(kind, height * width, dim=0)
        prefix = [self.text_embed(text)]
        modulation = None
        if self.time_modulation is None:
            whole = timestep if timestep.ndim == 1 else timestep.amax(dim=1)
            time = self.time_embed(sinusoidal_embedding(whole, 256).to(latents.dtype))[:, None]
            prefix.insert(0, time)
            if (
                timestep.ndim == 2
            ):  # the time token holds the largest level; frames add their difference to it
                own = self.time_embed(sinusoidal_embedding(timestep[:, ::p_t], 256).to(latents.dtype))
                video = video + repeat_views(own - time, height * width, dim=1)
        else:
            modulation = self._modulation(timestep, latents.dtype, text.shape[1], height * width)
        tokens = torch.cat([*prefix, video], dim=1)
        num_prefix = tokens.shape[1] - video.shape[1]
        cos, sin = rotary_angles(
            F.pad(coordinates, (0, 0, num_prefix, 0)),
            tuple(self.config.rope_axes_dim),
            self.config.rope_theta,
        )
        mask = None
        if text_mask is not None and not (text_mask.device.type == "cpu" and bool(text_mask.all())):
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            start = num_prefix - text.shape[1]
            mask[:, start:num_prefix] = text_mask.bool()
        return tokens, modulation, cos.to(tokens.dtype), sin.to(tokens.dtype), mask, num_prefix

    def _modulation(
        self, timestep: Tensor, dtype: torch.dtype, num_text: int, tokens_per_frame: int
    ) -> Tensor:
        """Modulation `[batch, 1 or tokens, 6, dim]`; with a level for each frame, text takes the largest one."""
        assert self.time_modulation is not None
        if timestep.ndim == 2:
            timestep = torch.cat(
                [timestep.amax(dim=1, keepdim=True), timestep[:, :: self.config.patch_size[0]]], 1
            )
        time = self.time_embed(sinusoidal_embedding(timestep, 256).to(dtype))
        modulation = rearrange(self.time_modulation(F.silu(time)), "... (k d) -> ... k d", k=6)
        if timestep.ndim == 1:
            return modulation[:, None]
        of_text = modulation[:, :1].expand(-1, num_text, -1, -1)
        return torch.cat([of_text, repeat_views(modulation[:, 1:], tokens_per_frame, dim=1)], dim=1)

    def _run_blocks(self, embedded: tuple[Any, ...], num_blocks: int, frames: int) -> Tensor:
        """Tokens after the first `num_blocks` blocks, of `frames` frames of patches."""
        x, modulation, cos, sin, mask, num_prefix = embedded
        if self.config.attention == "separable":
            prefix_mask = None if mask is None else mask[:, :num_prefix]
            arguments = (frames, num_prefix, prefix_mask)
            patterns: tuple[Any, Any] = WithinFrames(*arguments), AlongTime(*arguments)
        else:
            patterns = None if mask is None else mask[:, None, None], None
        return self._through_blocks(x, modulation, cos, sin, patterns, num_blocks)

    def _through_blocks(
        self,
        x: Tensor,
        modulation: Tensor | LevelModulation | None,
        cos: Tensor,
        sin: Tensor,
        patterns: tuple[AttentionPattern | Tensor | None, AttentionPattern | None],
        num_blocks: int,
    ) -> Tensor:
        skips: list[Tensor] = []
        for i, block in enumerate(self.blocks[:num_blocks]):
            skip = skips.pop() if block.skip_linear is not None else None
            arguments = (x, skip, modulation, cos, sin, *patterns)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *arguments)
            else:
                x = block(*arguments)
            if i < len(self.blocks) // 2:
                skips.append(x)
        return x

    def forward(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        timestep: Tensor | Sequence[Tensor],
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        seconds_per_frame: float = 0.5,
        key_frames: bool = False,
        return_dict: bool = True,
        row_length: int | None = None,
        kept: Sequence[np.ndarray] | None = None,
    ) -> Transformer2DModelOutput | tuple[Any]:
        """Velocity of noisy latents.

        Args:
            hidden_states: noisy latents `[batch, channels, frames, height, width]`, or a sequence of
                `[channels, frames, height, width]` of any sizes, which are packed into one row of tokens.
            timestep: 1000 times the noise level sigma, float32: `[batch]`, or `[batch, frames]` with a level for
                each latent frame (0 for known ones; equal within a patch). Of packed latents also a sequence of
                `[frames]`.
            encoder_hidden_states: text embeddings `[batch, length, text_dim]`.
            encoder_attention_mask: `[batch, length]`, 1 where a text token is real.
            seconds_per_frame: duration of one latent frame in seconds.
            key_frames: every latent frame is an image of its own, `seconds_per_frame` after the one before; else
                only the first is, and the others hold as many frames as the autoencoder compresses into one.
            return_dict: give a `Transformer2DModelOutput` instead of a tuple.
            row_length: of packed latents: tokens of the row, so that it has one shape whatever it holds.
            kept: of packed latents: the numbers of the patches of each that are not dropped; the velocity of a
                dropped one is 0.
        """
        if not isinstance(hidden_states, Tensor):
            velocities = self._forward_clips(
                hidden_states,
                timestep,
                encoder_hidden_states,
                encoder_attention_mask,
                seconds_per_frame,
                key_frames,
                row_length,
                kept,
            )
            return Transformer2DModelOutput(sample=velocities) if return_dict else (velocities,)
        assert isinstance(timestep, Tensor)
        embedded = self._embed(
            hidden_states,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            seconds_per_frame,
            key_frames,
        )
        shape = self.clip_shape(hidden_states.shape, seconds_per_frame, key_frames)
        x = self._run_blocks(embedded, len(self.blocks), shape.frames)
        patches = self.proj_out(self.norm_out(x[:, -shape.tokens :]))
        velocity = self.unpatchify(patches, shape, hidden_states.shape[2])
        if self.config.linear_velocity:
            sigma = timestep / 1000 if timestep.ndim == 1 else timestep[:, None, :, None, None] / 1000
            velocity = velocity + linear_velocity(hidden_states, sigma)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def patchify(self, latents: Tensor) -> Tensor:
        """Patches `[batch, tokens, channels of a patch]` of latents `[batch, channels, frames, height, width]`.

        Where patches have several frames, zeros before the first frame fill them up.
        """
        p_t, p_h, p_w = self.config.patch_size
        latents = F.pad(latents, (0, 0, 0, 0, -latents.shape[2] % p_t, 0)) if p_t > 1 else latents
        return rearrange(latents, "b c (f p) (h q) (w r) -> b (f h w) (c p q r)", p=p_t, q=p_h, r=p_w)

    def clip_shape(
        self, shape: Sequence[int], seconds_per_frame: float, key_frames: bool = False
    ) -> ClipShape:
        """Size in patches of latents of `shape` `[…, frames, height, width]`."""
        frames, height, width = (-(-n // p) for n, p in zip(shape[-3:], self.config.patch_size, strict=True))
        return ClipShape(
            frames, height, width, float(seconds_per_frame) * self.config.patch_size[0], key_frames
        )

    def unpatchify(self, patches: Tensor, shape: ClipShape, num_frames: int) -> Tensor:
        """The inverse of `patchify`, for latents of `num_frames` frames that are `shape` in patches."""
        p_t, p_h, p_w = self.config.patch_size
        latents = rearrange(
            patches,
            "b (f h w) (c p q r) -> b c (f p) (h q) (w r)",
            f=shape.frames,
            h=shape.height,
            w=shape.width,
            p=p_t,
            q=p_h,
            r=p_w,
        )
        return latents[:, :, -num_frames:]

    def features(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
        num_blocks: int,
        seconds_per_frame: float = 0.5,
        key_frames: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Tokens `[batch, tokens, dim]` after the first `num_blocks` blocks, and the mask of real ones."""
        embedded = self._embed(
            hidden_states,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            seconds_per_frame,
            key_frames,
        )
        mask = embedded[4]
        shape = self.clip_shape(hidden_states.shape, seconds_per_frame)
        x = self._run_blocks(embedded, num_blocks, shape.frames)
        return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
