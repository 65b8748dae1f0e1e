"""The built-in video diffusion transformer: every input is a token, with long skips.

After U-ViT (Bao et al., arXiv 2209.12152): the noise level, the text and the spacetime latent patches stand in one
sequence `[time | text | patches]`, every token attends to every other, and block i of the first half is joined to
block -i of the second half by a long skip. Positions are rotary (arXiv 2104.09864) in three axes, measured from the
centre of the clip, so that sizes and durations outside training degrade gently. `conditioning="adaln"` replaces the
time token by adaLN-single (PixArt-alpha, arXiv 2310.00426).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn


def sinusoidal_embedding(value: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sine and cosine features `[..., dim]` of `value [...]`, computed in float32 (arXiv 1706.03762, section 3.5)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=value.device) / half)
    angles = value.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def patch_coordinates(
    frames: int, height: int, width: int, seconds_per_frame: float, device: torch.device | None = None
) -> Tensor:
    """Coordinates `[frames * height * width, 3]` of patches: seconds from the first, rows and columns from the centre.

    Time is given in units of half a second, so that one latent frame of a clip at 8 frames a second is one unit.
    """
    time = torch.arange(frames, device=device) * seconds_per_frame * 2
    rows = torch.arange(height, device=device) - (height - 1) / 2
    columns = torch.arange(width, device=device) - (width - 1) / 2
    return torch.stack(torch.meshgrid(time, rows, columns, indexing="ij"), dim=-1).reshape(-1, 3).float()


def rotary_angles(coordinates: Tensor, axes_dim: tuple[int, int, int], theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine `[tokens, sum(axes_dim) / 2]` of the rotary embedding of `coordinates [tokens, 3]`."""
    angles = []
    for axis, dim in enumerate(axes_dim):
        frequencies = theta ** (-torch.arange(0, dim, 2, device=coordinates.device) / dim)
        angles.append(coordinates[:, axis, None] * frequencies)
    joined = torch.cat(angles, dim=-1)
    return joined.cos(), joined.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates channel pairs (i, i + dim/2) of `x [batch, heads, tokens, dim]` by the angles of each token."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _repeat(x: Tensor, times: int, dim: int) -> Tensor:
    """`repeat_interleave` by views, whose backward needs no synchronisation with the CPU."""
    return x.unsqueeze(dim + 1).expand(*x.shape[: dim + 1], times, *x.shape[dim + 1 :]).flatten(dim, dim + 1)


def linear_velocity(x: Tensor, sigma: Tensor) -> Tensor:
    """Best linear prediction of `noise - latents` from noisy latents `x [batch, ...]` at `sigma [batch]`
    or of a shape that broadcasts over `x`.

    For latents of zero mean and unit variance that are independent of the noise it is E[v x] / E[x^2] times x, which
    is (2 sigma - 1) / (sigma^2 + (1 - sigma)^2) x, as the skip connection of EDM (arXiv 2206.00364, appendix B.6).
    """
    sigma = sigma.float()
    factor = (2 * sigma - 1) / (sigma.square() + (1 - sigma).square())
    if factor.ndim == 1:
        factor = factor.reshape(-1, *[1] * (x.ndim - 1))
    return factor.to(x.dtype) * x


class Attention(nn.Module):
    """Multi-head self-attention over all tokens with RMS-normalised queries and keys."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q = nn.Parameter(torch.ones(head_dim))
        self.norm_k = nn.Parameter(torch.ones(head_dim))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            rearrange(project(x), "b n (h d) -> b h n d", h=self.num_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        query = rotate(F.rms_norm(query, query.shape[-1:], self.norm_q.to(query.dtype)), cos, sin)
        key = rotate(F.rms_norm(key, key.shape[-1:], self.norm_k.to(key.dtype)), cos, sin)
        out = F.scaled_dot_product_attention(query, key, value.to(query.dtype), attn_mask=mask)
        return self.to_out[0](rearrange(out, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Pre-norm transformer block; `skip` joins the tokens of the mirrored block of the first half."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, skip: bool, modulated: bool) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.scale_shift_table = nn.Parameter(torch.zeros(6, dim)) if modulated else None

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None,
        modulation: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        if self.scale_shift_table is None or modulation is None:
            x = x + self.attn(self.norm1(x), cos, sin, mask)
            return x + self.mlp(self.norm2(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + modulation).unbind(2)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1, cos, sin, mask)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class NativeVideoTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):
    """Predicts the velocity `noise - latents` of rectified flow from noisy latents, noise level and text.

    Args:
        in_channels: channels of the latents.
        patch_size: `(frames, rows, columns)` of latents that make one token.
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
    ) -> None:
        super().__init__()
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
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:
        """Tokens `[batch, tokens, dim]`, modulation, rotary cosine and sine, and the attention mask."""
        p_t, p_h, p_w = self.config.patch_size
        frames, height, width = latents.shape[2] // p_t, latents.shape[3] // p_h, latents.shape[4] // p_w
        patches = rearrange(latents, "b c (f p) (h q) (w r) -> b (f h w) (c p q r)", p=p_t, q=p_h, r=p_w)
        coordinates = patch_coordinates(frames, height, width, seconds_per_frame, latents.device)
        extent = [
            torch.full_like(coordinates[:, :1], value)
            for value in (frames * seconds_per_frame * 2, height, width)
        ]
        place = sinusoidal_embedding(torch.cat([coordinates, *extent], dim=1), 16, max_period=100.0).flatten(
            1
        )
        video = self.patch_embed(patches) + self.position_embed(place.to(latents.dtype))
        single = frames if key_frames else 1
        latent_frames, image_frames = self.frame_kind_embed.split(1)
        kind = torch.cat([image_frames.expand(single, -1), latent_frames.expand(frames - single, -1)])
        video = video + _repeat(kind, height * width, dim=0)
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
                video = video + _repeat(own - time, height * width, dim=1)
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
        return tokens, modulation, cos.to(tokens.dtype), sin.to(tokens.dtype), mask

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
        return torch.cat([of_text, _repeat(modulation[:, 1:], tokens_per_frame, dim=1)], dim=1)

    def _run_blocks(self, embedded: tuple[Any, ...], num_blocks: int) -> Tensor:
        x, modulation, cos, sin, mask = embedded
        attention_mask = None if mask is None else mask[:, None, None]
        skips: list[Tensor] = []
        for i, block in enumerate(self.blocks[:num_blocks]):
            skip = skips.pop() if block.skip_linear is not None else None
            arguments = (x, skip, modulation, cos, sin, attention_mask)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *arguments)
            else:
                x = block(*arguments)
            if i < len(self.blocks) // 2:
                skips.append(x)
        return x

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        seconds_per_frame: float = 0.5,
        key_frames: bool = False,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity of noisy latents.

        Args:
            hidden_states: noisy latents `[batch, channels, frames, height, width]`.
            timestep: 1000 times the noise level sigma, float32: `[batch]`, or `[batch, frames]` with a level for
                each latent frame (0 for known ones; equal within a patch).
            encoder_hidden_states: text embeddings `[batch, length, text_dim]`.
            encoder_attention_mask: `[batch, length]`, 1 where a text token is real.
            seconds_per_frame: duration of one latent frame in seconds.
            key_frames: every latent frame is an image of its own, `seconds_per_frame` after the one before; else
                only the first is, and the others hold as many frames as the autoencoder compresses into one.
            return_dict: give a `Transformer2DModelOutput` instead of a tuple.
        """
        p_t, p_h, p_w = self.config.patch_size
        embedded = self._embed(
            hidden_states,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            seconds_per_frame,
            key_frames,
        )
        x = self._run_blocks(embedded, len(self.blocks))
        frames, height, width = (hidden_states.shape[2 + i] // (p_t, p_h, p_w)[i] for i in range(3))
        patches = self.proj_out(self.norm_out(x[:, -frames * height * width :]))
        velocity = rearrange(
            patches,
            "b (f h w) (c p q r) -> b c (f p) (h q) (w r)",
            f=frames,
            h=height,
            w=width,
            p=p_t,
            q=p_h,
            r=p_w,
        )
        if self.config.linear_velocity:
            sigma = timestep / 1000 if timestep.ndim == 1 else timestep[:, None, :, None, None] / 1000
            velocity = velocity + linear_velocity(hidden_states, sigma)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

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
        x = self._run_blocks(embedded, num_blocks)
        return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
