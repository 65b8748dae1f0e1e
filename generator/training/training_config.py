"""`TrainingConfig`: fields, defaults and checks that the configurations of all trainers share."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from generator.training.checks import check
from generator.training.engines import EngineArguments


@dataclass
class TrainingConfig(EngineArguments):
    """`transformers.TrainingArguments` with defaults for long trainings that may be interrupted.

    Raises:
        InputError: a value is out of its range.
    """

    help_group = "training"

    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Delete what this command wrote into the output folder before; other files are never deleted."
        },
    )
    discard_checkpoints: bool = field(
        default=False,
        metadata={"help": "With overwrite: also delete the checkpoints of a training that did not end."},
    )
    save_minutes: float = field(
        default=10.0,
        metadata={
            "help": "Save a checkpoint whenever so many minutes have passed since the last one; 0: as save_strategy "
            "says alone."
        },
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints that are kept."})
    logging_steps: float = field(default=10, metadata={"help": "Log every this many optimiser steps."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - the order that the argument parser understands
        default="tensorboard",
        metadata={
            "help": "Trackers of metrics: `tensorboard`, `wandb`, `trackio`, several of them, or `none`."
        },
    )
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Hide the progress bars."})
    dataloader_pin_memory: bool = field(
        default=False, metadata={"help": "Pin the memory of batches, for faster copies to a GPU."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the columns are not the network's arguments."}
    )

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
        check(not self.remove_unused_columns, "remove_unused_columns", True, "false, as no column is unused")
        trackers = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        for tracker in trackers:
            check(
                tracker in INTEGRATION_TO_CALLBACK,
                "report_to",
                tracker,
                f"one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, none",
            )
        # Several GPUs in one process would be wrapped by DataParallel, which copies the network at each call.
        self._n_gpu = min(self.n_gpu, 1)
