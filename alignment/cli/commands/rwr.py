"""`vidalign rwr`: reward-weighted regression."""

from __future__ import annotations

from typing import Any

from alignment.lora import GeneratorArguments, LoraArguments
from alignment.stages.on_rewards import PromptsAndRewards, run_on_rewards
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer

HELP = "Align a generator by flow matching on its own videos, weighted by their rewards (reward-weighted regression)."
EXAMPLE = "vidalign rwr --model nano --prompts prompts.txt --reward runs/reward --output_dir runs/rwr"


def run(
    model: GeneratorArguments,
    data: PromptsAndRewards,
    lora: LoraArguments,
    config: RWRConfig,
    **more: Any,
) -> RWRTrainer:
    """Trains and saves; `more` are arguments of `run_on_rewards`. Returns the trainer after training."""
    return run_on_rewards(RWRTrainer, model, data, lora, config, **more)


ARGUMENTS = (GeneratorArguments, PromptsAndRewards, LoraArguments, RWRConfig)
