"""Configuration that the methods that learn from their own videos share."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from transformers.trainer_utils import SaveStrategy

from alignment.rollouts.judge import check_decoding
from alignment.trainers.base_config import AlignmentConfig
from alignment.trainers.sample_config import GroupSampleConfig
from generator.solvers import ONE_CALL_SOLVERS
from generator.training.checks import check

REWARD_NORMALISATIONS = ("none", "rollout", "group")


@dataclass
class RewardedSamplingConfig(AlignmentConfig):
    """Sampling of videos for training, and their rewards."""

    num_frames: int | None = field(
        default=None, metadata={"help": "Frames of a video. Unset: the model's own."}
    )
    height: int | None = field(default=None, metadata={"help": "Height in pixels. Unset: the model's own."})
    width: int | None = field(default=None, metadata={"help": "Width in pixels. Unset: the model's own."})
    num_inference_steps: int = field(default=10, metadata={"help": "Denoising steps of a sampled video."})
    guidance_scale: float | None = field(
        default=None, metadata={"help": "Guidance in rollouts and updates. Unset: the model's own, 1: none."}
    )
    guidance_scale_2: float | None = field(
        default=None,
        metadata={
            "help": "Guidance of the second of two transformers, that of low noise (Wan 2.2 A14B). Unset: "
            "guidance_scale where that is given, else the model's own."
        },
    )
    negative_prompt: str = field(
        default="", metadata={"help": "Unconditional prompt, with guidance above 1."}
    )
    reward_dimension: str | None = field(
        default=None,
        metadata={"help": "Score of the reward that is raised. Unset: `overall`, or their mean."},
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each reward model, in their order. Unset: 1 each."}
    )
    reward_normalisation: str = field(
        default="none",
        metadata={
            "help": "Scale on which rewards become comparable before they are added: `none`, mean and "
            "std of the `rollout`, or of each `group`.",
            "choices": ["none", "rollout", "group"],
        },
    )
    reward_batch_size: int = field(default=32, metadata={"help": "Videos judged in one batch."})
    reward_num_frames: int | None = field(
        default=None,
        metadata={
            "help": "Frames, from the first, that a reward on pixels is shown; only these are decoded. Unset: all."
        },
    )
    reward_scale: float = field(
        default=1.0,
        metadata={
            "help": "Part of a video's sides at which a reward on pixels is shown it, roughly: latents are "
            "averaged before decoding."
        },
    )
    asynchronous_rewards: bool = field(
        default=False,
        metadata={
            "help": "Judge finished videos in a thread while further ones of the rollout are sampled; for "
            "rewards that wait for a CPU, a disk or a network. Same results."
        },
    )
    refuse_uncertain_reward: bool = field(
        default=False,
        metadata={
            "help": "Refuse, instead of warning of, a trained reward model whose held-out accuracy is not surely above "
            "always preferring the same side."
        },
    )

    eval_strategy: str = field(
        default="steps",
        metadata={"help": "Moments at which the policy is measured on eval_prompts: no, steps or epoch."},
    )
    eval_steps: float = field(
        default=0.1,
        metadata={
            "help": "With eval_prompts: measure every this many optimiser steps, rounded up to whole rollouts; below "
            "1: this share of all steps."
        },
    )
    eval_on_start: bool = field(
        default=True, metadata={"help": "With eval_prompts: measure the policy before the first step too."}
    )
    num_eval_videos: int = field(
        default=1, metadata={"help": "Videos of each of eval_prompts; their noise never changes."}
    )
    per_device_eval_batch_size: int = field(
        default=64,
        metadata={"help": "Most videos of eval_prompts sampled in one batch; never more than in training."},
    )
    eval_guidance_scale: float | None = field(
        default=None,
        metadata={
            "help": "Guidance of the videos of eval_prompts, with both of two transformers. Unset: as in rollouts."
        },
    )
    load_best_model_at_end: bool = field(
        default=False,
        metadata={
            "help": "Save a checkpoint whenever metric_for_best_model is at its best, and take the best one as result."
        },
    )
    metric_for_best_model: str = field(
        default="eval_reward",
        metadata={
            "help": "Metric of the best model: eval_reward, eval_gold (prompts of the built-in world) or "
            "eval_reward/SCORE; of several rewards eval_reward/NAME/SCORE."
        },
    )
    early_stopping_patience: int = field(
        default=0,
        metadata={"help": "Stop after so many evaluations without a better one; 0 never stops early."},
    )

    def __post_init__(self) -> None:
        check(self.eval_steps > 0, "eval_steps", self.eval_steps, "above 0")
        # `TrainingArguments` refuses this where a best model might not be saved; here each new best one is.
        load_best, self.load_best_model_at_end = self.load_best_model_at_end, False
        super().__post_init__()
        self.load_best_model_at_end = load_best
        for name in (
            "num_frames",
            "height",
            "width",
            "num_inference_steps",
            "reward_batch_size",
            "num_eval_videos",
        ):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "at least 1")
        patience = self.early_stopping_patience
        check(patience >= 0, "early_stopping_patience", patience, "at least 0")
        if load_best and self.save_strategy == SaveStrategy.NO:
            self.save_strategy = SaveStrategy.BEST
        check_decoding(self.reward_num_frames, self.reward_scale, check)


@dataclass
class RolloutConfig(GroupSampleConfig, RewardedSamplingConfig, ABC):
    """Rollouts: prompts, a group of videos of each, rewards, and several optimiser steps on them.

    `per_device_train_batch_size` is the largest micro-batch, counted in rows (a row is what one pass of the
    network sees of one video); `micro_batch_size` is the one that is used. `gradient_accumulation_steps` and
    `max_steps` follow from the other fields. Checkpoints fall on the ends of rollouts.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning rate schedule."})
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Most rows in one forward and backward pass of the update."}
    )
    logging_steps: float = field(
        default=1, metadata={"help": "Log every this many optimiser steps, rounded up to whole rollouts."}
    )
    logging_first_step: bool = field(default=False, metadata={"help": "Also log the first optimiser step."})
    save_steps: float = field(
        default=100, metadata={"help": "Save every this many optimiser steps, rounded up to whole rollouts."}
    )

    num_rollouts: int = field(
        default=100, metadata={"help": "Number of rollouts, each sampled and learnt from."}
    )
    num_prompts: int = field(default=8, metadata={"help": "Prompts in a rollout, over all processes."})
    num_generations: int = field(default=8, metadata={"help": "Videos of each prompt; they form a group."})
    rollout_batch_size: int = field(
        default=64, metadata={"help": "Videos sampled in one batch, per process."}
    )
    rollout_solver: str = field(
        default="euler",
        metadata={
            "help": "Solver of the denoising steps that are not stochastic, also for eval_prompts: euler; ab2 or dpm "
            "(second order), with which rollouts without stochastic steps need fewer num_inference_steps.",
            "choices": list(ONE_CALL_SOLVERS),
        },
    )
    num_iterations: int = field(default=1, metadata={"help": "Passes over a rollout."})
    num_mini_batches: int = field(default=2, metadata={"help": "Optimiser steps in one pass over a rollout."})
    monitor_videos: int = field(
        default=4,
        metadata={
            "help": "Videos of each rollout that are decoded to log brightness, motion, colours and "
            "their entropy, which show a gamed reward; 0 for none."
        },
    )

    probe_prompts: int = field(
        default=4,
        metadata={
            "help": "Prompts, evenly spread over the file, whose reward is logged as `probe/reward`: one video "
            "of each from a seed that never changes, so that rollouts can be compared; 0 for none."
        },
    )
    probe_rollouts: int | None = field(
        default=None,
        metadata={"help": "Rollouts between two measurements of `probe/reward`. Unset: a tenth of all."},
    )

    scale_rewards: str = field(
        default="group",
        metadata={
            "help": "Divisor of the rewards: the std of their `group`, the `global` one, or `none`.",
            "choices": ["group", "global", "none"],
        },
    )
    advantage_clip: float = field(default=5.0, metadata={"help": "Largest absolute advantage."})
    target_kl: float | None = field(
        default=None, metadata={"help": "Stop training when a rollout's KL divergence is above this."}
    )

    def __post_init__(self) -> None:
        groups = max(1, int(os.environ.get("WORLD_SIZE", "1")) // max(1, self.context_parallel))
        check(self.num_generations >= 2, "num_generations", self.num_generations, "at least 2")
        for name in (
            "num_inference_steps",
            "num_rollouts",
            "num_prompts",
            "num_iterations",
            "num_mini_batches",
            "rollout_batch_size",
            "per_device_train_batch_size",
        ):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(self.probe_prompts >= 0, "probe_prompts", self.probe_prompts, "at least 0")
        interval = self.probe_rollouts
        check(interval is None or interval >= 1, "probe_rollouts", interval, "at least 1")
        solver, known = self.rollout_solver, f"one of {', '.join(ONE_CALL_SOLVERS)}"
        check(solver in ONE_CALL_SOLVERS, "rollout_solver", solver, known)
        check(self.monitor_videos >= 0, "monitor_videos", self.monitor_videos, "at least 0")
        check(self.advantage_clip > 0, "advantage_clip", self.advantage_clip, "above 0")
        check(self.target_kl is None or self.target_kl > 0, "target_kl", self.target_kl, "above 0")
        check(
            self.num_prompts % groups == 0,
            "num_prompts",
            self.num_prompts,
            f"a multiple of the {groups} processes"
            if self.context_parallel <= 1
            else f"a multiple of the {groups} groups of {self.context_parallel} processes",
        )
        check(
            self.reward_normalisation in REWARD_NORMALISATIONS,
            "reward_normalisation",
            self.reward_normalisation,
            f"one of {', '.join(REWARD_NORMALISATIONS)}",
        )
        rows = self.num_prompts // groups * self.rows_of_a_group
        check(
            rows % self.num_mini_batches == 0,
            "num_mini_batches",
            self.num_mini_batches,
            f"a divisor of the {rows} {self.row_name} of a rollout",
        )
        # `Trainer` reads these two as fields; nobody may set them to anything else.
        following = {
            "gradient_accumulation_steps": (
                rows // self.num_mini_batches // self._largest_divisor(rows // self.num_mini_batches),
                "num_mini_batches",
            ),
            "max_steps": (self.num_rollouts * self.updates_per_rollout, "num_rollouts"),
        }
        for name, (value, source) in following.items():
            set_to = getattr(self, name)
            free = set_to in (getattr(RolloutConfig, name), value)
            check(free, name, set_to, f"left out, as it follows from {source}: set that")
            setattr(self, name, value)
        super().__post_init__()

    @property
    @abstractmethod
    def rows_of_a_group(self) -> int:
        """Number of rows that one group of videos gives."""

    @property
    def row_name(self) -> str:
        """Name of a row, in messages."""
        return "denoising steps"

    @property
    def updates_per_rollout(self) -> int:
        """Optimiser steps on one rollout."""
        return self.num_iterations * self.num_mini_batches

    @property
    def rows_per_update(self) -> int:
        """Rows of one process, or group of processes, in one optimiser step."""
        return self.num_prompts // self.data_parallel_size * self.rows_of_a_group // self.num_mini_batches

    @property
    def micro_batch_size(self) -> int:
        """Rows in one forward and backward pass: the most, up to `per_device_train_batch_size`, that divide
        those of an optimiser step equally."""
        return self._largest_divisor(self.rows_per_update)

    def _largest_divisor(self, rows: int) -> int:
        return next(size for size in range(self.per_device_train_batch_size, 0, -1) if rows % size == 0)

    @property
    def train_batch_size(self) -> int:
        """`micro_batch_size`, by the name under which `Trainer` asks for it."""
        return self.micro_batch_size

    @property
    def logging_interval(self) -> int:
        """`logging_steps`, rounded up to whole rollouts."""
        return self._in_whole_rollouts(self.logging_steps)

    @property
    def save_interval(self) -> int:
        """`save_steps`, rounded up to whole rollouts."""
        return self._in_whole_rollouts(self.save_steps)

    @property
    def eval_interval(self) -> int:
        """`eval_steps`, rounded up to whole rollouts."""
        return self._in_whole_rollouts(self.eval_steps)

    @property
    def probe_interval(self) -> int:
        """Rollouts between two measurements of the probe; 0 where there is none."""
        if not self.probe_prompts:
            return 0
        return max(1, self.num_rollouts // 10) if self.probe_rollouts is None else self.probe_rollouts

    def _in_whole_rollouts(self, steps: float) -> int:
        steps = steps * self.max_steps if steps < 1 else steps
        return math.ceil(steps / self.updates_per_rollout) * self.updates_per_rollout
