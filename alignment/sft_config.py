"""Configuration of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.alignment_config import NoiseLevelConfig
from generator.output import InputError


@dataclass
class SFTConfig(NoiseLevelConfig):
    """Flow matching on demonstrations (videos with prompts)."""

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(
        default="constant_with_warmup", metadata={"help": "Learning rate schedule."}
    )
    caption_dropout: float = field(
        default=0.1,
        metadata={"help": "Share of the examples whose prompt is replaced by the empty one, which keeps "
                  "classifier-free guidance working."},
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.caption_dropout <= 1:
            raise InputError(f"caption_dropout is {self.caption_dropout}, but must be between 0 and 1.")
