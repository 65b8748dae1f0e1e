"""One base for the configurations of all trainers: the same checks, and what a user set stays."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.ppo_config import PPOConfig
from generator.output import InputError
from generator.training.training_config import TrainingConfig
from reward.training.reward_config import RewardConfig


@pytest.mark.parametrize("config_class", [RewardConfig, DPOConfig])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0, but must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"seed": 2**32}, "seed is 4294967296, but must be between 0 and 4294967295"),
        ({"save_minutes": -1.0}, r"save_minutes is -1\.0, but must be at least 0"),
        ({"learning_rate": -1e-3}, r"learning_rate is -0\.001"),
        ({"report_to": "paper"}, "report_to is paper, but must be one of .*tensorboard"),
        ({"report_to": ["tensorboard", "paper"]}, "report_to is paper"),
        ({"remove_unused_columns": True}, "remove_unused_columns is True, but must be false"),
    ],
)
def test_every_trainer_refuses_the_same_values(
    tmp_path: Path, config_class: type[TrainingConfig], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        config_class(output_dir=str(tmp_path), use_cpu=True, **arguments)


@pytest.mark.parametrize("config_class", [RewardConfig, DPOConfig, PPOConfig])
def test_what_a_user_set_stays_as_it_is(tmp_path: Path, config_class: type[TrainingConfig]) -> None:
    asked: dict[str, Any] = {
        "per_device_train_batch_size": 7,
        "per_device_eval_batch_size": 3,
        "logging_steps": 9,
        "save_steps": 13,
        "save_minutes": 2.5,
        "report_to": ["tensorboard"],
        "learning_rate": 0.25,
        "num_train_epochs": 2.0,
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "save_total_limit": 4,
    }
    made = config_class(**asked)
    assert {name: getattr(made, name) for name in asked} == asked


def test_shared_fields_stand_in_the_base_alone() -> None:
    """Only defaults may differ, as the learning rate's does."""
    shared = set(inspect.get_annotations(TrainingConfig))
    assert {"overwrite", "discard_checkpoints", "save_minutes", "report_to", "save_total_limit"} <= shared
    for config_class in (RewardConfig, DPOConfig):
        assert not shared & set(inspect.get_annotations(config_class))
