"""Aligns text-to-video generators with human feedback: every public name in one place.

Names are imported when they are first used, so that `import vidalign` costs neither torch nor time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignment  # first, so that the other packages are ours too
from generator.lazy_names import lazy_names

if TYPE_CHECKING:
    from alignment import *  # noqa: F403
    from generator.base import VideoGenerator
    from generator.data.demonstrations import read_demonstrations, write_demonstrations
    from generator.loading import load_generator
    from generator.output import InputError
    from generator.video import read_video, write_video
    from labeling_app.files.candidates import import_tasks
    from labeling_app.files.rankings import export_rankings
    from labeling_app.store import Store
    from labeling_app.web.launching import labeling_app
    from labeling_app.web.server import create_app
    from labeling_app.web.video_ranking import VideoRanking
    from reward import load_reward
    from reward.formats import read_preferences
    from reward.models.base import RewardModel
    from reward.preferences import Ranking
    from reward.training.reward_config import RewardConfig
    from reward.training.reward_trainer import RewardTrainer
    from reward.training.stage import RewardArguments, train_reward

__all__ = [
    *alignment.__all__,
    "InputError",
    "Ranking",
    "RewardArguments",
    "RewardConfig",
    "RewardModel",
    "RewardTrainer",
    "Store",
    "VideoGenerator",
    "VideoRanking",
    "create_app",
    "export_rankings",
    "import_tasks",
    "labeling_app",
    "load_generator",
    "load_reward",
    "read_demonstrations",
    "read_preferences",
    "read_video",
    "train_reward",
    "write_demonstrations",
    "write_video",
]

_HOMES = {
    **dict.fromkeys(alignment.__all__, "alignment"),
    "InputError": "generator.output",
    "Ranking": "reward.preferences",
    "RewardArguments": "reward.training.stage",
    "RewardConfig": "reward.training.reward_config",
    "RewardModel": "reward.models.base",
    "RewardTrainer": "reward.training.reward_trainer",
    "Store": "labeling_app.store",
    "VideoGenerator": "generator.base",
    "VideoRanking": "labeling_app.web.video_ranking",
    "create_app": "labeling_app.web.server",
    "export_rankings": "labeling_app.files.rankings",
    "import_tasks": "labeling_app.files.candidates",
    "labeling_app": "labeling_app.web.launching",
    "load_generator": "generator.loading",
    "load_reward": "reward",
    "read_demonstrations": "generator.data.demonstrations",
    "read_preferences": "reward.formats",
    "read_video": "generator.video",
    "train_reward": "reward.training.stage",
    "write_demonstrations": "generator.data.demonstrations",
    "write_video": "generator.video",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
