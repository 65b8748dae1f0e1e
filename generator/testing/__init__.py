"""Small random models of every family, for tests of this project and of its users."""

from __future__ import annotations

import torch

from generator.families.native import NativeGenerator
from generator.native.building import build_pipeline


def tiny_generator(seed: int = 0) -> NativeGenerator:
    """A native generator with random weights and about 0.2 M parameters, on the CPU in float32.

    The output layer is random too, so that velocities depend on every input.
    """
    pipeline = build_pipeline(
        transformer={
            "hidden_size": 48,
            "num_layers": 3,
            "num_attention_heads": 2,
            "rope_axes_dim": (8, 8, 8),
        },
        autoencoder={"channels": (8, 16), "num_blocks": 1, "latent_channels": 4},
        text_encoder={"hidden_size": 32, "num_layers": 1, "num_heads": 2},
        seed=seed,
    )
    with torch.no_grad():
        weight = pipeline.transformer.proj_out.weight
        weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.text_encoder, pipeline.vae, pipeline.transformer):
        module.requires_grad_(False)
    return NativeGenerator(pipeline, "tiny")
