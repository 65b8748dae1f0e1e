"""Settings with which a reward model of colours learns in a second."""

from __future__ import annotations

from pathlib import Path

from reward.training.reward_config import RewardConfig


def config(folder: Path, **changes: object) -> RewardConfig:
    arguments = {
        "output_dir": str(folder),
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "num_train_epochs": 25,
        "learning_rate": 3e-3,
        "held_out_fraction": 0.25,
        "validation_fraction": 0.15,
        "sigmas": [0.05],
        "hidden_size": 32,
        **changes,
    }
    return RewardConfig(**arguments)
