"""The table that `vidalign demo` shows before its first stage."""

from __future__ import annotations

from alignment.demo.scales import STAGES, DemoConfig, DemoScale
from alignment.demo.settings import reward_start
from generator.training.table import format_table
from reward.reports.made import device_name


def describe_demo(config: DemoConfig, scale: DemoScale, done: int = 0) -> str:
    """Work of the demo, its device and a forecast.

    Args:
        done: stages that an earlier run finished.
    """
    size = f"{scale.num_frames} frames of {scale.height}x{scale.width}"
    rollout = scale.rollout_prompts * scale.num_generations
    candidates = scale.num_ranked_prompts * scale.num_candidates
    start = reward_start(config, scale)
    minutes = sum(scale.seconds.values()) / 60
    rows = {
        "model": config.model + (f" with {config.adapter}" if config.adapter else ""),
        **({"rewriter": config.rewriter} if config.rewriter else {}),
        "videos": f"{size}, {scale.num_inference_steps} denoising steps",
        "SFT": f"{scale.sft_steps} steps on {scale.num_demonstrations} clips",
        "rankings": f"of {candidates} videos of {scale.num_ranked_prompts} prompts by {scale.num_annotators} simulated "
        f"annotators; the reward model learns from them{f', beginning with {start}' if start else ''}",
        "DPO": f"{scale.dpo_steps} steps",
        "PPO": f"{scale.num_rollouts} rollouts of {rollout} videos",
        "evaluation": f"{scale.num_test_prompts * scale.num_videos_per_prompt} held-out videos of each model",
        "stages": f"{len(STAGES)}, {done} of them done" if done else f"{len(STAGES)}",
        "device": device_name(),
        "forecast": f"about {minutes:.0f} minutes on two free cores (on an H200 with --scale gpu)",
    }
    return format_table("The demo runs the whole loop", rows)
