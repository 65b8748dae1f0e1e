"""What the commands do that learn from prompts and rewards: `rwr`, `nft`, `online_dpo`, `backprop`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.cli.next_command import show_comparison
from alignment.lora import GeneratorArguments, LoraArguments
from alignment.stages.stage import (
    checkpoint_to_resume,
    data_record,
    generator_inputs,
    load_generator_to_train,
    load_rewards,
    read_training_prompts,
    require_reward,
    speaks,
    train_and_save,
)
from generator.base import VideoGenerator
from generator.one_or_several import as_list

if TYPE_CHECKING:
    from reward.models.base import RewardModel


@dataclass
class PromptsAndRewards:
    """What is learnt from."""

    prompts: str = field(
        default="",
        metadata={"help": "Prompts: a text file, one a line, JSONL with `prompt`, or world:SPLIT:N[:SEED]."},
    )
    reward: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Reward models, one or several: a folder that `vidalign reward` wrote, `world` (the gold "
            "score of the built-in world), module:function, or http://… of `vidalign reward serve`."
        },
    )

    def __post_init__(self) -> None:
        self.reward = as_list(self.reward) if self.reward else []


def run_on_rewards(
    trainer_class: Any,
    model: GeneratorArguments,
    data: PromptsAndRewards,
    lora: LoraArguments,
    config: Any,
    generator: VideoGenerator | None = None,
    reward: RewardModel | Sequence[RewardModel] | None = None,
    **more: Any,
) -> Any:
    """Trains with `trainer_class` and saves; returns the trainer after training.

    Args:
        generator, reward: take the place of loading `model` and `data.reward`.
        more: further arguments of the trainer, such as `monitors` and `callbacks`.
    """
    require_reward(reward, data.reward)
    prompts, negative_prompts = read_training_prompts(data.prompts, config)
    checkpoint = checkpoint_to_resume(config, [*generator_inputs(model), data.prompts, *data.reward])
    generator = generator or load_generator_to_train(model, config)
    rewards = load_rewards(reward, data.reward, config)
    trainer = trainer_class(
        generator,
        config,
        prompts,
        rewards,
        negative_prompts=negative_prompts,
        lora=lora,
        record={
            "model": vars(model),
            "reward": [each.name for each in rewards],
            **data_record(data.prompts, [], prompts),
        },
        **more,
    )
    train_and_save(trainer, checkpoint)
    if speaks(config):
        show_comparison(model, lora, config, prompts, data.prompts, config)
    return trainer
