"""The parts of the built-in transformer: embeddings of numbers and places, attention, and the block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

AttentionPattern = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention within a layout of tokens: `(query, key, value) -> output`, all `[batch, heads, tokens, dim]`."""


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


def repeat_views(x: Tensor, times: int, dim: int) -> Tensor:
    """`repeat_interleave` by views, whose backward needs no synchronisation with the CPU."""
    return x.unsqueeze(dim + 1).expand(*x.shape[: dim + 1], times, *x.shape[dim + 1 :]).flatten(dim, dim + 1)


class _GatherRows(torch.autograd.Function):
    """`table[index]`; its backward pass is a product with `membership`, unless that is empty.

    On a GPU, adding many rows of gradients to few rows of a table by atomic operations takes longer than the product
    with the matrix that says which row belongs to which.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, membership: Tensor) -> Tensor:
        ctx.save_for_backward(index, membership)
        ctx.rows = len(table)
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, membership = ctx.saved_tensors
        if membership.numel():
            flat = membership @ gradient.flatten(1)
            return flat.unflatten(1, gradient.shape[1:]), None, None
        zeros = gradient.new_zeros(ctx.rows, *gradient.shape[1:])
        return zeros.index_add(0, index, gradient), None, None


class LevelModulation(NamedTuple):
    """Modulation of packed tokens: a row for each noise level, and the level of each token.

    Attributes:
        table: `[levels, 6, dim]`.
        level: row of the table of each token `[tokens]`.
        membership: `[levels, tokens]`, 1 where a token has a level, for the backward pass on a GPU; empty elsewhere.
    """

    table: Tensor
    level: Tensor
    membership: Tensor

    @classmethod
    def of(cls, table: Tensor, level: Tensor) -> LevelModulation:
        """With the membership that `level` says."""
        membership = table.new_empty(0)
        if table.is_cuda:
            membership = (torch.arange(len(table), device=level.device)[:, None] == level).to(table.dtype)
        return cls(table, level, membership)


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


def attend(query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern | Tensor | None) -> Tensor:
    """Attention `[batch, heads, tokens, dim]` over all tokens, under a mask, or as a pattern says."""
    if pattern is None or isinstance(pattern, Tensor):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=pattern)
    return pattern(query, key, value)


class _Separable:
    """Attention of a sequence `[prefix | frames x places]`; the prefix (time and text) attends to itself.

    Args:
        frames: number of frames.
        num_prefix: tokens before those of the video.
        mask: which prefix tokens are real, `[batch, num_prefix]`, or None if all are.
    """

    def __init__(self, frames: int, num_prefix: int, mask: Tensor | None) -> None:
        self.frames = frames
        self.num_prefix = num_prefix
        self.mask = mask

    def _of_prefix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mask = None if self.mask is None else self.mask[:, None, None]
        query, key, value = (x[:, :, : self.num_prefix] for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class WithinFrames(_Separable):
    """Every token of a frame attends to the prefix and to its own frame."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return rearrange(x[:, :, self.num_prefix :], "b h (f n) d -> (b f) h n d", f=self.frames)

        def with_prefix(x: Tensor) -> Tensor:
            return torch.cat([repeat_views(x[:, :, : self.num_prefix], self.frames, dim=0), split(x)], dim=2)

        frames = split(query)
        mask = None
        if self.mask is not None:
            mask = F.pad(repeat_views(self.mask, self.frames, dim=0), (0, frames.shape[2]), value=True)[
                :, None, None
            ]
        video = F.scaled_dot_product_attention(frames, with_prefix(key), with_prefix(value), attn_mask=mask)
        video = rearrange(video, "(b f) h n d -> b h (f n) d", f=self.frames)
        return torch.cat([self._of_prefix(query, key, value), video], dim=2)


class AlongTime(_Separable):
    """Every token of the video attends to its own place in all frames."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return rearrange(x[:, :, self.num_prefix :], "b h (f n) d -> (b n) h f d", f=self.frames)

        video = F.scaled_dot_product_attention(split(query), split(key), split(value))
        video = rearrange(video, "(b n) h f d -> b h (f n) d", b=len(query))
        return torch.cat([self._of_prefix(query, key, value), video], dim=2)


class WithinWindows(_Separable):
    """Every token of a frame attends to the prefix and to its own window of that frame (arXiv 2103.14030).

    Rows and columns that do not fill a window are padded, and what is padded is never attended to. With `shifted` the
    windows begin half a window before the frame, so that blocks in turn with and without it join all windows.

    Args:
        frames: number of frames.
        num_prefix: tokens before those of the video.
        mask: which prefix tokens are real, `[batch, num_prefix]`, or None if all are.
        height: rows of a frame.
        width: columns of a frame.
        window: rows and columns of a window.
        shifted: whether the windows are shifted by half of one.
    """

    def __init__(
        self,
        frames: int,
        num_prefix: int,
        mask: Tensor | None,
        height: int,
        width: int,
        window: int,
        shifted: bool = False,
    ) -> None:
        super().__init__(frames, num_prefix, mask)
        self.size = height, width
        self.window = window
        before = window // 2 if shifted else 0
        self.padding = (before, -(width + before) % window, before, -(height + before) % window)

    def _split(self, x: Tensor) -> Tensor:
        """Tokens of every window `[batch * frames * windows, heads, window ** 2, dim]` of a whole sequence."""
        height, width = self.size
        grid = rearrange(
            x[:, :, self.num_prefix :], "b h (f r c) d -> b f h d r c", f=self.frames, r=height, c=width
        )
        return rearrange(
            F.pad(grid, self.padding),
            "b f h d (r p) (c q) -> (b f r c) h (p q) d",
            p=self.window,
            q=self.window,
        )

    def _join(self, windows: Tensor, batch: int) -> Tensor:
        """The inverse of `_split`, without the prefix."""
        height, width = self.size
        left, _, above, below = self.padding
        grid = rearrange(
            windows,
            "(b f r c) h (p q) d -> b h f (r p) (c q) d",
            b=batch,
            f=self.frames,
            r=(height + above + below) // self.window,
            p=self.window,
        )
        return grid[:, :, :, above : above + height, left : left + width].flatten(2, 4)

    def _visible(self, query: Tensor) -> Tensor | None:
        """Mask `[windows of all, 1, 1, num_prefix + window ** 2]` of what may be attended to; None for everything."""
        if self.mask is None and not any(self.padding):
            return None
        batch, _, _, _ = query.shape
        real = F.pad(torch.ones(self.size, dtype=torch.bool, device=query.device), self.padding)
        real = rearrange(real, "(r p) (c q) -> (r c) (p q)", p=self.window, q=self.window)
        windows = len(real)
        prefix = torch.ones(batch, self.num_prefix, dtype=torch.bool, device=query.device)
        if self.mask is not None:
            prefix = self.mask
        prefix = repeat_views(prefix, self.frames * windows, dim=0)
        return torch.cat([prefix, real.repeat(batch * self.frames, 1)], dim=1)[:, None, None]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        windows = self._split(query)
        copies = len(windows) // len(query)

        def with_prefix(x: Tensor) -> Tensor:
            return torch.cat([repeat_views(x[:, :, : self.num_prefix], copies, dim=0), self._split(x)], dim=2)

        video = F.scaled_dot_product_attention(
            windows, with_prefix(key), with_prefix(value), attn_mask=self._visible(query)
        )
        return torch.cat([self._of_prefix(query, key, value), self._join(video, len(query))], dim=2)


class Attention(nn.Module):
    """Multi-head self-attention with RMS-normalised queries and keys."""

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

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, pattern: AttentionPattern | Tensor | None
    ) -> Tensor:
        query, key, value = (
            rearrange(project(x), "b n (h d) -> b h n d", h=self.num_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        query = rotate(F.rms_norm(query, query.shape[-1:], self.norm_q.to(query.dtype)), cos, sin)
        key = rotate(F.rms_norm(key, key.shape[-1:], self.norm_k.to(key.dtype)), cos, sin)
        out = attend(query, key, value.to(query.dtype), pattern)
        return self.to_out[0](rearrange(out, "b h n d -> b n (h d)"))

    def start_at_zero(self) -> None:
        """Makes the output zero, so that a residual branch changes nothing until it has learned something."""
        for module in self.to_out:
            assert isinstance(module, nn.Linear)
            nn.init.zeros_(module.weight)


class TemporalConvolution(nn.Module):
    """Mixes every token of the video with those at its place in the frames before and after (arXiv 2210.02303).

    Beyond both ends the outermost frame repeats; the prefix stays out of it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, pattern: AlongTime) -> Tensor:
        prefix, video = x.split([pattern.num_prefix, x.shape[1] - pattern.num_prefix], dim=1)
        frames = rearrange(video, "b (f n) d -> b f n d", f=pattern.frames)
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        after = torch.cat([frames[:, 1:], frames[:, -1:]], dim=1)
        mixed = self.mix(torch.cat([before, frames, after], dim=-1))
        return torch.cat([torch.zeros_like(prefix), mixed.flatten(1, 2)], dim=1)

    def start_at_zero(self) -> None:
        """Makes the output zero, so that a residual branch changes nothing until it has learned something."""
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)


class Block(nn.Module):
    """Pre-norm transformer block.

    `skip` joins the tokens of the mirrored block of the first half. `separable` attends first within frames and then
    along time (Ho et al., arXiv 2204.03458, section 3), where a full block attends once to everything; with `temporal`
    set to `"convolution"` in place of `"attention"` it convolves along time.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        skip: bool,
        modulated: bool,
        separable: bool = False,
        temporal: str = "attention",
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.temporal_norm = nn.LayerNorm(dim) if separable else None
        self.temporal_attn: Attention | TemporalConvolution | None = None
        if separable:
            self.temporal_attn = (
                TemporalConvolution(dim) if temporal == "convolution" else Attention(dim, num_heads)
            )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.scale_shift_table = nn.Parameter(torch.zeros(6, dim)) if modulated else None

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None,
        modulation: Tensor | LevelModulation | None,
        cos: Tensor,
        sin: Tensor,
        pattern: AttentionPattern | Tensor | None,
        temporal_pattern: Any = None,
    ) -> Tensor:
        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        if self.scale_shift_table is None or modulation is None:
            x = x + self.attn(self.norm1(x), cos, sin, pattern)
            x = self._along_time(x, cos, sin, temporal_pattern)
            return x + self.mlp(self.norm2(x))
        if isinstance(modulation, LevelModulation):
            table = self.scale_shift_table + modulation.table
            of_tokens = _GatherRows.apply(table, modulation.level, modulation.membership)[None]
        else:
            of_tokens = self.scale_shift_table + modulation
        shift1, scale1, gate1, shift2, scale2, gate2 = of_tokens.unbind(2)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1, cos, sin, pattern)
        x = self._along_time(x, cos, sin, temporal_pattern)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def _along_time(self, x: Tensor, cos: Tensor, sin: Tensor, pattern: Any) -> Tensor:
        if self.temporal_attn is None or self.temporal_norm is None:
            return x
        return x + self.temporal_attn(self.temporal_norm(x), cos, sin, pattern)
