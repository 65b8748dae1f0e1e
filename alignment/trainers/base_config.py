"""What the configurations of all trainers share."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from alignment.checks import check
from generator.one_or_several import as_list
from generator.output import InputError
from generator.training.engines import EngineArguments

EXPORTS = ("comfyui", "kohya")
"""Formats that a training can write beside its own, which is that of diffusers."""


@dataclass
class AlignmentConfig(EngineArguments):
    """`transformers.TrainingArguments` with defaults for training video generators."""

    overwrite: bool = field(
        default=False,
        metadata={"help": "Delete what this command wrote into the output folder before; other files are never "
                  "deleted."},
    )  # fmt: skip
    discard_checkpoints: bool = field(
        default=False,
        metadata={"help": "With overwrite: also delete the checkpoints of a training that did not end."},
    )
    save_minutes: float = field(
        default=10.0,
        metadata={"help": "Save a checkpoint whenever so many minutes have passed since the last one; 0: by "
                  "save_steps alone."},
    )  # fmt: skip
    logging_steps: float = field(default=10, metadata={"help": "Log every this many optimiser steps."})
    logging_first_step: bool = field(default=True, metadata={"help": "Also log the first optimiser step."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - the order that the argument parser understands
        default="tensorboard",
        metadata={"help": "Where metrics go: `tensorboard`, `wandb`, `trackio`, several of them, or `none`."},
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the columns are not the network's arguments."}
    )
    dataloader_pin_memory: bool = field(
        default=False, metadata={"help": "Pin the memory of batches, for faster copies to a GPU."}
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Leave losses that are not finite out of the logged mean; looks at each loss, which waits "
                  "for the GPU."},
    )  # fmt: skip
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Hide the progress bars."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints are kept."})
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "Decay of an exponential moving average of the trained weights, which is then "
        "what is "
                  "saved and evaluated; 0 means none."},
    )  # fmt: skip

    export: list[str] | None = field(
        default=None,
        metadata={"help": "Formats of LoRA files for other tools that are written too: `comfyui`, `kohya`."},
    )
    compile_blocks: bool = field(
        default=False,
        metadata={"help": "Compile the transformer's repeated blocks (regional torch.compile): faster and less "
                  "memory on a GPU, after a minute or two at the start."},
    )  # fmt: skip
    attention_backend: str | None = field(
        default=None,
        metadata={"help": "Attention kernel by diffusers' name: native, _native_cudnn, flash, _flash_3, sage. "
                  "Unset: PyTorch's choice."},
    )  # fmt: skip
    gradient_checkpointing_share: float = field(
        default=1.0,
        metadata={"help": "With gradient_checkpointing: share of the blocks whose activations are computed again, "
                  "from 0 (as without) to 1 (all: least memory, slowest)."},
    )  # fmt: skip

    release_text_encoder: bool = field(
        default=True,
        metadata={"help": "Free the text encoder's memory once all prompts are encoded; it is read again if another "
                  "prompt comes."},
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
        ):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(0 <= self.seed < 2**32, "seed", self.seed, "between 0 and 4294967295")
        check(0 <= self.save_minutes < float("inf"), "save_minutes", self.save_minutes, "at least 0")
        check(self.learning_rate >= 0, "learning_rate", self.learning_rate, "at least 0")
        self.export = None if self.export is None else as_list(self.export)
        for form in self.export or []:
            check(form in EXPORTS, "export", form, f"one of {', '.join(EXPORTS)}")
        for tracker in self.report_to or []:
            known = tracker in INTEGRATION_TO_CALLBACK
            check(known, "report_to", tracker, f"one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, none")
        self.remove_unused_columns = False
        # Several GPUs in one process would be wrapped by DataParallel, which copies the network at each call.
        self._n_gpu = min(self.n_gpu, 1)
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}, but must be at least 0 and below 1.")
        if not 0 <= self.gradient_checkpointing_share <= 1:
            raise InputError(
                f"gradient_checkpointing_share is {self.gradient_checkpointing_share}, but must be from 0 to 1."
            )


@dataclass
class NoiseLevelConfig(AlignmentConfig):
    """How the methods that train on noised videos draw their noise levels."""

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
