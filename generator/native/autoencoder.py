"""The built-in video compression network: a causal variational autoencoder, 4x in time and 4x4 in space.

`4k + 1` frames become `k + 1` latent frames, and the first frame is coded alone, so an image is a one-frame video.
Spatial and temporal convolutions are separate; temporal ones look only back. Down- and upsampling have non-parametric
shortcuts (averaged space-to-channel, repeated channel-to-space; DC-AE, arXiv 2410.10733). Normalisation is the
channel RMS at each position, since a norm over time would not be causal (Wan, arXiv 2503.20314).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

# Inside this file activations are [batch, frames, height, width, channels]: norms and temporal mixing act on the last
# dimension, and a permuted view is what convolutions want in the fast channels-last layout.


class SpatialConv(nn.Conv2d):
    """Convolution of every frame alone."""

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1).permute(0, 3, 1, 2)
        return super().forward(frames).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class CausalTemporalConv(nn.Linear):
    """Mixes each position with the same position of the two frames before; the first frame repeats to the left."""

    def __init__(self, channels: int) -> None:
        super().__init__(3 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        padded = torch.cat([x[:, :1], x[:, :1], x], dim=1)
        return super().forward(torch.cat([padded[:, i : i + frames] for i in range(3)], dim=-1))


class ChannelNorm(nn.RMSNorm):
    """Divides by the root mean square over channels at each position, in the activation's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(
            x, self.normalized_shape, None if self.weight is None else self.weight.to(x.dtype), 1e-6
        )


class ResidualBlock(nn.Module):
    """Spatial 3x3 convolution, then causal temporal convolution, around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.spatial = SpatialConv(channels, channels, 3, padding=1)
        self.norm2 = ChannelNorm(channels)
        self.temporal = CausalTemporalConv(channels)
        nn.init.zeros_(self.temporal.weight)
        nn.init.zeros_(self.temporal.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.spatial(F.silu(self.norm1(x)))
        return x + self.temporal(F.silu(self.norm2(hidden)))


class Downsample(nn.Module):
    """Halves time (the first frame stays alone) and, if asked, space; the shortcut averages groups of channels."""

    def __init__(self, in_channels: int, out_channels: int, space: bool) -> None:
        super().__init__()
        self.space = space
        self.out_channels = out_channels
        self.conv = SpatialConv(in_channels * (8 if space else 2), out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, :1], x], dim=1)
        if self.space:
            x = rearrange(x, "b (f p) (h q) (w r) c -> b f h w (c p q r)", p=2, q=2, r=2)
        else:
            x = rearrange(x, "b (f p) h w c -> b f h w (c p)", p=2)
        return self.conv(x) + reduce(x, "b f h w (c g) -> b f h w c", "mean", c=self.out_channels)


class Upsample(nn.Module):
    """Doubles time (the first frame stays alone) and, if asked, space; the shortcut repeats channels."""

    def __init__(self, in_channels: int, out_channels: int, space: bool) -> None:
        super().__init__()
        self.space = space
        self.conv = SpatialConv(in_channels, out_channels * (8 if space else 2), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        expanded = self.conv(x)
        if expanded.shape[-1] % x.shape[-1] == 0:
            shortcut = repeat(x, "b f h w c -> b f h w (c g)", g=expanded.shape[-1] // x.shape[-1])
            expanded = expanded + shortcut
        if self.space:
            x = rearrange(expanded, "b f h w (c p q r) -> b (f p) (h q) (w r) c", p=2, q=2, r=2)
        else:
            x = rearrange(expanded, "b f h w (c p) -> b (f p) h w c", p=2)
        return x[:, 1:]


class NativeVideoAutoencoder(ModelMixin, ConfigMixin):
    """Causal video autoencoder, 4 frames x 4 x 4 pixels to one latent position.

    Args:
        latent_channels: channels of the latents.
        channels: widths at half and at quarter resolution.
        num_blocks: residual blocks of each stage.
        latents_mean, latents_std: statistics of each latent channel on training clips; `normalise` uses them.
    """

    _supports_gradient_checkpointing = False
    spatial_compression_ratio = 4
    temporal_compression_ratio = 4

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        channels: tuple[int, int] = (64, 128),
        num_blocks: int = 2,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        self._kept_statistics: dict[Any, Any] = {}
        half, quarter = channels
        self.encoder = nn.Sequential(
            SpatialConv(12, half, 3, padding=1),
            *(ResidualBlock(half) for _ in range(num_blocks)),
            Downsample(half, quarter, space=True),
            *(ResidualBlock(quarter) for _ in range(num_blocks)),
            Downsample(quarter, quarter, space=False),
            *(ResidualBlock(quarter) for _ in range(num_blocks)),
            ChannelNorm(quarter),
            nn.SiLU(),
            SpatialConv(quarter, 2 * latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            SpatialConv(latent_channels, quarter, 3, padding=1),
            *(ResidualBlock(quarter) for _ in range(num_blocks)),
            Upsample(quarter, quarter, space=False),
            *(ResidualBlock(quarter) for _ in range(num_blocks)),
            Upsample(quarter, half, space=True),
            *(ResidualBlock(half) for _ in range(num_blocks)),
            ChannelNorm(half),
            nn.SiLU(),
            SpatialConv(half, 12, 3, padding=1),
        )

    @apply_forward_hook
    def encode(
        self, x: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Posterior over latents of videos `[batch, 3, 4k + 1, height, width]`; sides are multiples of 4."""
        hidden = rearrange(x, "b c f (h p) (w q) -> b f h w (c p q)", p=2, q=2)
        moments = rearrange(self.encoder(hidden), "b f h w c -> b c f h w")
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Videos `[batch, 3, 4k + 1, 4 height, 4 width]` of latents `[batch, channels, k + 1, height, width]`."""
        hidden = self.decoder(rearrange(z, "b c f h w -> b f h w c").contiguous())
        video = rearrange(hidden, "b f h w (c p q) -> b c f (h p) (w q)", p=2, q=2)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each latent channel; kept, as CUDA graphs capture no copies from the CPU."""
        channels = self.config.latent_channels
        mean = tuple(self.config.latents_mean or [0.0] * channels)
        std = tuple(self.config.latents_std or [1.0] * channels)
        key = mean, std, like.device, like.dtype
        if key not in self._kept_statistics:
            tensors = (like.new_tensor(values).view(1, -1, 1, 1, 1) for values in (mean, std))
            self._kept_statistics[key] = tuple(tensors)
        return self._kept_statistics[key]

    def normalise(self, z: Tensor) -> Tensor:
        """Latents to zero mean and unit variance a channel."""
        mean, std = self._statistics(z)
        return (z - mean) / std

    def denormalise(self, z: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, std = self._statistics(z)
        return z * std + mean

    def forward(
        self, sample: Tensor, sample_posterior: bool = False, return_dict: bool = True
    ) -> DecoderOutput | tuple[Tensor]:
        """Reconstruction of videos, from the posterior's mean or a sample of it."""
        posterior = self.encode(sample).latent_dist
        return self.decode(
            posterior.sample() if sample_posterior else posterior.mode(), return_dict=return_dict
        )
