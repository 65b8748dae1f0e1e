"""DiffusionNFT."""

import numpy as np
import pytest
import torch

from alignment.losses import clipped_ratio_loss, flow_matching_error, matching_log_ratio
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer, nft_loss, old_policy_decay, optimality
from alignment.trainers.noised_videos import Noising
from generator import flow
from generator.output import InputError
from tests.alignment.bright_reward import BrightReward
from tests.alignment.trainers.policy_checks import (
    check_micro_batches,
    check_resuming,
    check_reward_rises,
    rollout_settings,
)


def make(generator, prompts, reward, quiet, **arguments):
    settings = rollout_settings(**{"advantage_clip": 2.0} | arguments)
    return NFTTrainer(generator, NFTConfig(**settings, **quiet), prompts, reward)


def test_it_raises_the_reward(generator, prompts, bright, quiet):
    check_reward_rises(make(generator, prompts, bright, quiet, num_rollouts=30))


def test_resuming_equals_the_uninterrupted_run_bit_for_bit(make_generator, prompts, bright, quiet, tmp_path):
    check_resuming(lambda quiet: make(make_generator(), prompts, bright, quiet), quiet, tmp_path)


def test_micro_batches_do_not_change_the_update(make_generator, prompts, bright, quiet):
    check_micro_batches(lambda **arguments: make(make_generator(), prompts, bright, quiet, **arguments))


def test_optimality_is_a_probability():
    assert optimality(torch.tensor([-9.0, -2.0, 0.0, 1.0, 9.0]), 2.0).tolist() == [0, 0, 0.5, 0.75, 1]


def test_nft_at_the_sampling_policy_goes_where_flow_matching_of_the_advantage_goes():
    """There both branches are the same prediction, and the gradient is (2r − 1) times that of flow matching."""
    random = torch.Generator().manual_seed(0)
    x0, noise, old = torch.randn(3, 5, 2, 1, 2, 2, generator=random, dtype=torch.float64).unbind(0)
    sigma = torch.rand(5, generator=random)
    latents = flow.interpolate(x0, noise, sigma)
    probability = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    velocity = old.clone().requires_grad_()
    loss = nft_loss(velocity, old, latents, x0, sigma, probability, 0.7)
    (gradient,) = torch.autograd.grad(loss.sum(), velocity)
    error = flow.denoised(latents, old, sigma) - x0
    scale = error.flatten(1).abs().mean(1)
    factor = (2 * probability - 1) * 0.7 * -sigma * 2 / (scale * x0[0].numel())
    assert torch.allclose(gradient, factor[:, None, None, None, None] * error)


def test_nft_equals_its_formula_away_from_the_sampling_policy():
    random = torch.Generator().manual_seed(1)
    x0, noise, old, new = torch.randn(4, 3, 8, generator=random, dtype=torch.float64).unbind(0)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    latents = flow.interpolate(x0, noise, sigma)
    r, beta = np.array([0.1, 0.6, 0.9]), 0.4
    expected = np.zeros(3)
    for weight, v in ((r, 0.6 * old + 0.4 * new), (1 - r, 1.4 * old - 0.4 * new)):
        error = (latents - sigma[:, None] * v - x0).numpy()
        expected += weight * (error**2).mean(1) / np.abs(error).mean(1)
    found = nft_loss(new, old, latents, x0, sigma, torch.tensor(r), beta)
    assert np.allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "factor"),
    [("uniform", lambda s: 1), ("sigma", lambda s: s), ("sigma_squared", lambda s: s * s)],
)
def test_awm_at_the_sampling_policy_goes_down_the_weighted_error_of_good_videos(weight, factor):
    """Its gradient there is A w(σ) ∇ℓ, ℓ being the flow-matching error; far from it the ratio is clipped."""
    random = torch.Generator().manual_seed(0)
    old, x0, noise = torch.randn(3, 3, 4, 2, 2, 2, generator=random, dtype=torch.float64)
    sigma, advantages = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1.5, -2.0, 0.0])
    velocity = old.clone().requires_grad_()
    old_errors = flow_matching_error(old, x0, noise)
    log_ratio = matching_log_ratio(flow_matching_error(velocity, x0, noise), old_errors, sigma, weight)
    loss, ratio = clipped_ratio_loss(log_ratio, torch.zeros_like(log_ratio), advantages, 1e-4)
    loss.sum().backward()
    assert ratio.tolist() == [1, 1, 1]
    for row in range(3):
        of_error = 2 * (old[row] - (noise[row] - x0[row])) / old[row].numel()
        expected = advantages[row].item() * factor(sigma[row].item()) * of_error
        assert torch.allclose(velocity.grad[row], expected, atol=1e-7)


def test_awm_begins_at_the_sampling_policy_and_is_clipped_away_from_it(generator, prompts, bright, quiet):
    """With one optimiser step a rollout, and no average, the ratio is 1; the second pass is beyond a tiny range."""
    trainer = make(
        generator, prompts, bright, quiet, num_rollouts=2, num_mini_batches=1, num_iterations=2, loss_type="awm",
        old_decay_rate=0.0, epsilon=1e-9,
    )  # fmt: skip
    seen = []
    awm_loss = trainer._awm_loss

    def spy(noised, velocity, old_velocity, advantages):
        seen.append((velocity - old_velocity).abs().max().item())
        return awm_loss(noised, velocity, old_velocity, advantages)

    trainer._awm_loss = spy
    trainer.train()
    steps = len(seen) // 2
    first = [value for number, value in enumerate(seen) if number // (steps // 2) % 2 == 0]
    second = [value for number, value in enumerate(seen) if number // (steps // 2) % 2 == 1]
    assert max(first) < 1e-5 < min(second)
    logged = [entry["clip_ratio"] for entry in trainer.state.log_history if "clip_ratio" in entry]
    assert 0.4 < sum(logged) / len(logged) <= 1


def test_nft_samples_from_the_average_and_leaves_the_live_weights_alone(generator, prompts, bright, quiet):
    trainer = make(
        generator, prompts, bright, quiet, num_rollouts=3, old_decay_flat=0, old_decay_rate=0.2, old_decay_max=0.5
    )  # fmt: skip
    old = trainer.sampling_policy
    before, seen = {name: value.clone() for name, value in old.average.items()}, []
    sample = trainer.sample

    def spy(index, prompts, judging):
        nonlocal before
        decay = 0.2 * index
        for name, value in old.average.items():
            assert torch.allclose(value, decay * before[name] + (1 - decay) * old.live[name], atol=1e-6)
        before = {name: value.clone() for name, value in old.average.items()}
        live = {name: p.detach().clone() for name, p in old.live.items()}
        trajectories = sample(index, prompts, judging)
        assert all(torch.equal(p, live[name]) for name, p in old.live.items())
        seen.append(trajectories)
        return trajectories

    trainer.sample = spy
    trainer.train()
    assert len(seen) == 3
    with old.swapped():
        assert all(torch.equal(p, old.average[name]) for name, p in old.live.items())
    assert not all(torch.equal(p, old.average[name]) for name, p in old.live.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance_strength": 2.0}, "guidance_strength is 2.0"),
        ({"old_decay_rate": -1.0}, "old_decay_rate is -1"),
        ({"old_decay_flat": -1}, "old_decay_flat is -1"),
        ({"loss_type": "ppo"}, "loss_type is .*ppo"),
        ({"matching_weight": "t"}, "matching_weight is .*t"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
    ],
)
def test_impossible_settings_are_refused(quiet, arguments, message):
    with pytest.raises(InputError, match=message):
        NFTConfig(**arguments, **quiet)


def test_the_old_policy_starts_flat_and_its_decay_grows_to_the_most():
    """The schedules of the paper's own code: (flat, rate, most) = (0, 0.001, 0.5) and (75, 0.0075, 0.999)."""
    assert [old_policy_decay(rollout, 0, 0.001, 0.5) for rollout in (0, 1, 400, 900)] == [0, 0.001, 0.4, 0.5]
    late = [old_policy_decay(rollout, 75, 0.0075, 0.999) for rollout in (0, 74, 75, 76, 115, 300)]
    assert late == pytest.approx([0, 0, 0, 0.0075, 0.3, 0.999])


class Narrow(BrightReward):
    """Wants latents of mean ½ and std 1, so that a policy that runs past that loses what it had."""

    def score_latents(self, latents, conditions):
        mean, std = latents.mean((1, 2, 3, 4)), latents.std((1, 2, 3, 4))
        return {"overall": 1 - (mean - 0.5).abs() - 0.5 * (std - 1).abs()}


def test_a_run_that_collapses_at_a_high_rate_does_not_with_an_old_policy_that_slows_down(
    make_generator, prompts, quiet
):
    """The worst held-out reward of the second half, where both have long been at their best."""
    worst = {}
    follows = {"old_decay_flat": 0, "old_decay_rate": 0.001, "old_decay_max": 0.5}
    for name, decay in (("follows", follows), ("slows", {})):
        settings = rollout_settings(
            num_rollouts=60, learning_rate=3e-2, advantage_clip=2.0, probe_prompts=0, monitor_videos=0, **decay
        )  # fmt: skip
        trainer = NFTTrainer(
            make_generator(), NFTConfig(**settings, **quiet), prompts, Narrow(),
            eval_prompts=["a dog", "a red cat", "x", "y"],
        )  # fmt: skip
        trainer.train()
        worst[name] = min(entry["eval_reward"] for entry in trainer.evaluations()[5:])
    assert worst["follows"] < 0.7 < worst["slows"]


def test_the_velocity_term_is_the_squared_distance_from_the_reference(generator, prompts, bright, quiet):
    """Its gradient must appear in the loss with weight β, and none of it before the policy has moved."""
    trainer = make(generator, prompts, bright, quiet, num_rollouts=3, beta=0.5)
    losses = {}

    def spy(model, rollout, rows, update, micro_batch=0):
        noised = Noising.configured(trainer.args, trainer.plan).rows(rollout, rows)
        ups = [p for name, p in trainer.policy.named_parameters() if "lora_B" in name]
        kept = [p.detach().clone() for p in ups]
        with torch.no_grad():
            velocity = noised.velocity(trainer.policy)
            for p in ups:
                p.zero_()
            reference = noised.velocity(trainer.policy)
            for p, value in zip(ups, kept):
                p.copy_(value)
        arguments = (trainer, model, rollout, rows, update, micro_batch)
        trainer.args.beta = 0.0
        bare = NFTTrainer.update_loss(*arguments)
        trainer.args.beta = 0.5
        loss = NFTTrainer.update_loss(*arguments)
        losses[rollout.index, update] = (loss - bare).item(), ((velocity - reference) ** 2).mean().item()
        return loss

    trainer.update_loss = spy
    trainer.train()
    assert losses[0, 0] == (0, 0)
    added, distance = losses[2, 1]
    assert distance > 0
    assert added == pytest.approx(0.5 * distance, rel=1e-4)
