"""`vidalign sft`: supervised fine-tuning on demonstrations."""

from __future__ import annotations

from typing import Any

from alignment.cli.next_command import prompt_file, show_generation
from alignment.lora import LoraArguments
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.sft import SFTArguments, train_sft
from alignment.stages.stage import speaks
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer

HELP = "Fine-tune a generator on demonstrations: videos with the prompts they should answer."
EXAMPLE = "vidalign sft --model nano --dataset demonstrations/ --output_dir runs/sft --max_steps 200"


def run(
    model: GeneratorArguments, data: SFTArguments, lora: LoraArguments, config: SFTConfig, **more: Any
) -> SFTTrainer:
    """Runs `train_sft`, which `more` goes to, and prints the next command."""
    trainer = train_sft(model, data, args=config, lora=lora, **more)
    if speaks(config):
        show_generation(model, lora, config, prompt_file(data.dataset), data)
    return trainer


ARGUMENTS = (GeneratorArguments, SFTArguments, LoraArguments, SFTConfig)
