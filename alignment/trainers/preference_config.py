"""Configuration that the methods with a preference loss share, on rankings of people and of reward models."""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.training.checks import check


@dataclass
class PreferenceConfig:
    """Strength and form of a preference loss, beside the configuration of a trainer; the subclass has `loss_type`."""

    learning_rate: float = field(
        default=2e-5, metadata={"help": "Peak learning rate; 1e-4 and more diverges on large models."}
    )
    beta: float = field(
        default=1000.0,
        metadata={
            "help": "Strength of the pull to the reference; 100 to 5000, since errors are means over elements."
        },
    )
    loss_type: str = field(default="sigmoid", metadata={"help": "Preference loss."})
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Assumed share of wrong labels, from 0 to 0.5 (conservative DPO)."}
    )
    sft_weight: float = field(
        default=0.0, metadata={"help": "Weight of the flow-matching loss of the best video."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the trainer's configuration
        check(self.beta > 0, "beta", self.beta, "above 0")
        check(self.sft_weight >= 0, "sft_weight", self.sft_weight, "at least 0")
        smoothing = self.label_smoothing
        check(0 <= smoothing < 0.5, "label_smoothing", smoothing, "at least 0 and below 0.5")
        check(
            not smoothing or self.loss_type == "sigmoid",
            "label_smoothing",
            smoothing,
            f"0 with loss_type {self.loss_type}, as only sigmoid has it",
        )
