"""The loss of a stage: flow matching of the finer latents, given the noised input, its level and the text."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from generator.cascade.conditioning import augment, network_input, network_target, residual, velocity
from generator.cascade.transformer import StageTransformer3DModel
from generator.families.native import NativeGenerator
from generator.flow import interpolate, sample_sigma, velocity_target
from generator.pretraining.data import ClipKind
from generator.pretraining.latent_pool import LatentBatch


class StageKey(NamedTuple):
    """Key of the shapes of one loss: kind and number of clips, length of their text."""

    kind: ClipKind
    clips: int
    length: int


def channel_weights(latents_std: list[float], residual_std: list[float], power: float) -> Tensor:
    """Weights `[channels]` of mean 1 that grow with what an error of a channel means in pixels, to the `power`.

    The network predicts residuals at unit variance: an error of one is `residual_std` in normalised latents, and that
    times `latents_std` in the autoencoder's own.
    """
    weights = (torch.tensor(latents_std) * torch.tensor(residual_std)).pow(power)
    return weights / weights.mean()


class StageLoss:
    """Error of the network's output at unit variance, weighted by `channel_weights`.

    The metric "mse" is that of the velocity, as other generators report it. A level of augmentation is the
    highest one times the square of a uniform number, so that low ones, which sampling uses, come more often.

    Args:
        transformer: that is trained.
        codec: whose text encoder is used, as it is.
        shift: time shift of the noise levels.
        augmentation: the highest level.
        channel_power: of `channel_weights`.
        logit_mean: of the noise levels before the shift.
    """

    def __init__(
        self,
        transformer: StageTransformer3DModel,
        codec: NativeGenerator,
        shift: float,
        augmentation: float,
        channel_power: float = 1.0,
        logit_mean: float = 0.0,
    ) -> None:
        self.transformer = transformer
        self.codec = codec
        self.shift = shift
        self.augmentation = augmentation
        self.logit_mean = logit_mean
        config = transformer.config
        self.channels = config.in_channels
        ones = [1.0] * self.channels
        latents_std = codec.pipeline.vae.config.latents_std or ones
        device = codec.device
        self.gain, self.std = (
            torch.tensor(each or ones, device=device) for each in (config.gain, config.residual_std)
        )
        self.weights = channel_weights(latents_std, self.std.tolist(), channel_power).to(device)

    def prepare(self, batch: LatentBatch, generator: torch.Generator) -> tuple[StageKey, dict[str, Tensor]]:
        """Draws noise, noise levels and levels of augmentation."""
        pairs = batch.latents
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        sigma = sample_sigma(len(pairs), self.shift, on_cpu, self.logit_mean, uniform_share=0.15)
        level = self.augmentation * torch.rand(len(pairs), generator=on_cpu).square()
        inputs = {
            "pairs": pairs,
            "noise": torch.randn(pairs.shape, generator=generator, device=pairs.device),
            "sigma": sigma.to(pairs.device, non_blocking=True),
            "level": level.to(pairs.device, non_blocking=True),
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
        }
        return StageKey(batch.kind, len(pairs), batch.input_ids.shape[1]), inputs

    def compute(self, key: StageKey, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the mean square error of the velocity as metric "mse"."""
        split = [self.channels, inputs["pairs"].shape[1] - self.channels]
        (latents, condition), (noise, other) = (
            inputs[name].split(split, dim=1) for name in ("pairs", "noise")
        )
        sigma, level = inputs["sigma"], inputs["level"]
        noised = augment(condition, other, level)
        known = residual(noised[:, : self.channels], sigma, level, self.gain, self.std)
        seen = network_input(interpolate(latents, noise, sigma), sigma, known)
        with torch.no_grad():
            text = self.codec.pipeline.text_encoder(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).last_hidden_state
        output = self.transformer.predict(
            seen,
            noised,
            sigma,
            level,
            text,
            inputs["attention_mask"],
            self.codec.pipeline.vae.temporal_compression_ratio / key.kind.fps,
        )
        error = (output - network_target(latents, noise, sigma, known)).square().mean(dim=(0, 2, 3, 4))
        with torch.no_grad():
            of_velocity = velocity(seen, output, sigma, known) - velocity_target(latents, noise)
        return (self.weights * error).mean(), {"mse": of_velocity.square().mean()}
