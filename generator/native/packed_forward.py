"""The built-in transformer on packed rows: clips of any size side by side, each with the result that it has alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from generator.native.blocks import LevelModulation, linear_velocity, rotary_angles, sinusoidal_embedding
from generator.native.packing import ClipShape, PackedLayout, pack_layout


class PackedForward:
    """Part of `NativeVideoTransformer3DModel` that takes packed rows; its modules and `config` are declared there."""

    config: Any
    blocks: Any
    patch_embed: Any
    position_embed: Any
    text_embed: Any
    time_embed: Any
    time_modulation: Any
    frame_kind_embed: Tensor
    norm_out: Any
    proj_out: Any
    patchify: Any
    clip_shape: Any
    _through_blocks: Any
    unpatchify: Any

    def forward_packed(
        self,
        patches: Tensor,
        levels: Tensor,
        text: Tensor,
        layout: PackedLayout,
        level_index: Tensor | None = None,
    ) -> Tensor:
        """Velocity `[length, patch]` of the noisy patches of clips that share one row.

        Args:
            patches: `[length, channels of a patch]`; what stands where `layout.is_video` is False is not read.
            levels: 1000 times the noise levels, float32, `[clips or more]`; the first ones are the largest of each
                clip.
            text: text tokens of all captions `[num_text, text_dim]`.
            layout: of the row, from `pack_layout`.
            level_index: row of `levels` of each token `[length]`, at text that of its clip; by default every token's.
        """
        x, modulation, cos, sin = self._embed_packed(patches, levels, text, layout, level_index)
        if self.config.attention == "separable":
            if layout.spatial is None:
                raise ValueError("The layout is for full attention: call pack_layout with separable=True.")
            patterns = (layout.spatial, layout.temporal)
        else:
            patterns = (layout.full, None)
        x = self._through_blocks(x, modulation, cos, sin, patterns, len(self.blocks))
        velocity = self.proj_out(self.norm_out(x[0]))
        if self.config.linear_velocity:
            index = layout.clip if level_index is None else level_index
            sigma = levels.index_select(0, index)[:, None] / 1000
            velocity = velocity + linear_velocity(patches, sigma)
        return velocity * layout.is_video[:, None]

    def _embed_packed(
        self, patches: Tensor, levels: Tensor, text: Tensor, layout: PackedLayout, level_index: Tensor | None
    ) -> tuple[Tensor, LevelModulation | None, Tensor, Tensor]:
        """Tokens `[1, length, dim]`, modulation, rotary cosine and sine; as `_embed` does it for equal clips."""
        dtype = patches.dtype
        place = sinusoidal_embedding(layout.coordinates, 16, max_period=100.0).flatten(1)
        video = self.patch_embed(patches) + self.position_embed(place.to(dtype))
        latent_frame, image = self.frame_kind_embed
        video = video + torch.where(layout.image.bool()[:, None], image, latent_frame)
        time = self.time_embed(sinusoidal_embedding(levels, 256).to(dtype))
        slots = layout.full.query_ends.shape[0] - 2
        modulation = None
        if self.time_modulation is None:
            times = time[: max(slots, 1)]
            if level_index is not None:
                own, whole = (time.index_select(0, index) for index in (level_index, layout.clip))
                video = video + own - whole
        else:
            table = rearrange(self.time_modulation(F.silu(time)), "n (k d) -> n k d", k=6)
            modulation = LevelModulation.of(table, layout.clip if level_index is None else level_index)
            times = time.new_zeros(slots, time.shape[1])
        sources = torch.cat([self.text_embed(text), times, times.new_zeros(1, times.shape[1])])
        x = sources.index_select(0, layout.prefix_source) + video * layout.is_video[:, None]
        cos, sin = rotary_angles(
            layout.coordinates[:, :3], tuple(self.config.rope_axes_dim), self.config.rope_theta
        )
        return x[None], modulation, cos.to(dtype), sin.to(dtype)

    def _forward_clips(
        self,
        latents: Sequence[Tensor],
        timestep: Tensor | Sequence[Tensor],
        text: Tensor,
        text_mask: Tensor | None,
        seconds_per_frame: float,
        key_frames: bool,
        row_length: int | None,
        kept: Sequence[np.ndarray] | None,
    ) -> list[Tensor]:
        """Velocities of latents of any sizes, by one packed row; the arguments are those of `forward`."""
        batch, length = text.shape[:2]
        lengths = [length] * batch if text_mask is None else text_mask.sum(1).tolist()
        shapes = [self.clip_shape(x.shape, seconds_per_frame, key_frames) for x in latents]
        layout = pack_layout(
            shapes,
            lengths,
            [i * length for i in range(batch)],
            batch * length,
            self.time_modulation is None,
            row_length,
            kept,
            self.config.attention == "separable",
        ).to(text.device)
        flat = torch.cat([self.patchify(x[None])[0] for x in latents])
        starts = torch.tensor([0, *itertools.accumulate(s.tokens for s in shapes)], device=text.device)
        places = starts[layout.clip] + layout.patch
        patches = flat.index_select(0, places) * layout.is_video[:, None]
        levels, level_index = self._levels(timestep, shapes, layout)
        packed = self.forward_packed(patches, levels, text.flatten(0, 1), layout, level_index)
        velocity = torch.zeros_like(flat).index_add(0, places, packed.to(flat.dtype))
        return [
            self.unpatchify(part[None], shape, x.shape[1])[0]
            for part, shape, x in zip(
                velocity.split([s.tokens for s in shapes]), shapes, latents, strict=True
            )
        ]

    def _levels(
        self, timestep: Tensor | Sequence[Tensor], shapes: Sequence[ClipShape], layout: PackedLayout
    ) -> tuple[Tensor, Tensor | None]:
        """`levels` and `level_index` of `forward_packed`, from a level a clip or a level a latent frame."""
        if isinstance(timestep, Tensor) and timestep.ndim == 1:
            return timestep, None
        of_frames = [level[:: self.config.patch_size[0]] for level in timestep]
        levels = torch.cat([torch.stack([level.amax() for level in of_frames]), *of_frames])
        device = levels.device
        area = torch.tensor([s.height * s.width for s in shapes], device=device)
        starts = torch.tensor([0, *itertools.accumulate(s.frames for s in shapes)], device=device)
        own = len(shapes) + starts[layout.clip] + layout.patch // area[layout.clip]
        return levels, torch.where(layout.is_video, own, layout.clip)
