"""`vidalign backprop`: reward back-propagation."""

from __future__ import annotations

from typing import Any

from alignment.lora import GeneratorArguments, LoraArguments
from alignment.stages.on_rewards import PromptsAndRewards, run_on_rewards
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer

HELP = "Align a generator by the gradient of a latent reward model through its last steps (ReFL, DRaFT)."
EXAMPLE = (
    "vidalign backprop --model nano --prompts prompts.txt --reward runs/reward --output_dir runs/backprop "
    "--max_steps 100"
)


def run(
    model: GeneratorArguments,
    data: PromptsAndRewards,
    lora: LoraArguments,
    config: BackpropConfig,
    **more: Any,
) -> BackpropTrainer:
    """Trains and saves; `more` are arguments of `run_on_rewards`. Returns the trainer after training."""
    return run_on_rewards(BackpropTrainer, model, data, lora, config, **more)


ARGUMENTS = (GeneratorArguments, PromptsAndRewards, LoraArguments, BackpropConfig)
