"""Configuration of direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.alignment_config import NoiseLevelConfig
from generator.output import InputError


@dataclass
class DPOConfig(NoiseLevelConfig):
    """Flow-DPO on pairs of videos."""

    learning_rate: float = field(
        default=2e-5, metadata={"help": "Peak learning rate; 1e-4 and more diverges on large models."}
    )
    lr_scheduler_type: str = field(
        default="constant_with_warmup", metadata={"help": "Learning rate schedule."}
    )
    beta: float = field(
        default=1000.0,
        metadata={
            "help": "Strength of the pull to the reference; 100 to 5000, since errors are means over "
            "elements."
        },
    )
    loss_type: str = field(
        default="sigmoid",
        metadata={"help": "`sigmoid` (DPO) or `ipo`.", "choices": ["sigmoid", "ipo"]},
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Assumed share of wrong labels, from 0 to 0.5 (conservative DPO)."}
    )
    sft_weight: float = field(
        default=0.0, metadata={"help": "Weight of the flow-matching loss of the chosen video."}
    )
    uniform_share: float = field(
        default=0.2,
        metadata={"help": "Share of noise levels drawn uniformly, which keeps both ends trained."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise InputError(f"beta is {self.beta}, but must be above 0.")
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(
                f"label_smoothing is {self.label_smoothing}, but must be at least 0 and below 0.5."
            )
