"""`vidalign ppo`: proximal policy optimisation against a reward model."""

from __future__ import annotations

from typing import Any

from alignment.cli.next_command import prompts_of, show_comparison
from alignment.lora import LoraArguments
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.on_rewards import PPOArguments, train_ppo
from alignment.stages.stage import speaks
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer

HELP = (
    "Align a generator with a reward model: sample groups of videos, judge them, reinforce the better ones."
)
EXAMPLE = (
    "vidalign ppo --model nano --adapter runs/sft --prompts prompts.txt --reward runs/reward "
    "--output_dir runs/ppo"
)


def run(
    model: GeneratorArguments, data: PPOArguments, lora: LoraArguments, config: PPOConfig, **more: Any
) -> PPOTrainer:
    """Runs `train_ppo`, which `more` goes to, and prints the next command."""
    trainer = train_ppo(model, data, args=config, lora=lora, **more)
    if speaks(config):
        show_comparison(model, lora, config, prompts_of(data.prompts), data.prompts, config, data)
    return trainer


ARGUMENTS = (GeneratorArguments, PPOArguments, LoraArguments, PPOConfig)
