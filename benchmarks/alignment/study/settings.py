"""Sizes and training settings of the study; docs/results.md says where they come from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alignment.demo.settings import EVIDENCE_HEAD, HIGH_NOISE, Settings

SIZE: Settings = {"num_frames": 9, "height": 32, "width": 32}
FPS = 8
ALL_LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "mlp.0", "mlp.2", "skip_linear"]
"""Every linear layer of the built-in transformer's blocks."""


@dataclass(frozen=True)
class Scale:
    """Sizes of the study.

    Attributes:
        test_prompts: held-out prompts, one video each; every figure is their mean.
        train_prompts: prompts of PPO.
        ranked_prompts: prompts with rankings: `candidates` videos and `annotators` rankings each.
        demonstrations: rendered clips of SFT.
        num_prompts, num_generations: groups of a PPO rollout, and videos of each.
        num_inference_steps, trained_steps: of a rollout; every measurement has as many denoising steps.
        batch: videos that are sampled, decoded or judged at once.
        sft_steps, sft_batch, dpo_steps, dpo_batch: lengths and sizes of these trainings.
        reward_epochs: most passes of the reward model over the rankings.
    """

    test_prompts: int = 512
    train_prompts: int = 4096
    ranked_prompts: int = 1000
    candidates: int = 6
    annotators: int = 2
    demonstrations: int = 16384
    num_prompts: int = 32
    num_generations: int = 16
    num_inference_steps: int = 8
    trained_steps: int = 4
    batch: int = 512
    sft_steps: int = 2000
    sft_batch: int = 512
    dpo_steps: int = 120
    dpo_batch: int = 32
    reward_epochs: int = 15

    @property
    def rankings(self) -> int:
        return self.ranked_prompts * self.annotators


GPU = Scale()
CPU = Scale(
    test_prompts=128, train_prompts=512, ranked_prompts=120, candidates=4, annotators=3, demonstrations=256,
    num_prompts=8, num_generations=8, batch=16, sft_steps=70, sft_batch=16, dpo_steps=60, dpo_batch=4, reward_epochs=8,
)  # fmt: skip
TINY = Scale(8, 8, 12, 3, 1, 8, 2, 2, 4, 2, 4, 2, 4, 2, 2, 1)
SCALES = {"gpu": GPU, "cpu": CPU, "tiny": TINY}


def sft_settings(scale: Scale) -> Settings:
    """Arguments of `SFTConfig`."""
    return {
        "max_steps": scale.sft_steps,
        "per_device_train_batch_size": scale.sft_batch,
        "learning_rate": 2e-3,
        "caption_dropout": 0.1,
        "logit_mean": HIGH_NOISE,
    }


def dpo_settings(scale: Scale) -> Settings:
    """Arguments of `DPOConfig`: whole rankings, and a weak pull to the reference."""
    return {
        "max_steps": scale.dpo_steps,
        "per_device_train_batch_size": scale.dpo_batch,
        "learning_rate": 2e-3,
        "loss_type": "plackett_luce",
        "beta": 10.0,
        "logit_mean": HIGH_NOISE,
    }


def reward_settings(scale: Scale) -> Settings:
    """Arguments of `RewardConfig`: a small head on the SFT model's first block and on its evidence."""
    return {
        "num_train_epochs": scale.reward_epochs,
        "per_device_train_batch_size": 16 if scale.ranked_prompts < 500 else 64,
        **EVIDENCE_HEAD,
        "encode_batch_size": scale.batch,
        **SIZE,
    }


def taught_reward_settings(scale: Scale) -> Settings:
    """Arguments of `RewardConfig` for a model that near misses have taught; its whole trunk learns on."""
    return {
        "num_train_epochs": min(8, scale.reward_epochs),
        "per_device_train_batch_size": 16 if scale.ranked_prompts < 500 else 64,
        "learning_rate": 3e-4,
        "trunk_learning_rate": 1e-4,
        "early_stopping_patience": 4,
        "encode_batch_size": scale.batch,
        "bf16": torch.cuda.is_available(),
        **SIZE,
    }


def ppo_settings(scale: Scale, rows: int) -> Settings:
    """Arguments of `PPOConfig`: two passes over each rollout, with two optimiser steps each.

    Args:
        rows: denoising steps in one forward and backward pass.
    """
    return {
        "num_rollouts": 10_000,
        "num_iterations": 2,
        "num_mini_batches": 2,
        "num_prompts": scale.num_prompts,
        "num_generations": scale.num_generations,
        "num_inference_steps": scale.num_inference_steps,
        "rollout_batch_size": 2 * scale.batch,
        "reward_batch_size": scale.batch,
        "per_device_train_batch_size": rows,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "sde_window_size": scale.trained_steps,
        "guidance_scale": 1.0,
        "beta": 0.0,
        "monitor_kl_generations": 1,
        "monitor_videos": 0,
        "step_weight": "balanced",
        **SIZE,
    }


def rows_that_fit(workers: int, megabytes_a_row: float = 30.0) -> int:
    """Denoising steps in a micro-batch, a power of two: a fifth of the GPU's memory stays free when it is shared by
    `workers` processes; 16 on a CPU."""
    if not torch.cuda.is_available():
        return 16
    share = 0.8 * torch.cuda.get_device_properties(0).total_memory / workers
    rows = max(16, int(share / (megabytes_a_row * 2**20)))
    return min(1024, 1 << (rows.bit_length() - 1))


TUNED: dict[str, Settings] = {
    "as in the study": {},
    "learning rate 5e-3": {"learning_rate": 5e-3},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "guidance 3": {"guidance_scale": 3.0},
    "all linear layers": {"lora_target_modules": ALL_LINEAR},
    "conditional gradient": {"unconditional_gradient": False},
    "compiled": {"compile_blocks": True},
    "four passes": {"num_iterations": 4},
    "64 prompts × 16": {"num_prompts": 64},
    "16 prompts × 32": {"num_prompts": 16, "num_generations": 32},
    "all steps": {"sde_window_size": None},
    "noise level 1": {"noise_level": 1.0},
    "wider clipping": {"epsilon": 1e-2},
    "dance_sde": {"sde_kernel": "dance_sde"},
}
"""Settings of PPO on the gold score that `--parts tune` compares; `lora_r`, `lora_target_modules` are the adapter's.
`a + b` is both. With `--parts tune gold`, `gold` takes the settings of the best."""


def tuned(name: str) -> Settings:
    """The settings of a variant, or of several joined by ` + `.

    Raises:
        ValueError: there is no such variant.
    """
    settings: Settings = {}
    for part in name.split(" + "):
        if part not in TUNED:
            raise ValueError(f"There is no variant {part!r}: use {', '.join(TUNED)}, joined by ' + '.")
        settings |= TUNED[part]
    return settings


def ppo_ablations(scale: Scale) -> dict[str, Settings]:
    """Changes, one at a time; videos in a rollout stay as many."""
    videos = scale.num_prompts * scale.num_generations
    few, many = max(2, scale.num_generations // 4), min(2 * scale.num_generations, videos // 2)
    return {
        "default": {},
        "kernel: dance_sde": {"sde_kernel": "dance_sde"},
        "kernel: cps": {"sde_kernel": "cps"},
        "step weight: none": {"step_weight": "none"},
        "step weight: inverse_std": {"step_weight": "inverse_std"},
        f"groups of {few}": {"num_generations": few, "num_prompts": videos // few},
        f"groups of {many}": {"num_generations": many, "num_prompts": videos // many},
        "critic": {"advantage": "critic"},
    }


DPO_ABLATIONS: dict[str, Settings] = {
    "whole rankings (Plackett–Luce, ties as buckets)": {"loss_type": "plackett_luce"},
    "pairs, ties dropped": {"loss_type": "sigmoid"},
    "pairs, ties used (Rao–Kupper)": {"loss_type": "rao_kupper"},
}
"""`default` of the study is the first."""
