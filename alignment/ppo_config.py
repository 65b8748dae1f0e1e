"""Configuration of proximal policy optimisation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from alignment.alignment_config import AlignmentConfig
from generator.output import InputError
from generator.sampling import SdeSettings

DEFAULT_NOISE_LEVELS = {"flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.7}


@dataclass
class PPOConfig(AlignmentConfig):
    """Rollouts with a stochastic sampler, group-relative advantages, clipped-ratio updates.

    `per_device_train_batch_size` is the largest micro-batch, counted in denoising steps.
    `gradient_accumulation_steps` and `max_steps` follow from the other fields. Checkpoints fall on the ends
    of rollouts.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning rate schedule."})
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Most denoising steps in one forward and backward pass of the update."}
    )
    logging_steps: float = field(
        default=1, metadata={"help": "Log every this many optimiser steps, rounded up to whole rollouts."}
    )
    logging_first_step: bool = field(default=False, metadata={"help": "Also log the first optimiser step."})
    save_steps: float = field(
        default=100, metadata={"help": "Save every this many optimiser steps, rounded up to whole rollouts."}
    )

    num_rollouts: int = field(
        default=100, metadata={"help": "How often prompts are sampled and learnt from."}
    )
    num_prompts: int = field(default=8, metadata={"help": "Prompts in a rollout, over all processes."})
    num_generations: int = field(default=8, metadata={"help": "Videos of each prompt; they form a group."})
    rollout_batch_size: int = field(
        default=64, metadata={"help": "Videos sampled in one batch, per process."}
    )
    num_iterations: int = field(default=1, metadata={"help": "Passes over a rollout."})
    num_mini_batches: int = field(default=2, metadata={"help": "Optimiser steps in one pass over a rollout."})

    num_frames: int | None = field(
        default=None, metadata={"help": "Frames of a video. Unset: the model's own."}
    )
    height: int | None = field(default=None, metadata={"help": "Height in pixels. Unset: the model's own."})
    width: int | None = field(default=None, metadata={"help": "Width in pixels. Unset: the model's own."})
    num_inference_steps: int = field(default=10, metadata={"help": "Denoising steps of a rollout."})
    guidance_scale: float | None = field(
        default=None, metadata={"help": "Guidance in rollouts and updates. Unset: the model's own, 1: none."}
    )
    negative_prompt: str = field(
        default="", metadata={"help": "Unconditional prompt, with guidance above 1."}
    )
    unconditional_gradient: bool = field(
        default=True, metadata={"help": "With guidance: whether the unconditional branch is trained too."}
    )

    sde_kernel: str = field(
        default="flow_sde",
        metadata={"help": "Stochastic step: `flow_sde`, `dance_sde` or `cps`.",
                  "choices": ["flow_sde", "dance_sde", "cps"]},
    )  # fmt: skip
    noise_level: float | None = field(
        default=None,
        metadata={"help": "Strength of the kernel's noise. Unset: 0.7, 0.3, 0.7 in the order above."},
    )
    sde_first_step: int = field(default=0, metadata={"help": "First stochastic step, from 0."})
    sde_window_size: int | None = field(
        default=None,
        metadata={"help": "How many steps in a row are stochastic and trained. Unset: all but the last."},
    )
    sde_random_window: bool = field(
        default=False,
        metadata={"help": "Draw the window's place at or after `sde_first_step` anew for each rollout; it "
        "is the "
                  "same for all videos of a rollout."},
    )  # fmt: skip

    epsilon: float = field(
        default=1e-3, metadata={"help": "Clip range of the ratio, per latent element: 1e-5 to 1e-3."}
    )
    beta: float = field(default=0.01, metadata={"help": "Weight of the KL divergence to the reference."})
    monitor_kl: bool = field(default=True, metadata={"help": "Measure the KL divergence even if beta is 0."})
    monitor_kl_generations: int = field(
        default=2,
        metadata={"help": "Videos of each group on which the divergence is measured where beta is 0; with a "
                  "KL term it is measured on all."},
    )  # fmt: skip
    target_kl: float | None = field(
        default=None, metadata={"help": "Stop training when a rollout's KL divergence is above this."}
    )
    scale_rewards: str = field(
        default="group",
        metadata={"help": "What rewards are divided by: the std of their `group`, the `global` one, or "
        "`none`.",
                  "choices": ["group", "global", "none"]},
    )  # fmt: skip
    advantage_clip: float = field(default=5.0, metadata={"help": "Largest absolute advantage."})
    step_weight: str = field(
        default="none",
        metadata={"help": "Weight of each denoising step in the policy loss: `none`, `inverse_std` or "
        "`balanced`.",
                  "choices": ["none", "inverse_std", "balanced"]},
    )  # fmt: skip
    log_step_gradients: bool = field(
        default=False, metadata={"help": "Log the norm of the loss gradient at the velocity of each step."}
    )
    reward_dimension: str | None = field(
        default=None,
        metadata={"help": "Which of the reward's scores to raise. Unset: `overall`, or their mean."},
    )
    reward_batch_size: int = field(default=32, metadata={"help": "Videos judged in one batch."})

    def __post_init__(self) -> None:
        window = self.window_size
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        _check(self.num_generations >= 2, "num_generations", self.num_generations, "at least 2")
        _check(
            self.num_prompts % processes == 0,
            "num_prompts", self.num_prompts, f"a multiple of the {processes} processes",
        )  # fmt: skip
        rows = self.num_prompts // processes * self.num_generations * window
        _check(
            rows % self.num_mini_batches == 0,
            "num_mini_batches", self.num_mini_batches, f"a divisor of the {rows} denoising steps of a "
            "rollout",
        )  # fmt: skip
        rows_per_update = rows // self.num_mini_batches
        self.per_device_train_batch_size = max(
            size for size in range(1, self.per_device_train_batch_size + 1) if rows_per_update % size == 0
        )
        self.gradient_accumulation_steps = rows_per_update // self.per_device_train_batch_size
        self.max_steps = self.num_rollouts * self.updates_per_rollout
        for name in ("logging_steps", "save_steps"):
            wanted = getattr(self, name)
            wanted = wanted * self.max_steps if wanted < 1 else wanted
            setattr(self, name, -int(-wanted // self.updates_per_rollout) * self.updates_per_rollout)
        super().__post_init__()

    @property
    def window_size(self) -> int:
        """Stochastic steps of a trajectory."""
        most = self.num_inference_steps - 1 - self.sde_first_step
        size = most if self.sde_window_size is None else self.sde_window_size
        _check(
            self.sde_first_step >= 0 and 1 <= size <= most,
            "sde_window_size", size,
            f"between 1 and {most}, as the last of {self.num_inference_steps} steps is deterministic",
        )  # fmt: skip
        return size

    @property
    def updates_per_rollout(self) -> int:
        """Optimiser steps on one rollout."""
        return self.num_iterations * self.num_mini_batches

    def sde_settings(self, first_step: int) -> SdeSettings:
        """Kernel, strength and window that starts at `first_step`."""
        level = DEFAULT_NOISE_LEVELS[self.sde_kernel] if self.noise_level is None else self.noise_level
        return SdeSettings(self.sde_kernel, level, first_step, self.window_size)


def _check(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise InputError(f"{name} is {value}, but must be {expected}.")
