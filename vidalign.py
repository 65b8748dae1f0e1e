"""Aligns text-to-video generators with human feedback: every public name in one place.

Names are imported when they are first used, so that `import vidalign` costs neither torch nor time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignment  # first, so that the other packages are ours too
import generator
import labeling_app
from generator.lazy_names import lazy_names

if TYPE_CHECKING:
    from alignment import *  # noqa: F403
    from generator import *  # noqa: F403
    from generator.demonstrations import read_demonstrations, write_demonstrations
    from generator.video import read_video, write_video
    from labeling_app import *  # noqa: F403
    from reward import load_reward
    from reward.formats import read_preferences
    from reward.models.base import RewardModel
    from reward.preferences import Ranking
    from reward.training.reward_config import RewardConfig
    from reward.training.reward_trainer import RewardTrainer
    from reward.training.stage import RewardArguments, train_reward

__all__ = [
    *alignment.__all__,
    *generator.__all__,
    *labeling_app.__all__,
    "Ranking",
    "RewardArguments",
    "RewardConfig",
    "RewardModel",
    "RewardTrainer",
    "load_reward",
    "read_demonstrations",
    "read_preferences",
    "read_video",
    "train_reward",
    "write_demonstrations",
    "write_video",
]

HOMES = {
    **alignment.HOMES,
    **generator.HOMES,
    **labeling_app.HOMES,
    "Ranking": "reward.preferences",
    "RewardArguments": "reward.training.stage",
    "RewardConfig": "reward.training.reward_config",
    "RewardModel": "reward.models.base",
    "RewardTrainer": "reward.training.reward_trainer",
    "load_reward": "reward",
    "read_demonstrations": "generator.demonstrations",
    "read_preferences": "reward.formats",
    "read_video": "generator.video",
    "train_reward": "reward.training.stage",
    "write_demonstrations": "generator.demonstrations",
    "write_video": "generator.video",
}

__getattr__, __dir__ = lazy_names(__name__, HOMES)
