"""Tiny video models made from the tiny image model, with temporal layers that do something."""

from __future__ import annotations

from pathlib import Path

import torch

from generator.adapters.adapters import LoraAdapter, model_fingerprint, write_adapter
from generator.adapters.loaded_from import BASE_WEIGHTS, base_fingerprint
from generator.base import VideoGenerator
from generator.testing import tiny_generator
from generator.video_ldm.family import VideoLDMGenerator
from generator.video_ldm.model_card import set_alphas
from generator.video_ldm.pipeline import insert_temporal_layers


def tiny_video_generator(task: str = "generation", alpha: float = 0.5) -> VideoLDMGenerator:
    """A video model around `tiny_generator()`, whose temporal weights are random and whose alphas are `alpha`."""
    pipeline = insert_temporal_layers(tiny_generator().pipeline, "tiny", task).pipeline
    pipeline.set_progress_bar_config(disable=True)
    random = torch.Generator().manual_seed(1)
    for module in (pipeline.transformer.temporal, pipeline.vae.temporal):
        for parameter in module.parameters():
            if parameter.ndim:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
        set_alphas(module, alpha)
    return VideoLDMGenerator(pipeline, "tiny video")


def image_adapter(folder: Path, generator: VideoGenerator) -> Path:
    """A random LoRA of the first block, as a training on the image model writes it."""
    random = torch.Generator().manual_seed(4)
    pairs = {
        f"blocks.0.attn.{name}": (torch.randn(2, 48, generator=random), torch.randn(48, 2, generator=random))
        for name in ("to_q", "to_v")
    }
    training = {
        "model_fingerprint": model_fingerprint(generator.transformer),
        BASE_WEIGHTS: base_fingerprint(generator),
        "base_model": generator.name,
    }
    write_adapter(folder, LoraAdapter(pairs), training)
    return folder
