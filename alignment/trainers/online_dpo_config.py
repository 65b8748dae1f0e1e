"""Configuration of online direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.trainers.forward_process_config import ForwardProcessConfig
from generator.training.checks import check


@dataclass
class OnlineDPOConfig(ForwardProcessConfig):
    """DPO on the policy's own videos, ordered by reward models; a row is one noise draw of a group."""

    learning_rate: float = field(
        default=2e-5, metadata={"help": "Peak learning rate; 1e-4 and more diverges on large models."}
    )
    beta: float = field(
        default=1000.0, metadata={"help": "Strength of the pull to the reference: 100 to 5000."}
    )
    loss_type: str = field(
        default="sigmoid",
        metadata={
            "help": "Loss: `sigmoid` and `ipo` compare the best with the worst video of each group; "
            "`plackett_luce`: the whole group in the order of rewards.",
            "choices": ["sigmoid", "ipo", "plackett_luce"],
        },
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Assumed share of wrong labels, from 0 to 0.5 (conservative DPO)."}
    )
    sft_weight: float = field(
        default=0.0, metadata={"help": "Weight of the flow-matching loss of the best video."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.beta > 0, "beta", self.beta, "above 0")
        check(self.sft_weight >= 0, "sft_weight", self.sft_weight, "at least 0")
        check(
            not self.label_smoothing or self.loss_type == "sigmoid",
            "label_smoothing",
            self.label_smoothing,
            f"0 with loss_type {self.loss_type}, as only sigmoid has it",
        )
        check(
            0 <= self.label_smoothing < 0.5, "label_smoothing", self.label_smoothing, "at least 0, below 0.5"
        )

    @property
    def rows_of_a_group(self) -> int:
        return self.num_draws
