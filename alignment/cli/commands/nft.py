"""`vidalign nft`: DiffusionNFT."""

from __future__ import annotations

from typing import Any

from alignment.cli.next_command import prompts_of, show_comparison
from alignment.lora import LoraArguments
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.on_rewards import PromptsAndRewards, train_nft
from alignment.stages.stage import speaks
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer

HELP = (
    "Align a generator with rewards on the forward process: no log-probabilities, any sampler (DiffusionNFT)."
)
EXAMPLE = "vidalign nft --model nano --prompts prompts.txt --reward runs/reward --output_dir runs/nft"


def run(
    model: GeneratorArguments, data: PromptsAndRewards, lora: LoraArguments, config: NFTConfig, **more: Any
) -> NFTTrainer:
    """Runs `train_nft`, which `more` goes to, and prints the next command."""
    trainer = train_nft(model, data, args=config, lora=lora, **more)
    if speaks(config):
        show_comparison(model, lora, config, prompts_of(data.prompts), data.prompts, config, data)
    return trainer


ARGUMENTS = (GeneratorArguments, PromptsAndRewards, LoraArguments, NFTConfig)
