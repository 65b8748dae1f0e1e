"""Stages that learn from prompts and rewards: PPO, online DPO, DiffusionNFT, RWR, reward back-propagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from alignment.lora import LoraArguments
from alignment.rewriting.arguments import RewriterArguments, rewritten
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.stage import (
    check_demonstration_term,
    checkpoint_to_resume,
    data_record,
    encode_demonstrations,
    generator_inputs,
    judge_reward_accuracy,
    load_generator_to_train,
    load_rewards,
    read_eval_prompts,
    read_training_prompts,
    require_prompts,
    require_reward,
    train_and_save,
)
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.rollout_trainer import Monitor
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer
from generator.base import VideoGenerator
from generator.one_or_several import as_list
from reward.models.decoded import judge_for

if TYPE_CHECKING:
    from reward.models.base import RewardModel

Rewards: TypeAlias = "str | Path | RewardModel | Sequence[str | Path | RewardModel] | None"
"""Reward models, or their names for `reward.load_reward`, one or several."""


@dataclass
class _PromptsAndRewards:
    """Prompts and reward models."""

    prompts: str = field(
        default="",
        metadata={
            "help": "Prompts: a text file, one a line, JSONL with `prompt`, `image`, or world:SPLIT:N[:SEED]."
        },
    )
    reward: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rewards, one or several: a name such as pickscore, ocr or videoalign:TA (`vidalign doctor` "
            "lists them), a folder that `vidalign reward` wrote, module:function, or http://… of `reward serve`."
        },
    )
    eval_prompts: str = field(
        default="",
        metadata={
            "help": "Held-out prompts on which the policy's reward (and gold, in the built-in world) is measured while "
            "it is trained: a file or world:test:N."
        },
    )


@dataclass
class PromptsAndRewards(RewriterArguments, _PromptsAndRewards):
    """Prompts and reward models that are learnt from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reward = as_list(self.reward) if self.reward else []

    def check_inputs(self) -> None:
        """Raises `InputError` where there are no prompts, or nothing that judges videos."""
        require_reward(self.reward)
        require_prompts(self.prompts)


@dataclass
class PPOArguments(PromptsAndRewards):
    """Prompts, reward models and demonstrations that `ppo` learns from."""

    ptx_dataset: str = field(
        default="",
        metadata={"help": "Demonstrations for the term `ptx_coef`: a folder with videos and metadata.jsonl."},
    )


def train_ppo(
    model: str | Path | GeneratorArguments = "nano",
    prompts: str | Path | PromptsAndRewards = "",
    reward: Rewards = None,
    *,
    args: PPOConfig,
    lora: LoraArguments | None = None,
    ptx_dataset: str | Path = "",
    generator: VideoGenerator | None = None,
    eval_prompts: str | Path = "",
    monitors: Sequence[Monitor] = (),
    callbacks: Sequence[Any] = (),
) -> PPOTrainer:
    """Reinforces the better videos of sampled groups and writes the result to `args.output_dir`.

    Args:
        model: name or folder of the generator, or how it is loaded.
        prompts: file of prompts or `world:SPLIT:N`, or the arguments of the command `ppo`.
        reward: takes the place of `prompts.reward`.
        args: configuration of the trainer.
        lora: LoRA settings; the defaults of `LoraArguments` where not given.
        ptx_dataset: folder of demonstrations for the term `args.ptx_coef`.
        generator: takes the place of loading `model`.
        eval_prompts: takes the place of `prompts.eval_prompts`.
        monitors: functions of each rollout that give further numbers to log.
        callbacks: further callbacks of the trainer.

    Returns:
        The trainer after training.

    Raises:
        InputError: the prompts, a reward, the model or the output folder cannot be used.
    """
    ptx_dataset = str(ptx_dataset) or getattr(prompts, "ptx_dataset", "")
    check_demonstration_term(args.ptx_coef, ptx_dataset)
    more: dict[str, Any] = {"eval_prompts": eval_prompts, "monitors": monitors, "callbacks": callbacks}
    return _train(PPOTrainer, model, prompts, reward, args, lora, generator, ptx_dataset, **more)


def train_online_dpo(
    model: str | Path | GeneratorArguments = "nano",
    prompts: str | Path | PromptsAndRewards = "",
    reward: Rewards = None,
    *,
    args: OnlineDPOConfig,
    lora: LoraArguments | None = None,
    generator: VideoGenerator | None = None,
    eval_prompts: str | Path = "",
    monitors: Sequence[Monitor] = (),
    callbacks: Sequence[Any] = (),
) -> OnlineDPOTrainer:
    """Trains a generator by DPO on its own videos, ordered by rewards, and writes the result to
    `args.output_dir`; the arguments are those of `train_ppo`."""
    more: dict[str, Any] = {"eval_prompts": eval_prompts, "monitors": monitors, "callbacks": callbacks}
    return _train(OnlineDPOTrainer, model, prompts, reward, args, lora, generator, **more)


def train_nft(
    model: str | Path | GeneratorArguments = "nano",
    prompts: str | Path | PromptsAndRewards = "",
    reward: Rewards = None,
    *,
    args: NFTConfig,
    lora: LoraArguments | None = None,
    generator: VideoGenerator | None = None,
    eval_prompts: str | Path = "",
    monitors: Sequence[Monitor] = (),
    callbacks: Sequence[Any] = (),
) -> NFTTrainer:
    """Trains a generator with rewards on the forward process (DiffusionNFT) and writes the result to
    `args.output_dir`; the arguments are those of `train_ppo`."""
    more: dict[str, Any] = {"eval_prompts": eval_prompts, "monitors": monitors, "callbacks": callbacks}
    return _train(NFTTrainer, model, prompts, reward, args, lora, generator, **more)


def train_rwr(
    model: str | Path | GeneratorArguments = "nano",
    prompts: str | Path | PromptsAndRewards = "",
    reward: Rewards = None,
    *,
    args: RWRConfig,
    lora: LoraArguments | None = None,
    generator: VideoGenerator | None = None,
    eval_prompts: str | Path = "",
    monitors: Sequence[Monitor] = (),
    callbacks: Sequence[Any] = (),
) -> RWRTrainer:
    """Trains a generator on its own videos, weighted by their rewards, and writes the result to
    `args.output_dir`; the arguments are those of `train_ppo`."""
    more: dict[str, Any] = {"eval_prompts": eval_prompts, "monitors": monitors, "callbacks": callbacks}
    return _train(RWRTrainer, model, prompts, reward, args, lora, generator, **more)


def train_backprop(
    model: str | Path | GeneratorArguments = "nano",
    prompts: str | Path | PromptsAndRewards = "",
    reward: Rewards = None,
    *,
    args: BackpropConfig,
    lora: LoraArguments | None = None,
    generator: VideoGenerator | None = None,
    eval_prompts: str | Path = "",
    callbacks: Sequence[Any] = (),
) -> BackpropTrainer:
    """Trains a generator by the gradient of latent reward models through its last steps and writes the result to
    `args.output_dir`; the arguments are those of `train_ppo`."""
    more: dict[str, Any] = {"eval_prompts": eval_prompts, "callbacks": callbacks}
    return _train(BackpropTrainer, model, prompts, reward, args, lora, generator, **more)


def _train(
    trainer_class: Any,
    model: str | Path | GeneratorArguments,
    prompts: str | Path | PromptsAndRewards,
    reward: Rewards,
    args: Any,
    lora: LoraArguments | None,
    generator: VideoGenerator | None,
    demonstrations: str = "",
    **more: Any,
) -> Any:
    """Trains with `trainer_class`, which `more` goes to, and saves; returns the trainer after training."""
    model, lora = GeneratorArguments.of(model), lora or LoraArguments()
    data = prompts if isinstance(prompts, PromptsAndRewards) else PromptsAndRewards(prompts=str(prompts))
    judges = data.reward if reward is None else list_of_rewards(reward)
    require_reward(judges)
    records, negative_prompts, images = read_training_prompts(data.prompts, args)
    texts = [record.prompt for record in records]
    held_out = str(more.pop("eval_prompts", "")) or data.eval_prompts
    eval_records, eval_negative_prompts, eval_images = read_eval_prompts(held_out, texts, args)
    eval_prompts = [record.prompt for record in eval_records]
    names = [judge for judge in judges if isinstance(judge, str)]
    inputs = [*generator_inputs(model), data.prompts, held_out, *names, demonstrations]
    checkpoint = checkpoint_to_resume(args, filter(None, inputs))
    uncertain = judge_reward_accuracy(judges, args)
    given, rewriter = rewritten(data, [*records, *eval_records], model.model, progress=not args.disable_tqdm)
    new_texts = [each.model_prompt for each in given]
    new_prompts = _where_changed(new_texts[: len(texts)], texts)
    size = args.num_frames, args.height, args.width
    generator = generator or load_generator_to_train(model, args, size)
    rewards = [judge_for(each, generator) for each in load_rewards(judges, args)]
    if demonstrations:
        more["demonstrations"] = encode_demonstrations(
            generator, args, demonstrations, args.num_frames, args.height, args.width
        )
    trainer = trainer_class(
        generator,
        args,
        texts,
        rewards,
        negative_prompts=negative_prompts,
        eval_prompts=eval_prompts,
        eval_negative_prompts=eval_negative_prompts,
        images=images,
        eval_images=eval_images,
        rewritten_prompts=new_prompts,
        eval_rewritten_prompts=_where_changed(new_texts[len(texts) :], eval_prompts),
        lora=lora,
        record={
            "model": vars(model),
            "reward": [each.name for each in rewards],
            "rewards": [each.record() for each in rewards],
            **({"uncertain_rewards": uncertain} if uncertain else {}),
            **({"eval_prompts": data_record(held_out, [], eval_prompts)} if held_out else {}),
            **rewriter,
            **data_record(data.prompts, [], [*texts, *(new_prompts or ())]),
        },
        **more,
    )
    train_and_save(trainer, checkpoint)
    return trainer


def _where_changed(rewritten_prompts: list[str], prompts: list[str]) -> list[str] | None:
    """The rewritten prompts; None where they are the prompts."""
    return None if rewritten_prompts == prompts else rewritten_prompts


def list_of_rewards(reward: Rewards) -> list[Any]:
    """Reward models as they are, and the names of others."""
    several = reward if isinstance(reward, Sequence) and not isinstance(reward, str) else [reward]
    return [str(each) if isinstance(each, Path) else each for each in several]
