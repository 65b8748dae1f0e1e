"""Aligns text-to-video generators with human feedback: every public name in one place.

Names are imported when they are first used, so that `import vidalign` costs neither torch nor time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignment  # noqa: F401 - first, so that the other packages are ours too
from generator.lazy_names import lazy_names

if TYPE_CHECKING:
    from alignment.guided_sampling import sample_aligned
    from alignment.lora import LoraArguments
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
    from generator.base import VideoGenerator
    from generator.demonstrations import read_demonstrations, write_demonstrations
    from generator.loading import load_generator
    from generator.output import InputError
    from generator.video import read_video, write_video
    from labeling_app.files.candidates import import_tasks
    from labeling_app.files.rankings import export_rankings
    from labeling_app.store import Store
    from labeling_app.web.server import create_app
    from reward import load_reward
    from reward.formats import read_preferences
    from reward.models.base import RewardModel
    from reward.preferences import Ranking
    from reward.training.reward_config import RewardConfig
    from reward.training.reward_trainer import RewardTrainer
    from reward.training.stage import RewardArguments, train_reward

__all__ = [
    "BackpropConfig",
    "BackpropTrainer",
    "DPOArguments",
    "DPOConfig",
    "DPOTrainer",
    "GeneratorArguments",
    "InputError",
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
    "Ranking",
    "RewardArguments",
    "RewardConfig",
    "RewardModel",
    "RewardTrainer",
    "SFTArguments",
    "SFTConfig",
    "SFTTrainer",
    "Store",
    "VideoGenerator",
    "create_app",
    "evaluate",
    "export_rankings",
    "import_tasks",
    "load_generator",
    "load_reward",
    "read_demonstrations",
    "read_preferences",
    "read_video",
    "sample_aligned",
    "train_backprop",
    "train_dpo",
    "train_nft",
    "train_online_dpo",
    "train_ppo",
    "train_reward",
    "train_rwr",
    "train_sft",
    "write_demonstrations",
    "write_video",
]

_HOMES = {
    "BackpropConfig": "alignment.trainers.backprop_config",
    "BackpropTrainer": "alignment.trainers.backprop_trainer",
    "DPOArguments": "alignment.stages.dpo",
    "DPOConfig": "alignment.trainers.dpo_config",
    "DPOTrainer": "alignment.trainers.dpo_trainer",
    "GeneratorArguments": "alignment.stages.arguments",
    "InputError": "generator.output",
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
    "Ranking": "reward.preferences",
    "RewardArguments": "reward.training.stage",
    "RewardConfig": "reward.training.reward_config",
    "RewardModel": "reward.models.base",
    "RewardTrainer": "reward.training.reward_trainer",
    "SFTArguments": "alignment.stages.sft",
    "SFTConfig": "alignment.trainers.sft_config",
    "SFTTrainer": "alignment.trainers.sft_trainer",
    "Store": "labeling_app.store",
    "VideoGenerator": "generator.base",
    "create_app": "labeling_app.web.server",
    "evaluate": "alignment.stages.evaluate",
    "export_rankings": "labeling_app.files.rankings",
    "import_tasks": "labeling_app.files.candidates",
    "load_generator": "generator.loading",
    "load_reward": "reward",
    "read_demonstrations": "generator.demonstrations",
    "read_preferences": "reward.formats",
    "read_video": "generator.video",
    "sample_aligned": "alignment.guided_sampling",
    "train_backprop": "alignment.stages.on_rewards",
    "train_dpo": "alignment.stages.dpo",
    "train_nft": "alignment.stages.on_rewards",
    "train_online_dpo": "alignment.stages.on_rewards",
    "train_ppo": "alignment.stages.on_rewards",
    "train_reward": "reward.training.stage",
    "train_rwr": "alignment.stages.on_rewards",
    "train_sft": "alignment.stages.sft",
    "write_demonstrations": "generator.demonstrations",
    "write_video": "generator.video",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
