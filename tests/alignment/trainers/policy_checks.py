"""What each trainer that learns from its own videos must do; their test files make the trainers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def rollout_settings(**arguments: Any) -> dict[str, Any]:
    """Arguments of a small configuration with rollouts."""
    return {
        "num_rollouts": 6, "num_prompts": 4, "num_generations": 4, "num_inference_steps": 4,
        "num_mini_batches": 2, "per_device_train_batch_size": 32, "learning_rate": 1e-2,
    } | arguments  # fmt: skip


def check_reward_rises(trainer: Any) -> None:
    """Trains, and compares the last three rewards with the first three."""
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.15


def check_resuming(make: Callable[[dict[str, Any]], Any], quiet: dict[str, Any], tmp_path: Path) -> None:
    """A run of 12 steps that is resumed after 6 must equal the uninterrupted one bit for bit."""
    quiet = quiet | {"save_strategy": "steps", "save_steps": 6, "save_total_limit": None, "ema_decay": 0.9}
    whole = make(quiet)
    whole.train()
    torch.manual_seed(5)
    resumed = make(quiet | {"output_dir": str(tmp_path / "again")})
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    assert whole.state.global_step == resumed.state.global_step == 12
    weights = dict(resumed.policy.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in whole.policy.named_parameters())
    assert any((p != 0).any() for name, p in weights.items() if "lora_B" in name)
    assert all(torch.equal(whole.ema.average[name], resumed.ema.average[name]) for name in whole.ema.average)


def check_micro_batches(make: Callable[..., Any]) -> None:
    """An optimiser step must be the same in one micro-batch and in many."""
    results = []
    for size in (32, 2):
        trainer = make(
            num_rollouts=1, num_mini_batches=1, per_device_train_batch_size=size, optim="sgd", learning_rate=1.0,
            max_grad_norm=0.0,
        )  # fmt: skip
        trainer.train()
        results.append({n: p.detach() for n, p in trainer.policy.named_parameters() if p.requires_grad})
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-5) for name in results[0])
    assert any(value.abs().max() > 1e-3 for name, value in results[0].items() if "lora_B" in name)
