"""The rectified-flow losses of pretraining, on batches of one kind of clip and on packed rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from generator.flow import interpolate, sample_sigma, velocity_target
from generator.native.autoencoder import NativeVideoAutoencoder
from generator.native.packing import PackedLayout
from generator.native.pipeline import NativeVideoPipeline
from generator.pretraining.data import ClipKind
from generator.pretraining.latent_pool import LatentBatch, PackedLatentBatch


def seconds_per_latent(vae: NativeVideoAutoencoder, kind: ClipKind) -> float:
    """Duration of one latent frame of clips of `kind`."""
    return (1 if kind.key_frames else vae.temporal_compression_ratio) / kind.fps


def channel_weights(vae: NativeVideoAutoencoder, power: float) -> Tensor:
    """Weights `[channels]` of mean 1 that grow with the latent channels' standard deviation to the `power`.

    Normalised latents give every channel the same variance, but in the pixels an error of a channel counts about
    as the square of that channel's own standard deviation: the faintest ones hold detail that nobody sees.
    """
    weights = torch.tensor(vae.config.latents_std).pow(power)
    return weights / weights.mean()


class FlowMatchingKey(NamedTuple):
    """Key of the shapes and the control flow of one loss: kind and number of clips, text length, known frames."""

    kind: ClipKind
    clips: int
    length: int
    known: bool


class FlowMatchingLoss:
    """Rectified-flow loss; text encoder and transformer get gradients.

    Known frames come clean, at noise level 0, and do not count. The loss is weighted by `channel_weights`; the metric
    "mse" is the one without weights.

    Args:
        pipeline: whose transformer and text encoder are trained.
        shift: time shift of the noise levels.
        channel_power: of `channel_weights`.
        logit_mean: of the noise levels before the shift.
    """

    def __init__(
        self,
        pipeline: NativeVideoPipeline,
        shift: float,
        channel_power: float = 0.0,
        logit_mean: float = 0.0,
    ) -> None:
        self.pipeline = pipeline
        self.shift = shift
        self.logit_mean = logit_mean
        device = next(pipeline.transformer.parameters()).device
        self.weights = channel_weights(pipeline.vae, channel_power).to(device)

    def prepare(
        self, batch: LatentBatch, generator: torch.Generator
    ) -> tuple[FlowMatchingKey, dict[str, Tensor]]:
        """Draws noise and noise levels."""
        latents = batch.latents
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        sigma = sample_sigma(len(latents), self.shift, on_cpu, self.logit_mean, uniform_share=0.15)
        inputs = {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator, device=latents.device),
            "sigma": sigma.to(latents.device, non_blocking=True),
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
        }
        if batch.known is not None:
            inputs["known"] = batch.known
        key = FlowMatchingKey(batch.kind, len(latents), batch.input_ids.shape[1], batch.known is not None)
        return key, inputs

    def compute(self, key: FlowMatchingKey, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its value without weights as metric "mse"."""
        latents, noise, sigma = inputs["latents"], inputs["noise"], inputs["sigma"]
        transformer, dtype = self.pipeline.transformer, self.pipeline.transformer.dtype
        noisy = interpolate(latents, noise, sigma)
        counted = torch.ones_like(latents[:, :1])
        if key.known:
            known = inputs["known"][:, None, :, None, None]
            noisy = torch.where(known, latents, noisy)
            sigma = sigma[:, None] * ~inputs["known"]
            counted = counted * ~known
        text = self.pipeline.text_encoder(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state
        kind = key.kind
        velocity = transformer(
            noisy.to(dtype),
            sigma * 1000,
            text,
            inputs["attention_mask"],
            seconds_per_frame=seconds_per_latent(self.pipeline.vae, kind),
            key_frames=kind.key_frames,
            return_dict=False,
        )[0].float()
        return self.of_velocity(velocity, latents, noise, counted)

    def of_velocity(
        self, velocity: Tensor, latents: Tensor, noise: Tensor, counted: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of predictions of clips of one size, and its value without weights as metric "mse".

        Args:
            velocity, latents, noise: `[batch, channels, frames, height, width]`.
            counted: 1 where a position counts and 0 where it does not, `[batch, 1, frames, height, width]`.
        """
        error = counted * (velocity - velocity_target(latents, noise)).pow(2)
        error = error.sum(dim=(0, 2, 3, 4)) / counted.sum()
        return (self.weights * error).mean(), {"mse": error.detach().mean()}


class PackedKey(NamedTuple):
    """Key of the shapes of one packed loss."""

    length: int
    shape: tuple[int, ...]


class PackedFlowMatchingLoss(FlowMatchingLoss):
    """`FlowMatchingLoss` of clips of all kinds in one row; every patch that is not given counts the same."""

    layout: PackedLayout

    def prepare(  # type: ignore[override]
        self, batch: PackedLatentBatch, generator: torch.Generator
    ) -> tuple[PackedKey, dict[str, Tensor]]:
        """Draws noise and noise levels."""
        patches = batch.patches
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        number = sum(map(len, batch.captions))
        sigma = sample_sigma(number, self.shift, on_cpu, self.logit_mean, uniform_share=0.15)
        inputs = {
            "patches": patches,
            "noise": torch.randn(patches.shape, generator=generator, device=patches.device),
            "sigma": sigma.to(patches.device, non_blocking=True),
            "known": batch.known,
        }
        inputs |= {f"captions.{i}": ids for i, ids in enumerate(batch.captions)}
        inputs |= {f"masks.{i}": mask for i, mask in enumerate(batch.masks)}
        inputs |= {f"layout.{name}": value for name, value in batch.layout.tensors().items()}
        self.layout = batch.layout
        return PackedKey(len(patches), batch.shape), inputs

    def compute(  # type: ignore[override]
        self, key: PackedKey, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its value without weights as metric "mse"."""
        clean, noise, sigma, known = (inputs[name] for name in ("patches", "noise", "sigma", "known"))
        transformer, dtype = self.pipeline.transformer, self.pipeline.transformer.dtype
        prefix = "layout."
        layout = self.layout.with_tensors(
            {name.removeprefix(prefix): value for name, value in inputs.items() if name.startswith(prefix)}
        )
        own = (sigma.index_select(0, layout.clip) * ~known)[:, None]
        text = [
            self.pipeline.text_encoder(
                input_ids=ids, attention_mask=inputs[name.replace("captions", "masks")]
            ).last_hidden_state.flatten(0, 1)
            for name, ids in inputs.items()
            if name.startswith("captions.")
        ]
        velocity = transformer.forward_packed(
            ((1 - own) * clean + own * noise).to(dtype),
            torch.cat([sigma * 1000, sigma.new_zeros(1)]),
            torch.cat(text),
            layout,
            layout.clip.masked_fill(known, len(sigma)),
        ).float()
        counted = layout.is_video & ~known
        error = (counted[:, None] * (velocity - velocity_target(clean, noise)).pow(2)).sum(0) / counted.sum()
        weights = self.weights.repeat_interleave(len(error) // len(self.weights))
        return (weights * error).mean(), {"mse": error.detach().mean()}
