"""The native family through the `VideoGenerator` contract."""

import pytest
import torch

from generator.inputs.conditions import select
from generator.testing import tiny_generator

PROMPTS = ["a red circle", "a large blue square moves slowly to the left", ""]


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


def noisy(generator, batch):
    random = torch.Generator().manual_seed(3)
    latents = torch.randn(batch, *generator.latent_shape(5, 16, 24), generator=random)
    return latents, torch.rand(batch, generator=random)


@torch.no_grad()
def test_velocities_of_prompts_of_different_length_together_are_those_of_each_alone(generator):
    latents, sigma = noisy(generator, 3)
    together = generator.velocity(latents, sigma, generator.encode_prompts(PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        alone = generator.velocity(
            latents[row : row + 1], sigma[row : row + 1], generator.encode_prompts([prompt])
        )
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_velocity_calls_the_transformer_it_is_given_and_answers_in_float32(generator):
    latents, sigma = noisy(generator, 2)
    conditions = select(generator.encode_prompts(PROMPTS), [0, 1])

    class Doubled(torch.nn.Module):
        def forward(self, **arguments):
            return (2 * generator.transformer(**arguments)[0].double(),)

    velocity = generator.velocity(latents, sigma, conditions)
    assert velocity.dtype == torch.float32
    doubled = generator.velocity(latents, sigma, conditions, transformer=Doubled())
    assert doubled.dtype == torch.float32
    torch.testing.assert_close(doubled, 2 * velocity)


@pytest.mark.parametrize("size", [(1, 8, 8), (5, 16, 24), (9, 32, 16)])
def test_latents_have_the_announced_shape_and_decode_to_the_size(generator, size):
    generator.check_size(*size)
    latents = generator.encode(torch.zeros(2, 3, *size))
    assert latents.shape == (2, *generator.latent_shape(*size))
    assert latents.dtype == torch.float32
    assert generator.decode(latents).shape == (2, 3, *size)


@torch.no_grad()
def test_decoded_videos_stay_in_range():
    generator = tiny_generator()
    generator.pipeline.vae.decoder[-1].weight.mul_(1000)
    latents = torch.randn(1, *generator.latent_shape(5, 16, 16), generator=torch.Generator().manual_seed(0))
    videos = generator.decode(latents)
    assert videos.min() == -1
    assert videos.max() == 1
    torch.testing.assert_close(videos, generator.decode_with_gradients(latents).clip(-1, 1))


def test_the_size_multiples_are_the_sizes_that_pass(generator):
    side, time = generator.size_multiples()
    assert (side, time) == (8, 4)
    generator.check_size(time * 2 + 1, side * 3, side * 4)


def test_features_feel_latents_noise_level_and_prompt(generator):
    latents, sigma = noisy(generator, 2)
    latents.requires_grad_(True)
    conditions = select(generator.encode_prompts(PROMPTS), [0, 1])
    features, mask = generator.features(latents, sigma, conditions, num_blocks=2)
    assert features.shape[:2] == mask.shape
    # A time token, the text, and 2 x 2 x 3 patches; the shorter prompt is padded.
    text = conditions["encoder_attention_mask"].sum(1)
    assert mask.sum(1).tolist() == [1 + int(n) + 12 for n in text]
    features[mask].sum().backward()
    assert latents.grad.flatten(1).any(1).all()
    other, _ = generator.features(latents, 1 - sigma, conditions, num_blocks=2)
    assert (other - features).abs().max() > 1e-4


def test_a_video_does_not_depend_on_its_batch(generator):
    settings = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 2}
    together = generator.generate(PROMPTS, seed=[4, 5, 6], **settings)
    alone = generator.generate(PROMPTS[1:2], seed=5, **settings)
    torch.testing.assert_close(together[1], alone[0], atol=1e-5, rtol=0)
    assert torch.equal(generator.generate(PROMPTS, seed=4, **settings), together)


def test_tiny_generators_are_tiny_and_follow_their_seed():
    first, second, other = tiny_generator(), tiny_generator(), tiny_generator(seed=1)
    assert sum(p.numel() for p in first.transformer.parameters()) < 200_000
    assert torch.equal(first.transformer.proj_out.weight, second.transformer.proj_out.weight)
    assert not torch.equal(first.transformer.proj_out.weight, other.transformer.proj_out.weight)
    assert not any(p.requires_grad for p in first.transformer.parameters())
