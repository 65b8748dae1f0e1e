"""`vidalign online_dpo`: online direct preference optimisation."""

from __future__ import annotations

from typing import Any

from alignment.lora import GeneratorArguments, LoraArguments
from alignment.stages.on_rewards import PromptsAndRewards, run_on_rewards
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
    """Trains and saves; `more` are arguments of `run_on_rewards`. Returns the trainer after training."""
    return run_on_rewards(OnlineDPOTrainer, model, data, lora, config, **more)


ARGUMENTS = (GeneratorArguments, PromptsAndRewards, LoraArguments, OnlineDPOConfig)
