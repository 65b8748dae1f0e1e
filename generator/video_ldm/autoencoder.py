"""The autoencoder of Video LDM: frames are encoded each as an image, and decoded together.

The encoder and the image decoder are those of the built-in autoencoder, frozen; temporal layers in the decoder let it
draw neighbouring frames alike (arXiv 2304.08818, section 3.1.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from torch import Tensor, nn

from generator.native.autoencoder import ChannelNorm, NativeVideoAutoencoder, ResidualBlock
from generator.video_ldm.temporal import AlphaGate, alphas_of, neighbours


class DecoderTemporalLayer(nn.Module):
    """Convolution over three frames at each place, behind an `AlphaGate`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv = nn.Linear(3 * channels, channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.gate = AlphaGate()

    def temporal(self, z: Tensor) -> Tensor:
        """Output of the layer alone for `z [batch, frames, height, width, channels]`."""
        return z + self.out(F.silu(self.conv(neighbours(self.norm(z)))))

    def forward(self, z: Tensor) -> Tensor:
        """Mixture of `z [batch, frames, height, width, channels]` and the layer's output."""
        return self.gate(z, self.temporal(z))


# `from_pretrained` of a pipeline looks for `ModelMixin` in the module of a component.
class VideoLDMAutoencoder(NativeVideoAutoencoder, ModelMixin):
    """The built-in autoencoder for frames that are images: 1 frame x 4 x 4 pixels to one latent position.

    Args:
        others: as `NativeVideoAutoencoder` takes them.
    """

    temporal_compression_ratio = 1

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        channels: tuple[int, int] = (64, 128),
        num_blocks: int = 2,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__(
            latent_channels=latent_channels,
            channels=channels,
            num_blocks=num_blocks,
            latents_mean=latents_mean,
            latents_std=latents_std,
        )
        half, quarter = channels
        self.temporal = nn.ModuleList(
            DecoderTemporalLayer(width) for width in (quarter, quarter, half) for _ in range(num_blocks)
        )

    @apply_forward_hook
    def encode(
        self, x: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Posterior over latents of videos `[batch, 3, frames, height, width]`; sides are multiples of 4."""
        images = rearrange(x, "b c f (h p) (w q) -> (b f) 1 h w (c p q)", p=2, q=2)
        moments = rearrange(self.encoder(images), "(b f) 1 h w c -> b c f h w", b=len(x))
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Videos `[batch, 3, frames, 4 height, 4 width]` of latents `[batch, channels, frames, height, width]`."""
        frames = z.shape[2]
        hidden = rearrange(z, "b c f h w -> (b f) 1 h w c").contiguous()
        layers = iter(self.temporal)
        for module in self.decoder:
            hidden = module(hidden)
            if isinstance(module, ResidualBlock):
                video = next(layers)(rearrange(hidden, "(b f) 1 h w c -> b f h w c", f=frames))
                hidden = rearrange(video, "b f h w c -> (b f) 1 h w c")
        video = rearrange(hidden, "(b f) 1 h w (c p q) -> b c f (h p) (w q)", f=frames, p=2, q=2)
        return DecoderOutput(sample=video) if return_dict else (video,)

    @torch.no_grad()
    def alphas(self) -> Tensor:
        """Alpha of every temporal layer, `[layers]`."""
        return alphas_of(self.temporal)
