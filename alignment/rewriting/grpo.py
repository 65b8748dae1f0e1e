"""Training of a rewriter by TRL's `GRPOTrainer` on rewards of the videos that its texts give."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from generator.one_or_several import as_list
from generator.output import InputError

if TYPE_CHECKING:
    from alignment.rewriting.training import RewriterTrainingArguments
    from generator.base import VideoGenerator
    from reward.models.base import RewardModel


@dataclass
class VideoRewardArguments:
    """Prompts, generator and rewards of `--method grpo`."""

    prompts: str = field(
        default="",
        metadata={
            "help": "Prompts that are rewritten: a text file, one a line, JSONL with `prompt`, world:vague:N[:SEED] or "
            "world:SPLIT:N[:SEED]."
        },
    )
    reward: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rewards of the videos, one or several: a name such as pickscore, ocr or videoalign:TA (`vidalign "
            "doctor` lists them), world, a folder that `vidalign reward` wrote, module:function, or http://… of "
            "`reward serve`."
        },
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each reward, in their order. Unset: 1 each."}
    )
    reward_dimension: str | None = field(
        default=None,
        metadata={"help": "Score of the reward that is raised. Unset: `overall`, or their mean."},
    )
    dropped_penalty: float = field(
        default=1.0,
        metadata={
            "help": "Taken off the reward of a text that drops or contradicts all of the prompt, and a part of it for "
            "a part: claims in the built-in world, words elsewhere."
        },
    )
    generator: str = field(
        default="nano",
        metadata={"help": "Frozen generator: `nano`, a folder of a diffusers pipeline, or a hub id."},
    )
    adapter: list[str] | None = field(default=None, metadata={"help": "Adapters of the generator."})
    num_generations: int = field(default=8, metadata={"help": "Texts of a prompt in a step, a group."})
    num_videos: int = field(default=1, metadata={"help": "Videos of each text, whose rewards are averaged."})
    num_frames: int | None = field(
        default=None, metadata={"help": "Frames of a video. Unset: the model's own."}
    )
    height: int | None = field(default=None, metadata={"help": "Height in pixels. Unset: the model's own."})
    width: int | None = field(default=None, metadata={"help": "Width in pixels. Unset: the model's own."})
    num_inference_steps: int | None = field(
        default=None, metadata={"help": "Denoising steps of a video. Unset: the model's own."}
    )
    guidance_scale: float | None = field(
        default=None, metadata={"help": "Guidance of the videos. Unset: the model's own, 1: none."}
    )
    batch_size: int = field(default=8, metadata={"help": "Videos sampled together."})
    reward_batch_size: int = field(default=32, metadata={"help": "Videos judged in one batch."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature at which texts are sampled."})
    beta: float = field(default=0.0, metadata={"help": "Weight of the KL term to the rewriter as it was."})
    max_completion_length: int = field(
        default=256, metadata={"help": "Longest text in tokens; one that is cut off keeps nothing."}
    )

    def __post_init__(self) -> None:
        self.reward = as_list(self.reward) if self.reward else []
        self.adapter = None if self.adapter is None else as_list(self.adapter)
        least = {"num_generations": 2, "num_videos": 1, "batch_size": 1, "reward_batch_size": 1}
        for name, value in {**least, "max_completion_length": 1}.items():
            if getattr(self, name) < value:
                raise InputError(f"--{name} is {getattr(self, name)}, but it must be at least {value}.")
        for name in ("dropped_penalty", "beta"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} is {getattr(self, name)}, but it must be at least 0.")
        if self.temperature <= 0:
            raise InputError(f"--temperature is {self.temperature}, but it must be above 0.")

    def check_inputs(self) -> None:
        """Raises `InputError` where the prompts or the generator are not there."""
        from generator.data.prompts import require_prompt_file
        from generator.files.model_folders import require_model

        if self.prompts:
            require_prompt_file(self.prompts)
            require_model(self.generator, self.adapter)

    def require(self) -> None:
        """Raises `InputError` where there are no prompts, or nothing that judges videos."""
        if not self.prompts:
            raise InputError("No prompts were given: pass --prompts FILE, or world:vague:N.")
        if not self.reward:
            raise InputError("No reward was given: pass --reward NAME, such as world, or a FOLDER.")


def grpo_config(arguments: RewriterTrainingArguments, videos: VideoRewardArguments, prompts: int) -> Any:
    """TRL's configuration of `grpo`.

    Args:
        prompts: how many there are.

    Raises:
        InputError: a step is not made of whole groups, or there are fewer prompts than it takes.
    """
    from trl import GRPOConfig

    from alignment.rewriting.training import shared_settings

    settings = shared_settings(arguments)
    texts = _texts_of_a_step(arguments)
    if texts % videos.num_generations:
        raise InputError(
            f"A step has {texts} texts (--per_device_train_batch_size, micro-batches and processes), but must be whole "
            f"groups of --num_generations {videos.num_generations}: give a multiple of it."
        )
    if prompts < texts // videos.num_generations:
        raise InputError(
            f"{videos.prompts} holds {prompts} prompts, but a step takes {texts // videos.num_generations}: give more "
            "prompts, or a smaller --per_device_train_batch_size."
        )
    same = ("num_generations", "temperature", "beta", "max_completion_length")
    return GRPOConfig(
        **settings,
        **{name: getattr(videos, name) for name in same},
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=max(1, (arguments.max_steps or 1) // 20),
        chat_template_kwargs={"enable_thinking": False},
    )


def _texts_of_a_step(arguments: RewriterTrainingArguments) -> int:
    """Rewritten prompts of an optimiser step, of all processes."""
    each = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return each * int(os.environ.get("WORLD_SIZE", "1"))


def grpo_trainer(
    arguments: RewriterTrainingArguments,
    videos: VideoRewardArguments,
    config: Any,
    instruction: str,
    prompts: Sequence[str],
    generator: VideoGenerator,
    rewards: Sequence[RewardModel],
) -> Any:
    """TRL's `GRPOTrainer`, whose reward is that of the videos of `generator`, which is not trained.

    Args:
        prompts: that are rewritten, by which the videos are judged.

    Raises:
        InputError: a reward cannot judge the generator's videos or one of the prompts, or compares videos.
    """
    from datasets import Dataset
    from trl import GRPOTrainer

    from alignment.rewriting.instructions import message_of
    from alignment.rewriting.training import trainable_model
    from alignment.rewriting.video_reward import VideoReward, recall_for
    from alignment.rollouts.progress import RolloutProgress
    from alignment.rollouts.reward_mixture import RewardMixture
    from generator.generation import GenerationSettings

    mixture = RewardMixture(rewards, videos.reward_weights, videos.reward_dimension)
    mixture.prepare_for(generator)
    mixture.check_prompts(prompts)
    mixture.check_groups(1, videos.num_generations, "reward_batch_size", "num_generations")
    mixture.warn_of_scales()
    model, tokenizer, lora = trainable_model(arguments, config.device)
    rows = [
        {
            "prompt": [{"role": "user", "content": message_of(instruction, prompt)}],
            "original": prompt,
            "prompt_index": index,
        }
        for index, prompt in enumerate(prompts)
    ]
    reward = VideoReward(
        generator,
        mixture,
        GenerationSettings(
            videos.num_frames,
            videos.height,
            videos.width,
            videos.num_inference_steps,
            videos.guidance_scale,
            videos.batch_size,
        ),
        _end_tokens(model, tokenizer),
        recall_for(prompts),
        videos.dropped_penalty,
        videos.num_videos,
        videos.reward_batch_size,
        arguments.seed,
        RolloutProgress(config.max_steps, disable=bool(config.disable_tqdm) or config.process_index > 0),
    )
    return GRPOTrainer(
        model,
        cast("Callable[..., list[float | None]]", reward),
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text."""
    ends = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
