"""`vidalign backprop`: reward back-propagation."""

from __future__ import annotations

from typing import Any

from alignment.cli.next_command import prompts_of, show_comparison
from alignment.lora import LoraArguments
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.on_rewards import PromptsAndRewards, train_backprop
from alignment.stages.stage import speaks
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
    """Runs `train_backprop`, which `more` goes to, and prints the next command."""
    trainer = train_backprop(model, data, args=config, lora=lora, **more)
    if speaks(config):
        show_comparison(model, lora, config, prompts_of(data.prompts), data.prompts, config, data)
    return trainer


ARGUMENTS = (GeneratorArguments, PromptsAndRewards, LoraArguments, BackpropConfig)
