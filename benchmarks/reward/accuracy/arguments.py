"""Command line of the reward accuracy benchmark."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from alignment.demo.themes import THEMES
from benchmarks.named_values import named_values


def read_arguments(description: str) -> argparse.Namespace:
    """The arguments of the command line, `--set` as a dictionary `settings`."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--output_dir", default="runs/reward_accuracy")
    add("--clips_dir", help="Folder that keeps the generated clips; the output folder by default.")
    add("--model", default="nano")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seconds", type=float, default=470, help="No run begins later.")
    add("--rankings", nargs="+", type=int, default=[100, 300, 1000, 2000, 5000])
    add("--compared", type=int, default=2000, help="Rankings of the comparisons.")
    add("--videos", type=int, default=4, help="Videos of a ranking, at most 4.")
    add("--test_prompts", type=int, default=500)
    add("--seeds", type=int, default=2)
    add(
        "--groups",
        type=int,
        default=65536,
        help="Groups of near misses, of as many clips as a ranking has videos.",
    )
    add(
        "--made",
        type=float,
        default=0.25,
        help="Share of the groups that the generator makes with guidance 3.",
    )
    add("--theme", default="everything", choices=list(THEMES), help="Theme of some of the groups.")
    add("--theme_share", type=float, default=0.0, help="Share of the groups that are of --theme.")
    add(
        "--spoiled",
        type=int,
        default=0,
        help="Groups with clips that melt, swap shapes or hold one object more.",
    )
    add("--replay", type=float, default=0.0, help="Weight of replayed near misses beside the rankings.")
    add("--replay_rankings", type=int, default=256, help="Of them in each step.")
    add(
        "--ensemble",
        type=int,
        default=0,
        help="Seeds whose mean score is judged, too, at --compared rankings.",
    )
    add(
        "--only_compared",
        action="store_true",
        help="Train at --compared rankings alone, nothing to compare with.",
    )
    add("--blemish_groups", type=int, default=256, help="Groups for the accuracy on blemishes.")
    add(
        "--taught_only",
        action="store_true",
        help="Stop after the near misses, with the accuracy on blemishes.",
    )
    add("--reward_from", help="Name or folder of a reward model, which goes on learning from the groups.")
    add("--pretraining_steps", type=int, default=10**6)
    add("--pretraining_seconds", type=float, default=140)
    add("--pretraining_batch_size", type=int, default=512)
    add("--pretraining_learning_rate", type=float, default=1e-3)
    add("--num_blocks", type=int, default=8, help="Blocks of the trunk.")
    add("--steps", type=int, default=200, help="Training steps of a run, about; at least three epochs.")
    add("--rankings_a_step", type=int, default=64)
    add("--trunk_learning_rates", nargs="+", type=float, default=[1e-4, 3e-5])
    add("--num_inference_steps", type=int, default=10)
    add("--batch_size", type=int, default=1024, help="Videos made at a time.")
    add("--policy_prompts", type=int, default=200)
    add("--best_of", type=int, default=16)
    add("--adapter", nargs="*", default=[], help="Adapters of optimised policies.")
    add("--set", nargs="*", default=[], help="Settings of RewardConfig as name=value (YAML values).")
    add("--save_pretrained", action="store_true", help="Keep the model as the near misses taught it.")
    add("--half_precision", action="store_true", help="Keep it in half precision, half as large.")
    arguments = parser.parse_args()
    if arguments.compared not in arguments.rankings:
        parser.error(f"--compared {arguments.compared} must be one of --rankings")
    arguments.settings = named_values(arguments.set)
    return arguments


def training_settings(
    arguments: argparse.Namespace, count: int, trunk_learning_rate: float, cuda: bool
) -> dict[str, Any]:
    """Arguments of `RewardConfig` for a training on `count` rankings."""
    steps_an_epoch = max(1, -(-int(0.9 * count) // arguments.rankings_a_step))
    return {
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 10**6,
        "per_device_train_batch_size": arguments.rankings_a_step,
        "per_device_eval_batch_size": 256,
        "num_train_epochs": min(20, max(3, arguments.steps // steps_an_epoch)),
        "early_stopping_patience": 4,
        "learning_rate": 3 * trunk_learning_rate,
        "trunk_learning_rate": trunk_learning_rate,
        "architecture": "pooled",
        "full_trunk": True,
        "num_blocks": arguments.num_blocks,
        "sigmas": [0.05],
        "replay_weight": arguments.replay,
        "replay_batch_size": arguments.replay_rankings,
        "use_cpu": not cuda,
        "bf16": cuda,
    }
