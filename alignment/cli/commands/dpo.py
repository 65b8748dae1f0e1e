"""`vidalign dpo`: direct preference optimisation on human rankings."""

from __future__ import annotations

from typing import Any

from alignment.cli.next_command import show_comparison
from alignment.lora import LoraArguments
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.dpo import DPOArguments, train_dpo
from alignment.stages.stage import speaks
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer

HELP = "Align a generator directly with rankings of its videos, without a reward model (flow-DPO)."
EXAMPLE = "vidalign dpo --model nano --adapter runs/sft --preferences rankings.jsonl --output_dir runs/dpo"


def run(
    model: GeneratorArguments, data: DPOArguments, lora: LoraArguments, config: DPOConfig, **more: Any
) -> DPOTrainer:
    """Runs `train_dpo`, which `more` goes to, and prints the next command."""
    trainer = train_dpo(model, data, args=config, lora=lora, **more)
    if speaks(config):
        show_comparison(model, lora, config, trainer.prompts, data.preferences, data)
    return trainer


ARGUMENTS = (GeneratorArguments, DPOArguments, LoraArguments, DPOConfig)
