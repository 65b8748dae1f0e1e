"""Principal components against a singular value decomposition, and as an autoencoder."""

import pytest
import torch

from benchmarks.generator.pca import PCAVideoAutoencoder, principal_components
from generator.families.native import NativeGenerator
from generator.native.building import build_pipeline
from generator.world import render_scenes, training_batch


def test_components_lose_exactly_the_smallest_singular_values():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 12, generator=generator, dtype=torch.float64) @ torch.randn(
        12, 12, generator=generator, dtype=torch.float64
    )
    mean, components = principal_components(rows, 5)
    torch.testing.assert_close(components @ components.T, torch.eye(5, dtype=torch.float64))
    centred = rows - mean
    lost = (centred - centred @ components.T @ components).square().sum()
    values = torch.linalg.svdvals(rows - rows.mean(0))
    torch.testing.assert_close(lost, values[5:].square().sum())


@pytest.fixture(scope="module")
def clips():
    _, scenes, _ = training_batch(16, 0, "train", 9, 32, 32, fps=8.0)
    return render_scenes(scenes, 9, 32, 32, fps=8.0)


def test_all_components_give_the_clips_back_and_few_are_the_best_linear_code(clips):
    whole = PCAVideoAutoencoder(latent_channels=48)
    whole.fit([clips])
    latents = whole.encode(clips).latent_dist.mode()
    assert latents.shape == (16, 48, 3, 8, 8)
    torch.testing.assert_close(whole.decode(latents).sample[:, :, :1], clips[:, :, :1], atol=1e-4, rtol=1e-4)
    errors = []
    for channels in (2, 8, 24):
        pca = PCAVideoAutoencoder(latent_channels=channels)
        pca.fit([clips])
        errors.append((pca.decode(pca.encode(clips).latent_dist.mode()).sample - clips).square().mean())
    assert errors[0] > errors[1] > errors[2]


def test_a_pipeline_takes_it_as_its_autoencoder(clips):
    pca = PCAVideoAutoencoder(latent_channels=8)
    pca.fit([clips])
    pipeline = build_pipeline(transformer={"hidden_size": 64, "num_layers": 1, "num_attention_heads": 1})
    pipeline.vae = pca
    generator = NativeGenerator(pipeline, "pca")
    latents = generator.encode(clips)
    assert latents.mean((0, 2, 3, 4)).abs().max() < 1e-4
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(8), atol=1e-3, rtol=1e-3)
    assert generator.generate(["a star"], num_inference_steps=1).shape == (1, 3, 9, 32, 32)
