"""PPO that trains the conditional branch of guidance alone."""

import pytest
import torch

from alignment.rollouts.rollout import step_rows
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer


@pytest.mark.parametrize(("iterations", "bf16"), [(1, False), (2, True)])
def test_an_unconditional_branch_without_gradient_runs_apart_only_after_the_policy_has_changed(
    generator, prompts, bright, quiet, iterations, bf16
):
    """Those of the rollout serve the first optimiser step; later ones are of the policy as it is, in few calls."""
    config = PPOConfig(
        num_rollouts=1, num_prompts=3, num_generations=4, num_inference_steps=5, num_mini_batches=2,
        per_device_train_batch_size=8, learning_rate=1e-2, num_iterations=iterations, guidance_scale=3.0, bf16=bf16,
        unconditional_gradient=False, rollout_batch_size=3, beta=0.0, monitor_kl=False, probe_prompts=0, **quiet,
    )  # fmt: skip
    trainer = PPOTrainer(generator, config, prompts, bright)
    calls, updating = [], []
    update_loss, forward = trainer.update_loss, generator.transformer.forward

    def counted(*given, **named):
        calls.append(
            (torch.is_grad_enabled(), len(given[0] if given else named["hidden_states"]), len(updating))
        )
        return forward(*given, **named)

    def spy(model, rollout, rows, update, micro_batch):
        updating.append(update)
        loss = update_loss(model, rollout, rows, update, micro_batch)
        part = step_rows(rollout, rows)
        velocity = trainer.plan.unconditional_velocity(part.prompt_indices, trainer.policy)
        sigma = rollout.trajectories.sigmas[rollout.trajectories.settings.first_step + part.step]
        generator.transformer.forward = forward
        with torch.no_grad():
            expected = velocity(part.latents, sigma)
        generator.transformer.forward = counted
        torch.testing.assert_close(part.unconditional, expected, atol=2e-2 if bf16 else 1e-5, rtol=0)
        return loss

    generator.transformer.forward = counted
    trainer.update_loss = spy
    trainer.train()
    size, rows, updates = trainer.args.micro_batch_size, trainer.args.rows_per_update, 2 * iterations
    of_updates = [(gradient, count) for gradient, count, begun in calls if begun]
    assert [count for gradient, count in of_updates if gradient] == [size] * (rows // size * updates)
    apart = [count for gradient, count in of_updates if not gradient]
    # In bfloat16 the second step's old log-probabilities are computed in micro-batches, after their unconditional part.
    assert [count for count in apart if count == size] == ([size] * (rows // size) if bf16 else [])
    assert {count for count in apart if count != size} == {6}
    assert sum(count for count in apart if count != size) == rows * (updates + 1 if bf16 else updates - 1)
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert logged[0]["log_prob_error"] < (1e-2 if bf16 else 1e-5)
