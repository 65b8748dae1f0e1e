"""Arguments of the videos that are made while training, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.data.prompts import read_prompts
from generator.training.checks import check
from generator.training.training_config import TrainingConfig


@dataclass
class SampleConfig(TrainingConfig):
    """Videos of the same prompts and noise at different times of a training.

    Raises:
        InputError: the prompts cannot be read.
    """

    help_group = "training"

    sample_prompts: str | None = field(
        default=None,
        metadata={
            "help": "Make videos of these prompts while training, beside those of the reference: a text file, JSONL "
            "with `prompt`, or world:SPLIT:N. They lie in output_dir/samples and appear in the trackers. Unset: none."
        },
    )
    sample_steps: int = field(
        default=250,
        metadata={
            "help": "Optimiser steps between two times at which videos are made; rollouts are finished first. The last "
            "step has videos too."
        },
    )
    sample_count: int = field(default=4, metadata={"help": "Prompts used of sample_prompts, from the first."})
    sample_seed: int = field(
        default=0, metadata={"help": "Sample i has the noise of `generate` with the seed SAMPLE_SEED + i."}
    )
    sample_num_frames: int | None = field(
        default=None,
        metadata={"help": "Frames of a sample. Unset: those that are trained on, at most 33."},
    )
    sample_height: int | None = field(
        default=None, metadata={"help": "Height of a sample. Unset: the most frequent one in training."}
    )
    sample_width: int | None = field(
        default=None, metadata={"help": "Width of a sample. Unset: the most frequent one in training."}
    )
    sample_num_inference_steps: int | None = field(
        default=None, metadata={"help": "Denoising steps of a sample. Unset: the model's own."}
    )
    sample_guidance_scale: float | None = field(
        default=None,
        metadata={
            "help": "Guidance of a sample, with both of two transformers. Unset: as in rollouts, else the model's own."
        },
    )
    sample_batch_size: int = field(
        default=1, metadata={"help": "Samples made at once in each process; they are decoded one by one."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            *("sample_steps", "sample_count", "sample_batch_size"),
            *("sample_num_frames", "sample_height", "sample_width", "sample_num_inference_steps"),
        ):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "at least 1")
        check(0 <= self.sample_seed < 2**32, "sample_seed", self.sample_seed, "between 0 and 4294967295")

    def check_inputs(self) -> None:
        """Raises `InputError` where the prompts of the samples cannot be read."""
        if self.sample_prompts:
            read_prompts(self.sample_prompts)


@dataclass
class GroupSampleConfig:
    """Videos of the rollouts themselves."""

    sample_groups: bool = field(
        default=True,
        metadata={
            "help": "Keep the best and the worst video of the first group of a rollout every sample_steps optimiser "
            "steps, in output_dir/samples/groups and in the trackers; they cost two decodings."
        },
    )
