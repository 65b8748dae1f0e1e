"""Sampling of videos and trajectories, on a generator whose velocity is known exactly."""

import pytest
import torch

from generator import flow
from generator.base import VideoGenerator
from generator.inputs.conditions import repeat
from generator.output import InputError
from generator.sampling import (
    SdeSettings,
    generate_latents,
    guided_velocity,
    sample_latents,
    sample_trajectories,
    seeded_noise,
)
from generator.video_model import GenerationDefaults


class PointGenerator(VideoGenerator):
    """Knows that the only video of a prompt is filled with the prompt's length: v = (x − x₀) / σ."""

    name = "point"

    def __init__(self):
        self.defaults = GenerationDefaults(3, 4, 4, 8.0, 6, 1.0, 3.0)
        self.module = torch.nn.Linear(1, 1)
        self.calls = []
        self.encoded = []

    @property
    def transformer(self):
        return self.module

    def check_size(self, num_frames, height, width):
        if height % 4:
            raise InputError(f"Height {height} is not a multiple of 4: use {height // 4 * 4}.")

    def size_multiples(self):
        return 4, 2

    def features(self, latents, sigma, conditions, num_blocks):
        raise NotImplementedError

    def latent_shape(self, num_frames, height, width):
        return 2, num_frames, height // 2, width // 2

    def encode(self, videos):
        raise NotImplementedError

    def decode(self, latents):
        return latents[:, :1].repeat(1, 3, 1, 2, 2)

    def encode_prompts(self, prompts):
        self.encoded += prompts
        return {"value": torch.tensor([len(prompt) / 10 for prompt in prompts])}

    def velocity(self, latents, sigma, conditions, transformer=None):
        self.calls.append(len(latents))
        x0 = flow.expand(conditions["value"], latents).expand_as(latents)
        return (latents - x0) / flow.expand(sigma, latents)


def test_the_ode_reaches_the_exact_sample_and_decodes_it():
    videos = PointGenerator().generate(["abc", "abcdefg"])
    assert videos.shape == (2, 3, 3, 4, 4)
    assert torch.allclose(videos[0], torch.tensor(0.3), atol=1e-5)
    assert torch.allclose(videos[1], torch.tensor(0.7), atol=1e-5)


def test_noise_depends_on_the_own_seed_alone():
    noise = seeded_noise([5, 6, 7], (2, 3))
    assert torch.equal(noise[1:], seeded_noise([6, 7], (2, 3)))
    assert not torch.equal(noise[0], noise[1])
    assert seeded_noise(range(4000), (8,)).std().item() == pytest.approx(1, abs=0.02)


def test_a_video_is_the_same_in_any_batch():
    prompts = ["a", "bb", "ccc", "dd", "eeeee"]
    together = generate_latents(PointGenerator(), prompts, seed=3, batch_size=5)
    apart = generate_latents(PointGenerator(), prompts, seed=3, batch_size=2)
    last = generate_latents(PointGenerator(), prompts[4:], seed=[7])
    assert torch.equal(together, apart)
    assert torch.equal(together[4:], last)


def test_guidance_is_one_batched_call_and_prompts_are_encoded_once():
    generator = PointGenerator()
    latents = generate_latents(generator, ["abc", "abc"], guidance_scale=2.0, negative_prompt="abcde")
    assert generator.calls == [4] * 6
    assert generator.encoded == ["abc", "abcde"]
    assert torch.allclose(latents, torch.tensor(0.5 + 2 * (0.3 - 0.5)), atol=1e-5)


def test_guided_velocity_combines_each_row_with_its_own_unconditional_one():
    generator = PointGenerator()
    conditions = generator.encode_prompts(["abc", "abcd"])
    negative = generator.encode_prompts(["a", "ab"])
    latents, sigma = torch.randn(2, 2, 3, 2, 2), torch.tensor([0.5, 0.8])
    found = guided_velocity(generator, conditions, negative, 3.0)(latents, sigma)
    expected = flow.guide(
        generator.velocity(latents, sigma, conditions), generator.velocity(latents, sigma, negative), 3.0
    )
    assert torch.allclose(found, expected)


def test_impossible_requests_are_refused():
    generator = PointGenerator()
    with pytest.raises(InputError, match="multiple of 4"):
        generator.generate(["a"], height=6)
    with pytest.raises(InputError, match="2 seeds were given for 1 prompts"):
        generator.generate(["a"], seed=[1, 2])
    with pytest.raises(InputError, match="No prompt"):
        generator.generate([])
    with pytest.raises(InputError, match="kernel"):
        SdeSettings("unknown", 0.7, 0, 2)


def trajectories(kernel="flow_sde", first=1, steps=3, batch=6, reference=None):
    generator = PointGenerator()
    velocity = guided_velocity(generator, repeat(generator.encode_prompts(["abc"]), batch))
    noise = seeded_noise(range(batch), (1 + steps, 2, 3, 2, 2))
    settings = SdeSettings(kernel, 0.5, first, steps)
    return (
        generator,
        velocity,
        sample_trajectories(velocity, noise, flow.sigma_schedule(6, 3.0), settings, reference),
    )


@pytest.mark.parametrize("kernel", flow.SDE_KERNELS)
def test_trajectories_record_what_an_update_recomputes(kernel):
    _, velocity, result = trajectories(kernel)
    sigmas = flow.sigma_schedule(6, 3.0)
    for place, step in enumerate([1, 2, 3]):
        x, following = result.states[:, place], result.states[:, place + 1]
        v = velocity(x, sigmas[step].expand(6))
        mean, std = flow.SDE_KERNELS[kernel](x, v, sigmas[step], sigmas[step + 1], 0.5, sigmas[1])
        log_prob = torch.distributions.Normal(mean, std).log_prob(following).flatten(1).mean(1)
        assert torch.allclose(result.log_probs[:, place], log_prob, atol=1e-5)
    rest = sample_latents(velocity, result.states[:, -1], sigmas[4:])
    assert torch.allclose(rest, result.final)
    assert torch.allclose(result.final, torch.tensor(0.3), atol=1e-5)


def test_the_window_is_the_same_for_all_and_steps_outside_are_the_ode():
    _, velocity, result = trajectories(first=2, steps=2)
    start = seeded_noise(range(6), (3, 2, 3, 2, 2))[:, 0]
    before = sample_latents(velocity, start, flow.sigma_schedule(6, 3.0)[:3])
    assert torch.allclose(result.states[:, 0], before)
    assert result.states.shape[1] == 3


def test_the_last_step_can_not_be_stochastic():
    with pytest.raises(InputError, match="only the first 5 of 6 steps"):
        trajectories(first=4, steps=2)
