"""Alignment of video generators: trainers, stages and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.sibling_packages import keep_together

keep_together()

from generator.lazy_names import lazy_names  # noqa: E402 - our own `generator`, whatever else has its name

if TYPE_CHECKING:
    from alignment.guided_sampling import sample_aligned
    from alignment.lora import LoraArguments
    from alignment.rewriting.grpo import VideoRewardArguments
    from alignment.rewriting.rewriters import load_rewriter
    from alignment.rewriting.training import RewriterTrainingArguments
    from alignment.stages.arguments import GeneratorArguments
    from alignment.stages.dpo import DPOArguments, train_dpo
    from alignment.stages.evaluate import evaluate
    from alignment.stages.on_rewards import (
        PPOArguments,
        PromptsAndRewards,
        train_backprop,
        train_nft,
        train_online_dpo,
        train_ppo,
        train_rwr,
    )
    from alignment.stages.rewriter import train_rewriter
    from alignment.stages.sft import SFTArguments, train_sft
    from alignment.trainers.backprop_config import BackpropConfig
    from alignment.trainers.backprop_trainer import BackpropTrainer
    from alignment.trainers.dpo_config import DPOConfig
    from alignment.trainers.dpo_trainer import DPOTrainer
    from alignment.trainers.nft_config import NFTConfig
    from alignment.trainers.nft_trainer import NFTTrainer
    from alignment.trainers.online_dpo_config import OnlineDPOConfig
    from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer
    from alignment.trainers.ppo_config import PPOConfig
    from alignment.trainers.ppo_trainer import PPOTrainer
    from alignment.trainers.rwr_config import RWRConfig
    from alignment.trainers.rwr_trainer import RWRTrainer
    from alignment.trainers.sft_config import SFTConfig
    from alignment.trainers.sft_trainer import SFTTrainer

__all__ = [
    "BackpropConfig",
    "BackpropTrainer",
    "DPOArguments",
    "DPOConfig",
    "DPOTrainer",
    "GeneratorArguments",
    "LoraArguments",
    "NFTConfig",
    "NFTTrainer",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "PPOArguments",
    "PPOConfig",
    "PPOTrainer",
    "PromptsAndRewards",
    "RWRConfig",
    "RWRTrainer",
    "RewriterTrainingArguments",
    "SFTArguments",
    "SFTConfig",
    "SFTTrainer",
    "VideoRewardArguments",
    "evaluate",
    "load_rewriter",
    "sample_aligned",
    "train_backprop",
    "train_dpo",
    "train_nft",
    "train_online_dpo",
    "train_ppo",
    "train_rewriter",
    "train_rwr",
    "train_sft",
]

_HOMES = {
    "BackpropConfig": "alignment.trainers.backprop_config",
    "BackpropTrainer": "alignment.trainers.backprop_trainer",
    "DPOArguments": "alignment.stages.dpo",
    "DPOConfig": "alignment.trainers.dpo_config",
    "DPOTrainer": "alignment.trainers.dpo_trainer",
    "GeneratorArguments": "alignment.stages.arguments",
    "LoraArguments": "alignment.lora",
    "NFTConfig": "alignment.trainers.nft_config",
    "NFTTrainer": "alignment.trainers.nft_trainer",
    "OnlineDPOConfig": "alignment.trainers.online_dpo_config",
    "OnlineDPOTrainer": "alignment.trainers.online_dpo_trainer",
    "PPOArguments": "alignment.stages.on_rewards",
    "PPOConfig": "alignment.trainers.ppo_config",
    "PPOTrainer": "alignment.trainers.ppo_trainer",
    "PromptsAndRewards": "alignment.stages.on_rewards",
    "RWRConfig": "alignment.trainers.rwr_config",
    "RWRTrainer": "alignment.trainers.rwr_trainer",
    "RewriterTrainingArguments": "alignment.rewriting.training",
    "SFTArguments": "alignment.stages.sft",
    "SFTConfig": "alignment.trainers.sft_config",
    "SFTTrainer": "alignment.trainers.sft_trainer",
    "VideoRewardArguments": "alignment.rewriting.grpo",
    "evaluate": "alignment.stages.evaluate",
    "load_rewriter": "alignment.rewriting.rewriters",
    "sample_aligned": "alignment.guided_sampling",
    "train_backprop": "alignment.stages.on_rewards",
    "train_dpo": "alignment.stages.dpo",
    "train_nft": "alignment.stages.on_rewards",
    "train_online_dpo": "alignment.stages.on_rewards",
    "train_ppo": "alignment.stages.on_rewards",
    "train_rewriter": "alignment.stages.rewriter",
    "train_rwr": "alignment.stages.on_rewards",
    "train_sft": "alignment.stages.sft",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
