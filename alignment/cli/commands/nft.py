"""`vidalign nft`: DiffusionNFT."""

from __future__ import annotations

from typing import Any

from alignment.lora import GeneratorArguments, LoraArguments
from alignment.stages.on_rewards import PromptsAndRewards, run_on_rewards
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer

HELP = (
    "Align a generator with rewards on the forward process: no log-probabilities, any sampler (DiffusionNFT)."
)
EXAMPLE = "vidalign nft --model nano --prompts prompts.txt --reward runs/reward --output_dir runs/nft"


def run(
    model: GeneratorArguments,
    data: PromptsAndRewards,
    lora: LoraArguments,
    config: NFTConfig,
    **more: Any,
) -> NFTTrainer:
    """Trains and saves; `more` are arguments of `run_on_rewards`. Returns the trainer after training."""
    return run_on_rewards(NFTTrainer, model, data, lora, config, **more)


ARGUMENTS = (GeneratorArguments, PromptsAndRewards, LoraArguments, NFTConfig)
