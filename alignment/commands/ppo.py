"""`vidalign ppo`: proximal policy optimisation against a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.adapters import GeneratorArguments, LoraArguments
from alignment.ppo_config import PPOConfig
from alignment.ppo_trainer import Monitor, PPOTrainer
from alignment.training_run import checkpoint_to_resume, data_record, load_generator_to_train, train_and_save
from generator.base import VideoGenerator
from generator.output import InputError

if TYPE_CHECKING:
    from reward.models.base import RewardModel

HELP = (
    "Align a generator with a reward model: sample groups of videos, judge them, reinforce the better ones."
)
EXAMPLE = "vidalign ppo --model nano --adapter sft/ --prompts prompts.txt --reward reward/ --output_dir ppo/"


@dataclass
class PPOArguments:
    """What `ppo` learns from."""

    prompts: str = field(
        default="", metadata={"help": "Prompts: a text file, one a line, or JSONL with `prompt`."}
    )
    reward: str = field(
        default="",
        metadata={"help": "Reward model: the folder that `vidalign reward` wrote, or a built-in name."},
    )


def run(
    model: GeneratorArguments,
    data: PPOArguments,
    lora: LoraArguments,
    config: PPOConfig,
    generator: VideoGenerator | None = None,
    reward: RewardModel | None = None,
    monitors: Sequence[Monitor] = (),
    callbacks: Sequence[Any] = (),
) -> PPOTrainer:
    """Trains and saves; `generator` and `reward` take the place of loading `model` and `data.reward`.

    Returns the trainer after training.
    """
    from generator.prompts import read_prompts

    if not data.prompts:
        raise InputError("No prompts were given: pass --prompts FILE.")
    if reward is None and not data.reward:
        raise InputError("No reward model was given: pass --reward FOLDER.")
    records = read_prompts(data.prompts)
    checkpoint = checkpoint_to_resume(config)
    generator = generator or load_generator_to_train(model, config)
    if reward is None:
        from reward import load_reward

        reward = load_reward(data.reward, device=config.device)
    prompts = [record.prompt for record in records]
    trainer = PPOTrainer(
        generator,
        config,
        prompts,
        reward,
        negative_prompts=[record.negative_prompt or config.negative_prompt for record in records],
        monitors=monitors,
        lora=lora,
        record={"model": vars(model), "reward": reward.name, **data_record(data.prompts, [], prompts)},
        callbacks=callbacks,
    )
    train_and_save(trainer, checkpoint)
    return trainer


ARGUMENTS = (GeneratorArguments, PPOArguments, LoraArguments, PPOConfig)
