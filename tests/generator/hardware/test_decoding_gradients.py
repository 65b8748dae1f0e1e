"""Gradients through the decoders: right, and not ended by the clamp of the pixels."""

from __future__ import annotations

import pytest
import torch

from generator import load_generator
from generator.hardware.decoding_gradients import StraightThroughClamps
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline


def make(family: str, folder):
    return (
        tiny_generator()
        if family == "nano"
        else load_generator(save_tiny_pipeline(family, folder), device="cpu")
    )


def latents_of(generator, scale: float):
    side, time = generator.size_multiples()
    shape = generator.latent_shape(1 + 2 * time, 2 * side, 2 * side)
    return scale * torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "family", ["wan", "nano", "cogvideox", "animatediff", "ltx", "ltx2", "hunyuan_video"]
)
def test_videos_and_gradients_are_those_of_the_plain_decoder(tmp_path, family):
    generator = make(family, tmp_path)
    latents = latents_of(generator, 0.5).requires_grad_()
    videos = generator.decode_with_gradients(latents)
    torch.testing.assert_close(
        videos.detach().clamp(-1, 1), generator.decode(latents.detach()), atol=1e-5, rtol=0
    )
    weights = torch.randn(videos.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((videos * weights).sum(), latents)
    with StraightThroughClamps():
        plain = generator._pixels(latents)
    (expected,) = torch.autograd.grad((plain * weights).sum(), latents)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(
        generator.decode(latents.detach()), videos.detach().clamp(-1, 1), atol=1e-5, rtol=0
    )


def test_the_gradient_of_wans_decoder_is_that_of_finite_differences(tmp_path):
    generator = make("wan", tmp_path)
    generator.pipeline.vae.double()  # the normalisation of small random activations bends within a hundredth
    latents = latents_of(generator, 0.5).requires_grad_()
    videos = generator.decode_with_gradients(latents)
    free = videos.detach().abs() < 0.9  # by finite differences a clamped pixel has no gradient
    assert free.float().mean() > 0.2
    (gradient,) = torch.autograd.grad((videos * free).sum(), latents)
    place = gradient.abs().flatten().argmax()
    values = []
    for sign in (1, -1):
        moved = latents.detach().clone()
        moved.flatten()[place] += sign * 1e-3
        values.append((generator.decode(moved).double() * free).sum().item())
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(gradient.flatten()[place].item(), rel=0.05)


def test_a_clamped_pixel_still_gets_a_gradient():
    pixels = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    with StraightThroughClamps():
        clamped = torch.clamp(pixels, min=-1.0, max=1.0)
    clamped.sum().backward()
    assert clamped.tolist() == [-1, 0, 1]
    assert pixels.grad.tolist() == [1, 1, 1]


def test_the_first_latents_alone_give_wans_first_frames(tmp_path):
    generator = make("wan", tmp_path)
    latents = latents_of(generator, 0.5)
    whole = generator.decode_with_gradients(latents)
    first = generator.decode_with_gradients(latents[:, :, :1])
    torch.testing.assert_close(first, whole[:, :, :1], atol=1e-5, rtol=0)


def test_a_family_without_gradients_says_so():
    from generator.video_model import VideoModel

    stand_in = type("StandIn", (), {"name": "stand-in"})()
    with pytest.raises(InputError, match="decoder of stand-in passes no gradients"):
        VideoModel.decode_with_gradients(stand_in, torch.zeros(1))
