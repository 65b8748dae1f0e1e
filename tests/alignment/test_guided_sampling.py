"""Best-of-N and reward guidance."""

import json
import math
from dataclasses import replace

import pytest
import torch

from alignment.cli import main
from alignment.guided_sampling import (
    candidate_seeds,
    noise_guided_velocity,
    reward_guided_velocity,
    sample_aligned,
)
from alignment.rollouts.reward_mixture import RewardMixture
from alignment.rollouts.sampling_plan import SamplingPlan
from generator import flow
from generator.output import InputError
from generator.sampling import generate_latents, sample_latents
from generator.testing import tiny_generator
from generator.video import read_video

MEAN, SPREAD = 0.7, 0.5


def exact_velocity(x, sigma):
    """E[noise − x₀ | x] for x₀ ~ N(MEAN, SPREAD²)."""
    sigma = flow.expand(sigma, x)
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return -MEAN + (sigma - (1 - sigma) * SPREAD**2) / variance * (x - (1 - sigma) * MEAN)


@pytest.mark.parametrize("weight", [-1.0, 0.0, 2.0])
def test_guidance_samples_from_the_distribution_tilted_by_the_reward(weight):
    """For a Gaussian and a linear reward r = 1.5 x₀ that is N(MEAN + 1.5 w SPREAD², SPREAD²)."""
    torch.manual_seed(0)
    sigmas = flow.sigma_schedule(200, 1.5)
    velocity = reward_guided_velocity(
        exact_velocity, lambda x0: 1.5 * x0.flatten(1).sum(1), weight, sigmas[1].item()
    )
    samples = sample_latents(velocity, torch.randn(20_000, 1), sigmas)
    assert samples.mean().item() == pytest.approx(MEAN + 1.5 * weight * SPREAD**2, abs=0.03)
    assert samples.std().item() == pytest.approx(SPREAD, rel=0.03)
    assert math.isfinite(samples.abs().max())


@pytest.mark.parametrize("weight", [-1.0, 2.0])
def test_guidance_by_a_reward_of_noisy_latents_samples_from_the_same_distribution(weight):
    """The same Gaussian, with r(x, σ) = 1.5 E[x₀ | x], which is what a noise-conditioned model learns."""

    def reward(x, sigma):
        sigma = flow.expand(sigma, x)
        gain = (1 - sigma) * SPREAD**2 / ((1 - sigma) ** 2 * SPREAD**2 + sigma**2)
        return 1.5 * (MEAN + gain * (x - (1 - sigma) * MEAN)).flatten(1).sum(1)

    torch.manual_seed(0)
    sigmas = flow.sigma_schedule(200, 1.5)
    velocity = noise_guided_velocity(exact_velocity, reward, weight, sigmas[1].item())
    samples = sample_latents(velocity, torch.randn(20_000, 1), sigmas)
    assert samples.mean().item() == pytest.approx(MEAN + 1.5 * weight * SPREAD**2, abs=0.03)
    assert samples.std().item() == pytest.approx(SPREAD, rel=0.03)


def test_guidance_raises_the_reward_of_a_network(generator, prompts, bright):
    rewards = RewardMixture([bright])
    plan = SamplingPlan.for_prompts(generator, prompts, num_inference_steps=8)
    plain = sample_aligned(plan, rewards, range(6))
    guided = sample_aligned(replace(plan, batch_size=4), rewards, range(6), reward_guidance=20.0)
    assert (guided.rewards > plain.rewards).all()
    assert torch.equal(
        plain.latents, generate_latents(generator, prompts, num_inference_steps=8, seed=range(6))
    )


def test_the_best_of_several_candidates_is_kept_and_can_be_made_again(generator, prompts, bright):
    rewards = RewardMixture([bright])
    plan = SamplingPlan.for_prompts(generator, prompts[:3], batch_size=5)
    found = sample_aligned(plan, rewards, [5, 6, 7], best_of=4)
    assert found.candidates.shape == (3, 4)
    assert torch.equal(found.rewards, found.candidates.amax(1))
    assert torch.allclose(bright.score_latents(found.latents, {})["overall"], found.rewards)
    again = generate_latents(generator, prompts[:3], seed=found.seeds)
    assert torch.allclose(again, found.latents, atol=1e-5)
    for own, seed, index in zip([5, 6, 7], found.seeds, found.candidates.argmax(1).tolist()):
        assert candidate_seeds(own, 4)[index] == seed
    single = sample_aligned(plan, rewards, [5, 6, 7])
    assert single.seeds == [5, 6, 7]
    assert torch.allclose(single.rewards, found.candidates[:, 0], atol=1e-6)


def test_rewards_without_gradients_can_only_choose(generator, prompts, bright):
    bright.scores_latents = False
    rewards = RewardMixture([bright])
    plan = SamplingPlan.for_prompts(generator, prompts)
    assert sample_aligned(plan, rewards, range(6), best_of=2).candidates.shape == (6, 2)
    with pytest.raises(InputError, match="use best_of"):
        sample_aligned(plan, rewards, range(6), reward_guidance=1.0)
    with pytest.raises(InputError, match="best_of is 0"):
        sample_aligned(plan, rewards, range(6), best_of=0)


def test_generate_takes_them_from_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "paleness.py").write_text("def judge(videos, prompts): return videos.mean((1, 2, 3, 4))\n")
    monkeypatch.syspath_prepend(tmp_path)
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a circle\na square\n")
    words = (
        f"generate --model {tmp_path / 'model'} --prompts {tmp_path / 'prompts.txt'} --num_inference_steps 2"
    )
    words += " --num_frames 5 --height 16 --width 16 --output_dir"
    means = []
    for name, more in (("plain", ""), ("best", " --reward paleness:judge --best_of 6")):
        assert main(f"{words} {tmp_path / name}{more}".split()) == 0
        rows = [json.loads(line) for line in (tmp_path / name / "metadata.jsonl").read_text().splitlines()]
        means.append([read_video(tmp_path / name / row["file_name"])[0].mean().item() for row in rows])
    assert all(best >= plain - 0.02 for best, plain in zip(means[1], means[0]))
    assert sum(means[1]) > sum(means[0])
    assert main(f"{words} {tmp_path / 'x'} --best_of 2".split()) == 2
    assert "pass --reward" in capsys.readouterr().err
    assert main(f"{words} {tmp_path / 'x'} --reward paleness:judge --reward_guidance 1".split()) == 2
    assert "use best_of" in capsys.readouterr().err
