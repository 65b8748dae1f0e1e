"""Settings of the demo's four trainings, by its scale.

They were chosen with `benchmarks/alignment/demo_variants.py`; docs/results.md has the figures.
"""

from __future__ import annotations

from typing import Any

from alignment.demo.scales import DemoConfig, DemoScale
from reward.models.storage import built_in_rewards, read_reward_config, reward_folder

Settings = dict[str, Any]

HIGH_NOISE = 1.5
"""Mean of the logit-normal noise levels of SFT and DPO: what a video shows is decided where noise is high."""


def kept_guidance(distilled: float) -> float:
    """Scale at which SFT keeps a guidance w that is distilled into the weights.

    What the prompt changes there is w times what it changes in the model alone, so guidance w of that is
    1 + (w − 1) / w.
    """
    return 1 + (distilled - 1) / distilled


def distilled_guidance(adapter: str | None) -> float | None:
    """Guidance that was distilled into an adapter, as its `training.json` says; None where there is none."""
    if not adapter:
        return None
    from generator.adapters.adapters import adapter_record

    found = adapter_record(adapter).get("arguments", {}).get("distill_guidance")
    return float(found) if isinstance(found, int | float) else None


def reward_start(config: DemoConfig, scale: DemoScale) -> str:
    """Reward model from which that of the demo learns on: what is asked for, or the one that comes with the generator
    where it knows videos of this size; empty where there is none."""
    if config.reward is not None:
        return config.reward
    name = f"{config.model}-reward"
    if name not in built_in_rewards():
        return ""
    known = read_reward_config(reward_folder(name))
    small = all(value <= known[size] for size, value in video_size(scale).items())
    return name if small else ""


def video_size(scale: DemoScale) -> Settings:
    """Frames, height and width of all videos."""
    return {"num_frames": scale.num_frames, "height": scale.height, "width": scale.width}


EVIDENCE_HEAD: Settings = {
    "num_blocks": 1,
    "num_queries": 1,
    "hidden_size": 16,
    "dropout": 0.5,
    "sigmas": [0.3],
    "implicit_evidence": True,
    "evidence_sigmas": [0.8, 0.9, 0.97],
    "evidence_draws": 2,
}
"""Of `RewardConfig`: a small head on the SFT model's first block and on its evidence for the prompt."""


def sft_settings(scale: DemoScale, distilled: float | None = None) -> Settings:
    """Arguments of `SFTConfig`.

    Args:
        distilled: guidance in the weights of the adapter that it begins with, as in `nano-distilled`, which is kept.
    """
    kept: Settings = {}
    if distilled is not None:
        kept = {"distill_guidance": kept_guidance(distilled), "distill_demonstrations": True}
    return {
        "max_steps": scale.sft_steps,
        "per_device_train_batch_size": scale.batch_size,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "logging_steps": 5,
        "caption_dropout": 0.0,
        "logit_mean": HIGH_NOISE,
        **kept,
    }


TAUGHT: Settings = {
    "num_train_epochs": 1,
    "learning_rate": 1e-4,
    "trunk_learning_rate": 3e-5,
    "warmup_steps": 3,
}
"""Of `RewardConfig`: a model that near misses have taught goes on learning, carefully, from so few rankings."""


def reward_settings(scale: DemoScale, taught: bool = False) -> Settings:
    """Arguments of `RewardConfig`: a model that knows what prompts say, or a small head on the SFT model's first block
    and on its evidence.

    How much better the SFT model denoises a video with its prompt than without tells most of what so few rankings
    can confirm; a large head would learn the training prompts by heart.

    Args:
        taught: whether the model goes on from one such as `nano-v1-reward`.
    """
    return {
        "num_train_epochs": scale.reward_epochs,
        "held_out_fraction": 0.3,
        **(TAUGHT if taught else EVIDENCE_HEAD),
        "logging_steps": 5,
        "encode_batch_size": scale.inference_batch_size,
        **video_size(scale),
    }


def dpo_settings(scale: DemoScale) -> Settings:
    """Arguments of `DPOConfig`: whole rankings, and a weak pull to the reference."""
    return {
        "max_steps": scale.dpo_steps,
        "per_device_train_batch_size": 8,
        "loss_type": "plackett_luce",
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "beta": 3.0,
        "logging_steps": 5,
        "logit_mean": HIGH_NOISE,
    }


def ppo_settings(scale: DemoScale, taught: bool = False) -> Settings:
    """Arguments of `PPOConfig`: the two noisiest steps alone are trained, where what a video shows is decided; one
    pass over each rollout, no KL term for so short a training; the result is the best by the reward of held-out
    prompts.

    Args:
        taught: whether the reward model goes on from one such as `nano-v1-reward`; a reward of rankings alone stands
            no more than a low rate.
    """
    return {
        "num_rollouts": scale.num_rollouts,
        "eval_steps": 0.5,
        "load_best_model_at_end": True,
        "num_prompts": scale.rollout_prompts,
        "num_generations": scale.num_generations,
        "num_inference_steps": scale.num_inference_steps,
        "rollout_batch_size": scale.rollout_prompts * scale.num_generations,
        "reward_batch_size": max(scale.inference_batch_size, 32),
        "per_device_train_batch_size": max(scale.inference_batch_size, 32),
        "learning_rate": 1e-3 if taught else 3e-4,
        "lr_scheduler_type": "cosine",
        "sde_window_size": 2,
        "beta": 0.0,
        "probe_prompts": 0,
        "step_weight": "balanced",
        **video_size(scale),
    }
