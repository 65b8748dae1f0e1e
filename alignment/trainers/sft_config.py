"""Configuration of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.data.packed_rows import PackConfig
from alignment.trainers.base_config import NoiseLevelConfig
from generator.output import InputError


@dataclass
class SFTConfig(PackConfig, NoiseLevelConfig):
    """Flow matching on demonstrations (videos with prompts)."""

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(
        default="constant_with_warmup", metadata={"help": "Learning rate schedule."}
    )
    caption_dropout: float = field(
        default=0.1,
        metadata={
            "help": "Share of the examples whose prompt is replaced by the empty one, which keeps "
            "classifier-free guidance working."
        },
    )

    token_dropping: float = field(
        default=0.0,
        metadata={
            "help": "With pack: share of each video's tokens left out at the start of training; it falls to none "
            "after four fifths of it."
        },
    )

    distill_guidance: float | None = field(
        default=None,
        metadata={
            "help": "Learn to predict in one call what the model without the trained adapter predicts with "
            "classifier-free guidance at this scale (guidance distillation); sampling then needs no guidance. Unset: "
            "learn the demonstrations themselves."
        },
    )
    distill_demonstrations: bool = field(
        default=False,
        metadata={
            "help": "With distill_guidance: learn the demonstrations' own velocity plus (scale - 1) times what the "
            "prompt changes in the model without the adapter: fine-tuning and distillation at once."
        },
    )
    distill_negative_prompt: str = field(
        default="",
        metadata={"help": "With distill_guidance: prompt of the unconditional branch."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distill_guidance is not None and not self.distill_guidance > 0:
            raise InputError(f"distill_guidance is {self.distill_guidance}, but must be above 0.")
        for name in ("distill_negative_prompt", "distill_demonstrations"):
            if getattr(self, name) and self.distill_guidance is None:
                raise InputError(
                    f"{name} is set, which only guidance distillation uses: pass --distill_guidance too."
                )
        if not 0 <= self.token_dropping < 1:
            raise InputError(f"token_dropping is {self.token_dropping}, but must be at least 0 and below 1.")
        if self.token_dropping and not self.pack:
            raise InputError(
                f"token_dropping is {self.token_dropping}, which needs packed rows: pass --pack."
            )
        if not 0 <= self.caption_dropout <= 1:
            raise InputError(f"caption_dropout is {self.caption_dropout}, but must be between 0 and 1.")
