"""`vidalign nft`: DiffusionNFT."""

from __future__ import annotations

from typing import Any

from alignment.adapters import GeneratorArguments, LoraArguments
from alignment.nft_config import NFTConfig
from alignment.nft_trainer import NFTTrainer
from alignment.rollout_run import PromptsAndRewards, run_on_rewards

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
