"""`vidalign online_dpo`: online direct preference optimisation."""

from __future__ import annotations

from typing import Any

from alignment.cli.next_command import prompts_of, show_comparison
from alignment.lora import LoraArguments
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.on_rewards import PromptsAndRewards, train_online_dpo
from alignment.stages.stage import speaks
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer

HELP = "DPO on videos that the current policy makes and reward models order (online DPO)."
EXAMPLE = (
    "vidalign online_dpo --model nano --prompts prompts.txt --reward runs/reward --output_dir runs/online_dpo"
)


def run(
    model: GeneratorArguments,
    data: PromptsAndRewards,
    lora: LoraArguments,
    config: OnlineDPOConfig,
    **more: Any,
) -> OnlineDPOTrainer:
    """Runs `train_online_dpo`, which `more` goes to, and prints the next command."""
    trainer = train_online_dpo(model, data, args=config, lora=lora, **more)
    if speaks(config):
        show_comparison(model, lora, config, prompts_of(data.prompts), data.prompts, config, data)
    return trainer


ARGUMENTS = (GeneratorArguments, PromptsAndRewards, LoraArguments, OnlineDPOConfig)
