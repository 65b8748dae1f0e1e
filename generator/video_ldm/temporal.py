"""Temporal layers that are inserted behind the frozen spatial layers of an image model.

After Video LDM (Blattmann et al., arXiv 2304.08818, section 3.1): the spatial layer takes the frames of a video as a
batch of images, the temporal layer mixes the frames at each place, and a learned number alpha in [0, 1] joins both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from generator.native.blocks import Attention, rotary_angles, sinusoidal_embedding

ALPHA_RATE = 10.0
"""Factor by which alpha moves faster than other weights under Adam, whose steps are as long as the learning rate."""
LEAST_OPENING = 0.01
"""Least share of the gradient that the temporal branch gets: with alpha = 1 it would get none and never learn."""
TIME_THETA = 100.0


class _UnitInterval(torch.autograd.Function):
    """Clamps to [0, 1]; at a bound, the gradient passes if a descent step leads back inside."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        outwards = ((value >= 1) & (gradient < 0)) | ((value <= 0) & (gradient > 0))
        return gradient.masked_fill(outwards, 0)


class _Mix(torch.autograd.Function):
    """`alpha z + (1 - alpha) z_t`, whose temporal branch gets at least `LEAST_OPENING` of the gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, temporal: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(z, temporal, alpha)
        return alpha * z + (1 - alpha) * temporal

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, temporal, alpha = ctx.saved_tensors
        opening = (1 - alpha).clamp_min(LEAST_OPENING)
        of_alpha = (gradient.float() * (z.float() - temporal.float())).sum().to(alpha.dtype)
        return alpha * gradient, opening * gradient, of_alpha


class AlphaGate(nn.Module):
    """Learned mixture of a spatial layer's output and a temporal one's (arXiv 2304.08818, section 3.1).

    The output is `alpha z + (1 - alpha) z_t` with alpha in [0, 1]. Alpha starts at 1, where the output is `z` bit for
    bit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opening = nn.Parameter(torch.zeros(()))

    @property
    def alpha(self) -> Tensor:
        """Share of the spatial layer, a scalar in [0, 1]."""
        return _UnitInterval.apply(1 - ALPHA_RATE * self.opening)

    def forward(self, z: Tensor, temporal: Tensor) -> Tensor:
        """Mixture of `z` and `temporal`, both of one shape."""
        return _Mix.apply(z, temporal, self.alpha.to(z.dtype))

    @torch.no_grad()
    def set_alpha(self, alpha: float) -> None:
        """Sets the share of the spatial layer."""
        self.opening.fill_((1 - alpha) / ALPHA_RATE)


def alphas_of(module: nn.Module) -> Tensor:
    """Alphas of all gates of a module in their order, `[gates]`, float32."""
    return torch.stack([part.alpha.float() for part in module.modules() if isinstance(part, AlphaGate)])


def neighbours(x: Tensor) -> Tensor:
    """Joins each frame of `x [batch, frames, ..., channels]` with the ones before and after it, in the channels.

    The first and the last frame repeat outwards.
    """
    before = torch.cat([x[:, :1], x[:, :-1]], dim=1)
    after = torch.cat([x[:, 1:], x[:, -1:]], dim=1)
    return torch.cat([before, x, after], dim=-1)


@dataclass
class TemporalInputs:
    """Inputs that all temporal layers of one forward pass share.

    Attributes:
        modulation: of noise level and frame rate, `[batch, frames, 1, 6, dim]`.
        context: embedding of the context frames and their mask, `[batch, frames, places, dim]`.
        cos, sin: rotary embedding of the frames' numbers, `[frames, head_dim / 2]`.
    """

    modulation: Tensor
    context: Tensor
    cos: Tensor
    sin: Tensor


class TemporalLayer(nn.Module):
    """Attention along time at each place, then a convolution over three frames, behind an `AlphaGate`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.conv = nn.Linear(3 * dim, dim)
        self.out = nn.Linear(dim, dim)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, dim))
        self.gate = AlphaGate()

    def temporal(self, z: Tensor, shared: TemporalInputs) -> Tensor:
        """Output `z_t` of the layer alone for `z [batch, frames, places, dim]`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + shared.modulation).unbind(3)
        x = self.norm1(z) * (1 + scale1) + shift1 + shared.context
        attended = self.attn(rearrange(x, "b f n d -> (b n) f d"), shared.cos, shared.sin, None)
        hidden = z + gate1 * rearrange(attended, "(b n) f d -> b f n d", b=len(z))
        x = neighbours(self.norm2(hidden) * (1 + scale2) + shift2)
        return hidden + gate2 * self.out(F.gelu(self.conv(x), approximate="tanh"))

    def forward(self, z: Tensor, shared: TemporalInputs) -> Tensor:
        """Mixture `[batch, frames, places, dim]` of `z` and the layer's output."""
        return self.gate(z, self.temporal(z, shared))


class TemporalLayers(nn.Module):
    """All that is added to an image model: one temporal layer a block, and the embeddings that they share.

    Args:
        dim: width of the tokens.
        num_heads: heads of the attention along time.
        num_layers: blocks of the image model.
        patch_dim: channels of a patch of latents.
    """

    def __init__(self, dim: int, num_heads: int, num_layers: int, patch_dim: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.level_embed = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.fps_embed = nn.Sequential(nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.modulation = nn.Linear(dim, 6 * dim)
        self.context_embed = nn.Linear(patch_dim + 1, dim)
        self.layers = nn.ModuleList(TemporalLayer(dim, num_heads) for _ in range(num_layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.modulation.weight)
        for layer in self.layers:
            assert isinstance(layer, TemporalLayer)
            layer.attn.start_at_zero()
            nn.init.zeros_(layer.out.weight)
            with torch.no_grad():
                layer.scale_shift_table[[2, 5]] = 1.0

    def shared_inputs(self, timestep: Tensor, fps: float, patches: Tensor, context: Tensor) -> TemporalInputs:
        """Inputs of the layers.

        Args:
            timestep: 1000 times the noise level of each frame, `[batch, frames]`.
            fps: frames a second.
            patches: of the latents, `[batch, frames, places, patch_dim]`.
            context: frames that are given, `[batch, frames]`.
        """
        dtype = patches.dtype
        level = self.level_embed(sinusoidal_embedding(timestep, 256).to(dtype))
        rate = self.fps_embed(fps_features(fps, timestep.device).to(dtype))
        modulation = rearrange(self.modulation(F.silu(level + rate)), "b f (k d) -> b f 1 k d", k=6)
        mask = context[:, :, None, None].to(dtype).expand(*patches.shape[:3], 1)
        embedded = self.context_embed(torch.cat([patches * mask, mask], dim=-1))
        frames = torch.arange(timestep.shape[1], device=timestep.device, dtype=torch.float32)
        angles = rotary_angles(F.pad(frames[:, None], (0, 2)), (self.head_dim, 0, 0), TIME_THETA)
        cos, sin = (x.to(dtype) for x in angles)
        return TemporalInputs(modulation, embedded, cos, sin)

    @torch.no_grad()
    def alphas(self) -> Tensor:
        """Alpha of every layer, `[layers]`."""
        return alphas_of(self)


def fps_features(fps: float, device: torch.device | None = None) -> Tensor:
    """Sine and cosine features `[64]` of the binary logarithm of a frame rate: a doubling is the same step anywhere."""
    octaves = torch.full((), fps, dtype=torch.float32, device=device).log2()
    return sinusoidal_embedding(4 * octaves, 64, max_period=100.0)
