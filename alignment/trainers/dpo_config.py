"""Configuration of direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.data.packed_rows import PackConfig
from alignment.trainers.base_config import NoiseLevelConfig
from alignment.trainers.preference_config import PreferenceConfig
from generator.training.checks import check


@dataclass
class DPOConfig(PackConfig, PreferenceConfig, NoiseLevelConfig):
    """Flow-DPO on pairs of videos."""

    lr_scheduler_type: str = field(
        default="constant_with_warmup", metadata={"help": "Learning rate schedule."}
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
        check(self.tie_theta > 1, "tie_theta", self.tie_theta, "above 1")
        check(self.num_noise_draws >= 1, "num_noise_draws", self.num_noise_draws, "at least 1")
