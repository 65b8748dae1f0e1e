"""The causal video autoencoder, on random weights whose temporal convolutions are not zero."""

import pytest
import torch
from torch.nn import functional as F

from generator.native.autoencoder import CausalTemporalConv, NativeVideoAutoencoder


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    model = NativeVideoAutoencoder(
        latent_channels=4,
        channels=(8, 16),
        num_blocks=1,
        latents_mean=[0.5, -1.0, 0.0, 2.0],
        latents_std=[2.0, 0.5, 1.0, 3.0],
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, CausalTemporalConv):
                module.weight.normal_(std=0.3)
                module.bias.normal_(std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def video():
    return torch.rand(2, 3, 9, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def mode(vae, video):
    return vae.encode(video).latent_dist.mode()


@pytest.mark.parametrize("size", [(1, 8, 8), (5, 8, 12), (9, 16, 24), (13, 20, 8)])
def test_latents_are_a_quarter_of_each_side_and_decode_to_the_size_of_the_video(vae, size):
    frames, height, width = size
    latents = mode(vae, torch.zeros(1, 3, *size))
    assert latents.shape == (1, 4, (frames - 1) // 4 + 1, height // 4, width // 4)
    assert vae.decode(latents).sample.shape == (1, 3, *size)


def test_the_latent_of_an_image_is_the_first_latent_frame_of_a_video_that_starts_with_it(vae, video):
    torch.testing.assert_close(mode(vae, video[:, :, :1])[:, :, 0], mode(vae, video)[:, :, 0])


def test_encoding_never_looks_ahead(vae, video):
    torch.testing.assert_close(mode(vae, video[:, :, :5]), mode(vae, video)[:, :, :2])


def test_decoding_never_looks_ahead(vae):
    latents = torch.randn(2, 4, 3, 4, 6)
    whole = vae.decode(latents).sample
    torch.testing.assert_close(vae.decode(latents[:, :, :2]).sample, whole[:, :, :5])
    torch.testing.assert_close(vae.decode(latents[:, :, :1]).sample, whole[:, :, :1])


def test_later_frames_depend_on_earlier_ones(vae, video):
    changed = video.clone()
    changed[:, :, 0] = 0
    assert (mode(vae, changed) - mode(vae, video))[:, :, 2].abs().max() > 1e-3


def test_the_temporal_convolution_is_a_conv1d_over_the_replicated_past():
    torch.manual_seed(0)
    temporal = CausalTemporalConv(5)
    x = torch.randn(2, 7, 3, 4, 5)
    # Column i * channels + c of the linear layer is tap i of channel c.
    kernel = temporal.weight.view(5, 3, 5).permute(0, 2, 1)
    series = x.permute(0, 2, 3, 4, 1).reshape(-1, 5, 7)
    expected = F.conv1d(F.pad(series, (2, 0), mode="replicate"), kernel, temporal.bias)
    actual = temporal(x).permute(0, 2, 3, 4, 1).reshape(-1, 5, 7)
    torch.testing.assert_close(actual, expected)


def test_new_residual_blocks_are_identities():
    block = NativeVideoAutoencoder(channels=(8, 16), num_blocks=1).encoder[1]
    x = torch.randn(1, 3, 4, 4, 8)
    assert torch.equal(block(x), x)


def test_normalise_uses_the_statistics_in_the_configuration(vae, monkeypatch):
    z = torch.randn(2, 4, 3, 4, 4)
    mean = torch.tensor([0.5, -1.0, 0.0, 2.0]).view(4, 1, 1, 1)
    std = torch.tensor([2.0, 0.5, 1.0, 3.0]).view(4, 1, 1, 1)
    torch.testing.assert_close(vae.normalise(z), (z - mean) / std)
    torch.testing.assert_close(vae.denormalise(vae.normalise(z)), z)
    # A CUDA graph may capture no copy from the CPU, so the statistics are made once, and anew for other ones.
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_tensor", None, raising=False)
        torch.testing.assert_close(vae.normalise(z), (z - mean) / std)


def test_gradients_reach_every_parameter(video):
    vae = NativeVideoAutoencoder(latent_channels=4, channels=(8, 16), num_blocks=1)
    vae(video, sample_posterior=True).sample.pow(2).mean().backward()
    # The temporal convolutions start at zero and so hide the spatial ones before them until the first step.
    silent = {name for name, p in vae.named_parameters() if p.grad is None}
    assert silent == set()
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, CausalTemporalConv):
                module.weight.normal_(std=0.1)
    vae.zero_grad()
    vae(video, sample_posterior=True).sample.pow(2).mean().backward()
    assert all(p.grad.abs().max() > 0 for p in vae.parameters())
