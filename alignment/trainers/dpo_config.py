"""Configuration of direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.data.packed_rows import PackConfig
from alignment.trainers.base_config import NoiseLevelConfig
from generator.training.checks import check


@dataclass
class DPOConfig(PackConfig, NoiseLevelConfig):
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
            "help": "Strength of the pull to the reference; 100 to 5000, since errors are means over elements."
        },
    )
    loss_type: str = field(
        default="sigmoid",
        metadata={
            "help": "Loss: `sigmoid` (DPO) and `ipo` learn from pairs; `plackett_luce` from whole rankings; "
            "`rao_kupper` from whole rankings with their ties.",
            "choices": ["sigmoid", "ipo", "plackett_luce", "rao_kupper"],
        },
    )
    tie_theta: float = field(
        default=5.0, metadata={"help": "With rao_kupper: above 1; the larger, the likelier a tie."}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Assumed share of wrong labels, from 0 to 0.5 (conservative DPO)."}
    )
    sft_weight: float = field(
        default=0.0, metadata={"help": "Weight of the flow-matching loss of the chosen video."}
    )
    precompute_ref_log_probs: bool = field(
        default=False,
        metadata={
            "help": "Compute the reference's errors before training, for `num_noise_draws` fixed draws "
            "of noise and noise level of each row; a training step then needs no reference pass."
        },
    )
    num_noise_draws: int = field(
        default=8, metadata={"help": "Draws of noise a row, with precompute_ref_log_probs."}
    )
    uniform_share: float = field(
        default=0.2,
        metadata={"help": "Share of noise levels drawn uniformly, which keeps both ends trained."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.beta > 0, "beta", self.beta, "above 0")
        check(self.tie_theta > 1, "tie_theta", self.tie_theta, "above 1")
        check(self.num_noise_draws >= 1, "num_noise_draws", self.num_noise_draws, "at least 1")
        check(self.sft_weight >= 0, "sft_weight", self.sft_weight, "at least 0")
        check(
            0 <= self.label_smoothing < 0.5,
            "label_smoothing",
            self.label_smoothing,
            "at least 0 and below 0.5",
        )
        check(
            not self.label_smoothing or self.loss_type == "sigmoid",
            "label_smoothing",
            self.label_smoothing,
            f"0 with loss_type {self.loss_type}, as only sigmoid has it",
        )
