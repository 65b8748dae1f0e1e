"""Configuration that all trainers of video generators share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from alignment.trainers.sample_config import SampleConfig
from generator.one_or_several import as_list
from generator.training.checks import check, check_context_groups

EXPORTS = ("comfyui", "kohya")
"""Formats that a training can write beside its own, which is that of diffusers."""


@dataclass
class AlignmentConfig(SampleConfig):
    """`TrainingConfig` with what training a video generator needs, and videos to look at meanwhile."""

    help_group = "training"

    logging_first_step: bool = field(default=True, metadata={"help": "Also log the first optimiser step."})
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Leave losses that are not finite out of the logged mean; looking at each loss waits for the GPU."
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Decay of an exponential moving average of the weights, which is saved and evaluated; 0: none."
        },
    )

    export: list[str] | None = field(
        default=None,
        metadata={"help": "Formats of LoRA files for other tools that are written too: `comfyui`, `kohya`."},
    )
    compile_blocks: bool = field(
        default=False,
        metadata={
            "help": "Compile the transformer's repeated blocks (regional torch.compile): faster and less "
            "memory on a GPU, after a minute or two at the start."
        },
    )
    attention_backend: str | None = field(
        default=None,
        metadata={
            "help": "Attention kernel by diffusers' name: native, _native_cudnn, flash, _flash_3, sage. "
            "Unset: PyTorch's choice."
        },
    )
    context_parallel: int = field(
        default=1,
        metadata={
            "help": "Processes that share out the tokens of each video (Ulysses): each has its part of the "
            "activations and the work of a pass; for Wan 2.1 and 2.2 on several GPUs."
        },
    )
    gradient_checkpointing_share: float = field(
        default=1.0,
        metadata={
            "help": "With gradient_checkpointing: share of the blocks whose activations are computed again, "
            "from 0 (as without) to 1 (all: least memory, slowest)."
        },
    )

    activation_offloading: bool = field(
        default=False,
        metadata={
            "help": "Keep what the backward pass needs in the host's memory meanwhile (TRL's OffloadActivations): with "
            "gradient_checkpointing the inputs of the blocks, which are copied while the GPU computes."
        },
    )

    release_text_encoder: bool = field(
        default=True,
        metadata={
            "help": "Free the text encoder's memory once all prompts are encoded; another prompt loads it again."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "at least 0 and below 1")
        share = self.gradient_checkpointing_share
        check(0 <= share <= 1, "gradient_checkpointing_share", share, "from 0 to 1")
        # Before the launch only the launcher knows how many processes there will be.
        check_context_groups(self.context_parallel, int(os.environ.get("WORLD_SIZE", self.context_parallel)))
        self.export = None if self.export is None else as_list(self.export)
        for form in self.export or []:
            check(form in EXPORTS, "export", form, f"one of {', '.join(EXPORTS)}")

    @property
    def data_parallel_size(self) -> int:
        """Number of batches at a time: one for each group of `context_parallel` processes."""
        return self.world_size // self.context_parallel

    @property
    def data_parallel_rank(self) -> int:
        """Number of this process's group, from 0; all that is drawn at random depends on it alone."""
        return self.process_index // self.context_parallel


@dataclass
class NoiseLevelConfig(AlignmentConfig):
    """Noise levels of the methods that train on noised videos."""

    shift: float | None = field(
        default=None,
        metadata={
            "help": "Time shift of the training noise levels towards noise; unset: the model's own, 1: none."
        },
    )
    logit_mean: float = field(
        default=0.0, metadata={"help": "Mean of the logit-normal noise levels before shift."}
    )
    logit_std: float = field(
        default=1.0, metadata={"help": "Standard deviation of the logit-normal noise levels."}
    )
    uniform_share: float = field(
        default=0.1,
        metadata={"help": "Share of noise levels drawn uniformly, which keeps both ends trained."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.shift is None or self.shift > 0, "shift", self.shift, "above 0")
        check(self.logit_std >= 0, "logit_std", self.logit_std, "at least 0")
        check(0 <= self.uniform_share <= 1, "uniform_share", self.uniform_share, "between 0 and 1")
