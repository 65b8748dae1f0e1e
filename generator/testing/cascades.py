"""A small random cascade: a base, a temporal and a spatial stage, saved and loaded as real ones are."""

from __future__ import annotations

from pathlib import Path

import torch

from generator.base import VideoGenerator
from generator.cascade.cascade import join_stages
from generator.cascade.stage import CascadeStage, StageSettings, condition_channels, save_stage
from generator.cascade.transformer import StageTransformer3DModel
from generator.native.building import save_pipeline
from generator.provenance import latent_space_fingerprint
from generator.testing import tiny_generator


def tiny_stage(stage: str, codec: VideoGenerator, seed: int = 0, name: str = "nano") -> CascadeStage:
    """A stage with random weights on the CPU, whose output depends on all that it sees.

    Args:
        stage: `temporal` or `spatial`.
        codec: of the built-in family; its size is taken from there.
        seed: of the weights.
        name: of the codec, as the stage's file says it.
    """
    channels = codec.pipeline.vae.config.latent_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StageTransformer3DModel(
            in_channels=channels,
            condition_channels=condition_channels(stage, channels),
            hidden_size=32,
            num_layers=2,
            num_attention_heads=2,
            text_dim=codec.pipeline.text_encoder.config.d_model,
            mlp_ratio=2.0,
            window=2 if stage == "spatial" else 0,
            temporal="convolution" if stage == "spatial" else "attention",
            rope_axes_dim=(4, 6, 6),
            gain=[0.9] * channels,
            residual_std=[0.3] * channels,
        )
        for part in (network.proj_out, network.level_modulation):
            torch.nn.init.normal_(part.weight, std=0.1)
    network.requires_grad_(False).eval()
    settings = StageSettings(
        stage, name, latent_space_fingerprint(codec), 17, num_inference_steps=2, shift=0.3
    )
    return CascadeStage(network, settings, codec, f"tiny {stage}")


def save_tiny_cascade(folder: str | Path) -> Path:
    """Saves a base in `base/`, stages in `temporal/` and `spatial/`, and their cascade in `cascade/`, which makes 9
    frames of 32x32 from 3 of 16x16; returns the folder of the cascade."""
    folder = Path(folder)
    base = tiny_generator()
    channels = base.pipeline.vae.config.latent_channels
    base.pipeline.vae.register_to_config(latents_mean=[0.1] * channels, latents_std=[0.9] * channels)
    save_pipeline(base.pipeline, folder / "base")
    for module in (base.pipeline.text_encoder, base.pipeline.vae, base.pipeline.transformer):
        torch.nn.Module.to(module, dtype=torch.float32)
    for kind in ("temporal", "spatial"):
        stage = tiny_stage(kind, base, name="../base")
        (folder / kind).mkdir(parents=True)
        save_stage(folder / kind, stage.transformer, stage.settings)
    stages = [folder / "temporal", folder / "spatial"]
    join_stages(folder / "cascade", stages, str(folder / "base"), 4.0, (3, 16, 16))
    return folder / "cascade"
