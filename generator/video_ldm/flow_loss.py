"""Losses of the temporal layers: rectified flow on clips, and reconstruction by the decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from generator.flow import sample_sigma
from generator.pretraining.data import CaptionedScenes
from generator.pretraining.flow_loss import FlowMatchingKey, FlowMatchingLoss, seconds_per_latent
from generator.pretraining.footage import FootageBatch
from generator.pretraining.latent_pool import LatentBatch
from generator.video_ldm.autoencoder import VideoLDMAutoencoder
from generator.video_ldm.data import context_levels, sample_context
from generator.video_ldm.pipeline import VideoLDMPipeline


class VideoFlowMatchingLoss(FlowMatchingLoss):
    """Rectified-flow loss of clips whose frames are images; the temporal layers get gradients.

    Context frames come clean, at noise level 0, or hidden, as pure noise at level 1, and do not count.

    Args:
        pipeline: whose temporal layers are trained.
        shift: time shift of the noise levels.
        channel_power: of `generator.pretraining.flow_loss.channel_weights`.
        logit_mean: of the noise levels before the shift.
        context_dropout: share of clips whose context is hidden.
        context_share: share of the clips with context, where the task is generation.
    """

    def __init__(
        self,
        pipeline: VideoLDMPipeline,
        shift: float,
        channel_power: float = 0.0,
        logit_mean: float = 0.0,
        context_dropout: float = 0.0,
        context_share: float = 0.0,
    ) -> None:
        super().__init__(pipeline, shift, channel_power, logit_mean)
        self.task = pipeline.transformer.config.task
        self.context_dropout = context_dropout
        self.context_share = context_share

    def prepare(
        self, batch: LatentBatch, generator: torch.Generator
    ) -> tuple[FlowMatchingKey, dict[str, Tensor]]:
        """Draws noise, noise levels, context frames, and the clips whose context is hidden."""
        latents = batch.latents
        clips, frames = latents.shape[0], latents.shape[2]
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        sigma = sample_sigma(clips, self.shift, on_cpu, self.logit_mean, uniform_share=0.15)
        known = sample_context(self.task, clips, frames, on_cpu, self.context_share)
        hidden = torch.rand(clips, generator=on_cpu) < self.context_dropout
        levels = context_levels(sigma, known, hidden)
        inputs = {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator, device=latents.device),
            "levels": levels.to(latents.device, non_blocking=True),
            "known": known.to(latents.device, non_blocking=True),
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
        }
        return FlowMatchingKey(batch.kind, clips, batch.input_ids.shape[1], True), inputs

    def compute(self, key: FlowMatchingKey, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; its value without weights as metric "mse", and the mean "alpha" of the layers."""
        latents, noise, levels = inputs["latents"], inputs["noise"], inputs["levels"]
        transformer, dtype = self.pipeline.transformer, self.pipeline.transformer.dtype
        each = levels[:, None, :, None, None]
        counted = (~inputs["known"]).to(latents)[:, None, :, None, None].expand_as(latents[:, :1])
        with torch.no_grad():
            text = self.pipeline.text_encoder(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).last_hidden_state
        velocity = transformer(
            ((1 - each) * latents + each * noise).to(dtype),
            levels * 1000,
            text.to(dtype),
            inputs["attention_mask"],
            seconds_per_frame=seconds_per_latent(self.pipeline.vae, key.kind),
            return_dict=False,
        )[0].float()
        loss, metrics = self.of_velocity(velocity, latents, noise, counted)
        return loss, {**metrics, "alpha": transformer.temporal.alphas().mean()}


class DecoderLoss:
    """MSE + 0.1 L1 of clips decoded from latents with noise of each frame's own; the temporal layers get gradients.

    Args:
        vae: whose decoder's temporal layers are trained.
        noise: standard deviation of the noise on normalised latents.
        device: where clips are rendered.
    """

    def __init__(self, vae: VideoLDMAutoencoder, noise: float, device: torch.device) -> None:
        self.vae = vae
        self.noise = noise
        self.device = device

    def prepare(
        self, batch: CaptionedScenes | FootageBatch, generator: torch.Generator
    ) -> tuple[tuple[int, ...], dict[str, Tensor]]:
        """Clips `[batch, 3, frames, height, width]` and their noisy latents."""
        clips = batch.render(self.device)
        with torch.no_grad():
            latents = self.vae.normalise(self.vae.encode(clips).latent_dist.mean.float())
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        return tuple(clips.shape), {"clips": clips, "latents": latents + self.noise * noise}

    def compute(self, key: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; PSNR in dB and the mean "alpha" of the layers as metrics."""
        clips = inputs["clips"]
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=clips.is_cuda):
            decoded = self.vae.decode(self.vae.denormalise(inputs["latents"])).sample.float()
        error = decoded - clips
        mse = error.pow(2).mean()
        metrics = {"psnr": 10 * torch.log10(4 / mse.detach()), "alpha": self.vae.alphas().mean()}
        return mse + 0.1 * error.abs().mean(), metrics
