"""Principal components as an autoencoder: the best linear one of a given latent size, in closed form."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor


def principal_components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean `[dim]` and the `count` directions `[count, dim]` of largest variance of `rows` `[n, dim]`, in float64.

    No other linear map to `count` numbers loses less in the squared error (Eckart and Young 1936).
    """
    rows = rows.double()
    mean = rows.mean(0)
    _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))
    return mean, vectors.T.flip(0)[:count]


class PCAVideoAutoencoder(ModelMixin, ConfigMixin):
    """`NativeVideoAutoencoder`'s operations by principal components of patches of pixels.

    The first frame is coded alone in patches of 1 x 4 x 4 pixels, the others in patches of 4 x 4 x 4, both to
    `latent_channels` numbers.

    Args:
        latent_channels: numbers of a patch.
        latents_mean, latents_std: statistics of each number on training clips.
    """

    spatial_compression_ratio = 4
    temporal_compression_ratio = 4

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        for name, dim in (("first", 48), ("rest", 192)):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_components", torch.zeros(latent_channels, dim))
        self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)  # gives the module a dtype

    @staticmethod
    def _patches(videos: Tensor) -> tuple[Tensor, Tensor]:
        """Patches of the first frame `[batch, 1, h, w, 48]` and of the others `[batch, f, h, w, 192]`."""
        pattern = "b c (f t) (h p) (w q) -> b f h w (c t p q)"
        return (
            rearrange(videos[:, :, :1], pattern, t=1, p=4, q=4),
            rearrange(videos[:, :, 1:], pattern, t=4, p=4, q=4),
        )

    def fit(self, videos: list[Tensor]) -> None:
        """Finds the components of `videos` `[batch, 3, 4k + 1, height, width]`, and their statistics."""
        parts = [self._patches(batch) for batch in videos]
        for name, index in (("first", 0), ("rest", 1)):
            rows = torch.cat([part[index].flatten(0, 3) for part in parts])
            mean, components = principal_components(rows, self.config.latent_channels)
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_components").copy_(components)
        latents = torch.cat(
            [self.encode(b).latent_dist.mean.transpose(0, 1).flatten(1) for b in videos], dim=1
        )
        self.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """Latents of videos `[batch, 3, 4k + 1, height, width]`, as a distribution without width."""
        first, rest = self._patches(x)
        latents = torch.cat(
            [
                (first - self.first_mean) @ self.first_components.T,
                (rest - self.rest_mean) @ self.rest_components.T,
            ],
            dim=1,
        )
        latents = rearrange(latents, "b f h w c -> b c f h w")
        moments = torch.cat([latents, torch.full_like(latents, -30.0)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, z: Tensor) -> DecoderOutput:
        """Videos `[batch, 3, 4k + 1, 4 height, 4 width]` of latents `[batch, channels, k + 1, height, width]`."""
        z = rearrange(z, "b c f h w -> b f h w c")
        pattern = "b f h w (c t p q) -> b c (f t) (h p) (w q)"
        first = z[:, :1] @ self.first_components + self.first_mean
        rest = z[:, 1:] @ self.rest_components + self.rest_mean
        video = torch.cat(
            [rearrange(first, pattern, t=1, p=4, q=4), rearrange(rest, pattern, t=4, p=4, q=4)], dim=2
        )
        return DecoderOutput(sample=video)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean = like.new_tensor(self.config.latents_mean).view(1, -1, 1, 1, 1)
        return mean, like.new_tensor(self.config.latents_std).view(1, -1, 1, 1, 1)

    def normalise(self, z: Tensor) -> Tensor:
        """Latents to zero mean and unit variance a channel."""
        mean, std = self._statistics(z)
        return (z - mean) / std

    def denormalise(self, z: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, std = self._statistics(z)
        return z * std + mean
