"""The built-in family as a `VideoGenerator`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.hardware.decoding_gradients import differentiable_decoding
from generator.inputs.conditions import Conditions
from generator.inputs.frames import FrameVelocity
from generator.inputs.packing import PackedVelocity
from generator.lost_words import lost_end
from generator.native.packing import ClipShape
from generator.native.pipeline import NativeVideoPipeline
from generator.native.text_encoder import MAX_TEXT_TOKENS, clean, encode_text, unknown_words
from generator.video_model import GenerationDefaults


class NativeGenerator(VideoGenerator):
    """Adapter of `NativeVideoPipeline`."""

    pipeline_class = NativeVideoPipeline
    lora_target_modules = ["to_q", "to_k", "to_v", "to_out.0"]  # noqa: RUF012

    def __init__(self, pipeline: NativeVideoPipeline, name: str) -> None:
        self.pipeline = pipeline
        self.name = name
        self.defaults = GenerationDefaults(
            num_frames=9,
            height=32,
            width=32,
            fps=pipeline.config.fps,
            num_inference_steps=10,
            guidance_scale=1.0,
            shift=pipeline.scheduler.config.shift,
        )

    @property
    def transformer(self) -> torch.nn.Module:
        return self.pipeline.transformer

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        self.pipeline.check_size(num_frames, height, width)

    def size_multiples(self) -> tuple[int, int]:
        return self.pipeline.size_multiples()

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return self.pipeline.latent_shape(num_frames, height, width)

    @torch.no_grad()
    def encode(self, videos: Tensor) -> Tensor:
        vae = self.pipeline.vae
        posterior = vae.encode(videos.to(vae.device, vae.dtype)).latent_dist
        return vae.normalise(posterior.mode().float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self._pixels(latents).clamp(-1, 1)

    def decode_with_gradients(self, latents: Tensor) -> Tensor:
        with differentiable_decoding(self.pipeline.vae):
            return self._pixels(latents)

    def _pixels(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vae.decode(vae.denormalise(latents).to(vae.device, vae.dtype)).sample.float()

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        text, mask = encode_text(self.pipeline.text_encoder, self.pipeline.tokenizer, prompts)
        return {"encoder_hidden_states": text, "encoder_attention_mask": mask}

    @property
    def max_prompt_tokens(self) -> int | None:
        return MAX_TEXT_TOKENS

    def lost_end(self, prompt: str) -> str:
        return lost_end(self.pipeline.tokenizer, clean(prompt), MAX_TEXT_TOKENS)

    def unknown_words(self, prompt: str) -> list[str]:
        return unknown_words(self.pipeline.tokenizer, prompt)

    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        transformer: torch.nn.Module | None = None,
    ) -> Tensor:
        module = self.transformer if transformer is None else transformer
        arguments = self._transformer_arguments(latents, sigma, conditions)
        return module(**arguments, return_dict=False)[0].float()

    @property
    def packing(self) -> NativePacking:
        return NativePacking(self)

    @property
    def frames(self) -> FrameVelocity:
        return FrameVelocity(self._frame_velocity, self.name, takes_key_frames=True)

    def _frame_velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        seconds_per_frame: float | None,
        key_frames: bool,
        transformer: torch.nn.Module | None,
    ) -> Tensor:
        arguments = self._transformer_arguments(latents, sigma, conditions)
        if seconds_per_frame is not None:
            arguments["seconds_per_frame"] = seconds_per_frame
        module = self.transformer if transformer is None else transformer
        return module(**arguments, key_frames=key_frames, return_dict=False)[0].float()

    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        return self.pipeline.transformer.features(
            **self._transformer_arguments(latents, sigma, conditions), num_blocks=num_blocks
        )

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        text, mask = conditions["encoder_hidden_states"], conditions["encoder_attention_mask"]
        if mask.device.type == "cpu":
            # Padding common to all rows only costs time; on a GPU finding it would cost a synchronisation.
            longest = int(mask.sum(dim=1).max())
            text, mask = text[:, :longest], mask[:, :longest]
        return {
            "hidden_states": latents.to(self.dtype),
            "timestep": sigma.float() * 1000,
            "encoder_hidden_states": text.to(self.dtype),
            "encoder_attention_mask": mask,
            "seconds_per_frame": self.pipeline.seconds_per_latent_frame,
        }


class NativePacking(PackedVelocity):
    """Packed rows of the built-in family."""

    def __init__(self, generator: NativeGenerator) -> None:
        self.generator = generator

    def __call__(
        self,
        latents: Sequence[Tensor],
        sigma: Tensor,
        conditions: Conditions,
        transformer: torch.nn.Module | None = None,
        row_length: int | None = None,
        kept: Sequence[np.ndarray] | None = None,
    ) -> list[Tensor]:
        module = self.generator.transformer if transformer is None else transformer
        velocities = module(
            [x.to(self.generator.dtype) for x in latents],
            sigma.float() * 1000,
            conditions["encoder_hidden_states"].to(self.generator.dtype),
            conditions["encoder_attention_mask"],
            seconds_per_frame=self.generator.pipeline.seconds_per_latent_frame,
            return_dict=False,
            row_length=row_length,
            kept=kept,
        )[0]
        return [velocity.float() for velocity in velocities]

    def video_tokens(self, latents: Tensor) -> int:
        return self._clip_shape(latents).tokens

    def segment_lengths(self, latents: Sequence[Tensor], conditions: Conditions) -> list[int]:
        texts = conditions["encoder_attention_mask"].sum(dim=1).tolist()
        prefix = self.generator.pipeline.transformer.config.conditioning == "tokens"
        return [self.video_tokens(x) + text + prefix for x, text in zip(latents, texts, strict=True)]

    def kept_elements(self, latents: Tensor, kept: np.ndarray) -> Tensor:
        transformer = self.generator.pipeline.transformer
        patches = torch.zeros_like(transformer.patchify(latents[None]), dtype=torch.bool)
        patches[:, torch.from_numpy(kept).to(latents.device)] = True
        return transformer.unpatchify(patches, self._clip_shape(latents), latents.shape[1])[0]

    def _clip_shape(self, latents: Tensor) -> ClipShape:
        return self.generator.pipeline.transformer.clip_shape(
            latents.shape, self.generator.pipeline.seconds_per_latent_frame
        )
