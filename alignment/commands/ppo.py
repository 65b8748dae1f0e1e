"""`vidalign ppo`: proximal policy optimisation against a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.adapters import GeneratorArguments, LoraArguments
from alignment.ppo_config import PPOConfig
from alignment.ppo_trainer import PPOTrainer
from alignment.rollout_trainer import Monitor
from alignment.training_run import (
    checkpoint_to_resume,
    data_record,
    encode_demonstrations,
    generator_inputs,
    load_generator_to_train,
    load_rewards,
    read_training_prompts,
    require_reward,
    train_and_save,
)
from generator.base import VideoGenerator

if TYPE_CHECKING:
    from reward.models.base import RewardModel

HELP = (
    "Align a generator with a reward model: sample groups of videos, judge them, reinforce the better ones."
)
EXAMPLE = (
    "vidalign ppo --model nano --adapter runs/sft --prompts prompts.txt --reward runs/reward "
    "--output_dir runs/ppo"
)


@dataclass
class PPOArguments:
    """What `ppo` learns from."""

    prompts: str = field(
        default="", metadata={"help": "Prompts: a text file, one a line, or JSONL with `prompt`."}
    )
    reward: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Reward models, one or several: a folder that `vidalign reward` wrote, `world` (the gold "
            "score of the built-in world), module:function, or http://… of `vidalign reward serve`."
        },
    )
    ptx_dataset: str = field(
        default="",
        metadata={"help": "Demonstrations for the term `ptx_coef`: a folder with videos and metadata.jsonl."},
    )

    def __post_init__(self) -> None:
        if isinstance(self.reward, str):
            self.reward = [self.reward] if self.reward else []


def run(
    model: GeneratorArguments,
    data: PPOArguments,
    lora: LoraArguments,
    config: PPOConfig,
    generator: VideoGenerator | None = None,
    reward: RewardModel | Sequence[RewardModel] | None = None,
    monitors: Sequence[Monitor] = (),
    callbacks: Sequence[Any] = (),
) -> PPOTrainer:
    """Trains and saves; `generator` and `reward` take the place of loading `model` and `data.reward`.

    Returns the trainer after training.
    """
    require_reward(reward, data.reward)
    prompts, negative_prompts = read_training_prompts(data.prompts, config)
    checkpoint = checkpoint_to_resume(
        config, [*generator_inputs(model), data.prompts, *data.reward, *filter(None, [data.ptx_dataset])]
    )
    generator = generator or load_generator_to_train(model, config)
    rewards = load_rewards(reward, data.reward, config)
    demonstrations = None
    if data.ptx_dataset:
        demonstrations = encode_demonstrations(
            generator, config, data.ptx_dataset, config.num_frames, config.height, config.width
        )
    trainer = PPOTrainer(
        generator,
        config,
        prompts,
        rewards,
        negative_prompts=negative_prompts,
        monitors=monitors,
        lora=lora,
        record={
            "model": vars(model),
            "reward": [each.name for each in rewards],
            **data_record(data.prompts, [], prompts),
        },
        callbacks=callbacks,
        demonstrations=demonstrations,
    )
    train_and_save(trainer, checkpoint)
    return trainer


ARGUMENTS = (GeneratorArguments, PPOArguments, LoraArguments, PPOConfig)
