"""`vidalign rwr`: reward-weighted regression."""

from __future__ import annotations

from typing import Any

from alignment.cli.next_command import prompts_of, show_comparison
from alignment.lora import LoraArguments
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.on_rewards import PromptsAndRewards, train_rwr
from alignment.stages.stage import speaks
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer

HELP = "Align a generator by flow matching on its own videos, weighted by their rewards (reward-weighted regression)."
EXAMPLE = "vidalign rwr --model nano --prompts prompts.txt --reward runs/reward --output_dir runs/rwr"


def run(
    model: GeneratorArguments, data: PromptsAndRewards, lora: LoraArguments, config: RWRConfig, **more: Any
) -> RWRTrainer:
    """Runs `train_rwr`, which `more` goes to, and prints the next command."""
    trainer = train_rwr(model, data, args=config, lora=lora, **more)
    if speaks(config):
        show_comparison(model, lora, config, prompts_of(data.prompts), data.prompts, config, data)
    return trainer


ARGUMENTS = (GeneratorArguments, PromptsAndRewards, LoraArguments, RWRConfig)
