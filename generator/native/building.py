"""Builds native pipelines with random weights and saves them in small shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from generator.native.autoencoder import NativeVideoAutoencoder
from generator.native.pipeline import NativeVideoPipeline
from generator.native.text_encoder import build_text_encoder, build_tokenizer
from generator.native.transformer import NativeVideoTransformer3DModel
from generator.output import files_into
from generator.world import VOCABULARY

MAX_SHARD_SIZE = "14MB"


def build_pipeline(
    transformer: dict[str, Any] | None = None,
    autoencoder: dict[str, Any] | None = None,
    text_encoder: dict[str, Any] | None = None,
    shift: float = 2.0,
    fps: float = 8.0,
    seed: int = 0,
) -> NativeVideoPipeline:
    """A pipeline with random weights; each argument holds changes to a component's default configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(VOCABULARY)
        text = build_text_encoder(len(tokenizer), **(text_encoder or {}))
        vae = NativeVideoAutoencoder(**(autoencoder or {}))
        denoiser = NativeVideoTransformer3DModel(
            **{
                "in_channels": vae.config.latent_channels,
                "text_dim": text.config.d_model,
                **(transformer or {}),
            }
        )
    return NativeVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text.eval(),
        vae=vae.eval(),
        transformer=denoiser.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        fps=fps,
    )


def save_pipeline(
    pipeline: NativeVideoPipeline, folder: str | Path, dtype: torch.dtype = torch.float16
) -> None:
    """Saves `pipeline` in `dtype`, in shards of at most 14 MB; its modules are converted in place."""
    for module in (pipeline.text_encoder, pipeline.vae, pipeline.transformer):
        torch.nn.Module.to(module, dtype=dtype)
    for module in (pipeline.vae, pipeline.transformer):
        module.register_to_config(_name_or_path="")  # where it once was loaded from means nothing elsewhere
    with files_into(folder) as new:
        pipeline.save_pretrained(new, max_shard_size=MAX_SHARD_SIZE)
